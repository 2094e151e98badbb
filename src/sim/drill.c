/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/drill.h"
#include "core/timing.h"
#include "sim/check.h"
#include "sim/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
	SYNC_MS = 10 * 1000, /* a view's sync on the slowest disk and network that runs have */
	START_MS = 5 * 1000, /* beside what the machine's own steps take */
	PROBE_MS = 5 * 1000, /* a node that is asked whether it reaches disks (hypervisor_fake.c) */
	WITNESS_MS = 2 * 3000, /* until its vote has gone over (witness.c) */
	FENCED_OFTEN = 4,    /* within the hour: the next time may be held for a person */
};

enum loss { LOSS_POWER, LOSS_NETWORK, LOSS_COROSYNC, LOSS_HANG, LOSS_DISKS, LOSS_DISKS_HANG, LOSS_KINDS };

void drill_device(const struct drill_config *config, struct fence_device *device, uint32_t node, uint32_t level)
{
	char name[NAME_BYTES];

	random_device_name(name, node, level);
	sim_fence_device(device, name, node);
	device->level = level;
	device->limit_ms = config->limit_ms;
}

static void define_of(struct sim *sim, const struct drill_config *config, uint32_t node)
{
	for (uint32_t level = 1; level <= config->levels; level++) {
		struct event event = {.kind = EVENT_FENCE_SET, .by = "root"};
		drill_device(config, &event.fence, node, level);
		for (uint32_t via = 1; via <= sim->config.node_count; via++)
			if (sim_request(sim, via, &event, NULL, NULL))
				break;
	}
}

void drill_define(struct sim *sim, const struct drill_config *config)
{
	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		if (config->devices & node_bit(id))
			define_of(sim, config, id);
}

/* A daemon does not arm a watchdog that would end healthy nodes (timing.h), or that proves nothing: of two nodes
 * of which one may go on. */
static uint32_t armed_ms(const struct sim *sim, uint32_t node)
{
	uint32_t watchdog_ms = sim->nodes[node].watchdog_ms;

	if (sim_one_goes_on(sim))
		return 0;
	return watchdog_ms >= timing_watchdog_needed_ms(sim_token_ms(sim)) ? watchdog_ms : 0;
}

/* How long it may take until there is proof that the node is dead, from the moment when the others miss it; 0: there is
 * none to be had. Breaks the first level sometimes, or all of them. */
static uint64_t proof_ms(struct sim *sim, const struct drill_config *config, uint32_t lost, struct prng *dice)
{
	bool has_devices = config->levels && (config->devices & node_bit(lost));
	uint32_t watchdog_ms = armed_ms(sim, lost);
	uint32_t broken = prng_below(dice, 4) ? 0 : 1 + prng_below(dice, 2);
	bool often = cluster_node(sim_newest(sim), lost)->fences >= FENCED_OFTEN;
	uint64_t by_watchdog_ms = watchdog_ms ? timing_watchdog_proof_ms(sim_token_ms(sim), watchdog_ms) : 0;
	char name[NAME_BYTES];

	for (uint32_t level = 1; has_devices && level <= broken; level++) {
		random_device_name(name, lost, level);
		outlets_fault(sim->outlets, name, prng_chance(dice, 500) ? DEVICE_HANG : DEVICE_FAIL, 0);
		sim_trace(sim, "# %s does not work", name);
	}
	if (!has_devices || broken >= config->levels || often)
		return by_watchdog_ms;
	uint64_t by_device_ms = FENCE_SPLIT_DELAY_MS + (uint64_t)config->levels * config->limit_ms;
	return by_watchdog_ms && by_watchdog_ms < by_device_ms ? by_watchdog_ms : by_device_ms;
}

/* B9: it flapped, and takes nothing while another node is there that did not. */
static bool is_quarantined(const struct sim *sim, uint32_t node, uint32_t lost)
{
	const struct cluster *cluster = sim_newest(sim);

	if (!cluster_node(cluster, node)->quarantine_ms)
		return false;
	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		if (id != lost && !cluster_node(cluster, id)->quarantine_ms)
			return true;
	return false;
}

/* Whether the others can take what the node has, also when each of them is left with a hole. */
static bool is_room(const struct sim *sim, uint32_t lost)
{
	enum { VM_MIB_MAX = 1024 };
	const struct cluster *cluster = sim_newest(sim);
	uint64_t free_mib = 0, needed_mib = 0;
	uint64_t used[NODES_MAX + 1] = {0};

	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		if (cluster->vms[i].def.uuid[0])
			used[cluster->vms[i].owner] += cluster->vms[i].def.memory_mib;
		/* It has died too often elsewhere: by its budget it may have to wait. */
		if (cluster->vms[i].owner == lost && cluster->vms[i].exhausted)
			return false;
	}
	needed_mib = used[lost];
	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		if (id != lost && !is_quarantined(sim, id, lost) && used[id] + VM_MIB_MAX < sim->config.memory_mib)
			free_mib += sim->config.memory_mib - used[id] - VM_MIB_MAX;
	return needed_mib <= free_mib;
}

static void lose(struct sim *sim, uint32_t node, enum loss how)
{
	sim_trace(sim, "# drill: n%u is lost", node);
	switch (how) {
	case LOSS_POWER:
		sim_power_off(sim, node);
		break;
	case LOSS_NETWORK:
		net_set_side(sim->net, node, 1);
		break;
	case LOSS_COROSYNC:
		sim_corosync_kill(sim, node, false);
		break;
	case LOSS_HANG:
		sim_daemon_pause(sim, node, 0);
		break;
	case LOSS_DISKS:
	case LOSS_DISKS_HANG:
	case LOSS_KINDS:
		sim_storage(sim, node, how == LOSS_DISKS ? STORAGE_ERROR : STORAGE_HANG);
		break;
	}
}

static void expect_failover(struct sim *sim, uint32_t lost, uint64_t bound_ms)
{
	uint64_t end_ms = sim_now_ms(sim) + bound_ms;
	char why[512];

	while (!sim->violation[0] && !checks_failover_done(sim, lost, why, sizeof(why))) {
		if (sim_now_ms(sim) >= end_ms)
			sim_violation(sim, "I6: %" PRIu64 " ms after n%u was lost %s", bound_ms, lost, why);
		sim_run_ms(sim, 100);
	}
}

/* A node on which a guest runs, where there is one. */
static uint32_t one_that_runs(const struct sim *sim, uint32_t otherwise)
{
	const struct cluster *cluster = sim_newest(sim);

	for (uint32_t i = 0; i < cluster->vm_count; i++)
		if (cluster->vms[i].def.uuid[0] && cluster->vms[i].state == VM_ONLINE)
			return cluster->vms[i].owner;
	return otherwise;
}

void drill_run(struct sim *sim, const struct drill_config *config, struct prng *dice)
{
	uint32_t lost = 1 + prng_below(dice, sim->config.node_count);
	enum loss how = (enum loss)prng_below(dice, LOSS_KINDS);

	if (sim->violation[0] || (sim->config.node_count == 2 && (!sim_one_goes_on(sim) || how != LOSS_POWER)))
		return;
	drill_define(sim, config);
	sim_run_ms(sim, 2000);
	if (how == LOSS_DISKS || how == LOSS_DISKS_HANG)
		lost = one_that_runs(sim, lost);
	if (sim->violation[0] || !is_room(sim, lost))
		return;
	uint64_t proof = proof_ms(sim, config, lost, dice);
	uint64_t bound_ms = sim->config.lost_max_ms + SYNC_MS + proof + START_MS + (sim->config.witness ? WITNESS_MS : 0) + UINT64_C(4) * sim->config.step_ms;
	if (how == LOSS_HANG) {
		/* Nobody misses it before its watchdog has ended it. */
		if (!armed_ms(sim, lost))
			return;
		bound_ms += armed_ms(sim, lost);
	}
	if (how == LOSS_DISKS || how == LOSS_DISKS_HANG) {
		/* Nodes that did not reach the disks before are not asked at first. The proof is QEMU's death, if it dies. */
		bound_ms += STORAGE_AGAIN_MS + STORAGE_ASK_MS + PROBE_MS + STORAGE_CONFIRM_MS;
		if (how == LOSS_DISKS_HANG)
			bound_ms += STORAGE_KILL_MS + armed_ms(sim, lost);
		else
			proof = 1;
	}
	checks_failover_begin(sim, lost);
	lose(sim, lost, how);
	if (proof)
		expect_failover(sim, lost, bound_ms);
	else
		sim_run_ms(sim, bound_ms);
	sim_settle(sim);
}
