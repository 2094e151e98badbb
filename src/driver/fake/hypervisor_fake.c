/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/fake/hypervisor_fake.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct instance {
	struct machine *machine;
	struct instance *next;
	struct vm_def def;
	enum hv_state state;
	uint64_t epoch;
	uint64_t task;
	bool shutdown_asked;
	bool starved;		     /* RUNNING: stopped, it does not reach its disks */
	bool killed;		     /* and dies as soon as it does */
	bool panicked;		     /* stopped, and stays so */
	bool broken;		     /* COPYING: failed, the guest is stopped and waits for run or kill */
	bool verify_all;
	struct world_copy *copy;     /* NULL before it has executed */
	uint64_t reading;	     /* LOADING, LOADED: task of the state */
	struct move_figures figures;
	struct timeline_item *step; /* the end of the step under way; NULL and state transient: held */
	struct timeline_item *power; /* the guest powers off */
	struct timeline_item *fill;
	struct timeline_item *look; /* at its disks */
	struct timeline_item *silence; /* QEMU hangs; when that is noticed */
	bool agent_silent;
	uint32_t heartbeat_s, heartbeat_looks; /* in a row at an undisturbed guest whose agent is silent */
	struct timeline_item *heartbeat; /* the next look, while the agent is silent */
};

struct purge {
	struct machine *machine;
	char vm[UUID_BYTES];
	uint64_t keep, below;
	struct timeline_item *item;
	struct purge *next;
};

struct machine {
	struct timeline *timeline;
	struct prng *prng;
	struct world *world;
	struct machine_config config;
	uint32_t vcpus; /* 0: 8 */
	bool no_bridge;
	struct instance *instances;
	struct purge *purges;
	struct hypervisor_fake *driver;
	struct news *news; /* on their way to the daemon */
	bool holds;
	enum machine_storage storage;
	bool fail_next[HV_STOPPING + 1];
};

struct hypervisor_fake {
	struct hypervisor hv;
	struct machine *machine;
	struct loop_fake *loop;
	struct hv_callbacks callbacks;
};

/* An event on its way: never told within a call. */
struct news {
	struct machine *machine;
	struct hypervisor_fake *to;
	struct hv_event event;
	char vm[UUID_BYTES];
	struct timeline_item *item;
	struct news *next;
};

static uint64_t now_us(const struct machine *machine)
{
	return LOOP_FAKE_WALL_MS * 1000 + timeline_now_us(machine->timeline);
}

static struct instance *find(const struct machine *machine, const char *vm)
{
	for (struct instance *at = machine->instances; at; at = at->next)
		if (!strcmp(at->def.uuid, vm))
			return at;
	return NULL;
}

static void news_run(void *ctx)
{
	struct news *news = ctx;
	struct hypervisor_fake *to = news->to;

	news->event.vm = news->vm;
	to->callbacks.event(to->callbacks.ctx, &news->event);
	free(news);
}

static void news_unlink(struct news *news)
{
	struct news **at = &news->machine->news;

	while (*at != news)
		at = &(*at)->next;
	*at = news->next;
}

static void news_arrive(void *ctx)
{
	struct news *news = ctx;

	news_unlink(news);
	loop_fake_call(news->to->loop, news_run, free, news);
}

static void tell_after(struct machine *machine, const char *vm, struct hv_event event, uint64_t delay_us)
{
	if (!machine->driver)
		return;
	struct news *news = calloc(1, sizeof(*news));
	assert(news);
	*news = (struct news){.machine = machine, .to = machine->driver, .event = event, .next = machine->news};
	snprintf(news->vm, sizeof(news->vm), "%s", vm);
	machine->news = news;
	news->item = timeline_after(machine->timeline, delay_us, news_arrive, news);
}

static void tell(struct machine *machine, const char *vm, struct hv_event event)
{
	tell_after(machine, vm, event, 0);
}

/* From LOADED on, where the state was loaded on demand. */
static bool is_filling(const struct instance *instance)
{
	if (instance->state == HV_LOADED)
		return instance->machine->config.postcopy && !instance->verify_all;
	return instance->copy && instance->copy->filling;
}

static struct hv_event event_of(const struct instance *instance, enum hv_event_kind kind)
{
	return (struct hv_event){.kind = kind,
		.epoch = instance->epoch,
		.task = instance->task,
		.filling = is_filling(instance),
		.figures = instance->figures};
}

static struct hv_event failure(uint64_t task, uint64_t epoch, enum err_code code, const char *text)
{
	struct hv_event event = {.kind = HV_EVENT_FAILED, .task = task, .epoch = epoch};

	err_set(&event.err, code, "%s", text);
	return event;
}

static void instance_free(struct instance *instance)
{
	struct machine *machine = instance->machine;
	struct instance **at = &machine->instances;

	timeline_cancel(machine->timeline, instance->step);
	timeline_cancel(machine->timeline, instance->power);
	timeline_cancel(machine->timeline, instance->fill);
	timeline_cancel(machine->timeline, instance->look);
	timeline_cancel(machine->timeline, instance->silence);
	timeline_cancel(machine->timeline, instance->heartbeat);
	while (*at != instance)
		at = &(*at)->next;
	*at = instance->next;
	free(instance);
}

static struct instance *instance_new(struct machine *machine, const struct vm_def *def, enum hv_state state)
{
	struct instance *instance = calloc(1, sizeof(*instance));

	assert(instance);
	instance->machine = machine;
	instance->def = *def;
	instance->state = state;
	instance->next = machine->instances;
	machine->instances = instance;
	return instance;
}

static void instance_die(struct instance *instance, enum gone_cause cause, const char *why)
{
	struct machine *machine = instance->machine;
	struct hv_event event = event_of(instance, HV_EVENT_GONE);

	event.filling = false;
	event.cause = cause;
	err_set(&event.err, ERR_UNAVAILABLE, "%s", why);
	world_die(machine->world, instance->copy, why);
	tell(machine, instance->def.uuid, event);
	instance_free(instance);
}

/* A standby or a load that failed leaves nothing behind; nor does a start. */
static void instance_fail(struct instance *instance, enum err_code code, const char *why)
{
	struct machine *machine = instance->machine;
	struct hv_event event = failure(instance->task, instance->epoch, code, why);

	tell(machine, instance->def.uuid, event);
	if (instance->state == HV_STARTING) {
		instance_die(instance, GONE_DIED, why);
		return;
	}
	world_die(machine->world, instance->copy, why);
	instance_free(instance);
}

static bool dice_fail(struct machine *machine, enum hv_state step)
{
	bool told = machine->fail_next[step];

	machine->fail_next[step] = false;
	return told || prng_chance(machine->prng, machine->config.fail_permille);
}

/* A step of typically step_ms × factor. */
static uint64_t takes_us(struct machine *machine, uint32_t factor)
{
	uint64_t typical = machine->config.step_ms * UINT64_C(1000) * factor;

	return machine->config.exact ? typical : prng_between(machine->prng, typical / 8, typical);
}

static void step_done(void *ctx);

static void begin_step(struct instance *instance)
{
	struct machine *machine = instance->machine;
	bool copies = instance->state == HV_COPYING && instance->copy->executes;

	timeline_cancel(machine->timeline, instance->step);
	instance->step = NULL;
	if (machine->holds)
		return; /* resumed by machine_hold(false) */
	instance->step = timeline_after(machine->timeline,
		takes_us(machine, copies ? machine->config.exact ? 4 : 10 : 1), step_done, instance);
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
	tell(machine, instance->def.uuid, event_of(instance, HV_EVENT_STARTED));
}

static void standby_done(struct instance *instance)
{
	if (dice_fail(instance->machine, HV_PREPARING)) {
		instance_fail(instance, ERR_UNFIT, "no bridge of this name");
		return;
	}
	instance->state = HV_STANDBY;
	instance->figures.prepared_us = now_us(instance->machine);
	tell(instance->machine, instance->def.uuid, event_of(instance, HV_EVENT_PREPARED));
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
	tell(machine, instance->def.uuid, event_of(instance, HV_EVENT_STORAGE));
}

/* A guest that runs and does not reach its disks stops at its next write. */
static void starve(struct instance *instance)
{
	struct machine *machine = instance->machine;

	if (machine->storage == STORAGE_OK || instance->state != HV_RUNNING || !instance->copy || !instance->copy->executes)
		return;
	world_stop(machine->world, instance->copy, "its disks are not reached");
	instance->starved = true;
	tell(machine, instance->def.uuid, event_of(instance, HV_EVENT_STORAGE));
	look_later(instance);
}

static void copy_failed(struct instance *instance, const char *why)
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
		starve(instance);
	}
	tell(machine, instance->def.uuid, failure(instance->task, instance->epoch, ERR_NO_SPACE, why));
	if (!instance->broken)
		instance->task = 0;
}

static void copy_done(struct instance *instance)
{
	struct machine *machine = instance->machine;
	struct world_state *writing = world_state(machine->world, instance->def.uuid, instance->task);

	if (machine->storage != STORAGE_OK) {
		copy_failed(instance, "its disks are not reached");
		return;
	}
	if (instance->copy->executes) {
		if (dice_fail(machine, HV_COPYING)) {
			copy_failed(instance, "no space left on the state storage");
			return;
		}
		struct hv_event progress = event_of(instance, HV_EVENT_PROGRESS);
		progress.percent = 90;
		tell(machine, instance->def.uuid, progress);
		world_stop(machine->world, instance->copy, "stopped to be saved");
		instance->figures.stopped_us = now_us(machine);
		begin_step(instance);
		return;
	}
	if (!writing || dice_fail(machine, HV_SEALED)) {
		copy_failed(instance, "the state storage failed while the state was sealed");
		return;
	}
	instance->state = HV_SEALED;
	instance->figures.sealed_us = now_us(machine);
	world_state_seal(machine->world, writing, instance->copy);
	tell(machine, instance->def.uuid, event_of(instance, HV_EVENT_SEALED));
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
		instance->figures.loaded_us = now_us(machine);
		tell(machine, instance->def.uuid, event_of(instance, HV_EVENT_LOADED));
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

void machine_refit(struct machine *machine, uint32_t memory_mib, uint32_t vcpus, bool bridge)
{
	if (memory_mib)
		machine->config.memory_mib = memory_mib;
	machine->vcpus = vcpus;
	machine->no_bridge = !bridge;
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
			begin_step(at);
		}
	}
}

static void power_off(void *ctx)
{
	struct instance *instance = ctx;

	instance->power = NULL;
	if (instance->copy && instance->copy->executes)
		instance_die(instance, GONE_GUEST_SHUTDOWN, "the guest turned itself off");
}

static void filled(void *ctx)
{
	struct instance *instance = ctx;

	instance->fill = NULL;
	/* Its state was deleted under it: the pages never come, the guest waits at the next one for ever. */
	if (!instance->copy->state)
		return;
	world_filled(instance->machine->world, instance->copy);
	instance->figures.filled_us = now_us(instance->machine);
	tell(instance->machine, instance->def.uuid, event_of(instance, HV_EVENT_FILLED));
}

/* The port's calls. */

static struct machine *machine_of(struct hypervisor *hv)
{
	return ((struct hypervisor_fake *)hv)->machine;
}

static void info_of(const struct instance *instance, struct hv_info *info)
{
	*info = (struct hv_info){.state = instance->state,
		.epoch = instance->epoch,
		.task = instance->task,
		.filling = is_filling(instance),
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
	const struct instance *instance = find(machine_of(hv), vm);

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
	struct instance *instance = find(machine, def->uuid);

	if (instance) {
		if (instance->epoch != epoch)
			tell(machine, def->uuid, failure(0, epoch, ERR_BUSY, "another copy of this VM is here still"));
		return;
	}
	if (memory_used(machine) + def->memory_mib > machine->config.memory_mib) {
		struct hv_event gone = {.kind = HV_EVENT_GONE, .epoch = epoch, .cause = GONE_DIED};
		err_set(&gone.err, ERR_NO_ROOM, "not enough memory");
		tell(machine, def->uuid, failure(0, epoch, ERR_NO_ROOM, "not enough memory"));
		tell(machine, def->uuid, gone);
		return;
	}
	instance = instance_new(machine, def, HV_STARTING);
	instance->epoch = epoch;
	begin_step(instance);
}

static void fake_standby(struct hypervisor *hv, const struct vm_def *def, uint64_t task)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = find(machine, def->uuid);

	if (instance) {
		if (instance->task != task)
			tell(machine, def->uuid, failure(task, 0, ERR_BUSY, "another copy of this VM is here still"));
		return;
	}
	if (memory_used(machine) + def->memory_mib > machine->config.memory_mib) {
		tell(machine, def->uuid, failure(task, 0, ERR_NO_ROOM, "not enough memory"));
		return;
	}
	instance = instance_new(machine, def, HV_PREPARING);
	instance->task = task;
	begin_step(instance);
}

static void fake_copy(struct hypervisor *hv, const struct vm_def *def, uint64_t task, uint64_t epoch)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = find(machine, def->uuid);

	if (!instance) {
		struct hv_event gone = {.kind = HV_EVENT_GONE, .epoch = epoch, .cause = GONE_DIED};
		err_set(&gone.err, ERR_NOT_FOUND, "no such process was found");
		tell(machine, def->uuid, failure(task, epoch, ERR_NOT_FOUND, "there is no such guest on this node"));
		tell(machine, def->uuid, gone);
		return;
	}
	if (instance->task == task && instance->epoch == epoch && instance->state != HV_RUNNING)
		return;
	if (instance->state != HV_RUNNING || instance->epoch != epoch) {
		tell(machine, def->uuid, failure(task, epoch, ERR_BUSY, "the guest is not in a state that can be saved"));
		return;
	}
	if (instance->copy->filling) {
		tell(machine, def->uuid, failure(task, epoch, ERR_BUSY, "its pages are still being read"));
		return;
	}
	if (instance->panicked || instance->silence) {
		tell(machine, def->uuid,
			failure(task, epoch, ERR_UNFIT,
				instance->panicked ? "the guest has panicked" : "QEMU does not answer"));
		return;
	}
	instance->state = HV_COPYING;
	instance->task = task;
	instance->broken = false;
	instance->figures = (struct move_figures){.copy_us = now_us(machine)};
	world_state_begin(machine->world, instance->copy, task);
	begin_step(instance);
}

static void fake_load(struct hypervisor *hv, const struct vm_def *def, uint64_t task, const struct hv_saved *saved)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = find(machine, def->uuid);
	struct world_state *state = world_state(machine->world, def->uuid, saved->task);

	if (!instance) {
		tell(machine, def->uuid, failure(task, 0, ERR_NOT_FOUND, "no QEMU stands by for this"));
		return;
	}
	if (instance->task != task) {
		tell(machine, def->uuid, failure(task, 0, ERR_BUSY, "another copy of this VM is here still"));
		return;
	}
	if (instance->state != HV_STANDBY)
		return;
	instance->state = HV_LOADING;
	instance->reading = saved->task;
	instance->verify_all = saved->verify_all;
	instance->figures.loading_us = now_us(machine);
	if (state && state->complete && state->epoch != saved->epoch)
		instance_fail(instance, ERR_INVALID, "the saved state is of another epoch");
	else
		begin_step(instance);
}

static void let_run(struct instance *instance, uint64_t epoch)
{
	struct machine *machine = instance->machine;

	if (instance->state == HV_LOADED) {
		struct world_state *state = world_state(machine->world, instance->def.uuid, instance->reading);
		bool filling = is_filling(instance);
		if (!state) {
			instance_die(instance, GONE_DIED, "the saved state was deleted before its pages were read");
			return;
		}
		instance->epoch = epoch;
		instance->copy = world_resume(machine->world, state, machine->config.node, epoch, filling);
		if (filling)
			instance->fill = timeline_after(machine->timeline,
				takes_us(machine, machine->config.exact ? 4 : 20), filled, instance);
	} else if (instance->copy && !instance->copy->executes && !instance->panicked) {
		world_go_on(machine->world, instance->copy, epoch);
		instance->epoch = epoch;
	}
	instance->state = HV_RUNNING;
	instance->broken = false;
	instance->figures.resumed_us = now_us(machine);
	starve(instance);
}

static void fake_run(struct hypervisor *hv, const char *vm, uint64_t task, uint64_t epoch)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = find(machine, vm);

	if (!instance || (instance->state != HV_RUNNING && instance->state != HV_COPYING &&
				 instance->state != HV_SEALED && instance->state != HV_LOADED))
		return;
	timeline_cancel(machine->timeline, instance->step);
	instance->step = NULL;
	if (instance->state != HV_RUNNING)
		let_run(instance, epoch);
	instance = find(machine, vm); /* it may have died of it */
	if (!instance)
		return;
	struct hv_event event = event_of(instance, HV_EVENT_RESUMED);
	event.task = task;
	instance->task = 0;
	tell_after(machine, vm, event, machine->config.exact ? 1000 : prng_between(machine->prng, 100, 2000));
}

static void fake_shutdown(struct hypervisor *hv, const char *vm)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = find(machine, vm);

	if (!instance || instance->state != HV_RUNNING)
		return;
	instance->shutdown_asked = true;
	if (!instance->power && !prng_chance(machine->prng, machine->config.deaf_permille))
		instance->power = timeline_after(machine->timeline, takes_us(machine, 5), power_off, instance);
}

static void fake_kill(struct hypervisor *hv, const char *vm)
{
	struct machine *machine = machine_of(hv);
	struct instance *instance = find(machine, vm);

	if (!instance) {
		tell(machine, vm, (struct hv_event){.kind = HV_EVENT_GONE, .cause = GONE_STOPPED});
		return;
	}
	if (instance->state == HV_STOPPING)
		return;
	instance->state = HV_STOPPING;
	begin_step(instance);
}

/* SIGKILL: the process is gone a moment later, whatever it did. */
static void fake_destroy(struct hypervisor *hv, const char *vm)
{
	struct instance *instance = find(machine_of(hv), vm);

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
	tell_after(machine, def->uuid, event, machine->config.exact ? 10000 : prng_between(machine->prng, 100, 5000000));
}

static void heartbeat_watch(struct instance *instance);

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
	heartbeat_watch(instance);
}

static void heartbeat_watch(struct instance *instance)
{
	struct timeline *timeline = instance->machine->timeline;

	timeline_cancel(timeline, STEAL(instance->heartbeat));
	if (instance->agent_silent && instance->heartbeat_s)
		instance->heartbeat = timeline_after(
			timeline, instance->heartbeat_s * UINT64_C(1000000) / HEARTBEAT_LOOKS, heartbeat_look, instance);
}

static void fake_heartbeat(struct hypervisor *hv, const char *vm, uint32_t seconds)
{
	struct instance *instance = find(machine_of(hv), vm);

	if (!instance || instance->state != HV_RUNNING)
		return;
	instance->heartbeat_s = seconds;
	instance->heartbeat_looks = 0;
	heartbeat_watch(instance);
}

bool machine_agent_silent(struct machine *machine, const char *vm, bool silent)
{
	struct instance *instance = find(machine, vm);

	if (!instance || !instance->copy || !instance->def.guest_agent || silent == instance->agent_silent)
		return false;
	instance->agent_silent = silent;
	instance->heartbeat_looks = 0;
	heartbeat_watch(instance);
	return true;
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

/* The machine. */

struct machine *machine_new(struct timeline *timeline, struct prng *prng, struct world *world,
	const struct machine_config *config)
{
	struct machine *machine = calloc(1, sizeof(*machine));

	assert(machine);
	machine->timeline = timeline;
	machine->prng = prng;
	machine->world = world;
	machine->config = *config;
	return machine;
}

static void purges_drop(struct machine *machine)
{
	while (machine->purges) {
		struct purge *purge = machine->purges;
		machine->purges = purge->next;
		timeline_cancel(machine->timeline, purge->item);
		free(purge);
	}
}

void machine_free(struct machine *machine)
{
	if (!machine)
		return;
	assert(!machine->driver);
	purges_drop(machine);
	while (machine->instances)
		instance_free(machine->instances);
	free(machine);
}

void machine_power_loss(struct machine *machine)
{
	assert(!machine->driver);
	purges_drop(machine);
	memset(machine->fail_next, 0, sizeof(machine->fail_next));
	machine->holds = false;
	machine->storage = STORAGE_OK;
	while (machine->instances) {
		world_die(machine->world, machine->instances->copy, "power loss");
		instance_free(machine->instances);
	}
}

void machine_set_fail_permille(struct machine *machine, uint32_t fail_permille)
{
	machine->config.fail_permille = fail_permille;
}

void machine_fail_next(struct machine *machine, enum hv_state step)
{
	machine->fail_next[step] = true;
}

void machine_storage(struct machine *machine, enum machine_storage storage)
{
	machine->storage = storage;
	for (struct instance *at = machine->instances, *next; at; at = next) {
		next = at->next;
		if (storage == STORAGE_OK && at->killed)
			instance_die(at, GONE_DIED, "killed at once, so that it can be started elsewhere");
		else
			starve(at);
	}
}

bool machine_kill_qemu(struct machine *machine, const char *vm)
{
	struct instance *instance = find(machine, vm);

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
	struct instance *instance = find(machine, vm);

	if (!instance || !instance->copy || !instance->copy->executes)
		return false;
	instance_die(instance, GONE_GUEST_SHUTDOWN, "the guest turned itself off");
	return true;
}

bool machine_guest_panic(struct machine *machine, const char *vm)
{
	struct instance *instance = find(machine, vm);

	if (!instance || !instance->copy || !instance->copy->executes || instance->copy->filling)
		return false;
	world_stop(machine->world, instance->copy, "panicked");
	instance->panicked = true;
	if (instance->state == HV_COPYING)
		copy_failed(instance, "the guest has panicked");
	tell(machine, vm, event_of(instance, HV_EVENT_PANICKED));
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
	struct instance *instance = find(machine, vm);

	if (!instance || instance->state != HV_RUNNING || silent == (instance->silence != NULL) ||
		(silent && (!instance->copy->executes || instance->copy->filling || instance->power)))
		return false;
	if (silent) {
		world_stop(machine->world, instance->copy, "QEMU hangs");
		instance->silence = timeline_after(machine->timeline, MACHINE_SILENCE_MS * UINT64_C(1000),
			silence_noticed, instance);
		return true;
	}
	timeline_cancel(machine->timeline, STEAL(instance->silence));
	world_go_on(machine->world, instance->copy, instance->epoch);
	starve(instance);
	return true;
}

bool machine_executes(const struct machine *machine, const char *vm)
{
	const struct instance *instance = find(machine, vm);

	return instance && instance->copy && instance->copy->executes;
}

enum hv_state machine_state(const struct machine *machine, const char *vm)
{
	const struct instance *instance = find(machine, vm);

	return instance ? instance->state : HV_ABSENT;
}

const char *machine_vm(const struct machine *machine, uint32_t n)
{
	const struct instance *at = machine->instances;

	while (at && n--)
		at = at->next;
	return at ? at->def.uuid : NULL;
}

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
			tell_after(machine, at->def.uuid,
				failure(at->task, at->epoch, ERR_IO, "the copy was interrupted"),
				prng_between(machine->prng, 0, 20000));
	return fake;
}

void hypervisor_fake_free(struct hypervisor_fake *fake)
{
	if (!fake)
		return;
	struct machine *machine = fake->machine;
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
			copy_failed(at, "the copy was interrupted");
		else
			instance_fail(at, ERR_IO, "the load was interrupted");
	}
	free(fake);
}

struct hypervisor *hypervisor_fake_port(struct hypervisor_fake *fake)
{
	return &fake->hv;
}
