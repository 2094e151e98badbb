/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/fake/loop_fake.h"

#include <assert.h>
#include <stdlib.h>

struct loop_timer {
	struct loop_fake *fake;
	struct timeline_item *item; /* NULL: came due while the daemon was paused, or runs now */
	loop_timer_fn *fn;
	loop_timer_fn *drop;
	void *ctx;
	struct loop_timer *prev, *next;	 /* all of the loop */
	struct loop_timer *next_waiting; /* came due while paused */
	bool waiting;
};

struct loop_fake {
	struct loop loop;
	struct timeline *timeline;
	int64_t skew_ms;
	bool paused;
	bool *freed; /* set while callbacks run from loop_fake_continue, which may free the loop */
	struct loop_timer *timers;
	struct loop_timer *waiting_first, *waiting_last;
	struct loop_timer *spare;
};

static uint64_t fake_now_ms(struct loop *loop)
{
	struct loop_fake *fake = (struct loop_fake *)loop;

	/* A node's boot clock has nothing to do with another's; a constant keeps it from being 0. */
	return 1000000 + timeline_now_us(fake->timeline) / 1000;
}

static uint64_t fake_wall_ms(struct loop *loop)
{
	struct loop_fake *fake = (struct loop_fake *)loop;

	return (uint64_t)((int64_t)(LOOP_FAKE_WALL_MS + timeline_now_us(fake->timeline) / 1000) + fake->skew_ms);
}

static void timer_release(struct loop_timer *timer)
{
	struct loop_fake *fake = timer->fake;

	if (timer->prev)
		timer->prev->next = timer->next;
	else
		fake->timers = timer->next;
	if (timer->next)
		timer->next->prev = timer->prev;
	timer->next = fake->spare;
	fake->spare = timer;
}

static void timer_run(struct loop_timer *timer)
{
	loop_timer_fn *fn = timer->fn;
	void *ctx = timer->ctx;

	timer_release(timer);
	fn(ctx);
}

static void timer_wait(struct loop_timer *timer)
{
	struct loop_fake *fake = timer->fake;

	timer->waiting = true;
	timer->next_waiting = NULL;
	if (fake->waiting_last)
		fake->waiting_last->next_waiting = timer;
	else
		fake->waiting_first = timer;
	fake->waiting_last = timer;
}

static void timer_due(void *ctx)
{
	struct loop_timer *timer = ctx;

	timer->item = NULL;
	if (timer->fake->paused)
		timer_wait(timer);
	else
		timer_run(timer);
}

static struct loop_timer *timer_new(struct loop_fake *fake, loop_timer_fn *fn, loop_timer_fn *drop, void *ctx)
{
	struct loop_timer *timer = fake->spare;

	if (timer)
		fake->spare = timer->next;
	else
		timer = malloc(sizeof(*timer));
	assert(timer);
	*timer = (struct loop_timer){.fake = fake, .fn = fn, .drop = drop, .ctx = ctx, .next = fake->timers};
	if (fake->timers)
		fake->timers->prev = timer;
	fake->timers = timer;
	return timer;
}

struct loop_timer *loop_fake_after(struct loop_fake *fake, uint64_t delay_us, loop_timer_fn *fn, loop_timer_fn *drop,
	void *ctx)
{
	struct loop_timer *timer = timer_new(fake, fn, drop, ctx);

	timer->item = timeline_after(fake->timeline, delay_us, timer_due, timer);
	return timer;
}

void loop_fake_call(struct loop_fake *fake, loop_timer_fn *fn, loop_timer_fn *drop, void *ctx)
{
	if (fake->paused)
		timer_wait(timer_new(fake, fn, drop, ctx));
	else
		fn(ctx);
}

static struct loop_timer *fake_timer_set(struct loop *loop, uint64_t delay_ms, loop_timer_fn *fn, void *ctx)
{
	/* A delay of years is as good as never, and must not overflow. */
	if (delay_ms > UINT64_C(1) << 40)
		delay_ms = UINT64_C(1) << 40;
	return loop_fake_after((struct loop_fake *)loop, delay_ms * 1000, fn, NULL, ctx);
}

static void fake_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	struct loop_fake *fake = (struct loop_fake *)loop;

	if (!timer)
		return;
	assert(timer->fake == fake);
	timeline_cancel(fake->timeline, timer->item);
	if (timer->waiting) {
		struct loop_timer *before = NULL;
		for (struct loop_timer *at = fake->waiting_first; at != timer; at = at->next_waiting)
			before = at;
		if (before)
			before->next_waiting = timer->next_waiting;
		else
			fake->waiting_first = timer->next_waiting;
		if (fake->waiting_last == timer)
			fake->waiting_last = before;
	}
	timer_release(timer);
}

static const struct loop_ops ops = {
	.now_ms = fake_now_ms,
	.wall_ms = fake_wall_ms,
	.timer_set = fake_timer_set,
	.timer_cancel = fake_timer_cancel,
};

struct loop_fake *loop_fake_new(struct timeline *timeline)
{
	struct loop_fake *fake = calloc(1, sizeof(*fake));

	assert(fake);
	fake->loop.ops = &ops;
	fake->timeline = timeline;
	return fake;
}

void loop_fake_free(struct loop_fake *fake)
{
	if (!fake)
		return;
	if (fake->freed)
		*fake->freed = true;
	while (fake->timers) {
		struct loop_timer *timer = fake->timers;
		timeline_cancel(fake->timeline, timer->item);
		if (timer->drop)
			timer->drop(timer->ctx);
		timer_release(timer);
	}
	while (fake->spare) {
		struct loop_timer *timer = fake->spare;
		fake->spare = timer->next;
		free(timer);
	}
	free(fake);
}

struct loop *loop_fake_port(struct loop_fake *fake)
{
	return &fake->loop;
}

void loop_fake_set_skew(struct loop_fake *fake, int64_t skew_ms)
{
	fake->skew_ms = skew_ms;
}

void loop_fake_pause(struct loop_fake *fake)
{
	fake->paused = true;
}

void loop_fake_continue(struct loop_fake *fake)
{
	bool freed = false;

	fake->paused = false;
	fake->freed = &freed;
	while (fake->waiting_first) {
		struct loop_timer *timer = fake->waiting_first;
		fake->waiting_first = timer->next_waiting;
		if (!fake->waiting_first)
			fake->waiting_last = NULL;
		timer->waiting = false;
		timer_run(timer);
		if (freed)
			return;
		if (fake->paused)
			break;
	}
	fake->freed = NULL;
}
