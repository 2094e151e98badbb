/* SPDX-License-Identifier: Apache-2.0
 * The events of a death, in the order in which they come: the view without the nodes, a proof for each, and then every
 * start that the core orders succeeds. */
#include "core/forecast.h"
#include "core/internal.h"
#include "model/names.h"

#include <string.h>

enum {
	TICKS_MAX = 64,		/* each for a start delay */
	WORK_MAX = 2000 * 1000, /* VMs looked at while sets of nodes are tried */
	WORK_OF_A_RUN = 200,	/* beside its VMs */
};

static uint32_t lowest(uint64_t nodes)
{
	return nodes ? (uint32_t)__builtin_ctzll(nodes) + 1 : 0;
}

static struct forecast_vm *entry_of(const struct forecast_work *work, struct forecast *forecast, uint32_t vm)
{
	return work->entry[vm] ? &forecast->vms[work->entry[vm] - 1] : NULL;
}

/* Feeds work->event, and notes which starts begin with it. */
static bool feed(struct forecast_work *work, struct forecast *forecast)
{
	struct core_outcome *out = &work->outcome;

	work->event.now_ms = work->cluster.now_ms;
	core_step(&work->cluster, &work->event, out);
	for (uint32_t i = 0; i < out->change_count; i++) {
		const struct core_change *change = &out->changes[i];
		bool begins = change->from_state != change->to_state &&
			      (change->to_state == VM_STARTING || change->to_state == VM_RESTORING);
		struct forecast_vm *entry = entry_of(work, forecast, change->vm);
		if (!begins || work->begun_count == ARRAY_SIZE(work->begun))
			continue;
		work->begun[work->begun_count++] = change->vm;
		if (!entry || entry->order)
			continue;
		entry->order = ++work->orders;
		entry->after_ms = work->cluster.now_ms - work->began_ms;
		memcpy(entry->text, change->reason, sizeof(entry->text));
	}
	return out->code == ERR_NONE;
}

static struct event *event_new(struct forecast_work *work, enum event_kind kind, uint32_t node)
{
	memset(&work->event, 0, sizeof(work->event));
	work->event.kind = kind;
	work->event.node = node;
	memcpy(work->event.boot_id, cluster_node(&work->cluster, node)->facts.boot_id, sizeof(work->event.boot_id));
	strcpy(work->event.by, "forecast");
	return &work->event;
}

/* ---- the deaths */

static void list_vms(const struct cluster *from, struct forecast_work *work, struct forecast *forecast)
{
	memset(work->entry, 0, from->vm_count * sizeof(work->entry[0]));
	forecast->count = 0;
	for (uint32_t i = 0; i < from->vm_count; i++) {
		const struct vm *vm = &from->vms[i];
		uint32_t node = vm->owner ? vm->owner : vm->state == VM_RESTORING ? vm->target : 0;
		if (!vm->def.uuid[0])
			continue;
		if ((vm->state == VM_STARTING || vm->state == VM_RESTORING) && node)
			work->begun[work->begun_count++] = i; /* ends well, or is begun again elsewhere */
		if (!node || !(forecast->failed & node_bit(node)))
			continue;
		work->entry[i] = forecast->count + 1;
		forecast->vms[forecast->count++] = (struct forecast_vm){.vm = i,
			.from = node,
			.should_run = vm->want == WANT_ON && vm->state != VM_BLOCKED && vm->def.priority != PRIORITY_NONE};
	}
}

enum way { BY_DEVICE, BY_WATCHDOG, BY_PERSON, WAYS };

/* Those of the level that is switched: "power-n3", or "pdu-a and pdu-b". */
static void device_names(const struct cluster *cluster, const struct node *node, char text[REASON_BYTES])
{
	size_t used = 0;

	text[0] = 0;
	for (uint32_t i = 0; i < cluster->fence_device_count && used < REASON_BYTES - 1; i++) {
		const struct fence_device *device = &cluster->fence_devices[i];
		if (device->node == node->id && device->level == node->fence.level)
			used += (size_t)snprintf(text + used, REASON_BYTES - used, "%s%s", used ? " and " : "", device->name);
	}
}

static bool prove(struct forecast_work *work, struct forecast *forecast, uint32_t id, enum way way)
{
	struct cluster *cluster = &work->cluster;
	const struct node *node = cluster_node(cluster, id);
	uint32_t member = lowest(cluster->members);
	char *text = forecast->proof[id - 1];

	if (way == BY_DEVICE) {
		if (node->fence.phase != FENCE_RUN)
			return false;
		struct event *event = event_new(work, EVENT_FENCED, node->fence.by);
		event->target = id;
		event->task = node->fence.id;
		event->epoch = node->fence.began_index;
		event->proof = PROOF_FENCED;
		event->was_on = true;
		device_names(cluster, node, event->text);
		reason_set(text, "fenced by %s (%s)", cluster_node_name(cluster, node->fence.by), event->text);
	} else if (way == BY_WATCHDOG) {
		uint64_t await_ms = core_fence_duty(cluster, id, member).await_ms;
		if (!await_ms)
			return false;
		struct event *event = event_new(work, EVENT_FENCED, member);
		event->target = id;
		event->task = node->fence.id;
		event->proof = PROOF_WATCHDOG;
		reason_set(text, "its watchdog ends it, within %llu ms", (unsigned long long)await_ms);
	} else {
		reason_set(text, "not proven: %s", node->fence.text[0] ? node->fence.text : node->reason);
		forecast->unproven |= node_bit(id);
		struct event *event = event_new(work, EVENT_NODE_CONFIRM_OFF, member);
		event->target = id;
		memcpy(event->text, node->facts.name, sizeof(node->facts.name));
	}
	return feed(work, forecast);
}

/* Each by the best way that is there; a proof may lift the limits that held another one back. */
static void prove_all(struct forecast_work *work, struct forecast *forecast)
{
	for (int way = 0; way < WAYS;) {
		bool progress = false;
		for (uint32_t id = 1; id <= NODES_MAX; id++) {
			const struct node *node = cluster_node(&work->cluster, id);
			if (!(forecast->failed & node_bit(id)) || node->state != NODE_LOST)
				continue;
			if (node->fence.phase == FENCE_IDLE)
				reason_set(forecast->proof[id - 1], "it owns no VM: nothing needs proof");
			else if (prove(work, forecast, id, (enum way)way))
				progress = true;
		}
		way = progress && way != BY_PERSON ? BY_DEVICE : way + 1;
	}
}

/* ---- the starts */

static void report(struct forecast_work *work, struct forecast *forecast, const struct vm *vm, enum event_kind kind)
{
	uint32_t node = kind == EVENT_STARTED || kind == EVENT_RESUMED ? vm->owner : vm->target;
	struct event *event = event_new(work, kind, node);

	memcpy(event->vm, vm->def.uuid, sizeof(event->vm));
	event->epoch = vm->epoch;
	event->task = vm->task;
	feed(work, forecast);
}

static void finish(struct forecast_work *work, struct forecast *forecast, const struct vm *vm)
{
	if (vm->state == VM_STARTING && is_member(&work->cluster, vm->owner))
		report(work, forecast, vm, EVENT_STARTED);
	for (int i = 0; i < 3 && vm->state == VM_RESTORING; i++) {
		if (vm->phase == MOVE_RESUME)
			report(work, forecast, vm, EVENT_RESUMED);
		else
			report(work, forecast, vm, vm->phase == MOVE_LOAD ? EVENT_LOADED : EVENT_PREPARED);
	}
}

static bool waits_its_turn(const struct forecast_work *work, const struct forecast *forecast)
{
	for (uint32_t i = 0; i < forecast->count; i++) {
		enum vm_wait wait = work->cluster.vms[forecast->vms[i].vm].wait;
		if (wait == WAIT_ORDER || wait == WAIT_TURN)
			return true;
	}
	return false;
}

static void run_starts(struct forecast_work *work, struct forecast *forecast)
{
	for (uint32_t ticks = 0; ticks < TICKS_MAX;) {
		if (work->begun_at < work->begun_count) {
			finish(work, forecast, &work->cluster.vms[work->begun[work->begun_at++]]);
			continue;
		}
		uint64_t due_ms = core_deadline_ms(&work->cluster);
		if (!due_ms || !waits_its_turn(work, forecast))
			return;
		if (due_ms > work->cluster.now_ms)
			work->cluster.now_ms = due_ms;
		event_new(work, EVENT_TICK, lowest(work->cluster.members));
		feed(work, forecast);
		ticks++;
	}
}

/* ---- what came of it */

/* Whether a node would take it, had it the memory. */
static enum forecast_limit limit_of(struct forecast_work *work, const struct vm *vm)
{
	plan_forget(&work->outcome.plan);
	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (node_usable(&work->cluster, id) && place_lacks_room(&work->cluster, &work->outcome.plan, vm, id))
			return FORECAST_LIMIT_ROOM;
	return FORECAST_LIMIT_RULES;
}

static void conclude(struct forecast_work *work, struct forecast *forecast, bool until_placed)
{
	for (uint32_t i = 0; i < forecast->count; i++) {
		struct forecast_vm *entry = &forecast->vms[i];
		const struct vm *vm = &work->cluster.vms[entry->vm];
		bool off = vm->state == VM_OFF || vm->state == VM_SAVED || vm->state == VM_FAILED;
		bool placed = off && vm->want == WANT_ON && (vm->wait == WAIT_ORDER || vm->wait == WAIT_TURN);
		if (!off || (until_placed && placed)) {
			entry->to = vm->owner ? vm->owner : vm->target;
			entry->end = forecast->unproven & node_bit(entry->from) ? FORECAST_BLOCKED : FORECAST_RUNS;
			entry->limit = entry->end == FORECAST_BLOCKED ? FORECAST_LIMIT_PROOF : FORECAST_LIMIT_NONE;
		} else {
			bool waits = vm->want == WANT_ON && vm->state != VM_FAILED;
			entry->end = waits ? FORECAST_WAITS : FORECAST_OFF;
			entry->limit = waits ? limit_of(work, vm) : entry->should_run ? FORECAST_LIMIT_RULES : FORECAST_LIMIT_NONE;
			memcpy(entry->text, vm->reason, sizeof(entry->text));
		}
		if (!entry->should_run || entry->end == FORECAST_RUNS)
			continue;
		if (!forecast->down++)
			forecast->limit = entry->limit;
	}
}

/* All that are here die: who could start anything, or say that they are dead? */
static void nobody_left(struct forecast *forecast)
{
	for (uint32_t i = 0; i < forecast->count; i++) {
		forecast->vms[i].end = FORECAST_WAITS;
		forecast->vms[i].limit = FORECAST_LIMIT_QUORUM;
		forecast->down += forecast->vms[i].should_run;
		reason_set(forecast->vms[i].text, "no node is left");
	}
	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (forecast->failed & node_bit(id))
			reason_set(forecast->proof[id - 1], "no node is left that could prove it");
	if (forecast->down)
		forecast->limit = FORECAST_LIMIT_QUORUM;
}

void core_forecast(
	const struct cluster *from, uint64_t failed, bool until_placed, struct forecast_work *work, struct forecast *forecast)
{
	uint64_t left = from->members & ~failed;

	cluster_copy(&work->cluster, from);
	work->begun_count = work->begun_at = work->orders = 0;
	work->began_ms = from->now_ms;
	forecast->failed = failed & from->members;
	forecast->unproven = 0;
	forecast->down = 0;
	forecast->limit = FORECAST_LIMIT_NONE;
	memset(forecast->proof, 0, sizeof(forecast->proof));
	list_vms(from, work, forecast);
	if (!left) {
		nobody_left(forecast);
		return;
	}
	struct event *event = event_new(work, EVENT_VIEW, lowest(left));
	event->members = left;
	event->ring = from->ring & ~failed;
	feed(work, forecast);
	prove_all(work, forecast);
	if (!until_placed)
		run_starts(work, forecast);
	conclude(work, forecast, until_placed);
}

/* ---- how many */

struct sets {
	const struct cluster *from;
	struct forecast_work *work;
	struct forecast *scratch;
	uint64_t budget;
	uint32_t ids[NODES_MAX]; /* members, the one with most to lose first */
	uint32_t count;
};

static void sort_members(struct sets *sets)
{
	uint64_t memory[NODES_MAX + 1] = {0};

	for (uint32_t i = 0; i < sets->from->vm_count; i++)
		if (sets->from->vms[i].def.uuid[0])
			memory[sets->from->vms[i].owner] += sets->from->vms[i].def.memory_mib;
	for (uint32_t id = 1; id <= NODES_MAX; id++) {
		uint32_t at = sets->count;
		if (!(sets->from->members & node_bit(id)))
			continue;
		for (; at && memory[sets->ids[at - 1]] < memory[id]; at--)
			sets->ids[at] = sets->ids[at - 1];
		sets->ids[at] = id;
		sets->count++;
	}
}

/* The next set of `size` places out of `count`, in order; false: that was the last. */
static bool next_set(uint32_t *places, uint32_t size, uint32_t count)
{
	for (uint32_t i = size; i-- > 0;) {
		if (places[i] + (size - i) >= count)
			continue;
		places[i]++;
		for (uint32_t j = i + 1; j < size; j++)
			places[j] = places[j - 1] + 1;
		return true;
	}
	return false;
}

enum verdict { SURVIVED, FATAL, TOO_MUCH };

static enum verdict try_sets(struct sets *sets, uint32_t size)
{
	uint64_t cost = (uint64_t)(sets->from->vm_count + WORK_OF_A_RUN) * (size + 1);
	uint32_t places[NODES_MAX];

	for (uint32_t i = 0; i < size; i++)
		places[i] = i;
	do {
		uint64_t failed = 0;
		if (sets->budget < cost)
			return TOO_MUCH;
		sets->budget -= cost;
		for (uint32_t i = 0; i < size; i++)
			failed |= node_bit(sets->ids[places[i]]);
		core_forecast(sets->from, failed, true, sets->work, sets->scratch);
		if (sets->scratch->down)
			return FATAL;
	} while (next_set(places, size, sets->count));
	return SURVIVED;
}

static void say_fatal(const struct sets *sets, struct forecast_survival *survival)
{
	const struct forecast *forecast = sets->scratch;
	uint32_t i = 0;

	survival->failed = forecast->failed;
	survival->limit = forecast->limit;
	survival->exact = true;
	while (!forecast->vms[i].should_run || forecast->vms[i].end == FORECAST_RUNS)
		i++;
	const struct forecast_vm *entry = &forecast->vms[i];
	reason_set(survival->text, "%s: %s", sets->from->vms[entry->vm].def.name,
		entry->limit == FORECAST_LIMIT_PROOF ? forecast->proof[entry->from - 1] : entry->text);
}

void core_survival(const struct cluster *from, uint32_t quorum_needs, struct forecast_work *work,
	struct forecast *scratch, struct forecast_survival *survival)
{
	struct sets sets = {.from = from, .work = work, .scratch = scratch, .budget = WORK_MAX};

	*survival = (struct forecast_survival){0};
	sort_members(&sets);
	uint32_t spare = sets.count > quorum_needs ? sets.count - quorum_needs : 0;
	while (survival->nodes < spare) {
		enum verdict verdict = try_sets(&sets, survival->nodes + 1);
		if (verdict == FATAL) {
			say_fatal(&sets, survival);
			return;
		}
		if (verdict == TOO_MUCH) {
			reason_set(survival->text, "%u more nodes than are looked at could die before quorum is lost",
				spare - survival->nodes);
			return;
		}
		survival->nodes++;
	}
	survival->exact = true;
	survival->limit = FORECAST_LIMIT_QUORUM;
	reason_set(survival->text, "%u member%s here, %u %s needed for quorum", sets.count,
		sets.count == 1 ? " is" : "s are", quorum_needs, quorum_needs == 1 ? "is" : "are");
}
