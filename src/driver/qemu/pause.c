/* SPDX-License-Identifier: Apache-2.0
 * A guest that stopped by itself. After an error of its disk's storage (werror=stop) QEMU keeps what could not be written,
 * and writes it when it is let run: that is tried until the storage takes it, so that nobody has to come and say so. A
 * guest that has panicked stays as it is; whether to be looked at or until it is ended is the engine's word. Either is told again and again while it lasts: the note is
 * gossip, which others forget. */
#include "driver/qemu/instance.h"

#include <string.h>

enum { LOOK_AGAIN_MS = 2000 };

static void on_look(void *ctx);

static void look_later(struct instance *instance)
{
	loop_timer_cancel(instance->qemu->loop, instance->pause_timer);
	instance->pause_timer = loop_timer_set(instance->qemu->loop, LOOK_AGAIN_MS, on_look, instance);
}

static void tell(struct instance *instance)
{
	struct hv_event event = qemu_event(instance, HV_EVENT_PROGRESS);

	event.note = instance->paused;
	qemu_tell(instance->qemu, &event);
}

static void on_status(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;
	const char *status = json_string_value(json_object_get(result, "status"));

	(void)err; /* the look is repeated */
	if (!instance->paused || !status || instance->state != HV_RUNNING)
		return;
	if (!strcmp(status, "io-error")) {
		tell(instance);
		instance_qmp(instance, "cont", NULL, NULL);
	} else if (!strcmp(status, "guest-panicked")) {
		tell(instance);
	} else {
		instance->paused = NULL;
		storage_set(instance, false, NULL);
		instance->panicked = false;
		loop_timer_cancel(instance->qemu->loop, STEAL(instance->pause_timer));
		qemu_note(instance, "the guest runs on");
	}
}

static void on_look(void *ctx)
{
	struct instance *instance = ctx;

	instance->pause_timer = NULL;
	look_later(instance);
	/* In a copy, or while its pages cannot be read, others decide whether it runs. */
	if (instance->qmp && instance->state == HV_RUNNING && !instance->stalled)
		instance_qmp(instance, "query-status", NULL, on_status);
}

static void tell_panic(struct instance *instance, bool panicked)
{
	if (!panicked || instance->panicked)
		return;
	instance->panicked = true;
	struct hv_event event = qemu_event(instance, HV_EVENT_PANICKED);
	qemu_tell_later(instance->qemu, &event);
}

bool pause_begin(struct instance *instance, const char *status)
{
	const char *why = !strcmp(status, "io-error")
				  ? "the guest is paused: its disk's storage fails or is full; mended, it runs on"
			  : !strcmp(status, "guest-panicked")
				  ? "the guest has panicked and is paused"
				  : NULL;

	if (!why)
		return false;
	if (instance->paused != why)
		qemu_note(instance, why);
	instance->paused = why;
	look_later(instance);
	tell_panic(instance, !strcmp(status, "guest-panicked"));
	return true;
}
