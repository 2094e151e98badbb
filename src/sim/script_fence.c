/* SPDX-License-Identifier: Apache-2.0
 * Words about nodes: devices, watchdogs, cut links, clocks, other programs. */
#include "sim/script.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* fence add NAME for nX [level N] [limit MS] [delay MS], fence remove NAME, and what is wrong with a device in the
 * world: fence NAME ok|hang|fail|idle|lie|blind|twice|late MS|wired nY|cut nY|uncut nY */
int script_fence(const struct words *words)
{
	struct sim *sim = words->scenario->sim;
	const char *word = words->count > 2 ? words->at[2] : "";
	struct event event = {.kind = EVENT_FENCE_SET};

	if (words->count < 3)
		return err_set(words->err, ERR_INVALID, "fence add NAME for nX, fence remove NAME, or fence NAME HOW");
	if (!strcmp(words->at[1], "add") || !strcmp(words->at[1], "remove")) {
		bool add = words->at[1][0] == 'a';
		uint32_t node = script_node_after(words, "for", add ? 0 : 1);
		if (!node)
			return err_set(words->err, ERR_INVALID, "fence add NAME for nX");
		sim_fence_device(&event.fence, word, node);
		event.fence.level = script_number_after(words, "level", 1);
		event.fence.limit_ms = script_number_after(words, "limit", event.fence.limit_ms);
		event.fence.delay_ms = script_number_after(words, "delay", 0);
		event.kind = add ? EVENT_FENCE_SET : EVENT_FENCE_REMOVE;
		return script_ask(words, &event);
	}
	const char *name = words->at[1];
	if (!strcmp(word, "wired") || !strcmp(word, "cut") || !strcmp(word, "uncut")) {
		uint32_t node = script_node(words, words->count > 3 ? words->at[3] : NULL);
		if (!node)
			return -1;
		sim_trace(sim, "# %s: %s n%u", name, word, node);
		if (word[0] == 'w')
			outlets_wire(sim->outlets, name, node);
		else
			outlets_cut(sim->outlets, name, node, word[0] == 'c');
		return 0;
	}
	for (int fault = 0; fault < DEVICE_FAULT_COUNT; fault++) {
		if (strcmp(device_fault_name(fault), word) != 0)
			continue;
		sim_trace(sim, "# %s: %s", name, word);
		outlets_fault(sim->outlets, name, (enum device_fault)fault, script_number_after(words, "late", 0));
		return 0;
	}
	return err_set(words->err, ERR_INVALID, "'%s' is nothing that a device does", word);
}

/* node confirm-off nX [as NAME], node fence nX [force], node resume nX, node force-quorum nX via nX */
int script_node_verb(const struct words *words)
{
	uint32_t node = script_node(words, words->count > 2 ? words->at[2] : NULL);
	struct event event = {.target = node, .force = script_has(words, "force")};

	if (!node)
		return -1;
	if (!strcmp(words->at[1], "confirm-off"))
		event.kind = EVENT_NODE_CONFIRM_OFF;
	else if (!strcmp(words->at[1], "fence"))
		event.kind = EVENT_NODE_FENCE;
	else if (!strcmp(words->at[1], "resume"))
		event.kind = EVENT_NODE_RESUME;
	else if (!strcmp(words->at[1], "force-quorum"))
		event.kind = EVENT_QUORUM_FORCED; /* on n1, or "via" */
	else
		return err_set(words->err, ERR_INVALID, "node confirm-off nX, node fence nX, node resume nX or node force-quorum nX");
	snprintf(event.text, sizeof(event.text), "%s", words->scenario->sim->nodes[node].name);
	for (int i = 3; i + 1 < words->count; i++)
		if (!strcmp(words->at[i], "as"))
			snprintf(event.text, sizeof(event.text), "%s", words->at[i + 1]);
	return script_ask(words, &event);
}

/* watchdog nX MS|none: from the daemon's next look at its facts on */
int script_watchdog(const struct words *words)
{
	uint32_t node = script_node(words, words->count > 2 ? words->at[1] : NULL);

	if (!node)
		return err_set(words->err, ERR_INVALID, "watchdog nX MS, or none");
	sim_trace(words->scenario->sim, "# the watchdog of n%u: %s", node, words->at[2]);
	sim_watchdog(words->scenario->sim, node, (uint32_t)strtoul(words->at[2], NULL, 10));
	return 0;
}

/* link nX nY cut|ok: those two do not reach each other, in one direction or in both, which knet takes for the same */
int script_link(const struct words *words)
{
	uint32_t a = script_node(words, words->count > 3 ? words->at[1] : NULL);
	uint32_t b = a ? script_node(words, words->at[2]) : 0;

	if (!b)
		return err_set(words->err, ERR_INVALID, "link nX nY cut, or ok");
	sim_trace(words->scenario->sim, "# link between n%u and n%u: %s", a, b, words->at[3]);
	net_set_link(words->scenario->sim->net, a, b, !strcmp(words->at[3], "ok"));
	return 0;
}

/* witness up or down; witness cut nX or ok nX: whether the node reaches it */
int script_witness(const struct words *words)
{
	struct sim *sim = words->scenario->sim;
	const char *what = words->count > 1 ? words->at[1] : "";
	bool cuts = !strcmp(what, "cut"), links = cuts || !strcmp(what, "ok");
	uint32_t node = links ? script_node(words, words->count > 2 ? words->at[2] : NULL) : 0;

	if (!sim->config.witness || (!node && strcmp(what, "up") != 0 && strcmp(what, "down") != 0))
		return err_set(words->err, ERR_INVALID, "witness up, down, cut nX or ok nX; and 'witness' in the cluster file");
	if (links) {
		sim_trace(sim, "# n%u %s the witness", node, cuts ? "does not reach" : "reaches");
		net_witness_link(sim->net, node, !cuts);
	} else {
		sim_trace(sim, "# the witness is %s", what);
		net_witness_up(sim->net, !strcmp(what, "up"));
	}
	return 0;
}

/* clock nX MS: its wall clock jumps by so much */
int script_clock(const struct words *words)
{
	uint32_t node = script_node(words, words->count > 2 ? words->at[1] : NULL);

	if (!node)
		return err_set(words->err, ERR_INVALID, "clock nX MS");
	sim_clock_jump(words->scenario->sim, node, strtoll(words->at[2], NULL, 10));
	return 0;
}

/* newer nX event: it sends what older programs do not know; newer nX needs: they are to know what it says from now on;
 * newer nX on|off: another program is installed there, which starts with the daemon */
int script_newer(const struct words *words)
{
	uint32_t id = script_node(words, words->count > 2 ? words->at[1] : NULL);
	struct sim *sim = words->scenario->sim;
	const char *what = id ? words->at[2] : "";
	struct newer *newer = id ? &sim->nodes[id].newer : NULL;

	if (!strcmp(what, "event") && sim->nodes[id].engine && newer->on)
		newer_event(newer, sim->nodes[id].engine);
	else if (!strcmp(what, "needs"))
		newer->needs = true;
	else if (!sim->nodes[id].engine && (!strcmp(what, "on") || !strcmp(what, "off")))
		newer->on = !strcmp(what, "on");
	else
		return err_set(words->err, ERR_INVALID, "newer nX event or needs; or, while no daemon runs there, on or off");
	sim_trace(sim, "# n%u: newer %s", id, what);
	return 0;
}

/* expect node nX STATE [FENCE-PHASE] */
int script_expect_node(const struct words *words)
{
	uint32_t id = script_node(words, words->count > 3 ? words->at[2] : NULL);
	const struct cluster *cluster = sim_newest(words->scenario->sim);

	if (!id || !cluster)
		return err_set(words->err, ERR_INVALID, "expect node nX STATE, while a daemon runs");
	const struct node *node = cluster_node(cluster, id);
	if (strcmp(node_state_name((int)node->state), words->at[3]) != 0 ||
		(words->count > 4 && strcmp(fence_phase_name((int)node->fence.phase), words->at[4]) != 0))
		return err_set(words->err, ERR_INVALID, "n%u is %s (%s): %s", id, node_state_name((int)node->state),
			fence_phase_name((int)node->fence.phase), node->reason);
	return 0;
}

/* expect node-reason nX WORD…: all of these words are in it */
int script_expect_node_reason(const struct words *words)
{
	uint32_t id = script_node(words, words->count > 3 ? words->at[2] : NULL);
	const struct cluster *cluster = sim_newest(words->scenario->sim);

	if (!id || !cluster)
		return err_set(words->err, ERR_INVALID, "expect node-reason nX WORD…");
	for (int i = 3; i < words->count; i++)
		if (!strstr(cluster_node(cluster, id)->reason, words->at[i]))
			return err_set(words->err, ERR_INVALID, "the reason is: %s", cluster_node(cluster, id)->reason);
	return 0;
}

/* expect power nX on|off */
int script_expect_power(const struct words *words)
{
	uint32_t id = script_node(words, words->count > 3 ? words->at[2] : NULL);

	if (!id)
		return err_set(words->err, ERR_INVALID, "expect power nX on, or off");
	bool on = words->scenario->sim->nodes[id].powered;
	return on == !strcmp(words->at[3], "on") ? 0
						 : err_set(words->err, ERR_INVALID, "n%u is %s", id, on ? "on" : "off");
}

/* expect device NAME trusted|distrusted|gone */
int script_expect_device(const struct words *words)
{
	const struct cluster *cluster = sim_newest(words->scenario->sim);
	const char *is = "gone";

	for (uint32_t i = 0; cluster && words->count > 3 && i < cluster->fence_device_count; i++)
		if (!strcmp(cluster->fence_devices[i].name, words->at[2]))
			is = cluster->fence_devices[i].distrusted ? "distrusted" : "trusted";
	if (words->count < 4 || strcmp(is, words->at[3]) != 0)
		return err_set(words->err, ERR_INVALID, "the device is %s", is);
	return 0;
}
