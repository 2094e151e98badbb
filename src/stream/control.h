/* SPDX-License-Identifier: Apache-2.0
 * The helper's side of the control channel (protocol.h): one client at a time, lines of JSON, everything that happened
 * told again to whoever connects anew.
 *
 * The main thread runs it and nothing else, so that the work's threads never wait for a client: they post, and go on.
 */
#pragma once

#include "base/json.h"

struct control;

/* Called on the main thread. An error is told to the client as `refused`. NULL: this verb does not know the command. */
struct control_ops {
	const char *verb;
	void *ctx;
	int (*start)(void *ctx, const json_t *start, struct err *err); /* begins the work in threads of its own */
	int (*cancel)(void *ctx, struct err *err);
	int (*give_up)(void *ctx, struct err *err);
	int (*ready)(void *ctx, const json_t *ready, struct err *err);
	int (*trim)(void *ctx, struct err *err);
	json_t *(*progress)(void *ctx); /* the members of a progress line; a new reference */
};

/* listen_fd stays the caller's. */
struct control *control_new(int listen_fd, const struct control_ops *ops, struct err *err);
void control_free(struct control *control);

/* Returns when the client said quit after the end, or nobody came for long. The exit status. */
int control_run(struct control *control);

enum control_end {
	CONTROL_GOES_ON,
	CONTROL_DONE, /* the work ended well */
	CONTROL_FAILED,
};

/* From any thread: a milestone. Takes over members (may be NULL), adds "event" and "at_ns". One of the same name that
 * was posted before is forgotten, so that repeated ones (stalled, resumed) do not pile up. */
void control_post(struct control *control, const char *event, json_t *members, enum control_end end);
/* `failed` with *why; members as above. */
void control_post_failure(struct control *control, const struct err *why, json_t *members);
