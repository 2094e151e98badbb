/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/job.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct job_pool {
	struct loop *loop;
	pthread_mutex_t lock; /* over closed: a thread may post only while the loop lives */
	bool closed;
	uint32_t running; /* threads; under lock */
	uint32_t holders; /* jobs on the way, and the owner; under lock */
	struct job *jobs;
};

struct job_pool *job_pool_new(struct loop *loop)
{
	struct job_pool *pool = calloc(1, sizeof(*pool));

	assert(pool);
	pool->loop = loop;
	pool->holders = 1;
	pthread_mutex_init(&pool->lock, NULL);
	return pool;
}

/* With the lock held; gives it back. */
static void let_go(struct job_pool *pool)
{
	bool last = !--pool->holders;

	pthread_mutex_unlock(&pool->lock);
	if (last) {
		pthread_mutex_destroy(&pool->lock);
		free(pool);
	}
}

void job_pool_free(struct job_pool *pool)
{
	if (!pool)
		return;
	for (struct job *job = pool->jobs; job; job = job->next) {
		job->over = true;
		loop_timer_cancel(pool->loop, STEAL(job->timer));
	}
	pthread_mutex_lock(&pool->lock);
	pool->closed = true;
	let_go(pool);
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

static void unlist(struct job *job)
{
	if (job->prev)
		job->prev->next = job->next;
	else
		job->pool->jobs = job->next;
	if (job->next)
		job->next->prev = job->prev;
}

static void finish(struct job *job, const struct err *err)
{
	loop_timer_cancel(job->pool->loop, STEAL(job->timer));
	job->over = true;
	job->done(job, err);
}

static void on_posted(void *ctx, void *item)
{
	struct job *job = item;
	struct job_pool *pool = job->pool;

	(void)ctx;
	if (!job->over)
		finish(job, NULL);
	unlist(job);
	job->destroy(job);
	pthread_mutex_lock(&pool->lock);
	let_go(pool);
}

static void *thread_main(void *ctx)
{
	struct job *job = ctx;
	struct job_pool *pool = job->pool;
	struct err err;

	job->work(job);
	pthread_mutex_lock(&pool->lock);
	pool->running--;
	if (!pool->closed && !loop_post(pool->loop, on_posted, NULL, job, &err)) {
		pthread_mutex_unlock(&pool->lock);
		return NULL;
	}
	/* Nobody waits any more. A loop that takes no post (no memory) is as good as ended: the time limit tells. */
	if (pool->closed)
		job->destroy(job);
	let_go(pool);
	return NULL;
}

static void on_limit(void *ctx)
{
	struct job *job = ctx;
	struct err err;

	job->timer = NULL;
	err_set(&err, ERR_TIMEOUT, "the storage does not answer");
	if (!job->over)
		finish(job, &err);
}

static void on_refused(void *ctx)
{
	struct job *job = ctx;
	struct err err;

	job->timer = NULL;
	err_set(&err, ERR_BUSY, "%d operations on storage hang already, or no thread could be had", JOBS_MAX);
	if (!job->over)
		finish(job, &err);
	unlist(job);
	job->destroy(job);
}

static int start_thread(struct job *job)
{
	pthread_attr_t attributes;
	sigset_t all, was;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	/* Signals are the loop's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &was);
	int result = pthread_create(&thread, &attributes, thread_main, job);
	pthread_sigmask(SIG_SETMASK, &was, NULL);
	pthread_attr_destroy(&attributes);
	return result;
}

void job_start(struct job_pool *pool, struct job *job, uint64_t limit_ms)
{
	job->pool = pool;
	job->over = false;
	enlist(job);
	pthread_mutex_lock(&pool->lock);
	bool refused = pool->running >= JOBS_MAX;
	if (!refused) {
		/* The thread may be done at once, but its post waits for the loop, so the timer is there by then. */
		job->timer = loop_timer_set(pool->loop, limit_ms, on_limit, job);
		if (start_thread(job)) {
			loop_timer_cancel(pool->loop, STEAL(job->timer));
			refused = true;
		} else {
			pool->running++;
			pool->holders++;
		}
	}
	pthread_mutex_unlock(&pool->lock);
	if (refused)
		job->timer = loop_timer_set(pool->loop, 0, on_refused, job);
}

void job_cancel(struct job *job)
{
	if (job)
		job->over = true;
}
