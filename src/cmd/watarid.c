/* SPDX-License-Identifier: Apache-2.0
 * The daemon of a node: reads its configuration, joins its drivers to the engine, serves the API, and runs until told
 * to end. Guests run on when it ends. */
#include "api/api.h"
#include "base/weight.h"
#include "cmd/daemon_config.h"
#include "driver/corosync/corosync.h"
#include "driver/corosync/identity.h"
#include "driver/fence/fencer_agents.h"
#include "driver/linux/loop_sd.h"
#include "driver/linux/watchdog.h"
#include "driver/qemu/qemu.h"
#include "driver/sqlite/store_sqlite.h"
#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

struct daemon {
	struct daemon_config config;
	struct loop *loop;
	struct engine *engine;
	struct group *group;
	struct store *store;
	struct hypervisor *hypervisor;
	struct fencer *fencer;
	struct api *api;
	struct engine_watcher watcher;
	char stream_helper[PATH_BYTES];
	bool was_synced;
	char why_not[REASON_BYTES]; /* told last; empty: in sync, or nothing told yet */
	const char *config_path;
	struct worker *worker;
	struct watchdog *watchdog; /* configured last; NULL: none */
	struct watchdog *retired;  /* the one before, until the engine has let go of it */
	bool leaving;
};

static void on_line(void *ctx, const char *line)
{
	(void)ctx;
	/* Who loses guests, or a machine, to this must find it in any log. */
	if (!strncmp(line, "watchdog: ", 10))
		log_notice("%s", line);
	else
		log_debug("%s", line);
}

static void on_driver_line(void *ctx, const char *line)
{
	(void)ctx;
	log_info("%s", line);
}

static void on_history(void *ctx, const struct engine_history *line)
{
	(void)ctx;
	log_info("%llu %s", (unsigned long long)line->index, line->text);
}

static void on_status(void *ctx)
{
	struct daemon *daemon = ctx;
	struct engine_status status;

	engine_get_status(daemon->engine, &status);
	if (status.synced && !daemon->was_synced)
		log_notice("synced: term %llu, index %llu, members %llx", (unsigned long long)status.term,
			(unsigned long long)status.index, (unsigned long long)status.members);
	/* Each reason once, also where this node never was in sync. */
	if (!status.synced && strcmp(status.reason, daemon->why_not) != 0)
		log_warning("this node does not act now: %s", status.reason);
	daemon->was_synced = status.synced;
	snprintf(daemon->why_not, sizeof(daemon->why_not), "%s", status.synced ? "" : status.reason);
	loop_sd_status("%s", status.synced ? "synced" : status.reason);
}

/* The store is not to be trusted any more: the others go on without this node. Guests run on. */
static void on_fatal(void *ctx, const struct err *err)
{
	struct daemon *daemon = ctx;

	log_error("the store failed: %s", err->text);
	loop_sd_exit(daemon->loop, err_info(err->code)->exit_status);
}

/* ---- reload ---- */

static int take_watchdog(struct daemon *daemon, const struct daemon_config *config, struct err *err)
{
	bool same = !strcmp(config->watchdog_device, daemon->config.watchdog_device) &&
		    config->watchdog_ms == daemon->config.watchdog_ms;

	if (same)
		return 0;
	if (daemon->retired && engine_watchdog(daemon->engine) == daemon->retired)
		return err_set(err, ERR_BUSY, "the watchdog of the last reload is still being exchanged");
	watchdog_linux_free(daemon->retired);
	daemon->retired = daemon->watchdog;
	daemon->watchdog = config->watchdog_device[0] ? watchdog_linux_new(config->watchdog_device) : NULL;
	engine_set_watchdog(daemon->engine, daemon->watchdog, config->watchdog_ms);
	return 0;
}

/* The new configuration as a whole, or the old one stays in force. */
static int reload(struct daemon *daemon, struct err *err)
{
	struct daemon_config config;
	char text[96];

	if (daemon_config_read(daemon->config_path, &config, err) < 0 ||
		daemon_config_check_token(daemon->config_path, &config, group_token_ms(daemon->group), err) < 0 ||
		take_watchdog(daemon, &config, err) < 0)
		return -1;
	if (daemon_config_needs_restart(&daemon->config, &config, text))
		log_warning("%s: %s was changed: that takes effect when watarid is started again", daemon->config_path,
			text);
	log_set_level(config.log_level);
	daemon->config.log_level = config.log_level;
	daemon->config.watchdog_ms = config.watchdog_ms;
	memcpy(daemon->config.watchdog_device, config.watchdog_device, sizeof(config.watchdog_device));
	return 0;
}

static void on_reload(struct daemon *daemon)
{
	struct err err;

	loop_sd_reloading();
	if (reload(daemon, &err) < 0)
		log_error("not reloaded, the old configuration stays in force: %s", err.text);
	else
		log_notice("%s was read again", daemon->config_path);
	loop_sd_ready(daemon->loop);
}

/* ---- the end ---- */

static void on_left(void *ctx)
{
	struct daemon *daemon = ctx;

	loop_sd_exit(daemon->loop, 0);
}

static void on_signal(void *ctx, int signo)
{
	struct daemon *daemon = ctx;

	if (signo == SIGHUP) {
		if (!daemon->leaving)
			on_reload(daemon);
		return;
	}
	if (daemon->leaving) {
		log_warning("%s again: ending at once, what is armed goes on", strsignal(signo));
		loop_sd_exit(daemon->loop, 0);
		return;
	}
	daemon->leaving = true;
	log_notice("%s: ending, guests run on", strsignal(signo));
	loop_sd_stopping();
	engine_leave(daemon->engine, on_left, daemon);
}

static int read_boot_id(char boot_id[UUID_BYTES], struct err *err)
{
	CLEANUP_FILE FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

	if (!file || !fgets(boot_id, UUID_BYTES, file))
		return err_set(err, ERR_SYSTEM, "/proc/sys/kernel/random/boot_id cannot be read");
	return 0;
}

static int make_dir(const char *path, mode_t mode, struct err *err)
{
	if (mkdir(path, mode) < 0)
		return errno == EEXIST ? 0 : err_errno(err, errno, "directory %s", path);
	/* The umask took its part of the mode. */
	return chmod(path, mode) < 0 ? err_errno(err, errno, "mode of %s", path) : 0;
}

/* In a process of its own, on storage that may hang for ever: nobody waits for it. What comes of it shows at the first save. */
static void make_state_dir(void *data)
{
	const char *path = data;
	struct err err;

	if (make_dir(path, 0711, &err) < 0)
		log_error("saved states: %s; no VM can be moved or saved until it is there", err.text);
}

static int start_worker(struct daemon *daemon, struct err *err)
{
	daemon->worker = worker_new(err);
	if (!daemon->worker)
		return -1;
	CLEANUP_FD int fd = worker_begin(daemon->worker, make_state_dir, daemon->config.state_dir,
		sizeof(daemon->config.state_dir), NULL, 0, err);
	return fd < 0 ? -1 : 0;
}

/* watari-stream beside this program (a build tree), else where it is installed. */
static void find_helper(struct daemon *daemon)
{
	char self[PATH_BYTES];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	snprintf(daemon->stream_helper, sizeof(daemon->stream_helper), "%s", daemon->config.stream_helper);
	if (daemon->stream_helper[0] || length < 0)
		return;
	self[length] = 0;
	int wrote = snprintf(daemon->stream_helper, sizeof(daemon->stream_helper), "%s/watari-stream", dirname(self));
	if (wrote >= PATH_BYTES || access(daemon->stream_helper, X_OK) < 0)
		snprintf(daemon->stream_helper, sizeof(daemon->stream_helper), "%s", STREAM_HELPER);
}

static int start_engine(struct daemon *daemon, struct err *err)
{
	struct engine_config config = {.watchdog_ms = daemon->config.watchdog_ms,
		.quorum_loss_stop = daemon->config.quorum_loss_stop,
		.trace = on_line, .trace_ctx = daemon, .fatal = on_fatal};
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	config.incarnation = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
	memcpy(config.cluster_uuid, daemon->config.cluster_uuid, sizeof(config.cluster_uuid));
	memcpy(config.node_name, daemon->config.node_name, sizeof(config.node_name));
	if (read_boot_id(config.boot_id, err) < 0)
		return -1;
	daemon->engine = engine_new(&config);
	return 0;
}

static void start_fencer(struct daemon *daemon)
{
	struct fencer_callbacks callbacks = engine_fencer_callbacks(daemon->engine);
	struct fencer_agents_config config;

	memcpy(config.agents_dir, daemon->config.fence_agents, sizeof(config.agents_dir));
	memcpy(config.secrets_dir, daemon->config.fence_secrets, sizeof(config.secrets_dir));
	daemon->fencer = fencer_agents_new(daemon->loop, &config, &callbacks);
}

static int start_drivers(struct daemon *daemon, struct err *err)
{
	const struct daemon_config *config = &daemon->config;
	struct group_callbacks group_callbacks = engine_group_callbacks(daemon->engine);
	struct store_callbacks store_callbacks = engine_store_callbacks(daemon->engine);
	struct hv_callbacks hv_callbacks = engine_hypervisor_callbacks(daemon->engine);
	struct corosync_config corosync = {0};
	struct store_sqlite_config sqlite = {.dir = config->store_dir, .uuid = config->cluster_uuid};
	struct qemu_config qemu = {
		.cluster_uuid = config->cluster_uuid,
		.node_name = config->node_name,
		.qemu_binary = config->qemu_binary[0] ? config->qemu_binary : NULL,
		.stream_binary = daemon->stream_helper,
		.run_dir = config->run_dir,
		.state_dir = config->state_dir,
		.log_dir = config->log_dir,
		.uid_base = config->uid_base,
		.uid_count = config->uid_count,
		.memory_mib = config->memory_mib,
		.memory_reserve_mib = config->reserve_memory_mib,
		.vcpus = config->vcpus,
		.no_kvm = config->no_kvm,
		.worker = daemon->worker,
		.log = on_driver_line,
	};

	memcpy(corosync.cluster_uuid, config->cluster_uuid, sizeof(corosync.cluster_uuid));
	daemon->group = corosync_new(&corosync, daemon->loop, &group_callbacks, err);
	if (!daemon->group)
		return err_prefix(err, "corosync");
	if (strcmp(daemon->group->node_name, config->node_name) != 0)
		return err_set(err, ERR_INVALID,
			"this node is '%s' in watarid.conf ([node] name=) and '%s' in corosync.conf (nodelist): make them the same",
			config->node_name, daemon->group->node_name);
	if (daemon_config_check_token(daemon->config_path, config, group_token_ms(daemon->group), err) < 0)
		return -1;
	if (config->watchdog_device[0])
		daemon->watchdog = watchdog_linux_new(config->watchdog_device);
	daemon->store = store_sqlite_open(&sqlite, daemon->loop, &store_callbacks, err);
	if (!daemon->store)
		return err_prefix(err, "store");
	daemon->hypervisor = qemu_new(&qemu, daemon->loop, &hv_callbacks, err);
	return daemon->hypervisor ? 0 : err_prefix(err, "qemu");
}

static int start_all(struct daemon *daemon, struct err *err)
{
	const struct daemon_config *config = &daemon->config;
	struct api_config api = {
		.socket_path = config->api_socket, .group = config->api_group, .run_dir = config->run_dir};

	if (make_dir(config->run_dir, 0755, err) < 0)
		return -1;
	find_helper(daemon);
	daemon->loop = loop_sd_new(err);
	/* The loop first: it blocks signals for all threads that come. */
	if (!daemon->loop || start_worker(daemon, err) < 0 || start_engine(daemon, err) < 0 ||
		start_drivers(daemon, err) < 0)
		return -1;
	start_fencer(daemon);
	struct engine_ports ports = {
		.loop = daemon->loop,
		.group = daemon->group,
		.store = daemon->store,
		.hypervisor = daemon->hypervisor,
		.fencer = daemon->fencer,
		.watchdog = daemon->watchdog,
	};
	daemon->watcher = (struct engine_watcher){.ctx = daemon, .history = on_history, .status = on_status};
	engine_watch(daemon->engine, &daemon->watcher);
	if (engine_start(daemon->engine, &ports, err) < 0)
		return -1;
	api.worker = daemon->worker;
	daemon->api = api_new(&api, daemon->engine, daemon->loop, err);
	if (!daemon->api)
		return err_prefix(err, "api");
	return loop_sd_on_signal(daemon->loop, on_signal, daemon, err);
}

static void end_all(struct daemon *daemon)
{
	api_free(daemon->api);
	if (daemon->group)
		group_leave(daemon->group);
	qemu_free(daemon->hypervisor);
	store_sqlite_close(daemon->store);
	corosync_free(daemon->group);
	engine_free(daemon->engine);
	watchdog_linux_free(daemon->watchdog);
	watchdog_linux_free(daemon->retired);
	fencer_agents_free(daemon->fencer); /* after the engine, which cancels its orders */
	worker_free(daemon->worker);
	loop_sd_free(daemon->loop);
}

/* As far as that can be known beforehand: corosync need not run. */
static int check_token(const struct daemon *daemon)
{
	struct corosync_identity identity;
	struct err err;

	if (corosync_identify(&identity, &err) < 0 ||
		daemon_config_check_token(daemon->config_path, &daemon->config, identity.token_ms, &err) == 0)
		return 0;
	log_error("%s", err.text);
	return err_info(err.code)->exit_status;
}

static const char usage[] = "usage: watarid [--config FILE] [--check-config]\n"
			    "The daemon of one node of a watari cluster. See watarid(8), watarid.conf(5).\n"
			    "  --config FILE    instead of " DAEMON_CONFIG_DEFAULT "\n"
			    "  --check-config   read it, say what is wrong with it, and end\n"
			    "  --version\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},
		{"check-config", no_argument, NULL, 'n'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},
		{0},
	};
	static struct daemon daemon;
	const char *path = DAEMON_CONFIG_DEFAULT;
	bool check = false;
	struct err err;
	int status = 0;

	for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (option == 'c') {
			path = optarg;
		} else if (option == 'n') {
			check = true;
		} else if (option == 'h' || option == 'v') {
			fputs(option == 'h' ? usage : "watarid " WATARI_VERSION "\n", stdout);
			return 0;
		} else {
			fputs(usage, stderr);
			return err_info(ERR_USAGE)->exit_status;
		}
	}
	umask(077);
	/* The service's Nice= as it was meant: before others, not before its own threads alone. */
	CLEANUP_FD int weight_fd = weight_open(0);
	weight_set(weight_fd, getpriority(PRIO_PROCESS, 0));
	/* A log that nobody reads any more, or a terminal that is closed, ends no daemon. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN); /* from before it is taken by the loop, where it means: read the configuration again */
	daemon.config_path = path;
	if (daemon_config_read(path, &daemon.config, &err) < 0) {
		log_error("%s", err.text);
		return err_info(err.code)->exit_status;
	}
	if (check)
		return check_token(&daemon);
	log_set_level(daemon.config.log_level);
	if (start_all(&daemon, &err) < 0) {
		log_error("%s", err.text);
		end_all(&daemon);
		return err_info(err.code)->exit_status;
	}
	log_notice("watarid " WATARI_VERSION " on %s (node %u)", daemon.config.node_name, daemon.group->node);
	loop_sd_ready(daemon.loop);
	if (loop_sd_run(daemon.loop, &status, &err) < 0) {
		log_error("%s", err.text);
		status = err_info(err.code)->exit_status;
	}
	end_all(&daemon);
	return status;
}
