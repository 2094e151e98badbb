/* SPDX-License-Identifier: Apache-2.0
 * I6, all the time: with quorum, capacity and working fences every VM that should run does within the bound. While the world
 * is calm (the same nodes are synced in the same view, no fault is at work that keeps them from it) each VM that should run
 * and does not has a clock; what it takes is added up here from core/timing.h and from how slow this run's machines are.
 *
 * Its clock begins anew when the VM gets another epoch, or its owner is proven dead: each attempt, and the proof before it, has
 * its own bound, and how many there are the restart budget limits. Not held against the cluster, as the contract says: what failed for good, what has no room, what is under
 * a task of somebody's (tasks have limits of their own, and end: check_end.c), and whose owner nobody can prove dead. */
#include "core/timing.h"
#include "sim/check_internal.h"

#include <inttypes.h>
#include <string.h>

enum {
	LOOK_AGAIN_MS = 3 * 1000, /* a report that was lost is made again (engine/internal.h: LOOK and REPORT_AGAIN) */
	BEGIN_MS = 2 * 1000,	  /* commits, on the slowest disk and network that runs have */
	FENCED_OFTEN = 4,	   /* within the hour: the next time may be held for a person */
};

/* The nodes that make up the one synced view, if nothing else is in it; 0: they are not at one. */
static uint64_t at_one(const struct sim *sim, uint64_t *formed_us)
{
	uint64_t synced = sim_synced(sim, sim_one_goes_on(sim) ? 1 : sim->config.node_count / 2 + 1);

	*formed_us = 0;
	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		struct engine_status status;
		if (!(synced & node_bit(id)))
			continue;
		engine_get_status(sim->nodes[id].engine, &status);
		if (status.members != synced || !status.quorate || !net_ring_stands(sim->net, id))
			return 0;
		*formed_us += net_view_formed_us(sim->net, id);
	}
	return synced;
}

/* How long the proof of its death may take; UINT64_MAX: there may be none. */
static uint64_t proof_ms(const struct sim *sim, const struct cluster *cluster, uint32_t lost)
{
	const struct node *node = cluster_node(cluster, lost);
	uint64_t by_device_ms = UINT64_MAX, by_watchdog_ms = UINT64_MAX;

	if (node->state == NODE_DEAD)
		return 0;
	if (node->state != NODE_LOST || node->fence.phase == FENCE_GRACE || node->fence.doubt)
		return UINT64_MAX;
	for (uint32_t i = 0; i < FENCE_DEVICES_MAX && node->fences < FENCED_OFTEN; i++) {
		const struct fence_device *device = &cluster->fence_devices[i];
		if (!device->name[0] || device->node != lost || device->distrusted)
			continue;
		by_device_ms = by_device_ms == UINT64_MAX ? FENCE_SPLIT_DELAY_MS : by_device_ms;
		by_device_ms += device->limit_ms + device->delay_ms;
	}
	if (by_device_ms != UINT64_MAX && node->fence.round) /* devices that failed before they were mended */
		by_device_ms += FENCE_RETRY_MS << FENCE_RETRY_SHIFT_MAX;
	if (node->facts.watchdog_ms)
		by_watchdog_ms = timing_watchdog_proof_ms(sim_token_ms(sim), node->facts.watchdog_ms);
	return by_device_ms < by_watchdog_ms ? by_device_ms : by_watchdog_ms;
}

/* What is on each node, counted once for all VMs that ask. */
struct calm_nodes {
	bool counted;
	uint64_t in_log_mib[NODES_MAX + 1], in_world_mib[NODES_MAX + 1];
	uint32_t suspects[NODES_MAX + 1]; /* B18: VMs under which a node has died */
};

static bool is_on(const struct vm *vm, uint32_t node)
{
	return vm->owner == node || vm->target == node;
}

static void count_nodes(struct sim *sim, const struct cluster *cluster, struct calm_nodes *nodes)
{
	nodes->counted = true;
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		const struct vm *vm = &cluster->vms[i];
		uint32_t on[] = {vm->owner, vm->target != vm->owner ? vm->target : 0};
		for (size_t n = 0; n < ARRAY_SIZE(on); n++) {
			nodes->in_log_mib[on[n]] += vm->def.memory_mib;
			nodes->suspects[on[n]] += vm->killed != 0;
		}
	}
	for (const struct world_copy *copy = world_copies(sim->world); copy; copy = copy->next) {
		const struct vm *vm = copy->dead ? NULL : check_there(cluster, check_vm(sim, copy->guest->vm));
		nodes->in_world_mib[copy->node] += vm ? vm->def.memory_mib : 0;
	}
}

/* What the log or the machine itself says that is on it; the larger. */
static uint64_t used_mib(const struct calm_nodes *nodes, uint32_t node, const struct vm *but)
{
	uint64_t in_log = nodes->in_log_mib[node] - (is_on(but, node) ? but->def.memory_mib : 0);

	return in_log > nodes->in_world_mib[node] ? in_log : nodes->in_world_mib[node];
}

/* B18: a VM under which a node has died is not to meet another such one. */
static bool has_suspect(const struct calm_nodes *nodes, uint32_t node, const struct vm *but)
{
	return nodes->suspects[node] > (but->killed && is_on(but, node) ? 1u : 0u);
}

bool check_quarantined(const struct sim *sim, const struct cluster *cluster, uint64_t members, uint32_t node)
{
	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		const struct node *other = cluster_node(cluster, id);
		if ((members & node_bit(id)) && other->state == NODE_ONLINE && !other->quarantine_ms)
			return cluster_node(cluster, node)->quarantine_ms != 0;
	}
	return false;
}

static bool has_place(struct sim *sim, const struct cluster *cluster, struct calm_nodes *nodes, const struct vm *vm,
	uint64_t members)
{
	if (!nodes->counted)
		count_nodes(sim, cluster, nodes);
	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		const struct node *node = cluster_node(cluster, id);
		if ((members & node_bit(id)) && node->state == NODE_ONLINE && !check_quarantined(sim, cluster, members, id) &&
			!(vm->killed && has_suspect(nodes, id, vm)) &&
			!((vm->exhausted | vm->storage_lost) & node_bit(id)) &&
			used_mib(nodes, id, vm) + vm->def.memory_mib <= sim->config.memory_mib)
			return true;
	}
	return false;
}

bool check_has_place(struct sim *sim, const struct cluster *cluster, const struct vm *vm, uint64_t members)
{
	struct calm_nodes nodes = {0};

	return has_place(sim, cluster, &nodes, vm, members);
}

/* Its QEMU hangs: nobody knows before it has been silent for long, and then it is killed (B17). The clock begins when it is
 * dead. */
static bool hangs(const struct sim *sim, const char *uuid)
{
	for (const struct world_copy *copy = world_copies_of(sim->world, uuid); copy; copy = copy->next_of_guest)
		if (copy->hangs && !copy->dead)
			return true;
	return false;
}

/* Within how long it must run; UINT64_MAX: it runs, or need not. */
static uint64_t bound_ms(struct sim *sim, const struct cluster *cluster, struct calm_nodes *nodes,
	const struct check_vm *check, const struct vm *vm, uint64_t members)
{
	uint64_t proof = 0;

	if (!vm || !check->must_run || check->falsely_dead || check->off_asked != check->off_answered ||
		vm->def.priority == PRIORITY_NONE || vm->state == VM_FAILED || vm->task || world_executing(sim->world, check->uuid))
		return UINT64_MAX;
	/* No node could restore it: only a person knows whether to try again or to give the state up. */
	if (vm->state == VM_SAVED && vm->want == WANT_SAVED)
		return UINT64_MAX;
	if (vm->owner && !(members & node_bit(vm->owner)))
		proof = proof_ms(sim, cluster, vm->owner);
	if (proof == UINT64_MAX || !has_place(sim, cluster, nodes, vm, members) ||
		(vm->state == VM_ONLINE && hangs(sim, check->uuid)))
		return UINT64_MAX;
	return LOOK_AGAIN_MS + proof + BEGIN_MS + UINT64_C(4) * sim->config.step_ms;
}

void checks_calm(struct sim *sim, bool disturbed)
{
	struct checks *checks = sim->checks;
	struct calm_nodes nodes = {0};
	uint64_t now_us = timeline_now_us(sim->timeline), formed_us;
	uint64_t members = at_one(sim, &formed_us);
	const struct cluster *cluster = members ? sim_newest(sim) : NULL;

	for (uint32_t i = 0; i < NODES_MAX && cluster; i++)
		disturbed |= cluster->nodes[i].recalled_ms != 0; /* the limiter waits for its end, which is core/timing.h's */
	if (disturbed || !members || members != checks->calm_members || formed_us != checks->calm_formed_us)
		checks->calm_us = now_us;
	checks->calm_members = members;
	checks->calm_formed_us = formed_us;
	for (uint32_t i = 0; i < checks->vm_count && cluster; i++) {
		struct check_vm *check = &checks->vms[i];
		const struct vm *vm = check_there(cluster, check);
		uint64_t bound = bound_ms(sim, cluster, &nodes, check, vm, members);
		if (bound == UINT64_MAX || vm->epoch != check->calm_epoch || vm->owner != check->calm_owner ||
			check->calm_us < checks->calm_us) {
			check->calm_us = now_us;
			check->calm_epoch = vm ? vm->epoch : 0;
			check->calm_owner = vm ? vm->owner : 0;
		} else if (now_us - check->calm_us > bound * 1000) {
			sim_violation(sim, "I6: %s should run, and has not for %" PRIu64 " ms of calm; it is %s: %s",
				vm->def.name, (now_us - check->calm_us) / 1000, vm_state_name((int)vm->state), vm->reason);
		}
	}
}
