/* SPDX-License-Identifier: Apache-2.0 */
#include "support/poll_loop.h"

#include <assert.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

enum { IOS_MAX = 256 };

struct loop_timer {
	uint64_t due_ms;
	loop_timer_fn *fn;
	void *ctx;
	struct loop_timer *next;
};

struct loop_io {
	int fd;
	uint32_t events;
	loop_io_fn *fn;
	void *ctx;
	struct loop_io *next;
	bool dead; /* cancelled while the list is being walked */
};

struct posted {
	loop_post_fn *fn;
	void *ctx;
	void *item;
	struct posted *next;
};

struct poll_loop {
	struct loop loop;
	struct loop_timer *timers;
	struct loop_io *ios;
	pthread_mutex_t lock;
	struct posted *posted;
	int wake_fd;
	bool still;
	uint64_t skipped_ms;
};

static uint64_t clock_ms(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t now_ms(struct loop *loop)
{
	const struct poll_loop *self = (struct poll_loop *)loop;

	return (self->still ? 0 : clock_ms(CLOCK_BOOTTIME)) + self->skipped_ms;
}

static uint64_t wall_ms(struct loop *loop)
{
	(void)loop;
	return clock_ms(CLOCK_REALTIME);
}

static struct loop_timer *timer_set(struct loop *loop, uint64_t delay_ms, loop_timer_fn *fn, void *ctx)
{
	struct poll_loop *self = (struct poll_loop *)loop;
	struct loop_timer *timer = malloc(sizeof(*timer));
	struct loop_timer **at = &self->timers;

	*timer = (struct loop_timer){.due_ms = now_ms(loop) + delay_ms, .fn = fn, .ctx = ctx};
	while (*at && (*at)->due_ms <= timer->due_ms)
		at = &(*at)->next;
	timer->next = *at;
	*at = timer;
	return timer;
}

static void timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	struct poll_loop *self = (struct poll_loop *)loop;

	for (struct loop_timer **at = &self->timers; *at; at = &(*at)->next) {
		if (*at == timer) {
			*at = timer->next;
			free(timer);
			return;
		}
	}
	assert(!timer);
}

static struct loop_io *io_watch(struct loop *loop, int fd, uint32_t events, loop_io_fn *fn, void *ctx)
{
	struct poll_loop *self = (struct poll_loop *)loop;
	struct loop_io *io = malloc(sizeof(*io));

	*io = (struct loop_io){.fd = fd, .events = events, .fn = fn, .ctx = ctx, .next = self->ios};
	self->ios = io;
	return io;
}

static void io_change(struct loop *loop, struct loop_io *io, uint32_t events)
{
	(void)loop;
	io->events = events;
}

static void io_cancel(struct loop *loop, struct loop_io *io)
{
	(void)loop;
	if (io)
		io->dead = true;
}

static int post(struct loop *loop, loop_post_fn *fn, void *ctx, void *item, struct err *err)
{
	struct poll_loop *self = (struct poll_loop *)loop;
	struct posted *posted = malloc(sizeof(*posted));
	uint64_t one = 1;

	(void)err;
	*posted = (struct posted){.fn = fn, .ctx = ctx, .item = item};
	pthread_mutex_lock(&self->lock);
	struct posted **at = &self->posted;
	while (*at)
		at = &(*at)->next;
	*at = posted;
	pthread_mutex_unlock(&self->lock);
	assert(write(self->wake_fd, &one, sizeof(one)) == sizeof(one));
	return 0;
}

static const struct loop_ops ops = {
	.now_ms = now_ms,
	.wall_ms = wall_ms,
	.timer_set = timer_set,
	.timer_cancel = timer_cancel,
	.io_watch = io_watch,
	.io_change = io_change,
	.io_cancel = io_cancel,
	.post = post,
};

struct loop *poll_loop_new(void)
{
	struct poll_loop *self = calloc(1, sizeof(*self));

	self->loop.ops = &ops;
	pthread_mutex_init(&self->lock, NULL);
	self->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert(self->wake_fd >= 0);
	return &self->loop;
}

struct loop *poll_loop_new_still(void)
{
	struct loop *loop = poll_loop_new();

	((struct poll_loop *)loop)->still = true;
	return loop;
}

static void bury(struct poll_loop *self, bool all)
{
	for (struct loop_io **at = &self->ios; *at;) {
		struct loop_io *io = *at;
		if (!io->dead && !all) {
			at = &io->next;
			continue;
		}
		*at = io->next;
		free(io);
	}
}

void poll_loop_free(struct loop *loop)
{
	struct poll_loop *self = (struct poll_loop *)loop;

	while (self->timers)
		timer_cancel(loop, self->timers);
	bury(self, true);
	close(self->wake_fd);
	free(self);
}

static void run_posted(struct poll_loop *self)
{
	uint64_t count;

	(void)!read(self->wake_fd, &count, sizeof(count));
	for (;;) {
		pthread_mutex_lock(&self->lock);
		struct posted *posted = self->posted;
		if (posted)
			self->posted = posted->next;
		pthread_mutex_unlock(&self->lock);
		if (!posted)
			return;
		posted->fn(posted->ctx, posted->item);
		free(posted);
	}
}

static void run_timers(struct poll_loop *self)
{
	uint64_t now = now_ms(&self->loop);

	while (self->timers && self->timers->due_ms <= now) {
		struct loop_timer *timer = self->timers;
		self->timers = timer->next;
		timer->fn(timer->ctx);
		free(timer);
	}
}

void poll_loop_once(struct loop *loop, int wait_ms)
{
	struct poll_loop *self = (struct poll_loop *)loop;
	struct pollfd fds[IOS_MAX + 1] = {{.fd = self->wake_fd, .events = POLLIN}};
	struct loop_io *ios[IOS_MAX + 1];
	nfds_t count = 1;

	bury(self, false);
	for (struct loop_io *io = self->ios; io; io = io->next) {
		assert(count <= IOS_MAX);
		ios[count] = io;
		/* The bits of epoll and poll are the same for IN, OUT, HUP and ERR. */
		fds[count++] = (struct pollfd){.fd = io->fd, .events = (short)io->events};
	}
	if (self->timers) {
		uint64_t now = now_ms(loop);
		uint64_t left = self->timers->due_ms > now ? self->timers->due_ms - now : 0;
		if (left < (uint64_t)wait_ms)
			wait_ms = (int)left;
	}
	if (poll(fds, count, wait_ms) > 0) {
		for (nfds_t i = 1; i < count; i++)
			if (fds[i].revents && !ios[i]->dead)
				ios[i]->fn(ios[i]->ctx, (uint32_t)fds[i].revents);
		if (fds[0].revents)
			run_posted(self);
	}
	run_timers(self);
}

void poll_loop_skip(struct loop *loop, uint64_t ms)
{
	((struct poll_loop *)loop)->skipped_ms += ms;
}
