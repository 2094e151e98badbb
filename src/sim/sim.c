/* SPDX-License-Identifier: Apache-2.0
 * The run: made, stepped, healed, ended. Nodes live in node.c. */
#include "sim/sim.h"
#include "sim/check.h"
#include "sim/node.h"
#include "sim/power.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t sim_now_ms(const struct sim *sim)
{
	return timeline_now_us(sim->timeline) / 1000;
}

bool sim_traces(const struct sim *sim)
{
	return sim->config.trace;
}

void sim_trace(struct sim *sim, const char *format, ...)
{
	char line[1024];
	va_list args;

	if (!sim->config.trace)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	sim->config.trace(sim->config.trace_ctx, timeline_now_us(sim->timeline), line);
}

void sim_violation(struct sim *sim, const char *format, ...)
{
	va_list args;

	if (sim->violation[0])
		return;
	va_start(args, format);
	vsnprintf(sim->violation, sizeof(sim->violation), format, args);
	va_end(args);
	sim->violation_us = timeline_now_us(sim->timeline);
	sim_trace(sim, "VIOLATION %s", sim->violation);
}

bool sim_one_goes_on(const struct sim *sim)
{
	return sim->config.two_node || (sim->config.witness && sim->config.node_count == 2);
}

uint32_t sim_token_ms(const struct sim *sim)
{
	return (sim->config.lost_max_ms * 10 + 21) / 22;
}

static void trace_net(void *ctx, const char *line)
{
	sim_trace(ctx, "%s", line);
}

struct sim *sim_new(const struct sim_config *config)
{
	struct sim *sim = calloc(1, sizeof(*sim));
	uint64_t seed = config->seed;

	assert(sim && config->node_count >= 1 && config->node_count <= NODES_MAX);
	sim->config = *config;
	if (!sim->config.vms_max)
		sim->config.vms_max = SIM_VMS_DEFAULT;
	sim->vms = calloc(sim->config.vms_max, sizeof(*sim->vms));
	assert(sim->vms);
	/* A stream of dice each, so that one part's throws do not change another's. */
	prng_seed(&sim->dice, prng_splitmix(&seed));
	prng_seed(&sim->net_dice, prng_splitmix(&seed));
	prng_seed(&sim->disk_dice, prng_splitmix(&seed));
	prng_seed(&sim->machine_dice, prng_splitmix(&seed));
	prng_seed(&sim->fence_dice, prng_splitmix(&seed));
	sim->timeline = timeline_new();
	struct net_config net = {.node_count = config->node_count, .two_node = config->two_node, .witness = config->witness,
		.delay_us = config->net_delay_us, .exact = config->exact, .slow_permille = config->net_slow_permille,
		.lost_min_ms = config->lost_min_ms ? config->lost_min_ms : 300, .lost_max_ms = config->lost_max_ms, .merge_min_ms = 50, .merge_max_ms = 800,
		.late_permille = config->net_late_permille, .torn_permille = config->net_torn_permille,
		.steps_permille = config->net_steps_permille, .trace = config->trace ? trace_net : NULL, .trace_ctx = sim};
	net.token_ms = sim_token_ms(sim);
	sim->net = net_new(sim->timeline, &sim->net_dice, &net);
	sim->checks = checks_new(sim);
	struct world_observer observer = checks_world_observer(sim);
	sim->world = world_new(sim->timeline, &observer);
	sim->outlets = power_outlets(sim);
	for (uint32_t id = 1; id <= config->node_count; id++)
		node_init(sim, id);
	return sim;
}

void sim_free(struct sim *sim)
{
	if (!sim)
		return;
	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		node_fini(&sim->nodes[id]);
	outlets_free(sim->outlets);
	net_free(sim->net);
	world_free(sim->world);
	checks_free(sim->checks);
	timeline_free(sim->timeline);
	free(sim->vms);
	free(sim);
}

static void look(struct sim *sim)
{
	for (uint32_t id = 1; id <= sim->config.node_count; id++)
	{
		struct sim_node *node = &sim->nodes[id];
		if (node->engine)
			checks_step(sim, node);
	}
}

bool sim_step(struct sim *sim)
{
	if (!timeline_step(sim->timeline, UINT64_MAX))
		return false;
	look(sim);
	return true;
}

void sim_run_until_ms(struct sim *sim, uint64_t at_ms)
{
	while (!sim->violation[0] && timeline_step(sim->timeline, at_ms * 1000))
		look(sim);
}

void sim_run_ms(struct sim *sim, uint64_t duration_ms)
{
	sim_run_until_ms(sim, sim_now_ms(sim) + duration_ms);
}

uint64_t sim_synced(const struct sim *sim, uint32_t members_min)
{
	uint64_t set = 0;

	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		struct engine_status status;
		if (!sim_daemon_answers(&sim->nodes[id]))
			continue;
		engine_get_status(sim->nodes[id].engine, &status);
		if (status.synced && (uint32_t)__builtin_popcountll(status.members) >= members_min)
			set |= node_bit(id);
	}
	return set;
}

const struct cluster *sim_newest(const struct sim *sim)
{
	uint64_t synced = sim_synced(sim, 1);
	const struct cluster *newest = NULL;

	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		const struct sim_node *node = &sim->nodes[id];
		if (!node->engine || (synced && !(synced & node_bit(id))))
			continue;
		const struct cluster *cluster = engine_cluster(node->engine);
		if (!newest || cluster->index > newest->index)
			newest = cluster;
	}
	return newest;
}

void sim_heal(struct sim *sim)
{
	sim_trace(sim, "# everything is mended");
	outlets_mend(sim->outlets);
	net_witness_mend(sim->net);
	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		struct sim_node *node = &sim->nodes[id];
		net_set_side(sim->net, id, 0);
		net_links_mend(sim->net);
		net_busy(sim->net, id, 0);
		disk_fail_writes(node->disk, false);
		disk_lie(node->disk, false);
		disk_hang(node->disk, false);
		machine_set_fail_permille(node->machine, 0);
		machine_hold(node->machine, false);
		machine_storage(node->machine, STORAGE_OK);
		node->kept_down = false;
		sim_daemon_continue(sim, id);
		sim_power_on(sim, id);
		sim_corosync_start(sim, id);
		if (!node->engine)
			sim_daemon_start(sim, id);
	}
}

/* A move by itself that failed is tried again after 5 min, and takes two more on the slowest machines. */
enum { QUIET_MS = 20000, SETTLE_MS = 600 * 1000 };

/* NULL when the cluster is well now. */
static const char *settle_look(struct sim *sim)
{
	sim_run_ms(sim, 500);
	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		sim_power_on(sim, id); /* somebody looks after nodes that were fenced */
		if (sim->nodes[id].refused)
			sim_wipe_store(sim, id);
	}
	return check_end(sim);
}

/* A quiet cluster writes nothing (design §3): at rest is only who stays so. */
void sim_settle(struct sim *sim)
{
	uint64_t end_ms = sim_now_ms(sim) + SETTLE_MS;
	uint64_t quiet_ms = 0, quiet_index = 0;

	sim_heal(sim);
	while (!sim->violation[0]) {
		const char *why = settle_look(sim);
		uint64_t index = sim_newest(sim) ? sim_newest(sim)->index : 0;
		if (why || !quiet_ms || index != quiet_index) {
			quiet_ms = why ? 0 : sim_now_ms(sim);
			quiet_index = index;
		} else if (sim_now_ms(sim) >= quiet_ms + QUIET_MS) {
			break;
		}
		if (sim_now_ms(sim) >= end_ms)
			sim_violation(sim, "not at rest %d s after the last fault: %s", SETTLE_MS / 1000, why ? why : "the log still grows");
	}
	if (!sim->violation[0])
		check_end_states(sim);
}
