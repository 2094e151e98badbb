/* SPDX-License-Identifier: Apache-2.0
 * Calls that only look. They answer from the last committed state that this node knows, with or without quorum. */
#include "api/internal.h"

#include <string.h>

enum { PAGE_VMS = 1000, PAGE_LINES = 200 };

static uint64_t number_or(const json_t *args, const char *key, uint64_t absent)
{
	const json_t *value = json_object_get(args, key);

	return value ? (uint64_t)json_integer_value(value) : absent;
}

static const char *type_name(enum arg_type type)
{
	switch (type) {
	case ARG_TEXT:
		return "text";
	case ARG_NUMBER:
		return "number";
	case ARG_BOOL:
		return "bool";
	case ARG_OBJECT:
		return "object";
	}
	return "?";
}

void call_api_list(struct api_call *call, const json_t *args)
{
	json_t *calls = json_array();

	(void)args;
	for (size_t v = 0; v < api_verb_count; v++) {
		const struct api_verb *verb = &api_verbs[v];
		json_t *list = json_array();
		for (size_t i = 0; i < ARRAY_SIZE(verb->args) && verb->args[i].name; i++) {
			const struct api_arg *arg = &verb->args[i];
			json_t *entry = json_pack("{s:s, s:s, s:b, s:s}", "name", arg->name, "type",
				type_name(arg->type), "required", arg->required, "help", arg->help);
			if (arg->max)
				json_object_set_new(entry, "max", json_integer((json_int_t)arg->max));
			json_array_append_new(list, entry);
		}
		json_array_append_new(calls, json_pack("{s:s, s:b, s:s, s:o}", "call", verb->name, "changes",
						     verb->changes, "help", verb->help, "args", list));
	}
	call_result(call, json_pack("{s:o}", "calls", calls));
}

void call_cluster_status(struct api_call *call, const json_t *args)
{
	(void)args;
	call_result(call, view_status(call->api));
}

void call_node_list(struct api_call *call, const json_t *args)
{
	const struct cluster *cluster = engine_cluster(call->api->engine);
	json_t *nodes = json_array();

	(void)args;
	for (uint32_t i = 0; i < NODES_MAX; i++)
		if (cluster->nodes[i].id)
			json_array_append_new(nodes, view_node(call->api, &cluster->nodes[i]));
	call_result(call, json_pack("{s:o}", "nodes", nodes));
}

void call_node_show(struct api_call *call, const json_t *args)
{
	int node = call_node(call, args, "node"); /* required, so not 0 */

	if (node > 0)
		call_result(call, view_node(call->api, cluster_node(engine_cluster(call->api->engine), (uint32_t)node)));
}

void call_vm_list(struct api_call *call, const json_t *args)
{
	const struct cluster *cluster = engine_cluster(call->api->engine);
	uint64_t at = number_or(args, "after", 0);
	uint64_t limit = number_or(args, "limit", PAGE_VMS);
	json_t *vms = json_array();

	for (; at < cluster->vm_count && json_array_size(vms) < limit; at++)
		if (cluster->vms[at].def.uuid[0])
			json_array_append_new(vms, view_vm(call->api, &cluster->vms[at], false));
	json_t *result = json_pack("{s:o}", "vms", vms);
	if (at < cluster->vm_count)
		json_object_set_new(result, "next", json_integer((json_int_t)at));
	call_result(call, result);
}

void call_vm_show(struct api_call *call, const json_t *args)
{
	const struct vm *vm = call_vm(call, args);

	if (vm)
		call_result(call, view_vm(call->api, vm, true));
}

void call_vm_console(struct api_call *call, const json_t *args)
{
	const struct cluster *cluster = engine_cluster(call->api->engine);
	const struct vm *vm = call_vm(call, args);
	struct engine_status status;
	struct err err;

	if (!vm)
		return;
	engine_get_status(call->api->engine, &status);
	if (!vm->owner) {
		err_set(&err, ERR_UNFIT, "VM '%s' is %s: it has no console", vm->def.name,
			vm_state_name((int)vm->state));
		call_fail_hint(call, &err, "start it first: watari vm start");
		return;
	}
	if (vm->owner != status.node) {
		char hint[2 * NAME_BYTES + 64];
		const char *owner = cluster_node_name(cluster, vm->owner);
		err_set(&err, ERR_UNFIT, "VM '%s' runs on %s, this is %s: its console is a socket of that node",
			vm->def.name, owner, status.node_name);
		snprintf(hint, sizeof(hint), "run it there: ssh %s watari vm console %s", owner, vm->def.name);
		call_fail_hint(call, &err, hint);
		return;
	}
	json_t *result = json_pack("{s:s, s:s}", "vm", vm->def.name, "node", status.node_name);
	json_object_set_new(result, "socket", json_sprintf("%s/vm/%s/serial.sock", call->api->run_dir, vm->def.uuid));
	call_result(call, result);
}

/* Those that one event has begun share its number, and the VM tells them apart. */
static bool is_later(const struct task *task, const struct task *than)
{
	return !than || task->id > than->id || (task->id == than->id && strcmp(task->vm_uuid, than->vm_uuid) > 0);
}

void call_task_list(struct api_call *call, const json_t *args)
{
	const struct cluster *cluster = engine_cluster(call->api->engine);
	bool running = json_is_true(json_object_get(args, "running"));
	const char *vm = json_string_value(json_object_get(args, "vm"));
	json_t *tasks = json_array();
	const struct task *last = NULL;

	/* The table reuses its slots; ids rise with time. At most TASKS_MAX, so the square does not matter. */
	for (uint32_t round = 0; round < cluster->task_count; round++) {
		const struct task *next = NULL;
		for (uint32_t i = 0; i < cluster->task_count; i++) {
			const struct task *task = &cluster->tasks[i];
			if (is_later(task, last) && (!next || is_later(next, task)))
				next = task;
		}
		if (!next)
			break;
		last = next;
		if (running && next->state != TASK_RUNNING)
			continue;
		if (vm && strcmp(vm, next->vm) != 0 && strcmp(vm, next->vm_uuid) != 0)
			continue;
		json_array_append_new(tasks, view_task(call->api, next));
	}
	call_result(call, json_pack("{s:o}", "tasks", tasks));
}

static bool is_of(const struct task *task, const char *vm)
{
	return !vm || !strcmp(task->vm, vm) || !strcmp(task->vm_uuid, vm);
}

const struct task *api_task_find(const struct cluster *cluster, uint64_t id, const char *vm, uint32_t *count)
{
	const struct task *found = NULL, *asked = NULL;
	uint32_t asked_count = 0;

	*count = 0;
	for (uint32_t i = 0; id && i < cluster->task_count; i++) {
		const struct task *task = &cluster->tasks[i];
		if (task->id != id || !is_of(task, vm))
			continue;
		found = task;
		++*count;
		if (strcmp(task->by, "watari") != 0) {
			asked = task;
			asked_count++;
		}
	}
	if (asked_count == 1)
		*count = 1;
	return asked_count == 1 ? asked : *count == 1 ? found : NULL;
}

const struct task *call_task(struct api_call *call, uint64_t id, const char *vm)
{
	const struct cluster *cluster = engine_cluster(call->api->engine);
	uint32_t count, named = 0;
	const struct task *found = api_task_find(cluster, id, vm, &count);
	char names[160] = "";
	size_t used = 0;
	struct err err;

	if (found)
		return found;
	if (!count) {
		err_set(&err, ERR_NOT_FOUND, "no task %llu%s%.63s; the newest %d are kept", (unsigned long long)id,
			vm ? " of " : "", vm ? vm : "", TASKS_MAX);
		call_fail_hint(call, &err, "'watari task list' shows the tasks, 'watari log' what was done before");
		return NULL;
	}
	for (uint32_t i = 0; i < cluster->task_count && used < sizeof(names) - NAME_BYTES - 8; i++)
		if (cluster->tasks[i].id == id && is_of(&cluster->tasks[i], vm))
			used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", named++ ? ", " : "",
				cluster->tasks[i].vm);
	err_set(&err, ERR_INVALID, "one event began %u tasks of number %llu: of %s%s", count, (unsigned long long)id, names,
		named < count ? " ..." : "");
	call_fail_hint(call, &err, "name the VM, as in 'watari task show 42 --vm web'");
	return NULL;
}

void call_task_show(struct api_call *call, const json_t *args)
{
	const struct task *task = call_task(call, number_or(args, "task", 0), json_string_value(json_object_get(args, "vm")));

	if (task)
		call_result(call, view_task(call->api, task));
}

struct log_reader {
	struct api *api;
	json_t *lines;
	uint64_t since_ms, after;
	const char *vm;
	uint32_t node;
	size_t count;
};

/* Its name as a word of its own: n1 is not in "n10". */
static bool names(const char *text, const char *name)
{
	size_t length = strlen(name);

	for (const char *at = text; length && (at = strstr(at, name)); at++) {
		bool begins = at == text || !name_ok((char[]){at[-1], 0});
		/* "n3." ends a sentence; "n3.lan" is another name. */
		size_t more = strspn(at + length, ".-_");
		if (begins && !name_ok((char[]){at[length + more], 0}))
			return true;
	}
	return false;
}

bool line_concerns(const struct cluster *cluster, const struct engine_history *line, uint32_t node)
{
	return line->about == node || line->owner == node || names(line->text, cluster_node_name(cluster, node));
}

static bool log_line_read(void *ctx, const struct engine_history *line)
{
	struct log_reader *reader = ctx;

	if (line->now_ms < reader->since_ms || line->index <= reader->after)
		return false; /* time goes on with the index: all that is older is older */
	if ((!reader->vm || !strcmp(reader->vm, line->vm)) &&
		(!reader->node || line_concerns(engine_cluster(reader->api->engine), line, reader->node)))
		json_array_append_new(reader->lines, view_history(reader->api, line));
	return json_array_size(reader->lines) < reader->count;
}

void call_log_list(struct api_call *call, const json_t *args)
{
	CLEANUP_JSON json_t *newest_first = json_array();
	struct log_reader reader = {
		.api = call->api,
		.lines = newest_first,
		.since_ms = number_or(args, "since_ms", 0),
		.after = number_or(args, "after", 0),
		.vm = json_string_value(json_object_get(args, "vm")),
		.count = (size_t)number_or(args, "count", PAGE_LINES),
	};
	int node = call_node(call, args, "node");
	if (node < 0)
		return;
	reader.node = (uint32_t)node;
	json_t *lines = json_array();
	struct err err;

	if (reader.count && engine_history_back(call->api->engine, UINT64_MAX, log_line_read, &reader, &err) < 0) {
		json_decref(lines);
		call_fail(call, &err);
		return;
	}
	for (size_t i = json_array_size(newest_first); i-- > 0;)
		json_array_append(lines, json_array_get(newest_first, i));
	call_result(call, json_pack("{s:o}", "lines", lines));
}
