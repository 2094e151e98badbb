/* SPDX-License-Identifier: Apache-2.0
 * What the best member has comes to the others (sync.c has the steps before and behind): the lines of the history, its
 * applied state where one of them cannot go on from the log alone, and the entries of its log. All hear all of it, and
 * each takes what it lacks.
 *
 * Nothing of the own log is dropped before all of its replacement is here, and both become durable at once. What is
 * sent is not believed: it must hold what its sender said that it has, or this node leaves and joins anew. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

void transfer_reset(struct engine *engine)
{
	loop_timer_cancel(engine->ports.loop, engine->transfer_timer);
	engine->transfer_timer = NULL;
	entries_clear(&engine->incoming);
	free(engine->snapshot.bytes);
	free(engine->trail.bytes);
	engine->snapshot = engine->trail = (struct blob){0};
	engine->transfer_entry = 0;
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

void transfer_begin(struct engine *engine)
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

/* Own entries that are the same as the incoming ones stay. In one history equal index and term would mean equal entry.
 */
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

void transfer_take(struct engine *engine, const struct message *message, const uint8_t *payload)
{
	if (message->kind == MESSAGE_SNAPSHOT) {
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

const char *transfer_adopt(struct engine *engine)
{
	const struct peer *best = &engine->peers[engine->best - 1];
	const struct peer *own = &engine->peers[engine->ports.group->node - 1];

	if (best == own)
		return NULL;
	/* Not from an honest sender: nothing of what is committed here is given up for it. */
	if (fork_holds(best, own) && engine->cluster->index > best->index)
		return "the log that was sent lacks what is committed here";
	if (snapshot_needed(own, best) && !take_snapshot(engine))
		return "the state that was sent does not hold what it says";
	/* The log would have a hole: the best member did not send what it said it has. */
	if (engine->incoming.count && engine->incoming.items[0].index > engine->cluster->index + 1)
		return "the log that was sent has a hole";
	merge_incoming(engine);
	return NULL;
}
