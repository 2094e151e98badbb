/* SPDX-License-Identifier: Apache-2.0
 * Time and waiting, so that virtual time can replace real time (design §2). sd-event in the daemon, a priority queue
 * in the simulator. One thread runs callbacks; loop_post is the only call that other threads may make.
 *
 * Promises: callbacks never run inside the call that set them up. A timer fires once, at or after its time.
 * Must never: be used to measure what is decided on; decisions take event.now_ms. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_timer; /* owned by the loop; valid from the call that sets it until it fires or is cancelled */
struct loop_io;

typedef void loop_timer_fn(void *ctx);
typedef void loop_io_fn(void *ctx, uint32_t epoll_events);
typedef void loop_post_fn(void *ctx, void *item);

struct loop_ops {
	uint64_t (*now_ms)(struct loop *loop);  /* CLOCK_BOOTTIME: for timers */
	uint64_t (*wall_ms)(struct loop *loop); /* CLOCK_REALTIME: for people and for event.now_ms */
	struct loop_timer *(*timer_set)(struct loop *loop, uint64_t delay_ms, loop_timer_fn *fn, void *ctx);
	void (*timer_cancel)(struct loop *loop, struct loop_timer *timer); /* takes NULL */
	/* Real loops only (NULL in the simulator): file descriptors, children and other threads. */
	struct loop_io *(*io_watch)(struct loop *loop, int fd, uint32_t epoll_events, loop_io_fn *fn, void *ctx);
	void (*io_change)(struct loop *loop, struct loop_io *io, uint32_t epoll_events);
	void (*io_cancel)(struct loop *loop, struct loop_io *io); /* takes NULL; does not close the descriptor */
	int (*post)(struct loop *loop, loop_post_fn *fn, void *ctx, void *item, struct err *err); /* any thread */
};

struct loop {
	const struct loop_ops *ops;
};

static inline uint64_t loop_now_ms(struct loop *loop)
{
	return loop->ops->now_ms(loop);
}
static inline uint64_t loop_wall_ms(struct loop *loop)
{
	return loop->ops->wall_ms(loop);
}
static inline struct loop_timer *loop_timer_set(struct loop *loop, uint64_t delay_ms, loop_timer_fn *fn, void *ctx)
{
	return loop->ops->timer_set(loop, delay_ms, fn, ctx);
}
static inline void loop_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	loop->ops->timer_cancel(loop, timer);
}
static inline struct loop_io *loop_io_watch(struct loop *loop, int fd, uint32_t events, loop_io_fn *fn, void *ctx)
{
	return loop->ops->io_watch(loop, fd, events, fn, ctx);
}
static inline void loop_io_change(struct loop *loop, struct loop_io *io, uint32_t events)
{
	loop->ops->io_change(loop, io, events);
}
static inline void loop_io_cancel(struct loop *loop, struct loop_io *io)
{
	loop->ops->io_cancel(loop, io);
}
static inline int loop_post(struct loop *loop, loop_post_fn *fn, void *ctx, void *item, struct err *err)
{
	return loop->ops->post(loop, fn, ctx, item, err);
}
