/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/stream.h"
#include "driver/qemu/lines.h"
#include "base/weight.h"
#include "driver/qemu/sock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>

#define STREAM_SOCKET "stream.sock"

struct stream {
	struct loop *loop;
	struct stream_callbacks callbacks;
	struct lines *lines; /* NULL: not connected */
	struct process process; /* pidfd -1 until it is known: of a helper that was found, after its hello */
	struct loop_io *death;
	struct loop_timer *faded; /* set while it comes after all else */
	int dir_fd;
	uint32_t reconnects; /* without a word in between */
	bool found; /* of an earlier daemon */
	bool in_callback, freed, ended;
	bool doomed; /* nobody's any more: lives until it is known whom to kill */
};

enum { RECONNECTS_MAX = 3 };

static void on_line(void *ctx, char *text, size_t size);
static void on_closed(void *ctx, const struct err *err);
static void on_death(void *ctx, uint32_t events);

static void release(struct stream *stream)
{
	loop_timer_cancel(stream->loop, stream->faded);
	lines_free(stream->lines);
	loop_io_cancel(stream->loop, stream->death);
	cleanup_fd_(&stream->process.pidfd);
	free(stream);
}

void stream_free(struct stream *stream)
{
	if (!stream)
		return;
	if (stream->in_callback)
		stream->freed = true;
	else
		release(stream);
}

static int reach(struct stream *stream, struct err *err)
{
	int fd = sock_connect(stream->dir_fd, STREAM_SOCKET, err);

	if (fd < 0)
		return -1;
	stream->lines = lines_new(stream->loop, fd, STREAM_LINE_MAX,
		&(struct lines_callbacks){.ctx = stream, .line = on_line, .closed = on_closed});
	return 0;
}

static struct stream *make(struct loop *loop, int dir_fd, const struct stream_callbacks *callbacks)
{
	struct stream *stream = calloc(1, sizeof(*stream));

	assert(stream);
	*stream = (struct stream){.loop = loop, .callbacks = *callbacks, .dir_fd = dir_fd, .process.pidfd = -1};
	return stream;
}

struct stream *stream_spawn(struct loop *loop, const struct stream_spawn *spawn, const struct stream_callbacks *callbacks,
	struct err *err)
{
	CLEANUP_FD int listen_fd = sock_listen(spawn->dir_fd, STREAM_SOCKET, err);
	const char *argv[] = {spawn->binary, spawn->verb, NULL};
	struct process process;

	if (listen_fd < 0)
		return NULL;
	struct spawn what = {.binary = spawn->binary, .argv = argv, .uid = spawn->uid, .nice = STREAM_NICE, .lock_fd = -1, .fd_count = 5,
		.fds = {{spawn->qemu_fd, STREAM_FD_QEMU}, {spawn->log_fd, 1}, {spawn->log_fd, 2},
			{listen_fd, STREAM_FD_CONTROL}, {spawn->state_fd, STREAM_FD_DIRECTORY}}};
	if (spawn->memory_fd >= 0)
		what.fds[what.fd_count++] = (struct spawn_fd){spawn->memory_fd, STREAM_FD_MEMORY};
	if (process_spawn(&what, &process, err) < 0) {
		err_prefix(err, "watari-stream");
		return NULL;
	}
	struct stream *stream = make(loop, spawn->dir_fd, callbacks);
	stream->process = process;
	stream->death = loop_io_watch(loop, process.pidfd, EPOLLIN, on_death, stream);
	if (reach(stream, err) < 0) {
		process_kill(&process);
		stream_free(stream);
		return NULL;
	}
	return stream;
}

struct stream *stream_find(struct loop *loop, int dir_fd, const struct stream_callbacks *callbacks, struct err *err)
{
	struct stream *stream = make(loop, dir_fd, callbacks);

	stream->found = true;
	if (reach(stream, err) < 0) {
		stream_free(stream);
		return NULL;
	}
	return stream;
}

bool stream_is_orphan(const struct stream *stream, const char *name, const json_t *event)
{
	const char *state = json_string_value(json_object_get(event, "state"));

	return stream->found && !strcmp(name, "hello") && state && !strcmp(state, "waiting");
}

void stream_failure(const json_t *event, struct err *err)
{
	const char *code = json_string_value(json_object_get(event, "code"));
	const char *text = json_string_value(json_object_get(event, "text"));

	err_set(err, err_from_name(code ? code : ""), "%.400s", text ? text : "watari-stream failed");
}

int stream_take_qemu_fd(const struct stream *stream)
{
	return stream->process.pidfd < 0 ? -1 : pidfd_getfd(stream->process.pidfd, STREAM_FD_QEMU, 0);
}

void stream_hurry(const struct stream *stream)
{
	CLEANUP_FD int fd = stream->process.pid > 0 ? weight_open(stream->process.pid) : -1;

	weight_set(fd, STREAM_NICE);
}

void stream_send(struct stream *stream, json_t *command)
{
	CLEANUP_FREE char *text = json_dumps(command, JSON_COMPACT);

	json_decref(command);
	assert(text);
	/* Not connected: its death is about to be told. */
	if (stream->lines)
		lines_send(stream->lines, text, strlen(text), -1);
}

void stream_command(struct stream *stream, const char *name)
{
	stream_send(stream, json_pack("{s:s}", "cmd", name));
}

static void on_faded(void *ctx)
{
	struct stream *stream = ctx;

	stream->faded = NULL;
	if (stream->death)
		weight_restore(stream->process.pid);
}

/* Only while its death is watched: its number is its own until then. */
static void fade(struct stream *stream)
{
	if (!stream->death || stream->faded)
		return;
	weight_fade(stream->process.pid);
	stream->faded = loop_timer_set(stream->loop, WEIGHT_FADED_MS, on_faded, stream);
}

void stream_dismiss(struct stream *stream)
{
	fade(stream);
	stream_command(stream, "quit");
}

/* Kills it where its number is known, and waits for its death without holding anybody up: a child wants to be reaped. */
static void doom(struct stream *stream)
{
	stream->doomed = true;
	if (stream->process.pidfd < 0)
		return; /* found, and its hello has not come yet */
	fade(stream);
	process_kill(&stream->process);
	lines_free(STEAL(stream->lines));
	if (!stream->death)
		release(stream);
}

void stream_end(struct stream *stream)
{
	if (!stream)
		return;
	if (stream->in_callback)
		stream->ended = true;
	else if (stream->process.pidfd < 0 && !stream->lines)
		release(stream);
	else
		doom(stream);
}

void stream_end_found(struct loop *loop, int dir_fd)
{
	struct err err;

	stream_end(stream_find(loop, dir_fd, &(struct stream_callbacks){0}, &err));
}

/* After a callback: what the owner asked for in it. */
static void settle(struct stream *stream)
{
	if (stream->freed)
		release(stream);
	else if (stream->ended)
		stream_end(stream);
}

static void tell_gone(struct stream *stream, const struct err *err)
{
	stream->in_callback = true;
	stream->callbacks.gone(stream->callbacks.ctx, err);
	stream->in_callback = false;
	settle(stream);
}

/* What it said last is read before its death is told: the connection's end comes behind it. */
static void on_death(void *ctx, uint32_t events)
{
	struct stream *stream = ctx;
	struct err err;
	char how[80];

	(void)events;
	if (!process_dead(&stream->process, how))
		return;
	loop_io_cancel(stream->loop, STEAL(stream->death));
	if (stream->doomed) {
		release(stream);
		return;
	}
	if (stream->lines)
		return;
	err_set(&err, ERR_UNAVAILABLE, "watari-stream ended%s%s", how[0] ? ": " : "", how);
	tell_gone(stream, &err);
}

static void on_closed(void *ctx, const struct err *why)
{
	struct stream *stream = ctx;
	struct err err;
	char how[80] = "";

	(void)why;
	lines_free(STEAL(stream->lines));
	if (stream->doomed) {
		release(stream);
		return;
	}
	/* It drops a client that reads too slowly; then it listens still. */
	if (stream->reconnects++ < RECONNECTS_MAX && !reach(stream, &err))
		return;
	if (stream->death && !process_dead(&stream->process, how)) {
		/* Alive and not to be spoken to: of no use any more. Its death follows. */
		process_kill(&stream->process);
		return;
	}
	err_set(&err, ERR_UNAVAILABLE, "watari-stream ended%s%s", how[0] ? ": " : "", how);
	tell_gone(stream, &err);
}

/* The number is the helper's own word on its own socket, and the connection still stands after the pidfd was opened:
 * nobody else has that number. */
static void learn_process(struct stream *stream, const json_t *hello)
{
	json_int_t pid = json_integer_value(json_object_get(hello, "pid"));
	struct err err;

	if (stream->process.pidfd >= 0 || pid <= 1 || pid > INT32_MAX ||
		process_open((pid_t)pid, &stream->process, &err) < 0)
		return;
	stream->death = loop_io_watch(stream->loop, stream->process.pidfd, EPOLLIN, on_death, stream);
}

static void on_line(void *ctx, char *text, size_t size)
{
	struct stream *stream = ctx;
	const char *name;
	struct err err;

	CLEANUP_JSON json_t *json = json_parse_bounded(text, size, STREAM_LINE_MAX, &err);
	if (!json || json_get_text(json, "event", "", &name, &err) < 0)
		return; /* not for us to understand; what matters has a time limit */
	stream->reconnects = 0;
	if (!strcmp(name, "hello"))
		learn_process(stream, json);
	if (stream->doomed) {
		doom(stream);
		return;
	}
	stream->in_callback = true;
	stream->callbacks.event(stream->callbacks.ctx, name, json);
	stream->in_callback = false;
	settle(stream);
}
