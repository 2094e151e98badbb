/* SPDX-License-Identifier: Apache-2.0
 * Copy: the guest's memory is saved while it runs, until it is stopped and sealed (design §6, steps 2 and 3).
 *
 *	STORE ─▶ ASK ─▶ HELPER ─▶ STREAM ─▶ SEALING ─▶ SEALED
 *	   └────────┴──────┴─────────┴─────────┴──▶ CALL_OFF ─▶ CANCEL ─▶ RETURN ─▶ RUNNING, or FAILED (paused)
 *
 * SEALED needs two words: watari-stream's that every byte is durable, and QEMU's that its migration is completed. Without
 * the second QEMU would let the guest run on by itself. Calling off asks in the same order: first watari-stream, which
 * may be reading the guest's memory, then QEMU. */
#include "driver/qemu/facts.h"
#include "driver/qemu/hot_list.h"
#include "driver/qemu/instance.h"
#include "driver/qemu/state_store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

/* How short the last pass must be, in ms of the measured speed, by the number of passes in a row that did not shrink
 * what is left to less than CONVERGING of the pass before. The first value is what the blackout costs at best; the last
 * one ends the copy: QEMU stops the guest at its next look, and what is left is bounded by its memory. */
static const uint32_t downtime_limit_ms[] = {8, 30, 100, 300, 2000000};
enum {
	CONVERGING_PERCENT = 70,
	PASSES_MAX = 40,	 /* even if each of them shrinks it */
	WRITTEN_MAX_PERCENT = 300, /* of the memory in use: then it ends, however well it converges */
};

static void on_stream(void *ctx, const char *name, const json_t *event);
static void on_stream_gone(void *ctx, const struct err *err);

static void call_off_with(struct instance *instance, enum err_code code, const char *text)
{
	struct err err;

	err_set(&err, code, "%s", text);
	call_off(instance, &err);
}

/* STORE */

struct store_job {
	struct job job;
	struct instance *instance;
	char state_dir[PATH_BYTES];
	char vm[UUID_BYTES];
	uint64_t task;
	uint64_t bytes;
	uint32_t owner;
	int fd;
	struct err err;
};

static const uint32_t store_fds[] = {offsetof(struct store_job, fd)};

static void store_work(struct job *job)
{
	struct store_job *store = (struct store_job *)job;

	store->fd = state_store_create(store->state_dir, store->vm, store->task, store->owner, store->bytes, &store->err);
}

static void on_capabilities(void *ctx, const json_t *result, const struct err *err);
static void on_blockers(void *ctx, const json_t *result, const struct err *err);
static void on_status(void *ctx, const json_t *result, const struct err *err);

static void store_done(struct job *job, const struct err *err)
{
	struct store_job *store = (struct store_job *)job;
	struct instance *instance = store->instance;

	instance->job = NULL;
	if (err || store->fd < 0) {
		call_off(instance, err ? err : &store->err);
		return;
	}
	instance->copy.state_fd = STEAL_FD(store->fd);
	instance->copy.phase = COPY_ASK;
	if (!instance->qmp) {
		call_off_with(instance, ERR_UNAVAILABLE, "QEMU's monitor does not answer");
		return;
	}
	/* Answers come in this order; the last one goes on. */
	instance_qmp(instance, "query-status", NULL, on_status);
	instance_qmp(instance, "query-migrate", NULL, on_blockers);
	instance_capability(instance, "events", true, NULL);
	instance_capability(instance, "postcopy-ram", false, NULL);
	/* Throughput is bounded by what the other end of the pipe takes; QEMU's own default throttles. */
	instance_qmp(instance, "migrate-set-parameters",
		json_pack("{s:I, s:I}", "max-bandwidth", (json_int_t)1 << 40, "downtime-limit",
			(json_int_t)downtime_limit_ms[0]),
		on_capabilities);
}

static void store_destroy(struct job *job)
{
	struct store_job *store = (struct store_job *)job;

	cleanup_fd_(&store->fd);
	free(store);
}

/* What the guest really uses: of a memfd its allocated pages, else what the process has resident. */
static uint64_t used_bytes(const struct instance *instance)
{
	uint64_t all = (uint64_t)instance->record.def.memory_mib << 20;
	uint64_t used = all;
	char path[64];
	struct stat stat;
	struct err err;

	if (!instance->record.kvm) {
		CLEANUP_FD int fd = process_open_fd(&instance->process, "/memfd:memory-backend-memfd", O_RDONLY, &err);
		if (fd >= 0 && !fstat(fd, &stat))
			used = (uint64_t)stat.st_blocks * 512;
	} else {
		uint64_t size, resident;
		snprintf(path, sizeof(path), "/proc/%d/statm", (int)instance->process.pid);
		CLEANUP_FILE FILE *file = fopen(path, "re");
		if (file && fscanf(file, "%" SCNu64 " %" SCNu64, &size, &resident) == 2)
			used = resident * (uint64_t)sysconf(_SC_PAGESIZE);
	}
	return used < all ? used : all;
}

void save_reset(struct instance *instance)
{
	instance->copy = (struct copy){.phase = COPY_NONE, .state_fd = -1, .pipe_write = -1, .drain_fd = -1};
}

void save_begin(struct instance *instance, uint64_t task)
{
	struct store_job *store = calloc(1, sizeof(*store));
	struct qemu *qemu = instance->qemu;

	assert(store && instance->state == HV_RUNNING);
	if (instance->record.filling) {
		struct hv_event event = qemu_event(instance, HV_EVENT_FAILED);
		free(store);
		event.task = task;
		err_set(&event.err, ERR_BUSY, "pages of the move before are still coming in");
		qemu_tell_later(qemu, &event);
		return;
	}
	instance->record.step = STEP_COPY;
	instance->record.task = task;
	instance->record.stopped_by_copy = instance->record.sealed = false;
	instance->record.pipe_inode = 0;
	instance->record.figures = (struct move_figures){.copy_us = instance_now_us()};
	instance_drop_stream(instance); /* of the load before, told to quit: its socket's name is used again */
	save_reset(instance);
	instance->copy.phase = COPY_STORE;
	instance->copy.used_bytes = used_bytes(instance);
	instance_save(instance, NULL);
	instance_go(instance, HV_COPYING);
	store->job = (struct job){.work = store_work, .done = store_done, .destroy = store_destroy,
		.size = sizeof(*store), .fd_at = store_fds, .fd_count = ARRAY_SIZE(store_fds)};
	store->instance = instance;
	store->task = task;
	store->bytes = instance->copy.used_bytes;
	store->owner = qemu->config.uid_base;
	store->fd = -1;
	snprintf(store->state_dir, sizeof(store->state_dir), "%s", qemu->config.state_dir);
	snprintf(store->vm, sizeof(store->vm), "%s", instance->record.def.uuid);
	instance->job = &store->job;
	job_start(qemu->jobs, &store->job, STORE_LIMIT_MS);
}

/* ASK */

static bool asking(const struct instance *instance)
{
	return instance->state == HV_COPYING && instance->copy.phase == COPY_ASK;
}

static void on_status(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;
	const char *status = json_string_value(json_object_get(result, "status"));
	struct err why;

	if (!asking(instance))
		return;
	if (!result || !status) {
		call_off(instance, err ? err : &(struct err){.code = ERR_PROTOCOL, .text = "QEMU tells no status"});
	} else if (!strcmp(status, "shutdown")) {
		instance_end(instance, ENDING_SHUTDOWN, NULL);
	} else if (strcmp(status, "running")) {
		err_set(&why, ERR_UNFIT,
			"the guest is paused by itself (%.40s); it is moved or saved only while it runs: look at its console",
			status);
		call_off(instance, &why);
	}
}

static void on_blockers(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;
	const char *reason = json_string_value(json_array_get(json_object_get(result, "blocked-reasons"), 0));
	struct err why;

	(void)err; /* the last answer tells of a dead monitor */
	if (!asking(instance) || !reason)
		return;
	err_set(&why, ERR_UNFIT, "QEMU cannot save this machine: %.200s; stop the VM and take the device out of it", reason);
	call_off(instance, &why);
}

/* HELPER */

static void on_helper_limit(void *ctx)
{
	struct instance *instance = ctx;

	instance->timer = NULL;
	call_off_with(instance, ERR_TIMEOUT, "watari-stream could not begin in time: the state's storage does not answer");
}

static json_t *start_command(const struct instance *instance)
{
	const struct vm_def *def = &instance->record.def;

	return json_pack("{s:s, s:o, s:s, s:I, s:I, s:b, s:o*}", "cmd", "start", "facts", facts_of_save(instance), "block", "ram",
		"ram_bytes", (json_int_t)def->memory_mib << 20, "used_bytes", (json_int_t)instance->copy.used_bytes,
		"repair", (int)!instance->record.kvm, "hot", hot_list_get(instance->dir_fd));
}

/* The pipe's two ends: [0] goes to watari-stream, [1] to QEMU; we keep neither, so that each notices the other's end. */
static int start_helper(struct instance *instance, int pipe_read, struct err *err)
{
	struct qemu *qemu = instance->qemu;
	CLEANUP_FD int log = instance_open_log(instance, ".log", err);
	CLEANUP_FD int memory = -1;

	if (log < 0)
		return -1;
	if (!instance->record.kvm) {
		memory = process_open_fd(&instance->process, "/memfd:memory-backend-memfd", O_RDONLY, err);
		if (memory < 0)
			return err_prefix(err, "the guest's memory, which is compared with what was saved");
	}
	instance->stream = stream_spawn(qemu->loop,
		&(struct stream_spawn){.binary = qemu->config.stream_binary,
			.verb = "save",
			.uid = qemu->config.uid_base,
			.dir_fd = instance->dir_fd,
			.log_fd = log,
			.qemu_fd = pipe_read,
			.state_fd = instance->copy.state_fd,
			.memory_fd = memory},
		&(struct stream_callbacks){.ctx = instance, .event = on_stream, .gone = on_stream_gone}, err);
	if (!instance->stream)
		return -1;
	close(STEAL_FD(instance->copy.state_fd));
	stream_send(instance->stream, start_command(instance));
	return 0;
}

static void on_capabilities(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;
	struct err why;
	struct stat stat;
	int ends[2];

	if (!asking(instance))
		return;
	if (!result) {
		call_off(instance, err);
		return;
	}
	if (pipe2(ends, O_CLOEXEC) < 0) {
		err_errno(&why, errno, "pipe");
		call_off(instance, &why);
		return;
	}
	CLEANUP_FD int read_end = ends[0];
	instance->copy.pipe_write = ends[1];
	if (!fstat(ends[1], &stat))
		instance->record.pipe_inode = stat.st_ino;
	if (start_helper(instance, read_end, &why) < 0) {
		call_off(instance, &why);
		return;
	}
	instance->copy.phase = COPY_HELPER;
	instance_limit(instance, STORE_LIMIT_MS, on_helper_limit);
}

/* STREAM */

static void on_migrate(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;

	if (!result && instance->state == HV_COPYING && instance->copy.phase == COPY_STREAM)
		call_off(instance, err);
}

static void on_stall_look(void *ctx)
{
	struct instance *instance = ctx;

	instance->timer = NULL;
	if (loop_now_ms(instance->qemu->loop) >= instance->copy.moved_ms + STALL_LIMIT_MS)
		call_off_with(instance, ERR_TIMEOUT, "the state's storage has taken nothing for 30 s");
	else
		instance_limit(instance, STALL_LIMIT_MS / 10, on_stall_look);
}

static void begin_stream(struct instance *instance)
{
	if (!instance->qmp) {
		call_off_with(instance, ERR_UNAVAILABLE, "QEMU's monitor does not answer");
		return;
	}
	instance->copy.phase = COPY_STREAM;
	instance->copy.moved_ms = loop_now_ms(instance->qemu->loop);
	/* From here a stop is the copy's, until the guest is seen to have stopped by itself. */
	instance->record.stopped_by_copy = true;
	instance_save(instance, NULL);
	instance_limit(instance, STALL_LIMIT_MS / 10, on_stall_look);
	qmp_send(instance->qmp, "getfd", json_pack("{s:s}", "fdname", "save"), STEAL_FD(instance->copy.pipe_write),
		QMP_LIMIT_MS, NULL, NULL);
	instance_qmp(instance, "migrate", json_pack("{s:s}", "uri", "fd:save"), on_migrate);
}

static void set_downtime_limit(struct instance *instance)
{
	uint32_t step = instance->copy.unsettled;

	if (step >= ARRAY_SIZE(downtime_limit_ms))
		step = ARRAY_SIZE(downtime_limit_ms) - 1;
	qemu_log(instance->qemu, "%s: the copy does not converge (%" PRIu64 " KiB left): the last pass may take %u ms",
		instance->record.def.name, instance->copy.remaining >> 10, downtime_limit_ms[step]);
	instance_qmp(instance, "migrate-set-parameters",
		json_pack("{s:I}", "downtime-limit", (json_int_t)downtime_limit_ms[step]), NULL);
}

static void on_pass_figures(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;
	struct copy *copy = &instance->copy;
	const json_t *ram = json_object_get(result, "ram");
	json_int_t remaining = json_integer_value(json_object_get(ram, "remaining"));
	json_int_t passes = json_integer_value(json_object_get(ram, "dirty-sync-count"));

	(void)err;
	if (!ram || instance->state != HV_COPYING || copy->phase != COPY_STREAM || remaining < 0 || passes < 0)
		return;
	uint64_t written_max = copy->used_bytes / 100 * WRITTEN_MAX_PERCENT;
	bool shrinks = passes <= 2 || (uint64_t)remaining <= copy->remaining / 100 * CONVERGING_PERCENT;
	bool enough = passes > PASSES_MAX || copy->moved_bytes > written_max;
	copy->remaining = (uint64_t)remaining;
	if (shrinks && !enough)
		return;
	copy->unsettled = enough ? ARRAY_SIZE(downtime_limit_ms) - 1 : copy->unsettled + 1;
	set_downtime_limit(instance);
}

/* A pass is over: is what is left shrinking? */
void save_on_pass(struct instance *instance)
{
	if (instance->copy.phase == COPY_STREAM && instance->qmp)
		instance_qmp(instance, "query-migrate", NULL, on_pass_figures);
}

void save_on_stop(struct instance *instance, uint64_t at_us)
{
	if (instance->state != HV_COPYING)
		return;
	instance->record.figures.stopped_us = at_us;
	if (instance->stream)
		stream_hurry(instance->stream);
}

/* SEALING, SEALED */

static uint64_t figure(const json_t *figures, const char *name)
{
	json_int_t value = json_integer_value(json_object_get(figures, name));

	return value > 0 ? (uint64_t)value : 0;
}

static void take_figures(struct instance *instance, const json_t *figures)
{
	struct move_figures *to = &instance->record.figures;

	to->streamed_us = figure(figures, "streamed_ns") / 1000;
	to->repaired_us = figure(figures, "repaired_ns") / 1000;
	to->sealed_us = figure(figures, "sealed_ns") / 1000;
	to->ram_bytes = figure(figures, "ram_bytes");
	to->device_bytes = figure(figures, "device_bytes");
	to->used_bytes = figure(figures, "used_bytes");
	to->repaired_pages = figure(figures, "repaired_pages");
	to->passes = figure(figures, "passes");
}

static void sealed_if_both(struct instance *instance)
{
	struct hv_event event;
	struct err err;

	if (!instance->copy.helper_sealed || !instance->copy.qemu_completed)
		return;
	instance->record.sealed = true;
	/* Should the daemon die before this is written, watari-stream says it again. */
	if (instance_save(instance, &err) < 0) {
		instance->record.sealed = false;
		call_off(instance, &err);
		return;
	}
	instance->copy.phase = COPY_SEALED;
	instance_limit(instance, 0, NULL);
	instance_go(instance, HV_SEALED);
	stream_dismiss(instance->stream);
	event = qemu_event(instance, HV_EVENT_SEALED);
	qemu_tell(instance->qemu, &event);
}

static void on_seal_limit(void *ctx)
{
	struct instance *instance = ctx;

	instance->timer = NULL;
	call_off_with(instance, ERR_TIMEOUT, "the state's storage could not make the state durable in 60 s");
}

static bool in_stream(const struct instance *instance)
{
	return instance->state == HV_COPYING &&
	       (instance->copy.phase == COPY_STREAM || instance->copy.phase == COPY_SEALING);
}

static void tell_progress(struct instance *instance, const json_t *progress)
{
	struct hv_event event;
	struct copy *copy = &instance->copy;
	uint64_t bytes = figure(progress, "bytes");

	if (bytes != copy->moved_bytes) {
		copy->moved_bytes = bytes;
		copy->moved_ms = loop_now_ms(instance->qemu->loop);
	}
	instance->record.figures.ram_bytes = figure(progress, "ram_bytes");
	instance->record.figures.passes = figure(progress, "pass");
	event = qemu_event(instance, HV_EVENT_PROGRESS);
	if (copy->used_bytes)
		event.percent = (uint32_t)(bytes / (copy->used_bytes / 100 + 1));
	if (event.percent > 99)
		event.percent = 99;
	qemu_tell(instance->qemu, &event);
}

static void on_failed(struct instance *instance, const json_t *event)
{
	struct err said, err;

	stream_failure(event, &said);
	err = said;
	if (said.code == ERR_NO_SPACE)
		err_set(&err, ERR_NO_SPACE, "'%s' is full (%.120s): make room there", instance->qemu->config.state_dir, said.text);
	if (instance->copy.phase != COPY_CALL_OFF) {
		call_off(instance, &err);
		return;
	}
	/* It stopped reading, QEMU saw that and was heard first. */
	if (instance->copy.echo && (err.code == ERR_NO_SPACE || err.code == ERR_IO))
		instance->copy.why = err;
	call_off_helper_over(instance);
}

static void on_stream(void *ctx, const char *name, const json_t *event)
{
	struct instance *instance = ctx;

	if (instance->state != HV_COPYING)
		return;
	if (stream_is_orphan(instance->stream, name, event) && in_stream(instance)) {
		call_off_with(instance, ERR_UNAVAILABLE, "the copy had not begun when the daemon died");
	} else if (!strcmp(name, "copying") && instance->copy.phase == COPY_HELPER) {
		begin_stream(instance);
	} else if (!strcmp(name, "streamed") && in_stream(instance)) {
		instance->copy.phase = COPY_SEALING;
		instance_limit(instance, SEAL_LIMIT_MS, on_seal_limit);
	} else if (!strcmp(name, "sealed") && in_stream(instance)) {
		take_figures(instance, json_object_get(event, "figures"));
		instance->copy.helper_sealed = true;
		sealed_if_both(instance);
	} else if (!strcmp(name, "sealed") && instance->copy.phase == COPY_CALL_OFF) {
		call_off_helper_over(instance);
	} else if (!strcmp(name, "failed") || !strcmp(name, "refused")) {
		on_failed(instance, event);
	} else if (!strcmp(name, "progress") && in_stream(instance)) {
		tell_progress(instance, event);
	}
}

static void on_stream_gone(void *ctx, const struct err *err)
{
	struct instance *instance = ctx;

	stream_free(STEAL(instance->stream));
	if (instance->state != HV_COPYING)
		return;
	if (instance->copy.phase == COPY_CALL_OFF)
		call_off_helper_over(instance);
	else if (instance->copy.phase == COPY_HELPER || in_stream(instance))
		call_off(instance, err);
}

void save_on_migration(struct instance *instance, const char *status)
{
	struct copy *copy = &instance->copy;

	if (copy->phase == COPY_CANCEL) {
		call_off_on_migration(instance);
	} else if (!in_stream(instance)) {
		return;
	} else if (!strcmp(status, "completed")) {
		copy->qemu_completed = true;
		sealed_if_both(instance);
	} else if (!strcmp(status, "failed") || !strcmp(status, "cancelled")) {
		copy->echo = !copy->failed;
		call_off_with(instance, ERR_IO, "QEMU could not send its state");
	}
}

/* LOOK */

static void on_look(void *ctx, const json_t *result, const struct err *err)
{
	const char *status = json_string_value(json_object_get(result, "status"));

	(void)err; /* a connection that is lost again is made again, and this asked again */
	if (((struct instance *)ctx)->state == HV_COPYING && status)
		save_on_migration(ctx, status);
}

void save_look(struct instance *instance)
{
	struct copy *copy = &instance->copy;
	struct err err;

	if (copy->phase == COPY_NONE) {
		/* It tells again all that happened, so any phase is reached from here. */
		copy->phase = COPY_STREAM;
		copy->used_bytes = used_bytes(instance);
		copy->moved_ms = loop_now_ms(instance->qemu->loop);
		instance->stream = stream_find(instance->qemu->loop, instance->dir_fd,
			&(struct stream_callbacks){.ctx = instance, .event = on_stream, .gone = on_stream_gone}, &err);
		if (!instance->stream) {
			call_off_with(instance, ERR_UNAVAILABLE, "watari-stream died while the daemon was away");
			return;
		}
		instance_limit(instance, STALL_LIMIT_MS / 10, on_stall_look);
	}
	if (copy->run_wanted && in_stream(instance))
		call_off(instance, NULL);
	if (!in_stream(instance))
		return;
	/* If QEMU got the pipe and not the order to use it, nobody would ever write into it: closed, watari-stream sees its
	 * end. Refused where the order came. */
	instance_qmp(instance, "closefd", json_pack("{s:s}", "fdname", "save"), NULL);
	instance_qmp(instance, "query-migrate", NULL, on_look);
}
