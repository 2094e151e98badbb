/* SPDX-License-Identifier: Apache-2.0
 * What an administrator asks for. Each request is accepted, with a task where it takes time, or refused with the fact
 * that decided it and the way out. */
#include "core/internal.h"

#include <assert.h>
#include <string.h>

static bool busy(struct step *step, const struct vm *vm)
{
	return refuse(step, ERR_BUSY, "%s is %s (task %llu, phase %s): wait for it, or 'vm cancel %s'", vm->def.name,
		vm_state_name((int)vm->state), (unsigned long long)vm->task, move_phase_name((int)vm->phase),
		vm->def.name);
}

/* The refusal that fits a VM which is not in the state that the request needs. */
static bool wrong_state(struct step *step, const struct vm *vm, const char *need)
{
	const char *name = vm->def.name;

	switch (vm->state) {
	case VM_MOVING:
	case VM_SAVING:
	case VM_RESTORING:
	case VM_STARTING:
	case VM_STOPPING:
		return busy(step, vm);
	case VM_BLOCKED:
		return refuse(step, ERR_UNFIT,
			"%s is blocked: %.150s; what %s reports when it is back is the proof, or "
			"'node confirm-off'",
			name, vm->reason, cluster_node_name(step->cluster, vm->owner));
	case VM_OFF:
	case VM_SAVED:
	case VM_FAILED:
		return refuse(step, ERR_UNFIT, "%s is %s, %s", name, vm_state_name((int)vm->state), need);
	case VM_ONLINE:
		return refuse(
			step, ERR_UNFIT, "%s runs on %s, %s", name, cluster_node_name(step->cluster, vm->owner), need);
	}
	return false;
}

/* Another VM that has one of these disks for itself; a disk that all users only read may be shared. */
static bool disks_free(struct step *step, const struct vm_def *def)
{
	for (uint32_t v = 0; v < step->cluster->vm_count; v++) {
		const struct vm_def *other = &step->cluster->vms[v].def;
		if (!other->uuid[0] || !strcmp(other->uuid, def->uuid))
			continue;
		for (uint32_t i = 0; i < def->disk_count; i++)
			for (uint32_t j = 0; j < other->disk_count; j++)
				if (!strcmp(def->disks[i].path, other->disks[j].path) &&
					!(def->disks[i].read_only && other->disks[j].read_only))
					return refuse(step, ERR_EXISTS,
						"disk %s: '%.120s' is in use by %s: give it one of its own",
						def->disks[i].id, def->disks[i].path, other->name);
	}
	return true;
}

static bool def_ok(struct step *step)
{
	struct err err;

	if (vm_def_check(&step->event->def, &err) < 0)
		return refuse(step, err.code, "%.200s", err.text);
	return disks_free(step, &step->event->def);
}

static void create(struct step *step)
{
	struct cluster *cluster = step->cluster;
	const struct vm_def *def = &step->event->def;
	uint32_t slot = 0;

	if (!def_ok(step))
		return;
	if (cluster_vm_find(cluster, def->name) || cluster_vm_find(cluster, def->uuid)) {
		refuse(step, ERR_EXISTS, "there is a VM '%s' already", def->name);
		return;
	}
	while (slot < cluster->vm_count && cluster->vms[slot].def.uuid[0])
		slot++;
	if (slot == VMS_MAX) {
		refuse(step, ERR_UNFIT, "%d VMs are defined, more are not possible", VMS_MAX);
		return;
	}
	if (slot == cluster->vm_count)
		cluster->vm_count++;
	struct vm *vm = &cluster->vms[slot];
	*vm = (struct vm){.def = *def, .state = VM_OFF, .want = WANT_OFF};
	vm_go(step, vm, VM_OFF, MOVE_IDLE, "created");
	vm->since_ms = cluster->now_ms;
}

/* What may change while the VM runs: nothing that its machine is built of. */
static bool only_policy(const struct vm_def *was, const struct vm_def *now)
{
	struct vm_def same = *now;

	same.policy = was->policy;
	same.priority = was->priority;
	same.offline_action = was->offline_action;
	return schema_equal(&vm_def_schema, &same, was);
}

static void edit_policy(struct step *step, struct vm *vm)
{
	const struct vm_def *def = &step->event->def;
	struct core_outcome *out = step->out;

	vm->def.policy = def->policy;
	vm->def.priority = def->priority;
	vm->def.offline_action = def->offline_action;
	/* Its state and the reason for it stay; only the log tells of the edit. */
	vm_touch(step, vm);
	reason_set(out->changes[out->change_count - 1].reason, "policy edited by %s", step->event->by);
}

static void edit(struct step *step, struct vm *vm)
{
	const struct vm_def *def = &step->event->def;
	const struct vm *other = cluster_vm_find(step->cluster, def->name);
	bool off = vm->state == VM_OFF || vm->state == VM_FAILED;

	if (!off && !only_policy(&vm->def, def)) {
		wrong_state(step, vm,
			"its machine is pinned (policy, priority and offline action are not): shut it down first");
		return;
	}
	if (!def_ok(step))
		return;
	if (strcmp(def->uuid, vm->def.uuid) != 0) {
		refuse(step, ERR_INVALID, "uuid: it is what makes %s this VM, and cannot be edited", vm->def.name);
		return;
	}
	if (other && other != vm) {
		refuse(step, ERR_EXISTS, "there is a VM '%s' already", def->name);
		return;
	}
	if (step->event->was_digest && step->event->was_digest != vm_def_digest(&vm->def)) {
		refuse(step, ERR_BUSY, "VM '%s' was changed by somebody else in the meantime: look at it again",
			vm->def.name);
		return;
	}
	step->reword = true;
	if (!off) {
		edit_policy(step, vm);
		return;
	}
	vm->def = *def;
	vm->exhausted = 0; /* what was wrong with it may have been mended */
	vm->retry_ms = 0;
	vm->deaths = 0;
	vm_go(step, vm, vm->state, MOVE_IDLE, "edited");
}

static void deleted_remember(struct cluster *cluster, const char *uuid)
{
	struct deleted_vm *deleted = cluster->deleted;

	if (cluster->deleted_count == DELETED_MAX)
		memmove(deleted, deleted + 1, --cluster->deleted_count * sizeof(*deleted));
	deleted += cluster->deleted_count++;
	*deleted = (struct deleted_vm){.index = cluster->index};
	memcpy(deleted->uuid, uuid, sizeof(deleted->uuid));
}

static void delete (struct step *step, struct vm *vm)
{
	if (vm->state == VM_SAVED && !step->event->force) {
		refuse(step, ERR_NEEDS_FORCE, "%s has a saved state, which would be lost", vm->def.name);
		return;
	}
	if (vm->state != VM_OFF && vm->state != VM_FAILED && vm->state != VM_SAVED) {
		wrong_state(step, vm, "shut it down first");
		return;
	}
	vm_touch(step, vm);
	deleted_remember(step->cluster, vm->def.uuid);
	*vm = (struct vm){.state = VM_OFF};
}

/* A target that an administrator named: the words say why it cannot be. */
static bool target_ok(struct step *step, const struct vm *vm, uint32_t target)
{
	char text[REASON_BYTES];

	if (target < 1 || target > NODES_MAX || !cluster_node(step->cluster, target)->id)
		return refuse(step, ERR_NOT_FOUND, "no such node");
	if (!place_fits(step->cluster, step->plan, vm, target, text))
		return refuse(step, ERR_UNFIT, "%s", text);
	return true;
}

/* The node that it is to start on, or 0 after a refusal. */
static uint32_t start_node(struct step *step, struct vm *vm)
{
	uint64_t exhausted = vm->exhausted, killed = vm->killed;
	uint32_t node = step->event->target;
	char text[REASON_BYTES];

	/* A person knows better: what happened before counts no more. */
	vm->exhausted = vm->killed = 0;
	if (node) {
		node = target_ok(step, vm, node) ? node : 0;
	} else {
		node = place_choose(step->cluster, step->plan, vm, 0, text);
		if (!node)
			refuse(step, ERR_UNFIT, "no node can take %s: %s", vm->def.name, text);
	}
	if (!node) {
		vm->exhausted = exhausted;
		vm->killed = killed;
	}
	return node;
}

static void start(struct step *step, struct vm *vm)
{
	char why[REASON_BYTES];

	if (vm->state != VM_OFF && vm->state != VM_SAVED && vm->state != VM_FAILED) {
		wrong_state(step, vm, "there is nothing to start");
		return;
	}
	uint32_t node = start_node(step, vm);
	if (!node)
		return;
	reason_set(why, "asked by %s", step->event->by);
	vm->deaths = 0;
	vm->tried = 0;
	vm->displaced = !step->event->target && vm->def.policy.preferred_count && place_wish(vm, node) != 0;
	if (vm->state == VM_SAVED && !step->event->force) {
		task_begin(step, vm, TASK_RESTORE, node);
		vm_restore_on(step, vm, node, why);
		return;
	}
	if (vm->state == VM_SAVED)
		vm_went_off(step, vm, "the saved state was discarded on request");
	vm->wanted = vm->want == WANT_ON;
	task_begin(step, vm, TASK_START, node);
	vm_start_on(step, vm, node, why);
}

/* It does not run, but would be started by itself: for that there was no other word. */
static bool stop_waiting(struct step *step, struct vm *vm)
{
	if (vm->want != WANT_ON || (vm->state != VM_OFF && vm->state != VM_SAVED && vm->state != VM_FAILED))
		return false;
	vm->want = vm->state == VM_SAVED ? WANT_SAVED : WANT_OFF;
	vm->retry_ms = 0;
	vm->wait = WAIT_NONE;
	vm_go(step, vm, vm->state, MOVE_IDLE, "not started by itself any more: asked by %s", step->event->by);
	return true;
}

static void stop(struct step *step, struct vm *vm, bool turn_off)
{
	bool harder = turn_off && vm->state == VM_STOPPING && !vm->turn_off;

	if (stop_waiting(step, vm))
		return;
	if (vm->state != VM_ONLINE && !(turn_off && vm->state == VM_STARTING) && !harder) {
		wrong_state(step, vm, "there is nothing to stop");
		return;
	}
	task_end(step, vm, TASK_CANCELLED, "a stop was asked by %s", step->event->by);
	task_begin(step, vm, turn_off ? TASK_STOP : TASK_SHUTDOWN, 0);
	vm->turn_off = turn_off;
	vm->want = WANT_OFF;
	vm_go(step, vm, VM_STOPPING, MOVE_IDLE, "%s asked by %s", turn_off ? "turn-off" : "shutdown", step->event->by);
}

static void save(struct step *step, struct vm *vm)
{
	if (vm->state != VM_ONLINE) {
		wrong_state(step, vm, "only a running VM can be saved");
		return;
	}
	task_begin(step, vm, TASK_SAVE, 0);
	vm->want = WANT_SAVED;
	vm_go(step, vm, VM_SAVING, vm->filling ? MOVE_WAIT : MOVE_COPY, "asked by %s", step->event->by);
}

static void move(struct step *step, struct vm *vm)
{
	uint32_t target = step->event->target;
	char why[REASON_BYTES];

	if (vm->state != VM_ONLINE) {
		wrong_state(step, vm, "only a running VM can be moved: 'vm start --on' starts it on a node");
		return;
	}
	if (target == vm->owner) {
		refuse(step, ERR_INVALID, "%s runs on %s already: name another node", vm->def.name,
			cluster_node_name(step->cluster, target));
		return;
	}
	if (!target_ok(step, vm, target))
		return;
	const struct node_facts *here = &cluster_node(step->cluster, vm->owner)->facts;
	const struct node_facts *there = &cluster_node(step->cluster, target)->facts;
	if (strcmp(here->accel, there->accel) != 0) {
		refuse(step, ERR_UNFIT, "%s runs under %s on %s, and %s has %s: a saved state does not load there",
			vm->def.name, here->accel, here->name, there->name, there->accel);
		return;
	}
	reason_set(why, "asked by %s, to %s", step->event->by, cluster_node_name(step->cluster, target));
	if (!step->event->dry_run)
		vm->displaced = false; /* it is where a person wants it */
	vm_move_to(step, vm, target, step->event->dry_run, why);
}

static void cancel(struct step *step, struct vm *vm)
{
	char why[REASON_BYTES];

	if (vm->state != VM_MOVING && vm->state != VM_SAVING && vm->state != VM_RESTORING) {
		refuse(step, ERR_UNFIT, "%s is %s: there is no move, save or restore to cancel", vm->def.name,
			vm_state_name((int)vm->state));
		return;
	}
	if (vm->phase == MOVE_RESUME || vm->phase == MOVE_RETURN || vm->phase == MOVE_BACK) {
		refuse(step, ERR_UNFIT, "too late: %s is about to run on %s", vm->def.name,
			cluster_node_name(step->cluster, vm->owner));
		return;
	}
	reason_set(why, "cancelled by %s", step->event->by);
	vm->cancelled = true;
	vm_move_failed(step, vm, 0, why);
}

void request_step(struct step *step)
{
	const struct event *event = step->event;
	struct vm *vm = cluster_vm(step->cluster, event->kind == EVENT_VM_EDIT ? event->def.uuid : event->vm);

	if (fence_waits_for_other_half(step))
		return;
	if (event->kind == EVENT_VM_CREATE) {
		create(step);
		return;
	}
	if (!vm) {
		refuse(step, ERR_NOT_FOUND, "no such VM (it may have been deleted meanwhile)");
		return;
	}
	if (event->kind == EVENT_VM_EDIT)
		edit(step, vm);
	else if (event->kind == EVENT_VM_DELETE)
		delete (step, vm);
	else if (event->kind == EVENT_VM_START)
		start(step, vm);
	else if (event->kind == EVENT_VM_SHUTDOWN)
		stop(step, vm, false);
	else if (event->kind == EVENT_VM_STOP)
		stop(step, vm, true);
	else if (event->kind == EVENT_VM_SAVE)
		save(step, vm);
	else if (event->kind == EVENT_VM_MOVE)
		move(step, vm);
	else if (event->kind == EVENT_VM_CANCEL)
		cancel(step, vm);
}
