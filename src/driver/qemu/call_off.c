/* SPDX-License-Identifier: Apache-2.0
 * Calling off a copy, in whatever phase it is (save.c), and letting its guest run on if that is wanted. */
#include "driver/qemu/instance.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

enum { DRAIN_BYTES = 1 << 16, DRAIN_READS = 64, DRAIN_LOOK_MS = 10, LOOK_MS = 5 };

static void ask(struct instance *instance);

static void tell_failed(struct instance *instance)
{
	struct hv_event event = qemu_event(instance, HV_EVENT_FAILED);

	if (!instance->copy.failed)
		return;
	instance->copy.failed = false;
	event.err = instance->copy.why;
	qemu_tell(instance->qemu, &event);
}

/* The guest runs, or has stopped by itself and stays so. */
static void back(struct instance *instance)
{
	bool wanted = instance->copy.run_wanted;
	struct hv_event event;

	instance_limit(instance, 0, NULL);
	instance->record.step = STEP_RUN;
	instance->record.sealed = instance->record.stopped_by_copy = false;
	instance_save(instance, NULL);
	instance->copy.phase = COPY_NONE;
	instance->copy.run_wanted = false;
	instance_go(instance, HV_RUNNING);
	tell_failed(instance);
	if (!wanted || instance->state != HV_RUNNING)
		return;
	/* Its addresses are where they were; but the target's QEMU may have announced them already. */
	instance_announce(instance);
	event = qemu_event(instance, HV_EVENT_RESUMED);
	qemu_tell(instance->qemu, &event);
}

static void on_look(void *ctx)
{
	struct instance *instance = ctx;

	instance->timer = NULL;
	ask(instance);
}

static void on_cont(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;

	if (instance->state != HV_COPYING || instance->copy.phase != COPY_RETURN)
		return;
	/* "Migration is not finalized yet", a lock that the target's QEMU still holds: asked again until it is so. */
	if (!result && !instance->copy.complained) {
		instance->copy.complained = true;
		qemu_log(instance->qemu, "%s: %s", instance->record.def.name, err->text);
	}
	instance_limit(instance, result ? 1 : CONT_AGAIN_MS, on_look);
}

/* Stopped by the copy. It runs on when the engine says so; QEMU by itself lets it run where its migration failed. */
static void stopped(struct instance *instance)
{
	if (instance->copy.run_wanted) {
		instance_qmp(instance, "cont", NULL, on_cont);
		return;
	}
	instance_limit(instance, 0, NULL);
	instance->copy.phase = COPY_FAILED;
	tell_failed(instance);
}

static void on_status(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;
	const char *status = json_string_value(json_object_get(result, "status"));

	(void)err;
	if (instance->state != HV_COPYING || instance->copy.phase != COPY_RETURN)
		return;
	if (!status)
		instance_limit(instance, CONT_AGAIN_MS, on_look);
	else if (!strcmp(status, "shutdown"))
		instance_end(instance, ENDING_SHUTDOWN, NULL);
	else if (!strcmp(status, "finish-migrate"))
		instance_limit(instance, LOOK_MS, on_look);
	else if (!strcmp(status, "running") || !instance->record.stopped_by_copy)
		back(instance);
	else if (!strcmp(status, "postmigrate") || !strcmp(status, "paused"))
		stopped(instance);
	else
		back(instance); /* io-error, guest-panicked …: its own doing */
}

static void on_migration(void *ctx, const json_t *result, const struct err *err)
{
	static const char *const busy[] = {"setup", "active", "device", "pre-switchover", "cancelling"};
	struct instance *instance = ctx;
	const char *status = json_string_value(json_object_get(result, "status"));

	(void)err;
	if (instance->state != HV_COPYING || instance->copy.phase != COPY_CANCEL)
		return;
	for (size_t i = 0; status && i < ARRAY_SIZE(busy); i++)
		if (!strcmp(status, busy[i]))
			return; /* its event comes, or the time limit */
	instance->copy.phase = COPY_RETURN;
	ask(instance);
}

static void ask(struct instance *instance)
{
	if (!instance->qmp) {
		instance_limit(instance, CONT_AGAIN_MS, on_look);
		return;
	}
	if (instance->copy.phase == COPY_CANCEL)
		instance_qmp(instance, "query-migrate", NULL, on_migration);
	else if (instance->copy.phase == COPY_RETURN)
		instance_qmp(instance, "query-status", NULL, on_status);
}

/* QEMU waits in a write to the pipe that a dead or hanging watari-stream does not read any more (one that waits for a
 * dead disk does not even die). Reading it empty lets QEMU go on; it knows already that its migration is cancelled. */
static void on_cancel_limit(void *ctx)
{
	struct instance *instance = ctx;
	char link[40], bytes[DRAIN_BYTES];
	struct err err;

	instance->timer = NULL;
	snprintf(link, sizeof(link), "pipe:[%" PRIu64 "]", instance->record.pipe_inode);
	if (instance->copy.drain_fd < 0)
		instance->copy.drain_fd = process_open_fd(&instance->process, link, O_RDONLY | O_NONBLOCK, &err);
	for (int i = 0; i < DRAIN_READS && instance->copy.drain_fd >= 0; i++)
		if (read(instance->copy.drain_fd, bytes, sizeof(bytes)) <= 0)
			break;
	instance_limit(instance, DRAIN_LOOK_MS, on_cancel_limit);
	ask(instance);
}

void call_off_on_migration(struct instance *instance)
{
	ask(instance);
}

/* watari-stream is through with the guest's memory, or dead or dying: QEMU's turn. */
void call_off_helper_over(struct instance *instance)
{
	cleanup_fd_(&instance->copy.pipe_write);
	instance->copy.pipe_write = -1;
	instance_drop_stream(instance);
	instance->copy.phase = COPY_CANCEL;
	instance_limit(instance, CANCEL_LIMIT_MS, on_cancel_limit);
	if (instance->qmp)
		instance_qmp(instance, "migrate_cancel", NULL, NULL);
	ask(instance);
}

static void on_helper_limit(void *ctx)
{
	struct instance *instance = ctx;

	instance->timer = NULL;
	/* It hangs in the kernel, it may be for ever. It is killed as soon as it comes back from there, so it writes no
	 * manifest any more, and without one what it wrote is no state. */
	call_off_helper_over(instance);
}

/* Nothing was begun yet, or all is over. */
static void look_back(struct instance *instance)
{
	instance->copy.phase = COPY_RETURN;
	instance_limit(instance, 0, NULL);
	ask(instance);
}

void call_off(struct instance *instance, const struct err *why)
{
	struct copy *copy = &instance->copy;

	if (why && !copy->failed) {
		qemu_log(instance->qemu, "%s: the copy is called off: %s", instance->record.def.name, why->text);
		copy->failed = true;
		copy->why = *why;
	}
	switch (copy->phase) {
	case COPY_NONE:
	case COPY_CALL_OFF:
	case COPY_CANCEL:
	case COPY_RETURN:
		return;
	case COPY_STORE:
	case COPY_ASK:
		job_cancel(STEAL(instance->job));
		look_back(instance);
		return;
	case COPY_HELPER:
	case COPY_STREAM:
	case COPY_SEALING:
		copy->phase = COPY_CALL_OFF;
		if (!instance->stream) {
			call_off_helper_over(instance);
			return;
		}
		stream_command(instance->stream, "cancel");
		instance_limit(instance, CALL_OFF_LIMIT_MS, on_helper_limit);
		return;
	case COPY_SEALED:
		instance_drop_stream(instance); /* it was told to quit */
		instance->record.sealed = false;
		instance_save(instance, NULL);
		instance_go(instance, HV_COPYING);
		look_back(instance);
		return;
	case COPY_FAILED:
		look_back(instance);
		return;
	}
}
