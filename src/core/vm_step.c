/* SPDX-License-Identifier: Apache-2.0
 * Steps of a VM's life that several events lead to. Every one of them says where the proof is when a guest may run. */
#include "core/internal.h"
#include "core/timing.h"

#include <assert.h>
#include <string.h>

/* Proof: the caller knows that no copy runs (OFF, or GONE was reported for the epoch before). */
void vm_start_on(struct step *step, struct vm *vm, uint32_t node, const char *why)
{
	assert(!vm->owner || vm->owner == node);
	vm->owner = node;
	vm->target = 0;
	vm->epoch++;
	vm->started = false;
	vm->filling = false;
	vm->want = WANT_ON;
	vm->run_ms = step->cluster->now_ms;
	vm->retry_ms = 0;
	if (vm->saved.status == SAVED_SEALED)
		vm->saved.status = SAVED_DISCARDED;
	vm_go(step, vm, VM_STARTING, MOVE_IDLE, "starting on %s: %s", cluster_node_name(step->cluster, node), why);
}

/* Proof: the state is SEALED and not consumed, so the copy that wrote it is stopped and may not run again. */
void vm_restore_on(struct step *step, struct vm *vm, uint32_t node, const char *why)
{
	assert(vm->saved.status == SAVED_SEALED && vm->saved.epoch == vm->epoch);
	vm->owner = 0;
	vm->target = node;
	vm->want = WANT_ON;
	vm->run_ms = step->cluster->now_ms;
	if (vm->task)
		task_target(step, vm, node);
	else
		task_begin(step, vm, TASK_RESTORE, node);
	vm_go(step, vm, VM_RESTORING, MOVE_PREPARE, "restoring on %s: %s", cluster_node_name(step->cluster, node), why);
}

void vm_went_off(struct step *step, struct vm *vm, const char *why)
{
	if (vm->owner)
		vm->last_owner = vm->owner;
	vm->owner = 0;
	vm->target = 0;
	vm->started = false;
	vm->filling = false;
	vm->turn_off = false;
	vm_go(step, vm, VM_OFF, MOVE_IDLE, "%s", why);
}

void vm_no_room(struct step *step, struct vm *vm, uint32_t node)
{
	uint32_t shift = vm->no_room_count < ROOM_AGAIN_SHIFT_MAX ? vm->no_room_count : ROOM_AGAIN_SHIFT_MAX;

	vm->no_room |= node_bit(node);
	vm->no_room_count++;
	vm->no_room_ms = step->cluster->now_ms + ((uint64_t)ROOM_AGAIN_MS << shift);
}

void vm_room_review(struct step *step, struct vm *vm, uint64_t *next_ms)
{
	next_at(step, next_ms, vm->no_room_ms);
	if (vm->no_room_ms > step->cluster->now_ms)
		return;
	vm->no_room = vm->no_room_ms = 0;
	vm_touch(step, vm);
}

/* The restore on failed_node came to nothing: the next node, or stay saved with what was learned. */
static void restore_next(struct step *step, struct vm *vm, uint32_t failed_node, const char *why)
{
	char text[REASON_BYTES];
	char reason[REASON_BYTES];
	bool cancelled = vm->cancelled;

	if (failed_node)
		vm->tried |= node_bit(failed_node);
	vm->target = 0;
	plan_forget(step->plan);
	uint32_t next = cancelled ? 0 : place_choose(step->cluster, step->plan, vm, vm->tried, text);
	if (next) {
		vm_restore_on(step, vm, next, why);
		return;
	}
	bool soon = failed_node && (vm->no_room & node_bit(failed_node)) && !cancelled;
	reason_set(reason, "the saved state is kept%s: %s", soon ? ", and tried again soon" : "", why);
	task_end(step, vm, cancelled ? TASK_CANCELLED : TASK_FAILED, "%s", reason);
	vm->owner = 0;
	/* Only a person knows whether to try again or to give the state up; WANT_ON would try for ever. A node that
	 * joins is the exception: see policy.c. So is a node that has no memory free yet: it soon may. */
	if ((failed_node && !soon) || cancelled)
		vm->want = WANT_SAVED;
	vm_go(step, vm, VM_SAVED, MOVE_IDLE, "%s", reason);
}

/* Not sealed: the copy is the guest's only memory, and runs. */
static void move_return(struct step *step, struct vm *vm, const char *why)
{
	assert(vm->saved.status != SAVED_SEALED);
	vm->target = 0;
	vm->want = WANT_ON;
	vm_go(step, vm, vm->state, MOVE_RETURN, "%s; %s lets the guest run on", why,
		cluster_node_name(step->cluster, vm->owner));
}

/* Sealed, and not loaded. The state is given up for the source's copy, but only for one that is there: it may have ended
 * since, and the source been without quorum, or rebooted, before it could tell. */
static void move_back(struct step *step, struct vm *vm, uint32_t failed_node, const char *why)
{
	if (failed_node)
		vm->tried |= node_bit(failed_node);
	vm->target = 0;
	vm->want = WANT_ON;
	vm_go(step, vm, VM_MOVING, MOVE_BACK, "%s; %s lets the guest run on", why,
		cluster_node_name(step->cluster, vm->owner));
}

/* Proof: HELD came from the owner for this task. The reason stays: the move's end is what is told of it. */
void vm_copy_held(struct step *step, struct vm *vm)
{
	char why[REASON_BYTES];

	reason_set(why, "%s", vm->reason);
	vm->saved.status = SAVED_DISCARDED;
	vm_go(step, vm, VM_MOVING, MOVE_RETURN, "%s", why);
}

void vm_move_failed(struct step *step, struct vm *vm, uint32_t failed_node, const char *why)
{
	enum task_state end = vm->cancelled ? TASK_CANCELLED : TASK_FAILED;

	vm->move_again_ms = step->cluster->now_ms + MOVE_AGAIN_MS;
	switch (vm->phase) {
	case MOVE_PREPARE:
	case MOVE_WAIT:
		if (vm->state == VM_RESTORING) {
			restore_next(step, vm, failed_node, why);
			return;
		}
		/* Nothing has stopped or begun on the source. */
		task_end(step, vm, end, "%s", why);
		vm->target = 0;
		vm->want = WANT_ON;
		vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "runs on %s: %s", cluster_node_name(step->cluster, vm->owner),
			why);
		return;
	case MOVE_COPY:
		move_return(step, vm, why);
		return;
	case MOVE_LOAD:
		if (vm->state == VM_MOVING && node_usable(step->cluster, vm->owner))
			move_back(step, vm, failed_node, why);
		else
			restore_next(step, vm, failed_node, why);
		return;
	case MOVE_BACK:
		vm_source_gone(step, vm, why);
		return;
	case MOVE_IDLE:
	case MOVE_RESUME:
	case MOVE_RETURN:
		return;
	}
}

/* Whether some node is left on which watari may try it: it is there, and the restarts on it are not used up. */
static bool untried_left(const struct cluster *cluster, const struct vm *vm)
{
	uint64_t possible = vm->def.policy.possible ? vm->def.policy.possible : UINT64_MAX;

	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if ((possible & ~vm->exhausted & node_bit(id)) && node_usable(cluster, id) &&
			!quarantine_holds(cluster, id))
			return true;
	return false;
}

/* One more death on this node: as many restarts there as the budget says, then another node, then a pause. */
static void count_death(struct step *step, struct vm *vm, uint32_t node, const char *why)
{
	struct vm_policy policy = vm->def.policy;
	uint64_t now = step->cluster->now_ms;

	vm_policy_pin(&policy); /* a definition of before has none */
	uint64_t period_ms = (uint64_t)policy.restart_period_s * 1000;
	if (vm->run_ms + period_ms <= now)
		vm->exhausted = 0;
	if (!vm->deaths || vm->deaths_ms + period_ms < now || vm->last_owner != node) {
		vm->deaths = 0;
		vm->deaths_ms = now;
	}
	vm->deaths++;
	vm_went_off(step, vm, why);
	if (vm->deaths <= policy.restart_max)
		return;
	vm->deaths = 0;
	vm->exhausted |= node_bit(node);
	vm->retry_ms = policy.retry_after_s ? now + (uint64_t)policy.retry_after_s * 1000 : 0;
	if (untried_left(step->cluster, vm))
		return;
	vm->want = policy.retry_after_s ? WANT_ON : WANT_OFF;
	vm_go(step, vm, VM_FAILED, MOVE_IDLE,
		"restarts used up on every node (%u within %u s on each), %s; the last: %.110s", policy.restart_max,
		policy.restart_period_s, policy.retry_after_s ? "tried again later" : "an administrator decides", why);
}

bool vm_start_is_asked(const struct vm *vm)
{
	return vm->state == VM_STARTING && vm->task && !vm->wanted;
}

/* Proof: GONE for this epoch came from the owner. policy_run finds it a place. */
void vm_died(struct step *step, struct vm *vm, const char *why)
{
	bool asked = vm_start_is_asked(vm);

	task_end(step, vm, TASK_FAILED, "%s", why);
	if (asked || vm->want == WANT_OFF) {
		/* Somebody waits for the answer: say it, rather than try again behind his back. */
		vm->want = WANT_OFF;
		vm_went_off(step, vm, why);
		return;
	}
	if (vm->def.priority == PRIORITY_NONE) {
		vm->want = WANT_OFF;
		vm_went_off(step, vm, why);
		vm_go(step, vm, VM_OFF, MOVE_IDLE, "not restarted, its priority is none: %s", why);
		return;
	}
	vm->want = WANT_ON;
	count_death(step, vm, vm->owner, why);
}

/* Sealed: the log proves that the source's copy does not run, and now that copy is not there to go back to either. So
 * this is a restore from here on: the target goes on, or another node takes over, but nobody returns to the source,
 * which would give the state up for a copy that is lost. */
void vm_source_gone(struct step *step, struct vm *vm, const char *why)
{
	if (vm->state != VM_MOVING || (vm->phase != MOVE_LOAD && vm->phase != MOVE_BACK))
		return;
	vm->owner = 0;
	if (vm->phase == MOVE_BACK) {
		/* The move has come to its end already; what follows is watari's own doing. */
		task_end(step, vm, vm->cancelled ? TASK_CANCELLED : TASK_FAILED, "%s", vm->reason);
		restore_next(step, vm, 0, why);
		return;
	}
	if (!node_usable(step->cluster, vm->target)) {
		restore_next(step, vm, 0, why);
		return;
	}
	vm_go(step, vm, VM_RESTORING, MOVE_LOAD, "%s; %s goes on loading the saved state", why,
		cluster_node_name(step->cluster, vm->target));
}

void vm_owner_lost(struct step *step, struct vm *vm, const char *why)
{
	if (vm->phase == MOVE_LOAD || vm->phase == MOVE_BACK) {
		vm_source_gone(step, vm, why);
		return;
	}
	if (vm->state == VM_RESTORING && vm->phase != MOVE_RESUME)
		return; /* no owner yet */
	task_end(step, vm, TASK_FAILED, "%s", why);
	vm->target = 0;
	if (vm->state == VM_SAVING)
		vm->want = WANT_ON;
	vm_go(step, vm, VM_BLOCKED, MOVE_IDLE, "%s and may still run it: no proof that its copy is dead", why);
}

/* Proof: the node is NODE_DEAD, has another boot id, or ended the copy for want of quorum. The VM did nothing wrong: its own deaths are not counted. */
void vm_owner_dead(struct step *step, struct vm *vm, const char *why)
{
	bool asked = vm_start_is_asked(vm);

	task_end(step, vm, TASK_FAILED, "%s", why);
	if (vm->want == WANT_OFF || asked) {
		vm->want = WANT_OFF;
		vm_went_off(step, vm, why);
		return;
	}
	vm->want = WANT_ON;
	vm->deaths = 0;
	vm_went_off(step, vm, why);
	if (vm->def.priority == PRIORITY_NONE) {
		vm->want = WANT_OFF;
		vm_go(step, vm, VM_OFF, MOVE_IDLE, "not started elsewhere, its priority is none: %s", why);
	}
}

void vm_target_lost(struct step *step, struct vm *vm, const char *why)
{
	if (vm->phase == MOVE_PREPARE || vm->phase == MOVE_WAIT || vm->phase == MOVE_COPY || vm->phase == MOVE_LOAD)
		vm_move_failed(step, vm, vm->target, why);
}

void vm_move_to(struct step *step, struct vm *vm, uint32_t target, bool dry_run, const char *why)
{
	task_begin(step, vm, TASK_MOVE, target);
	vm->target = target;
	vm->tried = 0;
	vm->dry_run = dry_run;
	vm_go(step, vm, VM_MOVING, MOVE_PREPARE, "%s", why);
}
