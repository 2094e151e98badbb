/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/qemu.h"
#include "driver/qemu/instance.h"
#include "driver/qemu/state_store.h"
#include "driver/qemu/tap.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

enum {
	PROBE_LIMIT_MS = 10 * 1000,
	LOG_LOOK_MS = 30 * 1000,
	PURGE_LIMIT_MS = 60 * 1000,
	/* <run>/vm/<uuid>/guest/incoming.sock has to fit into a socket's address (108 bytes). */
	RUN_DIR_MAX = 40,
};

static struct qemu *of(struct hypervisor *hypervisor)
{
	return (struct qemu *)hypervisor;
}

void qemu_log(struct qemu *qemu, const char *format, ...)
{
	char line[1024];
	va_list args;

	if (!qemu->config.log)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	qemu->config.log(qemu->config.log_ctx, line);
}

struct instance *qemu_instance(struct qemu *qemu, const char *vm)
{
	for (struct instance *at = qemu->instances; at; at = at->next)
		if (!strcmp(at->record.def.uuid, vm))
			return at;
	return NULL;
}

/* Events. */

struct hv_event qemu_event(const struct instance *instance, enum hv_event_kind kind)
{
	return (struct hv_event){
		.kind = kind,
		.vm = instance->record.def.uuid,
		.epoch = instance->record.epoch,
		.task = instance->record.task,
		.filling = instance->record.filling,
		.figures = instance->record.figures,
	};
}

void qemu_tell(struct qemu *qemu, const struct hv_event *event)
{
	qemu->callbacks.event(qemu->callbacks.ctx, event);
}

static void tell_queued(void *ctx)
{
	struct qemu *qemu = ctx;
	struct queued_event *queued = qemu->events;

	qemu->events_timer = NULL;
	qemu->events = NULL;
	qemu->events_last = &qemu->events;
	while (queued) {
		struct queued_event *next = queued->next;
		qemu_tell(qemu, &queued->event);
		free(queued);
		queued = next;
	}
}

void qemu_tell_later(struct qemu *qemu, const struct hv_event *event)
{
	struct queued_event *queued = calloc(1, sizeof(*queued));

	assert(queued);
	queued->event = *event;
	snprintf(queued->vm, sizeof(queued->vm), "%s", event->vm);
	queued->event.vm = queued->vm;
	*qemu->events_last = queued;
	qemu->events_last = &queued->next;
	if (!qemu->events_timer)
		qemu->events_timer = loop_timer_set(qemu->loop, 0, tell_queued, qemu);
}

void qemu_note(struct instance *instance, const char *note)
{
	struct hv_event event = qemu_event(instance, HV_EVENT_PROGRESS);

	event.note = note;
	qemu_log(instance->qemu, "%s: %s", instance->record.def.name, note);
	qemu_tell(instance->qemu, &event);
}

/* The port's calls. */

static void info_of(const struct instance *instance, struct hv_info *info)
{
	*info = (struct hv_info){
		.state = instance->state,
		.epoch = instance->record.epoch,
		.task = instance->record.task,
		.filling = instance->record.filling,
		.shutdown_asked = instance->record.shutdown_asked,
		.panicked = instance->panicked,
		.heartbeat_s = instance->heartbeat.seconds,
	};
	info->storage_lost = instance->state == HV_RUNNING && instance->storage_lost;
	if (info->storage_lost)
		memcpy(info->storage_text, instance->storage_text, sizeof(info->storage_text));
	if (instance->state != HV_COPYING || instance->copy.phase != COPY_FAILED)
		return;
	info->failed_code = instance->copy.why.code ? instance->copy.why.code : ERR_IO;
	snprintf(info->failed_text, sizeof(info->failed_text), "%.200s", instance->copy.why.text);
}

static void op_inspect(struct hypervisor *hypervisor, const char *vm, struct hv_info *info)
{
	const struct instance *instance = qemu_instance(of(hypervisor), vm);

	*info = (struct hv_info){.state = HV_ABSENT};
	if (instance)
		info_of(instance, info);
}

static void op_each(struct hypervisor *hypervisor, void (*fn)(void *ctx, const char *vm, const struct hv_info *info),
	void *ctx)
{
	struct hv_info info;

	for (const struct instance *at = of(hypervisor)->instances; at; at = at->next) {
		info_of(at, &info);
		fn(ctx, at->record.def.uuid, &info);
	}
}

static void fail_later(struct qemu *qemu, const char *vm, uint64_t task, uint64_t epoch, enum err_code code,
	const char *text)
{
	struct hv_event event = {.kind = HV_EVENT_FAILED, .vm = vm, .task = task, .epoch = epoch};

	err_set(&event.err, code, "%s", text);
	qemu_tell_later(qemu, &event);
}

static void op_start(struct hypervisor *hypervisor, const struct vm_def *def, uint64_t epoch)
{
	struct qemu *qemu = of(hypervisor);
	const struct instance *instance = qemu_instance(qemu, def->uuid);

	if (!instance)
		begin_start(qemu, def, epoch);
	else if (instance->record.epoch != epoch)
		fail_later(qemu, def->uuid, 0, epoch, ERR_BUSY, "another copy of this VM is here still");
}

static void op_standby(struct hypervisor *hypervisor, const struct vm_def *def, uint64_t task)
{
	struct qemu *qemu = of(hypervisor);
	const struct instance *instance = qemu_instance(qemu, def->uuid);

	if (!instance)
		begin_standby(qemu, def, task);
	else if (instance->record.task != task)
		fail_later(qemu, def->uuid, task, 0, ERR_BUSY, "another copy of this VM is here still");
}

static void op_copy(struct hypervisor *hypervisor, const struct vm_def *def, uint64_t task, uint64_t epoch)
{
	struct qemu *qemu = of(hypervisor);
	struct instance *instance = qemu_instance(qemu, def->uuid);

	if (!instance) {
		struct hv_event event = {.kind = HV_EVENT_GONE, .vm = def->uuid, .epoch = epoch, .cause = GONE_DIED};
		fail_later(qemu, def->uuid, task, epoch, ERR_NOT_FOUND, "there is no such guest on this node");
		err_set(&event.err, ERR_NOT_FOUND, "no such process was found");
		qemu_tell_later(qemu, &event);
	} else if (instance->state == HV_RUNNING && instance->record.epoch == epoch) {
		save_begin(instance, task);
	} else if (instance->record.task != task || instance->record.epoch != epoch) {
		fail_later(qemu, def->uuid, task, epoch, ERR_BUSY, "the guest is not in a state that can be saved");
	}
}

static void op_load(struct hypervisor *hypervisor, const struct vm_def *def, uint64_t task, const struct hv_saved *saved)
{
	struct qemu *qemu = of(hypervisor);
	struct instance *instance = qemu_instance(qemu, def->uuid);

	if (!instance)
		fail_later(qemu, def->uuid, task, 0, ERR_NOT_FOUND, "no QEMU stands by for this");
	else if (instance->state == HV_STANDBY && instance->record.task == task)
		load_begin(instance, saved);
	else if (instance->record.task != task)
		fail_later(qemu, def->uuid, task, 0, ERR_BUSY, "another copy of this VM is here still");
}

static void op_run(struct hypervisor *hypervisor, const char *vm, uint64_t task, uint64_t epoch)
{
	struct instance *instance = qemu_instance(of(hypervisor), vm);

	if (instance)
		run_begin(instance, task, epoch);
}

static void op_shutdown(struct hypervisor *hypervisor, const char *vm)
{
	struct instance *instance = qemu_instance(of(hypervisor), vm);

	if (!instance || instance->state != HV_RUNNING || !instance->qmp)
		return;
	instance->record.shutdown_asked = true;
	instance_save(instance, NULL);
	instance_qmp(instance, "system_powerdown", NULL, NULL);
}

static void op_heartbeat(struct hypervisor *hypervisor, const char *vm, uint32_t seconds)
{
	struct instance *instance = qemu_instance(of(hypervisor), vm);

	if (instance && instance->state == HV_RUNNING)
		heartbeat_set(instance, seconds);
}

static void op_kill(struct hypervisor *hypervisor, const char *vm)
{
	struct qemu *qemu = of(hypervisor);
	struct instance *instance = qemu_instance(qemu, vm);

	if (instance) {
		instance_end(instance, ENDING_STOPPED, NULL);
		return;
	}
	struct hv_event event = {.kind = HV_EVENT_GONE, .vm = vm, .cause = GONE_STOPPED};
	qemu_tell_later(qemu, &event);
}

static void op_destroy(struct hypervisor *hypervisor, const char *vm)
{
	struct instance *instance = qemu_instance(of(hypervisor), vm);
	struct err why;

	if (!instance)
		return;
	err_set(&why, ERR_UNAVAILABLE, "killed at once by this node, so that it can be started elsewhere");
	if (instance->state != HV_STOPPING)
		instance_end(instance, ENDING_FAILED, &why);
	else if (instance->process.pidfd >= 0)
		process_kill(&instance->process);
}

static void op_probe(struct hypervisor *hypervisor, const struct vm_def *def)
{
	storage_probe(of(hypervisor), def);
}

struct purge_job {
	struct job job;
	struct qemu *qemu; /* for done alone */
	char state_dir[PATH_BYTES];
	char vm[UUID_BYTES];
	uint64_t keep, below;
	int result;
	struct err err;
};

static void purge_work(struct job *job)
{
	struct purge_job *purge = (struct purge_job *)job;

	purge->result = state_store_purge(purge->state_dir, purge->vm, purge->keep, purge->below, &purge->err);
}

static void purge_done(struct job *job, const struct err *err)
{
	struct purge_job *purge = (struct purge_job *)job;

	if (err || purge->result < 0)
		qemu_log(purge->qemu, "saved states of %s: %s", purge->vm, err ? err->text : purge->err.text);
}

static void purge_destroy(struct job *job)
{
	free(job);
}

static bool is_uuid(const char *text)
{
	return strlen(text) == UUID_BYTES - 1 && strspn(text, "0123456789abcdef-") == UUID_BYTES - 1;
}

static void op_purge(struct hypervisor *hypervisor, const char *vm, uint64_t keep, uint64_t below)
{
	struct qemu *qemu = of(hypervisor);
	struct purge_job *purge = calloc(1, sizeof(*purge));

	assert(purge && is_uuid(vm));
	*purge = (struct purge_job){.job = {.work = purge_work, .done = purge_done, .destroy = purge_destroy, .size = sizeof(*purge)},
		.qemu = qemu, .keep = keep, .below = below};
	snprintf(purge->state_dir, sizeof(purge->state_dir), "%s", qemu->config.state_dir);
	snprintf(purge->vm, sizeof(purge->vm), "%s", vm);
	job_start(qemu->jobs, &purge->job, PURGE_LIMIT_MS);
}

/* Facts. */

uint64_t qemu_memory_mib(const char *what)
{
	char line[128];
	uint64_t kib = 0;
	size_t size = strlen(what);

	CLEANUP_FILE FILE *file = fopen("/proc/meminfo", "re");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, what, size) && sscanf(line + size, ": %" SCNu64, &kib) == 1)
			break;
	return kib >> 10;
}

/* QEMU runs as another user than root, so the kernel must allow it to everyone. */
bool qemu_postcopy_allowed(const struct qemu *qemu)
{
	char value = 0;

	if (!qemu->config.uid_base && !geteuid())
		return true;
	CLEANUP_FD int fd = open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, &value, 1) == 1 && value == '1';
}

static int op_facts(struct hypervisor *hypervisor, struct node_facts *facts, struct err *err)
{
	const struct qemu *qemu = of(hypervisor);
	uint64_t total = qemu_memory_mib("MemTotal");
	uint64_t reserve = qemu->config.memory_reserve_mib;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (!total || cpus < 1)
		return err_set(err, ERR_SYSTEM, "this host's memory and CPUs cannot be read from /proc");
	if (!reserve)
		reserve = total / 10 > 1024 ? total / 10 : 1024;
	uint64_t mib = qemu->config.memory_mib ? qemu->config.memory_mib : total > reserve ? total - reserve : 0;
	facts->memory_mib = mib > UINT32_MAX ? UINT32_MAX : (uint32_t)mib;
	facts->vcpus = qemu->config.vcpus ? qemu->config.vcpus : (uint32_t)cpus;
	snprintf(facts->accel, sizeof(facts->accel), "%s", qemu->kvm ? "kvm" : "tcg");
	snprintf(facts->qemu_version, sizeof(facts->qemu_version), "%s", qemu->qemu_version);
	facts->postcopy = qemu_postcopy_allowed(qemu);
	tap_bridges(facts);
	return 0;
}

/* /dev/kvm opens on some hosts on which no ordinary guest boots (design §5): the vendor's module must be there. */
static bool kvm_works(void)
{
	if (access("/sys/module/kvm_intel", F_OK) < 0 && access("/sys/module/kvm_amd", F_OK) < 0)
		return false;
	CLEANUP_FD int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	return fd >= 0;
}

/* "QEMU emulator version 7.2.22 (Debian …)" */
static int read_version(struct qemu *qemu, int fd, struct err *err)
{
	char text[256];
	size_t size = 0;
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	while (size < sizeof(text) - 1 && poll(&poll_fd, 1, PROBE_LIMIT_MS) == 1) {
		ssize_t n = read(fd, text + size, sizeof(text) - 1 - size);
		if (n <= 0)
			break;
		size += (size_t)n;
	}
	text[size] = 0;
	char *at = strstr(text, "version ");
	if (!at || sscanf(at, "version %31[0-9.]", qemu->qemu_version) != 1)
		return err_set(err, ERR_UNAVAILABLE, "'%s --version' does not answer: is QEMU installed (qemu-system-x86)?",
			qemu->config.qemu_binary);
	return 0;
}

static int probe_version(struct qemu *qemu, struct err *err)
{
	const char *argv[] = {qemu->config.qemu_binary, "--version", NULL};
	struct process process;
	char how[80];
	int pipe_fds[2];

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return err_errno(err, errno, "pipe");
	CLEANUP_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	CLEANUP_FD int from = pipe_fds[0];
	int to = pipe_fds[1];
	struct spawn spawn = {.binary = argv[0], .argv = argv, .lock_fd = -1, .fd_count = 3,
		.uid = qemu->config.uid_base, .fds = {{null, 0}, {to, 1}, {null, 2}}};
	int result = process_spawn(&spawn, &process, err);
	close(to);
	if (result < 0)
		return -1;
	result = read_version(qemu, from, err);
	process_kill(&process);
	struct pollfd poll_fd = {.fd = process.pidfd, .events = POLLIN};
	poll(&poll_fd, 1, PROBE_LIMIT_MS);
	process_dead(&process, how);
	close(process.pidfd);
	return result;
}

/* Bounded logs: QEMU's own output and the serial console are the guest's to fill. */
static void trim_log(struct qemu *qemu, const char *uuid, const char *suffix)
{
	char name[UUID_BYTES + 16], old[UUID_BYTES + 24];
	struct stat stat;

	snprintf(name, sizeof(name), "%s%s", uuid, suffix);
	snprintf(old, sizeof(old), "%s.1", name);
	CLEANUP_FD int fd = openat(qemu->log_dir_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &stat) < 0 || stat.st_size <= QEMU_LOG_MAX)
		return;
	CLEANUP_FD int to =
		openat(qemu->log_dir_fd, old, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	loff_t from = stat.st_size - QEMU_LOG_MAX;
	if (to >= 0 && copy_file_range(fd, &from, to, NULL, QEMU_LOG_MAX, 0) < 0)
		qemu_log(qemu, "log '%s': its older part is lost: %s", name, strerror(errno));
	/* QEMU appends (O_APPEND), so it goes on at the new end. */
	if (ftruncate(fd, 0) < 0)
		qemu_log(qemu, "log '%s': %s", name, strerror(errno));
}

static void on_log_look(void *ctx)
{
	struct qemu *qemu = ctx;

	for (const struct instance *at = qemu->instances; at; at = at->next) {
		trim_log(qemu, at->record.def.uuid, ".log");
		trim_log(qemu, at->record.def.uuid, ".serial.log");
	}
	qemu->log_timer = loop_timer_set(qemu->loop, LOG_LOOK_MS, on_log_look, qemu);
}

/* Birth and end. */

static int make_dir(const char *path, const char *sub, mode_t mode, struct err *err)
{
	char full[PATH_BYTES + 16];

	snprintf(full, sizeof(full), "%s%s%s", path, sub ? "/" : "", sub ? sub : "");
	if (mkdir(full, mode) < 0 && errno != EEXIST)
		return err_errno(err, errno, "directory '%s'", full);
	int fd = open(full, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || (sub && fchmod(fd, mode) < 0)) {
		err_errno(err, errno, "directory '%s'", full);
		cleanup_fd_(&fd);
		return -1;
	}
	return fd;
}

static int open_dirs(struct qemu *qemu, struct err *err)
{
	const struct qemu_config *config = &qemu->config;

	if (strlen(config->run_dir) > RUN_DIR_MAX || strchr(config->run_dir, ',') || config->run_dir[0] != '/')
		return err_set(err, ERR_INVALID, "run directory '%s': an absolute path of at most %d bytes without comma",
			config->run_dir, RUN_DIR_MAX);
	CLEANUP_FD int run = make_dir(config->run_dir, NULL, 0755, err);
	CLEANUP_FD int log = run < 0 ? -1 : make_dir(config->log_dir, NULL, 0750, err);
	if (log < 0 || (qemu->vm_dir_fd = make_dir(config->run_dir, "vm", 0711, err)) < 0 ||
		(qemu->log_dir_fd = make_dir(config->log_dir, "vm", 0700, err)) < 0)
		return -1;
	qemu->lock_fd = openat(qemu->vm_dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	/* A lock of the process, not of the descriptor: children between fork and exec do not hold it beyond us. */
	struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	if (qemu->lock_fd < 0 || fcntl(qemu->lock_fd, F_SETLK, &whole) < 0)
		return err_errno(err, errno, "run directory '%s': another daemon uses it", config->run_dir);
	return 0;
}

static char *copy(const char *text)
{
	char *own = strdup(text);

	assert(own);
	return own;
}

static void take_config(struct qemu *qemu, const struct qemu_config *config)
{
	qemu->config = *config;
	qemu->config.cluster_uuid = copy(config->cluster_uuid);
	qemu->config.node_name = copy(config->node_name);
	qemu->config.qemu_binary = copy(config->qemu_binary ? config->qemu_binary : "/usr/bin/qemu-system-x86_64");
	qemu->config.stream_binary = copy(config->stream_binary);
	qemu->config.run_dir = copy(config->run_dir);
	qemu->config.state_dir = copy(config->state_dir);
	qemu->config.log_dir = copy(config->log_dir);
	if (!config->uid_count)
		qemu->config.uid_count = QEMU_UID_COUNT;
}

static const struct hypervisor_ops ops = {
	.inspect = op_inspect,
	.each = op_each,
	.facts = op_facts,
	.start = op_start,
	.standby = op_standby,
	.copy = op_copy,
	.load = op_load,
	.run = op_run,
	.shutdown = op_shutdown,
	.kill = op_kill,
	.destroy = op_destroy,
	.purge = op_purge,
	.probe = op_probe,
	.heartbeat = op_heartbeat,
};

struct hypervisor *qemu_new(const struct qemu_config *config, struct loop *loop, const struct hv_callbacks *callbacks,
	struct err *err)
{
	struct qemu *qemu = calloc(1, sizeof(*qemu));

	assert(qemu);
	qemu->hypervisor.ops = &ops;
	qemu->loop = loop;
	qemu->callbacks = *callbacks;
	qemu->vm_dir_fd = qemu->log_dir_fd = qemu->lock_fd = -1;
	qemu->events_last = &qemu->events;
	take_config(qemu, config);
	qemu->kvm = !config->no_kvm && kvm_works();
	if (!config->worker)
		qemu->own_worker = worker_new(err);
	struct worker *worker = config->worker ? config->worker : qemu->own_worker;
	if (worker) {
		qemu->jobs = job_pool_new(loop, worker);
		qemu->looks = job_pool_new(loop, worker);
	}
	if (!qemu->jobs || open_dirs(qemu, err) < 0 || probe_version(qemu, err) < 0 || adopt_all(qemu, err) < 0) {
		qemu_free(&qemu->hypervisor);
		return NULL;
	}
	qemu->log_timer = loop_timer_set(loop, LOG_LOOK_MS, on_log_look, qemu);
	storage_begin(qemu);
	return &qemu->hypervisor;
}

void qemu_free(struct hypervisor *hypervisor)
{
	struct qemu *qemu = hypervisor ? of(hypervisor) : NULL;

	if (!qemu)
		return;
	while (qemu->instances)
		instance_free(qemu->instances);
	storage_fini(qemu);
	job_pool_free(qemu->jobs);
	worker_free(qemu->own_worker);
	loop_timer_cancel(qemu->loop, qemu->events_timer);
	loop_timer_cancel(qemu->loop, qemu->log_timer);
	for (struct queued_event *at = qemu->events, *next; at; at = next) {
		next = at->next;
		free(at);
	}
	cleanup_fd_(&qemu->vm_dir_fd);
	cleanup_fd_(&qemu->log_dir_fd);
	cleanup_fd_(&qemu->lock_fd);
	const char *texts[] = {qemu->config.cluster_uuid, qemu->config.node_name, qemu->config.qemu_binary,
		qemu->config.stream_binary, qemu->config.run_dir, qemu->config.state_dir, qemu->config.log_dir};
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		free((char *)(uintptr_t)texts[i]);
	free(qemu);
}
