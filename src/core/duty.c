/* SPDX-License-Identifier: Apache-2.0
 * Who does what right now, read off the state. For one VM at most one node gets a duty under which its guest may run:
 * START, RUN, SHUTDOWN and COPY go to the owner alone, and STANDBY, LOAD and HOLD never let a guest run. */
#include "core/internal.h"

static struct duty run_duty(const struct vm *vm)
{
	struct duty duty = {.kind = DUTY_RUN, .epoch = vm->epoch, .task = vm->task, .filling = vm->filling};

	duty.end_panicked = vm->def.policy.on_panic != ON_PANIC_PAUSE;
	duty.heartbeat_s = vm->def.policy.heartbeat_s;
	duty.report_resumed = vm->phase == MOVE_RESUME || vm->phase == MOVE_RETURN;
	duty.storage_lost = vm->storage_ms != 0;
	if (vm->saved.status == SAVED_CONSUMED && vm->saved.epoch + 1 == vm->epoch)
		duty.state_task = vm->saved.task;
	return duty;
}

static struct duty owner_duty(const struct vm *vm)
{
	struct duty duty = {.epoch = vm->epoch, .task = vm->task, .filling = vm->filling};

	switch (vm->state) {
	case VM_STARTING:
		duty.kind = DUTY_START;
		duty.report_started = true;
		return duty;
	case VM_STOPPING:
		duty.kind = vm->turn_off ? DUTY_STOP : DUTY_SHUTDOWN;
		return duty;
	case VM_BLOCKED:
		/* Its node is not in the view, or just came back: touch nothing until the log says what to think of it. */
		duty.kind = DUTY_HOLD;
		return duty;
	case VM_ONLINE:
		if (!vm->storage_end_ms)
			return run_duty(vm);
		duty.kind = DUTY_STOP;
		duty.at_once = true;
		return duty;
	case VM_MOVING:
	case VM_SAVING:
	case VM_RESTORING:
		break;
	case VM_OFF:
	case VM_SAVED:
	case VM_FAILED:
		return duty;
	}
	switch (vm->phase) {
	case MOVE_COPY:
		duty.kind = DUTY_COPY;
		return duty;
	case MOVE_LOAD:
	case MOVE_BACK:
		duty.kind = DUTY_HOLD;
		duty.report_held = vm->phase == MOVE_BACK;
		return duty;
	case MOVE_IDLE:
	case MOVE_PREPARE:
	case MOVE_WAIT:
	case MOVE_RESUME:
	case MOVE_RETURN:
		break;
	}
	return run_duty(vm);
}

static struct duty target_duty(const struct vm *vm)
{
	struct duty duty = {.epoch = vm->epoch + 1, .task = vm->task};

	switch (vm->phase) {
	case MOVE_PREPARE:
	case MOVE_WAIT:
	case MOVE_COPY:
		duty.kind = DUTY_STANDBY;
		return duty;
	case MOVE_LOAD:
		duty.kind = DUTY_LOAD;
		duty.state_task = vm->saved.task;
		duty.state_epoch = vm->saved.epoch;
		return duty;
	case MOVE_IDLE:
	case MOVE_RESUME:
	case MOVE_RETURN:
	case MOVE_BACK:
		break;
	}
	return duty;
}

struct duty core_duty(const struct cluster *cluster, uint32_t index, uint32_t node)
{
	const struct vm *vm = &cluster->vms[index];

	if (!vm->def.uuid[0])
		return (struct duty){.kind = DUTY_NONE};
	if (vm->owner == node)
		return owner_duty(vm);
	if (vm->target == node)
		return target_duty(vm);
	return (struct duty){.kind = DUTY_NONE,
		.probe = vm->storage_asked == node && !vm->storage_ok_ms,
		.probe_epoch = vm->epoch};
}

uint64_t core_state_kept(const struct cluster *cluster, uint32_t index)
{
	const struct vm *vm = &cluster->vms[index];

	if (!vm->def.uuid[0])
		return 0;
	if (vm->phase == MOVE_COPY)
		return vm->task;
	/* Consumed, and the run that consumed it still needs its pages, or has not begun. */
	bool in_use = vm->saved.status == SAVED_CONSUMED && vm->saved.epoch + 1 == vm->epoch && vm->owner &&
		      (vm->filling || !vm->started);
	return vm->saved.status == SAVED_SEALED || in_use ? vm->saved.task : 0;
}

uint32_t core_janitor(const struct cluster *cluster, uint32_t index)
{
	const struct vm *vm = &cluster->vms[index];

	if (vm->owner)
		return is_member(cluster, vm->owner) ? vm->owner : 0;
	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (is_member(cluster, id))
			return id;
	return 0;
}
