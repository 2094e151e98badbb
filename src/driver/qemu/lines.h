/* SPDX-License-Identifier: Apache-2.0
 * A stream of text lines over a connected unix socket, without ever waiting: QMP and watari-stream's control channel.
 *
 * Promises: lines come whole and in order, without their end; a line that outgrows its limit, an end of file and an
 * error end the stream with one call of `closed`; what is sent goes out in order, a descriptor with the first byte of
 * its line. Both callbacks may free the object.
 * Must never: hold more than the limit of unread or LINES_OUT_MAX of unsent bytes. */
#pragma once

#include "base/err.h"
#include "port/loop.h"

#include <stddef.h>

enum { LINES_OUT_MAX = 4 << 20 };

struct lines;
struct lines_callbacks {
	void *ctx;
	/* The text ends with NUL and may be written to; it is gone after the return. Hostile until parsed. */
	void (*line)(void *ctx, char *text, size_t size);
	void (*closed)(void *ctx, const struct err *err);
};

/* Takes over the descriptor. */
struct lines *lines_new(struct loop *loop, int fd, size_t line_max, const struct lines_callbacks *callbacks);
void lines_free(struct lines *lines);

/* Sends one line (text without its end). pass_fd: -1, or a descriptor that goes along; it is taken over in any case.
 * A failure is told by `closed` later. */
void lines_send(struct lines *lines, const char *text, size_t size, int pass_fd);
