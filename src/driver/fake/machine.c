/* SPDX-License-Identifier: Apache-2.0
 * Instances, the news that go to the daemon, and the machine's life. */
#include "driver/fake/machine.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t machine_now_us(const struct machine *machine)
{
	return LOOP_FAKE_WALL_MS * 1000 + timeline_now_us(machine->timeline);
}

struct instance *instance_find(const struct machine *machine, const char *vm)
{
	struct instance *at = machine->table[world_hash(vm) % MACHINE_TABLE];

	while (at && strcmp(at->def.uuid, vm) != 0)
		at = at->next_alike;
	return at;
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

void machine_tell_after(struct machine *machine, const char *vm, struct hv_event event, uint64_t delay_us)
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

void machine_tell(struct machine *machine, const char *vm, struct hv_event event)
{
	machine_tell_after(machine, vm, event, 0);
}

/* From LOADED on, where the state was loaded on demand. */
bool instance_is_filling(const struct instance *instance)
{
	if (instance->state == HV_LOADED)
		return instance->machine->config.postcopy && !instance->verify_all;
	return instance->copy && instance->copy->filling;
}

struct hv_event instance_event(const struct instance *instance, enum hv_event_kind kind)
{
	return (struct hv_event){.kind = kind,
		.epoch = instance->epoch,
		.task = instance->task,
		.filling = instance_is_filling(instance),
		.figures = instance->figures};
}

struct hv_event machine_failure(uint64_t task, uint64_t epoch, enum err_code code, const char *text)
{
	struct hv_event event = {.kind = HV_EVENT_FAILED, .task = task, .epoch = epoch};

	err_set(&event.err, code, "%s", text);
	return event;
}

void instance_free(struct instance *instance)
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
	at = &machine->table[world_hash(instance->def.uuid) % MACHINE_TABLE];
	while (*at != instance)
		at = &(*at)->next_alike;
	*at = instance->next_alike;
	free(instance);
}

struct instance *instance_new(struct machine *machine, const struct vm_def *def, enum hv_state state)
{
	struct instance *instance = calloc(1, sizeof(*instance));

	assert(instance);
	instance->machine = machine;
	instance->def = *def;
	instance->state = state;
	instance->next = machine->instances;
	machine->instances = instance;
	struct instance **alike = &machine->table[world_hash(def->uuid) % MACHINE_TABLE];
	instance->next_alike = *alike;
	*alike = instance;
	return instance;
}

void instance_die(struct instance *instance, enum gone_cause cause, const char *why)
{
	struct machine *machine = instance->machine;
	struct hv_event event = instance_event(instance, HV_EVENT_GONE);

	event.filling = false;
	event.cause = cause;
	err_set(&event.err, ERR_UNAVAILABLE, "%s", why);
	world_die(machine->world, instance->copy, why);
	machine_tell(machine, instance->def.uuid, event);
	instance_free(instance);
}

/* A standby or a load that failed leaves nothing behind; nor does a start. */
void instance_fail(struct instance *instance, enum err_code code, const char *why)
{
	struct machine *machine = instance->machine;
	struct hv_event event = machine_failure(instance->task, instance->epoch, code, why);

	machine_tell(machine, instance->def.uuid, event);
	if (instance->state == HV_STARTING) {
		instance_die(instance, GONE_DIED, why);
		return;
	}
	world_die(machine->world, instance->copy, why);
	instance_free(instance);
}

void machine_refit(struct machine *machine, uint32_t memory_mib, uint32_t vcpus, bool bridge)
{
	if (memory_mib)
		machine->config.memory_mib = memory_mib;
	machine->vcpus = vcpus;
	machine->no_bridge = !bridge;
}

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

void machine_drop_purges(struct machine *machine)
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
	machine_drop_purges(machine);
	while (machine->instances)
		instance_free(machine->instances);
	free(machine);
}

void machine_power_loss(struct machine *machine)
{
	assert(!machine->driver);
	machine_drop_purges(machine);
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

void machine_has_run(struct machine *machine, const struct vm_def *def, uint64_t epoch)
{
	struct instance *instance = instance_new(machine, def, HV_RUNNING);

	instance->epoch = epoch;
	instance->copy = world_boot(
		machine->world, world_guest(machine->world, def->uuid, def->name), machine->config.node, epoch);
}

bool machine_executes(const struct machine *machine, const char *vm)
{
	const struct instance *instance = instance_find(machine, vm);

	return instance && instance->copy && instance->copy->executes;
}

enum hv_state machine_state(const struct machine *machine, const char *vm)
{
	const struct instance *instance = instance_find(machine, vm);

	return instance ? instance->state : HV_ABSENT;
}

const char *machine_vm(const struct machine *machine, uint32_t n)
{
	const struct instance *at = machine->instances;

	while (at && n--)
		at = at->next;
	return at ? at->def.uuid : NULL;
}
