/* SPDX-License-Identifier: Apache-2.0
 * Words about all VMs of a run together: of thousands nobody wants to name one. */
#include "sim/check.h"
#include "sim/script.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* expect running N [on nX]: so many guests execute */
int script_expect_running(const struct words *words)
{
	const struct sim *sim = words->scenario->sim;
	uint32_t node = script_node_after(words, "on", 0), count = 0;

	if (words->count < 3)
		return err_set(words->err, ERR_INVALID, "expect running N [on nX]");
	for (const struct world_copy *copy = world_copies(sim->world); copy; copy = copy->next)
		count += copy->executes && (!node || copy->node == node);
	if (count != strtoul(words->at[2], NULL, 10))
		return err_set(words->err, ERR_INVALID, "%u guests run%s%s", count, node ? " on " : "",
			node ? sim->nodes[node].name : "");
	return 0;
}

/* expect boots N: so many cold starts since the script began, and none of a VM twice */
int script_expect_boots(const struct words *words)
{
	const struct sim *sim = words->scenario->sim;
	uint32_t count = 0;

	if (words->count < 3)
		return err_set(words->err, ERR_INVALID, "expect boots N");
	for (const struct world_copy *copy = world_copies(sim->world); copy; copy = copy->next) {
		if (copy->began_us <= words->scenario->began_us)
			continue;
		count++;
		for (const struct world_copy *other = copy->next_of_guest; other; other = other->next_of_guest)
			if (other->began_us > words->scenario->began_us)
				return err_set(words->err, ERR_INVALID, "%s was started on n%u, and on n%u before",
					copy->guest->name, copy->node, other->node);
	}
	if (count != strtoul(words->at[2], NULL, 10))
		return err_set(words->err, ERR_INVALID, "%u guests were started", count);
	return 0;
}

static int rank(const struct words *words, const struct world_copy *copy)
{
	static const int ranks[] = {[PRIORITY_MEDIUM] = 1, [PRIORITY_HIGH] = 2, [PRIORITY_LOW] = 0, [PRIORITY_NONE] = 0};
	const struct vm *vm = cluster_vm_find(sim_newest(words->scenario->sim), copy->guest->vm);

	return vm ? ranks[vm->def.priority] : 0;
}

/* The node that it ran on before; 0: this start was no failover. */
static uint32_t came_from(const struct words *words, const struct world_copy *copy)
{
	const struct world_copy *before = copy->next_of_guest;

	return before && copy->began_us > words->scenario->began_us ? before->node : 0;
}

static int check_from(const struct words *words, uint32_t node, uint32_t on)
{
	const struct world_copy *first[3] = {NULL}, *last[3] = {NULL};

	for (const struct world_copy *copy = world_copies(words->scenario->sim->world); copy; copy = copy->next) {
		if (copy->node != on || came_from(words, copy) != node)
			continue;
		int is = rank(words, copy);
		if (!first[is] || copy->began_us < first[is]->began_us)
			first[is] = copy;
		if (!last[is] || copy->began_us > last[is]->began_us)
			last[is] = copy;
	}
	for (int high = 2; high; high--)
		for (int low = high - 1; low >= 0; low--)
			if (last[high] && first[low] && first[low]->began_us < last[high]->began_us)
				return err_set(words->err, ERR_INVALID,
					"%s, of n%u, was started on n%u at %" PRIu64
					" ms, before %s of a higher priority, at %" PRIu64, first[low]->guest->name, node, on, first[low]->began_us / 1000,
					last[high]->guest->name, last[high]->began_us / 1000);
	return 0;
}

/* expect by-priority: of those that ran on one node before and were started on one other since the script began, none before
 * one of a higher priority. (Another node's may come earlier, for its death was proven earlier; and where each is placed is
 * a matter of room, how many may start there at a time one of the node.) */
int script_expect_by_priority(const struct words *words)
{
	uint32_t nodes = words->scenario->sim->config.node_count;

	for (uint32_t from = 1; from <= nodes; from++)
		for (uint32_t on = 1; on <= nodes; on++)
			if (check_from(words, from, on) < 0)
				return -1;
	return 0;
}

/* Condition running=N. */
bool script_all_run(const struct scenario *scenario, const char *number)
{
	return checks_executing(scenario->sim) == strtoul(number, NULL, 10);
}
