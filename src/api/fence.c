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
		return err_set(err, ERR_NOT_FOUND, "device.node: no node '%.64s'", name);
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

static void on_answer(void *ctx, const struct engine_answer *answer)
{
	struct api_call *call = ctx;
	struct err err;

	log_info("api: %s asked for %s: %s: %s", call->client->name, call->verb->name, err_info(answer->code)->name,
		answer->text);
	if (answer->code) {
		err_set(&err, answer->code, "%s", answer->text);
		call_fail_hint(call, &err,
			"'watari fence check' holds the device's options against its agent; the daemon's node must "
			"reach the "
			"device");
		return;
	}
	json_t *result = json_pack("{s:s}", "text", answer->text);
	if (answer->on || answer->off)
		json_object_set_new(result, "power", json_string(answer->on ? "on" : "off"));
	call_result(call, result);
}

static void ask(struct api_call *call, const json_t *args, enum engine_ask what)
{
	const struct fence_device *device = call_device(call, args);

	if (device)
		engine_ask(call->api->engine, what, device, on_answer, call);
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

	if (!device || !confirmed(call, args, device->node))
		return;
	log_notice("api: %s asks to switch %s off with %s, as a test", call->client->name,
		cluster_node_name(engine_cluster(call->api->engine), device->node), device->name);
	engine_ask(call->api->engine, ENGINE_ASK_OFF, device, on_answer, call);
}

static struct event *node_event(struct api_call *call, const json_t *args, enum event_kind kind)
{
	const char *name = json_string_value(json_object_get(args, "node"));
	const struct node *node = cluster_node_find(engine_cluster(call->api->engine), name);
	struct err err;

	if (!node) {
		err_set(&err, ERR_NOT_FOUND, "no node '%s'", name);
		call_fail_hint(call, &err, "'watari node list' shows all nodes");
		return NULL;
	}
	call->event = calloc(1, sizeof(*call->event));
	assert(call->event);
	call->event->kind = kind;
	call->event->target = node->id;
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
