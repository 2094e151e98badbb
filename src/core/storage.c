/* SPDX-License-Identifier: Apache-2.0
 * A guest whose disks cannot be reached where it runs: paused by QEMU, or waiting for an answer that does not come.
 *
 *	reached ──owner: LOST──▶ lost ──ASK──▶ a node is asked ──it does──▶ sure? ──CONFIRM──▶ ended ──GONE──▶ OFF, placed
 *	   ▲                      │  ▲            │ no, or no answer                             (SIGKILL)      elsewhere
 *	   │                      │  └── AGAIN ◀──┴─▶ the next node …
 *	   └──owner: OK───────────┴── (any time before it is ended)
 *
 * Rules: nothing is ended unless another node, on which the VM would be started, has said that it reaches the disks:
 * storage that is away for all lets all guests wait. Paused is no proof: what QEMU holds is written when it is let run,
 * or while it ends. The proof is its death, told by its node. A node that did not reach the disks is not tried again for
 * a while. The timeline is in timing.h. */
#include "core/internal.h"
#include "core/timing.h"

#include <string.h>

static bool is_lost(const struct vm *vm)
{
	return vm->storage_ms && vm->state == VM_ONLINE && !vm->task;
}

/* Until when this keeps it from being tried there: while another node is left, and while none is. */
static void known_now(struct step *step, struct vm *vm)
{
	vm->storage_forget_ms = step->cluster->now_ms + STORAGE_FORGET_MS;
	vm->storage_at_ms = step->cluster->now_ms + STORAGE_AGAIN_MS;
}

void storage_reset(struct step *step, struct vm *vm)
{
	vm->storage_ms = vm->storage_at_ms = vm->storage_ok_ms = vm->storage_end_ms = 0;
	vm->storage_asked = 0;
	if (vm->storage_lost)
		known_now(step, vm);
}

static void storage_forget(struct step *step, struct vm *vm)
{
	vm->storage_lost = vm->storage_forget_ms = vm->storage_at_ms = 0;
	vm_touch(step, vm);
}

static void by_owner(struct step *step, struct vm *vm)
{
	const struct event *event = step->event;
	const char *node = cluster_node_name(step->cluster, vm->owner);
	bool lost = event->kind == EVENT_STORAGE_LOST;

	if (vm->state != VM_ONLINE || vm->storage_end_ms || lost == (vm->storage_ms != 0)) {
		refuse(step, ERR_PROTOCOL, "late: known, or %s is being ended or moved", vm->def.name);
		return;
	}
	if (!lost) {
		vm->storage_lost &= ~node_bit(vm->owner);
		storage_reset(step, vm);
		vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "runs on %s: its disks are reached again", node);
		return;
	}
	vm->storage_ms = step->cluster->now_ms;
	vm->storage_at_ms = 0;
	vm->storage_lost |= node_bit(vm->owner);
	vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "waits on %s for its disks: %.180s", node, event->text);
}

static void no_answer_from(struct step *step, struct vm *vm, const char *why)
{
	uint32_t node = vm->storage_asked;

	vm->storage_lost |= node_bit(node);
	vm->storage_asked = 0;
	vm->storage_at_ms = vm->storage_ok_ms = 0;
	vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "waits on %s for its disks; %s does not reach them either: %.140s",
		cluster_node_name(step->cluster, vm->owner), cluster_node_name(step->cluster, node), why);
}

void storage_report(struct step *step, struct vm *vm)
{
	const struct event *event = step->event;

	if (vm->epoch != event->epoch) {
		refuse(step, ERR_PROTOCOL, "late: of another epoch");
	} else if (event->node == vm->owner) {
		by_owner(step, vm);
	} else if (event->node != vm->storage_asked || !is_lost(vm) || vm->storage_ok_ms) {
		refuse(step, ERR_PROTOCOL, "late: nobody waits for this answer");
	} else if (event->kind == EVENT_STORAGE_LOST) {
		no_answer_from(step, vm, event->text);
	} else {
		vm->storage_ok_ms = step->cluster->now_ms;
		vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "waits on %s for its disks; %s reaches them",
			cluster_node_name(step->cluster, vm->owner), cluster_node_name(step->cluster, event->node));
	}
}

static void ask(struct step *step, struct vm *vm)
{
	struct cluster *cluster = step->cluster;
	uint64_t now = cluster->now_ms;

	if (vm->storage_at_ms && vm->storage_at_ms <= now)
		vm->storage_lost = node_bit(vm->owner);
	else if (vm->storage_at_ms)
		return;
	char why[REASON_BYTES];
	bool alone = vm->storage_lost == node_bit(vm->owner);
	uint32_t node = place_choose(cluster, step->plan, vm, vm->storage_lost, why);
	vm->storage_asked = node;
	vm->storage_at_ms = node ? now : now + STORAGE_AGAIN_MS;
	/* Of those that were asked each has been named. */
	if (!node && alone)
		vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "waits on %s for its disks, and nobody else is asked: %.150s",
			cluster_node_name(cluster, vm->owner), why);
	else
		vm_touch(step, vm);
}

static void end(struct step *step, struct vm *vm)
{
	vm->storage_end_ms = step->cluster->now_ms;
	vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "is killed on %s, which does not reach its disks; %s does, and starts it",
		cluster_node_name(step->cluster, vm->owner), cluster_node_name(step->cluster, vm->storage_asked));
}

/* A guest on the node that does well. */
static const struct vm *one_well(const struct cluster *cluster, uint32_t node)
{
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		const struct vm *vm = &cluster->vms[i];
		if (vm->def.uuid[0] && vm->owner == node && !vm->storage_ms)
			return vm;
	}
	return NULL;
}

/* SIGKILL has not ended it: it waits in the kernel for a storage that hangs. Only the end of its node proves its own.
 */
static void stuck(struct step *step, struct vm *vm)
{
	struct cluster *cluster = step->cluster;
	struct node *node = &cluster->nodes[vm->owner - 1];
	const char *name = node->facts.name;
	const struct vm *well = one_well(cluster, vm->owner);
	char text[REASON_BYTES];

	if (node->stuck_ms)
		return;
	if (well) {
		reason_set(text,
			"QEMU does not die on %s, its storage hangs; %s runs well there: move it away, then %s is "
			"switched off",
			name, well->def.name, name);
	} else if (!fence_may_prove(cluster, node)) {
		reason_set(text,
			"QEMU does not die on %s, its storage hangs, and nothing may prove its end: reboot %s, or mend "
			"it",
			name, name);
	} else {
		reason_set(text,
			"QEMU does not die on %s, its storage hangs: %s leaves the cluster, to be switched off", name,
			name);
		node->stuck_ms = cluster->now_ms;
		reason_set(
			node->reason, "leaves the cluster, to be switched off: QEMU of %s does not die", vm->def.name);
		step->out->nodes_changed |= node_bit(node->id);
	}
	if (strcmp(vm->reason, text) != 0)
		vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "%s", text);
}

bool core_must_leave(const struct cluster *cluster, uint32_t node)
{
	return node_usable(cluster, node) && cluster_node(cluster, node)->stuck_ms;
}

/* What it waits for, and until when. */
void storage_review(struct step *step, struct vm *vm, uint64_t *next_ms)
{
	struct cluster *cluster = step->cluster;
	uint64_t now = cluster->now_ms;
	uint64_t end_ms;

	if (!vm->storage_ms && vm->storage_forget_ms <= now)
		storage_forget(step, vm);
	if (!vm->storage_ms) {
		next_at(step, next_ms, vm->storage_forget_ms);
		next_at(step, next_ms, vm->storage_at_ms);
		return;
	}
	/* With priority none nothing is started elsewhere by itself: it waits for its disks. */
	if (vm->storage_end_ms && is_lost(vm) && vm->storage_end_ms + STORAGE_KILL_MS <= now)
		stuck(step, vm);
	if (vm->storage_end_ms)
		next_at(step, next_ms, vm->storage_end_ms + STORAGE_KILL_MS);
	if (!is_lost(vm) || vm->storage_end_ms || vm->def.priority == PRIORITY_NONE || vm->want != WANT_ON)
		return;
	next_at(step, next_ms, vm->storage_ms + STORAGE_ASK_MS);
	if (now < vm->storage_ms + STORAGE_ASK_MS)
		return;
	if (vm->storage_asked && !node_usable(cluster, vm->storage_asked))
		no_answer_from(step, vm, "it is not there any more");
	else if (vm->storage_asked && !vm->storage_ok_ms && vm->storage_at_ms + STORAGE_ANSWER_MS <= now)
		no_answer_from(step, vm, "no answer");
	if (!vm->storage_asked)
		ask(step, vm);
	if (!vm->storage_ok_ms) {
		next_at(step, next_ms, vm->storage_at_ms + (vm->storage_asked ? STORAGE_ANSWER_MS : 0));
		return;
	}
	end_ms = vm->storage_ok_ms + STORAGE_CONFIRM_MS;
	if (end_ms < vm->storage_ms + STORAGE_GRACE_MS)
		end_ms = vm->storage_ms + STORAGE_GRACE_MS;
	next_at(step, next_ms, end_ms);
	if (end_ms <= now) {
		end(step, vm);
		next_at(step, next_ms, now + STORAGE_KILL_MS);
	}
}

void storage_node_well(struct step *step, struct node *node)
{
	const struct cluster *cluster = step->cluster;

	for (uint32_t i = 0; node->stuck_ms && i < cluster->vm_count; i++) {
		const struct vm *vm = &cluster->vms[i];
		if (vm->def.uuid[0] && vm->owner == node->id && vm->storage_end_ms)
			return;
	}
	if (!node->stuck_ms)
		return;
	node->stuck_ms = 0;
	reason_set(node->reason, "stays in the cluster: the QEMU that did not die is dead");
	step->out->nodes_changed |= node_bit(node->id);
}

/* It did nothing wrong: its own deaths are not counted. */
void storage_ended(struct step *step, struct vm *vm)
{
	char why[REASON_BYTES];

	reason_set(why, "its copy on %s, which did not reach its disks, is dead: killed for that",
		cluster_node_name(step->cluster, vm->owner));
	vm->deaths = 0;
	vm_went_off(step, vm, why);
}

void storage_start_failed(struct step *step, struct vm *vm)
{
	char why[REASON_BYTES];

	reason_set(why, "%s does not reach its disks: %.180s", cluster_node_name(step->cluster, vm->owner),
		step->event->text);
	vm->storage_lost |= node_bit(vm->owner);
	known_now(step, vm);
	vm_went_off(step, vm, why);
}

bool storage_all_again(struct step *step, struct vm *vm, uint64_t *next_ms)
{
	uint64_t now = step->cluster->now_ms;

	if (!vm->storage_lost)
		return false;
	next_at(step, next_ms, vm->storage_at_ms);
	if (vm->storage_at_ms > now)
		return false;
	storage_forget(step, vm);
	return true;
}

void storage_node_rebooted(struct step *step, uint32_t node)
{
	for (uint32_t i = 0; i < step->cluster->vm_count; i++) {
		struct vm *vm = &step->cluster->vms[i];
		if (!vm->def.uuid[0] || !(vm->storage_lost & node_bit(node)) || vm->owner == node)
			continue;
		vm->storage_lost &= ~node_bit(node);
		vm_touch(step, vm);
	}
}
