/* SPDX-License-Identifier: Apache-2.0
 * The port's calls, as a daemon makes them on its machine. */
#include "driver/fake/machine.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct machine *machine_of(struct hypervisor *hv)
{
	return ((struct hypervisor_fake *)hv)->machine;
}

static void info_of(const struct instance *instance, struct hv_info *info)
{
	*info = (struct hv_info){.state = instance->state,
		.epoch = instance->epoch,
		.task = instance->task,
		.filling = instance_is_filling(instance),
		.shutdown_asked = instance->shutdown_asked,
		.storage_lost = instance->state == HV_RUNNING && instance->starved,
		.panicked = instance->panicked,
		.heartbeat_s = instance->heartbeat_s};
	if (info->storage_lost)
		snprintf(info->storage_text, sizeof(info->storage_text), "its disks are not reached");
	if (instance->state != HV_COPYING || !instance->broken)
		return;
	info->failed_code = ERR_IO;
	snprintf(info->failed_text, sizeof(info->failed_text), "the copy has failed, the guest is paused");
}

static void fake_inspect(struct hypervisor *hv, const char *vm, struct hv_info *info)
{
	const struct instance *instance = instance_find(machine_of(hv), vm);

	*info = (struct hv_info){.state = HV_ABSENT};
	if (instance)
		info_of(instance, info);
}

static void fake_each(struct hypervisor *hv, void (*fn)(void *ctx, const char *vm, const struct hv_info *info), void *ctx)
{
	struct hv_info info;

	for (const struct instance *at = machine_of(hv)->instances; at; at = at->next) {
		info_of(at, &info);
		fn(ctx, at->def.uuid, &info);
	}
}

static int fake_facts(struct hypervisor *hv, struct node_facts *facts, struct err *err)
{
	const struct machine *machine = machine_of(hv);

	(void)err;
	facts->memory_mib = machine->config.memory_mib;
	facts->vcpus = machine->vcpus ? machine->vcpus : 8;
	strcpy(facts->accel, "tcg");
	strcpy(facts->qemu_version, "7.2.22");
	facts->postcopy = machine->config.postcopy;
	facts->bridge_count = machine->no_bridge ? 0 : 1;
	if (!machine->no_bridge)
		strcpy(facts->bridges[0].name, "br0");
	return 0;
}

static uint64_t memory_used(const struct machine *machine)
{
	uint64_t used = 0;

	for (const struct instance *at = machine->instances; at; at = at->next)
		used += at->def.memory_mib;
	return used;
}

static void fake_start(struct hypervisor *hv, const struct vm_def *def, uint64_t epoch)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = instance_find(machine, def->uuid);

	if (instance) {
		if (instance->epoch != epoch)
			machine_tell(machine, def->uuid, machine_failure(0, epoch, ERR_BUSY, "another copy of this VM is here still"));
		return;
	}
	if (memory_used(machine) + def->memory_mib > machine->config.memory_mib) {
		struct hv_event gone = {.kind = HV_EVENT_GONE, .epoch = epoch, .cause = GONE_DIED};
		err_set(&gone.err, ERR_NO_ROOM, "not enough memory");
		machine_tell(machine, def->uuid, machine_failure(0, epoch, ERR_NO_ROOM, "not enough memory"));
		machine_tell(machine, def->uuid, gone);
		return;
	}
	instance = instance_new(machine, def, HV_STARTING);
	instance->epoch = epoch;
	instance_begin_step(instance);
}

static void fake_standby(struct hypervisor *hv, const struct vm_def *def, uint64_t task)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = instance_find(machine, def->uuid);

	if (instance) {
		if (instance->task != task)
			machine_tell(machine, def->uuid, machine_failure(task, 0, ERR_BUSY, "another copy of this VM is here still"));
		return;
	}
	if (memory_used(machine) + def->memory_mib > machine->config.memory_mib) {
		machine_tell(machine, def->uuid, machine_failure(task, 0, ERR_NO_ROOM, "not enough memory"));
		return;
	}
	instance = instance_new(machine, def, HV_PREPARING);
	instance->task = task;
	instance_begin_step(instance);
}

static void fake_copy(struct hypervisor *hv, const struct vm_def *def, uint64_t task, uint64_t epoch)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = instance_find(machine, def->uuid);

	if (!instance) {
		struct hv_event gone = {.kind = HV_EVENT_GONE, .epoch = epoch, .cause = GONE_DIED};
		err_set(&gone.err, ERR_NOT_FOUND, "no such process was found");
		machine_tell(machine, def->uuid, machine_failure(task, epoch, ERR_NOT_FOUND, "there is no such guest on this node"));
		machine_tell(machine, def->uuid, gone);
		return;
	}
	if (instance->task == task && instance->epoch == epoch && instance->state != HV_RUNNING)
		return;
	if (instance->state != HV_RUNNING || instance->epoch != epoch) {
		machine_tell(machine, def->uuid, machine_failure(task, epoch, ERR_BUSY, "the guest is not in a state that can be saved"));
		return;
	}
	if (instance->copy->filling) {
		machine_tell(machine, def->uuid, machine_failure(task, epoch, ERR_BUSY, "its pages are still being read"));
		return;
	}
	if (instance->panicked || instance->silence) {
		machine_tell(machine, def->uuid,
			machine_failure(task, epoch, ERR_UNFIT,
				instance->panicked ? "the guest has panicked" : "QEMU does not answer"));
		return;
	}
	instance->state = HV_COPYING;
	instance->task = task;
	instance->broken = false;
	instance->figures = (struct move_figures){.copy_us = machine_now_us(machine)};
	world_state_begin(machine->world, instance->copy, task);
	instance_begin_step(instance);
}

static void fake_load(struct hypervisor *hv, const struct vm_def *def, uint64_t task, const struct hv_saved *saved)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = instance_find(machine, def->uuid);
	struct world_state *state = world_state(machine->world, def->uuid, saved->task);

	if (!instance) {
		machine_tell(machine, def->uuid, machine_failure(task, 0, ERR_NOT_FOUND, "no QEMU stands by for this"));
		return;
	}
	if (instance->task != task) {
		machine_tell(machine, def->uuid, machine_failure(task, 0, ERR_BUSY, "another copy of this VM is here still"));
		return;
	}
	if (instance->state != HV_STANDBY)
		return;
	instance->state = HV_LOADING;
	instance->reading = saved->task;
	instance->verify_all = saved->verify_all;
	instance->figures.loading_us = machine_now_us(machine);
	if (state && state->complete && state->epoch != saved->epoch)
		instance_fail(instance, ERR_INVALID, "the saved state is of another epoch");
	else
		instance_begin_step(instance);
}

static void let_run(struct instance *instance, uint64_t epoch)
{
	struct machine *machine = instance->machine;

	if (instance->state == HV_LOADED) {
		struct world_state *state = world_state(machine->world, instance->def.uuid, instance->reading);
		bool filling = instance_is_filling(instance);
		if (!state) {
			instance_die(instance, GONE_DIED, "the saved state was deleted before its pages were read");
			return;
		}
		instance->epoch = epoch;
		instance->copy = world_resume(machine->world, state, machine->config.node, epoch, filling);
		if (filling)
			instance->fill = timeline_after(machine->timeline,
				machine_takes_us(machine, machine->config.exact ? 4 : 20), instance_filled, instance);
	} else if (instance->copy && !instance->copy->executes && !instance->panicked) {
		world_go_on(machine->world, instance->copy, epoch);
		instance->epoch = epoch;
	}
	instance->state = HV_RUNNING;
	instance->broken = false;
	instance->figures.resumed_us = machine_now_us(machine);
	instance_starve(instance);
}

static void fake_run(struct hypervisor *hv, const char *vm, uint64_t task, uint64_t epoch)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = instance_find(machine, vm);

	if (!instance || (instance->state != HV_RUNNING && instance->state != HV_COPYING &&
				 instance->state != HV_SEALED && instance->state != HV_LOADED))
		return;
	timeline_cancel(machine->timeline, instance->step);
	instance->step = NULL;
	if (instance->state != HV_RUNNING)
		let_run(instance, epoch);
	instance = instance_find(machine, vm); /* it may have died of it */
	if (!instance)
		return;
	struct hv_event event = instance_event(instance, HV_EVENT_RESUMED);
	event.task = task;
	instance->task = 0;
	machine_tell_after(machine, vm, event, machine->config.exact ? 1000 : prng_between(machine->prng, 100, 2000));
}

static void fake_shutdown(struct hypervisor *hv, const char *vm)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = instance_find(machine, vm);

	if (!instance || instance->state != HV_RUNNING)
		return;
	instance->shutdown_asked = true;
	if (!instance->power && !prng_chance(machine->prng, machine->config.deaf_permille))
		instance->power = timeline_after(machine->timeline, machine_takes_us(machine, 5), instance_power_off, instance);
}

static void fake_kill(struct hypervisor *hv, const char *vm)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = instance_find(machine, vm);

	if (!instance) {
		machine_tell(machine, vm, (struct hv_event){.kind = HV_EVENT_GONE, .cause = GONE_STOPPED});
		return;
	}
	if (instance->state == HV_STOPPING)
		return;
	instance->state = HV_STOPPING;
	instance_begin_step(instance);
}

/* SIGKILL: the process is gone a moment later, whatever it did. */
static void fake_destroy(struct hypervisor *hv, const char *vm)
{
	struct instance *instance = instance_find(machine_of(hv), vm);

	if (instance && instance->machine->storage == STORAGE_HANG && instance->copy)
		instance->killed = true; /* it waits for its disks, deaf to all */
	else if (instance)
		instance_die(instance, GONE_DIED, "killed at once, so that it can be started elsewhere");
}

static void fake_probe(struct hypervisor *hv, const struct vm_def *def)
{
	struct machine *machine = machine_of(hv);
	struct hv_event event = {.kind = HV_EVENT_PROBED};

	if (machine->storage != STORAGE_OK)
		err_set(&event.err, ERR_IO, "its disks are not reached");
	machine_tell_after(machine, def->uuid, event, machine->config.exact ? 10000 : prng_between(machine->prng, 100, 5000000));
}

void instance_heartbeat_watch(struct instance *instance);

static void fake_heartbeat(struct hypervisor *hv, const char *vm, uint32_t seconds)
{
	struct instance *instance = instance_find(machine_of(hv), vm);

	if (!instance || instance->state != HV_RUNNING)
		return;
	instance->heartbeat_s = seconds;
	instance->heartbeat_looks = 0;
	instance_heartbeat_watch(instance);
}

static void purge_run(void *ctx)
{
	struct purge *purge = ctx;
	struct machine *machine = purge->machine;
	struct purge **at = &machine->purges;

	for (const struct world_state *state = world_states(machine->world); state;) {
		const struct world_state *next = state->next;
		if (state->task < purge->below && state->task != purge->keep && !strcmp(state->guest->vm, purge->vm))
			world_state_delete(machine->world, (struct world_state *)state);
		state = next;
	}
	while (*at != purge)
		at = &(*at)->next;
	*at = purge->next;
	free(purge);
}

static void fake_purge(struct hypervisor *hv, const char *vm, uint64_t keep, uint64_t below)
{
	struct machine *machine = machine_of(hv);
	struct purge *purge = calloc(1, sizeof(*purge));

	assert(purge);
	*purge = (struct purge){.machine = machine, .keep = keep, .below = below, .next = machine->purges};
	snprintf(purge->vm, sizeof(purge->vm), "%s", vm);
	machine->purges = purge;
	purge->item = timeline_after(machine->timeline,
		machine->config.exact ? 10000 : prng_between(machine->prng, 100, 50000), purge_run, purge);
}

static const struct hypervisor_ops hv_ops = {
	.inspect = fake_inspect,
	.each = fake_each,
	.facts = fake_facts,
	.start = fake_start,
	.standby = fake_standby,
	.copy = fake_copy,
	.load = fake_load,
	.run = fake_run,
	.shutdown = fake_shutdown,
	.kill = fake_kill,
	.destroy = fake_destroy,
	.purge = fake_purge,
	.probe = fake_probe,
	.heartbeat = fake_heartbeat,
};

/* A daemon begins: what an earlier one left is found. A copy that broke meanwhile is told of. */
struct hypervisor_fake *hypervisor_fake_new(struct machine *machine, struct loop_fake *loop,
	const struct hv_callbacks *callbacks)
{
	struct hypervisor_fake *fake = calloc(1, sizeof(*fake));

	assert(fake && !machine->driver);
	*fake = (struct hypervisor_fake){.hv.ops = &hv_ops, .machine = machine, .loop = loop, .callbacks = *callbacks};
	machine->driver = fake;
	for (const struct instance *at = machine->instances; at; at = at->next)
		if (at->state == HV_COPYING && at->broken)
			machine_tell_after(machine, at->def.uuid,
				machine_failure(at->task, at->epoch, ERR_IO, "the copy was interrupted"),
				prng_between(machine->prng, 0, 20000));
	return fake;
}

void hypervisor_fake_free(struct hypervisor_fake *fake)
{
	if (!fake)
		return;
	struct machine *machine = fake->machine;
	machine_drop_purges(machine); /* threads of the daemon's, which end with it */
	machine->driver = NULL;
	while (machine->news) {
		struct news *news = machine->news;
		machine->news = news->next;
		timeline_cancel(machine->timeline, news->item);
		free(news);
	}
	for (struct instance *at = machine->instances, *next; at; at = next) {
		next = at->next;
		/* The next daemon has to be told. */
		at->heartbeat_s = 0;
		timeline_cancel(machine->timeline, STEAL(at->heartbeat));
		if ((at->state != HV_COPYING && at->state != HV_LOADING) ||
			!prng_chance(machine->prng, machine->config.broken_permille))
			continue;
		if (at->state == HV_COPYING)
			instance_copy_failed(at, "the copy was interrupted");
		else
			instance_fail(at, ERR_IO, "the load was interrupted");
	}
	free(fake);
}

struct hypervisor *hypervisor_fake_port(struct hypervisor_fake *fake)
{
	return &fake->hv;
}
