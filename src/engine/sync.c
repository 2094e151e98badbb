/* SPDX-License-Identifier: Apache-2.0
 * A new view: everybody comes to the same history before anybody acts (design §4).
 *
 *   view ──▶ lowest member: BEGIN(nonce) ──▶ all: STATE(nonce, what I have) ──▶ all know who is best: the youngest term,
 *   then the longest log, then the lowest id ──▶ best: TRAIL…, SNAPSHOT…, ENTRY…, END ──▶ all: that log and the new term are on
 *   disk here (ACK) ──▶ enough members: lowest member: the view event, first of the term ──▶ durable at enough ──▶ done
 *
 * Whose log is the best, and what becomes of a history that two halves have gone on with apart: fork.c.
 *
 * The nonce ties the STATEs to this view: one that was sent in an earlier view and is delivered now would speak of a log
 * that has grown since, and a committed entry could be left out. The pledge makes a term one view's own: before its first
 * event exists anywhere, a majority has the term on disk, so that no later view can come to the same number, also when
 * every daemon that had the event in memory was killed. Two entries of equal index and term are the same entry. Nothing of the own log is dropped before all of its
 * replacement is here, and both become durable at once. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

static void transfer_reset(struct engine *engine)
{
	loop_timer_cancel(engine->ports.loop, engine->transfer_timer);
	engine->transfer_timer = NULL;
	entries_clear(&engine->incoming);
	free(engine->snapshot.bytes);
	free(engine->trail.bytes);
	engine->snapshot = engine->trail = (struct blob){0};
	engine->transfer_entry = 0;
}

void sync_out(struct engine *engine, const char *why)
{
	bool was_in = engine->sync != SYNC_OUT;

	if (was_in)
		engine->out_ms = loop_now_ms(engine->ports.loop);
	half_end(engine);
	engine->sync = SYNC_OUT;
	engine->last_of_two = engine->sole = false;
	engine->sole_over = 0;
	engine->view.quorate = false;
	transfer_reset(engine);
	snprintf(engine->out_reason, sizeof(engine->out_reason), "%.200s", why);
	if (was_in)
		engine_trace(engine, "out of the view: %s", why);
	fence_stop(engine);
	service_view_lost(engine);
	engine_status_changed(engine);
}


static void send_begin(struct engine *engine)
{
	struct message begin = {.kind = MESSAGE_BEGIN};

	/* Differs from every nonce that this or another daemon has used: node, start, count. */
	engine->nonce_count++;
	begin.nonce = (engine->config.incarnation * 64 + engine->ports.group->node) ^ (engine->nonce_count << 48);
	engine_send(engine, &begin, NULL);
}

/* Out by one's own choice: the others go on without this node; the new view at its return brings it up to date. */
void sync_leave(struct engine *engine, const char *why)
{
	group_leave(engine->ports.group);
	engine->rejoin_ms = loop_now_ms(engine->ports.loop) + REJOIN_MS;
	sync_out(engine, why);
}

/* Neither out nor done, and nothing has come for so long. */
static bool stands_still(const struct engine *engine, uint64_t limit_ms)
{
	return engine->sync > SYNC_HALF && engine->sync != SYNC_DONE &&
	       loop_now_ms(engine->ports.loop) > engine->sync_since_ms + limit_ms;
}

void sync_look(struct engine *engine)
{
	uint64_t now = loop_now_ms(engine->ports.loop);

	if (engine->rejoin_ms && now >= engine->rejoin_ms && !engine->flush_since_ms && !reconcile_is_stuck(engine)) {
		engine->rejoin_ms = 0;
		group_join(engine->ports.group);
	} else if (!engine->rejoin_ms && engine->flush_since_ms &&
		   now > engine->flush_since_ms + engine->config.disk_limit_ms) {
		sync_leave(engine, "the disk does not answer; waiting for it");
	} else if (engine_lowest(engine) == engine->ports.group->node && stands_still(engine, SYNC_AGAIN_MS)) {
		engine->sync_since_ms = now;
		send_begin(engine);
	} else if (stands_still(engine, SYNC_LIMIT_MS)) {
		sync_leave(engine, "the others do not begin to sync; joining anew");
	}
}

/* The newest view event in the log, committed or not. */
static uint64_t last_view(const struct engine *engine)
{
	CLEANUP_FREE struct event *event = malloc(sizeof(*event));
	uint64_t members = engine->cluster->members;

	assert(event);
	for (size_t i = 0; i < engine->tail.count; i++) {
		const struct entry *entry = &engine->tail.items[i];
		if (!schema_decode(&event_schema, entry->bytes, entry->size, event, NULL) && event->kind == EVENT_VIEW)
			members = event->members;
	}
	return members;
}

/* Quorum counts the nodes of the ring, but only daemons keep the log: a majority of them must be here, or a history
 * could be committed that the next view knows nothing of.
 *
 * Of two nodes one may go on alone, and only the one that cannot have missed anything: it was synced with the other and
 * not out since, or its log says that it was alone already. (The other's log would not say so: what two commit together
 * both have on disk.) */
static bool enough_members(struct engine *engine, const struct group_view *view, char *why, size_t size)
{
	uint32_t members = (uint32_t)__builtin_popcountll(view->members);
	uint32_t needed = view->expected_votes / 2 + 1;

	if (members >= needed)
		engine->forced = false;
	if (members >= needed || engine->forced)
		return true;
	if (view->expected_votes != 2) {
		snprintf(why, size, "only %u of %u nodes' daemons are here, %u are needed", members,
			view->expected_votes, needed);
		return false;
	}
	snprintf(why, size, "the other node's daemon is not here, and may know more than this one");
	return engine->last_of_two || last_view(engine) == view->members;
}

/* Alone in its ring, and the witness's vote has not come yet, or has gone: this one is still the last that was synced with the
 * other. Without the other's power proven off nobody goes on (half.c), and this daemon runs. */
static bool waits_for_the_witness(const struct engine *engine, const struct group_view *view)
{
	return view->witness && view->expected_votes == 2 && !view->quorate &&
	       view->members == node_bit(engine->ports.group->node) && view->ring == view->members;
}

static void no_view(struct engine *engine, const struct group_view *view)
{
	char why[REASON_BYTES];
	bool last_of_two = engine->last_of_two && waits_for_the_witness(engine, view);

	if (view->quorate || !view->stranger[0]) {
		sync_out(engine, view->quorate ? "this node is not in the view" : "no quorum");
		engine->last_of_two = last_of_two;
		return;
	}
	snprintf(why, sizeof(why), "no quorum: the others here run cluster %s, this node is configured for cluster %s",
		view->stranger, engine->config.cluster_uuid);
	sync_out(engine, why);
}

void sync_on_view(void *ctx, const struct group_view *view)
{
	struct engine *engine = ctx;
	char why[REASON_BYTES];

	engine->view = *view;
	engine->in_group = true;
	transfer_reset(engine);
	memset(engine->peers, 0, sizeof(engine->peers));
	engine->nonce = 0;
	lease_on_view(engine);
	if (!view->quorate || !(view->members & node_bit(engine->ports.group->node))) {
		no_view(engine, view);
		return;
	}
	if (!enough_members(engine, view, why, sizeof(why))) {
		sync_out(engine, why);
		return;
	}
	if (view->members & ~node_bit(engine->ports.group->node)) {
		engine->sole = false;
		engine->sole_over = 0;
	} else if (view->expected_votes == 2 && (view->ring & ~view->members)) {
		engine->sole = true; /* its daemon is away, and waits for this one when it starts */
	}
	if (half_waits(engine, view, last_view(engine) == view->members)) {
		service_view_lost(engine);
		half_begin(engine);
		return;
	}
	half_end(engine);
	sync_begin(engine);
}

void sync_begin(struct engine *engine)
{
	fence_spare(engine);
	engine->sync = SYNC_BEGIN;
	engine->sync_since_ms = loop_now_ms(engine->ports.loop);
	service_view_lost(engine);
	snprintf(engine->out_reason, sizeof(engine->out_reason), "a new view is being synced");
	if (engine_lowest(engine) == engine->ports.group->node)
		send_begin(engine);
	engine_status_changed(engine);
}

/* A sync is begun again when it stands still, not when it takes long: a large state over a slow network never ended. */
static void sync_goes_on(struct engine *engine)
{
	engine->sync_since_ms = loop_now_ms(engine->ports.loop);
}

static void on_begin(struct engine *engine, uint32_t from, const struct message *message)
{
	struct message state = {.kind = MESSAGE_STATE, .nonce = message->nonce};

	if (from != engine_lowest(engine) || engine->sync <= SYNC_HALF || !message->nonce ||
		message->nonce == engine->nonce)
		return;
	transfer_reset(engine);
	memset(engine->peers, 0, sizeof(engine->peers));
	engine->nonce = message->nonce;
	service_view_lost(engine);
	engine->sync = SYNC_COLLECT;
	engine->sync_since_ms = loop_now_ms(engine->ports.loop);
	state.term = engine->last_term;
	state.index = log_last_index(engine);
	state.applied = engine->cluster->index;
	state.digest = engine->cluster->digest;
	state.trail = engine->history_index;
	state.now_ms = engine_told_ms(engine);
	fork_state(engine, &state);
	memcpy(state.boot_id, engine->config.boot_id, sizeof(state.boot_id));
	state.pledged = engine->pledged > engine->term ? engine->pledged : engine->term;
	engine->lease.current = false;
	engine->lease.stated_ms = loop_now_ms(engine->ports.loop);
	engine_send(engine, &state, NULL);
}

/* Who cannot go on from the best member's log alone, and needs its applied state. */
static bool snapshot_needed(const struct peer *peer, const struct peer *best)
{
	return peer->told && (peer->applied < best->applied || !fork_holds(best, peer));
}

static void transfer_send(void *ctx);

static void transfer_later(struct engine *engine)
{
	if (!engine->transfer_timer)
		engine->transfer_timer = loop_timer_set(engine->ports.loop, SEND_AGAIN_MS, transfer_send, engine);
}

static bool send_piece(struct engine *engine, enum message_kind kind, struct blob *blob)
{
	size_t left = blob->size - blob->at;
	struct message message = {
		.kind = kind,
		.nonce = engine->nonce,
		.index = engine->cluster->index,
		.term = engine->snapshot_term,
		.digest = engine->cluster->digest,
		.offset = blob->at,
		.total = blob->size,
		.payload_size = left < MESSAGE_CHUNK_BYTES ? left : MESSAGE_CHUNK_BYTES,
	};

	if (engine_send(engine, &message, blob->bytes + blob->at) < 0)
		return false;
	blob->at += (size_t)message.payload_size;
	return true;
}

/* One step of the transfer, by the best member; returns false when the group's queue is full. */
static bool transfer_one(struct engine *engine, bool *done)
{
	struct message message = {.nonce = engine->nonce};

	*done = false;
	if (engine->trail.at < engine->trail.size)
		return send_piece(engine, MESSAGE_TRAIL, &engine->trail);
	if (engine->snapshot.at < engine->snapshot.size)
		return send_piece(engine, MESSAGE_SNAPSHOT, &engine->snapshot);
	if (engine->transfer_entry < engine->tail.count) {
		const struct entry *entry = &engine->tail.items[engine->transfer_entry];
		message.kind = MESSAGE_ENTRY;
		message.index = entry->index;
		message.term = entry->term;
		message.payload_size = entry->size;
		if (engine_send(engine, &message, entry->bytes) < 0)
			return false;
		engine->transfer_entry++;
		return true;
	}
	message.kind = MESSAGE_END;
	message.index = log_last_index(engine);
	*done = engine_send(engine, &message, NULL) == 0;
	return *done;
}

static void transfer_send(void *ctx)
{
	struct engine *engine = ctx;
	bool done = false;

	engine->transfer_timer = NULL;
	if (engine->sync != SYNC_TRANSFER || engine->best != engine->ports.group->node)
		return;
	while (!done)
		if (!transfer_one(engine, &done)) {
			transfer_later(engine);
			return;
		}
}

/* The term of the last applied entry: what a member that takes the snapshot may claim. */
static uint64_t applied_term(const struct engine *engine)
{
	return engine->tail.count && engine->tail.items[0].term < engine->last_term ? engine->tail.items[0].term
										      : engine->last_term;
}

static void begin_transfer(struct engine *engine)
{
	const struct peer *best = &engine->peers[engine->best - 1];
	uint64_t trail = UINT64_MAX; /* what all have who need the state */

	engine->sync = SYNC_TRANSFER;
	if (engine->best != engine->ports.group->node)
		return;
	for (uint32_t i = 0; i < NODES_MAX; i++) {
		const struct peer *peer = &engine->peers[i];
		if (!snapshot_needed(peer, best))
			continue;
		uint64_t have = fork_holds(best, peer) ? peer->trail : fork_index(peer, best);
		trail = have < trail ? have : trail;
	}
	if (trail != UINT64_MAX) {
		struct blob *snapshot = &engine->snapshot;
		snapshot->size = schema_encode(&cluster_schema, engine->cluster, NULL, 0);
		snapshot->bytes = malloc(snapshot->size);
		assert(snapshot->bytes);
		schema_encode(&cluster_schema, engine->cluster, snapshot->bytes, snapshot->size);
		engine->snapshot_term = applied_term(engine);
		engine->trail.bytes = history_collect(engine, trail, &engine->trail.size);
	}
	transfer_send(engine);
}

static void on_state(struct engine *engine, uint32_t from, const struct message *message)
{
	uint64_t term = engine->view.ring_seq;

	/* Nobody has applied what he does not have: such a message would leave no best member. */
	if (engine->sync != SYNC_COLLECT || message->nonce != engine->nonce || message->applied > message->index)
		return;
	struct peer told = {.told = true,
		.term = message->term,
		.index = message->index,
		.applied = message->applied,
		.digest = message->digest,
		.trail = message->trail,
		.pledged = message->pledged};
	if (!fork_peer(&told, message)) {
		engine->dropped++;
		return;
	}
	sync_goes_on(engine);
	engine_clock_hear(engine, message->now_ms);
	memcpy(told.boot_id, message->boot_id, sizeof(told.boot_id));
	engine->peers[from - 1] = told;
	engine->best = 0;
	for (uint32_t id = 1; id <= NODES_MAX; id++) {
		const struct peer *peer = &engine->peers[id - 1];
		if (!(engine->view.members & node_bit(id)))
			continue;
		if (!peer->told)
			return;
		/* Rises also when corosync has lost its own ring number. */
		if (peer->term >= term)
			term = peer->term + 1;
		if (peer->pledged >= term)
			term = peer->pledged + 1;
	}
	engine->best = fork_best(engine);
	engine->term = term;
	const struct peer *own = &engine->peers[engine->ports.group->node - 1];
	const struct peer *best = &engine->peers[engine->best - 1];
	if (own->term == best->term && own->index == best->index && fork_holds(best, own))
		lease_on_current(engine);
	begin_transfer(engine);
}

static void on_piece(struct blob *blob, const struct message *message, const uint8_t *payload)
{
	enum { BLOB_BYTES_MAX = 256 << 20 };

	if (message->total > BLOB_BYTES_MAX || message->offset > message->total ||
		message->payload_size > message->total - message->offset)
		return;
	if (!message->offset) {
		free(blob->bytes);
		*blob = (struct blob){.bytes = malloc((size_t)message->total + 1), .size = (size_t)message->total};
		assert(blob->bytes);
	}
	if (!blob->bytes || message->offset != blob->at || message->total != blob->size)
		return;
	memcpy(blob->bytes + blob->at, payload, (size_t)message->payload_size);
	blob->at += (size_t)message->payload_size;
}

static void on_snapshot(struct engine *engine, const struct message *message, const uint8_t *payload)
{
	if (!message->offset) {
		engine->snapshot_from_index = message->index;
		engine->snapshot_term = message->term;
		engine->snapshot_digest = message->digest;
	}
	on_piece(&engine->snapshot, message, payload);
}

/* The best member's applied state instead of one's own: what a member needs that is behind it, or that differs. */
static bool take_snapshot(struct engine *engine)
{
	struct err err;
	struct cluster *cluster = calloc(1, sizeof(*cluster));
	struct store_snapshot snapshot = {.index = engine->snapshot_from_index,
		.term = engine->snapshot_term,
		.bytes = engine->snapshot.bytes,
		.size = engine->snapshot.size};

	assert(cluster);
	if (engine->snapshot.at != engine->snapshot.size ||
		schema_decode_zeroed(&cluster_schema, snapshot.bytes, snapshot.size, cluster, &err) < 0 ||
		cluster->index != engine->snapshot_from_index || cluster->digest != engine->snapshot_digest ||
		cluster->node_count != NODES_MAX) {
		free(cluster);
		return false;
	}
	engine_trace(engine, "takes the state of node %u at %llu, had %llu", engine->best,
		(unsigned long long)cluster->index, (unsigned long long)engine->cluster->index);
	fork_drop(engine);
	free(engine->cluster);
	engine->cluster = cluster;
	engine_clock_hear(engine, engine->cluster->now_ms);
	entries_clear(&engine->tail);
	engine->last_term = engine->snapshot_term;
	engine->snapshot_index = cluster->index;
	/* Before the state: with it, or not at all. */
	if (engine->trail.at == engine->trail.size)
		history_take(engine, engine->trail.bytes, engine->trail.size, cluster->index);
	engine->ports.store->ops->install(engine->ports.store, &snapshot, cluster->uuid, false);
	for (uint32_t i = 0; i < cluster->vm_count; i++)
		reconcile_dirty(engine, i);
	return true;
}

static bool same_entry(const struct entry *a, const struct entry *b)
{
	return a->term == b->term && a->size == b->size && !memcmp(a->bytes, b->bytes, a->size);
}

/* Own entries that are the same as the incoming ones stay. In one history equal index and term would mean equal entry. */
static void merge_incoming(struct engine *engine)
{
	uint64_t applied = engine->cluster->index;

	for (size_t i = 0; i < engine->incoming.count; i++) {
		const struct entry *entry = &engine->incoming.items[i];
		if (entry->index <= applied)
			continue;
		size_t at = (size_t)(entry->index - applied - 1);
		if (at < engine->tail.count && same_entry(&engine->tail.items[at], entry))
			continue;
		if (at < engine->tail.count) {
			entries_drop_above(&engine->tail, entry->index - 1);
			engine->ports.store->ops->truncate(engine->ports.store, entry->index - 1);
		}
		log_append(engine, entry->index, entry->term, entry->bytes, entry->size);
	}
	uint64_t last = engine->peers[engine->best - 1].index;
	if (log_last_index(engine) > last) {
		entries_drop_above(&engine->tail, last);
		engine->ports.store->ops->truncate(engine->ports.store, last);
	}
	engine->last_term = engine->peers[engine->best - 1].term;
}

uint32_t sync_needed(const struct engine *engine)
{
	uint32_t members = (uint32_t)__builtin_popcountll(engine->view.members);
	uint32_t majority = engine->view.expected_votes / 2 + 1;

	return majority < members ? majority : members;
}

static void send_view_event(struct engine *engine)
{
	CLEANUP_FREE struct event *event = calloc(1, sizeof(*event));

	assert(event);
	event->kind = EVENT_VIEW;
	event->members = engine->view.members;
	event->ring = engine->view.ring;
	event->nonce = engine->nonce;
	if (engine->sole_over) {
		event->target = engine->sole_over;
		event->proof = engine->sole_proof;
		event->was_on = engine->sole_was_on;
		memcpy(event->text, engine->sole_text, sizeof(event->text));
	}
	for (uint32_t id = 1; id <= NODES_MAX; id++) {
		if (!(engine->view.members & node_bit(id)) || !engine->peers[id - 1].boot_id[0])
			continue;
		struct member_boot *boot = &event->boots[event->boot_count++];
		boot->node = id;
		memcpy(boot->boot_id, engine->peers[id - 1].boot_id, sizeof(boot->boot_id));
		fork_report(engine, id, boot);
	}
	sync_send_event(engine, event);
}

void sync_on_ready(struct engine *engine)
{
	uint32_t ready = 0;

	if (engine->sync != SYNC_COMMIT || engine->first_sent || engine_lowest(engine) != engine->ports.group->node)
		return;
	for (uint32_t i = 0; i < NODES_MAX; i++)
		ready += engine->peers[i].ready;
	if (ready < sync_needed(engine))
		return;
	engine->first_sent = true;
	send_view_event(engine);
}

static void on_end(struct engine *engine, const struct message *message)
{
	const struct peer *best = &engine->peers[engine->best - 1];
	const struct peer *own = &engine->peers[engine->ports.group->node - 1];
	bool forked = !fork_holds(best, own);

	if (engine->best != engine->ports.group->node) {
		/* Not from an honest sender: nothing of what is committed here is given up for it. */
		if (!forked && engine->cluster->index > best->index) {
			sync_leave(engine, "the log that was sent lacks what is committed here");
			return;
		}
		if (snapshot_needed(own, best) && !take_snapshot(engine)) {
			sync_leave(engine, "the state that was sent does not hold what it says");
			return;
		}
		/* The log would have a hole: the best member did not send what it said it has. */
		if (engine->incoming.count && engine->incoming.items[0].index > engine->cluster->index + 1) {
			sync_leave(engine, "the log that was sent has a hole");
			return;
		}
		merge_incoming(engine);
	}
	if (log_last_index(engine) != message->index) {
		sync_leave(engine, "the log that was sent does not end where it should");
		return;
	}
	for (uint32_t i = 0; i < NODES_MAX; i++) {
		engine->peers[i].acked = 0;
		engine->peers[i].ready = false;
	}
	transfer_reset(engine);
	engine->sync = SYNC_COMMIT;
	engine->first_index = log_last_index(engine) + 1;
	if (engine->durable > log_last_index(engine))
		engine->durable = log_last_index(engine);
	engine->first_sent = false;
	engine->ports.store->ops->pledge(engine->ports.store, engine->term);
	log_flush(engine);
}

void sync_on_message(struct engine *engine, uint32_t from, const struct message *message, const uint8_t *payload)
{
	if (message->kind == MESSAGE_BEGIN) {
		on_begin(engine, from, message);
		return;
	}
	if (message->kind == MESSAGE_STATE) {
		on_state(engine, from, message);
		return;
	}
	if (engine->sync != SYNC_TRANSFER || message->nonce != engine->nonce || from != engine->best)
		return;
	sync_goes_on(engine);
	if (message->kind == MESSAGE_END) {
		on_end(engine, message);
	} else if (engine->best == engine->ports.group->node) {
		return; /* what oneself sends, one has */
	} else if (message->kind == MESSAGE_SNAPSHOT) {
		on_snapshot(engine, message, payload);
	} else if (message->kind == MESSAGE_TRAIL) {
		on_piece(&engine->trail, message, payload);
	} else if (message->kind == MESSAGE_ENTRY && message->payload_size <= EVENT_BYTES_MAX) {
		size_t count = engine->incoming.count;
		if (!count || engine->incoming.items[count - 1].index + 1 == message->index)
			entries_push(&engine->incoming, message->index, message->term, payload,
				(size_t)message->payload_size);
	}
}

void sync_send_event(struct engine *engine, struct event *event)
{
	uint8_t bytes[EVENT_BYTES_MAX];
	struct message message = {.kind = MESSAGE_EVENT, .term = engine->term};

	event->node = engine->ports.group->node;
	event->now_ms = engine_cluster_ms(engine);
	engine_clock_hear(engine, event->now_ms);
	memcpy(event->boot_id, engine->config.boot_id, sizeof(event->boot_id));
	message.payload_size = schema_encode(&event_schema, event, bytes, sizeof(bytes));
	assert(message.payload_size <= sizeof(bytes));
	/* Not sent: the periodic look finds what is missing and sends it again. */
	engine_send(engine, &message, bytes);
}

void sync_done(struct engine *engine)
{
	engine->sync = SYNC_DONE;
	engine->last_of_two = true;
	engine->out_reason[0] = 0;
	engine_trace(engine, "synced: term %llu, index %llu", (unsigned long long)engine->term,
		(unsigned long long)engine->cluster->index);
	for (uint32_t i = 0; i < engine->cluster->vm_count; i++)
		reconcile_dirty(engine, i);
	lease_on_synced(engine);
	selffence_on_synced(engine);
	engine->facts_sent_ms = 0;
	reconcile_look_soon(engine);
	service_send_pending(engine);
	engine_status_changed(engine);
}
