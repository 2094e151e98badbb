/* SPDX-License-Identifier: Apache-2.0
 * What takes time on a machine: steps that end well or fail, as the dice say. */
#include "driver/fake/machine.h"

#include <assert.h>

static bool dice_fail(struct machine *machine, enum hv_state step)
{
	bool told = machine->fail_next[step];

	machine->fail_next[step] = false;
	return told || prng_chance(machine->prng, machine->config.fail_permille);
}

/* A step of typically step_ms × factor. */
uint64_t machine_takes_us(struct machine *machine, uint32_t factor)
{
	uint64_t typical = machine->config.step_ms * UINT64_C(1000) * factor;

	return machine->config.exact ? typical : prng_between(machine->prng, typical / 8, typical);
}

static void step_done(void *ctx);

void instance_begin_step(struct instance *instance)
{
	struct machine *machine = instance->machine;
	bool copies = instance->state == HV_COPYING && instance->copy->executes;

	timeline_cancel(machine->timeline, instance->step);
	instance->step = NULL;
	if (machine->holds)
		return; /* resumed by machine_hold(false) */
	instance->step = timeline_after(machine->timeline,
		machine_takes_us(machine, copies ? machine->config.exact ? 4 : 10 : 1), step_done, instance);
}

static void start_done(struct instance *instance)
{
	struct machine *machine = instance->machine;
	struct world_guest *guest = world_guest(machine->world, instance->def.uuid, instance->def.name);

	if (machine->storage != STORAGE_OK) {
		instance_fail(instance, ERR_IO, "its disks are not reached");
		return;
	}
	if (dice_fail(machine, HV_STARTING)) {
		instance_fail(instance, ERR_UNFIT, "QEMU did not come up");
		return;
	}
	instance->state = HV_RUNNING;
	instance->copy = world_boot(machine->world, guest, machine->config.node, instance->epoch);
	machine_tell(machine, instance->def.uuid, instance_event(instance, HV_EVENT_STARTED));
}

static void standby_done(struct instance *instance)
{
	if (dice_fail(instance->machine, HV_PREPARING)) {
		instance_fail(instance, ERR_UNFIT, "no bridge of this name");
		return;
	}
	instance->state = HV_STANDBY;
	instance->figures.prepared_us = machine_now_us(instance->machine);
	machine_tell(instance->machine, instance->def.uuid, instance_event(instance, HV_EVENT_PREPARED));
}

/* While it waits for its disks the driver lets it try again and again. */
static void look_at_disks(void *ctx);

static void look_later(struct instance *instance)
{
	struct machine *machine = instance->machine;

	timeline_cancel(machine->timeline, instance->look);
	instance->look = timeline_after(machine->timeline,
		1000 * (machine->config.exact ? 2000 : prng_between(machine->prng, 1, 2000)), look_at_disks, instance);
}

static void look_at_disks(void *ctx)
{
	struct instance *instance = ctx;
	struct machine *machine = instance->machine;

	instance->look = NULL;
	if (instance->state != HV_RUNNING || !instance->starved)
		return;
	if (machine->storage != STORAGE_OK) {
		look_later(instance);
		return;
	}
	instance->starved = false;
	if (!instance->copy->executes)
		world_go_on(machine->world, instance->copy, instance->epoch);
	machine_tell(machine, instance->def.uuid, instance_event(instance, HV_EVENT_STORAGE));
}

/* A guest that runs and does not reach its disks stops at its next write. */
void instance_starve(struct instance *instance)
{
	struct machine *machine = instance->machine;

	if (machine->storage == STORAGE_OK || instance->state != HV_RUNNING || !instance->copy || !instance->copy->executes)
		return;
	world_stop(machine->world, instance->copy, "its disks are not reached");
	instance->starved = true;
	machine_tell(machine, instance->def.uuid, instance_event(instance, HV_EVENT_STORAGE));
	look_later(instance);
}

void instance_copy_failed(struct instance *instance, const char *why)
{
	struct machine *machine = instance->machine;

	timeline_cancel(machine->timeline, instance->step);
	instance->step = NULL;
	/* A guest that was stopped is let run on by the driver, or waits for the engine. */
	if (!instance->copy->executes && prng_chance(machine->prng, 500)) {
		instance->broken = true;
	} else {
		if (!instance->copy->executes && !instance->panicked)
			world_go_on(machine->world, instance->copy, instance->epoch);
		instance->state = HV_RUNNING;
		instance_starve(instance);
	}
	machine_tell(machine, instance->def.uuid, machine_failure(instance->task, instance->epoch, ERR_NO_SPACE, why));
	if (!instance->broken)
		instance->task = 0;
}

static void copy_done(struct instance *instance)
{
	struct machine *machine = instance->machine;
	struct world_state *writing = world_state(machine->world, instance->def.uuid, instance->task);

	if (machine->storage != STORAGE_OK) {
		instance_copy_failed(instance, "its disks are not reached");
		return;
	}
	if (instance->copy->executes) {
		if (dice_fail(machine, HV_COPYING)) {
			instance_copy_failed(instance, "no space left on the state storage");
			return;
		}
		struct hv_event progress = instance_event(instance, HV_EVENT_PROGRESS);
		progress.percent = 90;
		machine_tell(machine, instance->def.uuid, progress);
		world_stop(machine->world, instance->copy, "stopped to be saved");
		instance->figures.stopped_us = machine_now_us(machine);
		instance_begin_step(instance);
		return;
	}
	if (!writing || dice_fail(machine, HV_SEALED)) {
		instance_copy_failed(instance, "the state storage failed while the state was sealed");
		return;
	}
	instance->state = HV_SEALED;
	instance->figures.sealed_us = machine_now_us(machine);
	world_state_seal(machine->world, writing, instance->copy);
	machine_tell(machine, instance->def.uuid, instance_event(instance, HV_EVENT_SEALED));
}

static void load_done(struct instance *instance)
{
	struct machine *machine = instance->machine;
	struct world_state *state = world_state(machine->world, instance->def.uuid, instance->reading);

	if (!state || !state->complete) {
		instance_fail(instance, ERR_NOT_FOUND, "the saved state is not there, or not complete");
	} else if (state->corrupt) {
		state->failed_loads++;
		instance_fail(instance, ERR_CORRUPT, "a checksum of the saved state does not hold");
	} else if (dice_fail(machine, HV_LOADING)) {
		state->failed_loads++;
		instance_fail(instance, ERR_UNFIT, "QEMU refused the state");
	} else {
		instance->state = HV_LOADED;
		instance->figures.loaded_us = machine_now_us(machine);
		machine_tell(machine, instance->def.uuid, instance_event(instance, HV_EVENT_LOADED));
	}
}

static void step_done(void *ctx)
{
	struct instance *instance = ctx;

	instance->step = NULL;
	switch (instance->state) {
	case HV_STARTING:
		start_done(instance);
		break;
	case HV_PREPARING:
		standby_done(instance);
		break;
	case HV_COPYING:
		copy_done(instance);
		break;
	case HV_LOADING:
		load_done(instance);
		break;
	case HV_STOPPING:
		instance->killed = instance->copy && instance->machine->storage == STORAGE_HANG;
		if (instance->killed)
			break;
		if (instance->panicked)
			instance_die(instance, GONE_PANICKED, "ended, it had panicked");
		else
			instance_die(instance, GONE_STOPPED, "ended as asked");
		break;
	case HV_ABSENT:
	case HV_RUNNING:
	case HV_SEALED:
	case HV_STANDBY:
	case HV_LOADED:
		assert(!"a step of a state that has none");
	}
}

static bool has_step(const struct instance *instance)
{
	switch (instance->state) {
	case HV_STARTING:
	case HV_PREPARING:
	case HV_LOADING:
	case HV_STOPPING:
		return true;
	case HV_COPYING:
		return !instance->broken;
	case HV_ABSENT:
	case HV_RUNNING:
	case HV_SEALED:
	case HV_STANDBY:
	case HV_LOADED:
		break;
	}
	return false;
}

void machine_hold(struct machine *machine, bool holds)
{
	machine->holds = holds;
	for (struct instance *at = machine->instances; at; at = at->next) {
		if (!has_step(at))
			continue;
		if (holds) {
			timeline_cancel(machine->timeline, at->step);
			at->step = NULL;
		} else if (!at->step) {
			instance_begin_step(at);
		}
	}
}

void instance_power_off(void *ctx)
{
	struct instance *instance = ctx;

	instance->power = NULL;
	if (instance->copy && instance->copy->executes)
		instance_die(instance, GONE_GUEST_SHUTDOWN, "the guest turned itself off");
}

void instance_filled(void *ctx)
{
	struct instance *instance = ctx;

	instance->fill = NULL;
	/* Its state was deleted under it: the pages never come, the guest waits at the next one for ever. */
	if (!instance->copy->state)
		return;
	world_filled(instance->machine->world, instance->copy);
	instance->figures.filled_us = machine_now_us(instance->machine);
	machine_tell(instance->machine, instance->def.uuid, instance_event(instance, HV_EVENT_FILLED));
}
