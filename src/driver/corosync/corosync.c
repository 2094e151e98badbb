/* SPDX-License-Identifier: Apache-2.0
 * The loop's side: what the thread (link.c) has to say is told here, in its order. */
#include "driver/corosync/corosync.h"

#include "driver/corosync/identity.h"
#include "driver/corosync/link.h"
#include "driver/corosync/views.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

enum {
	LOOK_MS = 500,	   /* at whether the thread is stuck in a call */
	END_WAIT_S = 2,	   /* for the thread, at the end of the daemon */
	ITEMS_A_TURN = 64, /* then the loop's other sources have theirs */
};

struct corosync {
	struct group group; /* first: the port's pointer is ours */
	struct group_callbacks callbacks;
	struct loop *loop;
	struct loop_io *io;
	struct loop_timer *look_timer;
	pthread_t thread;
	bool has_thread;

	bool wanted;
	bool stuck; /* was told; until the thread comes back with a view */
	uint64_t generation;
	uint64_t view_number; /* of the view that was told; 0: none, nothing can be sent */

	struct link_config config;
	struct link_shared shared;
};

static struct corosync *of(struct group *group)
{
	return (struct corosync *)group;
}

static void tell_down(struct corosync *cs, const struct err *err)
{
	struct group_view none = {.members = views_bit(cs->group.node)};

	cs->view_number = 0;
	cs->callbacks.view(cs->callbacks.ctx, &none);
	cs->callbacks.down(cs->callbacks.ctx, err);
}

static void tell(struct corosync *cs, const struct item *item)
{
	if (item->generation != cs->generation)
		return;
	switch (item->kind) {
	case ITEM_VIEW:
		cs->stuck = false;
		cs->view_number = item->view_number;
		cs->callbacks.view(cs->callbacks.ctx, &item->view);
		break;
	case ITEM_MESSAGE:
		cs->callbacks.deliver(cs->callbacks.ctx, item->from, item->bytes, item->size);
		break;
	case ITEM_DOWN:
		if (!cs->stuck)
			tell_down(cs, &item->err);
		break;
	}
}

static struct item *take_item(struct corosync *cs)
{
	struct link_shared *shared = &cs->shared;
	eventfd_t value;

	pthread_mutex_lock(&shared->lock);
	struct item *item = shared->out_first;
	if (item) {
		shared->out_first = item->next;
		shared->out_bytes -= sizeof(*item) + item->size;
	}
	if (!shared->out_first)
		eventfd_read(shared->out_fd, &value);
	pthread_mutex_unlock(&shared->lock);
	return item;
}

static void on_items(void *ctx, uint32_t events)
{
	struct corosync *cs = ctx;

	(void)events;
	for (int i = 0; i < ITEMS_A_TURN; i++) {
		CLEANUP_FREE struct item *item = take_item(cs);
		if (!item)
			return;
		tell(cs, item);
	}
}

/* Gives up on what the thread does by now: its answers count no more, and it connects anew as soon as it can. */
static void next_generation(struct corosync *cs)
{
	cs->view_number = 0;
	pthread_mutex_lock(&cs->shared.lock);
	cs->shared.generation = ++cs->generation;
	cs->shared.wanted = cs->wanted;
	pthread_mutex_unlock(&cs->shared.lock);
	eventfd_write(cs->shared.wake_fd, 1);
}

static void look(void *ctx)
{
	struct corosync *cs = ctx;
	struct err err;
	uint64_t since = atomic_load(&cs->shared.busy_since_ms);
	uint32_t patience_ms = atomic_load(&cs->shared.patience_ms);

	cs->look_timer = loop_timer_set(cs->loop, LOOK_MS, look, cs);
	if (!cs->wanted || cs->stuck || !since || link_now_ms() < since + patience_ms)
		return;
	cs->stuck = true;
	next_generation(cs);
	err_set(&err, ERR_UNAVAILABLE, "corosync does not answer (for %u s)", patience_ms / 1000);
	tell_down(cs, &err);
}

static int corosync_send(struct group *group, const uint8_t *bytes, size_t size, struct err *err)
{
	struct corosync *cs = of(group);
	struct link_shared *shared = &cs->shared;

	assert(size <= GROUP_MESSAGE_MAX);
	if (!cs->view_number)
		return err_set(err, ERR_UNAVAILABLE, "this node is not in the group");
	struct outgoing *message = malloc(sizeof(*message) + size);
	assert(message);
	*message = (struct outgoing){.generation = cs->generation, .view_number = cs->view_number, .size = size};
	memcpy(message->bytes, bytes, size);
	pthread_mutex_lock(&shared->lock);
	bool full = shared->send_count >= COROSYNC_QUEUE_MAX || shared->send_bytes + size > COROSYNC_QUEUE_BYTES;
	if (!full) {
		if (shared->send_first)
			shared->send_last->next = message;
		else
			shared->send_first = message;
		shared->send_last = message;
		shared->send_count++;
		shared->send_bytes += size;
	}
	size_t waiting = shared->send_count;
	pthread_mutex_unlock(&shared->lock);
	if (full) {
		free(message);
		return err_set(err, ERR_BUSY, "%zu messages wait for corosync", waiting);
	}
	eventfd_write(shared->wake_fd, 1);
	return 0;
}

static void corosync_leave(struct group *group)
{
	struct corosync *cs = of(group);

	if (!cs->wanted)
		return;
	cs->wanted = false;
	cs->stuck = false;
	next_generation(cs);
}

static void corosync_join(struct group *group)
{
	struct corosync *cs = of(group);

	if (cs->wanted)
		return;
	cs->wanted = true;
	next_generation(cs);
}

static uint32_t corosync_token_ms(struct group *group)
{
	return atomic_load(&of(group)->shared.token_ms);
}

static void corosync_force(struct group *group)
{
	struct corosync *cs = of(group);

	pthread_mutex_lock(&cs->shared.lock);
	cs->shared.force = true;
	pthread_mutex_unlock(&cs->shared.lock);
	eventfd_write(cs->shared.wake_fd, 1);
}

static const struct group_ops ops = {
	.send = corosync_send, .leave = corosync_leave, .join = corosync_join, .force = corosync_force,
	.token_ms = corosync_token_ms};

static int start(struct corosync *cs, struct err *err)
{
	sigset_t all, before;

	cs->shared.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	cs->shared.out_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (cs->shared.wake_fd < 0 || cs->shared.out_fd < 0)
		return err_errno(err, errno, "eventfd");
	/* The signals are the loop's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int rc = pthread_create(&cs->thread, NULL, link_main, &cs->config);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc)
		return err_errno(err, rc, "starting the thread for corosync");
	cs->has_thread = true;
	cs->io = loop_io_watch(cs->loop, cs->shared.out_fd, EPOLLIN, on_items, cs);
	cs->look_timer = loop_timer_set(cs->loop, LOOK_MS, look, cs);
	return 0;
}

struct group *corosync_new(const struct corosync_config *config, struct loop *loop,
	const struct group_callbacks *callbacks, struct err *err)
{
	struct corosync *cs = calloc(1, sizeof(*cs));
	struct corosync_identity identity;

	assert(cs);
	cs->group.ops = &ops;
	cs->callbacks = *callbacks;
	cs->loop = loop;
	cs->config.shared = &cs->shared;
	cs->shared.wake_fd = cs->shared.out_fd = -1;
	pthread_mutex_init(&cs->shared.lock, NULL);
	snprintf(cs->config.group_name, sizeof(cs->config.group_name), COROSYNC_GROUP_PREFIX "%s", config->cluster_uuid);
	bool ok = corosync_identify(&identity, err) == 0;
	if (ok) {
		cs->group.node = cs->config.node = identity.node;
		atomic_store(&cs->shared.token_ms, identity.token_ms);
		atomic_store(&cs->shared.patience_ms, COROSYNC_STUCK_MS);
		memcpy(cs->group.node_name, identity.name, sizeof(cs->group.node_name));
		ok = start(cs, err) == 0;
	}
	if (!ok) {
		corosync_free(&cs->group);
		return NULL;
	}
	return &cs->group;
}

/* False when it hangs in corosync. */
static bool thread_ended(struct corosync *cs)
{
	struct timespec until;

	pthread_mutex_lock(&cs->shared.lock);
	cs->shared.ending = true;
	pthread_mutex_unlock(&cs->shared.lock);
	eventfd_write(cs->shared.wake_fd, 1);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += END_WAIT_S;
	return pthread_timedjoin_np(cs->thread, NULL, &until) == 0;
}

void corosync_free(struct group *group)
{
	if (!group)
		return;
	struct corosync *cs = of(group);
	loop_io_cancel(cs->loop, cs->io);
	loop_timer_cancel(cs->loop, cs->look_timer);
	/* A thread that hangs keeps what it uses; the process ends soon. */
	if (cs->has_thread && !thread_ended(cs))
		return;
	while (cs->shared.out_first) {
		struct item *next = cs->shared.out_first->next;
		free(cs->shared.out_first);
		cs->shared.out_first = next;
	}
	if (cs->shared.wake_fd >= 0)
		close(cs->shared.wake_fd);
	if (cs->shared.out_fd >= 0)
		close(cs->shared.out_fd);
	pthread_mutex_destroy(&cs->shared.lock);
	free(cs);
}

void corosync_get_counters(struct group *group, struct corosync_counters *counters)
{
	struct corosync *cs = of(group);

	pthread_mutex_lock(&cs->shared.lock);
	*counters = cs->shared.counters;
	pthread_mutex_unlock(&cs->shared.lock);
}
