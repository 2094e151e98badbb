/* SPDX-License-Identifier: Apache-2.0
 * Whether the disks of the guests are reached from here. That a path fails QEMU says, by pausing the guest. That it
 * hangs nobody says: so each directory that holds a running guest's disk is read from, every few seconds, one small
 * block, by a process of its own (watari-reach). What hangs in the kernel can be neither ended nor waited for, and a
 * thread of ours that did would keep the daemon from ending. A directory has one such process at a time, for as long as
 * it hangs.
 *
 * A full storage is not lost: it is full for all. Nor is a path that is not there any more: files that are open go on.
 */
#include "driver/qemu/instance.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum { WATCH_MS = 5000, WATCH_LIMIT_MS = 5000, PROBE_LIMIT_MS = 8000, REACHES_MAX = 64 };

/* One such process, from its start until it is dead. */
struct reach {
	struct reach *next;
	struct qemu *qemu;
	struct process process;
	struct loop_io *death;
	struct loop_timer *limit; /* NULL: its time was up, nobody waits for it */
	char dir[PATH_BYTES];	  /* of a watch; empty: */
	char vm[UUID_BYTES];	  /* of a probe */
};

struct storage_watch {
	struct storage_watch *next;
	char dir[PATH_BYTES];
	bool seen;  /* in this round: a running guest has a disk in it */
	bool hangs; /* the last look has taken too long, and is not back */
};

static void dir_of(const char *path, char dir[static PATH_BYTES])
{
	snprintf(dir, PATH_BYTES, "%s", path);
	char *slash = strrchr(dir, '/');
	if (slash)
		*slash = 0;
}

/* ---- what an instance knows */

void storage_set(struct instance *instance, bool lost, const char *text)
{
	struct hv_event event = qemu_event(instance, HV_EVENT_STORAGE);

	if (instance->storage_lost == lost)
		return;
	instance->storage_lost = lost;
	snprintf(instance->storage_text, sizeof(instance->storage_text), "%s", lost ? text : "");
	qemu_log(instance->qemu, "%s: %s", instance->record.def.name, lost ? text : "its disks are reached again");
	qemu_tell_later(instance->qemu, &event);
}

static bool has_disk_in(const struct instance *instance, const char *dir)
{
	char own[PATH_BYTES];

	for (uint32_t i = 0; i < instance->record.def.disk_count; i++) {
		dir_of(instance->record.def.disks[i].path, own);
		if (!strcmp(own, dir))
			return true;
	}
	return false;
}

static bool hangs(const struct instance *instance)
{
	for (const struct storage_watch *watch = instance->qemu->watches; watch; watch = watch->next)
		if (watch->hangs && has_disk_in(instance, watch->dir))
			return true;
	return false;
}

/* A guest that is paused by an error says itself when it runs on. */
static void judge(struct qemu *qemu)
{
	for (struct instance *at = qemu->instances; at; at = at->next)
		if (at->state == HV_RUNNING && !at->paused)
			storage_set(at, hangs(at), "the storage of its disks does not answer");
}

/* ---- the processes */

static bool is_out(const struct qemu *qemu, const char *dir)
{
	for (const struct reach *reach = qemu->reaches; reach; reach = reach->next)
		if (!strcmp(reach->dir, dir))
			return true;
	return false;
}

/* error: an errno; ETIMEDOUT where no answer came. */
static void answered(struct reach *reach, int error)
{
	struct qemu *qemu = reach->qemu;
	struct hv_event event = {.kind = HV_EVENT_PROBED, .vm = reach->vm};

	for (struct storage_watch *watch = qemu->watches; watch && reach->dir[0]; watch = watch->next)
		if (!strcmp(watch->dir, reach->dir))
			watch->hangs = error == ETIMEDOUT;
	if (reach->dir[0]) {
		judge(qemu);
		return;
	}
	if (error == ETIMEDOUT)
		err_set(&event.err, ERR_TIMEOUT, "the storage of its disks does not answer");
	else if (error)
		err_errno(&event.err, error, "its disks cannot be opened and read");
	qemu_tell(qemu, &event);
}

static void reach_free(struct reach *reach)
{
	struct reach **at = &reach->qemu->reaches;

	while (*at != reach)
		at = &(*at)->next;
	*at = reach->next;
	reach->qemu->reach_count--;
	loop_timer_cancel(reach->qemu->loop, reach->limit);
	loop_io_cancel(reach->qemu->loop, reach->death);
	cleanup_fd_(&reach->process.pidfd);
	free(reach);
}

static void on_reach_death(void *ctx, uint32_t events)
{
	struct reach *reach = ctx;
	char how[80];
	int status;

	(void)events;
	if (!process_ended(&reach->process, &status, how))
		return;
	struct loop_timer *limit = STEAL(reach->limit);
	loop_timer_cancel(reach->qemu->loop, limit);
	/* One that comes back late says only that it is back. */
	if (limit || reach->dir[0])
		answered(reach, status < 0 ? EIO : status);
	reach_free(reach);
}

static void on_reach_limit(void *ctx)
{
	struct reach *reach = ctx;

	/* Not killed: where that works while the storage hangs, its end would say nothing any more. */
	reach->limit = NULL;
	answered(reach, ETIMEDOUT);
}

/* False: none could be started. */
static bool reach_begin(struct reach *reach, const char *const *argv, uint64_t limit_ms)
{
	struct qemu *qemu = reach->qemu;
	CLEANUP_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct spawn spawn = {.binary = argv[0],
		.argv = argv,
		.lock_fd = -1,
		.fd_count = 3,
		.fds = {{null, 0}, {null, 1}, {null, 2}}};
	struct err err;

	if (qemu->reach_count >= REACHES_MAX || process_spawn(&spawn, &reach->process, &err) < 0) {
		qemu_log(qemu, "storage: no process to look at it: %s",
			qemu->reach_count >= REACHES_MAX ? "too many hang" : err.text);
		free(reach);
		return false;
	}
	reach->next = qemu->reaches;
	qemu->reaches = reach;
	qemu->reach_count++;
	reach->death = loop_io_watch(qemu->loop, reach->process.pidfd, EPOLLIN, on_reach_death, reach);
	reach->limit = loop_timer_set(qemu->loop, limit_ms, on_reach_limit, reach);
	return true;
}

static struct reach *reach_new(struct qemu *qemu)
{
	struct reach *reach = calloc(1, sizeof(*reach));

	assert(reach);
	reach->qemu = qemu;
	reach->process.pidfd = -1;
	return reach;
}

/* ---- looks */

static struct storage_watch *watch_of(struct qemu *qemu, const char *dir)
{
	struct storage_watch *watch = qemu->watches;

	while (watch && strcmp(watch->dir, dir) != 0)
		watch = watch->next;
	if (watch)
		return watch;
	watch = calloc(1, sizeof(*watch));
	assert(watch);
	snprintf(watch->dir, sizeof(watch->dir), "%s", dir);
	watch->next = qemu->watches;
	qemu->watches = watch;
	return watch;
}

static void look_at_disk(struct qemu *qemu, const struct vm_disk *disk)
{
	char dir[PATH_BYTES], word[PATH_BYTES + 2];
	const char *argv[] = {qemu->reach_binary, word, NULL};
	struct storage_watch *watch;

	if (disk->kind != DISK_SHARED)
		return;
	dir_of(disk->path, dir);
	watch = watch_of(qemu, dir);
	if (watch->seen || is_out(qemu, dir)) {
		watch->seen = true;
		return;
	}
	watch->seen = true;
	snprintf(word, sizeof(word), "r:%s", disk->path);
	struct reach *reach = reach_new(qemu);
	memcpy(reach->dir, dir, sizeof(reach->dir));
	reach_begin(reach, argv, WATCH_LIMIT_MS);
}

static void on_watch(void *ctx)
{
	struct qemu *qemu = ctx;

	qemu->watch_timer = loop_timer_set(qemu->loop, WATCH_MS, on_watch, qemu);
	for (struct storage_watch *watch = qemu->watches; watch; watch = watch->next)
		watch->seen = false;
	for (const struct instance *at = qemu->instances; at; at = at->next)
		for (uint32_t i = 0; at->state == HV_RUNNING && i < at->record.def.disk_count; i++)
			look_at_disk(qemu, &at->record.def.disks[i]);
	for (struct storage_watch **at = &qemu->watches, *watch; (watch = *at);) {
		if (watch->seen || is_out(qemu, watch->dir)) {
			at = &watch->next;
			continue;
		}
		*at = watch->next;
		free(watch);
	}
}

void storage_begin(struct qemu *qemu)
{
	qemu->watch_timer = loop_timer_set(qemu->loop, WATCH_MS, on_watch, qemu);
}

/* What hangs is left behind. */
void storage_fini(struct qemu *qemu)
{
	loop_timer_cancel(qemu->loop, STEAL(qemu->watch_timer));
	while (qemu->reaches) {
		process_kill(&qemu->reaches->process);
		reach_free(qemu->reaches);
	}
	for (struct storage_watch *watch = qemu->watches, *next; watch; watch = next) {
		next = watch->next;
		free(watch);
	}
	qemu->watches = NULL;
}

/* ---- the disks of a VM that runs elsewhere */

static void tell_no_process(struct qemu *qemu, const char *vm)
{
	struct hv_event event = {.kind = HV_EVENT_PROBED, .vm = vm};

	err_set(&event.err, ERR_BUSY, "%d looks at storage hang already, or no process could be had", REACHES_MAX);
	qemu_tell_later(qemu, &event);
}

void storage_probe(struct qemu *qemu, const struct vm_def *def)
{
	char words[VM_DISKS_MAX][PATH_BYTES + 2];
	const char *argv[VM_DISKS_MAX + 2] = {qemu->reach_binary};
	struct reach *reach = reach_new(qemu);

	for (uint32_t i = 0; i < def->disk_count; i++) {
		snprintf(words[i], sizeof(words[i]), "%c:%s", def->disks[i].read_only ? 'r' : 'w', def->disks[i].path);
		argv[i + 1] = words[i];
	}
	memcpy(reach->vm, def->uuid, sizeof(reach->vm));
	if (!reach_begin(reach, argv, PROBE_LIMIT_MS))
		tell_no_process(qemu, def->uuid);
}
