/* SPDX-License-Identifier: Apache-2.0
 * After a restart of the daemon: finds what an earlier one has left running, and what was missed. */
#include "driver/qemu/instance.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <time.h>

enum { KILL_LIMIT_MS = 5000, FIND_TRIES = 50, FIND_AGAIN_MS = 10 };

static enum hv_state state_of(const struct record *record)
{
	switch (record->step) {
	case STEP_START:
		return HV_STARTING;
	case STEP_RUN:
		return HV_RUNNING;
	case STEP_COPY:
		return record->sealed ? HV_SEALED : HV_COPYING;
	case STEP_STANDBY:
		return HV_STANDBY;
	case STEP_LOAD:
		return record->figures.loaded_us ? HV_LOADED : HV_LOADING;
	case STEP_STOP:
		return HV_STOPPING;
	}
	return HV_RUNNING;
}

/* It was being prepared and the daemon died: nobody knows how far it came, and it holds no guest. */
static int end_unprepared(const struct process *process, struct err *err)
{
	struct pollfd poll_fd = {.fd = process->pidfd, .events = POLLIN};

	process_kill(process);
	if (poll(&poll_fd, 1, KILL_LIMIT_MS) != 1)
		return err_set(err, ERR_TIMEOUT, "QEMU (process %d) does not die", (int)process->pid);
	return 0;
}

/* The engine may know of it: say how it ended, as far as that was written down. */
static void tell_dead(struct qemu *qemu, const char *uuid, const struct record *record)
{
	struct hv_event event = {.kind = HV_EVENT_GONE, .vm = uuid, .epoch = record->epoch,
		.cause = record->step == STEP_STOP ? record->cause : GONE_DIED};

	if (!record->epoch)
		return;
	err_set(&event.err, ERR_UNAVAILABLE, "QEMU ended while the daemon was away");
	qemu_tell_later(qemu, &event);
}

static void on_quit_limit(void *ctx)
{
	struct instance *instance = ctx;

	instance->timer = NULL;
	process_kill(&instance->process);
}

static void adopt_live(struct qemu *qemu, int dir_fd, const struct record *record, const struct process *process)
{
	static const enum ending endings[] = {
		[GONE_DIED] = ENDING_DIED, [GONE_GUEST_SHUTDOWN] = ENDING_SHUTDOWN, [GONE_STOPPED] = ENDING_STOPPED,
		[GONE_SELF_FENCED] = ENDING_DIED,
		[GONE_PANICKED] = ENDING_PANICKED};
	struct instance *instance = instance_new(qemu, &record->def, state_of(record));

	instance->record = *record;
	instance->dir_fd = dir_fd;
	instance->process = *process;
	if (instance->state == HV_SEALED)
		instance->copy.phase = COPY_SEALED;
	qemu_log(qemu, "%s: found, %s (process %d, epoch %llu)", record->def.name, hv_state_name((int)instance->state),
		(int)process->pid, (unsigned long long)record->epoch);
	instance_watch_death(instance);
	instance_connect(instance);
	/* Its helper holds the connection on which its QEMU waits; the engine may ask for the load at once. */
	if (instance->state == HV_STANDBY)
		load_look(instance);
	if (instance->state == HV_STOPPING) {
		instance->ending = endings[record->cause];
		instance_limit(instance, QUIT_LIMIT_MS, on_quit_limit);
	}
}

/* A child between fork and exec holds the lock and has not written its number yet. */
static int find(int dir_fd, struct process *process, struct err *err)
{
	struct timespec wait = {.tv_nsec = FIND_AGAIN_MS * 1000000L};
	int found = -1;

	for (int i = 0; i < FIND_TRIES; i++) {
		found = process_find(dir_fd, "qemu.lock", process, err);
		if (found >= 0 || err->code != ERR_BUSY)
			break;
		nanosleep(&wait, NULL);
	}
	return found;
}

static int adopt(struct qemu *qemu, const char *uuid, struct err *err)
{
	struct process process;
	CLEANUP_FREE struct record *record = calloc(1, sizeof(*record));
	CLEANUP_FD int dir_fd = openat(qemu->vm_dir_fd, uuid, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (dir_fd < 0 || !record)
		return err_errno(err, errno, "directory");
	int found = find(dir_fd, &process, err);
	if (found < 0)
		return -1;
	int readable = record_read(dir_fd, record, err);
	if (found && (readable < 0 || strcmp(record->def.uuid, uuid) != 0)) {
		close(process.pidfd);
		return err_prefix(err, "QEMU (process %d) runs, but what was known of it is lost; end it by hand",
			(int)process.pid);
	}
	bool unprepared = found && record->step == STEP_STANDBY && !record->figures.prepared_us;
	if (unprepared && end_unprepared(&process, err) < 0)
		return -1;
	if (found && !unprepared) {
		adopt_live(qemu, STEAL_FD(dir_fd), record, &process);
		return 0;
	}
	if (found)
		close(process.pidfd);
	if (readable >= 0)
		tell_dead(qemu, uuid, record);
	stream_end_found(qemu->loop, dir_fd);
	instance_remove_files(dir_fd);
	unlinkat(qemu->vm_dir_fd, uuid, AT_REMOVEDIR);
	return 0;
}

int adopt_all(struct qemu *qemu, struct err *err)
{
	const struct dirent *entry;
	int result = 0;
	int fd = openat(qemu->vm_dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fd < 0 ? NULL : fdopendir(fd);

	if (!list)
		return err_errno(err, errno, "run directory");
	while (!result && (entry = readdir(list))) {
		if (strlen(entry->d_name) != UUID_BYTES - 1)
			continue;
		result = adopt(qemu, entry->d_name, err);
		if (result < 0)
			err_prefix(err, "VM %s", entry->d_name);
	}
	closedir(list);
	return result;
}

/* It was to run. Did it? */
static void on_running_status(struct instance *instance, const char *status)
{
	bool loaded = instance->record.state_task && !instance->record.figures.resumed_us;

	if (!strcmp(status, "shutdown")) {
		instance_end(instance, ENDING_SHUTDOWN, NULL);
		return;
	}
	/* Only a guest that was loaded and not let run is in these: the engine's order is asked for again. */
	if (loaded && (!strcmp(status, "inmigrate") || !strcmp(status, "paused"))) {
		instance->record.step = STEP_LOAD;
		instance->record.epoch = 0;
		instance_save(instance, NULL);
		instance_go(instance, HV_LOADED);
	} else if (strcmp(status, "running") != 0 && !instance->stalled && !pause_begin(instance, status)) {
		char note[80];
		snprintf(note, sizeof(note), "the guest is paused by itself: %.40s", status);
		qemu_note(instance, note);
	}
	if (instance->record.filling)
		load_look(instance);
}

void adopt_on_status(struct instance *instance, const char *status)
{
	switch (instance->state) {
	case HV_RUNNING:
		on_running_status(instance, status);
		return;
	case HV_COPYING:
	case HV_SEALED:
		if (!strcmp(status, "shutdown"))
			instance_end(instance, ENDING_SHUTDOWN, NULL);
		else
			save_look(instance);
		return;
	case HV_LOADED:
		/* The event was lost with the connection. */
		if (instance->run_wanted && !strcmp(status, "running"))
			run_on_resume(instance, instance_now_us());
		else
			load_look(instance);
		return;
	case HV_STANDBY:
	case HV_LOADING:
		load_look(instance);
		return;
	case HV_ABSENT:
	case HV_STARTING:
	case HV_PREPARING:
	case HV_STOPPING:
		return;
	}
}
