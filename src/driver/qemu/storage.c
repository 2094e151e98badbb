/* SPDX-License-Identifier: Apache-2.0
 * Whether the disks of the guests are reached from here. That a path fails QEMU says, by pausing the guest. That it
 * hangs nobody says: so each directory that holds a running guest's disk is read from, every few seconds, one small
 * block, on a thread that may hang in the loop's place. A directory has one such thread at a time, for as long as it
 * hangs.
 *
 * A full storage is not lost: it is full for all. Nor is a path that is not there any more: files that are open go on.
 */
#include "driver/qemu/instance.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { WATCH_MS = 5000, WATCH_LIMIT_MS = 5000, PROBE_LIMIT_MS = 8000 };

/* Outlives the watch, where its thread hangs for longer. */
struct flight {
	_Atomic uint32_t holders;
	_Atomic bool landed;
};

struct storage_watch {
	struct storage_watch *next;
	char dir[PATH_BYTES];
	bool seen;  /* in this round: a running guest has a disk in it */
	bool hangs; /* the last look has taken too long, and is not back */
	struct flight *flight;
};

struct look_job {
	struct job job;
	struct qemu *qemu; /* for done alone */
	struct flight *flight;
	char dir[PATH_BYTES];
	struct vm_def def; /* its one disk */
	struct err err;
};

struct probe_job {
	struct job job;
	struct qemu *qemu; /* for done alone */
	struct vm_def def;
	int result;
	struct err err;
};

static void flight_let_go(struct flight *flight)
{
	if (flight && atomic_fetch_sub(&flight->holders, 1) == 1)
		free(flight);
}

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

/* ---- looks */

static void look_work(struct job *job)
{
	struct look_job *look = (struct look_job *)job;

	media_reach(&look->def, &look->err);
	atomic_store(&look->flight->landed, true);
}

static void look_done(struct job *job, const struct err *err)
{
	struct look_job *look = (struct look_job *)job;

	for (struct storage_watch *watch = look->qemu->watches; watch; watch = watch->next)
		if (!strcmp(watch->dir, look->dir) && watch->flight == look->flight)
			watch->hangs = err && err->code == ERR_TIMEOUT;
	judge(look->qemu);
}

static void look_destroy(struct job *job)
{
	struct look_job *look = (struct look_job *)job;

	/* Where no thread could be had, none will land. */
	atomic_store(&look->flight->landed, true);
	flight_let_go(look->flight);
	free(look);
}

static void look_begin(struct qemu *qemu, struct storage_watch *watch, const struct vm_disk *disk)
{
	struct look_job *look = calloc(1, sizeof(*look));

	watch->flight = calloc(1, sizeof(*watch->flight));
	assert(look && watch->flight);
	atomic_init(&watch->flight->holders, 2);
	*look = (struct look_job){.job = {.work = look_work, .done = look_done, .destroy = look_destroy},
		.qemu = qemu,
		.flight = watch->flight};
	memcpy(look->dir, watch->dir, sizeof(look->dir));
	look->def.disk_count = 1;
	look->def.disks[0] = *disk;
	look->def.disks[0].read_only = true;
	job_start(qemu->jobs, &look->job, WATCH_LIMIT_MS);
}

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
	struct storage_watch *watch;
	char dir[PATH_BYTES];

	if (disk->kind != DISK_SHARED)
		return;
	dir_of(disk->path, dir);
	watch = watch_of(qemu, dir);
	if (watch->seen)
		return;
	watch->seen = true;
	if (watch->flight && !atomic_load(&watch->flight->landed))
		return;
	flight_let_go(STEAL(watch->flight));
	look_begin(qemu, watch, disk);
}

static void drop(struct storage_watch **at)
{
	struct storage_watch *watch = *at;

	*at = watch->next;
	flight_let_go(watch->flight);
	free(watch);
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
	/* One whose thread hangs is kept: it is the only one for its directory. */
	for (struct storage_watch **at = &qemu->watches; *at;)
		if (!(*at)->seen && (!(*at)->flight || atomic_load(&(*at)->flight->landed)))
			drop(at);
		else
			at = &(*at)->next;
}

void storage_begin(struct qemu *qemu)
{
	qemu->watch_timer = loop_timer_set(qemu->loop, WATCH_MS, on_watch, qemu);
}

void storage_fini(struct qemu *qemu)
{
	loop_timer_cancel(qemu->loop, STEAL(qemu->watch_timer));
	while (qemu->watches)
		drop(&qemu->watches);
}

/* ---- the disks of a VM that runs elsewhere */

static void probe_work(struct job *job)
{
	struct probe_job *probe = (struct probe_job *)job;

	probe->result = media_reach(&probe->def, &probe->err);
}

static void probe_done(struct job *job, const struct err *err)
{
	struct probe_job *probe = (struct probe_job *)job;
	struct hv_event event = {.kind = HV_EVENT_PROBED, .vm = probe->def.uuid};

	if (err)
		event.err = *err;
	else if (probe->result < 0)
		event.err = probe->err;
	qemu_tell(probe->qemu, &event);
}

static void probe_destroy(struct job *job)
{
	free(job);
}

void storage_probe(struct qemu *qemu, const struct vm_def *def)
{
	struct probe_job *probe = calloc(1, sizeof(*probe));

	assert(probe);
	*probe = (struct probe_job){
		.job = {.work = probe_work, .done = probe_done, .destroy = probe_destroy}, .qemu = qemu, .def = *def};
	job_start(qemu->jobs, &probe->job, PROBE_LIMIT_MS);
}
