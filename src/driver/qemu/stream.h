/* SPDX-License-Identifier: Apache-2.0
 * One watari-stream, as seen by the driver: starts it, finds it again, speaks its control protocol (stream/protocol.h).
 *
 * Promises: `event` for each line, in order; `gone` once, when the process is dead or cannot be reached any more, after
 * all that it said. Both may free the object. Freeing leaves the process alone.
 * Must never: take a lost connection for a dead helper while it still listens. */
#pragma once

#include "base/json.h"
#include "base/process.h"
#include "port/loop.h"
#include "stream/protocol.h"

struct stream;
struct stream_callbacks {
	void *ctx;
	void (*event)(void *ctx, const char *name, const json_t *event);
	void (*gone)(void *ctx, const struct err *err);
};

struct stream_spawn {
	const char *binary;
	const char *verb; /* "save", "load" */
	uint32_t uid;
	int dir_fd; /* the instance's */
	int log_fd;
	int qemu_fd, state_fd;
	int memory_fd; /* or -1 */
};

/* The descriptors stay the caller's. NULL with err. */
struct stream *stream_spawn(struct loop *loop, const struct stream_spawn *spawn, const struct stream_callbacks *callbacks,
	struct err *err);

/* The helper of an earlier run. NULL: there is none that lives. */
struct stream *stream_find(struct loop *loop, int dir_fd, const struct stream_callbacks *callbacks, struct err *err);

/* It was never told to start, and the daemon that was about to is dead: `event` is its hello. */
bool stream_is_orphan(const struct stream *stream, const char *name, const json_t *event);

/* Of its event "failed": what it says of itself. */
void stream_failure(const json_t *event, struct err *err);

/* A copy of the descriptor by which it is connected to QEMU, or -1. */
int stream_take_qemu_fd(const struct stream *stream);

/* Its guest stands still: from now on it comes before what else this machine does. */
void stream_hurry(const struct stream *stream);
/* Its work is done: it may end, and comes after all else in doing so. */
void stream_dismiss(struct stream *stream);

/* Takes over the command. */
void stream_send(struct stream *stream, json_t *command);
void stream_command(struct stream *stream, const char *name); /* one without members */

/* Leaves the process alone. */
void stream_free(struct stream *stream);
/* SIGKILL, as soon as its number is known; no callback comes any more. Takes NULL. */
void stream_end(struct stream *stream);
/* The same with one of an earlier daemon, where there is one. */
void stream_end_found(struct loop *loop, int dir_fd);
