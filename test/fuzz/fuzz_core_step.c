/* SPDX-License-Identifier: Apache-2.0
 * Events of every kind, with whatever in them, into the core: what a confused or hostile member could send once it is in
 * the order. The core asserts its own invariants after each step; here: two nodes that hear the same come to the same, and no
 * VM is at two places. Bytes: an event each, 16 bytes that choose its kind and its fields from a small world, so that events
 * meet; a record may bring a whole encoded event instead. */
#include "core/core.h"

#include <assert.h>
#include <string.h>

enum { NODES = 5, VMS = 6, RECORD = 16 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct cluster ours, theirs;
static struct core_outcome outcome;
static uint64_t now_ms;

static void fill(struct event *event, const uint8_t r[RECORD])
{
	*event = (struct event){.kind = (enum event_kind)(r[0] % EVENT_KIND_COUNT), .node = r[1] % (NODES + 2),
		.target = r[2] % (NODES + 2), .epoch = r[4] % 8, .task = r[5], .force = r[6] & 1, .dry_run = r[6] & 2,
		.filling = r[6] & 4, .was_on = r[6] & 8, .cause = (enum gone_cause)(r[7] % GONE_CAUSE_COUNT),
		.members = r[8] & 31, .ring = r[9] & 31, .proof = (enum death_proof)(r[10] % 4),
		.code = (enum err_code)(r[11] % 8), .now_ms = now_ms += (uint64_t)r[12] * r[12] * r[12]};
	snprintf(event->vm, sizeof(event->vm), "00000000-0000-4000-8000-%012x", r[3] % VMS);
	snprintf(event->boot_id, sizeof(event->boot_id), "b%u", r[13] % 3);
	snprintf(event->by, sizeof(event->by), "root");
	snprintf(event->text, sizeof(event->text), "n%u", event->target);
	/* Reports that are about what is there: the log's own numbers, more often than not. */
	const struct vm *vm = cluster_vm_find(&ours, event->vm);
	if (vm && r[14] & 1) {
		event->epoch = vm->epoch;
		event->task = vm->task;
		event->node = vm->target && r[14] & 2 ? vm->target : vm->owner;
	}
	if ((event->kind == EVENT_FENCED || event->kind == EVENT_FENCE_FAILED) && event->target && r[14] & 4) {
		const struct fencing *fence = &ours.nodes[event->target - 1].fence;
		event->task = fence->id;
		event->epoch = fence->began_index;
		event->node = fence->by;
	}
	snprintf(event->facts.name, sizeof(event->facts.name), "n%u", event->node);
	snprintf(event->facts.boot_id, sizeof(event->facts.boot_id), "%s", event->boot_id);
	event->facts.memory_mib = 1024u * r[15];
	event->facts.watchdog_ms = r[15] & 1 ? 5000 : 0;
	snprintf(event->def.uuid, sizeof(event->def.uuid), "%s", event->vm);
	snprintf(event->def.name, sizeof(event->def.name), "vm%u", r[3] % VMS);
	event->def.memory_mib = 512u * (1 + r[15] % 8);
	event->def.priority = (enum vm_priority)(r[13] % PRIORITY_COUNT);
	vm_def_pin(&event->def);
	snprintf(event->fence.name, sizeof(event->fence.name), "ipmi-n%u", event->target);
	snprintf(event->fence.agent, sizeof(event->fence.agent), "fence_lab");
	event->fence.node = event->target;
	event->fence.level = 1 + r[13] % 2;
	event->fence.limit_ms = 5000;
}

static void step(const struct event *event)
{
	core_step(&ours, event, &outcome);
	assert(outcome.change_count <= CORE_CHANGES_MAX);
	core_step(&theirs, event, &outcome);
	assert(ours.index == theirs.index && ours.digest == theirs.digest);
	for (uint32_t vm = 0; vm < ours.vm_count; vm++) {
		uint32_t run = 0;
		for (uint32_t node = 1; node <= NODES_MAX; node++) {
			enum duty_kind kind = core_duty(&ours, vm, node).kind;
			run += kind == DUTY_START || kind == DUTY_RUN || kind == DUTY_COPY;
		}
		assert(run <= 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct event event;
	struct err err;

	now_ms = 1000;
	core_init(&ours, "00000000-0000-4000-8000-00000000c105");
	core_init(&theirs, "00000000-0000-4000-8000-00000000c105");
	for (size_t at = 0, steps = 0; at + RECORD <= size && steps < 200; at += RECORD, steps++) {
		if (bytes[at] == 255 && !schema_decode(&event_schema, bytes + at + 1, size - at - 1, &event, &err)) {
			step(&event);
			return 0;
		}
		fill(&event, bytes + at);
		step(&event);
	}
	return 0;
}
