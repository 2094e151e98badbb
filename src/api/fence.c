/* SPDX-License-Identifier: Apache-2.0
 * Calls about fence devices, and about nodes that are to be proven off. What is known of a device is shown whole: it
 * holds no secret, only where one lies. */
#include "api/internal.h"

#include "base/log.h"

#include <assert.h>
#include <string.h>

static const struct fence_device *device_find(const struct cluster *cluster, const char *name)
{
	for (uint32_t i = 0; i < cluster->fence_device_count; i++)
		if (!strcmp(cluster->fence_devices[i].name, name))
			return &cluster->fence_devices[i];
	return NULL;
}

/* The device that args name, or NULL after the call was answered. */
static const struct fence_device *call_device(struct api_call *call, const json_t *args)
{
	const char *name = json_string_value(json_object_get(args, "device"));
	const struct fence_device *device = device_find(engine_cluster(call->api->engine), name);
	struct err err;

	if (device)
		return device;
	err_set(&err, ERR_NOT_FOUND, "no fence device '%s'", name);
	call_fail_hint(call, &err, "'watari fence list' shows all devices");
	return NULL;
}

static json_t *device_view(struct api *api, const struct fence_device *device)
{
	json_t *view = json_from_record(&fence_device_schema, device, 0);

	json_object_set_new(view, "node", node_name_json(engine_cluster(api->engine), device->node));
	return view;
}

void call_fence_list(struct api_call *call, const json_t *args)
{
	const struct cluster *cluster = engine_cluster(call->api->engine);
	json_t *devices = json_array();

	(void)args;
	for (uint32_t i = 0; i < cluster->fence_device_count; i++)
		json_array_append_new(devices, device_view(call->api, &cluster->fence_devices[i]));
	call_result(call, json_pack("{s:o}", "devices", devices));
}

void call_fence_show(struct api_call *call, const json_t *args)
{
	const struct fence_device *device = call_device(call, args);

	if (device)
		call_result(call, device_view(call->api, device));
}

/* A device as fence.show prints it: its node by name. */
static int device_from_json(
	const struct cluster *cluster, const json_t *json, struct fence_device *device, struct err *err)
{
	CLEANUP_JSON json_t *copy = json_copy((json_t *)(uintptr_t)json);
	const char *name = json_string_value(json_object_get(copy, "node"));
	const struct node *node = name ? cluster_node_find(cluster, name) : NULL;

	if (!name)
		return err_set(err, ERR_INVALID, "device.node: the name of the node that it switches");
	if (!node)
		return err_set(err, ERR_NOT_FOUND, "no node '%.64s' ('watari node list' shows all)", name);
	json_object_del(copy, "node");
	json_object_del(copy, "distrusted"); /* the cluster's own word */
	if (json_to_record(&fence_device_schema, copy, 0, device, err) < 0)
		return err_prefix(err, "device");
	device->node = node->id;
	fence_device_default(device);
	return fence_device_check(device, err);
}

static void on_set_checked(void *ctx, const struct engine_answer *answer)
{
	struct api_call *call = ctx;
	struct err err;

	if (!answer->code) {
		call_submit(call);
		return;
	}
	err_set(&err, answer->code, "%s", answer->text);
	call_fail_hint(
		call, &err, "mend it; or define it unchecked with --no-check, where the agent is not installed here");
}

void call_fence_set(struct api_call *call, const json_t *args)
{
	const struct cluster *cluster = engine_cluster(call->api->engine);
	struct event *event = call->event = calloc(1, sizeof(*event));
	struct err err;

	assert(event);
	event->kind = EVENT_FENCE_SET;
	call->try_only = json_is_true(json_object_get(args, "dry_run"));
	if (device_from_json(cluster, json_object_get(args, "device"), &event->fence, &err) < 0) {
		call_fail_hint(call, &err, "'watari fence add --help' has examples");
		return;
	}
	if (json_is_true(json_object_get(args, "create")) && device_find(cluster, event->fence.name)) {
		err_set(&err, ERR_EXISTS, "fence device '%s' exists already", event->fence.name);
		call_fail_hint(call, &err, "'watari fence set' changes it");
		return;
	}
	if (json_is_true(json_object_get(args, "no_check")))
		call_submit(call);
	else
		engine_ask(call->api->engine, ENGINE_ASK_CHECK, &event->fence, on_set_checked, call);
}

void call_fence_remove(struct api_call *call, const json_t *args)
{
	const struct fence_device *device = call_device(call, args);

	if (!device)
		return;
	call->event = calloc(1, sizeof(*call->event));
	assert(call->event);
	call->event->kind = EVENT_FENCE_REMOVE;
	strcpy(call->event->fence.name, device->name);
	call->try_only = json_is_true(json_object_get(args, "dry_run"));
	call_submit(call);
}

static const char *value_of(const struct fence_device *device, const char *name)
{
	for (uint32_t i = 0; i < device->option_count; i++)
		if (fence_option_same(device->options[i].name, name))
			return device->options[i].value;
	return NULL;
}

/* What an agent says of its options, and of each what the device gives it. */
static json_t *about_json(const struct fence_agent_about *about, const struct fence_device *device)
{
	json_t *options = json_array();

	for (uint32_t i = 0; i < about->option_count; i++) {
		const struct fence_option_about *option = &about->options[i];
		json_t *view = json_pack("{s:s, s:s, s:s, s:b, s:b}", "name", option->name, "about", option->about, "default",
			option->standard, "required", option->required, "secret", option->secret);
		const char *value = device ? value_of(device, option->name) : NULL;
		if (value)
			json_object_set_new(view, "value", json_string(value));
		json_array_append_new(options, view);
	}
	return options;
}

static const char off_hint[] = "nothing was switched";

static const char *answer_hint(const struct api_call *call, enum err_code code)
{
	if (call->verb->run == call_fence_check)
		return "'watari fence agent' tells an agent's options, 'watari fence set' changes a device's; each node has its own agents "
		       "and secrets";
	if (call->verb->run == call_fence_off && code != ERR_UNAVAILABLE)
		return off_hint;
	return "'watari fence check' holds the device's options against its agent; the daemon's node must reach the device";
}

static void on_answer(void *ctx, const struct engine_answer *answer)
{
	struct api_call *call = ctx;
	struct err err;

	log_info("api: %s asked for %s: %s: %s", call->client->name, call->verb->name, err_info(answer->code)->name,
		answer->text);
	if (answer->code) {
		err_set(&err, answer->code, "%.63s: %s", call->event->fence.name, answer->text);
		call_fail_hint(call, &err, answer_hint(call, answer->code));
		return;
	}
	json_t *result = json_pack("{s:s}", "text", answer->text);
	if (answer->on || answer->off)
		json_object_set_new(result, "power", json_string(answer->on ? "on" : "off"));
	if (answer->about)
		json_object_set_new(result, "options", about_json(answer->about, &call->event->fence));
	call_result(call, result);
}

/* Whether options fit is not the question here. */
static void on_agent(void *ctx, const struct engine_answer *answer)
{
	struct api_call *call = ctx;
	struct err err;

	if (!answer->about) {
		err_set(&err, answer->code ? answer->code : ERR_UNFIT, "%s",
			answer->code ? answer->text : "the agent says nothing of itself");
		call_fail_hint(call, &err, "agents are files fence_... in the directory of [fence] agents= in watarid.conf, on each node");
		return;
	}
	call_result(call, json_pack("{s:s, s:s, s:o}", "agent", call->event->fence.agent, "about", answer->about->about, "options",
			about_json(answer->about, NULL)));
}

static struct fence_device *asked_device(struct api_call *call)
{
	call->event = calloc(1, sizeof(*call->event));
	assert(call->event);
	return &call->event->fence;
}

void call_fence_agent(struct api_call *call, const json_t *args)
{
	struct fence_device *device = asked_device(call);
	const char *agent = json_string_value(json_object_get(args, "agent"));
	struct err err;

	snprintf(device->agent, sizeof(device->agent), "%s", agent);
	strcpy(device->name, "agent");
	device->node = 1;
	fence_device_default(device);
	if (fence_device_check(device, &err) < 0)
		call_fail_hint(call, &err, "for example fence_ipmilan");
	else
		engine_ask(call->api->engine, ENGINE_ASK_CHECK, device, on_agent, call);
}

static void ask(struct api_call *call, const json_t *args, enum engine_ask what)
{
	const struct fence_device *device = call_device(call, args);

	if (!device)
		return;
	*asked_device(call) = *device; /* it may be changed before the answer comes */
	engine_ask(call->api->engine, what, &call->event->fence, on_answer, call);
}

void call_fence_check(struct api_call *call, const json_t *args)
{
	ask(call, args, ENGINE_ASK_CHECK);
}

void call_fence_status(struct api_call *call, const json_t *args)
{
	ask(call, args, ENGINE_ASK_STATUS);
}

void call_fence_on(struct api_call *call, const json_t *args)
{
	ask(call, args, ENGINE_ASK_ON);
}

/* True where the name typed is that of the node; else the call was answered. */
static bool confirmed(struct api_call *call, const json_t *args, uint32_t node)
{
	const char *typed = json_string_value(json_object_get(args, "confirm"));
	const char *name = cluster_node_name(engine_cluster(call->api->engine), node);
	struct err err;

	if (!strcmp(typed, name))
		return true;
	err_set(&err, ERR_INVALID, "the name typed, '%s', is not that of %s", typed, name);
	call_fail_hint(call, &err, "nothing was done");
	return false;
}

void call_fence_off(struct api_call *call, const json_t *args)
{
	const struct fence_device *device = call_device(call, args);

	struct err err;

	if (!device || !confirmed(call, args, device->node))
		return;
	if (json_is_true(json_object_get(args, "dry_run"))) {
		if (engine_may_switch_off(call->api->engine, device->node, &err) < 0)
			call_fail_hint(call, &err, off_hint);
		else
			call_result(call, json_pack("{s:b}", "dry_run", 1));
		return;
	}
	log_notice("api: %s asks to switch %s off with %s, as a test", call->client->name,
		cluster_node_name(engine_cluster(call->api->engine), device->node), device->name);
	*asked_device(call) = *device;
	engine_ask(call->api->engine, ENGINE_ASK_OFF, &call->event->fence, on_answer, call);
}

static struct event *node_event(struct api_call *call, const json_t *args, enum event_kind kind)
{
	int node = call_node(call, args, "node"); /* required, so not 0 */

	if (node < 0)
		return NULL;
	call->event = calloc(1, sizeof(*call->event));
	assert(call->event);
	call->event->kind = kind;
	call->event->target = (uint32_t)node;
	call->try_only = json_is_true(json_object_get(args, "dry_run"));
	return call->event;
}

void call_node_confirm_off(struct api_call *call, const json_t *args)
{
	struct event *event = node_event(call, args, EVENT_NODE_CONFIRM_OFF);

	if (!event || !confirmed(call, args, event->target))
		return;
	snprintf(event->text, sizeof(event->text), "%s", json_string_value(json_object_get(args, "confirm")));
	call_submit(call);
}

void call_node_resume(struct api_call *call, const json_t *args)
{
	if (node_event(call, args, EVENT_NODE_RESUME))
		call_submit(call);
}

void call_node_fence(struct api_call *call, const json_t *args)
{
	struct event *event = node_event(call, args, EVENT_NODE_FENCE);

	if (!event)
		return;
	event->force = json_is_true(json_object_get(args, "force"));
	call_submit(call);
}
