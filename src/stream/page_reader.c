/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/page_reader.h"
#include "stream/file.h"
#include "stream/protocol.h"
#include "stream/sums.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

static bool of_class(const struct page_reader *reader, const struct fetch *fetch, bool urgent)
{
	return (fetch - reader->fetches < READER_URGENT_SLOTS) == urgent;
}

/* The fetch of this class and state with the lowest ticket. */
static struct fetch *first_of(struct page_reader *reader, bool urgent, enum fetch_state state)
{
	struct fetch *first = NULL;

	for (size_t i = 0; i < READER_SLOTS; i++) {
		struct fetch *fetch = &reader->fetches[i];
		if (fetch->state == state && of_class(reader, fetch, urgent) &&
			(!first || fetch->ticket < first->ticket))
			first = fetch;
	}
	return first;
}

static void stall_begin_locked(struct reader_thread *thread, const char *why)
{
	struct page_reader *reader = thread->reader;

	if (thread->counted)
		return;
	thread->counted = true;
	if (!reader->stalled++)
		reader->stall(reader->stall_ctx, why);
}

static void stall_end_locked(struct reader_thread *thread)
{
	struct page_reader *reader = thread->reader;

	if (!thread->counted)
		return;
	thread->counted = false;
	if (!--reader->stalled)
		reader->stall(reader->stall_ctx, NULL);
}

/* Each thread has a file of its own: the kernel reads ahead by file, and a stale handle (NFS) may be cured by a new
 * one. Its content needs no trust: every page is compared. */
static void reopen(struct reader_thread *thread)
{
	int fd = openat(thread->reader->state->dir, STREAM_STATE_RAM, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return;
	cleanup_fd_(&thread->fd);
	thread->fd = fd;
}

/* Sleeps unless the reader ends; true: it ends. */
static bool pause_ms(struct page_reader *reader, unsigned ms)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_mutex_lock(&reader->lock);
	while (!reader->ending && pthread_cond_timedwait(&reader->changed, &reader->lock, &until) != ETIMEDOUT)
		;
	bool ending = reader->ending;
	pthread_mutex_unlock(&reader->lock);
	return ending;
}

/* Pages that follow each other are one read. */
static int run_read(
	struct reader_thread *thread, const struct fetch *fetch, uint32_t from, uint32_t *to, struct err *err)
{
	const struct state *state = thread->reader->state;
	uint64_t sums[READER_FETCH_PAGES];
	uint8_t *bytes = fetch->bytes + (size_t)from * PAGE_BYTES;
	uint32_t end = from + 1;

	while (end < fetch->count && fetch->index[end] == fetch->index[end - 1] + 1)
		end++;
	if (file_read(thread->fd, STREAM_STATE_RAM, bytes, (size_t)(end - from) * PAGE_BYTES,
		    fetch->index[from] * PAGE_BYTES, err))
		return -1;
	page_sums(bytes, end - from, sums);
	for (uint32_t i = from; i < end; i++)
		if (sums[i - from] != sums_get(state->sums, fetch->index[i]))
			return err_set(err, ERR_CORRUPT, "the checksum of page %" PRIu64 " of 'ram' does not hold",
				fetch->index[i]);
	*to = end;
	return 0;
}

static void busy_set(struct reader_thread *thread, bool busy)
{
	pthread_mutex_lock(&thread->reader->lock);
	thread->busy_ns = busy ? clock_mono_ns() : 0;
	if (!busy)
		stall_end_locked(thread);
	pthread_mutex_unlock(&thread->reader->lock);
}

/* True: enough tries, nothing is lost by failing. */
static bool give_up(struct reader_thread *thread, unsigned tries, const struct err *err)
{
	struct page_reader *reader = thread->reader;
	uint64_t one = 1;

	if (tries < (err->code == ERR_CORRUPT ? READER_TRIES_CORRUPT : READER_TRIES_OTHER))
		return false;
	pthread_mutex_lock(&reader->lock);
	bool failed = !reader->patient;
	if (failed && !reader->failed) {
		reader->failure = *err;
		reader->failed = true;
	}
	pthread_mutex_unlock(&reader->lock);
	if (!failed)
		return false;
	ssize_t woken = write(reader->wake_fd, &one, sizeof(one));
	(void)woken;
	return true;
}

/* Returns false only when the reader ends or has failed. */
static bool fetch_read(struct reader_thread *thread, struct fetch *fetch)
{
	struct page_reader *reader = thread->reader;
	unsigned wait_ms = READER_RETRY_MS_MIN;
	unsigned tries = 0;
	struct err err;

	for (uint32_t from = 0; from < fetch->count;) {
		busy_set(thread, true);
		if (!run_read(thread, fetch, from, &from, &err)) {
			busy_set(thread, false);
			wait_ms = READER_RETRY_MS_MIN;
			tries = 0;
			continue;
		}
		pthread_mutex_lock(&reader->lock);
		thread->busy_ns = 0;
		stall_begin_locked(thread, err.text);
		pthread_mutex_unlock(&reader->lock);
		reader->retries++;
		if (give_up(thread, ++tries, &err) || pause_ms(reader, wait_ms))
			return false;
		wait_ms = wait_ms * 2 < READER_RETRY_MS_MAX ? wait_ms * 2 : READER_RETRY_MS_MAX;
		reopen(thread);
	}
	return true;
}

static int failure(struct page_reader *reader, bool patient, struct err *err)
{
	pthread_mutex_lock(&reader->lock);
	bool failed = reader->failed;
	if (failed)
		*err = reader->failure;
	else
		reader->patient |= patient;
	pthread_mutex_unlock(&reader->lock);
	return failed ? -1 : 0;
}

int page_reader_failure(struct page_reader *reader, struct err *err)
{
	return failure(reader, false, err);
}

int page_reader_be_patient(struct page_reader *reader, struct err *err)
{
	return failure(reader, true, err);
}

static void *reader_main(void *arg)
{
	struct reader_thread *thread = arg;
	struct page_reader *reader = thread->reader;
	uint64_t one = 1;

	if (!thread->urgent)
		thread_step_back();
	pthread_mutex_lock(&reader->lock);
	while (!reader->ending) {
		struct fetch *fetch = first_of(reader, thread->urgent, FETCH_WANTED);
		if (!fetch) {
			pthread_cond_wait(&reader->changed, &reader->lock);
			continue;
		}
		fetch->state = FETCH_BUSY;
		pthread_mutex_unlock(&reader->lock);

		bool whole = fetch_read(thread, fetch);

		pthread_mutex_lock(&reader->lock);
		if (!whole)
			break;
		fetch->state = FETCH_READY;
		ssize_t woken = write(reader->wake_fd, &one, sizeof(one));
		(void)woken;
	}
	pthread_mutex_unlock(&reader->lock);
	return NULL;
}

static int slots_init(struct page_reader *reader, struct err *err)
{
	for (size_t i = 0; i < READER_SLOTS; i++) {
		size_t pages = i < READER_URGENT_SLOTS ? 1 : READER_FETCH_PAGES;
		reader->fetches[i].bytes = malloc(pages * PAGE_BYTES);
		if (!reader->fetches[i].bytes)
			return err_errno(err, ENOMEM, "memory for pages");
	}
	return 0;
}

static int threads_init(struct page_reader *reader, struct err *err)
{
	for (size_t i = 0; i < READER_THREADS; i++) {
		struct reader_thread *thread = &reader->threads[i];
		*thread = (struct reader_thread){.reader = reader, .urgent = i < READER_URGENT_THREADS, .fd = -1};
		reopen(thread);
		if (thread->fd < 0)
			return err_errno(err, errno, "file 'ram' of the saved state");
		int why = pthread_create(&thread->thread, NULL, reader_main, thread);
		if (why)
			return err_errno(err, why, "start of a reading thread");
		thread->started = true;
	}
	return 0;
}

int page_reader_init(struct page_reader *reader, const struct state *state, int wake_fd,
	void (*stall)(void *ctx, const char *why), void *stall_ctx, struct err *err)
{
	pthread_condattr_t monotonic;

	memset(reader, 0, sizeof(*reader));
	reader->state = state;
	reader->wake_fd = wake_fd;
	reader->stall = stall;
	reader->stall_ctx = stall_ctx;
	pthread_mutex_init(&reader->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&reader->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	for (size_t i = 0; i < READER_THREADS; i++)
		reader->threads[i].fd = -1;
	if (slots_init(reader, err) || threads_init(reader, err)) {
		page_reader_fini(reader);
		return -1;
	}
	return 0;
}

void page_reader_fini(struct page_reader *reader)
{
	pthread_mutex_lock(&reader->lock);
	reader->ending = true;
	pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->lock);
	for (size_t i = 0; i < READER_THREADS; i++) {
		if (reader->threads[i].started)
			pthread_join(reader->threads[i].thread, NULL);
		cleanup_fd_(&reader->threads[i].fd);
	}
	for (size_t i = 0; i < READER_SLOTS; i++)
		free(reader->fetches[i].bytes);
	pthread_cond_destroy(&reader->changed);
	pthread_mutex_destroy(&reader->lock);
}

struct fetch *page_reader_slot(struct page_reader *reader, bool urgent)
{
	pthread_mutex_lock(&reader->lock);
	struct fetch *fetch = NULL;
	for (size_t i = 0; i < READER_SLOTS && !fetch; i++)
		if (reader->fetches[i].state == FETCH_IDLE && of_class(reader, &reader->fetches[i], urgent))
			fetch = &reader->fetches[i];
	pthread_mutex_unlock(&reader->lock);
	if (fetch)
		fetch->count = 0;
	return fetch;
}

void page_reader_want(struct page_reader *reader, struct fetch *fetch)
{
	pthread_mutex_lock(&reader->lock);
	assert(fetch->state == FETCH_IDLE && fetch->count);
	fetch->state = FETCH_WANTED;
	fetch->ticket = reader->next_ticket++;
	pthread_cond_broadcast(&reader->changed);
	pthread_mutex_unlock(&reader->lock);
}

struct fetch *page_reader_ready(struct page_reader *reader, bool urgent)
{
	pthread_mutex_lock(&reader->lock);
	struct fetch *fetch = first_of(reader, urgent, FETCH_READY);
	pthread_mutex_unlock(&reader->lock);
	return fetch;
}

void page_reader_release(struct page_reader *reader, struct fetch *fetch)
{
	pthread_mutex_lock(&reader->lock);
	assert(fetch->state == FETCH_READY);
	fetch->state = FETCH_IDLE;
	pthread_mutex_unlock(&reader->lock);
}

void page_reader_watch(struct page_reader *reader)
{
	uint64_t now = clock_mono_ns();

	pthread_mutex_lock(&reader->lock);
	for (size_t i = 0; i < READER_THREADS; i++) {
		struct reader_thread *thread = &reader->threads[i];
		if (thread->busy_ns && now - thread->busy_ns > READER_SLOW_MS * UINT64_C(1000000))
			stall_begin_locked(thread, "the state storage does not answer a read");
	}
	pthread_mutex_unlock(&reader->lock);
}
