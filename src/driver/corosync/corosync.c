/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/corosync/corosync.h"
#include "driver/corosync/identity.h"

#include <assert.h>
#include <corosync/cpg.h>
#include <corosync/quorum.h>
#include <corosync/votequorum.h>
#include <string.h>
#include <sys/epoll.h>

enum {
	QUEUE_MAX = 4096, /* messages that corosync does not take yet */
	TRY_AGAIN_MS = 2,
	TRY_AGAIN_LIMIT_MS = 10000, /* TRY_AGAIN for longer: treated as a corosync that is gone (faults.md B16) */
	CONNECT_MS = 1000,
	DISPATCH_MAX = 256, /* callbacks in one go, so that timers get their turn */
};

struct queued {
	struct queued *next;
	size_t size;
	uint8_t bytes[];
};

struct ring {
	uint32_t leader;
	uint64_t seq;
};

struct corosync {
	struct group group;
	struct group_callbacks callbacks;
	struct loop *loop;
	struct cpg_name name;

	bool wanted; /* join was called, leave was not */
	bool connected;
	cpg_handle_t cpg;
	quorum_handle_t quorum;
	votequorum_handle_t votes;
	struct loop_io *cpg_io, *quorum_io, *votes_io;
	struct loop_timer *connect_timer, *queue_timer, *dispatch_timer;
	bool cpg_paused;

	struct ring cpg_ring, quorum_ring;
	uint64_t ring_members; /* by CPG's totem callback */
	bool ring_changing;    /* a member went down with its node: the ring's own callback comes after */
	uint64_t cpg_members;
	bool in_cpg;
	bool quorate;
	bool view_due; /* something changed since the last view was told */
	uint32_t expected_votes;

	struct queued *first, *last;
	size_t queued;
	uint64_t stuck_since_ms;
	uint64_t dropped;
};

static void take_down(struct corosync *cs, const char *why);

static bool same_ring(const struct ring *a, const struct ring *b)
{
	return a->leader == b->leader && a->seq == b->seq;
}

static uint64_t bit(uint32_t node)
{
	return node >= 1 && node <= NODES_MAX ? UINT64_C(1) << (node - 1) : 0;
}

static struct corosync *of_cpg(cpg_handle_t handle)
{
	void *context = NULL;

	cpg_context_get(handle, &context);
	return context;
}

static void on_deliver(cpg_handle_t handle, const struct cpg_name *name, uint32_t node, uint32_t pid, void *bytes,
	size_t size)
{
	struct corosync *cs = of_cpg(handle);

	(void)name, (void)pid;
	if (!bit(node) || size > GROUP_MESSAGE_MAX) {
		cs->dropped++;
		return;
	}
	cs->callbacks.deliver(cs->callbacks.ctx, node, bytes, size);
}

static void on_members(cpg_handle_t handle, const struct cpg_name *name, const struct cpg_address *members, size_t count,
	const struct cpg_address *left, size_t left_count, const struct cpg_address *joined, size_t joined_count)
{
	struct corosync *cs = of_cpg(handle);

	(void)name, (void)joined, (void)joined_count;
	/* Seen with corosync 3.1.7: CPG tells the members that were lost before it names the ring that lost them. Until then
	 * the quorum that is known is that of the ring before, and a node cut off would take itself for quorate. */
	for (size_t i = 0; i < left_count; i++)
		if (left[i].reason == CPG_REASON_NODEDOWN)
			cs->ring_changing = true;
	cs->cpg_members = 0;
	for (size_t i = 0; i < count; i++)
		cs->cpg_members |= bit(members[i].nodeid);
	cs->in_cpg = cs->cpg_members & bit(cs->group.node);
	cs->view_due = true;
}

static void on_totem(cpg_handle_t handle, struct cpg_ring_id ring, uint32_t count, const uint32_t *members)
{
	struct corosync *cs = of_cpg(handle);

	cs->cpg_ring = (struct ring){.leader = ring.nodeid, .seq = ring.seq};
	cs->ring_changing = false;
	cs->ring_members = 0;
	for (uint32_t i = 0; i < count; i++)
		cs->ring_members |= bit(members[i]);
	cs->view_due = true;
}

static void on_quorum(quorum_handle_t handle, uint32_t quorate, struct quorum_ring_id ring, uint32_t count,
	const uint32_t *members)
{
	const void *context = NULL;

	(void)count, (void)members;
	quorum_context_get(handle, &context);
	struct corosync *cs = (struct corosync *)(uintptr_t)context;
	cs->quorum_ring = (struct ring){.leader = ring.nodeid, .seq = ring.seq};
	cs->quorate = quorate;
	cs->view_due = true;
}

static void on_nodes(quorum_handle_t handle, struct quorum_ring_id ring, uint32_t count, const uint32_t *members,
	uint32_t joined_count, const uint32_t *joined, uint32_t left_count, const uint32_t *left)
{
	/* The membership of the ring is taken from CPG's own callback, which is in order with the messages. */
	(void)handle, (void)ring, (void)count, (void)members, (void)joined_count, (void)joined, (void)left_count, (void)left;
}

static void read_votes(struct corosync *cs)
{
	struct votequorum_info info;

	if (votequorum_getinfo(cs->votes, cs->group.node, &info) == CS_OK && info.node_expected_votes)
		cs->expected_votes = info.node_expected_votes;
}

/* The next callback of CPG would belong to a ring of which the quorum service has not spoken yet. */
static bool cpg_ahead(const struct corosync *cs)
{
	return !same_ring(&cs->cpg_ring, &cs->quorum_ring) && cs->cpg_ring.seq >= cs->quorum_ring.seq;
}

static void pause_cpg(struct corosync *cs, bool pause)
{
	if (pause == cs->cpg_paused || !cs->cpg_io)
		return;
	cs->cpg_paused = pause;
	loop_io_change(cs->loop, cs->cpg_io, pause ? 0 : EPOLLIN);
}

static void dispatch_cpg(void *ctx, uint32_t events);

static void dispatch_later(void *ctx)
{
	struct corosync *cs = ctx;

	cs->dispatch_timer = NULL;
	if (cs->connected)
		dispatch_cpg(cs, EPOLLIN);
}

/* corosync counts its own nodes; what may change the cluster is a majority of watarids. Where the ring itself has fewer
 * (two_node, a witness), all of it must be there: else one daemon of three, started first, would write a history alone. */
static bool members_quorate(const struct corosync *cs)
{
	uint32_t members = (uint32_t)__builtin_popcountll(cs->cpg_members);

	return cs->quorate && (members > cs->expected_votes / 2 || cs->cpg_members == cs->ring_members);
}

static void view_if_due(struct corosync *cs)
{
	struct group_view view = {.ring_seq = cs->cpg_ring.seq, .members = cs->cpg_members};

	bool ready = same_ring(&cs->cpg_ring, &cs->quorum_ring) && cs->cpg_ring.seq && !cs->ring_changing;
	pause_cpg(cs, cpg_ahead(cs));
	/* A member of the group that is not in the ring has died with it; its leaving is the next callback. */
	if (!cs->view_due || !ready || !cs->in_cpg || (cs->cpg_members & ~cs->ring_members))
		return;
	cs->view_due = false;
	read_votes(cs);
	view.expected_votes = cs->expected_votes;
	view.quorate = members_quorate(cs);
	cs->callbacks.view(cs->callbacks.ctx, &view);
}

static void dispatch_cpg(void *ctx, uint32_t events)
{
	struct corosync *cs = ctx;

	if (events & (EPOLLHUP | EPOLLERR)) {
		take_down(cs, "corosync is gone");
		return;
	}
	for (int i = 0; i < DISPATCH_MAX && cs->connected && !cpg_ahead(cs); i++) {
		cs_error_t status = cpg_dispatch(cs->cpg, CS_DISPATCH_ONE_NONBLOCKING);
		if (status == CS_ERR_TRY_AGAIN)
			break;
		if (status != CS_OK) {
			take_down(cs, "corosync is gone");
			return;
		}
		view_if_due(cs);
		if (i == DISPATCH_MAX - 1 && !cs->dispatch_timer)
			cs->dispatch_timer = loop_timer_set(cs->loop, 0, dispatch_later, cs);
	}
	view_if_due(cs);
}

static void dispatch_quorum(void *ctx, uint32_t events)
{
	struct corosync *cs = ctx;

	(void)events;
	if (quorum_dispatch(cs->quorum, CS_DISPATCH_ALL) != CS_OK) {
		take_down(cs, "corosync is gone");
		return;
	}
	view_if_due(cs);
	/* What CPG had to say was perhaps waiting for this; its socket may not become readable again by itself. */
	dispatch_cpg(cs, EPOLLIN);
}

static void dispatch_votes(void *ctx, uint32_t events)
{
	struct corosync *cs = ctx;

	(void)events;
	if (votequorum_dispatch(cs->votes, CS_DISPATCH_ALL) != CS_OK)
		take_down(cs, "corosync is gone");
}

static void queue_clear(struct corosync *cs)
{
	while (cs->first) {
		struct queued *next = cs->first->next;
		free(cs->first);
		cs->first = next;
	}
	cs->last = NULL;
	cs->queued = 0;
	cs->stuck_since_ms = 0;
}

static void disconnect(struct corosync *cs)
{
	loop_io_cancel(cs->loop, cs->cpg_io);
	loop_io_cancel(cs->loop, cs->quorum_io);
	loop_io_cancel(cs->loop, cs->votes_io);
	loop_timer_cancel(cs->loop, cs->queue_timer);
	loop_timer_cancel(cs->loop, cs->dispatch_timer);
	cs->cpg_io = cs->quorum_io = cs->votes_io = NULL;
	cs->queue_timer = cs->dispatch_timer = NULL;
	if (cs->cpg)
		cpg_finalize(cs->cpg);
	if (cs->quorum)
		quorum_finalize(cs->quorum);
	if (cs->votes)
		votequorum_finalize(cs->votes);
	cs->cpg = cs->quorum = cs->votes = 0;
	cs->connected = false;
	cs->cpg_paused = false;
	cs->in_cpg = false;
	cs->cpg_members = 0;
	cs->quorate = false;
	cs->view_due = false;
	cs->ring_changing = false;
	memset(&cs->cpg_ring, 0, sizeof(cs->cpg_ring));
	memset(&cs->quorum_ring, 0, sizeof(cs->quorum_ring));
	queue_clear(cs);
}

static int watch(struct corosync *cs)
{
	int cpg_fd, quorum_fd, votes_fd;

	if (cpg_fd_get(cs->cpg, &cpg_fd) != CS_OK || quorum_fd_get(cs->quorum, &quorum_fd) != CS_OK ||
		votequorum_fd_get(cs->votes, &votes_fd) != CS_OK)
		return -1;
	cs->cpg_io = loop_io_watch(cs->loop, cpg_fd, EPOLLIN, dispatch_cpg, cs);
	cs->quorum_io = loop_io_watch(cs->loop, quorum_fd, EPOLLIN, dispatch_quorum, cs);
	cs->votes_io = loop_io_watch(cs->loop, votes_fd, EPOLLIN, dispatch_votes, cs);
	return 0;
}

static int connect_all(struct corosync *cs)
{
	cpg_model_v1_data_t cpg_model = {.model = CPG_MODEL_V1,
		.cpg_deliver_fn = on_deliver,
		.cpg_confchg_fn = on_members,
		.cpg_totem_confchg_fn = on_totem,
		.flags = CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF};
	quorum_model_v1_data_t quorum_model = {.model = QUORUM_MODEL_V1,
		.quorum_notify_fn = on_quorum,
		.nodelist_notify_fn = on_nodes};
	votequorum_callbacks_t votes = {0};
	uint32_t kind;

	if (cpg_model_initialize(&cs->cpg, CPG_MODEL_V1, (cpg_model_data_t *)&cpg_model, cs) != CS_OK) {
		cs->cpg = 0;
		return -1;
	}
	if (quorum_model_initialize(&cs->quorum, QUORUM_MODEL_V1, (quorum_model_data_t *)&quorum_model, &kind, cs) != CS_OK) {
		cs->quorum = 0;
		return -1;
	}
	if (votequorum_initialize(&cs->votes, &votes) != CS_OK) {
		cs->votes = 0;
		return -1;
	}
	if (quorum_trackstart(cs->quorum, CS_TRACK_CURRENT | CS_TRACK_CHANGES) != CS_OK)
		return -1;
	if (cpg_join(cs->cpg, &cs->name) != CS_OK)
		return -1;
	return watch(cs);
}

static void try_connect(void *ctx)
{
	struct corosync *cs = ctx;

	cs->connect_timer = NULL;
	if (!cs->wanted || cs->connected)
		return;
	if (connect_all(cs) < 0) {
		disconnect(cs);
		cs->connect_timer = loop_timer_set(cs->loop, CONNECT_MS, try_connect, cs);
		return;
	}
	cs->connected = true;
}

static void take_down(struct corosync *cs, const char *why)
{
	struct group_view none = {.members = bit(cs->group.node)};
	struct err err;

	disconnect(cs);
	err_set(&err, ERR_UNAVAILABLE, "%s; trying again every %d s", why, CONNECT_MS / 1000);
	cs->callbacks.view(cs->callbacks.ctx, &none);
	cs->callbacks.down(cs->callbacks.ctx, &err);
	if (cs->wanted && !cs->connect_timer)
		cs->connect_timer = loop_timer_set(cs->loop, CONNECT_MS, try_connect, cs);
}

static cs_error_t mcast(struct corosync *cs, const uint8_t *bytes, size_t size)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};

	return cpg_mcast_joined(cs->cpg, CPG_TYPE_AGREED, &iov, 1);
}

static void send_queued(void *ctx)
{
	struct corosync *cs = ctx;
	uint64_t now = loop_now_ms(cs->loop);

	cs->queue_timer = NULL;
	while (cs->first) {
		cs_error_t status = mcast(cs, cs->first->bytes, cs->first->size);
		if (status == CS_ERR_TRY_AGAIN && now < cs->stuck_since_ms + TRY_AGAIN_LIMIT_MS) {
			cs->queue_timer = loop_timer_set(cs->loop, TRY_AGAIN_MS, send_queued, cs);
			return;
		}
		if (status != CS_OK) {
			take_down(cs, status == CS_ERR_TRY_AGAIN ? "corosync takes no messages" : "corosync is gone");
			return;
		}
		struct queued *sent = cs->first;
		cs->first = sent->next;
		cs->last = cs->first ? cs->last : NULL;
		cs->queued--;
		cs->stuck_since_ms = now;
		free(sent);
	}
}

static int corosync_send(struct group *group, const uint8_t *bytes, size_t size, struct err *err)
{
	struct corosync *cs = (struct corosync *)group;

	if (!cs->connected || !cs->in_cpg)
		return err_set(err, ERR_UNAVAILABLE, "not in the group");
	if (!cs->first && mcast(cs, bytes, size) == CS_OK)
		return 0;
	if (cs->queued == QUEUE_MAX)
		return err_set(err, ERR_BUSY, "%d messages wait for corosync", QUEUE_MAX);
	struct queued *queued = malloc(sizeof(*queued) + size);
	assert(queued);
	*queued = (struct queued){.size = size};
	memcpy(queued->bytes, bytes, size);
	if (cs->last)
		cs->last->next = queued;
	else
		cs->first = queued;
	cs->last = queued;
	cs->queued++;
	if (!cs->queue_timer) {
		cs->stuck_since_ms = loop_now_ms(cs->loop);
		cs->queue_timer = loop_timer_set(cs->loop, TRY_AGAIN_MS, send_queued, cs);
	}
	return 0;
}

static void corosync_join(struct group *group)
{
	struct corosync *cs = (struct corosync *)group;

	cs->wanted = true;
	if (!cs->connected && !cs->connect_timer)
		cs->connect_timer = loop_timer_set(cs->loop, 0, try_connect, cs);
}

/* May be called from inside a callback, so the connection is dropped by a timer; the process group is left at once. */
static void drop_connection(void *ctx)
{
	struct corosync *cs = ctx;

	cs->connect_timer = NULL;
	disconnect(cs);
	if (cs->wanted)
		cs->connect_timer = loop_timer_set(cs->loop, 0, try_connect, cs);
}

static void corosync_leave(struct group *group)
{
	struct corosync *cs = (struct corosync *)group;

	cs->wanted = false;
	if (!cs->connected)
		return;
	cpg_leave(cs->cpg, &cs->name);
	loop_timer_cancel(cs->loop, cs->connect_timer);
	cs->connect_timer = loop_timer_set(cs->loop, 0, drop_connection, cs);
}

static const struct group_ops ops = {.send = corosync_send, .leave = corosync_leave, .join = corosync_join};

struct group *corosync_new(const struct corosync_config *config, struct loop *loop,
	const struct group_callbacks *callbacks, struct err *err)
{
	struct corosync *cs = calloc(1, sizeof(*cs));
	struct corosync_identity identity;

	assert(cs);
	if (corosync_identify(&identity, err) < 0) {
		free(cs);
		return NULL;
	}
	cs->group.ops = &ops;
	cs->group.node = identity.node;
	memcpy(cs->group.node_name, identity.name, sizeof(cs->group.node_name));
	cs->expected_votes = identity.nodes;
	cs->callbacks = *callbacks;
	cs->loop = loop;
	int length = snprintf(cs->name.value, sizeof(cs->name.value), "watari:%s", config->cluster_uuid);
	cs->name.length = (uint32_t)length;
	return &cs->group;
}

void corosync_free(struct group *group)
{
	struct corosync *cs = (struct corosync *)group;

	if (!cs)
		return;
	loop_timer_cancel(cs->loop, cs->connect_timer);
	disconnect(cs);
	free(cs);
}
