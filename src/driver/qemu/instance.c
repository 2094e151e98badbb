/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/instance.h"
#include "base/weight.h"
#include "driver/qemu/hot_list.h"
#include "driver/qemu/sock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>

/* What may be in an instance's directory; guest/ and what QEMU makes in it come extra. */
static const char *const instance_files[] = {
	"instance.json", "instance.json.new", "qemu.lock", "qmp.sock", "serial.sock", "stream.sock",
	HOT_LIST_FILE, HEARTBEAT_SOCKET,
};
static const char *const guest_files[] = {"vnc.sock", "incoming.sock"};

struct instance *instance_new(struct qemu *qemu, const struct vm_def *def, enum hv_state state)
{
	struct instance *instance = calloc(1, sizeof(*instance));

	assert(instance && !qemu_instance(qemu, def->uuid));
	instance->qemu = qemu;
	instance->state = state;
	instance->dir_fd = -1;
	instance->process.pidfd = -1;
	instance->incoming_fd = -1;
	save_reset(instance);
	instance->record.def = *def;
	instance->record.kvm = qemu->kvm;
	instance->next = qemu->instances;
	qemu->instances = instance;
	return instance;
}

void instance_free(struct instance *instance)
{
	struct qemu *qemu = instance->qemu;
	struct instance **at = &qemu->instances;

	while (*at != instance)
		at = &(*at)->next;
	*at = instance->next;
	job_cancel(instance->job);
	loop_timer_cancel(qemu->loop, instance->timer);
	loop_timer_cancel(qemu->loop, instance->reconnect);
	loop_timer_cancel(qemu->loop, instance->pause_timer);
	loop_timer_cancel(qemu->loop, instance->silence_timer);
	loop_io_cancel(qemu->loop, instance->death);
	heartbeat_fini(instance);
	qmp_free(instance->qmp);
	stream_free(instance->stream);
	cleanup_fd_(&instance->process.pidfd);
	cleanup_fd_(&instance->dir_fd);
	cleanup_fd_(&instance->incoming_fd);
	cleanup_fd_(&instance->copy.state_fd);
	cleanup_fd_(&instance->copy.pipe_write);
	cleanup_fd_(&instance->copy.drain_fd);
	free(instance);
}

static uint32_t bit(enum hv_state state)
{
	return 1u << state;
}

void instance_go(struct instance *instance, enum hv_state state)
{
	static const uint32_t from[] = {
		[HV_RUNNING] = 1u << HV_STARTING | 1u << HV_COPYING | 1u << HV_SEALED | 1u << HV_LOADED,
		[HV_COPYING] = 1u << HV_RUNNING | 1u << HV_SEALED,
		[HV_SEALED] = 1u << HV_COPYING,
		[HV_STANDBY] = 1u << HV_PREPARING,
		[HV_LOADING] = 1u << HV_STANDBY,
		[HV_LOADED] = 1u << HV_LOADING | 1u << HV_RUNNING, /* found: it was to run and had not been let yet */
		[HV_STOPPING] = ~(1u << HV_ABSENT | 1u << HV_STOPPING),
	};

	assert(state != HV_ABSENT && state != HV_STARTING && state != HV_PREPARING);
	assert(from[state] & bit(instance->state));
	qemu_log(instance->qemu, "%s: %s -> %s (task %llu, epoch %llu)", instance->record.def.name,
		hv_state_name((int)instance->state), hv_state_name((int)state), (unsigned long long)instance->record.task,
		(unsigned long long)instance->record.epoch);
	instance->state = state;
}

int instance_save(struct instance *instance, struct err *err)
{
	struct err own;

	if (!err)
		err = &own;
	if (record_write(instance->dir_fd, &instance->record, err) < 0) {
		qemu_log(instance->qemu, "%s: its record cannot be written: %s", instance->record.def.name, err->text);
		return -1;
	}
	return 0;
}

uint64_t instance_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void instance_limit(struct instance *instance, uint64_t limit_ms, loop_timer_fn *fn)
{
	loop_timer_cancel(instance->qemu->loop, STEAL(instance->timer));
	if (limit_ms)
		instance->timer = loop_timer_set(instance->qemu->loop, limit_ms, fn, instance);
}

void instance_remove_files(int dir_fd)
{
	CLEANUP_FD int guest = openat(dir_fd, "guest", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	for (size_t i = 0; guest >= 0 && i < ARRAY_SIZE(guest_files); i++)
		unlinkat(guest, guest_files[i], 0);
	unlinkat(dir_fd, "guest", AT_REMOVEDIR);
	for (size_t i = 0; i < ARRAY_SIZE(instance_files); i++)
		unlinkat(dir_fd, instance_files[i], 0);
}

int instance_make_dir(struct instance *instance, struct err *err)
{
	const char *uuid = instance->record.def.uuid;
	int parent = instance->qemu->vm_dir_fd;
	uint32_t uid = instance->record.uid;

	if (mkdirat(parent, uuid, 0711) < 0 && errno != EEXIST)
		return err_errno(err, errno, "directory of the VM in the run directory");
	instance->dir_fd = openat(parent, uuid, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (instance->dir_fd < 0 || fchmod(instance->dir_fd, 0711) < 0)
		return err_errno(err, errno, "directory of the VM in the run directory");
	instance_remove_files(instance->dir_fd);
	if (mkdirat(instance->dir_fd, "guest", 0700) < 0)
		return err_errno(err, errno, "directory of the VM's user");
	if (uid && fchownat(instance->dir_fd, "guest", uid, uid, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(err, errno, "directory of the VM's user");
	return 0;
}

int instance_open_log(struct instance *instance, const char *suffix, struct err *err)
{
	char name[UUID_BYTES + 16];

	snprintf(name, sizeof(name), "%s%s", instance->record.def.uuid, suffix);
	int fd = openat(instance->qemu->log_dir_fd, name, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd >= 0 ? fd : err_errno(err, errno, "log '%s'", name);
}

/* The last thing that QEMU complained of in this run: mostly the reason why it ended. Made harmless: a guest that has
 * broken out writes here too. */
static void last_words(struct instance *instance, char *text, size_t size)
{
	char name[UUID_BYTES + 8];
	char *line, *rest = text, *last;

	text[0] = 0;
	snprintf(name, sizeof(name), "%s.log", instance->record.def.uuid);
	CLEANUP_FD int fd = openat(instance->qemu->log_dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	off_t from = instance->log_from < end ? instance->log_from : end;
	if (from < end - (off_t)size + 1)
		from = end - (off_t)size + 1;
	ssize_t n = end <= from ? -1 : pread(fd, text, size - 1, from);
	if (n <= 0)
		return;
	text[n] = 0;
	last = text;
	while ((line = strsep(&rest, "\n")))
		if (strstr(line, "qemu-system") || (*line && !*last))
			last = line;
	memmove(text, last, strlen(last) + 1);
	for (char *at = text; *at; at++)
		if (*at < ' ' || *at > '~')
			*at = '?';
}

static void died_why(struct instance *instance, const char *how, struct err *err)
{
	bool began = instance->state != HV_STARTING && instance->state != HV_PREPARING;
	const struct vm_def *def = &instance->record.def;
	char words[400];

	last_words(instance, words, sizeof(words));
	if (began)
		err_set(err, ERR_UNAVAILABLE, "QEMU ended%s%s%s%s", how[0] ? ": " : "", how,
			words[0] ? "; its last words: " : "", words);
	else
		err_set(err, ERR_UNFIT, "QEMU does not take this VM (machine %s, CPU %s)%s%s%s%s", def->machine, def->cpu,
			how[0] ? ": " : "", how, words[0] ? "; its last words: " : "", words);
}

/* Why QEMU closed its end of a load, for example, it says only there. Where we ended it for a fact of our own, its words
 * are about our hanging up. */
static void add_last_words(struct instance *instance, struct err *why)
{
	char words[240];
	size_t used = strlen(why->text);

	if (why->code != ERR_PROTOCOL && why->code != ERR_UNAVAILABLE && why->code != ERR_SYSTEM)
		return;
	last_words(instance, words, sizeof(words));
	if (words[0] && !strstr(why->text, words))
		snprintf(why->text + used, sizeof(why->text) - used, "; QEMU's last words: %s", words);
}

void instance_drop_stream(struct instance *instance)
{
	stream_end(STEAL(instance->stream));
}

static enum gone_cause ending_cause(enum ending ending)
{
	static const enum gone_cause causes[] = {
		[ENDING_STOPPED] = GONE_STOPPED,
		[ENDING_SHUTDOWN] = GONE_GUEST_SHUTDOWN,
		[ENDING_PANICKED] = GONE_PANICKED,
		[ENDING_FAILED] = GONE_DIED,
		[ENDING_DIED] = GONE_DIED,
	};

	assert(ending != ENDING_NONE);
	return causes[ending];
}

/* What the death of this instance means to the engine. */
static uint32_t last_events(struct instance *instance, const char *how, struct hv_event events[static 2])
{
	enum hv_state state = instance->state;
	bool standby = state == HV_PREPARING || state == HV_STANDBY || state == HV_LOADING || state == HV_LOADED;
	enum ending ending = instance->ending;
	struct err why = instance->why;
	uint32_t count = 0;

	if (state != HV_STOPPING) {
		ending = standby || state == HV_STARTING ? ENDING_FAILED : ENDING_DIED;
		died_why(instance, how, &why);
	}
	if (ending == ENDING_FAILED) {
		add_last_words(instance, &why);
		events[count] = qemu_event(instance, HV_EVENT_FAILED);
		events[count++].err = why;
	}
	/* A standby has no epoch: with its failure all is said. */
	if (ending == ENDING_FAILED && !instance->record.epoch)
		return count;
	events[count] = qemu_event(instance, HV_EVENT_GONE);
	events[count].err = why;
	events[count++].cause = ending_cause(ending);
	return count;
}

/* The process is dead, or never came to be: takes everything away and says so. */
static void ended(struct instance *instance, const char *how)
{
	struct qemu *qemu = instance->qemu;
	char uuid[UUID_BYTES];
	struct hv_event events[2];

	memcpy(uuid, instance->record.def.uuid, sizeof(uuid));
	uint32_t count = last_events(instance, how, events);
	instance_drop_stream(instance);
	if (instance->dir_fd >= 0) {
		stream_end_found(qemu->loop, instance->dir_fd);
		instance_remove_files(instance->dir_fd);
		unlinkat(qemu->vm_dir_fd, uuid, AT_REMOVEDIR);
	}
	qemu_log(qemu, "%s: ended: %s", instance->record.def.name, events[count - 1].err.text);
	instance_free(instance);
	for (uint32_t i = 0; i < count; i++) {
		events[i].vm = uuid;
		qemu_tell(qemu, &events[i]);
	}
}

static void on_death(void *ctx, uint32_t events)
{
	struct instance *instance = ctx;
	char how[80];

	(void)events;
	if (process_dead(&instance->process, how))
		ended(instance, how);
}

void instance_watch_death(struct instance *instance)
{
	instance->death =
		loop_io_watch(instance->qemu->loop, instance->process.pidfd, EPOLLIN, on_death, instance);
	silence_watch(instance);
}

static void on_no_process(void *ctx)
{
	struct instance *instance = ctx;

	instance->timer = NULL;
	ended(instance, "");
}

static void on_quit_limit(void *ctx)
{
	struct instance *instance = ctx;

	instance->timer = NULL;
	if (instance->faded)
		weight_restore(instance->process.pid);
	process_kill(&instance->process);
}

void instance_end(struct instance *instance, enum ending ending, const struct err *why)
{
	if (instance->state == HV_STOPPING)
		return;
	if (ending == ENDING_STOPPED && instance->panicked)
		ending = ENDING_PANICKED;
	/* A save's helper reads what QEMU writes; without it QEMU does not wait in a write. A load's helper stays: the last
	 * requests of the guest may need its pages. */
	if (instance->state == HV_COPYING || instance->state == HV_SEALED)
		instance_drop_stream(instance);
	/* Its guest runs elsewhere, perhaps on this very machine: taking its memory apart must not hold that up. */
	instance->faded = instance->state == HV_SEALED && instance->process.pidfd >= 0;
	if (instance->faded)
		weight_fade(instance->process.pid);
	instance_go(instance, HV_STOPPING);
	instance->ending = ending;
	if (why)
		instance->why = *why;
	job_cancel(STEAL(instance->job));
	if (instance->process.pidfd < 0) {
		instance_limit(instance, 1, on_no_process);
		return;
	}
	instance->record.step = STEP_STOP;
	instance->record.cause = ending_cause(ending);
	instance_save(instance, NULL);
	/* A guest that ran is ended by QEMU itself, which brings what it holds of the disks' images to rest first. */
	if (ending == ENDING_FAILED || !instance->qmp || instance->silent) {
		process_kill(&instance->process);
		instance_limit(instance, instance->faded ? QUIT_LIMIT_MS : 0, on_quit_limit);
	} else {
		instance_qmp(instance, "quit", NULL, NULL);
		instance_limit(instance, QUIT_LIMIT_MS, on_quit_limit);
	}
}

/* Connection to the monitor. */

static void on_qmp_ready(void *ctx);
static void on_qmp_event(void *ctx, const char *name, const json_t *data, uint64_t at_us);
static void on_qmp_closed(void *ctx, const struct err *err);

static void on_reconnect(void *ctx)
{
	struct instance *instance = ctx;

	instance->reconnect = NULL;
	instance_connect(instance);
}

void instance_connect(struct instance *instance)
{
	struct err err;
	int fd = sock_connect(instance->dir_fd, "qmp.sock", &err);

	assert(!instance->qmp);
	if (fd < 0) {
		instance->reconnect =
			loop_timer_set(instance->qemu->loop, RECONNECT_MS, on_reconnect, instance);
		return;
	}
	instance->qmp = qmp_new(instance->qemu->loop, fd,
		&(struct qmp_callbacks){
			.ctx = instance, .ready = on_qmp_ready, .event = on_qmp_event, .closed = on_qmp_closed});
}

void instance_qmp(struct instance *instance, const char *command, json_t *arguments, qmp_reply_fn *reply)
{
	qmp_send(instance->qmp, command, arguments, -1, QMP_LIMIT_MS, reply, instance);
}

void instance_capability(struct instance *instance, const char *name, bool on, qmp_reply_fn *reply)
{
	instance_qmp(instance, "migrate-set-capabilities",
		json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", name, "state", (int)on), reply);
}

/* The numbers are QEMU's defaults. */
void instance_announce(struct instance *instance)
{
	instance_qmp(instance, "announce-self",
		json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds", 5, "step", 100), NULL);
}

/* Whether QEMU is dying is told by its death; until then it is tried again. */
static void on_qmp_closed(void *ctx, const struct err *err)
{
	struct instance *instance = ctx;

	qemu_log(instance->qemu, "%s: %s", instance->record.def.name, err->text);
	qmp_free(STEAL(instance->qmp));
	instance->reconnect = loop_timer_set(instance->qemu->loop, RECONNECT_MS, on_reconnect, instance);
}

static void on_status(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;
	const char *status = json_string_value(json_object_get(result, "status"));

	if (instance->state == HV_STOPPING)
		return;
	if (!result || !status) {
		/* A closed connection is made anew; a monitor that hangs is asked again by what waits for it. */
		qemu_log(instance->qemu, "%s: %s", instance->record.def.name, err ? err->text : "no status");
		return;
	}
	if (instance->state == HV_STARTING || instance->state == HV_PREPARING)
		begin_on_status(instance, status);
	else
		adopt_on_status(instance, status);
}

static void on_qmp_ready(void *ctx)
{
	struct instance *instance = ctx;

	if (instance->state == HV_STOPPING)
		instance_qmp(instance, "quit", NULL, NULL);
	else
		instance_qmp(instance, "query-status", NULL, on_status);
}

static const char *text_of(const json_t *data, const char *key)
{
	const char *text = json_string_value(json_object_get(data, key));

	return text && schema_text_ok(text, strlen(text)) ? text : "";
}

static void on_self_stopped(struct instance *instance, const char *status)
{
	struct err err;

	pause_begin(instance, status);
	if (instance->state != HV_COPYING)
		return;
	/* Its state is kept as it is: here, stopped, and never let run by an abort (A16). */
	instance->record.stopped_by_copy = false;
	instance_save(instance, NULL);
	err_set(&err, ERR_UNFIT, "%s; it is not moved or saved like this", instance->paused);
	call_off(instance, &err);
}

static void on_io_error(struct instance *instance, const json_t *data)
{
	char text[REASON_BYTES];

	/* Full storage is full on every node. */
	if (!json_is_true(json_object_get(data, "nospace"))) {
		snprintf(text, sizeof(text), "a %.10s failed: %.100s", text_of(data, "operation"), text_of(data, "reason"));
		storage_set(instance, true, text);
	}
	on_self_stopped(instance, "io-error");
}

/* A guest that reboots in a loop fills no log: at once, then at most once a minute, and how often. */
static void on_guest_reset(struct instance *instance)
{
	uint64_t now = loop_now_ms(instance->qemu->loop);
	char note[80] = "the guest has rebooted by itself";

	instance->resets++;
	if (instance->resets_told_ms && now < instance->resets_told_ms + RESET_NOTE_MS)
		return;
	if (instance->resets > 1)
		snprintf(note, sizeof(note), "the guest has rebooted by itself %u times since it was last said",
			instance->resets);
	instance->resets = 0;
	instance->resets_told_ms = now;
	qemu_note(instance, note);
}

static void on_qmp_event(void *ctx, const char *name, const json_t *data, uint64_t at_us)
{
	struct instance *instance = ctx;

	if (instance->state == HV_STOPPING)
		return;
	if (!strcmp(name, "SHUTDOWN") && json_is_true(json_object_get(data, "guest")))
		instance_end(instance, ENDING_SHUTDOWN, NULL);
	else if (!strcmp(name, "STOP"))
		save_on_stop(instance, at_us);
	else if (!strcmp(name, "RESUME"))
		run_on_resume(instance, at_us);
	else if (!strcmp(name, "MIGRATION") && instance->state == HV_COPYING)
		save_on_migration(instance, text_of(data, "status"));
	else if (!strcmp(name, "MIGRATION_PASS") && instance->state == HV_COPYING)
		save_on_pass(instance);
	else if (!strcmp(name, "GUEST_PANICKED"))
		on_self_stopped(instance, "guest-panicked");
	else if (!strcmp(name, "RESET") && json_is_true(json_object_get(data, "guest")))
		on_guest_reset(instance);
	else if (!strcmp(name, "BLOCK_IO_ERROR") && !strcmp(text_of(data, "action"), "stop"))
		on_io_error(instance, data);
}
