/* SPDX-License-Identifier: Apache-2.0
 * Long, but of one piece: connecting, sending, reading and ending all change one struct that no other file may see, in callbacks of one
 * thread. What can be decided without it is in views.c, identity.c and strangers.c. */
#include "driver/corosync/link.h"

#include "driver/corosync/identity.h"
#include "driver/corosync/strangers.h"
#include "driver/corosync/views.h"

#include <assert.h>
#include <corosync/cmap.h>
#include <corosync/cpg.h>
#include <corosync/quorum.h>
#include <corosync/votequorum.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

enum {
	RECONNECT_MIN_MS = 100,
	RECONNECT_MAX_MS = 4000,
	RETRY_MIN_MS = 1,
	RETRY_MAX_MS = 50,
	PING_MS = 1000, /* a call each second, so that a corosync that hangs is noticed by an idle node too */
	WITNESS_WAIT_MS = 30000,      /* corosync-qdevice(8): quorum.device.sync_timeout */
	WITNESS_WAIT_MAX_MS = 120000, /* whatever is configured: a corosync that hangs is found out some time */
	SENDS_A_TURN = 64,
	OUT_BYTES_MAX = 32 << 20, /* the loop is slow: CPG is not read, corosync's flow control does the rest */
};

/* The first byte of each message. */
enum { FRAME_MESSAGE = 1, FRAME_MARKER = 2 };

struct link {
	const struct link_config *config;
	struct link_shared *shared;
	struct cpg_name name;
	uint64_t generation;
	bool wanted;

	bool connected;
	cpg_handle_t cpg;
	quorum_handle_t quorum;
	votequorum_handle_t votes;
	cmap_handle_t cmap;
	int cpg_fd;
	int quorum_fd;
	int votes_fd;
	uint64_t connect_at_ms;
	uint32_t connect_delay_ms;
	bool told_down; /* in this generation, since the last view */

	struct views views;
	uint64_t view_number;
	bool check_votes; /* quorum or votes have changed: compare with what was told */
	bool marker_due;
	uint64_t hold_since_ms;
	uint64_t ping_at_ms;

	struct outgoing *sending; /* taken from the shared queue, oldest first */
	struct outgoing *sending_last;
	uint64_t stuck_since_ms; /* corosync does not take the first of them; 0: it does */
	uint64_t retry_at_ms;
	uint32_t retry_delay_ms;
};

uint64_t link_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- to the loop ---- */

static struct item *item_new(const struct link *link, enum item_kind kind, const void *bytes, size_t size)
{
	struct item *item = malloc(sizeof(*item) + size);

	assert(item);
	*item = (struct item){.kind = kind, .generation = link->generation, .size = size};
	if (size)
		memcpy(item->bytes, bytes, size);
	return item;
}

static void item_push(struct link *link, struct item *item)
{
	struct link_shared *shared = link->shared;

	pthread_mutex_lock(&shared->lock);
	bool first = !shared->out_first;
	if (first)
		shared->out_first = item;
	else
		shared->out_last->next = item;
	shared->out_last = item;
	shared->out_bytes += sizeof(*item) + item->size;
	shared->counters.delivered += item->kind == ITEM_MESSAGE;
	shared->counters.views += item->kind == ITEM_VIEW;
	shared->counters.downs += item->kind == ITEM_DOWN;
	pthread_mutex_unlock(&shared->lock);
	if (first)
		eventfd_write(shared->out_fd, 1);
}

static void count(struct link *link, uint64_t *counter)
{
	pthread_mutex_lock(&link->shared->lock);
	++*counter;
	pthread_mutex_unlock(&link->shared->lock);
}

/* Around calls that wait for corosync. */
static void busy(struct link *link, bool is_busy)
{
	atomic_store(&link->shared->busy_since_ms, is_busy ? link_now_ms() : 0);
}

/* ---- views ---- */

/* Are the members of the process group quorate by themselves? False also where corosync does not answer. */
static bool read_votes(struct link *link, uint64_t members, struct group_view *view)
{
	struct votequorum_info info;
	struct votequorum_info own;
	const uint32_t device = VOTEQUORUM_INFO_QDEVICE_ALIVE | VOTEQUORUM_INFO_QDEVICE_CAST_VOTE;
	uint32_t votes = 0;
	uint32_t expected;
	bool ok = true;

	busy(link, true);
	ok = votequorum_getinfo(link->votes, link->config->node, &own) == CS_OK;
	for (uint32_t node = 1; ok && node <= NODES_MAX; node++)
		if (members & views_bit(node) && votequorum_getinfo(link->votes, node, &info) == CS_OK)
			votes += info.node_votes;
	busy(link, false);
	if (!ok)
		return false;
	expected = own.highest_expected > own.node_expected_votes ? own.highest_expected : own.node_expected_votes;
	view->two_node = own.flags & VOTEQUORUM_INFO_TWONODE;
	view->witness = own.flags & VOTEQUORUM_INFO_QDEVICE_REGISTERED && own.qdevice_votes;
	/* The witness votes, but keeps no log: what is committed is counted among the nodes (decision 0022). Who forces
	 * quorum lowers the votes to those that are here; never below them. */
	if (view->witness)
		expected = expected > own.qdevice_votes + votes ? expected - own.qdevice_votes : votes;
	view->expected_votes = expected;
	if ((own.flags & device) == device)
		votes += own.qdevice_votes;
	return link->views.quorate && votes >= own.quorum;
}

/* Too few of the daemons in the ring are ours. */
static void read_strangers(struct link *link, struct group_view *view)
{
	busy(link, true);
	strangers_find(link->cpg, link->config->group_name, view->stranger);
	busy(link, false);
}

static void tell_view(struct link *link, const struct group_view *view)
{
	struct item *item = item_new(link, ITEM_VIEW, NULL, 0);

	views_tell(&link->views, view);
	item->view = *view;
	item->view_number = ++link->view_number;
	item_push(link, item);
	link->told_down = false;
	link->marker_due = false;
}

static void look_at_views(struct link *link)
{
	struct group_view view;
	struct group_view now = link->views.told;

	if (views_due(&link->views, &view)) {
		link->check_votes = false;
		view.expected_votes = now.expected_votes;
		view.two_node = now.two_node;
		view.witness = now.witness;
		view.quorate = read_votes(link, view.members, &view);
		if (link->views.quorate && !view.quorate)
			read_strangers(link, &view);
		tell_view(link, &view);
		now = view;
	}
	if (!link->check_votes)
		return;
	link->check_votes = false;
	bool quorate = read_votes(link, link->views.told.members, &now);
	enum views_change change = views_compare(&link->views, quorate, now.expected_votes, &view);
	if (change == VIEWS_LOST)
		tell_view(link, &view);
	link->marker_due = change == VIEWS_MARKER;
}

/* ---- callbacks of corosync ---- */

static struct link *of_cpg(cpg_handle_t handle)
{
	void *context = NULL;

	cpg_context_get(handle, &context);
	return context;
}

static void on_deliver(
	cpg_handle_t handle, const struct cpg_name *name, uint32_t node, uint32_t pid, void *message, size_t size)
{
	struct link *link = of_cpg(handle);
	const uint8_t *bytes = message;

	(void)name;
	(void)pid;
	if (!size || size > GROUP_MESSAGE_MAX + 1 || !views_accepts(&link->views, node)) {
		count(link, &link->shared->counters.dropped);
	} else if (bytes[0] == FRAME_MARKER) {
		views_on_marker(&link->views, node);
	} else if (bytes[0] == FRAME_MESSAGE) {
		struct item *item = item_new(link, ITEM_MESSAGE, bytes + 1, size - 1);
		item->from = node;
		item_push(link, item);
	} else {
		count(link, &link->shared->counters.dropped);
	}
}

static bool of_nodes(const struct cpg_address *list, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (list[i].reason == CPG_REASON_NODEDOWN || list[i].reason == CPG_REASON_NODEUP)
			return true;
	return false;
}

static void on_members(cpg_handle_t handle, const struct cpg_name *name, const struct cpg_address *members, size_t size,
	const struct cpg_address *left, size_t left_size, const struct cpg_address *joined, size_t joined_size)
{
	struct link *link = of_cpg(handle);
	uint64_t bits = 0;
	bool in_group = false;

	(void)name;
	for (size_t i = 0; i < size; i++) {
		bits |= views_bit(members[i].nodeid);
		in_group |= members[i].nodeid == link->config->node && members[i].pid == (uint32_t)getpid();
	}
	views_on_members(&link->views, bits, in_group, of_nodes(left, left_size) || of_nodes(joined, joined_size));
}

static void on_totem(cpg_handle_t handle, struct cpg_ring_id ring, uint32_t size, const uint32_t *members)
{
	struct link *link = of_cpg(handle);
	uint64_t bits = 0;

	for (uint32_t i = 0; i < size; i++)
		bits |= views_bit(members[i]);
	views_on_totem(&link->views, (struct ring){.leader = ring.nodeid, .seq = ring.seq}, bits);
}

static void on_quorum(
	quorum_handle_t handle, uint32_t quorate, struct quorum_ring_id ring, uint32_t size, const uint32_t *members)
{
	const void *context = NULL;

	(void)size;
	(void)members;
	quorum_context_get(handle, &context);
	struct link *link = (struct link *)(uintptr_t)context;
	views_on_quorum(&link->views, (struct ring){.leader = ring.nodeid, .seq = ring.seq}, quorate);
	link->check_votes = true;
}

static void on_votes(votequorum_handle_t handle, uint64_t context, uint32_t expected_votes)
{
	struct link *link = (struct link *)(uintptr_t)context;

	(void)handle;
	(void)expected_votes;
	link->check_votes = true;
}

static void on_vote_quorum(
	votequorum_handle_t handle, uint64_t context, uint32_t quorate, uint32_t size, votequorum_node_t *nodes)
{
	(void)size;
	(void)nodes;
	on_votes(handle, context, quorate);
}

/* ---- the connection ---- */

static void sends_drop(struct link *link, bool all)
{
	struct outgoing **at = &link->sending;
	struct outgoing *kept = NULL;
	size_t dropped = 0;
	size_t bytes = 0;

	while (*at) {
		struct outgoing *message = *at;
		if (!all && message->generation == link->generation && message->view_number == link->view_number) {
			kept = message;
			at = &message->next;
			continue;
		}
		*at = message->next;
		dropped++;
		bytes += message->size;
		free(message);
	}
	link->sending_last = kept;
	pthread_mutex_lock(&link->shared->lock);
	link->shared->send_count -= dropped;
	link->shared->send_bytes -= bytes;
	pthread_mutex_unlock(&link->shared->lock);
}

static void disconnect(struct link *link)
{
	busy(link, true);
	if (link->cpg)
		cpg_finalize(link->cpg);
	if (link->quorum)
		quorum_finalize(link->quorum);
	if (link->votes)
		votequorum_finalize(link->votes);
	if (link->cmap)
		cmap_finalize(link->cmap);
	busy(link, false);
	link->cpg = 0;
	link->quorum = 0;
	link->votes = 0;
	link->cmap = 0;
	link->connected = false;
	link->views = (struct views){0};
	link->view_number++; /* no view: what was sent in the last one is not sent in the next connection */
	link->check_votes = link->marker_due = false;
	link->hold_since_ms = 0;
	link->stuck_since_ms = link->retry_at_ms = 0;
	sends_drop(link, true);
}

static void go_down(struct link *link, const struct err *err)
{
	disconnect(link);
	if (!link->told_down) {
		struct item *item = item_new(link, ITEM_DOWN, NULL, 0);
		item->err = *err;
		item_push(link, item);
		link->told_down = true;
	}
	link->connect_at_ms = link_now_ms() + link->connect_delay_ms;
	link->connect_delay_ms *= 2;
	if (link->connect_delay_ms > RECONNECT_MAX_MS)
		link->connect_delay_ms = RECONNECT_MAX_MS;
}

static void corosync_failed(struct link *link, const char *what, cs_error_t status)
{
	struct err err;

	err_set(&err, ERR_UNAVAILABLE, "corosync is gone (%s: %s)", what, cs_strerror(status));
	go_down(link, &err);
}

/* The token that holds, with its coefficient, and for how long corosync may wait for the witness's vote on a new ring
 * (its sync_timeout). Until then it answers no call but votequorum's (cs_ipcs_check_for_flow_control in its ipc_glue.c):
 * it does not hang. A reload of corosync.conf may change both at any time. */
static void read_times(struct link *link)
{
	uint32_t token_ms = 0, wait_ms = WITNESS_WAIT_MS;
	char *model = NULL;

	if (cmap_get_uint32(link->cmap, "runtime.config.totem.token", &token_ms) == CS_OK)
		atomic_store(&link->shared->token_ms, token_ms);
	if (cmap_get_string(link->cmap, "quorum.device.model", &model) == CS_OK) {
		cmap_get_uint32(link->cmap, "quorum.device.sync_timeout", &wait_ms);
		wait_ms = wait_ms < WITNESS_WAIT_MAX_MS ? wait_ms : WITNESS_WAIT_MAX_MS;
	} else {
		wait_ms = 0;
	}
	free(model);
	atomic_store(&link->shared->patience_ms, COROSYNC_STUCK_MS + wait_ms);
}

static cs_error_t open_handles(struct link *link)
{
	cpg_model_v1_data_t cpg_model = {.model = CPG_MODEL_V1,
		.cpg_deliver_fn = on_deliver,
		.cpg_confchg_fn = on_members,
		.cpg_totem_confchg_fn = on_totem,
		.flags = CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF};
	quorum_model_v1_data_t quorum_model = {.model = QUORUM_MODEL_V1, .quorum_notify_fn = on_quorum};
	votequorum_callbacks_t votes = {
		.votequorum_expectedvotes_notify_fn = on_votes, .votequorum_quorum_notify_fn = on_vote_quorum};
	const unsigned int track = CS_TRACK_CURRENT | CS_TRACK_CHANGES;
	uint32_t kind;
	cs_error_t rc;

	rc = quorum_model_initialize(&link->quorum, QUORUM_MODEL_V1, (quorum_model_data_t *)&quorum_model, &kind, link);
	if (rc == CS_OK)
		rc = quorum_trackstart(link->quorum, track);
	if (rc == CS_OK)
		rc = votequorum_initialize(&link->votes, &votes);
	if (rc == CS_OK)
		rc = votequorum_trackstart(link->votes, (uint64_t)(uintptr_t)link, track);
	if (rc == CS_OK)
		rc = cpg_model_initialize(&link->cpg, CPG_MODEL_V1, (cpg_model_data_t *)&cpg_model, link);
	if (rc == CS_OK)
		rc = cpg_fd_get(link->cpg, &link->cpg_fd);
	if (rc == CS_OK)
		rc = quorum_fd_get(link->quorum, &link->quorum_fd);
	if (rc == CS_OK)
		rc = votequorum_fd_get(link->votes, &link->votes_fd);
	if (rc == CS_OK)
		rc = cmap_initialize(&link->cmap);
	if (rc == CS_OK)
		read_times(link);
	/* Last: from here on the others see us. TRY_AGAIN while a ring is being made; the connection is tried again
	 * then. */
	if (rc == CS_OK)
		rc = cpg_join(link->cpg, &link->name);
	return rc;
}

/* corosync may have been started again with another configuration. */
static int check_identity(const struct link *link, struct err *err)
{
	struct corosync_identity identity;

	if (corosync_identify(&identity, err) < 0)
		return -1;
	if (identity.node != link->config->node)
		return err_set(err, ERR_INVALID, "corosync.conf: this node's id was %u and is now %u: restart watarid",
			link->config->node, identity.node);
	return 0;
}

static void try_connect(struct link *link)
{
	struct err err;

	busy(link, true);
	int ok = check_identity(link, &err);
	cs_error_t rc = ok < 0 ? CS_OK : open_handles(link);
	busy(link, false);
	if (ok < 0) {
		go_down(link, &err);
	} else if (rc != CS_OK) {
		corosync_failed(link, "connect", rc);
	} else {
		link->connected = true;
		link->ping_at_ms = link_now_ms() + PING_MS;
	}
}

/* ---- reading ---- */

static bool loop_is_slow(struct link *link)
{
	pthread_mutex_lock(&link->shared->lock);
	bool slow = link->shared->out_bytes > OUT_BYTES_MAX;
	pthread_mutex_unlock(&link->shared->lock);
	return slow;
}

static void read_cpg(struct link *link)
{
	while (link->connected && !views_hold(&link->views) && !loop_is_slow(link)) {
		cs_error_t rc = cpg_dispatch(link->cpg, CS_DISPATCH_ONE_NONBLOCKING);
		if (rc == CS_ERR_TRY_AGAIN)
			return;
		if (rc != CS_OK) {
			corosync_failed(link, "cpg", rc);
			return;
		}
		link->connect_delay_ms = RECONNECT_MIN_MS;
		look_at_views(link);
	}
}

static void read_all(struct link *link)
{
	cs_error_t rc = quorum_dispatch(link->quorum, CS_DISPATCH_ALL);

	if (rc != CS_OK && rc != CS_ERR_TRY_AGAIN) {
		corosync_failed(link, "quorum", rc);
		return;
	}
	rc = votequorum_dispatch(link->votes, CS_DISPATCH_ALL);
	if (rc != CS_OK && rc != CS_ERR_TRY_AGAIN) {
		corosync_failed(link, "votequorum", rc);
		return;
	}
	look_at_views(link);
	read_cpg(link);
	if (!link->connected)
		return;
	look_at_views(link);
	if (!views_hold(&link->views))
		link->hold_since_ms = 0;
	else if (!link->hold_since_ms)
		link->hold_since_ms = link_now_ms();
}

/* ---- sending ---- */

static cs_error_t mcast(struct link *link, uint8_t frame, const uint8_t *bytes, size_t size)
{
	struct iovec iov[2] = {
		{.iov_base = &frame, .iov_len = 1}, {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size}};

	busy(link, true);
	cs_error_t rc = cpg_mcast_joined(link->cpg, CPG_TYPE_AGREED, iov, size ? 2 : 1);
	busy(link, false);
	return rc;
}

/* After a refusal: again, a little later each time, until the limit. Returns true when the message is through. */
static bool is_sent(struct link *link, cs_error_t rc)
{
	uint32_t patience_ms = atomic_load(&link->shared->patience_ms);
	uint64_t now = link_now_ms();
	struct err err;

	if (patience_ms < COROSYNC_TRY_AGAIN_MS)
		patience_ms = COROSYNC_TRY_AGAIN_MS;
	if (rc == CS_OK) {
		link->stuck_since_ms = link->retry_at_ms = 0;
		link->retry_delay_ms = RETRY_MIN_MS;
		return true;
	}
	if (rc != CS_ERR_TRY_AGAIN) {
		corosync_failed(link, "send", rc);
		return false;
	}
	count(link, &link->shared->counters.try_again);
	if (!link->stuck_since_ms)
		link->stuck_since_ms = now;
	if (now - link->stuck_since_ms > patience_ms) {
		err_set(&err, ERR_UNAVAILABLE, "corosync has not taken a message for %u s", patience_ms / 1000);
		go_down(link, &err);
		return false;
	}
	link->retry_at_ms = now + link->retry_delay_ms;
	link->retry_delay_ms = link->retry_delay_ms * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : link->retry_delay_ms * 2;
	return false;
}

static void sends_take(struct link *link)
{
	struct link_shared *shared = link->shared;

	pthread_mutex_lock(&shared->lock);
	if (shared->send_first) {
		if (link->sending_last)
			link->sending_last->next = shared->send_first;
		else
			link->sending = shared->send_first;
		link->sending_last = shared->send_last;
		shared->send_first = shared->send_last = NULL;
	}
	pthread_mutex_unlock(&shared->lock);
}

static void send_some(struct link *link)
{
	if (link->retry_at_ms > link_now_ms())
		return;
	if (link->marker_due && is_sent(link, mcast(link, FRAME_MARKER, NULL, 0)))
		link->marker_due = false;
	sends_take(link);
	for (int i = 0; link->connected && link->sending && i < SENDS_A_TURN; i++) {
		struct outgoing *message = link->sending;
		bool stale = message->generation != link->generation || message->view_number != link->view_number;
		if (!stale && !is_sent(link, mcast(link, FRAME_MESSAGE, message->bytes, message->size)))
			return;
		link->sending = message->next;
		if (!link->sending)
			link->sending_last = NULL;
		pthread_mutex_lock(&link->shared->lock);
		link->shared->send_count--;
		link->shared->send_bytes -= message->size;
		link->shared->counters.sent += !stale;
		pthread_mutex_unlock(&link->shared->lock);
		free(message);
	}
}

/* ---- the thread ---- */

static void ping(struct link *link)
{
	uint32_t patience_ms = atomic_load(&link->shared->patience_ms);
	uint64_t now = link_now_ms();
	int quorate;
	struct err err;

	if (link->hold_since_ms && now - link->hold_since_ms > patience_ms) {
		err_set(&err, ERR_UNAVAILABLE, "corosync's quorum service has not followed its ring for %u s",
			patience_ms / 1000);
		go_down(link, &err);
		return;
	}
	if (now < link->ping_at_ms)
		return;
	link->ping_at_ms = now + PING_MS;
	busy(link, true);
	cs_error_t rc = quorum_getquorate(link->quorum, &quorate);
	if (rc == CS_OK)
		read_times(link);
	busy(link, false);
	if (rc != CS_OK && rc != CS_ERR_TRY_AGAIN)
		corosync_failed(link, "quorum", rc);
}

static int timeout_ms(const struct link *link)
{
	uint64_t now = link_now_ms();
	uint64_t at = UINT64_MAX;

	if (!link->connected) {
		at = link->wanted ? link->connect_at_ms : UINT64_MAX;
	} else {
		at = link->ping_at_ms;
		if (link->sending || link->marker_due)
			at = link->retry_at_ms < at ? link->retry_at_ms : at;
	}
	if (at == UINT64_MAX)
		return -1;
	return at > now ? (int)(at - now) : 0;
}

/* Follows what the loop wants. Returns false at the end. */
static bool follow(struct link *link)
{
	pthread_mutex_lock(&link->shared->lock);
	uint64_t generation = link->shared->generation;
	bool wanted = link->shared->wanted;
	bool ending = link->shared->ending;
	pthread_mutex_unlock(&link->shared->lock);
	if (generation != link->generation || ending) {
		if (link->connected && (ending || !wanted)) {
			/* An orderly leave: the others learn it at once, and not from the end of the connection. */
			busy(link, true);
			cpg_leave(link->cpg, &link->name);
			busy(link, false);
		}
		disconnect(link);
		link->generation = generation;
		link->view_number = 0;
		link->told_down = false;
		link->connect_at_ms = 0;
		link->connect_delay_ms = RECONNECT_MIN_MS;
	}
	link->wanted = wanted;
	return !ending;
}

/* What corosync-quorumtool -e does, and what ends the wait for nodes that never come back (wait_for_all). Corosync
 * raises the expected votes again by itself when they do. */
static void force_if_asked(struct link *link)
{
	cmap_handle_t cmap;

	pthread_mutex_lock(&link->shared->lock);
	bool asked = link->shared->force;
	link->shared->force = false;
	pthread_mutex_unlock(&link->shared->lock);
	if (!asked || !link->connected)
		return;
	busy(link, true);
	if (cmap_initialize(&cmap) == CS_OK) {
		cmap_set_uint8(cmap, "quorum.cancel_wait_for_all", 1);
		cmap_finalize(cmap);
	}
	votequorum_setexpected(link->votes, (unsigned int)__builtin_popcountll(link->views.ring_members));
	busy(link, false);
	link->check_votes = true;
}

static void wait_for_work(struct link *link)
{
	struct pollfd fds[4] = {{.fd = link->shared->wake_fd, .events = POLLIN}, {.fd = -1}, {.fd = -1}, {.fd = -1}};
	eventfd_t value;
	int timeout = timeout_ms(link);

	if (link->connected) {
		fds[1] = (struct pollfd){.fd = link->quorum_fd, .events = POLLIN};
		fds[2] = (struct pollfd){.fd = link->votes_fd, .events = POLLIN};
		bool slow = loop_is_slow(link);
		if (!slow && !views_hold(&link->views))
			fds[3] = (struct pollfd){.fd = link->cpg_fd, .events = POLLIN};
		if (slow && (timeout < 0 || timeout > 5))
			timeout = 5; /* nobody tells when the loop has caught up */
	}
	poll(fds, ARRAY_SIZE(fds), timeout);
	eventfd_read(link->shared->wake_fd, &value);
}

void *link_main(void *arg)
{
	const struct link_config *config = arg;
	struct link link = {.config = config,
		.shared = config->shared,
		.connect_delay_ms = RECONNECT_MIN_MS,
		.retry_delay_ms = RETRY_MIN_MS};

	link.name.length = (uint32_t)snprintf(link.name.value, sizeof(link.name.value), "%s", config->group_name);
	while (follow(&link)) {
		if (link.wanted && !link.connected && link_now_ms() >= link.connect_at_ms)
			try_connect(&link);
		if (link.connected)
			read_all(&link);
		if (link.connected)
			send_some(&link);
		if (link.connected)
			ping(&link);
		force_if_asked(&link);
		wait_for_work(&link);
	}
	sends_take(&link);
	sends_drop(&link, true);
	return NULL;
}
