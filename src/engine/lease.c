/* SPDX-License-Identifier: Apache-2.0
 * Proof that nobody else can have gone on without this node: as many members as a commit needs have answered, in this
 * view, something that this node sent a short time ago.
 *
 *   n1: LEASE(41, asks) ─────▶ n2, n3        n2: LEASE(90, seen n1:41) ──▶ n1: n2 was in this view after I sent 41
 *
 * Whoever commits a view without this node must have one of those members with him (two sets of that size meet), and
 * that one has answered before it went over. So the loss of this node can only be known later than the question was
 * sent. That corosync's process answers would not be enough: one that was stopped and goes on believes in its old ring
 * until it has missed the token, and finds an old token in its socket.
 *
 * The answers count only while this node's log is as young as anybody's (in sync, or before that when all have said
 * what they have and nobody knows more): else a view without it may have been committed before it came back. What it takes
 * from those who know more makes it no younger: only when its return is committed has their time for its end begun anew.
 *
 * Volatile: nothing of this is in the log. Nodes without a watchdog answer and do not ask; where nobody asks, nothing
 * is sent. */
#include "core/timing.h"
#include "engine/internal.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

enum { ANSWER_FOR_PERIODS = 8 }; /* a member that has not asked for so long needs no answers */

struct lease_seen {
	uint32_t node;
	uint64_t seq;
};

/* The payload of MESSAGE_LEASE. */
struct lease_message {
	uint64_t seq;
	bool asks;
	bool hurries; /* its lease is over: answer at once, not at the next turn */
	uint32_t seen_count;
	struct lease_seen seen[NODES_MAX];
};

static const struct field seen_fields[] = {
	SCHEMA_U32(1, lease_seen, node),
	SCHEMA_U64(2, lease_seen, seq),
};
static SCHEMA_DEFINE(lease_seen_schema, lease_seen, seen_fields);

static const struct field lease_fields[] = {
	SCHEMA_U64(1, lease_message, seq),
	SCHEMA_BOOL(2, lease_message, asks),
	SCHEMA_LIST(3, lease_message, seen, seen_count, &lease_seen_schema),
	SCHEMA_BOOL(4, lease_message, hurries),
};
static SCHEMA_DEFINE(lease_schema, lease_message, lease_fields);

static struct lease_sent *sent_slot(struct lease *lease, uint64_t seq)
{
	return &lease->sent[seq % LEASE_SENT_MAX];
}

void lease_on_view(struct engine *engine)
{
	struct lease *lease = &engine->lease;

	memset(lease->answered_ms, 0, sizeof(lease->answered_ms));
	memset(lease->seen, 0, sizeof(lease->seen));
	lease->first_seq = lease->seq + 1;
	lease->current = false;
}

void lease_send(struct engine *engine, bool asks)
{
	struct lease *lease = &engine->lease;
	struct lease_message lease_message = {
		.seq = ++lease->seq, .asks = asks, .hurries = asks && engine->selffence.late};
	struct message message = {.kind = MESSAGE_LEASE};
	uint8_t bytes[4096];

	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (lease->seen[id - 1])
			lease_message.seen[lease_message.seen_count++] =
				(struct lease_seen){.node = id, .seq = lease->seen[id - 1]};
	message.payload_size = schema_encode(&lease_schema, &lease_message, bytes, sizeof(bytes));
	assert(message.payload_size <= sizeof(bytes));
	/* The time before it is on its way: an answer proves nothing about an earlier one. */
	*sent_slot(lease, lease->seq) =
		(struct lease_sent){.seq = lease->seq, .at_ms = loop_now_ms(engine->ports.loop)};
	/* One that does not get out is followed by the next. */
	engine_send(engine, &message, bytes);
}

/* When the youngest question was sent that enough members have answered; 0: none. */
static uint64_t answered_by_enough(const struct engine *engine)
{
	uint32_t needed = sync_needed(engine);
	uint64_t best = 0;

	for (uint32_t i = 0; i < NODES_MAX; i++) {
		uint64_t at = engine->lease.answered_ms[i];
		uint32_t have = 0;
		if (at <= best)
			continue;
		for (uint32_t j = 0; j < NODES_MAX; j++)
			have += engine->lease.answered_ms[j] >= at;
		if (have >= needed)
			best = at;
	}
	return best;
}

static void lease_count(struct engine *engine)
{
	if (engine->sync != SYNC_DONE && !engine->lease.current)
		return;
	uint64_t at = answered_by_enough(engine);
	if (at <= engine->lease.proven_ms)
		return;
	engine->lease.proven_ms = at;
	if (engine->selffence.late)
		selffence_turn_hurried(engine);
}

void lease_on_current(struct engine *engine)
{
	engine->lease.current = !engine->lease.behind &&
		engine->lease.proven_ms != 0; /* before its first sync a daemon has no history of its own */
	lease_count(engine);
}

void lease_on_behind(struct engine *engine)
{
	engine->lease.behind = true;
}

/* The members that committed the view's first event had this node's STATE before. */
void lease_on_synced(struct engine *engine)
{
	engine->lease.behind = false;
	if (engine->lease.stated_ms > engine->lease.proven_ms)
		engine->lease.proven_ms = engine->lease.stated_ms;
	lease_count(engine);
}

void lease_on_message(struct engine *engine, uint32_t from, const uint8_t *payload, size_t size)
{
	struct lease *lease = &engine->lease;
	struct lease_message message;
	uint32_t self = engine->ports.group->node;
	struct err err;

	if (schema_decode(&lease_schema, payload, size, &message, &err) < 0) {
		engine->dropped++;
		return;
	}
	if (message.asks && from != self) {
		lease->seen[from - 1] = message.seq;
		lease->asked_ms = loop_now_ms(engine->ports.loop);
		if (message.hurries)
			selffence_turn_hurried(engine);
		else
			selffence_turn_later(engine);
	}
	/* Its own message has come round: this node answers itself. */
	for (uint32_t i = 0; from == self || i < message.seen_count; i++) {
		uint64_t seq = from == self ? message.seq : message.seen[i].seq;
		const struct lease_sent *sent = sent_slot(lease, seq);
		bool mine = from == self || message.seen[i].node == self;
		if (mine && seq >= lease->first_seq && sent->seq == seq && sent->at_ms > lease->answered_ms[from - 1])
			lease->answered_ms[from - 1] = sent->at_ms;
		if (from == self)
			break;
	}
	lease_count(engine);
}

bool lease_is_asked(const struct engine *engine)
{
	uint64_t period = timing_lease_period_ms(group_token_ms(engine->ports.group));

	return engine->lease.asked_ms &&
	       loop_now_ms(engine->ports.loop) < engine->lease.asked_ms + ANSWER_FOR_PERIODS * period;
}
