/* SPDX-License-Identifier: Apache-2.0
 * What peers send: three real engines on a group that gives all the same, and a member that sends any bytes at any time, in the
 * middle of syncs, moves and syncs that begin anew. Nothing may end a daemon. A record is 16 bytes, and a text that follows
 * it: time passes, a node is cut off, an event is asked for, raw bytes are sent, or a message of any kind whose numbers are near
 * the true ones, with an event, a snapshot with some bytes changed, or the text in it. */
#include "driver/fake/loop_fake.h"
#include "engine/internal.h"
#include "support/world.h"

#include <assert.h>
#include <string.h>

enum { RECORD = 16, RECORDS_MAX = 48, VMS = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static uint8_t payload[MESSAGE_CHUNK_BYTES], wire[MESSAGE_BYTES_MAX];

static uint64_t near(uint64_t truth, uint8_t choice)
{
	return choice < 128 ? truth : choice < 192 ? truth + choice - 160 : choice < 255 ? choice - 192u : UINT64_MAX;
}

static void make_event(struct event *event, uint32_t from, const struct cluster *cluster, const uint8_t r[RECORD])
{
	*event = (struct event){.kind = (enum event_kind)(r[4] % EVENT_KIND_COUNT), .node = from, .target = r[6] % 5u, .by = "root",
		.members = r[7] & 7, .ring = r[7] & 7, .force = r[9] & 1, .dry_run = r[9] & 2, .filling = r[9] & 4,
		.cause = (enum gone_cause)(r[10] % GONE_CAUSE_COUNT), .now_ms = near(cluster->now_ms, r[8])};
	snprintf(event->vm, sizeof(event->vm), "00000000-0000-4000-8000-%012x", r[5] % VMS);
	const struct vm *vm = cluster_vm_find(cluster, event->vm);
	event->epoch = near(vm ? vm->epoch : 0, r[11]);
	event->task = near(vm ? vm->task : 0, r[12]);
	memcpy(event->def.uuid, event->vm, sizeof(event->vm));
	snprintf(event->def.name, sizeof(event->def.name), "vm%u", r[5] % VMS);
	event->def.memory_mib = 64u * (1 + r[13] % 80);
	vm_def_pin(&event->def);
	event->fence = (struct fence_device){.name = "ipmi", .agent = "fence_lab", .node = event->target, .level = 1, .limit_ms = 3000};
}

static size_t fill(struct engine *engine, uint32_t from, const uint8_t r[RECORD], const uint8_t *text, size_t size)
{
	static struct event event;
	size_t used = size;

	memcpy(payload, text, size);
	if (r[14] % 3 == 1) {
		make_event(&event, from, engine->cluster, r);
		used = schema_encode(&event_schema, &event, payload, sizeof(payload));
	} else if (r[14] % 3 == 2) {
		used = schema_encode(&cluster_schema, engine->cluster, payload, sizeof(payload));
		for (size_t i = 0; i + 1 < size && used <= sizeof(payload); i += 2)
			payload[text[i] * used / 256] ^= text[i + 1];
	}
	return used <= sizeof(payload) ? used : 0;
}

static void forge(struct world *world, uint32_t from, const uint8_t r[RECORD], const uint8_t *text, size_t size)
{
	struct engine *engine = world_engine(world, from);
	size_t used = fill(engine, from, r, text, size);
	struct message message = {.kind = (enum message_kind)(r[2] % MESSAGE_KIND_COUNT), .protocol = MESSAGE_PROTOCOL,
		.nonce = near(engine->nonce, r[3]), .term = near(engine->term, r[5]), .index = near(log_last_index(engine), r[6]),
		.applied = near(engine->cluster->index, r[7]), .digest = near(engine->cluster->digest, r[8]),
		.offset = near(0, r[9]), .total = near(used, r[10]), .pledged = near(engine->pledged, r[11]),
		.trail = near(engine->cluster->index, r[12]), .payload_size = used};
	struct err err;

	strcpy(message.cluster_uuid, engine->config.cluster_uuid);
	memcpy(message.boot_id, engine->config.boot_id, sizeof(message.boot_id));
	size_t whole = message_write(&message, payload, wire, sizeof(wire));
	if (whole <= sizeof(wire))
		group_send(engine->ports.group, wire, whole, &err);
}

static void answered(void *ctx, const struct engine_reply *reply)
{
	(void)ctx, (void)reply;
}

static void play(struct world *world, struct timeline *timeline, const uint8_t *r, const uint8_t *text, size_t size)
{
	static struct event event;
	uint32_t from = 1 + r[1] % WORLD_NODES;
	uint64_t until_us = timeline_now_us(timeline) + (r[15] < 240 ? r[15] * 1000u : r[15] * 40000u);
	struct err err;

	if (r[0] % 8 == 0) {
		world_cut(world, from, r[2] & 1);
	} else if (r[0] % 8 == 1) {
		make_event(&event, from, world_engine(world, from)->cluster, r);
		engine_submit(world_engine(world, from), &event, answered, world);
	} else if (r[0] % 8 == 2) {
		group_send(world_engine(world, from)->ports.group, text, size, &err);
	} else {
		forge(world, from, r, text, size);
	}
	while (timeline_step(timeline, until_us))
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct timeline *timeline = timeline_new();
	struct loop_fake *loop = loop_fake_new(timeline);
	struct world *world = world_new(loop_fake_port(loop));

	for (int records = 0; records < RECORDS_MAX && size > RECORD; records++) {
		size_t text = bytes[RECORD] < size - RECORD - 1 ? bytes[RECORD] : size - RECORD - 1;
		play(world, timeline, bytes, bytes + RECORD + 1, text);
		bytes += RECORD + 1 + text;
		size -= RECORD + 1 + text;
	}
	world_free(world);
	loop_fake_free(loop);
	timeline_free(timeline);
	return 0;
}
