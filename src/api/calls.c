/* SPDX-License-Identifier: Apache-2.0
 * The table of calls, and the life of one call: line, check, run, answer. */
#include "api/internal.h"

#include "base/log.h"

#include <assert.h>
#include <string.h>

/* clang-format off */
#define VM_ARG {"vm", ARG_TEXT, true, NAME_BYTES - 1, "name or UUID of the VM"}
#define DEVICE_ARG {"device", ARG_TEXT, true, NAME_BYTES - 1, "name of the fence device"}
#define DRY_RUN_ARG {"dry_run", ARG_BOOL, false, 0, "check everything, change nothing"}

const struct api_verb api_verbs[] = {
	{"api.list", false, {}, call_api_list, "the calls of this API and their arguments"},
	{"cluster.status", false, {}, call_cluster_status, "quorum, membership and counts, as this node sees them"},
	{"cluster.force_quorum", true, {
		{"confirm", ARG_TEXT, true, NAME_BYTES - 1, "the name of the node that is asked, typed by the one who takes the risk"},
		DRY_RUN_ARG,
	}, call_force_quorum, "make the nodes that this one sees a quorum, although they are no majority"},
	{"node.list", false, {}, call_node_list, "all nodes"},
	{"node.show", false, {
		{"node", ARG_TEXT, true, NAME_BYTES - 1, "name of the node"},
	}, call_node_show, "one node"},
	{"node.confirm_off", true, {
		{"node", ARG_TEXT, true, NAME_BYTES - 1, "name of the node"},
		{"confirm", ARG_TEXT, true, NAME_BYTES - 1, "the same name, typed by the person who saw that it is off"},
		DRY_RUN_ARG,
	}, call_node_confirm_off, "a person's word that a lost node is off: its VMs are started elsewhere"},
	{"node.fence", true, {
		{"node", ARG_TEXT, true, NAME_BYTES - 1, "name of the node"},
		{"force", ARG_BOOL, false, 0, "also where the limits say that it is enough"},
		DRY_RUN_ARG,
	}, call_node_fence, "switch a lost node off now, by its fence devices"},
	{"node.resume", true, {
		{"node", ARG_TEXT, true, NAME_BYTES - 1, "name of the node"},
		DRY_RUN_ARG,
	}, call_node_resume, "end a node's quarantine now"},
	{"fence.list", false, {}, call_fence_list, "all fence devices"},
	{"fence.show", false, {DEVICE_ARG}, call_fence_show, "one fence device"},
	{"fence.agent", false, {
		{"agent", ARG_TEXT, true, 63, "its file name, such as fence_ipmilan"},
	}, call_fence_agent, "what a fence agent on this node says of itself and of its options"},
	{"fence.set", true, {
		{"device", ARG_OBJECT, true, 0, "the device, as fence.show prints it"},
		{"create", ARG_BOOL, false, 0, "refuse it where a device of this name exists"},
		{"no_check", ARG_BOOL, false, 0, "do not hold its options against the agent on this node"},
		DRY_RUN_ARG,
	}, call_fence_set, "define a fence device, or change one"},
	{"fence.remove", true, {DEVICE_ARG, DRY_RUN_ARG}, call_fence_remove, "forget a fence device"},
	{"fence.check", false, {DEVICE_ARG}, call_fence_check, "hold its options against its agent on this node"},
	{"fence.status", false, {DEVICE_ARG}, call_fence_status, "ask the device, from this node, whether its node has power"},
	{"fence.off", true, {
		DEVICE_ARG,
		{"confirm", ARG_TEXT, true, NAME_BYTES - 1, "the name of the node that will lose its power"},
		DRY_RUN_ARG,
	}, call_fence_off, "a test: switch the device's node off; refused unless all nodes are online and it has no VM"},
	{"fence.on", true, {DEVICE_ARG}, call_fence_on, "switch the device's node on"},
	{"vm.list", false, {
		{"after", ARG_NUMBER, false, VMS_MAX, "go on behind this position: \"next\" of the answer before"},
		{"limit", ARG_NUMBER, false, 1000, "at most so many (default 1000)"},
	}, call_vm_list, "all VMs, page by page"},
	{"vm.show", false, {VM_ARG}, call_vm_show, "one VM with its definition"},
	{"vm.create", true, {
		{"definition", ARG_OBJECT, true, 0, "the VM, as vm.show prints it; what is left out is chosen and pinned"},
		DRY_RUN_ARG,
	}, call_vm_create, "define a VM; it is off"},
	{"vm.edit", true, {
		VM_ARG,
		{"definition", ARG_OBJECT, true, 0, "the whole new definition"},
		{"was", ARG_OBJECT, false, 0, "the definition that was edited: refused where another edit came in between"},
		DRY_RUN_ARG,
	}, call_vm_edit, "change the definition of a VM that is off"},
	{"vm.delete", true, {
		VM_ARG,
		{"force", ARG_BOOL, false, 0, "also where a saved state is lost with it"},
		DRY_RUN_ARG,
	}, call_vm_delete, "forget a VM that is off or saved; its disks stay"},
	{"vm.start", true, {
		VM_ARG,
		{"node", ARG_TEXT, false, NAME_BYTES - 1, "start there, instead of on the best node"},
		{"discard_state", ARG_BOOL, false, 0, "throw the saved state away and boot"},
		DRY_RUN_ARG,
	}, call_vm_start, "start a VM; one that was saved goes on where it was"},
	{"vm.shutdown", true, {VM_ARG, DRY_RUN_ARG}, call_vm_shutdown, "ask the guest to power itself off; what waits to be started is not, any more"},
	{"vm.stop", true, {VM_ARG, DRY_RUN_ARG}, call_vm_stop, "power off at once, like pulling the cord; what waits to be started is not, any more"},
	{"vm.save", true, {VM_ARG, DRY_RUN_ARG}, call_vm_save, "save the memory to shared storage and power off"},
	{"vm.move", true, {
		VM_ARG,
		{"target", ARG_TEXT, true, NAME_BYTES - 1, "name of the node to move to"},
		{"type", ARG_TEXT, false, 16, "quick (the only one so far)"},
		{"dry_run", ARG_BOOL, false, 0, "let the target prove that it could take the VM, then end"},
	}, call_vm_move, "move a running VM to another node"},
	{"vm.cancel", true, {VM_ARG, DRY_RUN_ARG}, call_vm_cancel, "stop the task that is under way; the guest runs on"},
	{"vm.console", false, {VM_ARG}, call_vm_console, "where the serial console of a VM of this node is"},
	{"task.list", false, {
		{"running", ARG_BOOL, false, 0, "only those under way"},
		{"vm", ARG_TEXT, false, NAME_BYTES - 1, "only those of this VM"},
	}, call_task_list, "the newest tasks, oldest first"},
	{"task.show", false, {
		{"task", ARG_NUMBER, true, INT64_MAX, "number of the task"},
		{"vm", ARG_TEXT, false, NAME_BYTES - 1, "whose, where one event began several"},
	}, call_task_show, "one task with its figures"},
	{"task.wait", false, {
		{"task", ARG_NUMBER, true, INT64_MAX, "number of the task"},
		{"vm", ARG_TEXT, false, NAME_BYTES - 1, "whose, where one event began several"},
		{"timeout_ms", ARG_NUMBER, false, 86400000, "give up after this; 0: never"},
	}, call_task_wait, "answers when the task has ended"},
	{"why", false, {
		{"vm", ARG_TEXT, false, NAME_BYTES - 1, "name or UUID of a VM"},
		{"node", ARG_TEXT, false, NAME_BYTES - 1, "or the name of a node"},
	}, call_why, "the chain of causes that led to what a VM or a node is now"},
	{"forecast", false, {
		{"fail", ARG_TEXT, false, NODES_MAX * NAME_BYTES, "names of nodes with commas between, that die at once (default: each node in turn)"},
	}, call_forecast, "where each VM would go if nodes died now, and how many deaths the cluster survives"},
	{"log.list", false, {
		{"after", ARG_NUMBER, false, INT64_MAX, "only lines behind this index"},
		{"since_ms", ARG_NUMBER, false, INT64_MAX, "only lines of this time (ms since 1970) or later"},
		{"vm", ARG_TEXT, false, NAME_BYTES - 1, "only lines about this VM"},
		{"node", ARG_TEXT, false, NAME_BYTES - 1, "only lines about this node, about a VM that it owns then, or that name it"},
		{"count", ARG_NUMBER, false, 1000, "at most so many, the newest (default 200)"},
	}, call_log_list, "what happened, oldest first"},
	{"subscribe", false, {
		{"vm", ARG_TEXT, false, NAME_BYTES - 1, "only news of this VM"},
		{"node", ARG_TEXT, false, NAME_BYTES - 1, "of the log only lines about this node, as log.list"},
		{"progress", ARG_BOOL, false, 0, "also the progress of what is under way (default true)"},
		{"log", ARG_BOOL, false, 0, "also each line of the log (default false)"},
	}, call_subscribe, "from now on send an event for each change; one subscription per connection"},
};
/* clang-format on */
const size_t api_verb_count = ARRAY_SIZE(api_verbs);

static const struct api_verb *verb_find(const char *name)
{
	for (size_t i = 0; i < api_verb_count; i++)
		if (!strcmp(api_verbs[i].name, name))
			return &api_verbs[i];
	return NULL;
}

static const struct api_arg *arg_find(const struct api_verb *verb, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(verb->args) && verb->args[i].name; i++)
		if (!strcmp(verb->args[i].name, name))
			return &verb->args[i];
	return NULL;
}

static int check_arg(const struct api_arg *arg, const json_t *value, struct err *err)
{
	switch (arg->type) {
	case ARG_TEXT:
		if (!json_is_string(value))
			return err_set(err, ERR_INVALID, "%s: text expected", arg->name);
		if (json_string_length(value) > arg->max)
			return err_set(err, ERR_INVALID, "%s: %zu bytes, at most %llu are allowed", arg->name,
				json_string_length(value), (unsigned long long)arg->max);
		if (!json_string_length(value))
			return err_set(err, ERR_INVALID, "%s: must not be empty", arg->name);
		if (!schema_text_ok(json_string_value(value), json_string_length(value)))
			return err_set(err, ERR_INVALID, "%s: control characters are not allowed", arg->name);
		return 0;
	case ARG_NUMBER:
		if (!json_is_integer(value) || json_integer_value(value) < 0 ||
			(uint64_t)json_integer_value(value) > arg->max)
			return err_set(err, ERR_INVALID, "%s: a whole number from 0 to %llu", arg->name,
				(unsigned long long)arg->max);
		return 0;
	case ARG_BOOL:
		return json_is_boolean(value) ? 0 : err_set(err, ERR_INVALID, "%s: true or false expected", arg->name);
	case ARG_OBJECT:
		return json_is_object(value) ? 0 : err_set(err, ERR_INVALID, "%s: an object expected", arg->name);
	}
	return -1;
}

int calls_check_args(const struct api_verb *verb, const json_t *args, struct err *err)
{
	const char *key;
	json_t *value;

	if (args && !json_is_object(args))
		return err_set(err, ERR_INVALID, "args: an object expected");
	json_object_foreach((json_t *)(uintptr_t)args, key, value)
	{
		const struct api_arg *arg = arg_find(verb, key);
		if (!arg)
			return err_set(err, ERR_USAGE, "%s takes no argument '%.64s'", verb->name, key);
		if (check_arg(arg, value, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(verb->args) && verb->args[i].name; i++)
		if (verb->args[i].required && !json_object_get(args, verb->args[i].name))
			return err_set(err, ERR_USAGE, "%s needs the argument '%s'", verb->name, verb->args[i].name);
	return 0;
}

static void call_free(struct api_call *call)
{
	loop_timer_cancel(call->api->loop, call->timer);
	disk_check_forget(call->disks);
	forecast_forget(call->forecast);
	free(call->event);
	free(call);
}

/* Takes the call off its client's list: from here on nothing reaches it. */
static void call_unlink(struct api_call *call)
{
	struct api_call **at = &call->client->calls;

	while (*at != call)
		at = &(*at)->next;
	*at = call->next;
	call->client->call_count--;
	engine_forget(call->api->engine, call);
}

void call_drop(struct api_call *call)
{
	call_unlink(call);
	call_free(call);
}

static void call_answer(struct api_call *call, json_t *message)
{
	struct client *client = call->client;

	json_object_set_new(message, "id", json_integer((json_int_t)call->id));
	client->heard_ms = loop_now_ms(call->api->loop);
	call_drop(call);
	client_send(client, message);
}

void call_result(struct api_call *call, json_t *result)
{
	json_t *message = json_object();

	json_object_set_new(message, "result", result);
	call_answer(call, message);
}

/* What to do next, where the error itself does not say it. */
static const char *hint_of(enum err_code code)
{
	switch (code) {
	case ERR_NO_QUORUM:
		return "changes are refused until a majority of the nodes is back; 'watari status' shows who is "
		       "missing";
	case ERR_BUSY:
		return "'watari task list' shows what is under way; wait for it, or stop it with 'watari vm cancel'";
	case ERR_TIMEOUT:
		return "the outcome is not known: 'watari task list' and 'watari log' show whether it was done";
	case ERR_UNFIT:
		return "'watari node list' and 'watari vm show' have the facts; --dry-run asks without changing "
		       "anything";
	case ERR_NO_ROOM:
		return "ask again soon, or for another node; if it stays so, something beside the VMs takes the node's "
		       "memory";
	case ERR_DENIED:
		return "run as root, or have an administrator add you to the group in watarid.conf, [api] group=";
	case ERR_NO_SPACE:
		return "free some space on the storage that is named, then ask again";
	case ERR_CONSUMED:
		return "a saved state is resumed once; start the VM without it";
	case ERR_NEEDS_FORCE:
		return "start it to keep what would be lost; or ask again with --yes (in the API: force)";
	case ERR_NONE:
	case ERR_USAGE:
	case ERR_INVALID:
	case ERR_NOT_FOUND:
	case ERR_EXISTS:
	case ERR_CANCELLED:
	case ERR_IO:
	case ERR_CORRUPT:
	case ERR_PROTOCOL:
	case ERR_UNAVAILABLE:
	case ERR_SYSTEM:
	case ERR_CODE_COUNT:
		break;
	}
	return "";
}

static json_t *error_json(const struct err *err, const char *hint)
{
	const struct err_info *info = err_info(err->code);
	/* A text that was cut in the middle of a character is no UTF-8; jansson would refuse it. */
	json_t *message = json_string(err->text);

	return json_pack("{s:s, s:i, s:s, s:o, s:s}", "code", info->name, "exit", info->exit_status, "exit_name",
		info->exit_name, "message", message ? message : json_string("the message is not valid text"), "hint",
		hint);
}

void call_fail_hint(struct api_call *call, const struct err *err, const char *hint)
{
	json_t *message = json_object();

	json_object_set_new(message, "error", error_json(err, hint));
	call_answer(call, message);
}

void call_fail(struct api_call *call, const struct err *err)
{
	call_fail_hint(call, err, hint_of(err->code));
}

/* For lines that never became a call. */
static void line_fail(struct client *client, json_t *id, const struct err *err)
{
	json_t *message = json_object();

	json_object_set(message, "id", json_is_integer(id) ? id : json_null());
	json_object_set_new(message, "error", error_json(err, hint_of(err->code)));
	client_send(client, message);
}

static int check_line(const json_t *line, struct err *err)
{
	const char *key;
	json_t *value;

	if (!json_is_object(line))
		return err_set(err, ERR_INVALID, "a call is an object: {\"id\":1,\"call\":\"…\",\"args\":{…}}");
	json_object_foreach((json_t *)(uintptr_t)line, key, value)
	{
		if (strcmp(key, "id") != 0 && strcmp(key, "call") != 0 && strcmp(key, "args") != 0)
			return err_set(err, ERR_USAGE, "unknown key '%.64s': a call has id, call and args", key);
	}
	const json_t *id = json_object_get(line, "id");
	if (!json_is_integer(id) || json_integer_value(id) < 0)
		return err_set(err, ERR_INVALID, "id: a whole number from 0 to %lld", (long long)INT64_MAX);
	if (!json_is_string(json_object_get(line, "call")))
		return err_set(err, ERR_INVALID, "call: text expected");
	return 0;
}

static struct api_call *call_new(struct client *client, const struct api_verb *verb, uint64_t id)
{
	struct api_call *call = calloc(1, sizeof(*call));

	assert(call);
	call->api = client->api;
	call->client = client;
	call->verb = verb;
	call->id = id;
	call->next = client->calls;
	client->calls = call;
	client->call_count++;
	return call;
}

void calls_take_line(struct client *client, const char *line, size_t size)
{
	struct err err = {0};
	CLEANUP_JSON json_t *message = json_parse(line, size, &err);
	json_t *id = json_object_get(message, "id");

	if (!message || check_line(message, &err) < 0) {
		line_fail(client, id, &err);
		return;
	}
	const char *name = json_string_value(json_object_get(message, "call"));
	const json_t *args = json_object_get(message, "args");
	const struct api_verb *verb = verb_find(name);
	if (!verb)
		err_set(&err, ERR_USAGE, "no call '%.64s'; api.list has them all", name);
	else if (client->call_count >= API_CALLS_MAX)
		err_set(&err, ERR_BUSY, "%d calls of this client are outstanding already", API_CALLS_MAX);
	else if (!client_may_call(client))
		err_set(&err, ERR_DENIED, "user '%s' may not use this API", client->name);
	else
		calls_check_args(verb, args, &err);
	if (err.code == ERR_DENIED)
		log_warning("api: denied: %s asked for %s", client->name, verb->name);
	if (err.code) {
		line_fail(client, id, &err);
		return;
	}
	struct api_call *call = call_new(client, verb, (uint64_t)json_integer_value(id));
	verb->run(call, args);
}

static bool waits_for_room(const struct api_call *call, const char *uuid)
{
	const struct vm *vm = cluster_vm_find(engine_cluster(call->api->engine), uuid);

	return vm && vm->want == WANT_ON && vm->wait == WAIT_ROOM;
}

/* What is asked about nodes and devices is refused for other reasons than what is asked about VMs. */
static void refused_hint(const struct api_call *call, enum err_code code, char *hint, size_t size)
{
	const struct event *event = call->event;
	bool node = event->kind == EVENT_NODE_CONFIRM_OFF || event->kind == EVENT_NODE_FENCE || event->kind == EVENT_NODE_RESUME;
	struct engine_status status;

	engine_get_status(call->api->engine, &status);
	if (code == ERR_NO_QUORUM && status.hint[0])
		snprintf(hint, size, "%s", status.hint);
	else if (node && code == ERR_NEEDS_FORCE)
		snprintf(hint, size, "look at the nodes that are away; --force (in the API: force) fences it all the same");
	else if (node && code == ERR_UNFIT)
		snprintf(hint, size, "'watari node show %s' has what is known of it, 'watari why node/%s' how that came",
			cluster_node_name(engine_cluster(call->api->engine), event->target),
			cluster_node_name(engine_cluster(call->api->engine), event->target));
	else if (node && code == ERR_BUSY)
		snprintf(hint, size, "'watari node show %s' says how far it is",
			cluster_node_name(engine_cluster(call->api->engine), event->target));
	else if (code == ERR_NO_QUORUM && status.synced)
		snprintf(hint, size, "'watari node list' says who is lost; when you have seen that it has no power: watari node confirm-off");
	else if (event->kind == EVENT_VM_START && code == ERR_UNFIT && waits_for_room(call, event->vm))
		snprintf(hint, size, "it waits for room and starts by itself when there is some; 'watari vm stop' takes that wish away");
	else if (event->kind == EVENT_QUORUM_FORCED && code == ERR_UNFIT)
		snprintf(hint, size, "'watari status' says whether this node acts, and what it waits for");
	else
		snprintf(hint, size, "%s", hint_of(code));
}

static void submit_reply(void *ctx, const struct engine_reply *reply)
{
	struct api_call *call = ctx;
	char hint[2 * REASON_BYTES];
	struct err err;

	log_info("api: %s asked for %s%s: %s%s%s", call->client->name, call->verb->name,
		call->try_only ? " (dry run)" : "", err_info(reply->code)->name, reply->text[0] ? ": " : "",
		reply->text);
	if (reply->code) {
		err_set(&err, reply->code, "%s", reply->text);
		refused_hint(call, reply->code, hint, sizeof(hint));
		call_fail_hint(call, &err, hint);
		return;
	}
	json_t *result = json_pack("{s:b}", "dry_run", call->try_only || call->event->dry_run);
	json_object_set_new(result, "vm_uuid", json_string(call->event->vm));
	if (reply->task)
		json_object_set_new(result, "task", json_integer((json_int_t)reply->task));
	if (reply->index)
		json_object_set_new(result, "index", json_integer((json_int_t)reply->index));
	if (reply->text[0])
		json_object_set_new(result, "text", json_string(reply->text));
	call_result(call, result);
}

void call_submit_forced(struct api_call *call)
{
	struct engine_reply would = {0};

	if (call->try_only) {
		engine_may_force(call->api->engine, &would);
		submit_reply(call, &would);
		return;
	}
	log_warning("api: %s forces quorum", call->client->name);
	engine_force_quorum(call->api->engine, call->client->name, submit_reply, call);
}

void call_submit(struct api_call *call)
{
	assert(call->event);
	snprintf(call->event->by, sizeof(call->event->by), "%s", call->client->name);
	if (call->try_only) {
		struct engine_reply reply = {0};
		engine_try(call->api->engine, call->event, &reply);
		submit_reply(call, &reply);
		return;
	}
	engine_submit(call->api->engine, call->event, submit_reply, call);
}
