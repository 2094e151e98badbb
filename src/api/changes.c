/* SPDX-License-Identifier: Apache-2.0
 * Calls that change the cluster: each becomes one event, checked as far as a caller's words go; whether it may be done
 * is the core's decision. */
#include "api/internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

const struct vm *call_vm(struct api_call *call, const json_t *args)
{
	const char *name = json_string_value(json_object_get(args, "vm"));
	const struct vm *vm = cluster_vm_find(engine_cluster(call->api->engine), name);
	struct engine_status status;
	struct err err;

	if (vm)
		return vm;
	engine_get_status(call->api->engine, &status);
	/* A daemon that has just started knows an older state: it may not deny what the others know. */
	if (!status.synced && name_ok(name)) {
		err_set(&err, ERR_NO_QUORUM, "this node is not in sync yet and does not know '%s': %s", name, status.reason);
		call_fail_hint(call, &err, "ask another node, or again in a moment: 'watari status' says what it waits for");
		return NULL;
	}
	if (name_ok(name))
		err_set(&err, ERR_NOT_FOUND, "no VM '%s'", name);
	else
		err_set(&err, ERR_INVALID,
			"'%s' is no VM's name: 1 to 63 of a-z, A-Z, 0-9, '.', '_', '-', the first a letter or digit",
			name);
	call_fail_hint(call, &err, "'watari vm list' shows all VMs");
	return NULL;
}

int call_node(struct api_call *call, const json_t *args, const char *key)
{
	const char *name = json_string_value(json_object_get(args, key));
	struct err err;

	if (!name)
		return 0;
	const struct node *node = cluster_node_find(engine_cluster(call->api->engine), name);
	if (node)
		return (int)node->id;
	err_set(&err, ERR_NOT_FOUND, "no node '%s'", name);
	call_fail_hint(call, &err, "'watari node list' shows all nodes");
	return -1;
}

static bool dry_run(const json_t *args)
{
	return json_is_true(json_object_get(args, "dry_run"));
}

static struct event *event_new(struct api_call *call, enum event_kind kind)
{
	call->event = calloc(1, sizeof(*call->event));
	assert(call->event);
	call->event->kind = kind;
	return call->event;
}

static void random_bytes(void *bytes, size_t size)
{
	ssize_t got;

	do
		got = getrandom(bytes, size, 0);
	while (got < 0 && errno == EINTR);
	assert(got == (ssize_t)size); /* up to 256 bytes are never cut short: getrandom(2) */
}

/* RFC 4122, version 4. */
static void uuid_make(char uuid[UUID_BYTES])
{
	uint8_t b[16];

	random_bytes(b, sizeof(b));
	b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
	b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
	snprintf(uuid, UUID_BYTES, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
		b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

static bool mac_used(const struct cluster *cluster, const struct vm_def *own, const char *mac)
{
	for (uint32_t i = 0; i < own->nic_count; i++)
		if (!strcmp(own->nics[i].mac, mac))
			return true;
	for (uint32_t v = 0; v < cluster->vm_count; v++)
		for (uint32_t i = 0; i < cluster->vms[v].def.nic_count; i++)
			if (!strcmp(cluster->vms[v].def.nics[i].mac, mac))
				return true;
	return false;
}

/* 52:54:00 is the prefix that QEMU's guests use by custom. */
static void mac_make(const struct cluster *cluster, const struct vm_def *own, char mac[MAC_BYTES])
{
	char made[MAC_BYTES];
	uint8_t b[3];

	do {
		random_bytes(b, sizeof(b));
		snprintf(made, sizeof(made), "52:54:00:%02x:%02x:%02x", b[0], b[1], b[2]);
	} while (mac_used(cluster, own, made));
	memcpy(mac, made, sizeof(made));
}

int def_complete(struct vm_def *def, const struct cluster *cluster, struct err *err)
{
	if (!def->uuid[0])
		uuid_make(def->uuid);
	for (uint32_t i = 0; i < def->nic_count; i++)
		if (!def->nics[i].mac[0])
			mac_make(cluster, def, def->nics[i].mac);
	vm_def_pin(def);
	return vm_def_check(def, err);
}

static void disks_checked(void *ctx, const struct err *err)
{
	struct api_call *call = ctx;

	call->disks = NULL;
	loop_timer_cancel(call->api->loop, call->timer);
	call->timer = NULL;
	if (err->code)
		call_fail_hint(call, err,
			"a VM's files lie on storage that every node mounts at the same path: create or mount it "
			"first");
	else
		call_submit(call);
}

static void disks_hang(void *ctx)
{
	struct api_call *call = ctx;
	struct err err;

	call->timer = NULL;
	err_set(&err, ERR_TIMEOUT, "the storage of this VM's files did not answer within %d s",
		API_DISK_CHECK_MS / 1000);
	call_fail_hint(call, &err, "nothing was changed; look at the mounts of this node");
}

/* Looks at the files first, where that cannot stop the loop; then submits. */
static void submit_definition(struct api_call *call)
{
	struct err err;

	call->disks = disk_check_start(call->api, &call->event->def, disks_checked, call, &err);
	if (!call->disks) {
		call_fail(call, &err);
		return;
	}
	call->timer = loop_timer_set(call->api->loop, API_DISK_CHECK_MS, disks_hang, call);
}

/* New definitions have a panic device, and where a heartbeat is asked for the agent's channel, unless they say otherwise:
 * an edit adds none behind a running guest's back. */
static int definition_new(const struct cluster *cluster, const json_t *json, struct vm_def *def, struct err *err)
{
	if (definition_from_json(cluster, json, def, err) < 0)
		return -1;
	if (!json_object_get(json, "panic_device"))
		def->panic_device = PANIC_DEVICE_ISA;
	if (!json_object_get(json, "guest_agent") && def->policy.heartbeat_s)
		def->guest_agent = GUEST_AGENT_VIRTIO;
	return def_complete(def, cluster, err);
}

void call_vm_create(struct api_call *call, const json_t *args)
{
	struct event *event = event_new(call, EVENT_VM_CREATE);
	const struct cluster *cluster = engine_cluster(call->api->engine);
	struct err err;

	call->try_only = dry_run(args);
	if (definition_new(cluster, json_object_get(args, "definition"), &event->def, &err) < 0) {
		call_fail_hint(call, &err, "'watari vm create --help' has examples");
		return;
	}
	strcpy(event->vm, event->def.uuid);
	const struct vm *same = cluster_vm_find(cluster, event->def.name);
	if (!same)
		same = cluster_vm_find(cluster, event->def.uuid);
	if (same) {
		err_set(&err, ERR_EXISTS, "VM '%s' (%s) exists already", same->def.name, same->def.uuid);
		call_fail_hint(call, &err, "choose another name; to copy a definition take out its uuid and its MACs");
		return;
	}
	submit_definition(call);
}

void call_vm_edit(struct api_call *call, const json_t *args)
{
	const struct cluster *cluster = engine_cluster(call->api->engine); /* call is gone where there is no such VM */
	const struct vm *vm = call_vm(call, args);
	const json_t *was = json_object_get(args, "was");
	struct vm_def before;
	struct err err;

	if (!vm)
		return;
	struct event *event = event_new(call, EVENT_VM_EDIT);
	call->try_only = dry_run(args);
	strcpy(event->vm, vm->def.uuid);
	if (was && definition_from_json(cluster, was, &before, &err) < 0) {
		err_prefix(&err, "was");
		call_fail(call, &err);
		return;
	}
	if (was)
		event->was_digest = vm_def_digest(&before);
	if (definition_from_json(cluster, json_object_get(args, "definition"), &event->def, &err) < 0) {
		call_fail(call, &err);
		return;
	}
	if (!event->def.uuid[0])
		strcpy(event->def.uuid, vm->def.uuid);
	if (strcmp(event->def.uuid, vm->def.uuid) != 0) {
		err_set(&err, ERR_INVALID, "uuid '%s': a VM keeps its UUID, which is %s", event->def.uuid,
			vm->def.uuid);
		call_fail(call, &err);
		return;
	}
	if (def_complete(&event->def, cluster, &err) < 0) {
		call_fail(call, &err);
		return;
	}
	submit_definition(call);
}

static struct event *simple_event(struct api_call *call, const json_t *args, enum event_kind kind)
{
	const struct vm *vm = call_vm(call, args);

	if (!vm)
		return NULL;
	struct event *event = event_new(call, kind);
	strcpy(event->vm, vm->def.uuid);
	call->try_only = dry_run(args);
	return event;
}

static void simple_change(struct api_call *call, const json_t *args, enum event_kind kind)
{
	if (simple_event(call, args, kind))
		call_submit(call);
}

void call_vm_delete(struct api_call *call, const json_t *args)
{
	struct event *event = simple_event(call, args, EVENT_VM_DELETE);

	if (!event)
		return;
	event->force = json_is_true(json_object_get(args, "force"));
	call_submit(call);
}

void call_vm_start(struct api_call *call, const json_t *args)
{
	int node = call_node(call, args, "node");
	struct event *event = node < 0 ? NULL : simple_event(call, args, EVENT_VM_START);

	if (!event)
		return;
	event->target = (uint32_t)node;
	event->force = json_is_true(json_object_get(args, "discard_state"));
	call_submit(call);
}

void call_vm_shutdown(struct api_call *call, const json_t *args)
{
	simple_change(call, args, EVENT_VM_SHUTDOWN);
}

void call_vm_stop(struct api_call *call, const json_t *args)
{
	simple_change(call, args, EVENT_VM_STOP);
}

void call_vm_save(struct api_call *call, const json_t *args)
{
	simple_change(call, args, EVENT_VM_SAVE);
}

void call_vm_move(struct api_call *call, const json_t *args)
{
	const char *type = json_string_value(json_object_get(args, "type"));
	struct err err;

	if (type && strcmp(type, "quick") != 0) {
		err_set(&err, ERR_INVALID, "type '%s': only 'quick' is there so far", type);
		call_fail(call, &err);
		return;
	}
	int target = call_node(call, args, "target");
	struct event *event = target < 0 ? NULL : simple_event(call, args, EVENT_VM_MOVE);
	if (!event)
		return;
	/* Not on a copy of the core: the target itself is to prove that it fits. */
	event->dry_run = call->try_only;
	call->try_only = false;
	event->target = (uint32_t)target;
	call_submit(call);
}

void call_vm_cancel(struct api_call *call, const json_t *args)
{
	simple_change(call, args, EVENT_VM_CANCEL);
}

void call_force_quorum(struct api_call *call, const json_t *args)
{
	const char *confirm = json_string_value(json_object_get(args, "confirm"));
	struct engine_status status;
	struct err err;

	engine_get_status(call->api->engine, &status);
	if (strcmp(confirm, status.node_name) != 0) {
		err_set(&err, ERR_INVALID, "confirm: '%s' is not the name of this node", confirm);
		call_fail_hint(call, &err, "quorum is forced on the node that is asked: type that node's name");
		return;
	}
	event_new(call, EVENT_QUORUM_FORCED);
	call->try_only = json_is_true(json_object_get(args, "dry_run"));
	call_submit_forced(call);
}
