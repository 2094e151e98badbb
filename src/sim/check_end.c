/* SPDX-License-Identifier: Apache-2.0
 * With all faults gone and everything switched on: the cluster comes together, everything under way comes to an end,
 * and what the log says is what the machines do. */
#include "sim/check_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static char text[512];

#define NOT_YET(...)                                                                                                   \
	do {                                                                                                           \
		snprintf(text, sizeof(text), __VA_ARGS__);                                                             \
		return text;                                                                                           \
	} while (0)

static const char *together(struct sim *sim)
{
	uint64_t all = sim->config.node_count == 64 ? UINT64_MAX : (UINT64_C(1) << sim->config.node_count) - 1;
	const struct cluster *first = NULL;

	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		const struct sim_node *node = &sim->nodes[id];
		struct engine_status status;
		if (!node->engine)
			NOT_YET("n%u's daemon does not run%s", id, node->refused ? ", its store is refused" : "");
		engine_get_status(node->engine, &status);
		if (!status.synced)
			NOT_YET("n%u is not synced: %s", id, status.reason);
		const struct cluster *cluster = engine_cluster(node->engine);
		if (status.members != all || cluster->members != all)
			NOT_YET("n%u has not all nodes in its view (%" PRIx64 ", in the log %" PRIx64 ")", id, status.members,
				cluster->members);
		if (!first)
			first = cluster;
		if (cluster->index != first->index)
			NOT_YET("n%u is at index %" PRIu64 ", n1 at %" PRIu64, id, cluster->index, first->index);
		if (cluster->digest != first->digest)
			NOT_YET("n%u and n1 differ", id);
		for (uint32_t other = 1; other <= sim->config.node_count; other++)
			if (cluster_node(cluster, other)->state != NODE_ONLINE)
				NOT_YET("in n%u's log n%u is %s", id, other,
					node_state_name((int)cluster_node(cluster, other)->state));
	}
	return NULL;
}

static const char *vm_at_rest(struct sim *sim, const struct vm *vm)
{
	const struct world_copy *executes = world_executing(sim->world, vm->def.uuid);

	switch (vm->state) {
	case VM_OFF:
	case VM_ONLINE:
	case VM_SAVED:
	case VM_FAILED:
		break;
	case VM_STARTING:
	case VM_STOPPING:
	case VM_MOVING:
	case VM_SAVING:
	case VM_RESTORING:
	case VM_BLOCKED:
		NOT_YET("%s is %s (%s): %s", vm->def.name, vm_state_name((int)vm->state), move_phase_name((int)vm->phase), vm->reason);
	}
	if (vm->task || vm->filling)
		NOT_YET("%s has a task under way, or pages coming in", vm->def.name);
	if (vm->state == VM_ONLINE && (!executes || executes->node != vm->owner || executes->epoch != vm->epoch))
		NOT_YET("%s is online on n%u (epoch %" PRIu64 ") in the log, but executes on n%u (epoch %" PRIu64 ")",
			vm->def.name, vm->owner, vm->epoch, executes ? executes->node : 0, executes ? executes->epoch : 0);
	if (vm->state != VM_ONLINE && executes)
		NOT_YET("%s is %s in the log, but executes on n%u", vm->def.name, vm_state_name((int)vm->state), executes->node);
	if (vm->state != VM_ONLINE && vm->want == WANT_ON && !vm->reason[0])
		NOT_YET("%s should run, is %s, and nothing says why", vm->def.name, vm_state_name((int)vm->state));
	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		enum hv_state here = machine_state(sim->nodes[id].machine, vm->def.uuid);
		if (here != HV_ABSENT && (vm->state != VM_ONLINE || id != vm->owner))
			NOT_YET("n%u still has a QEMU of %s, which is %s on n%u", id, vm->def.name, vm_state_name((int)vm->state),
				vm->owner);
		if (here != HV_ABSENT && here != HV_RUNNING)
			NOT_YET("n%u's QEMU of %s is not simply running", id, vm->def.name);
	}
	return NULL;
}

static const char *no_strangers(struct sim *sim, const struct cluster *cluster)
{
	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		const char *uuid;
		for (uint32_t n = 0; (uuid = machine_vm(sim->nodes[id].machine, n)); n++)
			if (!check_there(cluster, check_vm(sim, uuid)))
				NOT_YET("n%u has a QEMU of a VM that does not exist (%s)", id, uuid);
	}
	return NULL;
}

/* Of each VM at most the state that its log still needs is on the storage. */
static const char *states_purged(struct sim *sim, const struct cluster *cluster)
{
	for (const struct world_state *state = world_states(sim->world); state; state = state->next) {
		const struct vm *vm = check_there(cluster, check_vm(sim, state->guest->vm));
		if (!vm)
			NOT_YET("state %" PRIu64 " of %s, which was deleted, is left on the storage", state->task,
				state->guest->name);
		if (vm->saved.status != SAVED_SEALED || vm->saved.task != state->task)
			NOT_YET("state %" PRIu64 " of %s is left on the storage; the log needs %" PRIu64 " (%s)", state->task,
				state->guest->name, vm->saved.task, saved_status_name((int)vm->saved.status));
	}
	return NULL;
}

const char *check_end(struct sim *sim)
{
	const char *why = together(sim);

	if (why)
		return why;
	const struct cluster *cluster = engine_cluster(sim->nodes[1].engine);
	for (uint32_t i = 0; i < cluster->vm_count; i++)
		if (cluster->vms[i].def.uuid[0] && (why = vm_at_rest(sim, &cluster->vms[i])))
			return why;
	if ((why = check_run_end(sim, cluster)))
		return why;
	if ((why = no_strangers(sim, cluster)) || (why = states_purged(sim, cluster)))
		return why;
	for (uint32_t i = 0; i < cluster->task_count; i++)
		if (cluster->tasks[i].id && cluster->tasks[i].state == TASK_RUNNING)
			NOT_YET("task %" PRIu64 " (%s %s) runs for ever", cluster->tasks[i].id,
				task_kind_name((int)cluster->tasks[i].kind), cluster->tasks[i].vm);
	return NULL;
}

/* Once at rest: a saved VM's state is there and fits, and all nodes hold the same bytes. */
void check_end_states(struct sim *sim)
{
	const struct cluster *cluster = engine_cluster(sim->nodes[1].engine);

	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		const struct vm *vm = &cluster->vms[i];
		if (!vm->def.uuid[0] || vm->state != VM_SAVED)
			continue;
		const struct world_state *state = world_state(sim->world, vm->def.uuid, vm->saved.task);
		/* Another history may have used it up, and is forgotten. */
		if (sim->checks->two_histories && !state)
			continue;
		if (!state || !state->complete)
			sim_violation(sim, "I4: %s is saved (state %" PRIu64 "), but there is no such state", vm->def.name,
				vm->saved.task);
		else if (state->disk_generation != state->guest->disk_generation &&
			 !check_vm(sim, vm->def.uuid)->falsely_dead)
			sim_violation(sim, "I3: %s is saved, but its disks have changed since", vm->def.name);
	}
	check_all_known(sim, &sim->nodes[1], cluster); /* and with it the others, that are to be the same */
	for (uint32_t id = 2; id <= sim->config.node_count; id++)
		if (!schema_equal(&cluster_schema, cluster, engine_cluster(sim->nodes[id].engine)))
			sim_violation(sim, "I5: n1's and n%u's clusters differ at the end", id);
	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		check_trail(sim, &sim->nodes[id]);
}
