/* SPDX-License-Identifier: Apache-2.0
 * Work that may block (files on shared storage may hang for ever) on threads of its own, with a time limit.
 *
 * Promises: `done` runs once, on the loop: with NULL when the work is finished, with an error when its time is up or
 * no thread could be had. A thread that hangs is left behind and counted; when too many hang, new work is refused.
 * After job_cancel, `done` is not called. `destroy` runs once, on the loop or, after the pool's end, on the thread, when
 * nobody uses the object any more; it releases what the work acquired and nobody took.
 * Must never: let the loop wait. */
#pragma once

#include "base/err.h"
#include "port/loop.h"

enum { JOBS_MAX = 64 };

struct job_pool;

/* Embed it as the first member. Between job_start and `done` the rest belongs to the work. */
struct job {
	void (*work)(struct job *job);			       /* on the thread */
	void (*done)(struct job *job, const struct err *err);  /* on the loop; with err: hands off all but own ctx */
	void (*destroy)(struct job *job);
	/* Private. */
	struct job_pool *pool;
	struct job *next, *prev; /* among those whose thread runs, or whose end is posted; loop's thread only */
	struct loop_timer *timer;
	bool over; /* done was called, or cancelled */
};

struct job_pool *job_pool_new(struct loop *loop);
void job_pool_free(struct job_pool *pool);

/* Takes the job over. */
void job_start(struct job_pool *pool, struct job *job, uint64_t limit_ms);
void job_cancel(struct job *job);
