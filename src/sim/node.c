/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/node.h"
#include "sim/check.h"
#include "sim/power.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	COROSYNC_START_MS = 500, /* after power-on */
	DAEMON_START_MS = 1000,
	DAEMON_RESTART_MS = 2000, /* by the service manager, after a failure */
};

void node_init(struct sim *sim, uint32_t id)
{
	const struct sim_config *config = &sim->config;
	struct sim_node *node = &sim->nodes[id];
	struct machine_config machine = {.node = id, .memory_mib = config->memory_mib, .step_ms = config->step_ms,
		.fail_permille = config->fail_permille, .broken_permille = config->broken_permille,
		.deaf_permille = config->deaf_permille, .postcopy = config->postcopy, .exact = config->exact};

	*node = (struct sim_node){.sim = sim, .id = id};
	snprintf(node->name, sizeof(node->name), "n%u", id);
	if (config->skew_max_ms)
		node->skew_ms = (int64_t)prng_below(&sim->dice, 2 * config->skew_max_ms) - config->skew_max_ms;
	node->disk = disk_new(sim->timeline, &sim->disk_dice);
	disk_set_speed(node->disk, config->disk_us, config->disk_slow_permille);
	node->machine = machine_new(sim->timeline, &sim->machine_dice, sim->world, &machine);
	node->watchdog = power_watchdog(node);
	node->seen_states = calloc(config->vms_max, 1);
	assert(node->seen_states);
}

static void cancel(struct sim_node *node, struct timeline_item **item)
{
	timeline_cancel(node->sim->timeline, *item);
	*item = NULL;
}

static void daemon_end(struct sim_node *node)
{
	cancel(node, &node->go_on);
	cancel(node, &node->ending);
	if (!node->engine)
		return;
	engine_unwatch(node->engine, &node->watcher);
	engine_free(node->engine);
	node->engine = NULL;
	sim_requests_drop(node->sim, node->id);
	fencer_fake_free(node->fencer);
	hypervisor_fake_free(node->hypervisor);
	group_fake_free(node->group);
	store_fake_free(node->store);
	loop_fake_free(node->loop);
	watchdog_fake_daemon_gone(node->watchdog);
	node->paused = node->leaving = false;
}

void node_fini(struct sim_node *node)
{
	daemon_end(node);
	watchdog_fake_free(node->watchdog);
	machine_free(node->machine);
	disk_free(node->disk);
	free(node->seen_states);
}

static void on_restart(void *ctx)
{
	struct sim_node *node = ctx;

	node->restart = NULL;
	sim_daemon_start(node->sim, node->id);
}

static void restart_later(struct sim_node *node, uint64_t delay_ms)
{
	if (!node->restart && !node->kept_down)
		node->restart = timeline_after(node->sim->timeline, delay_ms * 1000, on_restart, node);
}

static void on_ending(void *ctx)
{
	struct sim_node *node = ctx;

	node->ending = NULL;
	daemon_end(node);
	restart_later(node, DAEMON_RESTART_MS);
}

/* The engine is in the middle of a call: the daemon ends as soon as that is over. */
static void on_fatal(void *ctx, const struct err *err)
{
	struct sim_node *node = ctx;

	sim_trace(node->sim, "%s: watarid ends: %s", node->name, err->text);
	if (!node->ending)
		node->ending = timeline_after(node->sim->timeline, 0, on_ending, node);
}

static void on_trace(void *ctx, const char *line)
{
	struct sim_node *node = ctx;

	sim_trace(node->sim, "%s| %s", node->name, line);
}

static void on_changed(void *ctx, int vm, uint64_t nodes, uint64_t task)
{
	struct sim_node *node = ctx;

	(void)nodes;
	(void)task;
	if (vm >= 0)
		checks_vm_changed(node->sim, node, (uint32_t)vm);
}

static void on_history(void *ctx, const struct engine_history *line)
{
	struct sim_node *node = ctx;

	checks_history(node->sim, node, line);
}

static void on_progress(void *ctx, const struct engine_progress *progress)
{
	struct sim_node *node = ctx;

	if (progress->percent > 100)
		sim_violation(node->sim, "%s: progress of %u %%", node->name, progress->percent);
}

static void on_status(void *ctx)
{
	struct sim_node *node = ctx;
	struct engine_status status;

	engine_get_status(node->engine, &status);
	if (!status.synced && !status.reason[0])
		sim_violation(node->sim, "I8: %s is not synced and does not say why", node->name);
}

static void daemon_make(struct sim_node *node)
{
	struct sim *sim = node->sim;
	struct engine_config config = {.incarnation = timeline_now_us(sim->timeline) + 1,
		.snapshot_every = sim->config.snapshot_every, .watchdog_ms = node->watchdog_ms,
		.quorum_loss_stop = sim->config.quorum_loss_stop, .trace = sim_traces(sim) ? on_trace : NULL,
		.trace_ctx = node, .fatal = on_fatal};

	strcpy(config.cluster_uuid, SIM_CLUSTER_UUID);
	strcpy(config.node_name, node->name);
	strcpy(config.boot_id, node->boot_id);
	node->incarnations++;
	node->engine = engine_new(&config);
	struct group_callbacks own = engine_group_callbacks(node->engine);
	struct group_callbacks group = newer_callbacks(&node->newer, &own);
	struct store_callbacks store = engine_store_callbacks(node->engine);
	struct hv_callbacks hypervisor = engine_hypervisor_callbacks(node->engine);
	struct fencer_callbacks fencer = engine_fencer_callbacks(node->engine);
	node->loop = loop_fake_new(sim->timeline);
	loop_fake_set_skew(node->loop, node->skew_ms);
	node->group = group_fake_new(sim->net, node->id, node->name, node->loop, &group);
	node->store = store_fake_new(node->disk, node->loop, &store);
	node->hypervisor = hypervisor_fake_new(node->machine, node->loop, &hypervisor);
	node->fencer = fencer_fake_new(sim->outlets, node->id, node->loop, &fencer);
	node->watcher = (struct engine_watcher){.ctx = node, .changed = on_changed, .progress = on_progress,
		.history = on_history, .status = on_status};
	engine_watch(node->engine, &node->watcher);
	checks_daemon_started(sim, node);
}

void sim_daemon_start(struct sim *sim, uint32_t id)
{
	struct sim_node *node = &sim->nodes[id];
	struct err err;

	if (!node->powered || node->engine)
		return;
	cancel(node, &node->restart);
	daemon_make(node);
	sim_trace(sim, "%s: watarid starts", node->name);
	struct engine_ports ports = {.loop = loop_fake_port(node->loop),
		.group = newer_port(&node->newer, group_fake_port(node->group)),
		.store = store_fake_port(node->store),
		.hypervisor = hypervisor_fake_port(node->hypervisor),
		.watchdog = node->watchdog_ms ? watchdog_fake_port(node->watchdog) : NULL,

		.fencer = fencer_fake_port(node->fencer)};
	if (engine_start(node->engine, &ports, &err) < 0) {
		sim_trace(sim, "%s: watarid refuses to start: %s", node->name, err.text);
		if (!err.text[0])
			sim_violation(sim, "I8: %s refuses to start and does not say why", node->name);
		node->refused = err.code == ERR_CORRUPT;
		daemon_end(node);
		restart_later(node, DAEMON_RESTART_MS);
		return;
	}
	node->refused = false;
}

static void on_corosync(void *ctx)
{
	struct sim_node *node = ctx;

	node->corosync = NULL;
	sim_corosync_start(node->sim, node->id);
}

void sim_power_on(struct sim *sim, uint32_t id)
{
	struct sim_node *node = &sim->nodes[id];

	if (node->powered)
		return;
	node->powered = true;
	node->fenced = false;
	node->boots++;
	snprintf(node->boot_id, sizeof(node->boot_id), "%08x-0000-4000-8000-%012llx", id,
		(unsigned long long)node->boots);
	sim_trace(sim, "# power-on %s", node->name);
	node->corosync = timeline_after(sim->timeline, COROSYNC_START_MS * 1000, on_corosync, node);
	if (!node->restart && !node->kept_down)
		node->restart = timeline_after(sim->timeline, DAEMON_START_MS * 1000, on_restart, node);
}

void sim_power_off(struct sim *sim, uint32_t id)
{
	struct sim_node *node = &sim->nodes[id];

	if (!node->powered)
		return;
	sim_trace(sim, "# power-off %s", node->name);
	node->powered = false;
	cancel(node, &node->restart);
	cancel(node, &node->corosync);
	daemon_end(node);
	net_node_down(sim->net, id);
	net_died(sim->net, id);
	disk_power_loss(node->disk);
	watchdog_fake_power_loss(node->watchdog);
	machine_power_loss(node->machine);
}

static void on_stopped(void *ctx)
{
	struct sim_node *node = ctx;

	node->ending = NULL;
	sim_trace(node->sim, "%s: watarid has ended", node->name);
	daemon_end(node);
	if (node->stop_restart_ms)
		restart_later(node, node->stop_restart_ms);
}

static void on_left(void *ctx)
{
	struct sim_node *node = ctx;

	/* The engine is in the middle of a call. */
	if (!node->ending)
		node->ending = timeline_after(node->sim->timeline, 0, on_stopped, node);
}

void sim_daemon_stop(struct sim *sim, uint32_t id, uint64_t restart_ms)
{
	struct sim_node *node = &sim->nodes[id];

	if (!sim_daemon_answers(node) || node->leaving)
		return;
	sim_trace(sim, "# stop watarid %s (SIGTERM)", node->name);
	node->leaving = true;
	node->stop_restart_ms = restart_ms;
	engine_leave(node->engine, on_left, node);
}

void sim_daemon_kill(struct sim *sim, uint32_t id, uint64_t restart_ms)
{
	struct sim_node *node = &sim->nodes[id];

	if (!node->engine)
		return;
	sim_trace(sim, "# kill watarid %s", node->name);
	daemon_end(node);
	if (restart_ms)
		restart_later(node, restart_ms);
}

static void on_go_on(void *ctx)
{
	struct sim_node *node = ctx;

	node->go_on = NULL;
	sim_daemon_continue(node->sim, node->id);
}

void sim_daemon_pause(struct sim *sim, uint32_t id, uint64_t duration_ms)
{
	struct sim_node *node = &sim->nodes[id];

	if (!node->engine || node->paused)
		return;
	sim_trace(sim, "# stop watarid %s (SIGSTOP)", node->name);
	node->paused = true;
	loop_fake_pause(node->loop);
	if (duration_ms)
		node->go_on = timeline_after(sim->timeline, duration_ms * 1000, on_go_on, node);
}

void sim_daemon_continue(struct sim *sim, uint32_t id)
{
	struct sim_node *node = &sim->nodes[id];

	cancel(node, &node->go_on);
	if (!node->paused)
		return;
	sim_trace(sim, "# continue watarid %s", node->name);
	node->paused = false;
	loop_fake_continue(node->loop);
}

void sim_corosync_kill(struct sim *sim, uint32_t id, bool forgets)
{
	struct sim_node *node = &sim->nodes[id];

	cancel(node, &node->corosync);
	if (!net_node_is_up(sim->net, id))
		return;
	sim_trace(sim, "# kill corosync %s%s", node->name, forgets ? ", its ring number is lost" : "");
	net_node_down(sim->net, id);
	if (forgets)
		net_forget_ring(sim->net, id);
}

void sim_corosync_start(struct sim *sim, uint32_t id)
{
	struct sim_node *node = &sim->nodes[id];

	if (!node->powered || net_node_is_up(sim->net, id))
		return;
	cancel(node, &node->corosync);
	sim_trace(sim, "%s: corosync starts", node->name);
	net_node_up(sim->net, id);
}

bool sim_wipe_store(struct sim *sim, uint32_t id)
{
	struct sim_node *node = &sim->nodes[id];
	uint32_t quorum = sim_one_goes_on(sim) ? 1 : sim->config.node_count / 2 + 1;
	uint64_t others = sim_synced(sim, quorum) & ~node_bit(id);

	/* As many as say so: one alone may not have seen yet that its view has ended. */
	if (node->engine || (uint32_t)__builtin_popcountll(others) < quorum)
		return false;
	sim_trace(sim, "# wipe the store of %s", node->name);
	disk_wipe(node->disk);
	checks_wiped(sim);
	node->refused = false;
	restart_later(node, DAEMON_RESTART_MS);
	return true;
}

void sim_storage(struct sim *sim, uint32_t id, enum machine_storage storage)
{
	static const char *const how[] = {
		[STORAGE_OK] = "are reached again", [STORAGE_ERROR] = "fail", [STORAGE_HANG] = "do not answer"};

	sim_trace(sim, "# the disks of VMs on n%u %s", id, how[storage]);
	machine_storage(sim->nodes[id].machine, storage);
}

void sim_clock_jump(struct sim *sim, uint32_t id, int64_t ms)
{
	struct sim_node *node = &sim->nodes[id];

	sim_trace(sim, "# the clock of %s jumps by %lld ms", node->name, (long long)ms);
	node->skew_ms += ms;
	if (node->engine)
		loop_fake_set_skew(node->loop, node->skew_ms);
}

bool sim_daemon_answers(const struct sim_node *node)
{
	return node->engine && !node->paused && !node->ending;
}
