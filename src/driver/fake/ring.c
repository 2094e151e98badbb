/* SPDX-License-Identifier: Apache-2.0
 * How rings form, freeze and hand over to the next (extended virtual synchrony: Moser, Amir, Melliar-Smith, Agarwal
 * 1994; corosync's totemsrp.c). */
#include "driver/fake/ring.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has(uint64_t set, uint32_t node)
{
	return set & node_bit(node);
}

static uint32_t votes(uint64_t set)
{
	return (uint32_t)__builtin_popcountll(set);
}

static void order_view(struct ring *ring, uint64_t only, uint64_t members)
{
	struct net *net = ring->net;
	struct entry entry = {.ring_id = ring->id,
		.position = ++ring->length,
		.formed_us = timeline_now_us(net->timeline),
		.view = {.ring_seq = ring->seq,
			.two_node = net->config.two_node,
			.witness = net->config.witness,
			.members = members,
			.ring = ring->members}};

	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		if (!has(ring->members & only, id))
			continue;
		entry.view.expected_votes = ring_votes_expected(ring, id, members);
		entry.view.quorate = ring_view_quorate(ring, id, members);
		entry.generation = has(members, id) ? ring->generations[id] : 0;
		net_deliver(&net->nodes[id], entry);
	}
}

void ring_tell(struct ring *ring, uint64_t nodes)
{
	order_view(ring, nodes, ring->procs);
}

void ring_order(struct ring *ring, struct packet *packet)
{
	struct net *net = ring->net;
	uint32_t from = packet->from;

	switch (packet->kind) {
	case PACKET_MESSAGE:
		ring->length++;
		for (uint32_t id = 1; id <= net->config.node_count; id++)
			if (has(ring->members, id))
				net_deliver(&net->nodes[id],
					(struct entry){
						.ring_id = ring->id, .position = ring->length, .packet = packet});
		break;
	case PACKET_JOIN:
		/* The daemon that asked may be gone again; then its leave comes right behind. */
		ring->procs |= node_bit(from);
		ring->generations[from] = packet->generation;
		order_view(ring, ring->members, ring->procs);
		break;
	case PACKET_LEAVE:
		if (!has(ring->procs, from) || ring->generations[from] != packet->generation)
			break;
		ring->procs &= ~node_bit(from);
		order_view(ring, ring->members, ring->procs);
		break;
	}
}

void ring_leave(struct net_node *node)
{
	if (node->ring && !--node->ring->references)
		free(node->ring);
	node->ring = NULL;
}

/* Of the nodes in `free`, those that all reach each other and the lowest of them. */
static uint64_t clique(const struct net *net, uint64_t free)
{
	uint32_t lowest = (uint32_t)__builtin_ctzll(free) + 1;
	uint64_t set = 0;

	for (uint32_t id = lowest; id <= net->config.node_count; id++)
		if (has(free, id) && net->nodes[id].side == net->nodes[lowest].side && !(net->nodes[id].cut & set))
			set |= node_bit(id);
	return set;
}

uint64_t ring_reachable(const struct net *net, uint32_t from)
{
	uint64_t free = 0;

	for (uint32_t id = 1; id <= net->config.node_count; id++)
		if (net->nodes[id].up)
			free |= node_bit(id);
	while (free) {
		uint64_t set = clique(net, free);
		if (has(set, from))
			return set;
		free &= ~set;
	}
	return 0;
}

static bool ring_is_whole(const struct net *net, uint64_t members)
{
	const struct ring *ring = net->nodes[__builtin_ctzll(members) + 1].ring;

	if (!ring || ring->frozen || ring->members != members)
		return false;
	for (uint32_t id = 1; id <= net->config.node_count; id++)
		if (has(members, id) && net->nodes[id].ring != ring)
			return false;
	return true;
}

/* What the members of `together` still hear of the ring that they leave: all of it, or at least what one of them has
 * heard. */
static void old_ring_settle(struct net *net, struct ring *old, uint64_t together)
{
	uint64_t last = old->length;
	uint64_t first = 0;

	if (old->frozen && prng_chance(net->prng, net->config.torn_permille)) {
		for (uint32_t id = 1; id <= net->config.node_count; id++)
			if (has(together, id) && net->nodes[id].delivered > first)
				first = net->nodes[id].delivered;
		last = prng_between(net->prng, first, last);
	}
	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		struct net_node *node = &net->nodes[id];
		if (!has(together, id))
			continue;
		while (node->inbox.count) {
			struct entry *newest = fifo_at(&node->inbox, node->inbox.count - 1);
			if (newest->ring_id != old->id || newest->position <= last)
				break;
			packet_drop(newest->packet);
			node->inbox.count--;
		}
		if (!node->inbox.count && node->pump) {
			timeline_cancel(net->timeline, node->pump);
			node->pump = NULL;
		}
	}
}

/* Messages that were sent but not ordered: late, or lost. Joins and leaves are known to corosync and never lost. */
static void outbox_settle(struct net_node *node)
{
	struct fifo kept = {0};

	if (prng_chance(node->net->prng, node->net->config.late_permille))
		return;
	while (node->outbox.count) {
		struct entry entry = fifo_pop(&node->outbox);
		if (entry.packet->kind == PACKET_MESSAGE)
			packet_drop(entry.packet);
		else
			fifo_push(&kept, entry);
	}
	free(node->outbox.entries);
	node->outbox = kept;
}

static void trace_ring(struct net *net, const struct ring *ring)
{
	char line[128];
	size_t used = (size_t)snprintf(line, sizeof(line), "ring %llu:", (unsigned long long)ring->seq);

	if (!net->config.trace)
		return;
	for (uint32_t id = 1; id <= net->config.node_count && used < sizeof(line) - 16; id++)
		if (has(ring->members, id))
			used += (size_t)snprintf(line + used, sizeof(line) - used, " n%u", id);
	const char *quorate = "";
	for (uint32_t id = 1; id <= net->config.node_count; id++)
		if (has(ring->members, id) && ring_quorate(ring, id))
			quorate = votes(ring->members) >= net->nodes[id].votes_needed || net->config.two_node ? ", quorate" : ", quorate with the witness";
	snprintf(line + used, sizeof(line) - used, "%s", quorate);
	net->config.trace(net->config.trace_ctx, line);
}

static struct ring *ring_new(struct net *net, uint64_t members)
{
	struct ring *ring = calloc(1, sizeof(*ring));

	assert(ring);
	ring->net = net;
	ring->id = ++net->rings;
	ring->members = members;
	for (uint32_t id = 1; id <= net->config.node_count; id++)
		if (has(members, id) && net->nodes[id].seen_seq > ring->seq)
			ring->seq = net->nodes[id].seen_seq;
	ring->seq += 4;
	witness_on_ring(ring);
	votes_on_ring(ring);
	return ring;
}

static void ring_enter(struct ring *ring, struct net_node *node, uint64_t *same_ring)
{
	struct ring *old = node->ring;

	*same_ring = 0;
	if (old && has(old->procs, node->id)) {
		ring->procs |= node_bit(node->id);
		ring->generations[node->id] = old->generations[node->id];
	}
	for (uint32_t id = 1; old && id <= ring->net->config.node_count; id++)
		if (has(ring->members, id) && ring->net->nodes[id].ring == old)
			*same_ring |= node_bit(id) & old->procs;
}

static void ring_form(struct net *net, uint64_t members)
{
	struct ring *ring = ring_new(net, members);
	uint64_t same_ring[NODES_MAX + 1];
	uint64_t settled = 0;
	bool steps = prng_chance(net->prng, net->config.steps_permille);

	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		struct net_node *node = &net->nodes[id];
		if (!has(members, id))
			continue;
		ring_enter(ring, node, &same_ring[id]);
		if (node->ring && !has(settled, id)) {
			uint64_t together = 0;
			for (uint32_t other = id; other <= net->config.node_count; other++)
				if (has(members, other) && net->nodes[other].ring == node->ring)
					together |= node_bit(other);
			old_ring_settle(net, node->ring, together);
			settled |= together;
		}
	}
	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		struct net_node *node = &net->nodes[id];
		if (!has(members, id))
			continue;
		ring_leave(node);
		node->ring = ring;
		node->seen_seq = ring->seq;
		node->delivered = 0;
		ring->references++;
		outbox_settle(node);
		net_apart_note(node, members);
	}
	for (uint32_t id = 1; steps && id <= net->config.node_count; id++)
		if (has(members & ring->procs, id) && same_ring[id] != ring->procs)
			order_view(ring, node_bit(id), same_ring[id]);
	order_view(ring, members, ring->procs);
	for (uint32_t id = 1; id <= net->config.node_count; id++)
		if (has(members, id))
			net_outbox_arm(&net->nodes[id]);
	trace_ring(net, ring);
	witness_look_later(net);
}

static void reform_run(void *ctx)
{
	struct reform *reform = ctx;

	reform->item = NULL;
	ring_form(reform->net, reform->members);
}

/* Cancels what is no longer how the nodes reach each other; true when the set is awaited already. */
static bool reform_awaited(struct net *net, uint64_t members)
{
	bool awaited = false;

	for (uint32_t i = 0; i < NODES_MAX; i++) {
		struct reform *reform = &net->reforms[i];
		if (!reform->item || !(reform->members & members))
			continue;
		if (reform->members == members) {
			awaited = true;
			continue;
		}
		timeline_cancel(net->timeline, reform->item);
		reform->item = NULL;
	}
	return awaited;
}

static void reform_later(struct net *net, uint64_t members, bool lost)
{
	const struct net_config *config = &net->config;
	uint64_t delay_ms = lost ? config->lost_min_ms : config->merge_min_ms;

	if (!config->exact)
		delay_ms = prng_between(net->prng, delay_ms, lost ? config->lost_max_ms : config->merge_max_ms);

	for (uint32_t i = 0; i < NODES_MAX; i++) {
		struct reform *reform = &net->reforms[i];
		if (reform->item)
			continue;
		*reform = (struct reform){.members = members, .net = net};
		reform->item = timeline_after(net->timeline, delay_ms * 1000, reform_run, reform);
		return;
	}
	assert(!"more sets of nodes than nodes");
}

static void net_changed(struct net *net)
{
	uint64_t seen = 0;

	for (uint32_t i = 0; i < NODES_MAX; i++) {
		struct reform *reform = &net->reforms[i];
		uint32_t lowest = reform->item ? (uint32_t)__builtin_ctzll(reform->members) + 1 : 0;
		if (lowest && (!net->nodes[lowest].up || ring_reachable(net, lowest) != reform->members)) {
			timeline_cancel(net->timeline, reform->item);
			reform->item = NULL;
		}
	}
	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		struct net_node *node = &net->nodes[id];
		if (!node->up || has(seen, id))
			continue;
		uint64_t members = ring_reachable(net, id);
		seen |= members;
		bool lost = false;
		for (uint32_t other = id; other <= net->config.node_count; other++) {
			struct ring *ring = has(members, other) ? net->nodes[other].ring : NULL;
			if (!ring)
				continue;
			/* A member is away, or came back as another: the token is lost. */
			uint32_t still = 0;
			for (uint32_t m = 1; m <= net->config.node_count; m++)
				still += has(members, m) && net->nodes[m].ring == ring;
			if (still != votes(ring->members))
				ring->frozen = true;
			lost |= ring->frozen;
		}
		if (!reform_awaited(net, members) && !ring_is_whole(net, members))
			reform_later(net, members, lost);
	}
	witness_look_later(net);
}

void net_node_up(struct net *net, uint32_t id)
{
	struct net_node *node = &net->nodes[id];

	assert(!node->up);
	node->up = true;
	votes_reset(node);
	node->inbox_last_us = 0;
	memset(node->apart_us, 0, sizeof(node->apart_us));
	node->delivered = 0;
	if (node->process && node->process->wants_in)
		net_process_join(node);
	net_changed(net);
}

void net_node_down(struct net *net, uint32_t id)
{
	struct net_node *node = &net->nodes[id];

	if (!node->up)
		return;
	node->up = false;
	if (node->ring)
		node->ring->frozen = true;
	ring_leave(node);
	fifo_clear(&node->inbox);
	fifo_clear(&node->outbox);
	timeline_cancel(net->timeline, node->pump);
	timeline_cancel(net->timeline, node->order);
	node->pump = node->order = NULL;
	if (node->process && node->process->wants_in)
		net_process_lost(node);
	net_changed(net);
}

bool net_node_is_up(const struct net *net, uint32_t node)
{
	return net->nodes[node].up;
}

void net_forget_ring(struct net *net, uint32_t node)
{
	assert(!net->nodes[node].up);
	net->nodes[node].seen_seq = 0;
}

void net_set_side(struct net *net, uint32_t node, uint32_t side)
{
	if (net->nodes[node].side == side)
		return;
	net->nodes[node].side = side;
	net_changed(net);
}

void net_set_link(struct net *net, uint32_t a, uint32_t b, bool up)
{
	struct net_node *x = &net->nodes[a], *y = &net->nodes[b];

	if (a == b || !(x->cut & node_bit(b)) == up)
		return;
	x->cut ^= node_bit(b);
	y->cut ^= node_bit(a);
	net_changed(net);
}

void net_links_mend(struct net *net)
{
	uint64_t cut = 0;

	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		cut |= net->nodes[id].cut;
		net->nodes[id].cut = 0;
	}
	if (cut)
		net_changed(net);
}

uint64_t net_ring_members(const struct net *net, uint32_t node)
{
	return net->nodes[node].ring ? net->nodes[node].ring->members : 0;
}

bool net_ring_stands(const struct net *net, uint32_t node)
{
	return net->nodes[node].ring && !net->nodes[node].ring->frozen;
}

bool net_ring_quorate(const struct net *net, uint32_t node)
{
	return net->nodes[node].ring && ring_quorate(net->nodes[node].ring, node);
}
