/* SPDX-License-Identifier: Apache-2.0
 * What befalls guests, their QEMUs, agents and disks. */
#include "driver/fake/machine.h"

#include <assert.h>
#include <stdio.h>

enum { HEARTBEAT_LOOKS = 3 };

/* The first look at a guest that runs undisturbed asks, three more find no answer; anything else begins it anew. */
static void heartbeat_look(void *ctx)
{
	struct instance *instance = ctx;
	char why[80];

	instance->heartbeat = NULL;
	if (instance->state != HV_RUNNING || !instance->copy->executes || instance->copy->filling) {
		instance->heartbeat_looks = 0;
	} else if (instance->heartbeat_looks++ == HEARTBEAT_LOOKS) {
		snprintf(why, sizeof(why), "its guest agent did not answer for %u s", instance->heartbeat_s);
		instance_die(instance, GONE_DIED, why);
		return;
	}
	instance_heartbeat_watch(instance);
}

void instance_heartbeat_watch(struct instance *instance)
{
	struct timeline *timeline = instance->machine->timeline;

	timeline_cancel(timeline, STEAL(instance->heartbeat));
	if (instance->agent_silent && instance->heartbeat_s)
		instance->heartbeat = timeline_after(
			timeline, instance->heartbeat_s * UINT64_C(1000000) / HEARTBEAT_LOOKS, heartbeat_look, instance);
}

bool machine_agent_silent(struct machine *machine, const char *vm, bool silent)
{
	struct instance *instance = instance_find(machine, vm);

	if (!instance || !instance->copy || !instance->def.guest_agent || silent == instance->agent_silent)
		return false;
	instance->agent_silent = silent;
	instance->heartbeat_looks = 0;
	instance_heartbeat_watch(instance);
	return true;
}

void machine_storage(struct machine *machine, enum machine_storage storage)
{
	machine->storage = storage;
	for (struct instance *at = machine->instances, *next; at; at = next) {
		next = at->next;
		if (storage == STORAGE_OK && at->killed)
			instance_die(at, GONE_DIED, "killed at once, so that it can be started elsewhere");
		else
			instance_starve(at);
	}
}

bool machine_kill_qemu(struct machine *machine, const char *vm)
{
	struct instance *instance = instance_find(machine, vm);

	if (!instance)
		return false;
	switch (instance->state) {
	case HV_STARTING:
	case HV_PREPARING:
	case HV_STANDBY:
	case HV_LOADING:
		instance_fail(instance, ERR_UNAVAILABLE, "QEMU was killed");
		break;
	case HV_LOADED:
	case HV_RUNNING:
	case HV_COPYING:
	case HV_SEALED:
	case HV_STOPPING:
		instance_die(instance, GONE_DIED, "QEMU was killed");
		break;
	case HV_ABSENT:
		assert(!"an instance that is absent");
	}
	return true;
}

bool machine_guest_poweroff(struct machine *machine, const char *vm)
{
	struct instance *instance = instance_find(machine, vm);

	if (!instance || !instance->copy || !instance->copy->executes)
		return false;
	instance_die(instance, GONE_GUEST_SHUTDOWN, "the guest turned itself off");
	return true;
}

bool machine_guest_panic(struct machine *machine, const char *vm)
{
	struct instance *instance = instance_find(machine, vm);

	if (!instance || !instance->copy || !instance->copy->executes || instance->copy->filling)
		return false;
	world_stop(machine->world, instance->copy, "panicked");
	instance->panicked = true;
	if (instance->state == HV_COPYING)
		instance_copy_failed(instance, "the guest has panicked");
	machine_tell(machine, vm, instance_event(instance, HV_EVENT_PANICKED));
	return true;
}

static void silence_noticed(void *ctx)
{
	struct instance *instance = ctx;
	struct machine *machine = instance->machine;

	instance->silence = NULL;
	/* Nobody looks while the daemon is away: the next one counts anew. */
	if (machine->driver)
		instance_die(instance, GONE_DIED, "QEMU has not answered for 30 s, and was killed");
	else
		instance->silence = timeline_after(machine->timeline, MACHINE_SILENCE_MS * UINT64_C(1000),
			silence_noticed, instance);
}

bool machine_qemu_silent(struct machine *machine, const char *vm, bool silent)
{
	struct instance *instance = instance_find(machine, vm);

	if (!instance || instance->state != HV_RUNNING || silent == (instance->silence != NULL) ||
		(silent && (!instance->copy->executes || instance->copy->filling || instance->power)))
		return false;
	if (silent) {
		world_stop(machine->world, instance->copy, "QEMU hangs");
		instance->copy->hangs = true;
		instance->silence = timeline_after(machine->timeline, MACHINE_SILENCE_MS * UINT64_C(1000),
			silence_noticed, instance);
		return true;
	}
	timeline_cancel(machine->timeline, STEAL(instance->silence));
	world_go_on(machine->world, instance->copy, instance->epoch);
	instance_starve(instance);
	return true;
}
