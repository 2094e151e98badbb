/* SPDX-License-Identifier: Apache-2.0
 * News for those who wait: the end of a task, and the stream of changes. */
#include "api/internal.h"

#include <string.h>

static bool wants_vm(const struct client *client, const char *vm_uuid)
{
	return !client->subscription.vm[0] || !strcmp(client->subscription.vm, vm_uuid);
}

static void send_event(struct client *client, const char *kind, const char *key, json_t *view)
{
	json_t *event = json_pack("{s:s, s:o}", "kind", kind, key, view);

	client_send(client, json_pack("{s:I, s:o}", "id", (json_int_t)client->subscription.id, "event", event));
}

static bool is_synced(struct api *api)
{
	struct engine_status status;

	engine_get_status(api->engine, &status);
	return status.synced;
}

/* Answers a call whose task has ended, or is not to be found by a node that knows the current state; a node that was
 * just started may not know it yet. */
static bool answer_waiter(struct api_call *call)
{
	const char *vm = call->wait_vm[0] ? call->wait_vm : NULL;
	uint32_t count = 0;
	const struct task *task = api_task_find(engine_cluster(call->api->engine), call->wait_task, vm, &count);

	if (!call->wait_task || (task && task->state == TASK_RUNNING) || (!count && !is_synced(call->api)))
		return false;
	if (task || (task = call_task(call, call->wait_task, vm)))
		call_result(call, view_task(call->api, task));
	return true;
}

/* The list changes with each answer, so it begins again after each. */
static void answer_waiters(struct api *api)
{
	for (size_t i = 0; i < API_CLIENTS_MAX; i++) {
		struct client *client = api->clients[i];
		struct api_call *call = client && !client->closing ? client->calls : NULL;
		while (call)
			call = !answer_waiter(call) ? call->next : client->closing ? NULL : client->calls;
	}
}

/* The engine names VMs and nodes; a task changes along with its VM, and is found by comparing with what was sent. */
static void send_tasks(struct api *api)
{
	const struct cluster *cluster = engine_cluster(api->engine);

	for (uint32_t t = 0; t < cluster->task_count; t++) {
		const struct task *task = &cluster->tasks[t];
		struct api_task_seen *seen = &api->tasks_seen[t];
		if (seen->id == task->id && seen->state == task->state)
			continue;
		*seen = (struct api_task_seen){task->id, task->state};
		for (size_t i = 0; i < API_CLIENTS_MAX; i++) {
			struct client *client = api->clients[i];
			if (client && client->subscription.on && wants_vm(client, task->vm_uuid))
				send_event(client, "task", "task", view_task(api, task));
		}
	}
}

static void on_changed(void *ctx, int vm_index, uint64_t nodes, uint64_t task_id)
{
	struct api *api = ctx;
	const struct cluster *cluster = engine_cluster(api->engine);
	const struct vm *vm = vm_index >= 0 ? &cluster->vms[vm_index] : NULL;

	(void)task_id;
	for (size_t i = 0; i < API_CLIENTS_MAX; i++) {
		struct client *client = api->clients[i];
		if (!client || client->closing)
			continue;
		if (client->subscription.on && vm && vm->def.uuid[0] && wants_vm(client, vm->def.uuid))
			send_event(client, "vm", "vm", view_vm(api, vm, false));
		for (uint32_t id = 1; nodes && id <= NODES_MAX; id++)
			if (client->subscription.on && (nodes & node_bit(id)) && !client->subscription.vm[0])
				send_event(client, "node", "node", view_node(api, cluster_node(cluster, id)));
	}
	send_tasks(api);
	answer_waiters(api);
}

static void on_progress(void *ctx, const struct engine_progress *progress)
{
	struct api *api = ctx;

	for (size_t i = 0; i < API_CLIENTS_MAX; i++) {
		struct client *client = api->clients[i];
		if (client && client->subscription.on && client->subscription.progress &&
			wants_vm(client, progress->vm))
			send_event(client, "progress", "progress", view_progress(api, progress));
	}
}

static void on_history(void *ctx, const struct engine_history *line)
{
	struct api *api = ctx;
	const struct vm *vm = line->vm[0] ? cluster_vm_find(engine_cluster(api->engine), line->vm) : NULL;

	for (size_t i = 0; i < API_CLIENTS_MAX; i++) {
		struct client *client = api->clients[i];
		if (!client || !client->subscription.on || !client->subscription.log)
			continue;
		uint32_t node = client->subscription.node;
		if (wants_vm(client, vm ? vm->def.uuid : "") &&
			(!node || line_concerns(engine_cluster(api->engine), line, node)))
			send_event(client, "log", "line", view_history(api, line));
	}
}

/* For every subscriber: a node that took the others' state in one piece does not tell each change in it. */
static void on_status(void *ctx)
{
	struct api *api = ctx;

	for (size_t i = 0; i < API_CLIENTS_MAX; i++) {
		struct client *client = api->clients[i];
		if (client && client->subscription.on)
			send_event(client, "status", "status", view_status(api));
	}
	answer_waiters(api);
}

void watch_start(struct api *api)
{
	api->watcher = (struct engine_watcher){
		.ctx = api,
		.changed = on_changed,
		.progress = on_progress,
		.history = on_history,
		.status = on_status,
	};
	send_tasks(api); /* no client yet: only notes what is old */
	engine_watch(api->engine, &api->watcher);
}

void watch_stop(struct api *api)
{
	engine_unwatch(api->engine, &api->watcher);
}

static void wait_over(void *ctx)
{
	struct api_call *call = ctx;
	struct err err;

	call->timer = NULL;
	err_set(&err, ERR_TIMEOUT, "task %llu is still under way", (unsigned long long)call->wait_task);
	call_fail_hint(call, &err, "it goes on; 'watari task wait' waits again, 'watari vm cancel' stops it");
}

void call_task_wait(struct api_call *call, const json_t *args)
{
	uint64_t timeout_ms = (uint64_t)json_integer_value(json_object_get(args, "timeout_ms"));

	const char *vm = json_string_value(json_object_get(args, "vm"));

	call->wait_task = (uint64_t)json_integer_value(json_object_get(args, "task"));
	snprintf(call->wait_vm, sizeof(call->wait_vm), "%s", vm ? vm : "");
	if (!call->wait_task)
		call_task_show(call, args); /* there is no task 0 */
	else if (!answer_waiter(call) && timeout_ms)
		call->timer = loop_timer_set(call->api->loop, timeout_ms, wait_over, call);
}

void call_subscribe(struct api_call *call, const json_t *args)
{
	struct client *client = call->client;
	struct subscription subscription = {.on = true, .id = call->id};
	struct err err;

	if (client->subscription.on) {
		err_set(&err, ERR_EXISTS, "this connection has a subscription already");
		call_fail_hint(call, &err, "open another connection for another subscription");
		return;
	}
	if (json_object_get(args, "vm")) {
		const struct vm *vm = call_vm(call, args);
		if (!vm)
			return;
		strcpy(subscription.vm, vm->def.uuid);
	}
	int node = call_node(call, args, "node");
	if (node < 0)
		return;
	subscription.node = (uint32_t)node;
	subscription.progress = !json_is_false(json_object_get(args, "progress"));
	subscription.log = json_is_true(json_object_get(args, "log"));
	client->subscription = subscription;
	call_result(call, json_pack("{s:b, s:I}", "subscribed", 1, "index",
				  (json_int_t)engine_cluster(call->api->engine)->index));
}
