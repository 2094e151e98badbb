/* SPDX-License-Identifier: Apache-2.0 */
#include "api/internal.h"

#include <string.h>

enum { NOTE_FRESH_MS = 10000 }; /* several times the step at which a note is told again */

static void set(json_t *object, const char *key, json_t *value)
{
	json_object_set_new(object, key, value);
}

static void set_number(json_t *object, const char *key, uint64_t value)
{
	set(object, key, json_integer((json_int_t)value));
}

static void set_span(json_t *object, const char *key, uint64_t from_us, uint64_t to_us)
{
	if (from_us && to_us >= from_us)
		set_number(object, key, to_us - from_us);
}

/* The steps of a move as spans (design §6). Source and target each wrote their own clock: across machines the spans
 * hand_over and blackout are as exact as their clocks agree. */
static json_t *spans_of(const struct move_figures *f, uint64_t started_us)
{
	json_t *spans = json_object();

	set_span(spans, "prepare", started_us, f->prepared_us);
	set_span(spans, "copy", f->copy_us, f->stopped_us);
	set_span(spans, "blackout", f->stopped_us, f->resumed_us);
	set_span(spans, "tail", f->stopped_us, f->streamed_us);
	set_span(spans, "repair", f->streamed_us, f->repaired_us);
	set_span(spans, "seal", f->repaired_us ? f->repaired_us : f->streamed_us, f->sealed_us);
	set_span(spans, "hand_over", f->sealed_us, f->loading_us);
	set_span(spans, "load", f->loading_us, f->loaded_us);
	set_span(spans, "resume", f->loaded_us, f->resumed_us);
	set_span(spans, "fill", f->resumed_us, f->filled_us);
	set_span(spans, "total", started_us, f->resumed_us);
	return spans;
}

static void set_figures(json_t *object, const struct move_figures *figures, uint64_t started_us)
{
	json_t *raw = json_from_record(&move_figures_schema, figures, JSON_SKIP_ZERO);

	if (!json_object_size(raw)) {
		json_decref(raw);
		return;
	}
	if (figures->used_bytes)
		set(raw, "write_amplification",
			json_real((double)(figures->ram_bytes + figures->device_bytes) / (double)figures->used_bytes));
	set(object, "figures", raw);
	set(object, "spans_us", spans_of(figures, started_us));
}

static uint64_t memory_used_mib(const struct cluster *cluster, uint32_t node, uint32_t *guests)
{
	uint64_t used = 0;

	*guests = 0;
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		const struct vm *vm = &cluster->vms[i];
		if (!vm->def.uuid[0] || (vm->owner != node && (!vm->task || vm->target != node)))
			continue;
		used += vm->def.memory_mib;
		*guests += vm->owner == node;
	}
	return used;
}

/* What is being done about a node that left: null while it is a member. */
static json_t *fencing_json(const struct cluster *cluster, const struct fencing *fence)
{
	json_t *view = json_object();

	if (!fence->id) {
		json_decref(view);
		return json_null();
	}
	set(view, "phase", json_string(fence_phase_name((int)fence->phase)));
	set(view, "proof", json_string(death_proof_name((int)fence->proof)));
	set(view, "by", node_name_json(cluster, fence->phase == FENCE_RUN ? fence->by : 0));
	set_number(view, "level", fence->level);
	set_number(view, "rounds_failed", fence->round);
	set_number(view, "lost_ms", fence->lost_ms);
	set_number(view, "deadline_ms", fence->deadline_ms);
	set_number(view, "proven_ms", fence->proven_ms);
	set(view, "text", json_string(fence->text));
	return view;
}

static json_t *devices_json(const struct cluster *cluster, uint32_t node)
{
	json_t *names = json_array();

	for (uint32_t i = 0; i < cluster->fence_device_count; i++)
		if (cluster->fence_devices[i].node == node)
			json_array_append_new(names, json_string(cluster->fence_devices[i].name));
	return names;
}

/* VMs whose disks this node did not reach when it last looked. */
static json_t *storage_lost_json(const struct cluster *cluster, uint32_t node)
{
	json_t *names = json_array();

	for (uint32_t i = 0; i < cluster->vm_count; i++)
		if (cluster->vms[i].def.uuid[0] && (cluster->vms[i].storage_lost & node_bit(node)))
			json_array_append_new(names, json_string(cluster->vms[i].def.name));
	return names;
}

static json_t *storage_json(const struct cluster *cluster, const struct vm *vm)
{
	json_t *view = json_object();
	json_t *nodes = json_array();

	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (vm->storage_lost & node_bit(id))
			json_array_append_new(nodes, node_name_json(cluster, id));
	set(view, "not_reached_by", nodes);
	set_number(view, "lost_ms", vm->storage_ms);
	set(view, "asked", node_name_json(cluster, vm->storage_asked));
	set_number(view, "ended_ms", vm->storage_end_ms);
	return view;
}

/* Here now, whatever the log knows of it: without quorum nobody can write down that it left. */
static bool is_seen(const struct engine_status *status, uint32_t node)
{
	return node == status->node || (status->in_group && (status->members & node_bit(node)));
}

json_t *view_node(struct api *api, const struct node *node)
{
	const struct cluster *cluster = engine_cluster(api->engine);
	struct engine_status status;
	uint32_t guests;
	json_t *view = json_object();

	engine_get_status(api->engine, &status);
	node = engine_node(api->engine, node->id);
	uint64_t used = memory_used_mib(cluster, node->id, &guests);
	set_number(view, "id", node->id);
	set(view, "name", node_name_json(cluster, node->id));
	set(view, "state", json_string(node_state_name((int)node->state)));
	set(view, "local", json_boolean(node->id == status.node));
	set(view, "seen", json_boolean(is_seen(&status, node->id)));
	set_number(view, "since_ms", node->since_ms);
	set(view, "reason", json_string(node->reason));
	set_number(view, "vms", guests);
	set(view, "quarantined", json_boolean(node->quarantine_ms != 0));
	set_number(view, "quarantine_ms", node->quarantine_ms);
	set_number(view, "fences", node->fences);
	set_number(view, "fences_since_ms", node->fences ? node->fences_ms : 0);
	set_number(view, "memory_mib", node->facts.memory_mib);
	set_number(view, "memory_used_mib", used);
	set_number(view, "vcpus", node->facts.vcpus);
	set(view, "accel", json_string(node->facts.accel));
	set(view, "qemu_version", json_string(node->facts.qemu_version));
	set(view, "postcopy", json_boolean(node->facts.postcopy));
	set_number(view, "protocol", node->facts.protocol);
	set_number(view, "watchdog_ms", node->facts.watchdog_ms);
	set(view, "watchdog", json_string(node->facts.watchdog));
	set_number(view, "token_ms", node->facts.token_ms);
	set(view, "boot_id", json_string(node->facts.boot_id));
	set(view, "fencing", fencing_json(cluster, &node->fence));
	set(view, "fence_devices", devices_json(cluster, node->id));
	set(view, "storage_lost", storage_lost_json(cluster, node->id));
	json_t *bridges = json_array();
	for (uint32_t i = 0; i < node->facts.bridge_count; i++)
		json_array_append_new(bridges, json_string(node->facts.bridges[i].name));
	set(view, "bridges", bridges);
	return view;
}

static json_t *saved_json(const struct cluster *cluster, const struct saved_state *saved)
{
	json_t *view = json_object();

	set(view, "status", json_string(saved_status_name((int)saved->status)));
	set_number(view, "task", saved->task);
	set_number(view, "epoch", saved->epoch);
	set(view, "sealed_by", node_name_json(cluster, saved->sealed_by));
	set_number(view, "sealed_ms", saved->sealed_ms);
	if (saved->status == SAVED_CONSUMED) {
		set(view, "consumed_by", node_name_json(cluster, saved->consumed_by));
		set_number(view, "consumed_ms", saved->consumed_ms);
	}
	return view;
}

struct placement {
	const struct cluster *cluster;
	json_t *list;
};

static void on_place(void *ctx, uint32_t node, bool fits, const char *text)
{
	struct placement *placement = ctx;
	json_t *entry = json_object();

	set(entry, "node", node_name_json(placement->cluster, node));
	set(entry, "fits", json_boolean(fits));
	set(entry, "text", json_string(text));
	json_array_append_new(placement->list, entry);
}

json_t *view_placement(struct api *api, const struct vm *vm)
{
	struct placement placement = {.cluster = engine_cluster(api->engine), .list = json_array()};

	engine_place_each(api->engine, vm, on_place, &placement);
	return placement.list;
}

/* A note is what the owner's node sees of the guest now (it is paused, and why), and told again while it lasts. */
json_t *view_vm(struct api *api, const struct vm *vm, bool whole)
{
	const struct cluster *cluster = engine_cluster(api->engine);
	const struct engine_progress *progress = engine_progress_of(api->engine, vm->def.uuid);
	bool fresh = progress && progress->node == vm->owner &&
		     loop_now_ms(api->loop) < progress->updated_ms + NOTE_FRESH_MS;
	json_t *view = json_object();

	set(view, "name", json_string(vm->def.name));
	set(view, "uuid", json_string(vm->def.uuid));
	set(view, "state", json_string(vm_state_name((int)vm->state)));
	set(view, "want", json_string(vm_want_name((int)vm->want)));
	set(view, "node", node_name_json(cluster, vm->owner));
	set(view, "target", node_name_json(cluster, vm->target));
	set(view, "phase", json_string(move_phase_name((int)vm->phase)));
	set_number(view, "task", vm->task);
	set_number(view, "memory_mib", vm->def.memory_mib);
	set_number(view, "vcpus", vm->def.vcpus);
	set(view, "filling", json_boolean(vm->filling));
	set_number(view, "since_ms", vm->since_ms);
	set(view, "reason", json_string(vm->reason));
	if (progress && (vm->task || vm->filling))
		set(view, "progress", view_progress(api, progress));
	else if (fresh && progress->note[0])
		set(view, "note", json_string(progress->note));
	if (!whole)
		return view;
	set_number(view, "epoch", vm->epoch);
	set_number(view, "deaths", vm->deaths);
	set_number(view, "changed_index", vm->changed_index);
	if (vm->saved.status != SAVED_NONE)
		set(view, "saved", saved_json(cluster, &vm->saved));
	if (vm->storage_lost)
		set(view, "storage", storage_json(cluster, vm));
	set(view, "definition", definition_to_json(cluster, &vm->def));
	if (!vm->owner && !vm->target)
		set(view, "placement", view_placement(api, vm));
	return view;
}

/* What to do about a task that failed, where its text does not say it. */
static json_t *task_hint(const struct task *task)
{
	switch (task->kind) {
	case TASK_START:
		return json_sprintf("mend what is named, then 'watari vm start %s' again", task->vm);
	case TASK_RESTORE:
		return json_sprintf("its saved state is kept: mend what is named, then 'watari vm start %s' again; or, without "
				    "its memory, 'watari vm start %s --discard-state'",
			task->vm, task->vm);
	case TASK_MOVE:
	case TASK_SAVE:
		return json_sprintf("mend what is named, then ask again; 'watari vm show %s' has what became of the guest",
			task->vm);
	case TASK_STOP:
	case TASK_SHUTDOWN:
		break;
	}
	return json_sprintf("'watari vm show %s' has what became of the guest", task->vm);
}

json_t *view_task(struct api *api, const struct task *task)
{
	const struct cluster *cluster = engine_cluster(api->engine);
	json_t *view = json_object();

	set_number(view, "id", task->id);
	set(view, "kind", json_string(task_kind_name((int)task->kind)));
	set(view, "state", json_string(task_state_name((int)task->state)));
	set(view, "vm", json_string(task->vm));
	set(view, "vm_uuid", json_string(task->vm_uuid));
	set(view, "source", node_name_json(cluster, task->source));
	set(view, "target", node_name_json(cluster, task->target));
	set(view, "dry_run", json_boolean(task->dry_run));
	set(view, "by", json_string(task->by));
	set_number(view, "started_ms", task->started_ms);
	set_number(view, "finished_ms", task->finished_ms);
	set(view, "text", json_string(task->text));
	if (task->code)
		set(view, "code", json_string(err_name((int)task->code)));
	if (task->state == TASK_FAILED)
		set(view, "hint", task_hint(task));
	set_figures(view, &task->figures, task->started_ms * 1000);
	return view;
}

json_t *view_progress(struct api *api, const struct engine_progress *progress)
{
	const struct cluster *cluster = engine_cluster(api->engine);
	const struct vm *vm = cluster_vm_find(cluster, progress->vm);
	json_t *view = json_object();

	set(view, "vm", json_string(vm ? vm->def.name : progress->vm));
	set(view, "vm_uuid", json_string(progress->vm));
	set_number(view, "task", progress->task);
	set(view, "node", node_name_json(cluster, progress->node));
	set(view, "phase", json_string(vm ? move_phase_name((int)vm->phase) : ""));
	set_number(view, "percent", progress->percent);
	set_number(view, "updated_ms", progress->updated_ms);
	set(view, "note", json_string(progress->note));
	set_figures(view, &progress->figures, 0);
	return view;
}

json_t *view_history(struct api *api, const struct engine_history *line)
{
	json_t *view = json_object();

	set_number(view, "index", line->index);
	set_number(view, "now_ms", line->now_ms);
	set(view, "kind", json_string(event_kind_name((int)line->kind)));
	set(view, "node", node_name_json(engine_cluster(api->engine), line->node));
	set(view, "by", json_string(line->by));
	set(view, "vm", json_string(line->vm));
	set(view, "text", json_string(line->text));
	return view;
}

json_t *view_status(struct api *api)
{
	const struct cluster *cluster = engine_cluster(api->engine);
	struct engine_status status;
	uint32_t by_state[VM_STATE_COUNT] = {0}, total = 0, nodes = 0, online = 0, running = 0;
	json_t *view = json_object();
	json_t *states = json_object();

	engine_get_status(api->engine, &status);
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		if (!cluster->vms[i].def.uuid[0])
			continue;
		by_state[cluster->vms[i].state]++;
		total++;
	}
	for (uint32_t i = 0; i < NODES_MAX; i++) {
		nodes += cluster->nodes[i].id != 0;
		online += cluster->nodes[i].id != 0 && is_seen(&status, cluster->nodes[i].id) &&
			  engine_node(api->engine, cluster->nodes[i].id)->state == NODE_ONLINE;
	}
	for (uint32_t i = 0; i < cluster->task_count; i++)
		running += cluster->tasks[i].state == TASK_RUNNING;
	for (int state = 0; state < VM_STATE_COUNT; state++)
		set_number(states, vm_state_name(state), by_state[state]);

	set(view, "cluster_uuid", json_string(cluster->uuid));
	set(view, "version", json_string(WATARI_VERSION));
	set(view, "node", json_string(status.node_name));
	set(view, "connected", json_boolean(status.in_group));
	set(view, "quorate", json_boolean(status.quorate));
	set(view, "synced", json_boolean(status.synced));
	set(view, "reason", json_string(status.reason));
	set(view, "hint", json_string(status.hint));
	set_number(view, "watchdog_ms", status.watchdog_ms);
	set(view, "watchdog", json_string(status.watchdog));
	set_number(view, "term", status.term);
	set_number(view, "index", status.index);
	set_number(view, "log_index", status.log_index);
	set(view, "digest", json_sprintf("%016llx", (unsigned long long)cluster->digest));
	set_number(view, "nodes", nodes);
	set_number(view, "nodes_online", online);
	set_number(view, "vms", total);
	set(view, "vms_by_state", states);
	set_number(view, "tasks_running", running);
	return view;
}
