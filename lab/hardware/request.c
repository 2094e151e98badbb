/* SPDX-License-Identifier: Apache-2.0
 * What the lines mean:
 *   at a controller's door  off|on|status NODE, list; "do" before one skips what is wrong with the controller
 *   at the watchdog's       arm MS, feed, disarm
 *   at the control's        off, booted or mend NODE; bmc NODE [FAULT]; watchdog NODE [ok|dead]; path NODE cut|ok */
#include "doors.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *const fault_names[] = {
#define X(constant, name) name,
	BMC_FAULTS(X)
#undef X
};

const char *bmc_fault_name(enum bmc_fault fault)
{
	return fault_names[fault];
}

/* Begins to switch the target; the answer follows when it is done. */
static void begin(struct hardware *hw, struct client *client)
{
	struct node *target = client->target;
	char why[40];

	snprintf(why, sizeof(why), "asked by %s", client->door->node ? client->door->node->name : "hand");
	if (!strcmp(client->action, "status")) {
		client_answer(client, power_is_on(hw, target) ? "on" : "off");
	} else if (!strcmp(client->action, "off")) {
		power_cut(hw, target, why);
		client->wait = WAIT_OFF;
		client->until_ms = monotonic_ms() + OFF_LIMIT_MS;
	} else if (power_is_on(hw, target)) {
		client_answer(client, "on");
	} else if (power_restore(hw, target, why) < 0) {
		client_answer(client, "error cannot boot it");
	} else {
		client->wait = WAIT_ON;
		client->until_ms = monotonic_ms() + ON_LIMIT_MS;
	}
}

void request_go_on(struct hardware *hw, struct client *client, uint64_t now_ms)
{
	bool is_late = now_ms >= client->until_ms;

	switch (client->wait) {
	case WAIT_NONE:
		return;
	case WAIT_DUE:
		if (!is_late)
			return;
		client->wait = WAIT_NONE;
		begin(hw, client);
		return;
	case WAIT_OFF:
	case WAIT_ON:
		if (power_is_on(hw, client->target) == (client->wait == WAIT_ON))
			client_answer(client, client->wait == WAIT_ON ? "on" : "off");
		else if (is_late)
			client_answer(client, "error %s does not go %s", client->target->name, client->action);
		return;
	}
}

/* A controller with a fault. Returns whether it has answered by that. */
static bool misbehave(struct hardware *hw, struct client *client)
{
	struct node *target = client->target;
	bool is_status = !strcmp(client->action, "status");

	switch (target->fault) {
	case BMC_OK:
		return false;
	case BMC_WRONG:
		client->target = &hw->nodes[target->wired_to];
		return false;
	case BMC_SLOW:
		client->wait = WAIT_DUE;
		client->until_ms = monotonic_ms() + target->slow_ms;
		return true;
	case BMC_LIE:
		if (is_status)
			return false;
		client_answer(client, "%s", client->action);
		return true;
	case BMC_LIE_STATUS:
		if (!is_status)
			target->claims_off = !strcmp(client->action, "off");
		client_answer(client, target->claims_off ? "off" : "on");
		return true;
	case BMC_GONE:
	case BMC_HANG:
	case BMC_GARBAGE:
	case BMC_HUGE:
	case BMC_CRASH:
		client_answer(client, "fault %s", bmc_fault_name(target->fault));
		return true;
	}
	return false;
}

static void take_bmc(struct hardware *hw, struct client *client, char *const *words, int count)
{
	bool is_direct = count > 0 && !strcmp(words[0], "do");
	char names[LINE_BYTES] = "list";

	words += is_direct;
	count -= is_direct;
	if (count == 1 && !strcmp(words[0], "list")) {
		for (int i = 0; i < hw->nodes_count; i++) {
			strcat(names, " ");
			strcat(names, hw->nodes[i].name);
		}
		client_answer(client, "%s", names);
		return;
	}
	int at = count == 2 ? node_find(hw, words[1]) : -1;
	if (at < 0 || (strcmp(words[0], "off") && strcmp(words[0], "on") && strcmp(words[0], "status"))) {
		client_answer(client, "error off, on or status of a node of this lab, or list");
		return;
	}
	client->target = &hw->nodes[at];
	snprintf(client->action, sizeof(client->action), "%s", words[0]);
	if (strcmp(words[0], "status"))
		note(hw, client->target, "controller told %s by %s", words[0], client->door->node->name);
	if (is_direct || !misbehave(hw, client))
		begin(hw, client);
}

static int find_fault(const char *name)
{
	for (size_t i = 0; i < sizeof(fault_names) / sizeof(*fault_names); i++)
		if (!strcmp(fault_names[i], name))
			return (int)i;
	return -1;
}

static void set_fault(struct hardware *hw, struct client *client, char *text)
{
	struct node *node = client->target;
	char *value = strchr(text, ':');
	unsigned long seconds = 0;
	int wired_to = -1;
	char *end;

	if (value)
		*value++ = 0;
	int fault = find_fault(text);
	if (fault == BMC_WRONG && value)
		wired_to = node_find(hw, value);
	if (fault == BMC_SLOW && value) {
		seconds = strtoul(value, &end, 10);
		if (*value < '1' || *value > '9' || *end || seconds > 3600)
			seconds = 0;
	}
	if (fault < 0 || (fault == BMC_WRONG && wired_to < 0) || (fault == BMC_SLOW && !seconds) ||
		(value && fault != BMC_WRONG && fault != BMC_SLOW)) {
		client_answer(client,
			"error ok, gone, hang, lie, lie-status, wrong:NODE, garbage, huge, crash or slow:SECONDS");
		return;
	}
	node->fault = (enum bmc_fault)fault;
	node->wired_to = wired_to;
	node->slow_ms = (uint32_t)seconds * 1000;
	node->claims_off = false;
	note(hw, node, "controller is %s%s%s", text, value ? ":" : "", value ? value : "");
	client_answer(client, "ok");
}

static void show_fault(const struct hardware *hw, struct client *client)
{
	const struct node *node = client->target;
	const char *name = bmc_fault_name(node->fault);

	if (node->fault == BMC_WRONG)
		client_answer(client, "%s:%s", name, hw->nodes[node->wired_to].name);
	else if (node->fault == BMC_SLOW)
		client_answer(client, "%s:%u", name, node->slow_ms / 1000);
	else
		client_answer(client, "%s", name);
}

static void set_watchdog(struct hardware *hw, struct client *client, const char *state)
{
	if (strcmp(state, "ok") && strcmp(state, "dead")) {
		client_answer(client, "error a watchdog is ok or dead");
		return;
	}
	client->target->watchdog.is_dead = !strcmp(state, "dead");
	note(hw, client->target, "watchdog is %s", state);
	client_answer(client, "ok");
}

static void set_path(struct hardware *hw, struct client *client, const char *state)
{
	client->target->path_is_cut = !strcmp(state, "cut");
	note(hw, client->target, "way to the controllers is %s", client->target->path_is_cut ? "cut" : "ok");
	client_answer(client, "ok");
}

/* Everything about a node's hardware works again. */
static void mend(struct hardware *hw, struct client *client)
{
	struct node *node = client->target;

	if (node->fault != BMC_OK || node->path_is_cut || node->watchdog.is_dead)
		note(hw, node, "hardware mended");
	node->fault = BMC_OK;
	node->path_is_cut = false;
	node->watchdog.is_dead = false;
	client_answer(client, "ok");
}

static void take_control(struct hardware *hw, struct client *client, char *const *words, int count)
{
	char answer[LINE_BYTES];
	int at = count >= 2 ? node_find(hw, words[1]) : -1;

	if (at < 0) {
		client_answer(client, "error no such node");
		return;
	}
	client->target = &hw->nodes[at];
	if (!strcmp(words[0], "off") && count == 2) {
		strcpy(client->action, "off");
		begin(hw, client);
	} else if (!strcmp(words[0], "booted") && count == 2) {
		client_answer(client, power_is_on(hw, client->target) ? "ok" : "error it is off");
	} else if (!strcmp(words[0], "mend") && count == 2) {
		mend(hw, client);
	} else if (!strcmp(words[0], "bmc") && count == 2) {
		show_fault(hw, client);
	} else if (!strcmp(words[0], "bmc") && count == 3) {
		set_fault(hw, client, words[2]);
	} else if (!strcmp(words[0], "watchdog") && count == 2) {
		watchdog_describe(&client->target->watchdog, answer);
		client_answer(client, "%s", answer);
	} else if (!strcmp(words[0], "watchdog") && count == 3) {
		set_watchdog(hw, client, words[2]);
	} else if (!strcmp(words[0], "path") && count == 3) {
		set_path(hw, client, words[2]);
	} else {
		client_answer(client, "error what?");
	}
}

void request_take(struct hardware *hw, struct client *client, const char *line)
{
	char copy[LINE_BYTES], answer[LINE_BYTES], *words[4], *save;
	int count = 0;

	if (client->door->kind == DOOR_WATCHDOG) {
		watchdog_line(hw, client->door->node, line, answer);
		if (answer[0])
			client_answer(client, "%s", answer);
		return;
	}
	snprintf(copy, sizeof(copy), "%s", line);
	for (char *word = strtok_r(copy, " ", &save); word && count < 4; word = strtok_r(NULL, " ", &save))
		words[count++] = word;
	if (client->door->kind == DOOR_BMC)
		take_bmc(hw, client, words, count);
	else if (count)
		take_control(hw, client, words, count);
	else
		client_answer(client, "error what?");
}
