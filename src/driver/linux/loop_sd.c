/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/linux/loop_sd.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>
#include <time.h>

enum {
	POSTS_A_TURN = 64,     /* then the other sources have theirs */
	TIMER_ACCURACY_US = 1, /* 0 would mean sd-event's default of 250 ms */
};

struct loop_timer {
	LIST_ENTRY(loop_timer) link;
	sd_event_source *source;
	loop_timer_fn *fn;
	void *ctx;
};

struct loop_io {
	LIST_ENTRY(loop_io) link;
	sd_event_source *source;
	loop_io_fn *fn;
	void *ctx;
};

struct post {
	loop_post_fn *fn;
	void *ctx;
	void *item;
};

struct loop_sd {
	struct loop loop; /* first: the port's pointer is ours */
	sd_event *event;
	LIST_HEAD(, loop_timer) timers;
	LIST_HEAD(, loop_io) ios;
	sd_event_source *signals[3];
	loop_signal_fn *signal_fn;
	void *signal_ctx;
	bool exiting;
	int exit_status;

	/* A ring under a lock. post_fd is readable while the ring is not empty. */
	pthread_mutex_t lock;
	int post_fd;
	sd_event_source *post_source;
	uint32_t post_first;
	uint32_t post_count;
	struct post posts[LOOP_POSTS_MAX];
};

static struct loop_sd *sd_of(struct loop *loop)
{
	return (struct loop_sd *)loop;
}

static uint64_t clock_us(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Not sd_event_now(): that is the time of the last wake-up, so that a timer set late in a long callback came early. */
static uint64_t now_ms(struct loop *loop)
{
	(void)loop;
	return clock_us(CLOCK_BOOTTIME) / 1000;
}

static uint64_t wall_ms(struct loop *loop)
{
	(void)loop;
	return clock_us(CLOCK_REALTIME) / 1000;
}

static void timer_free(struct loop_timer *timer)
{
	LIST_REMOVE(timer, link);
	sd_event_source_disable_unref(timer->source);
	free(timer);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct loop_timer *timer = userdata;
	loop_timer_fn *fn = timer->fn;
	void *ctx = timer->ctx;

	(void)source;
	(void)usec;
	timer_free(timer);
	fn(ctx);
	return 0;
}

/* Setting up a source fails for want of memory or by a bug (a bad descriptor), never by what the world does. */
static struct loop_timer *timer_set(struct loop *loop, uint64_t delay_ms, loop_timer_fn *fn, void *ctx)
{
	struct loop_sd *sd = sd_of(loop);
	struct loop_timer *timer = calloc(1, sizeof(*timer));

	assert(timer && fn && delay_ms < UINT64_MAX / 4000);
	timer->fn = fn;
	timer->ctx = ctx;
	int rc = sd_event_add_time(sd->event, &timer->source, CLOCK_BOOTTIME,
		clock_us(CLOCK_BOOTTIME) + delay_ms * 1000, TIMER_ACCURACY_US, on_timer, timer);
	assert(rc >= 0);
	LIST_INSERT_HEAD(&sd->timers, timer, link);
	return timer;
}

static void timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	(void)loop;
	if (timer)
		timer_free(timer);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct loop_io *io = userdata;

	(void)source;
	(void)fd;
	io->fn(io->ctx, revents); /* may cancel io */
	return 0;
}

static struct loop_io *io_watch(struct loop *loop, int fd, uint32_t events, loop_io_fn *fn, void *ctx)
{
	struct loop_sd *sd = sd_of(loop);
	struct loop_io *io = calloc(1, sizeof(*io));

	assert(io && fn);
	io->fn = fn;
	io->ctx = ctx;
	int rc = sd_event_add_io(sd->event, &io->source, fd, events, on_io, io);
	assert(rc >= 0);
	LIST_INSERT_HEAD(&sd->ios, io, link);
	return io;
}

static void io_change(struct loop *loop, struct loop_io *io, uint32_t events)
{
	(void)loop;
	int rc = sd_event_source_set_io_events(io->source, events);
	assert(rc >= 0);
}

static void io_cancel(struct loop *loop, struct loop_io *io)
{
	(void)loop;
	if (!io)
		return;
	LIST_REMOVE(io, link);
	sd_event_source_disable_unref(io->source);
	free(io);
}

static int post(struct loop *loop, loop_post_fn *fn, void *ctx, void *item, struct err *err)
{
	struct loop_sd *sd = sd_of(loop);

	pthread_mutex_lock(&sd->lock);
	uint32_t count = sd->post_count;
	if (count < LOOP_POSTS_MAX) {
		sd->posts[(sd->post_first + count) % LOOP_POSTS_MAX] = (struct post){fn, ctx, item};
		sd->post_count++;
	}
	if (!count) {
		/* The counter is 0 here, so this cannot block or fail. */
		int rc = eventfd_write(sd->post_fd, 1);
		assert(rc == 0);
	}
	pthread_mutex_unlock(&sd->lock);
	if (count == LOOP_POSTS_MAX)
		return err_set(err, ERR_BUSY, "%d posts wait for the loop already", LOOP_POSTS_MAX);
	return 0;
}

static bool post_take(struct loop_sd *sd, struct post *item)
{
	eventfd_t value;

	pthread_mutex_lock(&sd->lock);
	bool any = sd->post_count > 0;
	if (any) {
		*item = sd->posts[sd->post_first];
		sd->post_first = (sd->post_first + 1) % LOOP_POSTS_MAX;
		if (!--sd->post_count)
			eventfd_read(sd->post_fd, &value);
	}
	pthread_mutex_unlock(&sd->lock);
	return any;
}

static int on_post(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct loop_sd *sd = userdata;
	struct post item;

	(void)source;
	(void)fd;
	(void)revents;
	for (int i = 0; i < POSTS_A_TURN && !sd->exiting && post_take(sd, &item); i++)
		item.fn(item.ctx, item.item);
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

struct loop *loop_sd_new(struct err *err)
{
	struct loop_sd *sd = calloc(1, sizeof(*sd));
	sigset_t ending;

	assert(sd);
	sd->loop.ops = &ops;
	LIST_INIT(&sd->timers);
	LIST_INIT(&sd->ios);
	pthread_mutex_init(&sd->lock, NULL);
	sigemptyset(&ending);
	sigaddset(&ending, SIGTERM);
	sigaddset(&ending, SIGINT);
	sigaddset(&ending, SIGHUP);
	sd->post_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int rc = sd->post_fd < 0 ? -errno : -pthread_sigmask(SIG_BLOCK, &ending, NULL);
	if (rc >= 0)
		rc = sd_event_new(&sd->event);
	if (rc >= 0)
		rc = sd_event_add_io(sd->event, &sd->post_source, sd->post_fd, EPOLLIN, on_post, sd);
	if (rc < 0) {
		loop_sd_free(&sd->loop);
		err_errno(err, -rc, "event loop");
		return NULL;
	}
	return &sd->loop;
}

void loop_sd_free(struct loop *loop)
{
	if (!loop)
		return;
	struct loop_sd *sd = sd_of(loop);
	while (!LIST_EMPTY(&sd->timers))
		timer_free(LIST_FIRST(&sd->timers));
	while (!LIST_EMPTY(&sd->ios))
		io_cancel(loop, LIST_FIRST(&sd->ios));
	for (size_t i = 0; i < ARRAY_SIZE(sd->signals); i++)
		sd_event_source_disable_unref(sd->signals[i]);
	sd_event_source_disable_unref(sd->post_source);
	sd_event_unref(sd->event);
	if (sd->post_fd >= 0)
		close(sd->post_fd);
	pthread_mutex_destroy(&sd->lock);
	free(sd);
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
	struct loop_sd *sd = userdata;

	(void)info;
	sd->signal_fn(sd->signal_ctx, sd_event_source_get_signal(source));
	return 0;
}

int loop_sd_on_signal(struct loop *loop, loop_signal_fn *fn, void *ctx, struct err *err)
{
	struct loop_sd *sd = sd_of(loop);

	assert(fn && !sd->signal_fn);
	sd->signal_fn = fn;
	sd->signal_ctx = ctx;
	int rc = sd_event_add_signal(sd->event, &sd->signals[0], SIGTERM, on_signal, sd);
	if (rc >= 0)
		rc = sd_event_add_signal(sd->event, &sd->signals[1], SIGINT, on_signal, sd);
	if (rc >= 0)
		rc = sd_event_add_signal(sd->event, &sd->signals[2], SIGHUP, on_signal, sd);
	return rc < 0 ? err_errno(err, -rc, "watching SIGTERM, SIGINT and SIGHUP") : 0;
}

/* Not sd_event_loop(): a loop that was left by sd_event_exit() takes no new sources, and drivers may set timers while
 * the daemon takes itself apart. */
int loop_sd_run(struct loop *loop, int *status, struct err *err)
{
	struct loop_sd *sd = sd_of(loop);

	sd->exiting = false;
	while (!sd->exiting) {
		int rc = sd_event_run(sd->event, UINT64_MAX);
		if (rc < 0)
			return err_errno(err, -rc, "event loop");
	}
	*status = sd->exit_status;
	return 0;
}

void loop_sd_exit(struct loop *loop, int status)
{
	sd_of(loop)->exiting = true;
	sd_of(loop)->exit_status = status;
}

void loop_sd_ready(struct loop *loop)
{
	/* sd-event feeds each time it comes round, and wakes up for it when half of the watchdog's time is over
	 * (sd_event_set_watchdog(3)). */
	sd_event_set_watchdog(sd_of(loop)->event, true);
	sd_notify(0, "READY=1");
}

void loop_sd_reloading(void)
{
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)clock_us(CLOCK_MONOTONIC));
}

void loop_sd_stopping(void)
{
	sd_notify(0, "STOPPING=1");
}

void loop_sd_status(const char *format, ...)
{
	char line[512];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	for (char *c = line; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = ' '; /* a newline would begin another assignment */
	sd_notifyf(0, "STATUS=%s", line);
}
