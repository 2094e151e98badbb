/* SPDX-License-Identifier: Apache-2.0
 * What a script does to a node: NAME nX [NUMBER]. */
#include "sim/script.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void do_power_off(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_power_off(sim, node);
}

static void do_power_on(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_power_on(sim, node);
}

static void do_kill(struct sim *sim, uint32_t node, uint64_t number)
{
	sim->nodes[node].kept_down = !number;
	sim_daemon_kill(sim, node, number);
}

static void do_start(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim->nodes[node].kept_down = false;
	sim_daemon_start(sim, node);
}

static void do_stop(struct sim *sim, uint32_t node, uint64_t number)
{
	sim_daemon_pause(sim, node, number);
}

static void do_continue(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_daemon_continue(sim, node);
}

static void do_corosync_kill(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_corosync_kill(sim, node, false);
}

static void do_corosync_forget(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_corosync_kill(sim, node, true);
}

static void do_corosync_start(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_corosync_start(sim, node);
}

static void do_side(struct sim *sim, uint32_t node, uint64_t number)
{
	sim_trace(sim, "# n%u is in part %" PRIu64 " of the network", node, number);
	net_set_side(sim->net, node, (uint32_t)number);
}

static void do_busy(struct sim *sim, uint32_t node, uint64_t number)
{
	sim_trace(sim, "# n%u's group queue is full for %" PRIu64 " ms", node, number);
	net_busy(sim->net, node, number * 1000);
}

static void do_disk_hang(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_trace(sim, "# n%u's disk does not answer", node);
	disk_hang(sim->nodes[node].disk, true);
}

static void do_disk_fail(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_trace(sim, "# n%u's disk fails", node);
	disk_fail_writes(sim->nodes[node].disk, true);
}

static void do_disk_ok(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_trace(sim, "# n%u's disk works again", node);
	disk_fail_writes(sim->nodes[node].disk, false);
	disk_hang(sim->nodes[node].disk, false);
}

static void do_disk_damage(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_trace(sim, "# a bit flips in n%u's store", node);
	disk_damage(sim->nodes[node].disk);
}

static void do_disk_lie(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_trace(sim, "# n%u's disk lies about what is durable", node);
	disk_lie(sim->nodes[node].disk, true);
}

static void do_wipe(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	if (!sim_wipe_store(sim, node))
		sim_trace(sim, "# n%u's store is not wiped: the others have no quorum without it", node);
}

static void do_hold(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_trace(sim, "# n%u's machine holds", node);
	machine_hold(sim->nodes[node].machine, true);
}

static void do_release(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_trace(sim, "# n%u's machine goes on", node);
	machine_hold(sim->nodes[node].machine, false);
}

static void do_storage_ok(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_storage(sim, node, STORAGE_OK);
}

static void do_storage_error(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_storage(sim, node, STORAGE_ERROR);
}

static void do_storage_hang(struct sim *sim, uint32_t node, uint64_t number)
{
	(void)number;
	sim_storage(sim, node, STORAGE_HANG);
}

static const struct {
	const char *name;
	void (*run)(struct sim *sim, uint32_t node, uint64_t number);
} node_commands[] = {
	{"power-off", do_power_off},
	{"power-on", do_power_on},
	{"kill", do_kill}, /* the daemon; the number: ms until it is started again, else it stays down */
	{"start", do_start},
	{"stop", do_stop}, /* SIGSTOP; the number: ms until it goes on */
	{"continue", do_continue},
	{"corosync-kill", do_corosync_kill},
	{"corosync-forget", do_corosync_forget},
	{"corosync-start", do_corosync_start},
	{"side", do_side}, /* of the network: nodes of one number reach each other */
	{"busy", do_busy},
	{"disk-hang", do_disk_hang},
	{"disk-fail", do_disk_fail},
	{"disk-ok", do_disk_ok},
	{"disk-damage", do_disk_damage},
	{"disk-lie", do_disk_lie},
	{"wipe", do_wipe},
	{"hold", do_hold}, /* steps of its VMs do not end */
	{"release", do_release},
	{"storage-error", do_storage_error}, /* the disks of its VMs fail, */
	{"storage-hang", do_storage_hang},   /* or do not answer; what is killed then does not die */
	{"storage-ok", do_storage_ok},
};

bool script_node_knows(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(node_commands); i++)
		if (!strcmp(name, node_commands[i].name))
			return true;
	return false;
}

int script_node_do(const struct words *words)
{
	uint64_t number = words->count > 2 ? strtoull(words->at[2], NULL, 10) : 0;
	uint32_t node = script_node(words, words->count > 1 ? words->at[1] : NULL);

	if (!node)
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(node_commands); i++)
		if (!strcmp(words->at[0], node_commands[i].name))
			node_commands[i].run(words->scenario->sim, node, number);
	return 0;
}
