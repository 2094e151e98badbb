/* SPDX-License-Identifier: Apache-2.0
 * QEMU's monitor protocol (docs/interop/qmp-spec.rst): commands, their replies and events, without ever waiting.
 *
 * Promises: each command gets exactly one reply call: QEMU's, or an error when the time is up or the connection ends
 * (then before `closed`). Commands may be given before the greeting; they wait for it. Replies and events are called
 * in the order in which QEMU sent them. Any callback may free the client; then no more calls come, nor replies.
 * Must never: believe what QEMU says. A guest that has broken out of its machine speaks this protocol. */
#pragma once

#include "base/json.h"
#include "port/loop.h"

enum {
	QMP_LINE_MAX = 16 << 20,
	QMP_PENDING_MAX = 64,
};

struct qmp;
struct qmp_callbacks {
	void *ctx;
	void (*ready)(void *ctx); /* the greeting came and capabilities are agreed */
	/* data: an object, possibly empty. at_us: CLOCK_REALTIME at QEMU. */
	void (*event)(void *ctx, const char *name, const json_t *data, uint64_t at_us);
	void (*closed)(void *ctx, const struct err *err);
};

/* result: what QEMU returned, borrowed; NULL when err says why not. */
typedef void qmp_reply_fn(void *ctx, const json_t *result, const struct err *err);

/* Takes over the connected socket. */
struct qmp *qmp_new(struct loop *loop, int fd, const struct qmp_callbacks *callbacks);
void qmp_free(struct qmp *qmp);

/* arguments: NULL or a reference that is taken over. pass_fd: -1 or a descriptor that goes along (getfd, add-fd), taken
 * over. reply may be NULL. A reply that comes after its time is dropped. */
void qmp_send(struct qmp *qmp, const char *command, json_t *arguments, int pass_fd, uint64_t limit_ms,
	qmp_reply_fn *reply, void *ctx);

/* One line from QEMU, made fit for a parser that knows no integer beyond int64 (jansson): a larger one becomes
 * INT64_MAX or INT64_MIN, in place and in the same number of bytes. Nothing that is decided on is that large. */
void qmp_clamp_integers(char *text, size_t size);
