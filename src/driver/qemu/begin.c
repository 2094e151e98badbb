/* SPDX-License-Identifier: Apache-2.0
 * The first steps of an instance: look at its files (in a process of its own), make its descriptors, start QEMU, hear from it. A
 * start ends with STARTED; a standby goes on to "waits for a state" and PREPARED. */
#include "driver/qemu/argv.h"
#include "driver/qemu/instance.h"
#include "driver/qemu/sock.h"
#include "driver/qemu/tap.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

struct media_job {
	struct job job;
	struct instance *instance; /* for done alone */
	struct vm_def def;
	bool standby;
	struct media media;
	int result;
	struct err err;
};

#define DISK_FD(i) offsetof(struct media_job, media.disks[i].fd)
static const uint32_t media_fds[] = {DISK_FD(0), DISK_FD(1), DISK_FD(2), DISK_FD(3), DISK_FD(4), DISK_FD(5), DISK_FD(6), DISK_FD(7),
	offsetof(struct media_job, media.kernel_fd), offsetof(struct media_job, media.initrd_fd)};
_Static_assert(VM_DISKS_MAX == 8 && ARRAY_SIZE(media_fds) <= WORKER_FDS_MAX, "each file of a VM has its place here");
_Static_assert(sizeof(struct media_job) <= WORKER_BYTES_MAX, "a job is sent in one message");

enum { MEMORY_MARGIN_MIB = 64 }; /* QEMU's own, beyond the guest's */

static void fail(struct instance *instance, const struct err *err)
{
	instance_end(instance, ENDING_FAILED, err);
}

/* What the kernel could give now. The engine has looked at what is promised to VMs; this is what is really there. */
static int check_memory(const struct vm_def *def, struct err *err)
{
	uint64_t available_mib = qemu_memory_mib("MemAvailable");

	if (available_mib < (uint64_t)def->memory_mib + MEMORY_MARGIN_MIB)
		return err_set(err, ERR_NO_ROOM, "this node has %" PRIu64 " MiB of memory left, '%s' needs %u MiB",
			available_mib, def->name, def->memory_mib + MEMORY_MARGIN_MIB);
	return 0;
}

static int check_host(const struct vm_def *def, struct err *err)
{
	for (uint32_t i = 0; i < def->nic_count; i++)
		if (tap_check_bridge(def->nics[i].bridge, err) < 0)
			return -1;
	return check_memory(def, err);
}

/* The lowest that no instance on this node has. */
static int choose_uid(struct qemu *qemu, uint32_t *uid, struct err *err)
{
	*uid = 0;
	if (!qemu->config.uid_base)
		return 0;
	for (uint32_t i = 1; i < qemu->config.uid_count; i++) {
		const struct instance *at = qemu->instances;
		while (at && at->record.uid != qemu->config.uid_base + i)
			at = at->next;
		if (!at) {
			*uid = qemu->config.uid_base + i;
			return 0;
		}
	}
	return err_set(err, ERR_UNFIT, "all %u users for VMs are in use on this node", qemu->config.uid_count - 1);
}

struct fds {
	int null, log, qmp, serial, serial_log, lock, agent;
	int nics[VM_NICS_MAX];
};

static void fds_close(struct fds *fds)
{
	int *all = (int *)fds;

	for (size_t i = 0; i < sizeof(*fds) / sizeof(int); i++)
		cleanup_fd_(&all[i]);
}

static int fds_open(struct instance *instance, struct fds *fds, struct err *err)
{
	const struct vm_def *def = &instance->record.def;

	for (uint32_t i = 0; i < def->nic_count; i++)
		if ((fds->nics[i] = tap_open(def->nics[i].bridge, def->nics[i].model == NIC_VIRTIO, err)) < 0)
			return -1;
	if ((fds->null = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
		return err_set(err, ERR_SYSTEM, "'/dev/null' cannot be opened");
	if ((fds->log = instance_open_log(instance, ".log", err)) < 0 ||
		(fds->serial_log = instance_open_log(instance, ".serial.log", err)) < 0 ||
		(fds->lock = process_lock(instance->dir_fd, "qemu.lock", err)) < 0 ||
		(fds->qmp = sock_listen(instance->dir_fd, "qmp.sock", err)) < 0 ||
		(fds->serial = sock_listen(instance->dir_fd, "serial.sock", err)) < 0 ||
		(def->guest_agent && (fds->agent = sock_listen(instance->dir_fd, HEARTBEAT_SOCKET, err)) < 0))
		return -1;
	instance->log_from = lseek(fds->log, 0, SEEK_END);
	return 0;
}

static void give(struct spawn *spawn, int ours, int theirs)
{
	if (ours >= 0)
		spawn->fds[spawn->fd_count++] = (struct spawn_fd){ours, theirs};
}

static void give_all(struct spawn *spawn, const struct fds *fds, const struct media *media)
{
	give(spawn, fds->null, 0);
	give(spawn, fds->log, 1);
	give(spawn, fds->log, 2);
	give(spawn, fds->qmp, ARGV_FD_QMP);
	give(spawn, fds->serial, ARGV_FD_SERIAL);
	give(spawn, fds->serial_log, ARGV_FD_SERIAL_LOG);
	give(spawn, fds->agent, ARGV_FD_AGENT);
	give(spawn, media->kernel_fd, ARGV_FD_KERNEL);
	give(spawn, media->initrd_fd, ARGV_FD_INITRD);
	for (int i = 0; i < VM_DISKS_MAX; i++)
		give(spawn, media->disks[i].fd, ARGV_FD_DISKS + i);
	for (int i = 0; i < VM_NICS_MAX; i++)
		give(spawn, fds->nics[i], ARGV_FD_NICS + i);
	spawn->lock_fd = fds->lock;
}

static int spawn_qemu(struct instance *instance, const struct media *media, const struct fds *fds, struct err *err)
{
	struct qemu *qemu = instance->qemu;
	char vnc[PATH_BYTES + UUID_BYTES + 32];
	struct argv argv;
	struct argv_facts facts = {.accel = instance->record.kvm ? ARGV_KVM : ARGV_TCG,
		.incoming = instance->state == HV_PREPARING,
		.binary = qemu->config.qemu_binary,
		.vnc_path = vnc};

	snprintf(vnc, sizeof(vnc), "%s/vm/%s/guest/vnc.sock", qemu->config.run_dir, instance->record.def.uuid);
	for (uint32_t i = 0; i < VM_DISKS_MAX; i++) {
		facts.block_device[i] = media->disks[i].block_device;
		facts.direct[i] = media->disks[i].direct;
	}
	argv_build(&instance->record.def, &facts, &argv);
	struct spawn spawn = {.binary = facts.binary, .argv = argv.words, .uid = instance->record.uid};
	give_all(&spawn, fds, media);
	int result = process_spawn(&spawn, &instance->process, err);
	argv_fini(&argv);
	return result;
}

static void on_greeting_limit(void *ctx)
{
	struct instance *instance = ctx;
	struct err err;

	instance->timer = NULL;
	err_set(&err, ERR_TIMEOUT, "QEMU did not come up within %d s", GREETING_LIMIT_MS / 1000);
	fail(instance, &err);
}

static int begin(struct instance *instance, const struct media *media, struct err *err)
{
	struct fds fds;

	memset(&fds, 0xff, sizeof(fds)); /* all -1 */
	/* Written before anything is started: a daemon that is killed in between knows what it was about to do. */
	if (choose_uid(instance->qemu, &instance->record.uid, err) < 0 || instance_make_dir(instance, err) < 0 ||
		instance_save(instance, err) < 0)
		return -1;
	int result = fds_open(instance, &fds, err);
	if (!result)
		result = spawn_qemu(instance, media, &fds, err);
	fds_close(&fds);
	if (result < 0)
		return -1;
	instance->record.pid = (uint64_t)instance->process.pid;
	instance->record.starttime = instance->process.starttime;
	instance_save(instance, NULL);
	instance_watch_death(instance);
	instance_connect(instance);
	instance_limit(instance, GREETING_LIMIT_MS, on_greeting_limit);
	return 0;
}

static void media_work(struct job *job)
{
	struct media_job *media_job = (struct media_job *)job;

	media_job->result = media_open(&media_job->def, media_job->standby, &media_job->media, &media_job->err);
}

static void media_done(struct job *job, const struct err *err)
{
	struct media_job *media_job = (struct media_job *)job;
	struct instance *instance = media_job->instance;
	struct err why;

	instance->job = NULL;
	if (err) {
		why = *err;
		err_prefix(&why, "opening the files of '%s'", instance->record.def.name);
	} else if (media_job->result < 0) {
		why = media_job->err;
	} else if (!begin(instance, &media_job->media, &why)) {
		return;
	}
	fail(instance, &why);
}

static void media_destroy(struct job *job)
{
	struct media_job *media_job = (struct media_job *)job;

	media_fini(&media_job->media);
	free(media_job);
}

static void open_media(struct instance *instance)
{
	struct media_job *job = calloc(1, sizeof(*job));
	struct err err;

	assert(job);
	if (check_host(&instance->record.def, &err) < 0) {
		free(job);
		fail(instance, &err);
		return;
	}
	job->job = (struct job){.work = media_work, .done = media_done, .destroy = media_destroy,
		.size = sizeof(*job), .fd_at = media_fds, .fd_count = ARRAY_SIZE(media_fds)};
	job->instance = instance;
	job->def = instance->record.def;
	job->standby = instance->state == HV_PREPARING;
	media_init(&job->media);
	instance->job = &job->job;
	job_start(instance->qemu->jobs, &job->job, STORE_LIMIT_MS);
}

void begin_start(struct qemu *qemu, const struct vm_def *def, uint64_t epoch)
{
	struct instance *instance = instance_new(qemu, def, HV_STARTING);

	instance->record.step = STEP_START;
	instance->record.epoch = epoch;
	open_media(instance);
}

void begin_standby(struct qemu *qemu, const struct vm_def *def, uint64_t task)
{
	struct instance *instance = instance_new(qemu, def, HV_PREPARING);

	instance->record.step = STEP_STANDBY;
	instance->record.task = task;
	open_media(instance);
}

static void started(struct instance *instance, const char *status)
{
	struct hv_event event;

	instance->record.step = STEP_RUN;
	instance_save(instance, NULL);
	instance_limit(instance, 0, NULL);
	instance_go(instance, HV_RUNNING);
	event = qemu_event(instance, HV_EVENT_STARTED);
	qemu_tell(instance->qemu, &event);
	/* Already at its end: STARTED was true before it. */
	if (!strcmp(status, "shutdown"))
		instance_end(instance, ENDING_SHUTDOWN, NULL);
}

static void on_incoming(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;

	if (instance->state != HV_PREPARING)
		return;
	if (result)
		load_prepare(instance);
	else
		fail(instance, err);
}

static void listen_for_state(struct instance *instance)
{
	char uri[PATH_BYTES + UUID_BYTES + 40];

	snprintf(uri, sizeof(uri), "unix:%s/vm/%s/guest/incoming.sock", instance->qemu->config.run_dir,
		instance->record.def.uuid);
	instance_qmp(instance, "migrate-incoming", json_pack("{s:s}", "uri", uri), on_incoming);
}

/* Refused: userfaultfd is not allowed, or a device forbids it. Then the whole memory is loaded before it runs. */
static void on_postcopy(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;

	if (instance->state != HV_PREPARING)
		return;
	instance->record.postcopy = result != NULL;
	if (!result)
		qemu_log(instance->qemu, "%s: no post-copy: %s", instance->record.def.name, err->text);
	listen_for_state(instance);
}

void begin_on_status(struct instance *instance, const char *status)
{
	if (instance->state == HV_STARTING) {
		started(instance, status);
		return;
	}
	instance_capability(instance, "events", true, NULL);
	if (qemu_postcopy_allowed(instance->qemu))
		instance_capability(instance, "postcopy-ram", true, on_postcopy);
	else
		listen_for_state(instance);
}
