/* SPDX-License-Identifier: Apache-2.0
 * Load: watari-stream plays a saved state towards the QEMU that stands by (design §6, step 5), and goes on serving
 * pages while the guest runs, until it has them all. */
#include "driver/qemu/facts.h"
#include "driver/qemu/hot_list.h"
#include "driver/qemu/instance.h"
#include "driver/qemu/sock.h"
#include "driver/qemu/state_store.h"

#include <assert.h>
#include <string.h>

struct open_job {
	struct job job;
	struct instance *instance;
	struct hv_saved saved;
	bool prepare; /* for the state of this very move, which the source has not begun to write */
	char state_dir[PATH_BYTES];
	char vm[UUID_BYTES];
	uint32_t owner;
	int fd;
	struct err err;
};

static const uint32_t open_fds[] = {offsetof(struct open_job, fd)};

static void on_stream(void *ctx, const char *name, const json_t *event);
static void on_stream_gone(void *ctx, const struct err *err);

static void fail(struct instance *instance, const struct err *err)
{
	instance_end(instance, ENDING_FAILED, err);
}

static void open_work(struct job *job)
{
	struct open_job *open = (struct open_job *)job;

	if (open->prepare)
		open->fd = state_store_make(open->state_dir, open->vm, open->saved.task, open->owner, &open->err);
	else
		open->fd = state_store_open(open->state_dir, open->vm, open->saved.task, &open->err);
}

static int start_helper(struct instance *instance, int state_fd, struct err *err)
{
	struct qemu *qemu = instance->qemu;
	CLEANUP_FD int log = instance_open_log(instance, ".log", err);

	if (log < 0)
		return -1;
	if (instance->incoming_fd < 0)
		instance->incoming_fd = sock_connect(instance->dir_fd, "guest/incoming.sock", err);
	if (instance->incoming_fd < 0)
		return -1;
	instance->stream = stream_spawn(qemu->loop,
		&(struct stream_spawn){.binary = qemu->config.stream_binary,
			.verb = "load",
			.uid = qemu->config.uid_base,
			.dir_fd = instance->dir_fd,
			.log_fd = log,
			.qemu_fd = instance->incoming_fd,
			.state_fd = state_fd,
			.memory_fd = -1},
		&(struct stream_callbacks){.ctx = instance, .event = on_stream, .gone = on_stream_gone}, err);
	return instance->stream ? 0 : -1;
}

static void start_load(struct instance *instance, const struct hv_saved *saved)
{
	/* Before it runs all memory is wanted in a cold restore: then it depends on the state's storage no longer, and every
	 * page has been checked. */
	bool eager = !instance->record.postcopy || saved->verify_all;

	/* The helper has its own: when it dies, QEMU sees it. */
	if (instance->incoming_fd >= 0)
		close(STEAL_FD(instance->incoming_fd));
	stream_send(instance->stream,
		json_pack("{s:s, s:s, s:s, s:I, s:o}", "cmd", "start", "mode", eager ? "eager" : "postcopy", "verify", "served",
			"ram_bytes", (json_int_t)instance->record.def.memory_mib << 20, "expect",
			facts_to_expect(instance, saved)));
}

static void open_done(struct job *job, const struct err *err)
{
	struct open_job *open = (struct open_job *)job;
	struct instance *instance = open->instance;
	struct err why;

	instance->job = NULL;
	if (err || open->fd < 0) {
		fail(instance, err ? err : &open->err);
		return;
	}
	if (start_helper(instance, open->fd, &why) < 0)
		fail(instance, &why);
	else if (!open->prepare)
		start_load(instance, &open->saved);
	else
		stream_send(instance->stream, json_pack("{s:s, s:I}", "cmd", "ready", "ram_bytes",
						      (json_int_t)instance->record.def.memory_mib << 20));
}

static void open_destroy(struct job *job)
{
	struct open_job *open = (struct open_job *)job;

	cleanup_fd_(&open->fd);
	free(open);
}

static void on_limit(void *ctx)
{
	struct instance *instance = ctx;
	uint64_t limit_ms = instance->verify_all ? STALL_LIMIT_MS : LOAD_STEP_LIMIT_MS;
	struct err err;

	instance->timer = NULL;
	/* A cold state may take its time as long as it comes on; a moved one has a stopped guest behind it. */
	if (instance->verify_all && loop_now_ms(instance->qemu->loop) < instance->moved_ms + limit_ms) {
		instance_limit(instance, limit_ms / 10, on_limit);
		return;
	}
	err_set(&err, ERR_TIMEOUT, "the state was not loaded in time: its storage gave nothing for %llu s",
		(unsigned long long)limit_ms / 1000);
	fail(instance, &err);
}

static void open_state(struct instance *instance, const struct hv_saved *saved, bool prepare)
{
	struct open_job *open = calloc(1, sizeof(*open));
	struct qemu *qemu = instance->qemu;

	assert(open);
	open->job = (struct job){.work = open_work, .done = open_done, .destroy = open_destroy,
		.size = sizeof(*open), .fd_at = open_fds, .fd_count = ARRAY_SIZE(open_fds)};
	open->instance = instance;
	open->saved = *saved;
	open->prepare = prepare;
	open->owner = qemu->config.uid_base;
	open->fd = -1;
	snprintf(open->state_dir, sizeof(open->state_dir), "%s", qemu->config.state_dir);
	snprintf(open->vm, sizeof(open->vm), "%s", instance->record.def.uuid);
	instance->job = &open->job;
	job_start(qemu->jobs, &open->job, STORE_LIMIT_MS);
}

/* In a move the guest is stopped from the seal on: whatever can be done before is. */
void load_prepare(struct instance *instance)
{
	open_state(instance, &(struct hv_saved){.task = instance->record.task}, true);
}

static void prepared(struct instance *instance)
{
	struct hv_event event;

	instance->record.figures.prepared_us = instance_now_us();
	instance_save(instance, NULL);
	instance_limit(instance, 0, NULL);
	instance_go(instance, HV_STANDBY);
	event = qemu_event(instance, HV_EVENT_PREPARED);
	qemu_tell(instance->qemu, &event);
}

void load_begin(struct instance *instance, const struct hv_saved *saved)
{
	struct qemu *qemu = instance->qemu;

	instance->record.step = STEP_LOAD;
	instance->record.state_task = saved->task;
	instance->record.state_epoch = saved->epoch;
	instance->record.figures.loading_us = instance_now_us();
	instance->verify_all = saved->verify_all;
	instance->moved_ms = loop_now_ms(qemu->loop);
	instance_save(instance, NULL);
	instance_go(instance, HV_LOADING);
	instance_limit(instance, saved->verify_all ? STALL_LIMIT_MS / 10 : LOAD_STEP_LIMIT_MS, on_limit);
	if (saved->task == instance->record.task && instance->stream) {
		stream_hurry(instance->stream);
		start_load(instance, saved);
		return;
	}
	/* A restore is of an older task's state: the helper that stands by has another directory. Its connection goes on. */
	if (instance->incoming_fd < 0 && instance->stream)
		instance->incoming_fd = stream_take_qemu_fd(instance->stream);
	instance_drop_stream(instance);
	open_state(instance, saved, false);
}

static uint64_t at_us(const json_t *event)
{
	json_int_t ns = json_integer_value(json_object_get(event, "at_ns"));

	return ns > 0 ? (uint64_t)ns / 1000 : 0;
}

static void loaded(struct instance *instance, const json_t *event)
{
	struct hv_event told;

	instance->record.figures.loaded_us = at_us(event);
	instance->record.filling = json_is_true(json_object_get(event, "filling"));
	/* A record that cannot be written costs a daemon that dies now the knowledge of it; it then asks QEMU. */
	instance_save(instance, NULL);
	instance_limit(instance, 0, NULL);
	instance_go(instance, HV_LOADED);
	told = qemu_event(instance, HV_EVENT_LOADED);
	qemu_tell(instance->qemu, &told);
}

static void filled(struct instance *instance, uint64_t when_us)
{
	struct hv_event told;
	bool was_filling = instance->record.filling;

	instance->record.filling = false;
	instance->record.figures.filled_us = when_us;
	instance_save(instance, NULL);
	if (instance->stream)
		stream_dismiss(instance->stream);
	if (!was_filling)
		return;
	/* It would forbid the next save. */
	if (instance->qmp)
		instance_capability(instance, "postcopy-ram", false, NULL);
	told = qemu_event(instance, HV_EVENT_FILLED);
	qemu_tell(instance->qemu, &told);
}

static void on_stalled(struct instance *instance, const json_t *event)
{
	const char *text = json_string_value(json_object_get(event, "text"));
	char note[REASON_BYTES];

	snprintf(note, sizeof(note), "stalled: pages of the saved state cannot be read, the guest is paused: %.120s",
		text ? text : "no reason known");
	/* Better stopped as a whole than some of its threads (A18). It answers when nothing of QEMU waits for a page. */
	if (!instance->stalled && instance->state == HV_RUNNING && instance->qmp)
		instance_qmp(instance, "stop", NULL, NULL);
	instance->stalled = instance->state == HV_RUNNING;
	qemu_note(instance, note);
}

static void on_readable(struct instance *instance)
{
	if (instance->stalled && instance->state == HV_RUNNING && instance->qmp)
		instance_qmp(instance, "cont", NULL, NULL);
	instance->stalled = false;
	qemu_note(instance, "pages of the saved state can be read again");
}

/* Without its pages the guest is lost. Before it ran the state is as good as ever, for another QEMU. */
static void lost(struct instance *instance, const struct err *err)
{
	if (instance->state == HV_LOADING || (instance->state == HV_LOADED && !instance->run_wanted))
		instance_end(instance, ENDING_FAILED, err);
	else if (instance->record.filling)
		instance_end(instance, ENDING_DIED, err);
}

static void tell_progress(struct instance *instance, const json_t *progress)
{
	json_int_t pages = json_integer_value(json_object_get(progress, "pages"));
	json_int_t total = json_integer_value(json_object_get(progress, "pages_total"));
	struct hv_event event = qemu_event(instance, HV_EVENT_PROGRESS);

	if (pages < 0 || total <= 0 || pages > total)
		return;
	if ((uint64_t)pages != instance->moved_pages) {
		instance->moved_pages = (uint64_t)pages;
		instance->moved_ms = loop_now_ms(instance->qemu->loop);
	}
	event.percent = (uint32_t)((uint64_t)pages * 100 / (uint64_t)total);
	qemu_tell(instance->qemu, &event);
}

static void on_failed(struct instance *instance, const json_t *event)
{
	struct err err;

	stream_failure(event, &err);
	lost(instance, &err);
}

static void on_stream(void *ctx, const char *name, const json_t *event)
{
	struct instance *instance = ctx;
	struct err err;

	if (!strcmp(name, "hello") && instance->state == HV_PREPARING) {
		prepared(instance);
	} else if (stream_is_orphan(instance->stream, name, event) && instance->state == HV_LOADING) {
		err_set(&err, ERR_UNAVAILABLE, "the load had not begun when the daemon died");
		lost(instance, &err);
	} else if (!strcmp(name, "loaded") && instance->state == HV_LOADING)
		loaded(instance, event);
	else if (!strcmp(name, "filled")) {
		hot_list_keep(instance->dir_fd, json_object_get(event, "hot"));
		filled(instance, at_us(event));
	} else if (!strcmp(name, "stalled"))
		on_stalled(instance, event);
	else if (!strcmp(name, "resumed"))
		on_readable(instance);
	else if (!strcmp(name, "failed") || !strcmp(name, "refused"))
		on_failed(instance, event);
	else if (!strcmp(name, "progress"))
		tell_progress(instance, event);
}

static void on_last_look(void *ctx, const json_t *result, const struct err *err);

/* Died in the moment when all was done? QEMU knows. */
static void last_look(struct instance *instance)
{
	if (instance->qmp)
		qmp_send(instance->qmp, "query-migrate", NULL, -1, LAST_LOOK_LIMIT_MS, on_last_look, instance);
}

static void on_last_look(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;
	const char *status = json_string_value(json_object_get(result, "status"));
	bool silent = !status && err && err->code == ERR_TIMEOUT;
	struct err why;

	/* Without an answer for another reason: the monitor is connected again, and it is asked again (load_look). */
	if (!instance->record.filling || instance->state == HV_STOPPING || (!status && !silent))
		return;
	if (status && !strcmp(status, "completed")) {
		filled(instance, loop_wall_ms(instance->qemu->loop) * 1000);
		return;
	}
	/* Its main thread may itself wait for a page that nobody brings any more; or the machine is slow. */
	if (silent && ++instance->last_looks < LAST_LOOKS) {
		last_look(instance);
		return;
	}
	err_set(&why, ERR_UNAVAILABLE, "watari-stream died before the guest had all its memory");
	lost(instance, &why);
}

static void on_stream_gone(void *ctx, const struct err *err)
{
	struct instance *instance = ctx;

	stream_free(STEAL(instance->stream));
	if (instance->state == HV_PREPARING)
		fail(instance, err);
	else if (instance->state == HV_LOADING)
		lost(instance, err);
	else if (instance->record.filling && instance->state != HV_STOPPING)
		last_look(instance);
}

void load_look(struct instance *instance)
{
	struct err err;

	if (instance->stream)
		return;
	instance->stream = stream_find(instance->qemu->loop, instance->dir_fd,
		&(struct stream_callbacks){.ctx = instance, .event = on_stream, .gone = on_stream_gone}, &err);
	if (instance->stream) {
		if (instance->state == HV_LOADING)
			instance_limit(instance, LOAD_STEP_LIMIT_MS, on_limit);
		return;
	}
	if (instance->state == HV_LOADING) {
		err_set(&err, ERR_UNAVAILABLE, "the load was cut short when the daemon was away");
		lost(instance, &err);
	} else if (instance->record.filling) {
		last_look(instance);
	}
}
