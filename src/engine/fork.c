/* SPDX-License-Identifier: Apache-2.0
 * Whether what two members have is one history, and whose goes on (decision 0030).
 *
 * Of two nodes that each were told that the other one is off both go on; so do nodes that an administrator made a quorum
 * while the others lived. When they meet there are two histories, perhaps of equal index and term. No two views have one
 * nonce, and within a view there is one order: so two logs that have the same last view at or below an index are the
 * same up to there. Each member tells its newest views; what it cannot be told by them (it was away for longer than
 * VIEWS_MAX views, or runs an older program) is taken for the same, as long as nothing contradicts it. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

static void mark_add(struct message *state, uint64_t index, uint64_t nonce)
{
	if (state->view_count == VIEWS_MAX)
		memmove(state->views, state->views + 1, --state->view_count * sizeof(state->views[0]));
	state->views[state->view_count++] = (struct view_mark){.index = index, .nonce = nonce};
}

/* What is applied is committed. So is, after a restart, what is on disk here of a view of this node alone: nobody else's
 * disk was needed. */
void fork_state(const struct engine *engine, struct message *state)
{
	CLEANUP_FREE struct event *event = malloc(sizeof(*event));
	uint64_t self = node_bit(engine->ports.group->node);
	bool alone = engine->cluster->members == self;

	assert(event);
	state->committed = engine->cluster->index;
	state->lost_above = engine->lost_above;
	state->lost_to = engine->lost_to;
	state->view_count = engine->cluster->view_count;
	memcpy(state->views, engine->cluster->views, sizeof(state->views));
	for (size_t i = 0; i < engine->tail.count; i++) {
		const struct entry *entry = &engine->tail.items[i];
		if (!schema_decode(&event_schema, entry->bytes, entry->size, event, NULL) && event->kind == EVENT_VIEW) {
			mark_add(state, entry->index, event->nonce);
			alone = event->members == self;
		}
		if (alone && entry->index <= engine->durable)
			state->committed = entry->index; /* and with it all that is below */
	}
}

bool fork_peer(struct peer *peer, const struct message *state)
{
	uint64_t committed = state->committed ? state->committed : state->applied;

	if (committed < state->applied || committed > state->index)
		return false;
	for (uint32_t i = 0; i < state->view_count; i++)
		if (state->views[i].index > state->index || (i && state->views[i].index <= state->views[i - 1].index))
			return false;
	peer->committed = committed;
	peer->lost_above = state->lost_above;
	peer->lost_to = state->lost_to;
	peer->view_count = state->view_count;
	memcpy(peer->views, state->views, sizeof(peer->views));
	return true;
}

/* The newest view at or below index; NULL: not known. */
static const struct view_mark *view_at(const struct peer *peer, uint64_t index)
{
	for (uint32_t i = peer->view_count; i; i--)
		if (peer->views[i - 1].index <= index)
			return &peer->views[i - 1];
	return NULL;
}

static bool same_view(const struct view_mark *a, const struct view_mark *b)
{
	return a->index == b->index && a->nonce == b->nonce;
}

bool fork_holds(const struct peer *whole, const struct peer *part)
{
	const struct view_mark *there = view_at(whole, part->committed), *here = view_at(part, part->committed);

	if (!part->committed)
		return true;
	if (whole->index < part->committed || (whole->applied == part->applied && whole->digest != part->digest))
		return false;
	return !there || !here || same_view(there, here);
}

/* Where the next view after index begins, or the log's end. */
static uint64_t view_end(const struct peer *peer, uint64_t index)
{
	for (uint32_t i = 0; i < peer->view_count; i++)
		if (peer->views[i].index > index)
			return peer->views[i].index - 1;
	return peer->index;
}

uint64_t fork_index(const struct peer *a, const struct peer *b)
{
	for (uint32_t i = a->view_count; i; i--) {
		const struct view_mark *mark = &a->views[i - 1], *other = view_at(b, mark->index);
		if (!other || !same_view(mark, other))
			continue;
		uint64_t end_a = view_end(a, mark->index), end_b = view_end(b, mark->index);
		return end_a < end_b ? end_a : end_b;
	}
	return 0;
}

/* By Raft's rule (Ongaro and Ousterhout 2014, §5.4.1): the younger term, then the longer log. */
static bool younger(const struct peer *a, const struct peer *b)
{
	return a->term != b->term ? a->term > b->term : a->index > b->index;
}

/* Where there is one history, some member holds what each has committed, whatever its term: among such the youngest. Where
 * there are two, the one that more members have part in; of equals the one in which more was committed. */
uint32_t fork_best(const struct engine *engine)
{
	uint32_t best = 0, most = 0, told = 0;

	for (uint32_t i = 0; i < NODES_MAX; i++)
		told += engine->peers[i].told;
	for (uint32_t id = 1; id <= NODES_MAX; id++) {
		const struct peer *peer = &engine->peers[id - 1], *before = best ? &engine->peers[best - 1] : NULL;
		uint32_t held = 0;
		if (!peer->told)
			continue;
		for (uint32_t i = 0; i < NODES_MAX; i++)
			held += engine->peers[i].told && fork_holds(peer, &engine->peers[i]);
		bool better = !before || held > most;
		if (before && held == most)
			better = held < told && peer->committed != before->committed ? peer->committed > before->committed
										    : younger(peer, before);
		if (!better)
			continue;
		best = id;
		most = held;
	}
	return best;
}

void fork_report(const struct engine *engine, uint32_t node, struct member_boot *boot)
{
	const struct peer *peer = &engine->peers[node - 1], *best = &engine->peers[engine->best - 1];

	boot->forked = !fork_holds(best, peer) || peer->lost_to;
	if (!boot->forked)
		return;
	/* Told with a STATE of before, in a sync that did not come to its end. */
	boot->fork_index = peer->lost_to ? peer->lost_above : fork_index(peer, best);
	boot->committed = peer->lost_to ? peer->lost_to : peer->committed;
}

void fork_drop(struct engine *engine)
{
	const struct peer *own = &engine->peers[engine->ports.group->node - 1];
	const struct peer *best = &engine->peers[engine->best - 1];

	if (fork_holds(best, own))
		return;
	engine->lost_above = fork_index(own, best);
	engine->lost_to = own->committed;
	engine_trace(engine, "what was committed here behind %llu, up to %llu, is not in the history that goes on: dropped",
		(unsigned long long)engine->lost_above, (unsigned long long)engine->lost_to);
	engine->ports.store->ops->dropped(engine->ports.store, engine->lost_above, engine->lost_to);
	history_rewind(engine, engine->lost_above);
	fence_stop(engine);
	memset(engine->locals, 0, VMS_MAX * sizeof(*engine->locals));
}

void fork_applied(struct engine *engine, const struct event *event)
{
	for (uint32_t i = 0; event->kind == EVENT_VIEW && i < event->boot_count; i++) {
		if (!event->boots[i].forked || event->boots[i].node != engine->ports.group->node)
			continue;
		engine->lost_above = engine->lost_to = 0;
		engine->ports.store->ops->dropped(engine->ports.store, 0, 0);
	}
}
