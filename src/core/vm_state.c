/* SPDX-License-Identifier: Apache-2.0 */
#include "core/internal.h"
#include "core/timing.h"

#include <assert.h>
#include <string.h>

#define BIT(state) (1u << (state))

/* The allowed moves; the drawing is in model/cluster.h. A state may always be confirmed (from == to). */
static const uint32_t allowed[VM_STATE_COUNT] = {
	[VM_OFF] = BIT(VM_STARTING) | BIT(VM_FAILED),
	[VM_STARTING] = BIT(VM_ONLINE) | BIT(VM_OFF) | BIT(VM_STOPPING) | BIT(VM_BLOCKED) | BIT(VM_FAILED),
	[VM_ONLINE] = BIT(VM_STOPPING) | BIT(VM_MOVING) | BIT(VM_SAVING) | BIT(VM_OFF) | BIT(VM_BLOCKED) | BIT(VM_FAILED),
	[VM_STOPPING] = BIT(VM_OFF) | BIT(VM_ONLINE) | BIT(VM_BLOCKED),
	[VM_MOVING] = BIT(VM_ONLINE) | BIT(VM_SAVED) | BIT(VM_RESTORING) | BIT(VM_OFF) | BIT(VM_BLOCKED) | BIT(VM_FAILED),
	[VM_SAVING] = BIT(VM_SAVED) | BIT(VM_ONLINE) | BIT(VM_OFF) | BIT(VM_BLOCKED) | BIT(VM_FAILED),
	[VM_SAVED] = BIT(VM_RESTORING) | BIT(VM_OFF),
	[VM_RESTORING] = BIT(VM_ONLINE) | BIT(VM_SAVED) | BIT(VM_OFF) | BIT(VM_BLOCKED) | BIT(VM_FAILED),
	[VM_BLOCKED] = BIT(VM_STARTING) | BIT(VM_ONLINE) | BIT(VM_STOPPING) | BIT(VM_RESTORING) | BIT(VM_OFF) |
		       BIT(VM_FAILED),
	[VM_FAILED] = BIT(VM_OFF) | BIT(VM_STARTING),
};

bool vm_state_allowed(enum vm_state from, enum vm_state to)
{
	return from == to || (allowed[from] & BIT(to));
}

void vm_touch(struct step *step, struct vm *vm)
{
	struct core_outcome *out = step->out;

	assert(out->change_count < CORE_CHANGES_MAX);
	struct core_change *change = &out->changes[out->change_count++];
	*change = (struct core_change){
		.vm = (uint32_t)(vm - step->cluster->vms),
		.from_state = vm->state,
		.to_state = vm->state,
		.from_phase = vm->phase,
		.to_phase = vm->phase,
	};
	memcpy(change->reason, vm->reason, sizeof(change->reason));
}

static uint64_t limit_ms(const struct vm *vm)
{
	switch (vm->phase) {
	case MOVE_PREPARE:
		return PREPARE_LIMIT_MS;
	case MOVE_COPY:
		return COPY_LIMIT_MS;
	case MOVE_LOAD:
		return vm->state == VM_MOVING ? LOAD_LIMIT_MS : RESTORE_LIMIT_MS;
	case MOVE_IDLE:
		return vm->state == VM_STOPPING && !vm->turn_off ? SHUTDOWN_LIMIT_MS : 0;
	case MOVE_WAIT:
		return WAIT_LIMIT_MS;
	case MOVE_BACK:
		return BACK_LIMIT_MS;
	case MOVE_RESUME:
	case MOVE_RETURN:
		return 0;
	}
	return 0;
}

void vm_go(struct step *step, struct vm *vm, enum vm_state state, enum move_phase phase, const char *format, ...)
{
	va_list args;
	struct core_change *change;

	assert(vm_state_allowed(vm->state, state));
	vm_touch(step, vm);
	change = &step->out->changes[step->out->change_count - 1];
	change->to_state = state;
	change->to_phase = phase;
	if (vm->state != state)
		vm->since_ms = step->cluster->now_ms;
	if (vm->storage_ms && state != VM_ONLINE)
		storage_reset(step, vm);
	vm->state = state;
	vm->phase = phase;
	vm->wait = WAIT_NONE;
	vm->changed_index = step->cluster->index;
	uint64_t limit = limit_ms(vm);
	vm->deadline_ms = limit ? step->cluster->now_ms + limit : 0;
	va_start(args, format);
	char text[REASON_BYTES];
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	reason_set(vm->reason, "%s", text);
	memcpy(change->reason, vm->reason, sizeof(change->reason));
}

/* The invariants of design §9 as far as one VM's record can show them. A failure here is a bug, and ending the daemon
 * is safer than acting on it: guests run on. */
void vm_check(const struct cluster *cluster, const struct vm *vm)
{
	bool runs = vm->state == VM_STARTING || vm->state == VM_ONLINE || vm->state == VM_STOPPING ||
		    vm->state == VM_MOVING || vm->state == VM_SAVING || vm->state == VM_BLOCKED;

	if (!vm->def.uuid[0])
		return;
	assert(vm->owner <= NODES_MAX && vm->target <= NODES_MAX);
	assert(!runs || vm->owner);
	assert(vm->state != VM_OFF || !vm->owner);
	assert(vm->state != VM_SAVED || (!vm->owner && vm->saved.status == SAVED_SEALED));
	assert((vm->phase != MOVE_IDLE) ==
		(vm->state == VM_MOVING || vm->state == VM_SAVING || vm->state == VM_RESTORING));
	assert(vm->phase != MOVE_BACK || (vm->state == VM_MOVING && !vm->target));
	assert((vm->phase != MOVE_LOAD && vm->phase != MOVE_BACK) || (vm->saved.status == SAVED_SEALED && vm->saved.epoch == vm->epoch));
	assert(vm->phase != MOVE_RESUME || (vm->saved.status == SAVED_CONSUMED && vm->saved.epoch + 1 == vm->epoch &&
						  vm->saved.consumed_by == vm->owner));
	assert(vm->saved.status != SAVED_SEALED || vm->saved.epoch == vm->epoch);
	assert(vm->state != VM_MOVING || vm->phase == MOVE_RESUME || vm->owner != vm->target);
	assert(vm->changed_index <= cluster->index);
	assert(vm->reason[0]);
}
