/* SPDX-License-Identifier: Apache-2.0
 * votequorum on the simulated nodes (corosync 3.1, exec/votequorum.c): how many votes each expects, how many it needs.
 *
 * Each node has a number of votes that it expects: all nodes', and the witness's. It needs more than half of it; what
 * it needs does not sink by itself. An administrator who forces quorum lowers both, on all nodes of the ring at once,
 * to the votes that are there. Who comes to nodes that are quorate, and is not, expects what they do, and no fewer
 * votes than are there; who comes to nodes that are not quorate keeps its own number, so that members of one ring may
 * differ. (Seen with corosync 3.1.7: two of four are forced, expect 2 and need 2; a third comes: all three expect 3 and
 * need 2; it goes: the two still do. One of the two forced alone, expecting 2, and another that starts anew, expecting
 * 4: the one is quorate, the other is not.) */
#include "driver/fake/ring.h"

#include <stdio.h>

static bool has(uint64_t set, uint32_t node)
{
	return set & node_bit(node);
}

static uint32_t count(uint64_t set)
{
	return (uint32_t)__builtin_popcountll(set);
}

static uint32_t cast(const struct ring *ring, uint32_t node)
{
	return count(ring->members) + has(ring->voted, node);
}

void votes_reset(struct net_node *node)
{
	node->votes_expected = node->votes_highest = node->net->config.node_count + node->net->config.witness;
	node->votes_needed = node->votes_expected / 2 + 1;
	node->met_all = false;
}

/* Before its new ring; of those with whom it was only who comes along counts. */
static bool was_quorate(const struct ring *ring, const struct net_node *node)
{
	const struct ring *old = node->ring;

	return old && count(old->members & ring->members) + has(old->voted, node->id) >= node->votes_needed;
}

void votes_count(const struct ring *ring, uint32_t id)
{
	struct net_node *node = &ring->net->nodes[id];

	if (node->votes_expected < cast(ring, id))
		node->votes_expected = cast(ring, id);
	if (node->votes_highest < node->votes_expected)
		node->votes_highest = node->votes_expected;
	if (node->votes_needed < node->votes_highest / 2 + 1)
		node->votes_needed = node->votes_highest / 2 + 1;
}

void votes_on_ring(struct ring *ring)
{
	struct net *net = ring->net;
	uint64_t quorate = 0;
	uint32_t highest = 0;

	if (net->config.two_node && count(ring->members) == 2)
		net->nodes[1].met_all = net->nodes[2].met_all = true;
	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		struct net_node *node = &net->nodes[id];
		if (!has(ring->members, id) || !was_quorate(ring, node))
			continue;
		quorate |= node_bit(id);
		highest = highest < node->votes_expected ? node->votes_expected : highest;
	}
	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		struct net_node *node = &net->nodes[id];
		if (!has(ring->members, id))
			continue;
		if (quorate && !has(quorate, id)) {
			node->votes_expected = highest;
			node->votes_needed = 0;
		}
		node->votes_highest = node->votes_expected > highest ? node->votes_expected : highest;
		votes_count(ring, id);
	}
}

bool ring_quorate(const struct ring *ring, uint32_t node)
{
	const struct net *net = ring->net;

	if (net->config.two_node)
		return net->nodes[__builtin_ctzll(ring->members) + 1].met_all;
	return cast(ring, node) >= net->nodes[node].votes_needed;
}

bool ring_view_quorate(const struct ring *ring, uint32_t node, uint64_t members)
{
	const struct net *net = ring->net;

	return ring_quorate(ring, node) &&
	       (net->config.two_node || count(members) + has(ring->voted, node) >= net->nodes[node].votes_needed);
}

uint32_t ring_votes_expected(const struct ring *ring, uint32_t node, uint64_t members)
{
	uint32_t expected = ring->net->nodes[node].votes_highest;

	if (ring->net->config.witness)
		expected = expected > 1 + count(members) ? expected - 1 : count(members);
	return expected;
}

/* Nothing comes of it while a ring forms: corosync refuses to be asked then. */
void votes_force(struct net_node *asked)
{
	struct ring *ring = asked->ring;
	struct net *net = asked->net;
	char line[64];

	if (!asked->up || !ring || ring->frozen)
		return;
	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		struct net_node *node = &net->nodes[id];
		if (!has(ring->members, id))
			continue;
		node->votes_expected = node->votes_highest = count(ring->members);
		node->votes_needed = node->votes_expected / 2 + 1;
		node->met_all = true;
	}
	snprintf(line, sizeof(line), "ring %llu: quorum is forced, expected votes: %u", (unsigned long long)ring->seq,
		count(ring->members));
	if (net->config.trace)
		net->config.trace(net->config.trace_ctx, line);
	ring_tell(ring, ring->members);
}
