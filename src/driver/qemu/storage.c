/* SPDX-License-Identifier: Apache-2.0
 * Whether the disks of the guests are reached from here. That a path fails QEMU says, by pausing the guest. That it
 * hangs nobody says: so of each directory that holds a running guest's disk one small block is read, every few seconds, by
 * a process of its own (job.h), of which a directory has one at a time, for as long as it hangs.
 *
 * A full storage is not lost: it is full for all. Nor is a path that is not there any more: files that are open go on.
 */
#include "driver/qemu/instance.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { WATCH_MS = 5000, WATCH_LIMIT_MS = 5000, PROBE_LIMIT_MS = 8000 };

struct look {
	struct job job;
	struct qemu *qemu;
	struct storage_watch *watch; /* NULL: of a probe */
	char vm[UUID_BYTES];	     /* of a probe */
	uint32_t count;
	struct {
		bool write;
		char path[PATH_BYTES];
	} files[VM_DISKS_MAX];
	int error; /* the first errno */
};

struct storage_watch {
	struct storage_watch *next;
	char dir[PATH_BYTES];
	bool seen;  /* in this round: a running guest has a disk in it */
	bool out;   /* a look is under way, */
	bool hangs; /* takes too long, and is not back */
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

/* ---- a look */

/* Must never write, or take a lock. */
static int reach(const char *path, bool write)
{
	/* O_DIRECT, past the cache, wants aligned memory. O_NONBLOCK: a path that names a FIFO must not hang. */
	static _Alignas(4096) uint8_t block[4096];
	int flags = (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	CLEANUP_FD int fd = open(path, flags | O_DIRECT);

	if (fd < 0 && errno == EINVAL)
		fd = open(path, flags);
	return fd < 0 || pread(fd, block, sizeof(block), 0) < 0 ? errno : 0;
}

/* In the process. */
static void look_work(struct job *job)
{
	struct look *look = (struct look *)job;

	for (uint32_t i = 0; i < look->count && !look->error; i++)
		look->error = reach(look->files[i].path, look->files[i].write);
}

static void watch_done(struct job *job, const struct err *err)
{
	struct look *look = (struct look *)job;

	look->watch->hangs = err && err->code == ERR_TIMEOUT;
	if (err && !look->watch->hangs)
		qemu_log(look->qemu, "storage: not looked at: %s", err->text);
	judge(look->qemu);
}

/* One that comes back late says only that it is back. */
static void watch_end(struct job *job)
{
	struct look *look = (struct look *)job;

	look->watch->out = look->watch->hangs = false;
	judge(look->qemu);
	free(look);
}

static void probe_done(struct job *job, const struct err *err)
{
	struct look *look = (struct look *)job;
	struct hv_event event = {.kind = HV_EVENT_PROBED, .vm = look->vm};

	if (err && err->code == ERR_TIMEOUT)
		err_set(&event.err, ERR_TIMEOUT, "the storage of its disks does not answer");
	else if (err)
		event.err = *err;
	else if (look->error)
		err_errno(&event.err, look->error, "its disks cannot be opened and read");
	qemu_tell(look->qemu, &event);
}

static void probe_end(struct job *job)
{
	free(job);
}

static struct look *look_new(struct qemu *qemu)
{
	struct look *look = calloc(1, sizeof(*look));

	assert(look);
	look->job = (struct job){.work = look_work, .size = sizeof(*look)};
	look->qemu = qemu;
	return look;
}

static void look_add(struct look *look, const struct vm_disk *disk, bool write)
{
	look->files[look->count].write = write;
	memcpy(look->files[look->count++].path, disk->path, sizeof(disk->path));
}

/* ---- looks at what runs here */

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
	char dir[PATH_BYTES];
	struct storage_watch *watch;

	if (disk->kind != DISK_SHARED)
		return;
	dir_of(disk->path, dir);
	watch = watch_of(qemu, dir);
	watch->seen = true;
	if (watch->out)
		return;
	watch->out = true;
	struct look *look = look_new(qemu);
	look->watch = watch;
	look->job.done = watch_done;
	look->job.destroy = watch_end;
	look_add(look, disk, false);
	job_start(qemu->looks, &look->job, WATCH_LIMIT_MS);
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
		if (watch->seen || watch->out) {
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
	job_pool_free(STEAL(qemu->looks));
	for (struct storage_watch *watch = qemu->watches, *next; watch; watch = next) {
		next = watch->next;
		free(watch);
	}
	qemu->watches = NULL;
}

/* ---- the disks of a VM that runs elsewhere */

void storage_probe(struct qemu *qemu, const struct vm_def *def)
{
	struct look *look = look_new(qemu);

	look->job.done = probe_done;
	look->job.destroy = probe_end;
	for (uint32_t i = 0; i < def->disk_count; i++)
		look_add(look, &def->disks[i], !def->disks[i].read_only);
	memcpy(look->vm, def->uuid, sizeof(look->vm));
	job_start(qemu->looks, &look->job, PROBE_LIMIT_MS);
}
