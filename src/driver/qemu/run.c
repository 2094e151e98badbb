/* SPDX-License-Identifier: Apache-2.0
 * Letting a guest run: what was loaded (cont, RESUMED), or what was being copied (call_off.c does it). */
#include "driver/qemu/instance.h"

static void cont(struct instance *instance);

static void resumed(struct instance *instance)
{
	struct hv_event event = qemu_event(instance, HV_EVENT_RESUMED);

	qemu_tell(instance->qemu, &event);
}

static void on_again(void *ctx)
{
	struct instance *instance = ctx;

	instance->timer = NULL;
	cont(instance);
}

/* Done is told by the event RESUME. A refusal may pass: a lock on a disk that the source's QEMU is about to drop. */
static void on_cont(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;

	if (result || instance->state != HV_LOADED || !instance->run_wanted)
		return;
	qemu_log(instance->qemu, "%s: %s", instance->record.def.name, err->text);
	if (++instance->cont_tries < CONT_TRIES)
		instance_limit(instance, CONT_AGAIN_MS, on_again);
	else
		instance_end(instance, ENDING_DIED, err);
}

static void cont(struct instance *instance)
{
	if (instance->qmp)
		instance_qmp(instance, "cont", NULL, on_cont);
	else
		instance_limit(instance, CONT_AGAIN_MS, on_again); /* its connection is being made anew */
}

static void run_loaded(struct instance *instance, uint64_t task, uint64_t epoch)
{
	struct err err;

	if (task != instance->record.task && task != instance->record.state_task) {
		qemu_log(instance->qemu, "%s: told to run out of task %llu, but %llu was loaded", instance->record.def.name,
			(unsigned long long)task, (unsigned long long)instance->record.task);
		return;
	}
	instance->run_wanted = true;
	instance->cont_tries = 0;
	/* Written before it runs: a daemon that is killed in between takes it for one that may run, and looks. */
	instance->record.step = STEP_RUN;
	instance->record.epoch = epoch;
	if (instance_save(instance, &err) < 0) {
		instance_end(instance, ENDING_DIED, &err);
		return;
	}
	cont(instance);
}

void run_begin(struct instance *instance, uint64_t task, uint64_t epoch)
{
	struct hv_event event;

	switch (instance->state) {
	case HV_LOADED:
		if (!instance->run_wanted)
			run_loaded(instance, task, epoch);
		return;
	case HV_COPYING:
	case HV_SEALED:
		if (instance->record.epoch != epoch)
			return;
		instance->copy.run_wanted = true;
		call_off(instance, NULL);
		return;
	case HV_RUNNING:
		if (instance->record.epoch != epoch)
			return;
		event = qemu_event(instance, HV_EVENT_RESUMED);
		event.task = task;
		qemu_tell_later(instance->qemu, &event);
		return;
	case HV_ABSENT:
	case HV_STARTING:
	case HV_PREPARING:
	case HV_STANDBY:
	case HV_LOADING:
	case HV_STOPPING:
		return;
	}
}

void run_on_resume(struct instance *instance, uint64_t at_us)
{
	if (instance->state != HV_LOADED || !instance->run_wanted)
		return;
	instance->run_wanted = false;
	instance_limit(instance, 0, NULL);
	instance->record.figures.resumed_us = at_us;
	instance_go(instance, HV_RUNNING);
	resumed(instance);
	if (instance->state != HV_RUNNING)
		return;
	instance_save(instance, NULL);
	/* QEMU has announced the guest's addresses when the state was in; now the guest can do so itself too. */
	if (instance->qmp)
		instance_announce(instance);
}
