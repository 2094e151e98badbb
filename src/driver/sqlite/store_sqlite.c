/* SPDX-License-Identifier: Apache-2.0
 * The queue between the loop and the thread that writes.
 *
 *   append, truncate, install, pledge ─▶ open ──flush──▶ ready ──thread takes all──▶ one transaction ──eventfd──▶
 * durable()
 *
 * The loop's side remembers for each flush how far the log was then, and corrects that when it truncates or installs
 * before the answer is here: `durable` speaks of the log as the caller has made it by now. */
#include "driver/sqlite/store_sqlite.h"

#include "driver/sqlite/db.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

enum {
	/* A checkpoint takes some fsyncs. It waits for a quiet moment, unless the write-ahead log has grown long. */
	CHECKPOINT_FRAMES = 256,
	CHECKPOINT_FRAMES_MUST = 8192, /* 32 MiB */
	QUIET_MS = 300,
};

struct op_list {
	struct op *first;
	struct op **end; /* &first while it is empty */
};

/* When the thread has done `flush`, the log is durable up to `index`, and a pledge (term; 0: none) is too. */
struct promise {
	uint64_t flush;
	uint64_t index;
	uint64_t pledge;
};

struct store_sqlite {
	struct store store; /* first: the port's pointer is ours */
	struct loop *loop;
	struct store_callbacks callbacks;
	struct db db;	       /* the thread's, once it runs */
	bool checkpoint_tried; /* since the last write: a reader may be in the way, do not spin */
	char vfs[32];
	int lock_fd;
	int event_fd;
	struct loop_io *io;
	bool loaded;
	sqlite3 *reader;

	/* The loop's side. */
	struct op_list open;
	uint64_t last; /* of the log as the caller has made it */
	uint64_t base; /* of the snapshot */
	uint64_t durable;
	uint64_t pledge;	  /* queued and not flushed; 0: none */
	struct promise *promises; /* unanswered flushes, oldest first */
	size_t promise_count;
	size_t promise_room;
	bool has_failed; /* was told */

	/* Both sides', under the lock. */
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct op_list ready;
	uint64_t ready_flush; /* number of the flush that `ready` belongs to, */
	uint64_t taken_flush; /* of the one that the thread works at or was done with, */
	uint64_t done_flush;  /* and of the last one that is durable */
	size_t queued_bytes;  /* in `ready` and in the transaction under way */
	bool closing;
	bool failed;
	struct err failure;

	pthread_t thread;
};

static struct store_sqlite *of(struct store *store)
{
	return (struct store_sqlite *)store;
}

static void list_push(struct op_list *list, struct op *op)
{
	*list->end = op;
	list->end = &op->next;
}

static void list_move(struct op_list *to, struct op_list *from)
{
	if (!from->first)
		return;
	*to->end = from->first;
	to->end = from->end;
	from->first = NULL;
	from->end = &from->first;
}

static size_t list_free(struct op *op)
{
	size_t bytes = 0;

	while (op) {
		struct op *next = op->next;
		bytes += sizeof(*op) + op->size;
		free(op);
		op = next;
	}
	return bytes;
}

/* ---- the thread ---- */

static void wake_init(pthread_cond_t *wake)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(wake, &attributes);
	pthread_condattr_destroy(&attributes);
}

static struct timespec quiet_end(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_nsec += QUIET_MS * 1000000L;
	at.tv_sec += at.tv_nsec / 1000000000L;
	at.tv_nsec %= 1000000000L;
	return at;
}

enum work { WORK_WRITE, WORK_CHECKPOINT, WORK_END };

/* Under the lock. What was flushed before the store is closed is still written. */
static enum work wait_for_work(struct store_sqlite *store)
{
	struct timespec until = quiet_end();
	int rc = 0;

	for (;;) {
		if (store->db.wal_frames >= CHECKPOINT_FRAMES_MUST && !store->checkpoint_tried)
			return WORK_CHECKPOINT;
		if (store->ready_flush != store->taken_flush)
			return WORK_WRITE;
		if (store->closing)
			return WORK_END;
		if (rc == ETIMEDOUT)
			return WORK_CHECKPOINT;
		if (store->db.wal_frames >= CHECKPOINT_FRAMES && !store->checkpoint_tried)
			rc = pthread_cond_timedwait(&store->wake, &store->lock, &until);
		else
			pthread_cond_wait(&store->wake, &store->lock);
	}
}

/* Adds what a person can do about it: the log is the same on every node. Returns -1. */
static int advise(struct err *err)
{
	const struct err was = *err;

	if (was.code == ERR_CORRUPT)
		err_set(err, was.code, "%.420s: move this store's files away and start again, the other nodes have a copy",
			was.text);
	else if (was.code == ERR_NO_SPACE)
		err_set(err, was.code, "%.420s: make room there and start again", was.text);
	return -1;
}

static void thread_fail(struct store_sqlite *store, const struct err *err)
{
	store->failed = true;
	store->failure = *err;
	eventfd_write(store->event_fd, 1);
}

static void thread_write(struct store_sqlite *store)
{
	struct err err;
	uint64_t flush = store->taken_flush = store->ready_flush;
	struct op *first = store->ready.first;

	store->ready = (struct op_list){.end = &store->ready.first};
	pthread_mutex_unlock(&store->lock);
	int rc = first ? db_apply(&store->db, first, &err) : 0;
	size_t bytes = list_free(first);
	pthread_mutex_lock(&store->lock);
	store->queued_bytes -= bytes;
	store->checkpoint_tried = false;
	if (rc < 0) {
		thread_fail(store, &err);
		return;
	}
	store->done_flush = flush;
	eventfd_write(store->event_fd, 1);
}

static void *thread_main(void *arg)
{
	struct store_sqlite *store = arg;
	struct err err;
	enum work work;

	pthread_mutex_lock(&store->lock);
	while (!store->failed && (work = wait_for_work(store)) != WORK_END) {
		if (work == WORK_WRITE) {
			thread_write(store);
			continue;
		}
		store->checkpoint_tried = true;
		pthread_mutex_unlock(&store->lock);
		int rc = db_checkpoint(&store->db, &err);
		pthread_mutex_lock(&store->lock);
		if (rc < 0)
			thread_fail(store, &err);
	}
	pthread_mutex_unlock(&store->lock);
	return NULL;
}

/* ---- the loop's side ---- */

/* The first failure is told once and is final. */
static void tell_failure(struct store_sqlite *store, const struct err *err)
{
	if (store->has_failed)
		return;
	store->has_failed = true;
	struct err said = *err;
	advise(&said);
	store->callbacks.failed(store->callbacks.ctx, &said);
}

static void on_event(void *ctx, uint32_t events)
{
	struct store_sqlite *store = ctx;
	struct err failure;
	eventfd_t value;
	size_t kept = 0;
	uint64_t pledge = 0;
	bool any = false;

	(void)events;
	eventfd_read(store->event_fd, &value);
	pthread_mutex_lock(&store->lock);
	uint64_t done = store->done_flush;
	bool failed = store->failed;
	failure = store->failure;
	pthread_mutex_unlock(&store->lock);
	for (size_t i = 0; i < store->promise_count; i++) {
		if (store->promises[i].flush > done) {
			store->promises[kept++] = store->promises[i];
			continue;
		}
		any = true;
		store->durable = store->promises[i].index;
		if (store->promises[i].pledge)
			pledge = store->promises[i].pledge;
	}
	store->promise_count = kept;
	if (pledge && !store->has_failed)
		store->callbacks.pledged(store->callbacks.ctx, pledge);
	if (any && !store->has_failed)
		store->callbacks.durable(store->callbacks.ctx, store->durable);
	if (failed)
		tell_failure(store, &failure);
}

static struct op *op_new(enum op_kind kind, uint64_t index, uint64_t term, const uint8_t *bytes, size_t size)
{
	struct op *op = malloc(sizeof(*op) + size);

	assert(op);
	*op = (struct op){.kind = kind, .index = index, .term = term, .size = size};
	if (size)
		memcpy(op->bytes, bytes, size);
	return op;
}

static void store_append(struct store *port, const struct store_entry *entry)
{
	struct store_sqlite *store = of(port);

	assert(store->loaded && entry->index == store->last + 1);
	store->last = entry->index;
	if (!store->has_failed)
		list_push(&store->open, op_new(OP_APPEND, entry->index, entry->term, entry->bytes, entry->size));
}

static void store_truncate(struct store *port, uint64_t index)
{
	struct store_sqlite *store = of(port);

	assert(store->loaded && index >= store->base);
	if (index >= store->last)
		return;
	store->last = index;
	for (size_t i = 0; i < store->promise_count; i++)
		if (store->promises[i].index > index)
			store->promises[i].index = index;
	if (store->durable > index)
		store->durable = index;
	if (!store->has_failed)
		list_push(&store->open, op_new(OP_TRUNCATE, index, 0, NULL, 0));
}

static void store_install(struct store *port, const struct store_snapshot *snapshot, const char *uuid, bool keep_log)
{
	struct store_sqlite *store = of(port);

	assert(store->loaded && strlen(uuid) < UUID_BYTES);
	assert(!keep_log || snapshot->index <= store->last);
	if (keep_log && snapshot->index <= store->base)
		return; /* it is the base already */
	store->base = snapshot->index;
	if (!keep_log) {
		/* Nothing of what is under way speaks of this log any more. */
		for (size_t i = 0; i < store->promise_count; i++)
			store->promises[i].index = 0;
		store->durable = 0;
		store->last = snapshot->index;
	}
	if (store->has_failed)
		return;
	struct op *op = op_new(OP_INSTALL, snapshot->index, snapshot->term, snapshot->bytes, snapshot->size);
	snprintf(op->uuid, sizeof(op->uuid), "%s", uuid);
	op->keep_log = keep_log;
	list_push(&store->open, op);
}

static void store_pledge(struct store *port, uint64_t term)
{
	struct store_sqlite *store = of(port);

	assert(store->loaded && term);
	store->pledge = term;
	if (!store->has_failed)
		list_push(&store->open, op_new(OP_PLEDGE, 0, term, NULL, 0));
}

static void store_dropped(struct store *port, uint64_t above, uint64_t last)
{
	struct store_sqlite *store = of(port);

	assert(store->loaded);
	if (!store->has_failed)
		list_push(&store->open, op_new(OP_DROPPED, above, last, NULL, 0));
}

static void store_note(struct store *port, const struct store_line *line)
{
	struct store_sqlite *store = of(port);

	assert(store->loaded);
	if (store->has_failed)
		return;
	struct op *op = op_new(OP_NOTE, line->index, 0, line->bytes, line->size);
	op->number = line->number;
	list_push(&store->open, op);
}

static void promise(struct store_sqlite *store, uint64_t flush)
{
	if (store->promise_count == store->promise_room) {
		store->promise_room = store->promise_room ? store->promise_room * 2 : 16;
		store->promises = realloc(store->promises, store->promise_room * sizeof(*store->promises));
		assert(store->promises);
	}
	store->promises[store->promise_count++] = (struct promise){.flush = flush};
}

static void store_flush(struct store *port)
{
	struct store_sqlite *store = of(port);
	size_t bytes = 0;

	assert(store->loaded);
	if (store->has_failed) {
		list_free(store->open.first);
		store->open = (struct op_list){.end = &store->open.first};
		return;
	}
	for (const struct op *op = store->open.first; op; op = op->next)
		bytes += sizeof(*op) + op->size;
	pthread_mutex_lock(&store->lock);
	store->queued_bytes += bytes;
	if (store->queued_bytes > STORE_QUEUE_BYTES && !store->failed) {
		struct err err;
		err_set(&err, ERR_IO, "%s: %d MiB wait for the disk", store->db.path, STORE_QUEUE_BYTES >> 20);
		thread_fail(store, &err);
	}
	list_move(&store->ready, &store->open);
	/* One that is not taken yet: one transaction for both. */
	if (store->ready_flush == store->taken_flush) {
		store->ready_flush++;
		promise(store, store->ready_flush);
	}
	store->promises[store->promise_count - 1].index = store->last;
	if (store->pledge)
		store->promises[store->promise_count - 1].pledge = store->pledge;
	store->pledge = 0;
	pthread_cond_signal(&store->wake);
	pthread_mutex_unlock(&store->lock);
}

static int start(struct store_sqlite *store, struct err *err)
{
	sigset_t all, before;

	/* The signals are the loop's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int rc = pthread_create(&store->thread, NULL, thread_main, store);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc)
		return err_errno(err, rc, "starting the store's thread");
	store->io = loop_io_watch(store->loop, store->event_fd, EPOLLIN, on_event, store);
	store->loaded = true;
	return 0;
}

static int store_load(struct store *port, const struct store_reader *reader, char uuid[UUID_BYTES], struct err *err)
{
	struct store_sqlite *store = of(port);

	assert(!store->loaded);
	if (db_load(&store->db, reader, uuid, err) < 0)
		return advise(err);
	store->last = store->durable = store->db.last;
	store->base = store->db.base;
	return start(store, err);
}

static int open_reader(struct store_sqlite *store, struct err *err)
{
	const char *vfs = store->vfs[0] ? store->vfs : NULL;

	return store->reader ? 0 : db_open_reader(store->db.path, vfs, &store->reader, err);
}

static int store_lines(struct store *port, uint64_t below, const struct store_reader *reader, struct err *err)
{
	struct store_sqlite *store = of(port);

	return open_reader(store, err) < 0 ? -1 : db_read_lines(store->reader, store->db.path, below, reader, err);
}

static int store_read(
	struct store *port, uint64_t from_index, uint32_t count, const struct store_reader *reader, struct err *err)
{
	struct store_sqlite *store = of(port);

	if (open_reader(store, err) < 0)
		return -1;
	return db_read(store->reader, store->db.path, from_index, count, reader, err);
}

static const struct store_ops ops = {
	.load = store_load,
	.append = store_append,
	.flush = store_flush,
	.truncate = store_truncate,
	.install = store_install,
	.pledge = store_pledge,
	.dropped = store_dropped,
	.note = store_note,
	.lines = store_lines,
	.read = store_read,
};

/* Not SQLite's own locks: those last for a transaction, and readers are welcome. */
static int lock_dir(const char *dir, int *fd, struct err *err)
{
	char path[PATH_BYTES + 16];

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_errno(err, errno, "%s", dir);
	snprintf(path, sizeof(path), "%s/store.lock", dir);
	CLEANUP_FD int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (file < 0)
		return err_errno(err, errno, "%s", path);
	if (flock(file, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? err_set(err, ERR_BUSY, "%s: another process uses this store", path)
					    : err_errno(err, errno, "%s", path);
	*fd = STEAL_FD(file);
	return 0;
}

struct store *store_sqlite_open(const struct store_sqlite_config *config, struct loop *loop,
	const struct store_callbacks *callbacks, struct err *err)
{
	struct store_sqlite *store = calloc(1, sizeof(*store));

	assert(store);
	store->store.ops = &ops;
	store->loop = loop;
	store->callbacks = *callbacks;
	store->lock_fd = store->db.mark_fd = -1;
	store->open.end = &store->open.first;
	store->ready.end = &store->ready.first;
	store->db.keep_entries = config->keep_entries ? config->keep_entries : STORE_KEEP_ENTRIES;
	store->db.keep_bytes = config->keep_bytes ? config->keep_bytes : STORE_KEEP_BYTES;
	store->db.keep_lines = config->keep_lines ? config->keep_lines : STORE_KEEP_LINES;
	pthread_mutex_init(&store->lock, NULL);
	wake_init(&store->wake);
	snprintf(store->vfs, sizeof(store->vfs), "%s", config->vfs ? config->vfs : "");
	store->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	bool ok = false;
	if (store->event_fd < 0)
		err_errno(err, errno, "eventfd");
	else if (strlen(config->dir) >= PATH_BYTES)
		err_set(err, ERR_INVALID, "%.64s…: the path is too long", config->dir);
	else
		ok = lock_dir(config->dir, &store->lock_fd, err) == 0 &&
		     db_open(&store->db, config->dir, config->vfs, config->uuid, err) == 0;
	if (!ok) {
		advise(err);
		store_sqlite_close(&store->store);
		return NULL;
	}
	return &store->store;
}

void store_sqlite_close(struct store *port)
{
	if (!port)
		return;
	struct store_sqlite *store = of(port);
	if (store->loaded) {
		pthread_mutex_lock(&store->lock);
		store->closing = true;
		pthread_cond_signal(&store->wake);
		pthread_mutex_unlock(&store->lock);
		pthread_join(store->thread, NULL);
	}
	loop_io_cancel(store->loop, store->io);
	sqlite3_close(store->reader);
	db_close(&store->db);
	list_free(store->open.first);
	list_free(store->ready.first);
	free(store->promises);
	if (store->event_fd >= 0)
		close(store->event_fd);
	if (store->lock_fd >= 0)
		close(store->lock_fd);
	pthread_cond_destroy(&store->wake);
	pthread_mutex_destroy(&store->lock);
	free(store);
}
