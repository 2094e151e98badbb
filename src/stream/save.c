/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/save.h"
#include "stream/device_image.h"
#include "stream/file.h"
#include "stream/protocol.h"
#include "stream/ram_writer.h"
#include "stream/repair.h"
#include "stream/state_dir.h"
#include "stream/sync_task.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

enum {
	PIPE_BYTES = 1 << 20,
	READ_BYTES_MIN = 64 << 10, /* less room than this in a batch: go on with the next */
	WARM_PAUSE_MS = 20,
};

struct save_params {
	char block[STREAM_NAME_BYTES];
	uint64_t ram_bytes;
	uint64_t used_bytes;
	bool repair;
	bool early_sync;
	struct hot hot;
	json_t *facts;
};

struct save_figures {
#define FIGURE(name) uint64_t name;
	STREAM_SAVE_FIGURES(FIGURE)
#undef FIGURE
};

struct save {
	int stream_fd, dir_fd, memory_fd;
	int cancel_fd; /* readable once cancelled, or once the stream is over: ends every wait */
	struct control *control;
	struct save_params params;
	struct save_figures figures;

	pthread_t thread;
	bool started;
	atomic_bool cancelled;
	atomic_bool guest_stopped; /* the warming ends */
	_Atomic uint64_t stream_bytes;

	struct state_files files;
	struct ram_writer writer;
	struct device_image image;
	struct repair repair;
	bool have_writer, have_image, have_repair;
	struct stream_parser parser;
	struct stream_sink sink;
	struct ram_batch *batch; /* being filled */
	uint32_t main_block;
	pthread_t warmer;
	bool warming;
	bool sealed; /* set by the thread, read after its end */
};

/* The stream's parts */

static int on_head(void *ctx, const uint8_t *bytes, size_t size, struct err *err)
{
	struct save *save = ctx;

	return device_image_head(&save->image, bytes, size, err);
}

static int on_layout(void *ctx, const struct stream_layout *layout, struct err *err)
{
	struct save *save = ctx;
	const struct stream_block *largest = &layout->blocks[0];

	for (uint32_t i = 0; i < layout->count; i++) {
		const struct stream_block *block = &layout->blocks[i];
		if (save->params.block[0] ? !strcmp(block->name, save->params.block) : block->bytes > largest->bytes)
			largest = block;
	}
	if (save->params.block[0] && strcmp(largest->name, save->params.block))
		return err_set(err, ERR_UNFIT, "the guest has no memory block '%s'", save->params.block);
	if (largest->bytes != save->params.ram_bytes)
		return err_set(err, ERR_UNFIT, "memory block '%s' has %" PRIu64 " bytes, %" PRIu64 " were expected",
			largest->name, largest->bytes, save->params.ram_bytes);
	save->main_block = (uint32_t)(largest - layout->blocks);
	return device_image_layout(&save->image, layout, save->main_block, save->parser.ram_id, err);
}

static int on_page(void *ctx, uint32_t block, uint64_t index, const uint8_t *page, struct err *err)
{
	struct save *save = ctx;

	if (block != save->main_block)
		return device_image_page(&save->image, block, index, page, err);
	if (page)
		ram_batch_page(save->batch, index, page);
	else
		ram_batch_zero(save->batch, index);
	return 0;
}

static int on_ram_end(void *ctx, struct err *err)
{
	struct save *save = ctx;

	/* QEMU sends this once the guest stands still. */
	save->guest_stopped = true;
	ram_writer_hurry(&save->writer);
	return device_image_ram_end(&save->image, err);
}

static int on_tail(void *ctx, const uint8_t *bytes, size_t size, struct err *err)
{
	struct save *save = ctx;

	return device_image_tail(&save->image, bytes, size, err);
}

/* Reading */

static int cancelled(struct err *err)
{
	return err_set(err, ERR_CANCELLED, "cancelled");
}

/* Bytes read, 0 at the end of the stream. Sleeps in poll only, so that a cancel is always heard. */
static ssize_t stream_read(struct save *save, uint8_t *bytes, size_t size, struct err *err)
{
	for (;;) {
		if (save->cancelled)
			return cancelled(err);
		ssize_t got = read(save->stream_fd, bytes, size);
		if (got >= 0)
			return got;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return err_errno(err, errno, "reading QEMU's stream");
		struct pollfd fds[] = {
			{.fd = save->stream_fd, .events = POLLIN},
			{.fd = save->cancel_fd, .events = POLLIN},
		};
		poll(fds, ARRAY_SIZE(fds), -1);
	}
}

/* Submits the batch and begins the next with the left bytes that could not be parsed yet, in its headroom. */
static int batch_turn(struct save *save, const uint8_t *rest, size_t left, struct err *err)
{
	struct ram_batch *full = save->batch;

	assert(left <= RAM_BATCH_HEADROOM);
	save->batch = ram_writer_batch(&save->writer, err);
	if (!save->batch)
		return -1;
	memcpy(save->batch->bytes + RAM_BATCH_HEADROOM - left, rest, left);
	ram_writer_submit(&save->writer, full);
	return 0;
}

static int stream_copy(struct save *save, struct err *err)
{
	size_t from = RAM_BATCH_HEADROOM; /* not parsed yet */
	size_t to = RAM_BATCH_HEADROOM;	  /* end of what was read */
	uint64_t pass = 0;

	static_assert((int)STREAM_LOOKAHEAD <= (int)RAM_BATCH_HEADROOM, "an element always fits");
	save->batch = ram_writer_batch(&save->writer, err);
	if (!save->batch)
		return -1;
	for (;;) {
		size_t room = RAM_BATCH_HEADROOM + RAM_BATCH_BYTES - to;
		ssize_t got = stream_read(save, save->batch->bytes + to, room, err);
		if (got < 0)
			return -1;
		if (got == 0)
			break;
		if (!save->figures.started_ns)
			save->figures.started_ns = clock_real_ns();
		to += (size_t)got;
		save->stream_bytes += (uint64_t)got;
		ssize_t parsed = stream_parse(&save->parser, save->batch->bytes + from, to - from, err);
		if (parsed < 0)
			return -1;
		from += (size_t)parsed;
		bool full = RAM_BATCH_HEADROOM + RAM_BATCH_BYTES - to < READ_BYTES_MIN;
		if (full || (save->batch->op_count && ram_writer_is_idle(&save->writer))) {
			if (batch_turn(save, save->batch->bytes + from, to - from, err))
				return -1;
			from = RAM_BATCH_HEADROOM - (to - from);
			to = RAM_BATCH_HEADROOM;
		}
		if (pass != save->writer.counters.pass) {
			pass = save->writer.counters.pass;
			if (mirror_flush(&save->image.mirror, err))
				return -1;
		}
	}
	ram_writer_submit(&save->writer, STEAL(save->batch));
	return stream_parse_finish(&save->parser, to - from, err);
}

/* Sealing */

static int pages_repair(struct save *save, struct err *err)
{
	uint8_t page[PAGE_BYTES];

	for (uint64_t word = 0; word <= save->repair.pages / 64; word++)
		for (uint64_t bits = save->repair.differs[word]; bits; bits &= bits - 1) {
			uint64_t index = word * 64 + (unsigned)__builtin_ctzll(bits);
			/* A copy, so that what is written and what is summed are the same bytes whatever happens. */
			memcpy(page, save->repair.memory + index * PAGE_BYTES, PAGE_BYTES);
			if (ram_writer_put(&save->writer, index, page, page_sum(page), err))
				return -1;
		}
	return 0;
}

/* The comparison needs the processors and the memory, the write-back of the last pages needs the disk: both at once. */
static int repair_pass(struct save *save, struct err *err)
{
	struct sync_task early;
	struct err sync_err;
	uint64_t began = clock_mono_ns();

	sync_task_begin(&early, &save->writer, NULL);
	int result = repair_compare(&save->repair, save->writer.sums.mirror.bytes, &save->cancelled,
		&save->figures.repaired_pages, &save->figures.hashed_bytes, err);
	save->figures.hash_us = (clock_mono_ns() - began) / 1000;
	if (sync_task_end(&early, &sync_err) && !result) {
		*err = sync_err;
		result = -1;
	}
	return result ? -1 : pages_repair(save, err);
}

static int files_sync(struct save *save, struct err *err)
{
	struct sync_task tasks[3];
	struct mirror *mirrors[3] = {NULL, &save->image.mirror, &save->writer.sums.mirror};
	uint64_t began = clock_mono_ns();
	int result = 0;

	if (mirror_flush(&save->image.mirror, err) || mirror_flush(&save->writer.sums.mirror, err))
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(tasks); i++)
		sync_task_begin(&tasks[i], &save->writer, mirrors[i]);
	for (size_t i = 0; i < ARRAY_SIZE(tasks); i++)
		result |= sync_task_end(&tasks[i], err);
	save->figures.fsync_us = (clock_mono_ns() - began) / 1000;
	return result ? -1 : 0;
}

static uint64_t used_pages(const struct sums *sums)
{
	uint64_t used = 0;

	for (uint64_t page = 0; page < sums->pages; page++)
		used += sums_get(sums->mirror.bytes, page) != 0;
	return used;
}

static int manifest_fill(const struct save *save, struct manifest *manifest, struct err *err)
{
	const struct mirror *device = &save->image.mirror;
	const struct mirror *sums = &save->writer.sums.mirror;
	size_t devices_bytes;

	if (stream_tail_split(
		    device->bytes + save->image.tail_at, device->size - save->image.tail_at, &devices_bytes, err))
		return -1;
	*manifest = (struct manifest){
		.ram_bytes = save->params.ram_bytes,
		.passes = save->writer.counters.pass,
		.device_bytes = device->size,
		.tail_at = save->image.tail_at,
		.devices_bytes = devices_bytes,
		.device_sum = bytes_sum(device->bytes, device->size),
		.streamed_ns = save->figures.streamed_ns,
		.repaired_pages = save->figures.repaired_pages,
		.compared = save->have_repair,
		.hot = save->params.hot,
	};
	memcpy(manifest->block, save->parser.layout.blocks[save->main_block].name, sizeof(manifest->block));
	manifest->used_bytes = used_pages(&save->writer.sums) * PAGE_BYTES;
	manifest->sums_sum = bytes_sum(sums->bytes, sums->size);
	return 0;
}

static int seal(struct save *save, struct err *err)
{
	struct save_figures *figures = &save->figures;
	struct manifest manifest;

	if (ram_writer_drain(&save->writer, err))
		return -1;
	figures->written_ns = clock_real_ns();
	if (save->have_repair && repair_pass(save, err))
		return -1;
	figures->repaired_ns = save->have_repair ? clock_real_ns() : figures->written_ns;
	if (manifest_fill(save, &manifest, err) || files_sync(save, err))
		return -1;
	figures->synced_ns = clock_real_ns();
	if (save->cancelled)
		return cancelled(err);

	uint64_t began = clock_mono_ns();
	if (state_write_manifest(save->dir_fd, &manifest, save->params.facts, err))
		return -1;
	figures->manifest_us = (clock_mono_ns() - began) / 1000;
	figures->sealed_ns = clock_real_ns();
	figures->stream_bytes = save->stream_bytes;
	figures->ram_bytes = save->writer.counters.written_bytes;
	figures->used_bytes = manifest.used_bytes;
	figures->device_bytes = manifest.device_bytes;
	figures->sums_bytes = save->writer.sums.mirror.written;
	figures->passes = manifest.passes;
	figures->tail_pages = save->writer.counters.pass_pages;
	return 0;
}

/* The thread */

static void post_streamed(struct save *save)
{
	json_t *members = json_object();

	json_object_set_new(members, "bytes", json_integer((json_int_t)save->stream_bytes));
	json_object_set_new(members, "passes", json_integer((json_int_t)save->writer.counters.pass));
	control_post(save->control, "streamed", members, CONTROL_GOES_ON);
}

static void post_sealed(struct save *save)
{
	json_t *members = json_object();
	json_t *figures = json_object();

#define FIGURE(name) json_object_set_new(figures, #name, json_integer((json_int_t)save->figures.name));
	STREAM_SAVE_FIGURES(FIGURE)
#undef FIGURE
	json_object_set_new(members, "figures", figures);
	json_object_set(members, "facts", save->params.facts);
	control_post(save->control, "sealed", members, CONTROL_DONE);
}

static void post_failed(struct save *save, const struct err *err)
{
	json_t *members = json_object();

	json_object_set_new(members, "removed", json_true());
	control_post_failure(save->control, err, members);
}

/* Keeps the page tables of the guest's memory full while it runs and allocates. */
static void *warmer_main(void *arg)
{
	struct save *save = arg;

	thread_step_back();
	while (!save->guest_stopped && !save->cancelled) {
		repair_warm(&save->repair, &save->guest_stopped);
		struct pollfd fd = {.fd = save->cancel_fd, .events = POLLIN};
		poll(&fd, 1, WARM_PAUSE_MS);
	}
	return NULL;
}

static void warmer_end(struct save *save)
{
	uint64_t one = 1;

	save->guest_stopped = true;
	/* The guest stands still: not even the rest of a pause is waited for. */
	ssize_t woken = write(save->cancel_fd, &one, sizeof(one));
	(void)woken;
	if (save->warming)
		pthread_join(save->warmer, NULL);
	save->warming = false;
}

static void *save_main(void *arg)
{
	struct save *save = arg;
	struct err err = {0};

	control_post(save->control, "copying", NULL, CONTROL_GOES_ON);
	int result = stream_copy(save, &err);
	warmer_end(save);
	if (!result) {
		save->figures.streamed_ns = clock_real_ns();
		post_streamed(save);
		result = seal(save, &err);
	}
	/* Now QEMU, if it still writes, gets its broken pipe. */
	close(STEAL_FD(save->stream_fd));
	save->sealed = !result;
	if (!result) {
		post_sealed(save);
	} else {
		ram_writer_fini(&save->writer);
		save->have_writer = false;
		state_close(&save->files);
		state_remove(save->dir_fd);
		post_failed(save, &err);
	}
	return NULL;
}

/* Commands */

static int params_read(struct save *save, const json_t *start, struct err *err)
{
	struct save_params *params = &save->params;
	const char *block;
	json_t *facts = json_object_get(start, "facts");

	if (json_get_text(start, "block", "", &block, err) ||
		json_get_u64(start, "ram_bytes", 0, STREAM_BLOCK_BYTES_MAX, &params->ram_bytes, err) ||
		json_get_u64(start, "used_bytes", params->ram_bytes, params->ram_bytes, &params->used_bytes, err) ||
		json_get_bool(start, "repair", false, &params->repair, err) ||
		json_get_bool(start, "early_sync", false, &params->early_sync, err))
		return -1;
	if (!params->ram_bytes || params->ram_bytes % PAGE_BYTES)
		return err_set(err, ERR_INVALID, "ram_bytes: a multiple of %d, not 0", PAGE_BYTES);
	if (strlen(block) >= sizeof(params->block))
		return err_set(err, ERR_INVALID, "block: too long");
	if (hot_from_json(json_object_get(start, "hot"), params->ram_bytes >> PAGE_BITS, &params->hot, err))
		return -1;
	if (!json_is_object(facts))
		return err_set(err, ERR_INVALID, "facts: an object");
	CLEANUP_FREE char *text = json_dumps(facts, JSON_COMPACT);
	if (!text || strlen(text) > STREAM_FACTS_MAX)
		return err_set(err, ERR_INVALID, "facts: more than %d bytes", STREAM_FACTS_MAX);
	if (params->repair && save->memory_fd < 0)
		return err_set(err, ERR_INVALID, "repair: the guest's memory was not handed over");
	strcpy(params->block, block);
	params->facts = json_incref(facts);
	return 0;
}

static int parts_init(struct save *save, struct err *err)
{
	uint64_t pages = save->params.ram_bytes >> PAGE_BITS;

	if (device_image_init(&save->image, save->files.device, err))
		return -1;
	save->have_image = true;
	if (save->params.repair) {
		if (repair_init(&save->repair, save->memory_fd, pages, 0, err))
			return -1;
		save->have_repair = true;
	}
	if (ram_writer_init(&save->writer, save->files.ram, save->files.sums, pages, save->params.early_sync, err))
		return -1;
	save->have_writer = true;
	return 0;
}

static int threads_start(struct save *save, struct err *err)
{
	/* Without the warming the pages are faulted in while the guest stands still: slower, not wrong. */
	save->warming = save->have_repair && !pthread_create(&save->warmer, NULL, warmer_main, save);
	int why = pthread_create(&save->thread, NULL, save_main, save);
	if (why) {
		warmer_end(save);
		return err_errno(err, why, "start of the copying thread");
	}
	save->started = true;
	return 0;
}

static void parts_fini(struct save *save)
{
	if (save->have_writer)
		ram_writer_fini(&save->writer);
	if (save->have_repair)
		repair_fini(&save->repair);
	if (save->have_image)
		device_image_fini(&save->image);
	save->have_writer = save->have_repair = save->have_image = false;
	state_close(&save->files);
	json_decref(save->params.facts);
	save->params.facts = NULL;
}

static int start_cmd(void *ctx, const json_t *start, struct err *err)
{
	struct save *save = ctx;

	if (params_read(save, start, err))
		return -1;
	if (state_create(save->dir_fd, save->params.ram_bytes, save->params.used_bytes, &save->files, err)) {
		parts_fini(save);
		return -1;
	}
	if (parts_init(save, err) || threads_start(save, err)) {
		parts_fini(save);
		state_remove(save->dir_fd);
		return -1;
	}
	return 0;
}

static int cancel_cmd(void *ctx, struct err *err)
{
	struct save *save = ctx;
	uint64_t one = 1;

	(void)err;
	save->cancelled = true;
	ssize_t woken = write(save->cancel_fd, &one, sizeof(one));
	(void)woken;
	/* One that waits for a slow disk. */
	ram_writer_hurry(&save->writer);
	return 0;
}

static int trim_cmd(void *ctx, struct err *err)
{
	struct save *save = ctx;

	if (save->started)
		pthread_join(save->thread, NULL);
	save->started = false;
	if (!save->sealed)
		return err_set(err, ERR_BUSY, "not sealed");
	json_t *members = json_object();
	uint64_t bytes = state_trim(&save->files, save->writer.sums.mirror.bytes, save->writer.sums.pages);
	json_object_set_new(members, "bytes", json_integer((json_int_t)bytes));
	control_post(save->control, "trimmed", members, CONTROL_GOES_ON);
	return 0;
}

static void set_number(json_t *object, const char *name, uint64_t value)
{
	json_object_set_new(object, name, json_integer((json_int_t)value));
}

static json_t *progress_cmd(void *ctx)
{
	const struct save *save = ctx;
	const struct ram_counters *counters = &save->writer.counters;
	json_t *progress = json_object();
	uint64_t last_ms = counters->last_pass_ns / 1000000;

	set_number(progress, "bytes", save->stream_bytes);
	set_number(progress, "pages", counters->pages);
	set_number(progress, "zero_pages", counters->zero_pages);
	set_number(progress, "pass", counters->pass);
	set_number(progress, "pass_pages", counters->pass_pages);
	set_number(progress, "last_pass_pages", counters->last_pass_pages);
	/* What was dirtied while the pass before the last one ran is what the last one sent. */
	set_number(progress, "dirty_pages_per_s",
		counters->pass > 2 && last_ms ? counters->last_pass_pages * 1000 / last_ms : 0);
	set_number(progress, "ram_bytes", counters->written_bytes);
	set_number(progress, "backlog_bytes", counters->backlog_bytes);
	return progress;
}

struct control_ops save_ops(struct save *save)
{
	return (struct control_ops){
		.verb = "save",
		.ctx = save,
		.start = start_cmd,
		.cancel = cancel_cmd,
		.trim = trim_cmd,
		.progress = progress_cmd,
	};
}

void save_set_control(struct save *save, struct control *control)
{
	save->control = control;
}

struct save *save_new(int stream_fd, int dir_fd, int memory_fd, struct err *err)
{
	struct save *save = calloc(1, sizeof(*save));

	if (!save) {
		err_errno(err, ENOMEM, "save");
		return NULL;
	}
	*save = (struct save){
		.stream_fd = stream_fd, .dir_fd = dir_fd, .memory_fd = memory_fd, .files = STATE_FILES_NONE};
	save->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int flags = fcntl(stream_fd, F_GETFL);
	if (save->cancel_fd < 0 || flags < 0 || fcntl(stream_fd, F_SETFL, flags | O_NONBLOCK)) {
		err_errno(err, errno, "QEMU's stream");
		save_free(save);
		return NULL;
	}
	/* Larger turns, fewer wake-ups. Not a pipe, or not allowed: slower, not wrong. */
	fcntl(stream_fd, F_SETPIPE_SZ, PIPE_BYTES);
	save->sink = (struct stream_sink){.ctx = save,
		.head = on_head,
		.layout = on_layout,
		.page = on_page,
		.ram_end = on_ram_end,
		.tail = on_tail};
	stream_parser_init(&save->parser, &save->sink);
	return save;
}

void save_free(struct save *save)
{
	struct err ignored;

	if (!save)
		return;
	if (save->started) {
		cancel_cmd(save, &ignored);
		pthread_join(save->thread, NULL);
	}
	parts_fini(save);
	cleanup_fd_(&save->cancel_fd);
	cleanup_fd_(&save->stream_fd);
	free(save);
}
