/* SPDX-License-Identifier: Apache-2.0 */
#include "model/cluster.h"
#include "model/event.h"
#include "model/names.h"

#include <assert.h>
#include <string.h>

NAMES_FUNCTION(node_state_name, NODE_STATES)
NAMES_FUNCTION(vm_state_name, VM_STATES)
NAMES_FUNCTION(move_phase_name, MOVE_PHASES)
NAMES_FUNCTION(saved_status_name, SAVED_STATUSES)
NAMES_FUNCTION(vm_want_name, VM_WANTS)
NAMES_FUNCTION(vm_wait_name, VM_WAITS)
NAMES_FUNCTION(task_kind_name, TASK_KINDS)
NAMES_FUNCTION(task_state_name, TASK_STATES)
NAMES_FUNCTION(fence_phase_name, FENCE_PHASES)
NAMES_FUNCTION(death_proof_name, DEATH_PROOFS)
NAMES_FUNCTION(event_kind_name, EVENT_KINDS)
NAMES_FUNCTION(gone_cause_name, GONE_CAUSES)

static const struct field bridge_fields[] = {
	SCHEMA_TEXT(1, bridge, name),
};
static SCHEMA_DEFINE(bridge_schema, bridge, bridge_fields);

static const struct field node_facts_fields[] = {
	SCHEMA_TEXT(1, node_facts, name),
	SCHEMA_TEXT(2, node_facts, boot_id),
	SCHEMA_U32(3, node_facts, memory_mib),
	SCHEMA_U32(4, node_facts, vcpus),
	SCHEMA_TEXT(5, node_facts, accel),
	SCHEMA_TEXT(6, node_facts, qemu_version),
	SCHEMA_BOOL(7, node_facts, postcopy),
	SCHEMA_U32(8, node_facts, protocol),
	SCHEMA_LIST(9, node_facts, bridges, bridge_count, &bridge_schema),
	SCHEMA_U32(10, node_facts, watchdog_ms),
	SCHEMA_U32(11, node_facts, token_ms),
	SCHEMA_BOOL(12, node_facts, leaving),
	SCHEMA_TEXT(13, node_facts, watchdog),
};
SCHEMA_DEFINE(node_facts_schema, node_facts, node_facts_fields);

static const struct field fencing_fields[] = {
	SCHEMA_U64(1, fencing, id),
	SCHEMA_ENUM(2, fencing, phase, fence_phase_name, FENCE_PHASE_COUNT),
	SCHEMA_ENUM(3, fencing, proof, death_proof_name, DEATH_PROOF_COUNT),
	SCHEMA_U32(4, fencing, by),
	SCHEMA_U32(5, fencing, level),
	SCHEMA_U32(6, fencing, round),
	SCHEMA_U32(7, fencing, doubt),
	SCHEMA_U64(8, fencing, began_index),
	SCHEMA_U64(9, fencing, lost_ms),
	SCHEMA_U64(10, fencing, deadline_ms),
	SCHEMA_U64(11, fencing, proven_ms),
	SCHEMA_TEXT(12, fencing, text),
	SCHEMA_BOOL(13, fencing, found_off),
	SCHEMA_BOOL(14, fencing, look),
};
SCHEMA_DEFINE(fencing_schema, fencing, fencing_fields);

static const struct field node_fields[] = {
	SCHEMA_U32(1, node, id),
	SCHEMA_ENUM(2, node, state, node_state_name, NODE_STATE_COUNT),
	SCHEMA_RECORD(3, node, facts, &node_facts_schema),
	SCHEMA_U64(4, node, since_ms),
	SCHEMA_U64(5, node, incarnation),
	SCHEMA_U64(6, node, request_seq),
	SCHEMA_TEXT(7, node, reason),
	SCHEMA_RECORD(8, node, fence, &fencing_schema),
	SCHEMA_U32(9, node, fences),
	SCHEMA_U64(10, node, fences_ms),
	SCHEMA_U64(11, node, down_ms),
	SCHEMA_U64(12, node, left_ms),
	SCHEMA_U64(13, node, left_before_ms),
	SCHEMA_U64(14, node, quarantine_ms),
	SCHEMA_U64(15, node, stuck_ms),
	SCHEMA_U64(16, node, recalled_ms),
};
SCHEMA_DEFINE(node_schema, node, node_fields);

static const struct field saved_state_fields[] = {
	SCHEMA_ENUM(1, saved_state, status, saved_status_name, SAVED_STATUS_COUNT),
	SCHEMA_U64(2, saved_state, task),
	SCHEMA_U64(3, saved_state, epoch),
	SCHEMA_U32(4, saved_state, sealed_by),
	SCHEMA_U32(5, saved_state, consumed_by),
	SCHEMA_U64(6, saved_state, sealed_ms),
	SCHEMA_U64(7, saved_state, consumed_ms),
};
SCHEMA_DEFINE(saved_state_schema, saved_state, saved_state_fields);

static const struct field move_figures_fields[] = {
	SCHEMA_U64(1, move_figures, prepared_us),
	SCHEMA_U64(2, move_figures, copy_us),
	SCHEMA_U64(3, move_figures, stopped_us),
	SCHEMA_U64(4, move_figures, streamed_us),
	SCHEMA_U64(5, move_figures, repaired_us),
	SCHEMA_U64(6, move_figures, sealed_us),
	SCHEMA_U64(7, move_figures, loading_us),
	SCHEMA_U64(8, move_figures, loaded_us),
	SCHEMA_U64(9, move_figures, resumed_us),
	SCHEMA_U64(10, move_figures, filled_us),
	SCHEMA_U64(11, move_figures, ram_bytes),
	SCHEMA_U64(12, move_figures, device_bytes),
	SCHEMA_U64(13, move_figures, used_bytes),
	SCHEMA_U64(14, move_figures, repaired_pages),
	SCHEMA_U64(15, move_figures, passes),
};
SCHEMA_DEFINE(move_figures_schema, move_figures, move_figures_fields);

static const struct field vm_fields[] = {
	SCHEMA_RECORD(1, vm, def, &vm_def_schema),
	SCHEMA_ENUM(2, vm, state, vm_state_name, VM_STATE_COUNT),
	SCHEMA_ENUM(3, vm, want, vm_want_name, VM_WANT_COUNT),
	SCHEMA_U32(4, vm, owner),
	SCHEMA_U64(5, vm, epoch),
	SCHEMA_ENUM(6, vm, phase, move_phase_name, MOVE_PHASE_COUNT),
	SCHEMA_U64(7, vm, task),
	SCHEMA_U32(8, vm, target),
	SCHEMA_BOOL(9, vm, dry_run),
	SCHEMA_BOOL(10, vm, filling),
	SCHEMA_BOOL(11, vm, started),
	SCHEMA_RECORD(12, vm, saved, &saved_state_schema),
	SCHEMA_U64(13, vm, tried),
	SCHEMA_U32(14, vm, deaths),
	SCHEMA_U64(15, vm, deaths_ms),
	SCHEMA_U64(16, vm, deadline_ms),
	SCHEMA_U64(17, vm, since_ms),
	SCHEMA_U64(18, vm, changed_index),
	SCHEMA_TEXT(19, vm, reason),
	SCHEMA_BOOL(20, vm, turn_off),
	SCHEMA_BOOL(21, vm, cancelled),
	SCHEMA_ENUM(22, vm, wait, vm_wait_name, VM_WAIT_COUNT),
	SCHEMA_U64(23, vm, run_ms),
	SCHEMA_U64(24, vm, retry_ms),
	SCHEMA_BOOL(25, vm, displaced),
	SCHEMA_U64(26, vm, exhausted),
	SCHEMA_U64(27, vm, killed),
	SCHEMA_U32(28, vm, last_owner),
	SCHEMA_U64(29, vm, move_again_ms),
	SCHEMA_U64(30, vm, storage_ms),
	SCHEMA_U32(31, vm, storage_asked),
	SCHEMA_U64(32, vm, storage_at_ms),
	SCHEMA_U64(33, vm, storage_ok_ms),
	SCHEMA_U64(34, vm, storage_end_ms),
	SCHEMA_U64(35, vm, storage_lost),
	SCHEMA_U64(36, vm, storage_forget_ms),
	SCHEMA_U64(37, vm, no_room),
	SCHEMA_U64(38, vm, no_room_ms),
	SCHEMA_U32(39, vm, no_room_count),
	SCHEMA_BOOL(40, vm, wanted),
};
SCHEMA_DEFINE(vm_schema, vm, vm_fields);

static const struct field task_fields[] = {
	SCHEMA_U64(1, task, id),
	SCHEMA_ENUM(2, task, kind, task_kind_name, TASK_KIND_COUNT),
	SCHEMA_ENUM(3, task, state, task_state_name, TASK_STATE_COUNT),
	SCHEMA_TEXT(4, task, vm),
	SCHEMA_TEXT(5, task, vm_uuid),
	SCHEMA_U32(6, task, source),
	SCHEMA_U32(7, task, target),
	SCHEMA_BOOL(8, task, dry_run),
	SCHEMA_TEXT(9, task, by),
	SCHEMA_U64(10, task, started_ms),
	SCHEMA_U64(11, task, finished_ms),
	SCHEMA_RECORD(12, task, figures, &move_figures_schema),
	SCHEMA_TEXT(13, task, text),
	SCHEMA_ENUM(14, task, code, err_name, ERR_CODE_COUNT),
};
SCHEMA_DEFINE(task_schema, task, task_fields);

static const struct field deleted_vm_fields[] = {
	SCHEMA_TEXT(1, deleted_vm, uuid),
	SCHEMA_U64(2, deleted_vm, index),
};
static SCHEMA_DEFINE(deleted_vm_schema, deleted_vm, deleted_vm_fields);

static const struct field view_mark_fields[] = {
	SCHEMA_U64(1, view_mark, index),
	SCHEMA_U64(2, view_mark, nonce),
};
SCHEMA_DEFINE(view_mark_schema, view_mark, view_mark_fields);

static const struct field cluster_fields[] = {
	SCHEMA_TEXT(1, cluster, uuid),
	SCHEMA_U64(2, cluster, index),
	SCHEMA_U64(3, cluster, digest),
	SCHEMA_U64(4, cluster, now_ms),
	SCHEMA_U64(5, cluster, members),
	SCHEMA_LIST(6, cluster, nodes, node_count, &node_schema),
	SCHEMA_LIST(7, cluster, vms, vm_count, &vm_schema),
	SCHEMA_U64(8, cluster, task_serial),
	SCHEMA_LIST(9, cluster, tasks, task_count, &task_schema),
	SCHEMA_U64(10, cluster, ring),
	SCHEMA_LIST(11, cluster, fence_devices, fence_device_count, &fence_device_schema),
	SCHEMA_U64(12, cluster, policy_ms),
	SCHEMA_LIST(13, cluster, deleted, deleted_count, &deleted_vm_schema),
	SCHEMA_LIST(14, cluster, views, view_count, &view_mark_schema),
	SCHEMA_U64(15, cluster, droppers),
};
SCHEMA_DEFINE(cluster_schema, cluster, cluster_fields);

static const struct field member_boot_fields[] = {
	SCHEMA_U32(1, member_boot, node),
	SCHEMA_TEXT(2, member_boot, boot_id),
	SCHEMA_BOOL(3, member_boot, forked),
	SCHEMA_U64(4, member_boot, fork_index),
	SCHEMA_U64(5, member_boot, committed),
};
static SCHEMA_DEFINE(member_boot_schema, member_boot, member_boot_fields);

static const struct field event_fields[] = {
	SCHEMA_ENUM(1, event, kind, event_kind_name, EVENT_KIND_COUNT),
	SCHEMA_U32(2, event, node),
	SCHEMA_U64(3, event, incarnation),
	SCHEMA_U64(4, event, seq),
	SCHEMA_U64(5, event, now_ms),
	SCHEMA_TEXT(6, event, boot_id),
	SCHEMA_TEXT(7, event, by),
	SCHEMA_TEXT(8, event, vm),
	SCHEMA_U64(9, event, epoch),
	SCHEMA_U64(10, event, task),
	SCHEMA_U32(11, event, target),
	SCHEMA_BOOL(12, event, force),
	SCHEMA_BOOL(13, event, dry_run),
	SCHEMA_BOOL(14, event, filling),
	SCHEMA_ENUM(15, event, cause, gone_cause_name, GONE_CAUSE_COUNT),
	SCHEMA_U64(16, event, members),
	SCHEMA_TEXT(17, event, text),
	SCHEMA_RECORD(18, event, figures, &move_figures_schema),
	SCHEMA_RECORD(19, event, facts, &node_facts_schema),
	SCHEMA_RECORD(20, event, def, &vm_def_schema),
	SCHEMA_U64(21, event, ring),
	SCHEMA_ENUM(22, event, proof, death_proof_name, DEATH_PROOF_COUNT),
	SCHEMA_RECORD(23, event, fence, &fence_device_schema),
	SCHEMA_BOOL(24, event, was_on),
	SCHEMA_ENUM(25, event, code, err_name, ERR_CODE_COUNT),
	SCHEMA_LIST(26, event, boots, boot_count, &member_boot_schema),
	SCHEMA_U64(27, event, was_digest),
	SCHEMA_U64(28, event, nonce),
};
SCHEMA_DEFINE(event_schema, event, event_fields);

struct vm *cluster_vm(struct cluster *cluster, const char *uuid)
{
	for (uint32_t i = 0; i < cluster->vm_count; i++)
		if (!strcmp(cluster->vms[i].def.uuid, uuid) && uuid[0])
			return &cluster->vms[i];
	return NULL;
}

const struct vm *cluster_vm_find(const struct cluster *cluster, const char *uuid_or_name)
{
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		const struct vm_def *def = &cluster->vms[i].def;
		if (def->uuid[0] && (!strcmp(def->uuid, uuid_or_name) || !strcmp(def->name, uuid_or_name)))
			return &cluster->vms[i];
	}
	return NULL;
}

const struct task *cluster_task_find(const struct cluster *cluster, uint64_t id)
{
	for (uint32_t i = 0; i < cluster->task_count && id; i++)
		if (cluster->tasks[i].id == id)
			return &cluster->tasks[i];
	return NULL;
}

const struct node *cluster_node(const struct cluster *cluster, uint32_t id)
{
	assert(id >= 1 && id <= NODES_MAX);
	return &cluster->nodes[id - 1];
}

const struct node *cluster_node_find(const struct cluster *cluster, const char *name)
{
	for (uint32_t i = 0; i < NODES_MAX; i++)
		if (cluster->nodes[i].id && !strcmp(cluster->nodes[i].facts.name, name))
			return &cluster->nodes[i];
	return NULL;
}

const char *cluster_node_name(const struct cluster *cluster, uint32_t id)
{
	if (!id)
		return "none";
	const struct node *node = cluster_node(cluster, id);
	return node->facts.name[0] ? node->facts.name : "a node that never joined";
}

void cluster_copy(struct cluster *to, const struct cluster *from)
{
	memcpy(to, from, offsetof(struct cluster, vms) + from->vm_count * sizeof(from->vms[0]));
	to->task_serial = from->task_serial;
	to->task_count = from->task_count;
	memcpy(to->tasks, from->tasks, sizeof(from->tasks));
}
