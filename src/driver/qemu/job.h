/* SPDX-License-Identifier: Apache-2.0
 * Work that may block (files on shared storage may hang for ever) in processes of its own, with a time limit (base/worker.h).
 *
 * Promises: `done` runs once, on the loop: with NULL when the work is finished, with an error when its time is up or
 * no process could be had. One that hangs is left behind and counted; when too many hang, new work is refused.
 * After job_cancel, `done` is not called. `destroy` runs once, when nobody uses the object any more; it releases what the
 * work acquired and nobody took.
 * Must never: let the loop wait; keep the daemon from ending. */
#pragma once

#include "base/err.h"
#include "base/worker.h"
#include "port/loop.h"

enum { JOBS_MAX = 64 };

struct job_pool;

/* Embed it as the first member; the rest is plain data, and what the work needs is in it. */
struct job {
	void (*work)(struct job *job); /* in the process, on a copy: what it puts behind this struct comes back */
	void (*done)(struct job *job, const struct err *err); /* on the loop; with err: hands off all but own ctx */
	void (*destroy)(struct job *job);
	size_t size; /* of the whole object */
	uint32_t fd_count;
	const uint32_t *fd_at; /* where in the object the work puts descriptors; constant */
	/* Private. */
	struct job_pool *pool;
	struct job *next, *prev; /* among those whose process runs */
	struct loop_timer *timer;
	struct loop_io *io;
	int fd;	   /* for its answer; -1: none was begun */
	bool over; /* done was called, or cancelled */
};

/* worker: the caller's, who keeps it longer. */
struct job_pool *job_pool_new(struct loop *loop, struct worker *worker);
void job_pool_free(struct job_pool *pool);

/* Takes the job over. */
void job_start(struct job_pool *pool, struct job *job, uint64_t limit_ms);
void job_cancel(struct job *job);
