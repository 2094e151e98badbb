/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/preload.h"
#include "core/core.h"
#include "sim/check.h"
#include "sim/node.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AGE_MS = 3600 * 1000, FIRST_INDEX = 1, FIRST_EPOCH = 1 };

static void fill_node(const struct sim *sim, struct node *node, uint32_t id)
{
	node->id = id;
	node->state = NODE_ONLINE;
	node->since_ms = LOOP_FAKE_WALL_MS - AGE_MS;
	snprintf(node->reason, sizeof(node->reason), "joined");
	/* The daemon tells the rest; by its boot id the node is known not to have rebooted since. */
	memcpy(node->facts.name, sim->nodes[id].name, sizeof(node->facts.name));
	memcpy(node->facts.boot_id, sim->nodes[id].boot_id, sizeof(node->facts.boot_id));
	node->facts.memory_mib = sim->config.memory_mib;
}

static void fill_vm(struct vm *vm, const struct vm_def *def, uint32_t owner)
{
	vm->def = *def;
	vm->state = VM_ONLINE;
	vm->want = WANT_ON;
	vm->owner = owner;
	vm->last_owner = owner;
	vm->epoch = FIRST_EPOCH;
	vm->started = true;
	vm->since_ms = vm->run_ms = LOOP_FAKE_WALL_MS - AGE_MS;
	vm->changed_index = FIRST_INDEX;
	snprintf(vm->reason, sizeof(vm->reason), "started on n%u", owner);
}

static void define(struct sim *sim, const struct sim_preload *preload, uint32_t i)
{
	static const uint32_t sizes[] = {256, 512, 1024};
	static const enum vm_priority priorities[] = {PRIORITY_HIGH, PRIORITY_MEDIUM, PRIORITY_LOW};
	uint32_t row = i / sim->config.node_count; /* so that each node has some of all kinds */
	char name[NAME_BYTES];

	snprintf(name, sizeof(name), "vm%u", i + 1);
	uint32_t number =
		sim_define_vm(sim, name, preload->memory_mib ? preload->memory_mib : sizes[row / 3 % ARRAY_SIZE(sizes)]);
	sim->vms[number].def.priority = priorities[row % ARRAY_SIZE(priorities)];
	sim->vms[number].asked = true;
}

static struct cluster *build(struct sim *sim, const struct sim_preload *preload)
{
	struct cluster *cluster = calloc(1, sizeof(*cluster));

	assert(cluster && !sim->vm_count && preload->vms <= VMS_MAX && preload->device_count <= FENCE_DEVICES_MAX);
	core_init(cluster, SIM_CLUSTER_UUID);
	cluster->index = FIRST_INDEX;
	cluster->digest = FIRST_INDEX;
	cluster->now_ms = LOOP_FAKE_WALL_MS;
	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		assert(sim->nodes[id].powered && !sim->nodes[id].incarnations);
		cluster->members |= node_bit(id);
		fill_node(sim, &cluster->nodes[id - 1], id);
	}
	cluster->ring = cluster->members;
	cluster->fence_device_count = preload->device_count;
	if (preload->device_count)
		memcpy(cluster->fence_devices, preload->devices, preload->device_count * sizeof(*preload->devices));
	for (uint32_t i = 0; i < preload->vms; i++) {
		define(sim, preload, i);
		fill_vm(&cluster->vms[i], &sim->vms[i].def, i % sim->config.node_count + 1);
	}
	cluster->vm_count = preload->vms;
	return cluster;
}

void sim_preload(struct sim *sim, const struct sim_preload *preload)
{
	CLEANUP_FREE struct cluster *cluster = build(sim, preload);
	struct store_snapshot snapshot = {.index = FIRST_INDEX, .term = 1};

	snapshot.size = schema_encode(&cluster_schema, cluster, NULL, 0);
	CLEANUP_FREE uint8_t *bytes = malloc(snapshot.size);
	assert(bytes);
	schema_encode(&cluster_schema, cluster, bytes, snapshot.size);
	snapshot.bytes = bytes;
	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		disk_fill(sim->nodes[id].disk, &snapshot, SIM_CLUSTER_UUID);
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		checks_preloaded(sim, &cluster->vms[i].def, FIRST_INDEX);
		machine_has_run(sim->nodes[cluster->vms[i].owner].machine, &cluster->vms[i].def, FIRST_EPOCH);
	}
	sim_trace(sim, "# %u VMs run since before, %zu bytes in each store", preload->vms, snapshot.size);
}
