/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/ram_writer.h"
#include "stream/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum {
	/* The shortest entry of a stream takes 9 bytes, so a batch can hold no more of them. */
	OPS_MAX = (RAM_BATCH_HEADROOM + RAM_BATCH_BYTES) / 9 + 1,
	PIECES_MAX = 512,
	SYNC_IDLE_MS = 20,
};

static const uint8_t zero_page[PAGE_BYTES];

void ram_batch_page(struct ram_batch *batch, uint64_t index, const uint8_t *page)
{
	assert(batch->op_count < OPS_MAX);
	batch->ops[batch->op_count++] = (struct ram_op){.index = index, .at = (uint32_t)(page - batch->bytes)};
}

void ram_batch_zero(struct ram_batch *batch, uint64_t index)
{
	struct ram_op *last = batch->op_count ? &batch->ops[batch->op_count - 1] : NULL;

	if (last && last->zero_count && last->index + last->zero_count == index && last->zero_count < UINT32_MAX) {
		last->zero_count++;
		return;
	}
	assert(batch->op_count < OPS_MAX);
	batch->ops[batch->op_count++] = (struct ram_op){.index = index, .zero_count = 1};
}

/* Pages that lie one after the other in the file, gathered for one system call. */
struct run {
	struct iovec pieces[PIECES_MAX];
	int count;
	uint64_t from; /* page index */
};

static void region_mark(struct ram_writer *writer, uint64_t from, uint64_t count)
{
	uint64_t last = ((from + count) * PAGE_BYTES - 1) >> RAM_REGION_BITS;

	pthread_mutex_lock(&writer->lock);
	for (uint64_t region = from * PAGE_BYTES >> RAM_REGION_BITS; region <= last; region++)
		writer->regions[region / 64] |= UINT64_C(1) << (region % 64);
	writer->unsynced_bytes += count * PAGE_BYTES;
	if (writer->unsynced_bytes >= RAM_SYNC_BYTES)
		pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->lock);
}

static int run_write(struct ram_writer *writer, struct run *run, struct err *err)
{
	uint64_t count = (uint64_t)run->count;

	if (!count)
		return 0;
	run->count = 0;
	if (file_writev(writer->fd, "ram", run->pieces, (int)count, run->from * PAGE_BYTES, err))
		return -1;
	atomic_fetch_add(&writer->counters.written_bytes, count * PAGE_BYTES);
	region_mark(writer, run->from, count);
	return 0;
}

static int run_add(struct ram_writer *writer, struct run *run, uint64_t index, const uint8_t *page, struct err *err)
{
	if ((run->count == PIECES_MAX || (run->count && run->from + (uint64_t)run->count != index)) &&
		run_write(writer, run, err))
		return -1;
	if (!run->count)
		run->from = index;
	run->pieces[run->count++] = (struct iovec){.iov_base = (void *)(uintptr_t)page, .iov_len = PAGE_BYTES};
	return 0;
}

/* QEMU goes through the memory in ascending order again and again: going back is a new pass. */
static void pass_note(struct ram_writer *writer, uint64_t index)
{
	struct ram_counters *counters = &writer->counters;

	if (!counters->pass || index <= writer->last_index) {
		uint64_t now = clock_mono_ns();
		counters->last_pass_pages = counters->pass_pages;
		counters->last_pass_ns = now - writer->pass_began_ns;
		counters->pass_pages = 0;
		counters->pass++;
		writer->pass_began_ns = now;
	}
	writer->last_index = index;
}

static int page_write(struct ram_writer *writer, struct run *run, uint64_t index, const uint8_t *page, struct err *err)
{
	uint64_t sum = page ? page_sum(page) : 0;
	uint64_t before = sums_get(writer->sums.mirror.bytes, index);

	pass_note(writer, index);
	atomic_fetch_add_explicit(&writer->counters.pass_pages, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&writer->counters.pages, 1, memory_order_relaxed);
	if (!sum)
		atomic_fetch_add_explicit(&writer->counters.zero_pages, 1, memory_order_relaxed);
	sums_set(&writer->sums, index, sum);
	sums_set_pass(&writer->sums, index, writer->counters.pass);
	/* What did not change need not be written again; what was never written is a hole already. */
	if (sum == before)
		return 0;
	return run_add(writer, run, index, sum ? page : zero_page, err);
}

static int batch_write(struct ram_writer *writer, const struct ram_batch *batch, struct err *err)
{
	struct run run = {.count = 0};
	uint64_t pass = writer->counters.pass;

	for (size_t i = 0; i < batch->op_count; i++) {
		const struct ram_op *op = &batch->ops[i];
		if (!op->zero_count && page_write(writer, &run, op->index, batch->bytes + op->at, err))
			return -1;
		for (uint64_t zero = 0; zero < op->zero_count; zero++)
			if (page_write(writer, &run, op->index + zero, NULL, err))
				return -1;
	}
	if (run_write(writer, &run, err))
		return -1;
	/* At the end of a pass the sums are brought to disk, so that little is left when the guest stands still. */
	return pass != writer->counters.pass ? mirror_flush(&writer->sums.mirror, err) : 0;
}

static void fail_locked(struct ram_writer *writer, const struct err *err)
{
	if (!writer->failed)
		writer->err = *err;
	writer->failed = true;
	pthread_cond_broadcast(&writer->changed);
}

static bool window_full(const struct ram_writer *writer)
{
	return !writer->hurry && !writer->failed && writer->unsynced_bytes + writer->syncing_bytes > RAM_WINDOW_BYTES;
}

static void *writer_main(void *arg)
{
	struct ram_writer *writer = arg;
	struct err err = {0};

	thread_step_back();
	pthread_mutex_lock(&writer->lock);
	while (!writer->failed) {
		struct ram_batch *batch = writer->queue;
		if (!batch) {
			if (writer->ending)
				break;
			pthread_cond_wait(&writer->changed, &writer->lock);
			continue;
		}
		writer->queue = batch->next;
		if (!writer->queue)
			writer->queue_end = &writer->queue;
		writer->busy = true;
		pthread_mutex_unlock(&writer->lock);

		int failed = batch_write(writer, batch, &err);

		pthread_mutex_lock(&writer->lock);
		writer->busy = false;
		atomic_fetch_sub(&writer->counters.backlog_bytes, RAM_BATCH_BYTES);
		batch->next = writer->free;
		writer->free = batch;
		if (failed)
			fail_locked(writer, &err);
		pthread_cond_broadcast(&writer->changed);
		while (window_full(writer))
			pthread_cond_wait(&writer->changed, &writer->lock);
	}
	pthread_mutex_unlock(&writer->lock);
	return NULL;
}

/* Begins write-back of every region in the set, then waits for all of it. A file system that cannot do that (ENOSYS,
 * EINVAL …) writes when it likes. What did not reach the disk (EIO, ENOSPC) is an error here and now: the kernel tells
 * it to one call only, fsync would not hear of it again. */
static int regions_sync(struct ram_writer *writer, struct err *err)
{
	static const unsigned steps[] = {SYNC_FILE_RANGE_WRITE, SYNC_FILE_RANGE_WAIT_BEFORE};

	if (writer->early_sync)
		return fdatasync(writer->fd) ? err_errno(err, errno, "sync of 'ram'") : 0;
	for (size_t step = 0; step < ARRAY_SIZE(steps); step++)
		for (size_t word = 0; word < writer->region_words; word++)
			for (uint64_t bits = writer->regions_now[word]; bits; bits &= bits - 1) {
				uint64_t region = word * 64 + (unsigned)__builtin_ctzll(bits);
				if (!sync_file_range(writer->fd, (off_t)(region << RAM_REGION_BITS),
					    1 << RAM_REGION_BITS, steps[step]))
					continue;
				if (errno == EIO || errno == ENOSPC || errno == EDQUOT)
					return err_errno(err, errno, "write-back of 'ram'");
			}
	return 0;
}

static void wait_ms(struct ram_writer *writer, long ms)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += ms * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&writer->changed, &writer->lock, &until);
}

static void *syncer_main(void *arg)
{
	struct ram_writer *writer = arg;
	struct err err = {0};

	thread_step_back();
	pthread_mutex_lock(&writer->lock);
	while (!writer->failed && !writer->ending) {
		if (!writer->unsynced_bytes) {
			pthread_cond_wait(&writer->changed, &writer->lock);
			continue;
		}
		if (writer->unsynced_bytes < RAM_SYNC_BYTES) {
			wait_ms(writer, SYNC_IDLE_MS);
			if (writer->ending)
				break;
		}
		uint64_t *now = writer->regions;
		writer->regions = writer->regions_now;
		writer->regions_now = now;
		writer->syncing_bytes = writer->unsynced_bytes;
		writer->unsynced_bytes = 0;
		pthread_mutex_unlock(&writer->lock);

		int failed = regions_sync(writer, &err);
		memset(writer->regions_now, 0, writer->region_words * sizeof(*writer->regions_now));

		pthread_mutex_lock(&writer->lock);
		writer->syncing_bytes = 0;
		if (failed)
			fail_locked(writer, &err);
		pthread_cond_broadcast(&writer->changed);
	}
	pthread_mutex_unlock(&writer->lock);
	return NULL;
}

static int batches_init(struct ram_writer *writer, struct err *err)
{
	for (size_t i = 0; i < RAM_BATCHES; i++) {
		struct ram_batch *batch = &writer->batches[i];
		batch->bytes = malloc(RAM_BATCH_HEADROOM + RAM_BATCH_BYTES);
		batch->ops = malloc(OPS_MAX * sizeof(*batch->ops));
		if (!batch->bytes || !batch->ops)
			return err_errno(err, ENOMEM, "memory for pages on their way to disk");
		batch->next = writer->free;
		writer->free = batch;
	}
	writer->queue_end = &writer->queue;
	return 0;
}

static int threads_start(struct ram_writer *writer, struct err *err)
{
	int why = pthread_create(&writer->writer, NULL, writer_main, writer);
	writer->writing = !why;
	if (!why) {
		why = pthread_create(&writer->syncer, NULL, syncer_main, writer);
		writer->syncing = !why;
	}
	return why ? err_errno(err, why, "start of the writing threads") : 0;
}

int ram_writer_init(
	struct ram_writer *writer, int ram_fd, int sums_fd, uint64_t pages, bool early_sync, struct err *err)
{
	pthread_condattr_t monotonic;

	memset(writer, 0, sizeof(*writer));
	writer->fd = ram_fd;
	writer->early_sync = early_sync;
	pthread_mutex_init(&writer->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&writer->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);

	uint64_t regions = (pages * PAGE_BYTES >> RAM_REGION_BITS) + 1;
	writer->region_words = (size_t)(regions + 63) / 64;
	writer->regions = calloc(writer->region_words, sizeof(*writer->regions));
	writer->regions_now = calloc(writer->region_words, sizeof(*writer->regions_now));
	if (!writer->regions || !writer->regions_now) {
		ram_writer_fini(writer);
		return err_errno(err, ENOMEM, "memory for the write-back map");
	}
	if (sums_init(&writer->sums, sums_fd, pages, err) || batches_init(writer, err) || threads_start(writer, err)) {
		ram_writer_fini(writer);
		return -1;
	}
	return 0;
}

static void writer_end(struct ram_writer *writer, bool drop)
{
	if (!writer->writing)
		return;
	pthread_mutex_lock(&writer->lock);
	writer->ending = true;
	writer->hurry = true;
	if (drop) {
		writer->queue = NULL;
		writer->queue_end = &writer->queue;
	}
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->lock);
	pthread_join(writer->writer, NULL);
	writer->writing = false;
}

static void syncer_end(struct ram_writer *writer)
{
	if (!writer->syncing)
		return;
	pthread_join(writer->syncer, NULL);
	writer->syncing = false;
}

void ram_writer_fini(struct ram_writer *writer)
{
	writer_end(writer, true);
	syncer_end(writer);
	for (size_t i = 0; i < RAM_BATCHES; i++) {
		free(writer->batches[i].bytes);
		free(writer->batches[i].ops);
	}
	free(writer->regions);
	free(writer->regions_now);
	sums_fini(&writer->sums);
	pthread_cond_destroy(&writer->changed);
	pthread_mutex_destroy(&writer->lock);
}

struct ram_batch *ram_writer_batch(struct ram_writer *writer, struct err *err)
{
	struct ram_batch *batch = NULL;

	pthread_mutex_lock(&writer->lock);
	while (!writer->failed && !writer->free)
		pthread_cond_wait(&writer->changed, &writer->lock);
	if (writer->failed) {
		*err = writer->err;
	} else {
		batch = writer->free;
		writer->free = batch->next;
		batch->op_count = 0;
	}
	pthread_mutex_unlock(&writer->lock);
	return batch;
}

void ram_writer_submit(struct ram_writer *writer, struct ram_batch *batch)
{
	atomic_fetch_add(&writer->counters.backlog_bytes, RAM_BATCH_BYTES);
	pthread_mutex_lock(&writer->lock);
	batch->next = NULL;
	*writer->queue_end = batch;
	writer->queue_end = &batch->next;
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->lock);
}

bool ram_writer_is_idle(struct ram_writer *writer)
{
	pthread_mutex_lock(&writer->lock);
	bool idle = !writer->queue && !writer->busy;
	pthread_mutex_unlock(&writer->lock);
	return idle;
}

void ram_writer_hurry(struct ram_writer *writer)
{
	pthread_mutex_lock(&writer->lock);
	writer->hurry = true;
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->lock);
}

int ram_writer_drain(struct ram_writer *writer, struct err *err)
{
	writer_end(writer, false);
	pthread_mutex_lock(&writer->lock);
	bool failed = writer->failed;
	if (failed)
		*err = writer->err;
	pthread_mutex_unlock(&writer->lock);
	return failed ? -1 : 0;
}

int ram_writer_sync(struct ram_writer *writer, struct err *err)
{
	assert(!writer->writing);
	syncer_end(writer);
	if (writer->failed) {
		*err = writer->err;
		return -1;
	}
	return fdatasync(writer->fd) ? err_errno(err, errno, "sync of 'ram'") : 0;
}

int ram_writer_put(struct ram_writer *writer, uint64_t index, const uint8_t *page, uint64_t sum, struct err *err)
{
	assert(!writer->writing);
	if (file_write(writer->fd, "ram", page, PAGE_BYTES, index * PAGE_BYTES, err))
		return -1;
	sums_set(&writer->sums, index, sum);
	sums_set_pass(&writer->sums, index, writer->counters.pass);
	atomic_fetch_add(&writer->counters.written_bytes, PAGE_BYTES);
	return 0;
}
