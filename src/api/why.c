/* SPDX-License-Identifier: Apache-2.0
 * `why`: out of the log, the chain of causes that led to what a VM or a node is now.
 *
 * A VM's chain goes back to where it was last at rest (running, saved, given up) or to the request that set it off, and
 * holds what happened meanwhile to the nodes that owned it. A start by itself that held only for minutes was no rest: what
 * came before it belongs to the same trouble, as the restarts that used up a budget do. A node's chain goes back to where
 * it was last online, one that is quarantined to the first of the times that it left, and holds what that did to VMs. Nothing is interpreted here: each line was written with its reason when it was decided.
 */
#include "api/internal.h"

#include <assert.h>
#include <string.h>

enum {
	CHAIN_MAX = 400,      /* lines of one answer */
	SCAN_MAX = 20 * 1000, /* lines that are looked at */
	REST_MS = 15 * 60 * 1000, /* RESTART_PERIOD_S_DEFAULT: who ran for so long ran undisturbed */
	FLAPS_MS = 3600 * 1000,	  /* in which a quarantined node left so often */
};

struct chain {
	const char *vm; /* or NULL */
	uint32_t node;	/* or 0 */
	uint64_t nodes; /* VM: those that owned it within the chain, bits */
	uint64_t from;	/* index at which the chain begins; 0: not found yet */
	bool ended;	/* the line before the chain's first is awaited: where it was before */
	uint64_t rest_ms; /* VM: when it left the state of rest of which the beginning is awaited; or 0 */
	uint64_t since_ms; /* NODE: what is younger belongs to it in any case */
	bool away;	/* NODE: a line in which it was not online was seen */
	uint32_t scanned;
	uint32_t count;
	struct engine_history lines[CHAIN_MAX]; /* newest first */
};

static bool is_request(enum event_kind kind)
{
	return kind >= EVENT_VM_CREATE && kind <= EVENT_VM_CANCEL;
}

static bool is_rest(uint32_t state)
{
	return state == VM_ONLINE || state == VM_SAVED || state == VM_FAILED;
}

static void keep(struct chain *chain, const struct engine_history *line)
{
	if (chain->count < CHAIN_MAX)
		chain->lines[chain->count++] = *line;
	if (line->owner && line->owner <= NODES_MAX)
		chain->nodes |= node_bit(line->owner);
}

/* Newest first; false: the chain is whole. */
static bool vm_line(struct chain *chain, const struct engine_history *line)
{
	bool own = !strcmp(line->vm, chain->vm);

	if (!own && !line->about)
		return true;
	keep(chain, line);
	if (!own || line->refused)
		return true;
	if (chain->ended) {
		chain->from = line->index;
		return false;
	}
	if (line->from_state == line->to_state)
		return true;
	if (is_request(line->kind)) {
		chain->ended = true;
		return true;
	}
	/* This is where the rest began that ended in the line before: long enough ago? */
	bool rested = chain->rest_ms && line->now_ms + REST_MS <= chain->rest_ms;
	chain->rest_ms = is_rest(line->from_state) ? line->now_ms : 0;
	if (rested)
		chain->from = line->index;
	return !rested;
}

static bool node_line(struct chain *chain, const struct engine_history *line)
{
	bool own = line->about == chain->node;

	if (!own && !line->vm[0])
		return true;
	keep(chain, line);
	if (!own)
		return true;
	chain->away |= line->to_state != NODE_ONLINE;
	if (line->to_state == NODE_ONLINE && chain->away && line->now_ms <= chain->since_ms) {
		chain->from = line->index;
		return false;
	}
	return true;
}

static bool on_line(void *ctx, const struct engine_history *line)
{
	struct chain *chain = ctx;

	if (++chain->scanned > SCAN_MAX || chain->count == CHAIN_MAX)
		return false;
	return chain->vm ? vm_line(chain, line) : node_line(chain, line);
}

/* A line that only stood between those that matter: another node's, another VM's. */
static bool matters(const struct chain *chain, uint32_t at)
{
	const struct engine_history *line = &chain->lines[at];

	if (line->refused)
		return false;
	if (chain->vm)
		return !strcmp(line->vm, chain->vm) ||
		       (line->about && (chain->nodes & node_bit(line->about)) && line->index >= chain->from &&
			       line->to_state != NODE_JOINING);
	if (line->about == chain->node)
		return true;
	/* A VM's line counts where the same event said something of the node. */
	for (uint32_t i = at ? at - 1 : 0; i < chain->count && chain->lines[i].index >= line->index; i++)
		if (chain->lines[i].index == line->index && chain->lines[i].about == chain->node)
			return true;
	for (uint32_t i = at; i < chain->count && chain->lines[i].index == line->index; i++)
		if (chain->lines[i].about == chain->node)
			return true;
	return false;
}

static json_t *lines_json(struct api *api, const struct chain *chain)
{
	json_t *lines = json_array();

	for (uint32_t i = chain->count; i-- > 0;)
		if (matters(chain, i))
			json_array_append_new(lines, view_history(api, &chain->lines[i]));
	return lines;
}

/* A node that does not act knows only what was, and why it waits is the first thing to know. */
static json_t *waits_json(struct api *api)
{
	struct engine_status status;

	engine_get_status(api->engine, &status);
	if (status.synced)
		return json_null();
	return json_pack("{s:s, s:s, s:s}", "node", status.node_name, "reason", status.reason, "hint", status.hint);
}

static void answer(struct api_call *call, struct chain *chain, json_t *subject, const char *kind)
{
	struct err err;

	if (engine_history_back(call->api->engine, UINT64_MAX, on_line, chain, &err) < 0) {
		json_decref(subject);
		call_fail(call, &err);
		return;
	}
	call_result(call,
		json_pack("{s:s, s:o, s:o, s:o}", "kind", kind, "waits", waits_json(call->api), "subject", subject, "lines",
			lines_json(call->api, chain)));
}

void call_why(struct api_call *call, const json_t *args)
{
	const char *vm_name = json_string_value(json_object_get(args, "vm"));
	const char *node_name = json_string_value(json_object_get(args, "node"));
	const struct cluster *cluster = engine_cluster(call->api->engine);
	CLEANUP_FREE struct chain *chain = calloc(1, sizeof(*chain));
	struct err err;

	assert(chain);
	if (!vm_name == !node_name) {
		err_set(&err, ERR_USAGE, "why takes either 'vm' or 'node'");
		call_fail(call, &err);
		return;
	}
	if (vm_name) {
		const struct vm *vm = call_vm(call, args);
		if (!vm)
			return;
		chain->vm = vm->def.name;
		if (vm->owner)
			chain->nodes |= node_bit(vm->owner);
		json_t *subject = view_vm(call->api, vm, false);
		if (vm->wait == WAIT_ROOM)
			json_object_set_new(subject, "placement", view_placement(call->api, vm));
		answer(call, chain, subject, "vm");
		return;
	}
	const struct node *node = cluster_node_find(cluster, node_name);
	if (!node) {
		err_set(&err, ERR_NOT_FOUND, "no node '%.63s'", node_name);
		call_fail_hint(call, &err, "'watari node list' shows all nodes");
		return;
	}
	chain->node = node->id;
	chain->since_ms = node->quarantine_ms ? node->left_ms - (node->left_ms < FLAPS_MS ? node->left_ms : FLAPS_MS) : UINT64_MAX;
	answer(call, chain, view_node(call->api, node), "node");
}
