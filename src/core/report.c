/* SPDX-License-Identifier: Apache-2.0
 * What nodes saw happen. A report about an old incarnation (another boot, epoch or task) changes nothing: it is
 * refused, which only means that the log says why it did not count. */
#include "core/internal.h"

#include <string.h>

static bool late(struct step *step, const struct vm *vm)
{
	return refuse(step, ERR_PROTOCOL, "late: %s is %s (%s) in epoch %llu now", vm->def.name,
		vm_state_name((int)vm->state), move_phase_name((int)vm->phase), (unsigned long long)vm->epoch);
}

static bool from_owner(const struct step *step, const struct vm *vm)
{
	return vm->owner == step->event->node && vm->epoch == step->event->epoch && vm->state != VM_BLOCKED;
}

static bool of_task(const struct step *step, const struct vm *vm, enum move_phase phase)
{
	return vm->phase == phase && vm->task && vm->task == step->event->task;
}

static void started(struct step *step, struct vm *vm)
{
	const char *node = cluster_node_name(step->cluster, vm->owner);

	if (!from_owner(step, vm) || (vm->state != VM_STARTING && vm->state != VM_STOPPING)) {
		late(step, vm);
		return;
	}
	vm->started = true;
	vm->no_room_count = 0;
	vm->run_ms = step->cluster->now_ms;
	if (vm->state == VM_STOPPING) {
		vm_touch(step, vm);
		return;
	}
	task_end(step, vm, TASK_DONE, "started on %s", node);
	vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "runs on %s", node);
}

/* By its policy a death like any other, or the end. */
static void panicked(struct step *step, struct vm *vm)
{
	const char *node = cluster_node_name(step->cluster, step->event->node);
	char why[REASON_BYTES];

	if (vm->def.policy.on_panic != ON_PANIC_STOP) {
		reason_set(why, "the guest panicked on %s", node);
		vm_died(step, vm, why);
		return;
	}
	reason_set(why, "the guest panicked on %s; its policy on_panic says stop", node);
	task_end(step, vm, TASK_FAILED, "%s", why);
	vm->want = WANT_OFF;
	vm_went_off(step, vm, why);
}

/* A start that would have come by itself, which the node could not even begin: nothing has run, no death. */
static void not_begun(struct step *step, struct vm *vm)
{
	char why[REASON_BYTES];

	reason_set(why, "not started on %s: %.200s", cluster_node_name(step->cluster, step->event->node), step->event->text);
	task_trouble(step, vm, step->event->code);
	task_end(step, vm, TASK_FAILED, "%s", why);
	if (step->event->code == ERR_IO) {
		storage_start_failed(step, vm);
		return;
	}
	vm_no_room(step, vm, vm->owner);
	vm_went_off(step, vm, why);
}

static void gone(struct step *step, struct vm *vm)
{
	const char *node = cluster_node_name(step->cluster, step->event->node);
	char why[REASON_BYTES];

	if (!from_owner(step, vm) || vm->state == VM_SAVED || vm->state == VM_FAILED) {
		late(step, vm);
		return;
	}
	if (vm->storage_end_ms && step->event->cause != GONE_GUEST_SHUTDOWN) {
		storage_ended(step, vm);
		return;
	}
	if (vm->phase == MOVE_LOAD || vm->phase == MOVE_BACK) {
		reason_set(why, "the sealed copy on %s ended", node);
		vm_source_gone(step, vm, why);
		return;
	}
	if (vm->state == VM_STOPPING) {
		reason_set(why, "stopped on %s: %s", node, vm->reason);
		task_end(step, vm, TASK_DONE, "%s", why);
		vm->want = WANT_OFF;
		vm_went_off(step, vm, why);
		return;
	}
	if (step->event->cause == GONE_GUEST_SHUTDOWN) {
		reason_set(why, "the guest powered itself off on %s", node);
		task_end(step, vm, TASK_FAILED, "%s", why);
		vm->want = WANT_OFF;
		vm_went_off(step, vm, why);
		return;
	}
	if (vm->state == VM_STARTING && !vm_start_is_asked(vm) &&
		(step->event->code == ERR_IO || step->event->code == ERR_NO_ROOM)) {
		not_begun(step, vm);
		return;
	}
	if (step->event->cause == GONE_SELF_FENCED) {
		reason_set(why, "%s ended it, without quorum: %.180s", node, step->event->text);
		vm_owner_dead(step, vm, why);
		return;
	}
	if (step->event->cause == GONE_PANICKED) {
		panicked(step, vm);
		return;
	}
	task_trouble(step, vm, step->event->code);
	reason_set(why, "QEMU ended on %s: %s", node, step->event->text[0] ? step->event->text : "no reason known");
	vm_died(step, vm, why);
}

static void prepared(struct step *step, struct vm *vm)
{
	const char *node = cluster_node_name(step->cluster, vm->target);

	if (!of_task(step, vm, MOVE_PREPARE) || vm->target != step->event->node) {
		late(step, vm);
		return;
	}
	task_figures(step, vm, vm->task, &step->event->figures);
	if (vm->state == VM_RESTORING) {
		vm_go(step, vm, VM_RESTORING, MOVE_LOAD, "%s stands by and loads the saved state", node);
	} else if (vm->dry_run) {
		vm->target = 0;
		task_end(step, vm, TASK_DONE, "dry run: %s can take %s", node, vm->def.name);
		vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "runs on %s; a dry run showed that %s could take it",
			cluster_node_name(step->cluster, vm->owner), node);
	} else if (vm->filling) {
		vm_go(step, vm, vm->state, MOVE_WAIT, "%s stands by; pages of the move before are still coming in",
			node);
	} else {
		vm_go(step, vm, vm->state, MOVE_COPY, "%s stands by; memory is being saved while the guest runs", node);
	}
}

static void sealed(struct step *step, struct vm *vm)
{
	struct cluster *cluster = step->cluster;

	if (!of_task(step, vm, MOVE_COPY) || !from_owner(step, vm)) {
		late(step, vm);
		return;
	}
	task_figures(step, vm, vm->task, &step->event->figures);
	vm->saved = (struct saved_state){
		.status = SAVED_SEALED,
		.task = vm->task,
		.epoch = vm->epoch,
		.sealed_by = vm->owner,
		.sealed_ms = cluster->now_ms,
	};
	if (vm->state == VM_MOVING) {
		vm_go(step, vm, VM_MOVING, MOVE_LOAD, "sealed by %s; %s loads it",
			cluster_node_name(cluster, vm->owner), cluster_node_name(cluster, vm->target));
		return;
	}
	task_end(step, vm, TASK_DONE, "saved by %s", cluster_node_name(cluster, vm->owner));
	vm_go(step, vm, VM_SAVED, MOVE_IDLE, "saved by %s", cluster_node_name(cluster, vm->owner));
	vm->owner = 0;
	vm->started = false;
}

/* The one place where a saved state is consumed: ownership and consumption are one event (design §6 step 6). */
static void loaded(struct step *step, struct vm *vm)
{
	struct cluster *cluster = step->cluster;
	const struct event *event = step->event;

	if (!of_task(step, vm, MOVE_LOAD) || vm->target != event->node) {
		late(step, vm);
		return;
	}
	task_figures(step, vm, vm->task, &event->figures);
	vm->saved.status = SAVED_CONSUMED;
	vm->saved.consumed_by = event->node;
	vm->saved.consumed_ms = cluster->now_ms;
	vm->owner = event->node;
	vm->epoch++;
	vm->started = false;
	vm->filling = event->filling;
	vm->want = WANT_ON;
	vm_go(step, vm, vm->state, MOVE_RESUME, "%s has loaded state %llu, which is consumed now",
		cluster_node_name(cluster, event->node), (unsigned long long)vm->saved.task);
}

static void resumed(struct step *step, struct vm *vm)
{
	const char *node = cluster_node_name(step->cluster, vm->owner);
	char why[REASON_BYTES];

	if (!from_owner(step, vm) || (vm->phase != MOVE_RESUME && vm->phase != MOVE_RETURN)) {
		late(step, vm);
		return;
	}
	vm->target = 0;
	vm->started = true;
	vm->no_room_count = 0;
	if (vm->phase == MOVE_RESUME) {
		task_figures(step, vm, vm->task, &step->event->figures);
		if (!place_wish(vm, vm->owner))
			vm->displaced = false; /* home */
		task_end(step, vm, TASK_DONE, "runs on %s with its memory", node);
		vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "runs on %s with its memory", node);
		return;
	}
	reason_set(why, "%s", vm->reason);
	task_end(step, vm, vm->cancelled ? TASK_CANCELLED : TASK_FAILED, "%s", why);
	vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "runs on %s; the last move or save: %s", node, why);
}

static void held(struct step *step, struct vm *vm)
{
	if (from_owner(step, vm) && of_task(step, vm, MOVE_BACK))
		vm_copy_held(step, vm);
	else
		late(step, vm);
}

static void filled(struct step *step, struct vm *vm)
{
	if (!from_owner(step, vm) || !vm->filling) {
		late(step, vm);
		return;
	}
	vm->filling = false;
	task_figures(step, vm, vm->saved.task, &step->event->figures);
	if (vm->phase == MOVE_WAIT)
		vm_go(step, vm, vm->state, MOVE_COPY, "all pages are in; memory is being saved while the guest runs");
	else
		vm_touch(step, vm);
}

static void step_failed(struct step *step, struct vm *vm)
{
	const struct event *event = step->event;
	bool by_owner = vm->owner == event->node && vm->phase == MOVE_COPY;
	bool by_target = vm->target == event->node && vm->target != vm->owner && vm->phase != MOVE_RETURN;
	char why[REASON_BYTES];

	if (!vm->task || vm->task != event->task || (!by_owner && !by_target)) {
		late(step, vm);
		return;
	}
	reason_set(why, "%s: %s", cluster_node_name(step->cluster, event->node),
		event->text[0] ? event->text : "the step failed, no reason known");
	task_trouble(step, vm, event->code);
	if (by_target && vm->state == VM_RESTORING && event->code == ERR_NO_ROOM)
		vm_no_room(step, vm, event->node);
	vm_move_failed(step, vm, by_target ? event->node : 0, why);
}

void report_step(struct step *step)
{
	const struct event *event = step->event;
	struct vm *vm = cluster_vm(step->cluster, event->vm);

	if (!vm) {
		refuse(step, ERR_NOT_FOUND, "late: the VM was deleted");
		return;
	}
	if (strcmp(event->boot_id, cluster_node(step->cluster, event->node)->facts.boot_id) != 0 ||
		!node_usable(step->cluster, event->node)) {
		refuse(step, ERR_PROTOCOL, "late: from another boot of the node");
		return;
	}
	if (event->kind == EVENT_STARTED)
		started(step, vm);
	else if (event->kind == EVENT_GONE) {
		gone(step, vm);
		storage_node_well(step, &step->cluster->nodes[event->node - 1]);
	} else if (event->kind == EVENT_PREPARED)
		prepared(step, vm);
	else if (event->kind == EVENT_SEALED)
		sealed(step, vm);
	else if (event->kind == EVENT_LOADED)
		loaded(step, vm);
	else if (event->kind == EVENT_RESUMED)
		resumed(step, vm);
	else if (event->kind == EVENT_FILLED)
		filled(step, vm);
	else if (event->kind == EVENT_HELD)
		held(step, vm);
	else if (event->kind == EVENT_STEP_FAILED)
		step_failed(step, vm);
	else if (event->kind == EVENT_STORAGE_LOST || event->kind == EVENT_STORAGE_OK)
		storage_report(step, vm);
}
