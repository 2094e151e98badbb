/* SPDX-License-Identifier: Apache-2.0
 * I7: a fence never takes a majority, and never a node that is in the view of who fences. I6: what should run does;
 * here is the book of what should, kept from what administrators asked and were told, and from what guests did
 * themselves. */
#include "sim/check_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* How many nodes may be off by the cluster's own hand at a time. Of two, the one that goes on may take the other. */
static uint32_t may_take(const struct sim *sim)
{
	return sim->config.node_count == 2 ? 1 : (sim->config.node_count - 1) / 2;
}

static void check_executor(struct sim *sim, uint32_t by, const struct fence_order *order, const char *what)
{
	const struct sim_node *node = &sim->nodes[by];
	struct engine_status status;

	if (order->action != FENCE_OFF)
		return;
	engine_get_status(node->engine, &status);
	if (!status.quorate)
		sim_violation(sim, "I7: n%u %s n%u without a quorum", by, what, order->device.node);
	if (status.members & node_bit(order->device.node))
		sim_violation(sim, "I7: n%u %s n%u, which is in its view", by, what, order->device.node);
	if (by == order->device.node)
		sim_violation(sim, "I7: n%u %s itself", by, what);
}

void checks_fence_began(struct sim *sim, uint32_t by, const struct fence_order *order)
{
	check_executor(sim, by, order, "sets out to fence");
}

void checks_fence_sent(struct sim *sim, uint32_t by, const struct fence_order *order)
{
	uint32_t target = order->device.node;
	uint32_t taken = 1;

	check_executor(sim, by, order, "fences");
	if (order->action != FENCE_OFF || !sim->nodes[target].powered || (sim->checks->forced & node_bit(target)))
		return;
	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		taken += id != target && sim->nodes[id].fenced && !sim->nodes[id].powered;
	if (taken > may_take(sim))
		sim_violation(sim, "I7: n%u fences n%u: that makes %u of %u nodes off by fencing", by, target, taken,
			sim->config.node_count);
}

/* What a cluster has given to the node runs there, or will as soon as its QEMU is up. */
static void all_falsely_dead(struct sim *sim, const struct cluster *cluster, uint32_t node)
{
	for (uint32_t i = 0; i < cluster->vm_count; i++)
		if (cluster->vms[i].def.uuid[0] && cluster->vms[i].owner == node)
			check_vm(sim, cluster->vms[i].def.uuid)->falsely_dead = true;
}

void checks_false_death(struct sim *sim, uint32_t node)
{
	for (const struct world_copy *copy = world_copies(sim->world); copy; copy = copy->next)
		if (copy->node == node && !copy->dead)
			check_vm(sim, copy->guest->vm)->falsely_dead = true;
	if (sim->nodes[node].engine)
		all_falsely_dead(sim, engine_cluster(sim->nodes[node].engine), node);
	if (sim_newest(sim))
		all_falsely_dead(sim, sim_newest(sim), node);
	if (sim_one_goes_on(sim))
		sim->checks->two_histories = true;
}

/* What must run. */

static bool may_end_it(enum event_kind kind)
{
	return kind == EVENT_VM_STOP || kind == EVENT_VM_SHUTDOWN || kind == EVENT_VM_SAVE || kind == EVENT_VM_DELETE;
}

/* There are nodes that the one that is asked does not see, and that may go on by themselves. */
static bool others_live(const struct sim *sim, uint32_t node)
{
	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		if (sim->nodes[id].powered && !(net_ring_members(sim->net, node) & node_bit(id)))
			return true;
	return false;
}

void check_run_asked(struct sim *sim, uint32_t node, const struct event *event)
{
	struct check_vm *vm;

	if (event->kind == EVENT_NODE_CONFIRM_OFF) {
		if (sim->nodes[event->target].powered)
			checks_false_death(sim, event->target);
		else
			net_learn(sim->net, node, event->target); /* a person has looked */
	}
	if (event->kind == EVENT_QUORUM_FORCED && others_live(sim, node))
		sim->checks->two_histories = true;
	if (event->kind == EVENT_NODE_FENCE && event->force)
		sim->checks->forced |= node_bit(event->target);
	if (may_end_it(event->kind)) {
		vm = check_vm(sim, event->vm);
		vm->off_asked++;
		vm->off_since = true;
		vm->must_run = false;
	} else if (event->kind == EVENT_VM_START) {
		vm = check_vm(sim, event->vm);
		if (vm->off_asked == vm->off_answered)
			vm->off_since = false;
	}
}

static bool runs(const struct sim *sim, const char *vm, uint32_t but)
{
	for (const struct world_copy *copy = world_copies_of(sim->world, vm); copy; copy = copy->next_of_guest)
		if (copy->executes && copy->node != but)
			return true;
	return false;
}

/* A request that timed out, or whose daemon died, may still take effect: it is never counted as answered. */
void check_run_answered(struct sim *sim, const struct event *event, const struct engine_reply *reply)
{
	if (may_end_it(event->kind) && reply->code != ERR_TIMEOUT)
		check_vm(sim, event->vm)->off_answered++;
	/* A start that somebody waits for and that does not work is his to try again: it counts when its task says so. */
	if (event->kind == EVENT_VM_START && reply->code == ERR_NONE && !runs(sim, event->vm, 0))
		check_vm(sim, event->vm)->must_run = false;
}

static char text[512];

/* Memory of what executes on the node. */
static uint32_t used_mib(struct sim *sim, const struct cluster *cluster, uint32_t node)
{
	uint32_t used = 0;

	for (const struct world_copy *copy = world_copies(sim->world); copy; copy = copy->next) {
		const struct vm *vm =
			copy->executes && copy->node == node ? check_there(cluster, check_vm(sim, copy->guest->vm)) : NULL;
		used += vm ? vm->def.memory_mib : 0;
	}
	return used;
}

/* Its restarts there are used up for now, or the node flaps: it waits until that is over, if there is no other. */
static bool is_open(struct sim *sim, const struct cluster *cluster, const struct vm *vm, uint32_t node)
{
	return !(vm->exhausted & node_bit(node)) && !check_quarantined(sim, cluster, UINT64_MAX, node);
}

static bool has_room(struct sim *sim, const struct cluster *cluster, const struct vm *vm)
{
	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		if (is_open(sim, cluster, vm, id) && used_mib(sim, cluster, id) + vm->def.memory_mib <= sim->config.memory_mib)
			return true;
	return false;
}

const char *check_run_end(struct sim *sim, const struct cluster *cluster)
{
	for (uint32_t i = 0; i < sim->checks->vm_count; i++) {
		struct check_vm *check = &sim->checks->vms[i];
		const struct vm *vm = check->must_run ? check_there(cluster, check) : NULL;
		if (!vm || check->falsely_dead || vm->def.priority == PRIORITY_NONE || runs(sim, check->uuid, 0))
			continue;
		if (vm->state == VM_FAILED || (vm->state == VM_OFF && !has_room(sim, cluster, vm)))
			continue;
		/* B18: suspects are started one at a time on a node, and each is for minutes. */
		if (vm->state == VM_OFF && vm->killed && !check_has_place(sim, cluster, vm, cluster->members))
			continue;
		if (vm->state == VM_SAVED && vm->want == WANT_SAVED) /* no node could restore it: a person's to decide */
			continue;
		snprintf(text, sizeof(text), "I6: %s should run and was forgotten, it is %s: %s", vm->def.name,
			vm_state_name((int)vm->state), vm->reason);
		return text;
	}
	return NULL;
}

/* One failover, from a cluster at rest. */

void checks_failover_begin(struct sim *sim, uint32_t lost)
{
	(void)lost;
	for (uint32_t i = 0; i < sim->checks->vm_count; i++)
		sim->checks->vms[i].followed = runs(sim, sim->checks->vms[i].uuid, 0);
}

bool checks_failover_done(struct sim *sim, uint32_t lost, char *why, size_t size)
{
	const struct cluster *cluster = sim_newest(sim);

	for (uint32_t i = 0; i < sim->checks->vm_count; i++) {
		struct check_vm *check = &sim->checks->vms[i];
		const struct vm *vm = cluster ? check_there(cluster, check) : NULL;
		/* B18: two nodes died under it, one soon after the other: it is not to take a third one along. */
		if (vm && vm->state == VM_FAILED && __builtin_popcountll(vm->killed) >= 2)
			continue;
		/* … and while another such one is tried on each node that is left and open, it waits, be it for its disks. */
		if (vm && (vm->state == VM_OFF || vm->storage_ms) && vm->killed && !check_has_place(sim, cluster, vm, cluster->members & ~node_bit(lost)))
			continue;
		if (!check->followed || !vm || vm->def.priority == PRIORITY_NONE || runs(sim, check->uuid, lost))
			continue;
		snprintf(why, size, "%s is %s: %s", vm->def.name, vm_state_name((int)vm->state), vm->reason);
		return false;
	}
	return true;
}
