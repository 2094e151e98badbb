/* SPDX-License-Identifier: Apache-2.0
 * Append, acknowledge, commit, apply.
 *
 * An event is appended by every member in the order of the group, made durable, acknowledged to all, and committed once
 * enough members have it: a majority of the expected votes, or all members where those are fewer (design §4). As in
 * Raft (Ongaro & Ousterhout 2014, §5.4.2) acknowledgements of older entries do not count by themselves: a member that
 * was cut off may come back with a younger term. They are committed by the first entry of the current term above them,
 * the view event, which makes every member that has it younger than any history that lacks it. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

void entries_push(struct entries *entries, uint64_t index, uint64_t term, const uint8_t *bytes, size_t size)
{
	if (entries->count == entries->capacity) {
		entries->capacity = entries->capacity ? entries->capacity * 2 : 64;
		entries->items = realloc(entries->items, entries->capacity * sizeof(*entries->items));
		assert(entries->items);
	}
	struct entry *entry = &entries->items[entries->count++];
	*entry = (struct entry){.index = index, .term = term, .bytes = malloc(size ? size : 1), .size = size};
	assert(entry->bytes);
	if (size)
		memcpy(entry->bytes, bytes, size);
}

void entries_drop_first(struct entries *entries, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(entries->items[i].bytes);
	entries->count -= count;
	if (entries->count)
		memmove(entries->items, entries->items + count, entries->count * sizeof(*entries->items));
}

void entries_drop_above(struct entries *entries, uint64_t index)
{
	while (entries->count && entries->items[entries->count - 1].index > index)
		free(entries->items[--entries->count].bytes);
}

void entries_clear(struct entries *entries)
{
	entries_drop_first(entries, entries->count);
}

uint64_t log_last_index(const struct engine *engine)
{
	return engine->cluster->index + engine->tail.count;
}

void log_append(struct engine *engine, uint64_t index, uint64_t term, const uint8_t *bytes, size_t size)
{
	struct store_entry entry = {.index = index, .term = term, .bytes = bytes, .size = size};

	assert(index == log_last_index(engine) + 1);
	entries_push(&engine->tail, index, term, bytes, size);
	engine->last_term = term;
	engine->ports.store->ops->append(engine->ports.store, &entry);
}

void log_flush(struct engine *engine)
{
	if (!engine->flush_since_ms)
		engine->flush_since_ms = loop_now_ms(engine->ports.loop) + 1;
	engine->ports.store->ops->flush(engine->ports.store);
}

bool log_can_read(const uint8_t *bytes, size_t size)
{
	CLEANUP_FREE struct event *event = malloc(sizeof(*event));
	struct err err;

	assert(event);
	return !schema_decode(&event_schema, bytes, size, event, &err);
}

void log_on_event(struct engine *engine, uint32_t from, const struct message *message, const uint8_t *payload)
{
	struct err err;
	size_t size = (size_t)message->payload_size;

	/* Sent in an older view: its sender sends it again if it still matters. */
	if (engine->sync < SYNC_COMMIT || message->term != engine->term)
		return;
	CLEANUP_FREE struct event *event = malloc(sizeof(*event));
	assert(event);
	if (size > EVENT_BYTES_MAX || schema_decode(&event_schema, payload, size, event, &err) < 0 ||
		event->node != from) {
		engine->dropped++;
		/* Of one's own protocol nobody appends it. Whoever knows more may: the next event has another number there. */
		if (message->protocol > MESSAGE_PROTOCOL)
			sync_too_old(engine, from, message->protocol);
		return;
	}
	log_append(engine, log_last_index(engine) + 1, engine->term, payload, size);
	log_flush(engine);
}

void log_ack(struct engine *engine)
{
	struct message message = {.kind = MESSAGE_ACK, .term = engine->term, .index = engine->durable};

	/* An acknowledgement that does not get out is repeated by the periodic look. */
	if (engine->sync >= SYNC_COMMIT && engine->pledged == engine->term && engine->durable + 1 >= engine->first_index)
		engine_send(engine, &message, NULL);
}

void log_on_pledged(void *ctx, uint64_t term)
{
	struct engine *engine = ctx;

	engine->pledged = term;
}

void log_on_durable(void *ctx, uint64_t index)
{
	struct engine *engine = ctx;

	engine->durable = index;
	uint64_t waits = index < log_last_index(engine);
	engine->flush_since_ms = waits ? loop_now_ms(engine->ports.loop) + 1 : 0;
	log_ack(engine);
}

void log_on_failed(void *ctx, const struct err *err)
{
	struct engine *engine = ctx;

	engine_trace(engine, "store failed: %s", err->text);
	group_leave(engine->ports.group);
	sync_out(engine, err->text);
	if (engine->config.fatal)
		engine->config.fatal(engine->config.trace_ctx, err);
}

void log_on_ack(struct engine *engine, uint32_t from, const struct message *message)
{
	struct peer *peer = &engine->peers[from - 1];

	if (engine->sync < SYNC_COMMIT || message->term != engine->term)
		return;
	peer->ready = true;
	if (message->index > peer->acked)
		peer->acked = message->index;
	sync_on_ready(engine);
	log_commit(engine);
}

/* The highest index that at least `needed` members have on disk. */
static uint64_t committed_index(const struct engine *engine)
{
	uint32_t needed = sync_needed(engine);
	uint64_t best = engine->cluster->index; /* what is applied is no question any more, and most acknowledgements are of it */

	for (uint32_t i = 0; i < NODES_MAX; i++) {
		uint64_t index = engine->peers[i].acked;
		uint32_t have = 0;
		if (index <= best)
			continue;
		for (uint32_t j = 0; j < NODES_MAX; j++)
			have += engine->peers[j].acked >= index;
		if (have >= needed)
			best = index;
	}
	return best >= engine->first_index ? best : 0;
}

static void snapshot_if_due(struct engine *engine)
{
	struct cluster *cluster = engine->cluster;
	struct store_snapshot snapshot = {.index = cluster->index, .term = engine->term};

	if (cluster->index - engine->snapshot_index < engine->config.snapshot_every)
		return;
	snapshot.size = schema_encode(&cluster_schema, cluster, NULL, 0);
	CLEANUP_FREE uint8_t *bytes = malloc(snapshot.size);
	assert(bytes);
	schema_encode(&cluster_schema, cluster, bytes, snapshot.size);
	snapshot.bytes = bytes;
	engine->snapshot_index = cluster->index;
	engine->ports.store->ops->install(engine->ports.store, &snapshot, cluster->uuid, true);
	engine->ports.store->ops->flush(engine->ports.store);
}

static void apply_first(struct engine *engine)
{
	struct entry *entry = &engine->tail.items[0];
	struct err err;
	CLEANUP_FREE struct event *event = malloc(sizeof(*event));

	assert(event && entry->index == engine->cluster->index + 1);
	/* It was decoded when it was appended, so a failure now means memory or disk changed it. */
	if (schema_decode(&event_schema, entry->bytes, entry->size, event, &err) < 0)
		*event = (struct event){.kind = EVENT_TICK, .node = NODES_MAX + 1};
	bool first = entry->index == engine->first_index;
	entries_drop_first(&engine->tail, 1);
	const struct vm *named = engine_vm(engine, event->vm);
	snprintf(engine->event_vm, sizeof(engine->event_vm), "%s", named ? named->def.name : event->def.name);
	core_step(engine->cluster, event, engine->outcome);
	engine_clock_hear(engine, engine->cluster->now_ms);
	for (uint32_t i = 0; i < engine->outcome->change_count; i++)
		reconcile_dirty(engine, engine->outcome->changes[i].vm);
	fork_applied(engine, event);
	service_applied(engine, event);
	selffence_on_applied(engine);
	if (first)
		sync_done(engine);
}

void log_commit(struct engine *engine)
{
	uint64_t committed = committed_index(engine);
	bool any = false;

	/* A member may have durable acknowledgements of others for what it does not have itself: never beyond its log. */
	while (engine->tail.count && engine->tail.items[0].index <= committed) {
		apply_first(engine);
		any = true;
	}
	if (!any)
		return;
	snapshot_if_due(engine);
	reconcile_tick(engine);
	fence_look(engine);
	reconcile_run(engine);
}


static int load_snapshot(void *ctx, const struct store_snapshot *snapshot, struct err *err)
{
	struct engine *engine = ctx;
	struct cluster *cluster = calloc(1, sizeof(*cluster));

	assert(cluster);
	if (schema_decode_zeroed(&cluster_schema, snapshot->bytes, snapshot->size, cluster, err) < 0) {
		free(cluster);
		return err_prefix(err, "snapshot %llu", (unsigned long long)snapshot->index);
	}
	if (cluster->index != snapshot->index || cluster->node_count != NODES_MAX) {
		free(cluster);
		return err_set(err, ERR_CORRUPT, "snapshot %llu does not hold what it says",
			(unsigned long long)snapshot->index);
	}
	free(engine->cluster);
	engine->cluster = cluster;
	engine->snapshot_index = snapshot->index;
	engine->last_term = snapshot->term;
	engine_clock_hear(engine, cluster->now_ms);
	return 0;
}

static int load_entry(void *ctx, const struct store_entry *entry, struct err *err)
{
	struct engine *engine = ctx;
	CLEANUP_FREE struct event *event = malloc(sizeof(*event));

	assert(event);
	if (entry->index != log_last_index(engine) + 1)
		return err_set(err, ERR_CORRUPT, "entry %llu where %llu should be", (unsigned long long)entry->index,
			(unsigned long long)log_last_index(engine) + 1);
	if (schema_decode(&event_schema, entry->bytes, entry->size, event, err) < 0)
		return err_prefix(err, "entry %llu", (unsigned long long)entry->index);
	entries_push(&engine->tail, entry->index, entry->term, entry->bytes, entry->size);
	engine->last_term = entry->term;
	engine_clock_hear(engine, event->now_ms);
	return 0;
}

static void load_pledge(void *ctx, uint64_t term)
{
	struct engine *engine = ctx;

	engine->pledged = term;
}

static void load_dropped(void *ctx, uint64_t above, uint64_t last)
{
	struct engine *engine = ctx;

	engine->lost_above = above;
	engine->lost_to = last;
}

int log_load(struct engine *engine, struct err *err)
{
	struct store_reader reader = {
		.ctx = engine, .snapshot = load_snapshot, .entry = load_entry, .pledge = load_pledge, .dropped = load_dropped};
	char uuid[UUID_BYTES] = "";

	if (engine->ports.store->ops->load(engine->ports.store, &reader, uuid, err) < 0)
		return err_prefix(err, "store");
	if (uuid[0] && strcmp(uuid, engine->config.cluster_uuid) != 0)
		return err_set(err, ERR_INVALID, "the store belongs to cluster %s, this node is configured for %s", uuid,
			engine->config.cluster_uuid);
	engine->durable = log_last_index(engine);
	return history_load(engine, err);
}
