/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/job.h"

#include "base/cleanup.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/epoll.h>

struct job_pool {
	struct loop *loop;
	struct worker *worker;
	uint32_t running;
	struct job *jobs;
};

struct job_pool *job_pool_new(struct loop *loop, struct worker *worker)
{
	struct job_pool *pool = calloc(1, sizeof(*pool));

	assert(pool);
	pool->loop = loop;
	pool->worker = worker;
	return pool;
}

static void enlist(struct job *job)
{
	struct job_pool *pool = job->pool;

	job->prev = NULL;
	job->next = pool->jobs;
	if (pool->jobs)
		pool->jobs->prev = job;
	pool->jobs = job;
}

static void end(struct job *job)
{
	struct job_pool *pool = job->pool;

	if (job->prev)
		job->prev->next = job->next;
	else
		pool->jobs = job->next;
	if (job->next)
		job->next->prev = job->prev;
	loop_timer_cancel(pool->loop, STEAL(job->timer));
	loop_io_cancel(pool->loop, STEAL(job->io));
	if (job->fd >= 0)
		pool->running--;
	cleanup_fd_(&job->fd);
	job->destroy(job);
}

void job_pool_free(struct job_pool *pool)
{
	if (!pool)
		return;
	while (pool->jobs)
		end(pool->jobs);
	free(pool);
}

static void finish(struct job *job, const struct err *err)
{
	loop_timer_cancel(job->pool->loop, STEAL(job->timer));
	if (job->over)
		return;
	job->over = true;
	job->done(job, err);
}

static void on_answer(void *ctx, uint32_t events)
{
	struct job *job = ctx;
	struct err err;

	(void)events;
	/* Of one that came too late the descriptors are taken too, and closed. */
	int result = worker_take(job->fd, job, sizeof(*job), job->size, job->fd_at, job->fd_count, &err);
	finish(job, result < 0 ? &err : NULL);
	end(job);
}

static void on_limit(void *ctx)
{
	struct job *job = ctx;
	struct err err;

	job->timer = NULL;
	err_set(&err, ERR_TIMEOUT, "the storage does not answer");
	finish(job, &err);
}

static void on_refused(void *ctx)
{
	struct job *job = ctx;
	struct err err;

	job->timer = NULL;
	err_set(&err, ERR_BUSY, "%d operations on storage hang already, or no process could be had", JOBS_MAX);
	finish(job, &err);
	end(job);
}

static void work(void *data)
{
	struct job *job = data;

	job->work(job);
}

void job_start(struct job_pool *pool, struct job *job, uint64_t limit_ms)
{
	struct err err;

	job->pool = pool;
	job->over = false;
	job->timer = NULL;
	job->io = NULL;
	job->fd = -1;
	enlist(job);
	if (pool->running < JOBS_MAX)
		job->fd = worker_begin(pool->worker, work, job, job->size, job->fd_at, job->fd_count, &err);
	if (job->fd < 0) {
		job->timer = loop_timer_set(pool->loop, 0, on_refused, job);
		return;
	}
	pool->running++;
	job->io = loop_io_watch(pool->loop, job->fd, EPOLLIN, on_answer, job);
	job->timer = loop_timer_set(pool->loop, limit_ms, on_limit, job);
}

void job_cancel(struct job *job)
{
	if (job)
		job->over = true;
}
