/* SPDX-License-Identifier: Apache-2.0
 * One run of a fence agent, from its options on stdin to its exit status.
 *
 * The agent is a child in a session of its own; when it ends, or its time does, all that it started is killed with it.
 * What it prints is read to its end and only the beginning is kept.
 * Promises: fn is called once, at the latest FENCE_CALL_GRACE_MS after the limit, never within fence_call_new; also
 * when the agent cannot be killed (a process that waits for a dead disk), or its children hold its pipes open. Must
 * never: wait; grow with what the agent prints. */
#pragma once

#include "driver/fence/input.h"
#include "port/loop.h"

enum {
	FENCE_CALL_GRACE_MS = 500, /* from SIGTERM to SIGKILL */
	FENCE_CALL_KEEP = 64 << 10,
	FENCE_CALLS_MAX = 32, /* together with those that were killed and did not die */
	FENCE_LINE_BYTES = 144,
};

struct fence_call_end {
	bool timed_out;
	int status;	 /* exit status; -1: killed by a signal, by us or others */
	char how[80];	 /* "exit status 1", "signal 11 (Segmentation fault)" */
	const char *out; /* what it printed on stdout, as it came */
	size_t out_size;
	bool out_cut;		     /* it printed more */
	char line[FENCE_LINE_BYTES]; /* the last line that says something, without secrets; may be empty */
};
typedef void fence_call_fn(void *ctx, const struct fence_call_end *end);

struct fence_call;

/* The calls of one fencer: so that they can be counted. */
struct fence_calls {
	struct loop *loop;
	uint32_t count;
	struct fence_call *first;
};

/* `out_keep`: bytes of stdout to keep. The input is the caller's and must stay until fn or cancel. */
struct fence_call *fence_call_new(struct fence_calls *calls, const char *agent, const char *action,
	const struct fence_input *input, size_t out_keep, uint64_t limit_ms, fence_call_fn *fn, void *ctx,
	struct err *err);

/* Kills it; fn is not called any more. */
void fence_call_cancel(struct fence_call *call);

/* Kills what is left, at the daemon's end. */
void fence_calls_free(struct fence_calls *calls);
