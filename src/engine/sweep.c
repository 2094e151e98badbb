/* SPDX-License-Identifier: Apache-2.0
 * Which saved states may go from the shared storage, and who deletes them. Others may keep theirs there too: nothing is deleted
 * but what this cluster's own log says was its own and is over. */
#include "engine/internal.h"

enum { SWEEP_MAX = 4 }; /* deleted VMs at a time; each takes a process of the driver's */

/* Saved states that the log no longer keeps. Only those of tasks up to the applied index: a younger one is being written
 * by a step that this node may not have heard of. */
void sweep_vm(struct engine *engine, uint32_t vm)
{
	const struct vm *record = &engine->cluster->vms[vm];
	struct hypervisor *hv = engine->ports.hypervisor;
	struct local *local = &engine->locals[vm];
	uint64_t kept = core_state_kept(engine->cluster, vm);

	if (!record->def.uuid[0]) {
		local->uuid[0] = 0; /* deleted: see below */
		return;
	}
	if (core_janitor(engine->cluster, vm) != engine->ports.group->node || record->phase != MOVE_IDLE)
		return;
	if (local->purged_index != record->changed_index + 1 || local->purged_kept != kept) {
		local->purged_index = record->changed_index + 1;
		local->purged_kept = kept;
		hv->ops->purge(hv, record->def.uuid, kept, engine->cluster->index + 1);
	}
}

/* What deleted VMs left on the storage is the lowest member's to purge, by what the log remembers of them: what no log of ours
 * names may be another cluster's. One that dies before it has done it leaves it to the next, which begins with all of them: a
 * purge of nothing is cheap. Only states of tasks before the delete: a VM of this uuid that was made since has its own. */
void sweep_deleted(struct engine *engine)
{
	const struct cluster *cluster = engine->cluster;
	struct hypervisor *hv = engine->ports.hypervisor;
	uint32_t begun = 0;

	if (engine_lowest(engine) != engine->ports.group->node)
		return;
	for (uint32_t i = 0; i < cluster->deleted_count && begun < SWEEP_MAX; i++) {
		const struct deleted_vm *vm = &cluster->deleted[i];
		if (vm->index <= engine->swept_index || !vm_uuid_ok(vm->uuid))
			continue;
		engine->swept_index = vm->index;
		hv->ops->purge(hv, vm->uuid, 0, vm->index + 1);
		begun++;
	}
}
