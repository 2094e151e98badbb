/* SPDX-License-Identifier: Apache-2.0
 * The witness of a simulated cluster: corosync-qnetd with ffsplit on a machine of its own, a corosync-qdevice in each node.
 *
 * It has one vote. Of the parts into which the network has fallen, and of which it reaches a node, the largest has it, of
 * equal ones the one where it reaches more nodes, then the one with the lowest node; never less than half of the nodes. A
 * node counts the vote when it reaches the witness itself. Who loses the vote hears so at once, and in the order
 * of messages it is nobody else's matter; who gets it in a ring that stands already hears so with all of the ring, as
 * driver/corosync does by its marker. No two parts have it at once: it is taken away first. */
#include "driver/fake/ring.h"

#include <stdio.h>

enum { LOOK_EXACT_MS = 500, LOOK_MIN_MS = 50, LOOK_MAX_MS = 3000 };

static bool has(uint64_t set, uint32_t node)
{
	return set & node_bit(node);
}

static uint32_t votes(uint64_t set)
{
	return (uint32_t)__builtin_popcountll(set);
}

/* The nodes that are to count its vote. */
static uint64_t favoured(const struct net *net)
{
	uint64_t best = 0, seen = 0, reached = ~net->witness_cut;

	for (uint32_t id = 1; id <= net->config.node_count && !net->witness_down; id++) {
		if (!net->nodes[id].up || has(seen, id))
			continue;
		uint64_t part = ring_reachable(net, id);
		seen |= part;
		if (!(part & reached) || 2 * votes(part) < net->config.node_count)
			continue;
		if (!best || votes(part) > votes(best) ||
			(votes(part) == votes(best) && votes(part & reached) > votes(best & reached)))
			best = part;
	}
	return best & reached;
}

/* The ring that a node stands in, NULL while it is between two. */
static struct ring *standing(const struct net *net, uint32_t id)
{
	struct ring *ring = net->nodes[id].up ? net->nodes[id].ring : NULL;

	return ring && !ring->frozen ? ring : NULL;
}

static bool held_outside(const struct net *net, const struct ring *ring)
{
	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		/* Its members have left theirs, whether they know so already or not. */
		const struct ring *other = has(ring->members, id) ? NULL : standing(net, id);
		if (other && other->voted)
			return true;
	}
	return false;
}

void witness_on_ring(struct ring *ring)
{
	struct net *net = ring->net;

	if (net->config.witness && !held_outside(net, ring))
		ring->voted = ring->members & favoured(net);
}

static void trace_vote(struct net *net, uint32_t node, bool votes_here)
{
	char line[64];

	if (!net->config.trace)
		return;
	snprintf(line, sizeof(line), "n%u: the witness %s", node, votes_here ? "votes here" : "does not vote here");
	net->config.trace(net->config.trace_ctx, line);
}

static bool take_votes(struct net *net, uint64_t wanted)
{
	bool taken = false;

	for (uint32_t id = 1; id <= net->config.node_count; id++) {
		struct ring *ring = standing(net, id);
		if (!ring || !has(ring->voted & ~wanted, id))
			continue;
		bool was = ring_view_quorate(ring, id, ring->procs);
		ring->voted &= ~node_bit(id);
		taken = true;
		trace_vote(net, id, false);
		if (was && !ring_view_quorate(ring, id, ring->procs))
			ring_tell(ring, node_bit(id));
	}
	return taken;
}

static void give_votes(struct ring *ring, uint64_t given)
{
	bool told = false;

	for (uint32_t id = 1; id <= ring->net->config.node_count; id++) {
		if (!has(given, id))
			continue;
		bool was = ring_view_quorate(ring, id, ring->procs);
		ring->voted |= node_bit(id);
		votes_count(ring, id);
		trace_vote(ring->net, id, true);
		told |= !was && ring_view_quorate(ring, id, ring->procs);
	}
	if (told)
		ring_tell(ring, ring->members);
}

static void look_run(void *ctx)
{
	struct net *net = ctx;
	uint64_t wanted = favoured(net);
	bool again = take_votes(net, wanted);

	net->witness_look = NULL;
	for (uint32_t id = 1; id <= net->config.node_count && !again; id++) {
		struct ring *ring = standing(net, id);
		if (!ring || ring->members != ring_reachable(net, id) || !(wanted & ring->members & ~ring->voted))
			continue;
		if (held_outside(net, ring))
			again = true;
		else
			give_votes(ring, wanted & ring->members & ~ring->voted);
	}
	if (again)
		witness_look_later(net);
}

void witness_look_later(struct net *net)
{
	uint64_t delay_ms = LOOK_EXACT_MS;

	if (!net->config.witness || net->witness_look)
		return;
	if (!net->config.exact)
		delay_ms = prng_between(net->prng, LOOK_MIN_MS, LOOK_MAX_MS);
	net->witness_look = timeline_after(net->timeline, delay_ms * 1000, look_run, net);
}

void net_witness_up(struct net *net, bool up)
{
	net->witness_down = !up;
	witness_look_later(net);
}

void net_witness_link(struct net *net, uint32_t node, bool up)
{
	if (up)
		net->witness_cut &= ~node_bit(node);
	else
		net->witness_cut |= node_bit(node);
	witness_look_later(net);
}

void net_witness_mend(struct net *net)
{
	if (!net->witness_down && !net->witness_cut)
		return;
	net->witness_down = false;
	net->witness_cut = 0;
	witness_look_later(net);
}
