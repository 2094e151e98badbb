/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/internal.h"
#include "base/hash.h"

#include <assert.h>
#include <string.h>

struct engine *engine_new(const struct engine_config *config)
{
	struct engine *engine = calloc(1, sizeof(*engine));

	assert(engine);
	engine->config = *config;
	if (!engine->config.snapshot_every)
		engine->config.snapshot_every = SNAPSHOT_EVERY;
	if (!engine->config.disk_limit_ms)
		engine->config.disk_limit_ms = DISK_LIMIT_MS;
	/* Large tables of which few pages are ever touched. */
	engine->cluster = calloc(1, sizeof(*engine->cluster));
	engine->outcome = calloc(1, sizeof(*engine->outcome));
	engine->locals = calloc(VMS_MAX, sizeof(*engine->locals));
	engine->history = calloc(HISTORY_MAX, sizeof(*engine->history));
	engine->progress = calloc(PROGRESS_MAX, sizeof(*engine->progress));
	assert(engine->cluster && engine->outcome && engine->locals && engine->history && engine->progress);
	core_init(engine->cluster, config->cluster_uuid);
	return engine;
}

static void on_down(void *ctx, const struct err *err)
{
	struct engine *engine = ctx;

	engine->in_group = false;
	sync_out(engine, err->text);
}

static void on_deliver(void *ctx, uint32_t from, const uint8_t *bytes, size_t size)
{
	struct engine *engine = ctx;
	struct message message;
	const uint8_t *payload;
	struct err err;

	if (message_parse(bytes, size, &message, &payload, &err) < 0 || message.protocol < MESSAGE_PROTOCOL ||
		strcmp(message.cluster_uuid, engine->config.cluster_uuid) != 0 || from < 1 || from > NODES_MAX ||
		!(engine->view.members & node_bit(from))) {
		engine->dropped++;
		return;
	}
	if (message.needs > MESSAGE_PROTOCOL) {
		sync_too_old(engine, from, message.needs);
		return;
	}
	switch (message.kind) {
	case MESSAGE_NONE:
		engine->dropped++;
		return;
	case MESSAGE_BEGIN:
	case MESSAGE_STATE:
	case MESSAGE_SNAPSHOT:
	case MESSAGE_TRAIL:
	case MESSAGE_ENTRY:
	case MESSAGE_END:
		sync_on_message(engine, from, &message, payload);
		return;
	case MESSAGE_EVENT:
		log_on_event(engine, from, &message, payload);
		return;
	case MESSAGE_ACK:
		log_on_ack(engine, from, &message);
		return;
	case MESSAGE_LEASE:
		lease_on_message(engine, from, payload, (size_t)message.payload_size);
		return;
	case MESSAGE_PROGRESS:
		service_on_progress(engine, from, payload, (size_t)message.payload_size);
		return;
	}
}

struct group_callbacks engine_group_callbacks(struct engine *engine)
{
	return (struct group_callbacks){
		.ctx = engine, .view = sync_on_view, .deliver = on_deliver, .down = on_down};
}

struct store_callbacks engine_store_callbacks(struct engine *engine)
{
	return (struct store_callbacks){.ctx = engine, .durable = log_on_durable, .pledged = log_on_pledged, .failed = log_on_failed};
}

struct hv_callbacks engine_hypervisor_callbacks(struct engine *engine)
{
	return (struct hv_callbacks){.ctx = engine, .event = reconcile_on_hypervisor};
}

struct fencer_callbacks engine_fencer_callbacks(struct engine *engine)
{
	return (struct fencer_callbacks){.ctx = engine, .done = fence_on_done, .checked = ask_on_checked};
}

int engine_start(struct engine *engine, const struct engine_ports *ports, struct err *err)
{
	engine->ports = *ports;
	if (log_load(engine, err) < 0)
		return -1;
	engine->started = true;
	engine->out_ms = loop_now_ms(ports->loop);
	snprintf(engine->out_reason, sizeof(engine->out_reason), "waiting for the first view");
	reconcile_look_again(engine);
	selffence_start(engine);
	group_join(ports->group);
	return 0;
}

void engine_free(struct engine *engine)
{
	if (!engine)
		return;
	if (engine->started) {
		reconcile_fini(engine);
		selffence_fini(engine);
		half_end(engine);
		fence_stop(engine);
		ask_stop(engine);
		loop_timer_cancel(engine->ports.loop, engine->transfer_timer);
	}
	service_fini(engine);
	entries_clear(&engine->tail);
	entries_clear(&engine->incoming);
	free(engine->tail.items);
	free(engine->incoming.items);
	free(engine->snapshot.bytes);
	free(engine->trail.bytes);
	free(engine->cluster);
	free(engine->outcome);
	free(engine->locals);
	free(engine->history);
	free(engine->progress);
	free(engine);
}

void engine_trace(struct engine *engine, const char *format, ...)
{
	char line[640];
	va_list args;

	if (!engine->config.trace)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	engine->config.trace(engine->config.trace_ctx, line);
}

int engine_send(struct engine *engine, struct message *message, const void *payload)
{
	uint8_t bytes[MESSAGE_BYTES_MAX];
	struct err err;

	message->protocol = MESSAGE_PROTOCOL;
	memcpy(message->cluster_uuid, engine->config.cluster_uuid, sizeof(message->cluster_uuid));
	size_t size = message_write(message, payload, bytes, sizeof(bytes));
	assert(size <= sizeof(bytes));
	return group_send(engine->ports.group, bytes, size, &err);
}

const struct vm *engine_vm(struct engine *engine, const char *uuid)
{
	const struct cluster *cluster = engine->cluster;
	uint16_t *hint = &engine->vm_hints[hash64(uuid, strlen(uuid), 1) % VM_HINTS];

	if (*hint && *hint <= cluster->vm_count && !strcmp(cluster->vms[*hint - 1].def.uuid, uuid))
		return &cluster->vms[*hint - 1];
	const struct vm *vm = uuid[0] ? cluster_vm_find(cluster, uuid) : NULL;
	if (vm)
		*hint = (uint16_t)(vm - cluster->vms + 1);
	return vm;
}

static uint64_t counted_ms(const struct engine *engine)
{
	return engine->clock_ms + (loop_now_ms(engine->ports.loop) - engine->clock_at_ms);
}

/* The cluster's own time, as it is counted here. Drawn to a wall clock that is ahead, by so little that no limit is wrong by more than a DRAW_PART (decision 0005). */
uint64_t engine_cluster_ms(struct engine *engine)
{
	enum { NEAR_MS = 60 * 1000, DRAW_PART = 20 };
	uint64_t wall = loop_wall_ms(engine->ports.loop);

	if (!engine->clock_ms)
		return wall;
	uint64_t time = counted_ms(engine);
	uint64_t draw = (time - engine->clock_ms) / DRAW_PART;
	if (wall <= time || wall >= time + NEAR_MS)
		return time;
	return wall - time < draw ? wall : time + draw;
}

uint64_t engine_told_ms(struct engine *engine)
{
	return engine->clock_ms ? engine_cluster_ms(engine) : 0;
}

/* What this clock alone was drawn by since the last time is forgotten: the others do not know of it. */
void engine_clock_hear(struct engine *engine, uint64_t told_ms)
{
	uint64_t counted = engine->clock_ms ? counted_ms(engine) : 0;

	if (told_ms > TIME_MS_MAX)
		return;
	engine->clock_ms = counted > told_ms ? counted : told_ms;
	engine->clock_at_ms = loop_now_ms(engine->ports.loop);
}

uint32_t engine_lowest(const struct engine *engine)
{
	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (engine->view.members & node_bit(id))
			return id;
	return 0;
}

/* This machine may be touched: the log is current, and it speaks of this boot of this node. */
bool engine_acts(const struct engine *engine)
{
	const struct node *node = cluster_node(engine->cluster, engine->ports.group->node);

	return engine->sync == SYNC_DONE && node->state == NODE_ONLINE && selffence_as_told(engine) &&
	       !strcmp(node->facts.boot_id, engine->config.boot_id);
}

uint64_t engine_committed(const struct engine *engine)
{
	return engine->cluster->index;
}
