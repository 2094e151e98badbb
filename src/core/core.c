/* SPDX-License-Identifier: Apache-2.0 */
#include "core/internal.h"
#include "core/timing.h"
#include "base/hash.h"
#include "model/names.h"

#include <assert.h>
#include <string.h>

NAMES_FUNCTION(duty_kind_name, DUTY_KINDS)

enum { RECORD_BYTES_MAX = 16 * 1024 }; /* the encoded form of a VM or a node; asserted when used */

void core_init(struct cluster *cluster, const char *uuid)
{
	/* The tables are large and the caller gives zeroed memory: only what is not zero is written. */
	snprintf(cluster->uuid, sizeof(cluster->uuid), "%s", uuid);
	cluster->node_count = NODES_MAX;
}

bool is_member(const struct cluster *cluster, uint32_t node)
{
	return node >= 1 && node <= NODES_MAX && (cluster->members & node_bit(node));
}

bool node_usable(const struct cluster *cluster, uint32_t node)
{
	return is_member(cluster, node) && cluster_node(cluster, node)->state == NODE_ONLINE;
}

void reason_set(char reason[REASON_BYTES], const char *format, ...)
{
	char text[REASON_BYTES];
	va_list args;

	va_start(args, format);
	int length = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (length >= REASON_BYTES) {
		/* Cut before the sequence that does not fit: a continuation byte is 10xxxxxx. */
		size_t end = REASON_BYTES - 1;
		while (end && !schema_text_ok(text, end))
			end--;
		text[end] = 0;
	}
	memcpy(reason, text, sizeof(text));
}

bool refuse(struct step *step, enum err_code code, const char *format, ...)
{
	char text[REASON_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	step->out->code = code;
	reason_set(step->out->text, "%s", text);
	return false;
}

static void node_touch(struct step *step, struct node *node, enum node_state state, const char *why)
{
	if (node->state != state)
		node->since_ms = step->cluster->now_ms;
	node->state = state;
	reason_set(node->reason, "%s", why);
	step->out->nodes_changed |= node_bit(node->id);
}

static void vms_lost(struct step *step, uint64_t lost)
{
	struct cluster *cluster = step->cluster;

	for (uint32_t i = 0; i < cluster->vm_count && lost; i++) {
		struct vm *vm = &cluster->vms[i];
		char why[REASON_BYTES];
		if (!vm->def.uuid[0])
			continue;
		if (vm->owner && (lost & node_bit(vm->owner)) && vm->state != VM_BLOCKED) {
			reason_set(why, "%s left the view", cluster_node_name(cluster, vm->owner));
			vm_owner_lost(step, vm, why);
		}
		if (vm->target && vm->target != vm->owner && (lost & node_bit(vm->target))) {
			reason_set(why, "%s left the view", cluster_node_name(cluster, vm->target));
			vm_target_lost(step, vm, why);
		}
	}
}

/* Down and up again between two views of which it was a member each time: the members' word comes before its facts do.
 * What its copies were is dealt with when those are here; but nobody may return to a sealed one, and give the only
 * state up, when that copy is known to be lost. */
static void rebooted_between(struct step *step, struct node *node)
{
	struct cluster *cluster = step->cluster;
	char why[REASON_BYTES];

	node_touch(step, node, NODE_JOINING, "rebooted, its facts are awaited");
	reason_set(why, "%s rebooted: the copy of the boot before is dead", cluster_node_name(cluster, node->id));
	for (uint32_t i = 0; i < cluster->vm_count; i++)
		if (cluster->vms[i].def.uuid[0] && cluster->vms[i].owner == node->id)
			vm_source_gone(step, &cluster->vms[i], why);
}

/* It decided by itself while the others, or the other one, took it for dead: nothing of that is in this log, and somebody
 * has to know (decision 0030). */
static void view_forked(struct step *step, struct node *node, const struct member_boot *boot)
{
	char what[64] = "its decisions";

	step->out->nodes_changed |= node_bit(node->id);
	step->cluster->droppers |= node_bit(node->id);
	if (boot->fork_index && boot->fork_index >= boot->committed) {
		reason_set(node->reason,
			"ALARM: its state was not that of the others after the same %llu events, and it takes theirs: its memory "
			"or disk is bad, or this program is wrong",
			(unsigned long long)boot->committed);
		return;
	}
	if (boot->fork_index)
		snprintf(what, sizeof(what), "its events %llu to %llu", (unsigned long long)boot->fork_index + 1,
			(unsigned long long)boot->committed);
	reason_set(node->reason,
		"ALARM: it went on by itself while it was taken for dead: %s are dropped, with what was acknowledged there; "
		"they stand in its journal",
		what);
}

/* The views of this history, newest last. */
static void view_remember(struct step *step)
{
	struct cluster *cluster = step->cluster;

	if (cluster->view_count == VIEWS_MAX)
		memmove(cluster->views, cluster->views + 1, --cluster->view_count * sizeof(cluster->views[0]));
	cluster->views[cluster->view_count++] =
		(struct view_mark){.index = cluster->index, .nonce = step->event->nonce};
}

static void view_boots(struct step *step)
{
	const struct event *event = step->event;

	for (uint32_t i = 0; i < event->boot_count; i++) {
		const struct member_boot *boot = &event->boots[i];
		if (!is_member(step->cluster, boot->node))
			continue;
		struct node *node = &step->cluster->nodes[boot->node - 1];
		if (node->state == NODE_ONLINE && strcmp(node->facts.boot_id, boot->boot_id) != 0)
			rebooted_between(step, node);
		if (node->state == NODE_JOINING && !strcmp(node->facts.boot_id, boot->boot_id))
			fence_seen_alive(step, node);
		if (boot->forked)
			view_forked(step, node, boot);
	}
}

static void view_step(struct step *step)
{
	struct cluster *cluster = step->cluster;
	uint64_t before = cluster->members;
	uint64_t ring_before = cluster->ring;
	uint64_t lost = 0;

	cluster->members = step->event->members;
	cluster->ring = step->event->ring | step->event->members;
	for (uint32_t id = 1; id <= NODES_MAX; id++) {
		struct node *node = &cluster->nodes[id - 1];
		bool in = cluster->members & node_bit(id);
		if (in && (node->state == NODE_UNKNOWN || node->state == NODE_LOST || node->state == NODE_DEAD)) {
			node->id = id;
			node_touch(step, node, NODE_JOINING, "joined the view, its facts are awaited");
			fence_recall(step, node);
			/* Its fencing is over; the proof is kept until its boot id says whether it was true. */
			node->fence = (struct fencing){.proof = node->fence.proof};
			node->stuck_ms = 0;
		} else if (!in && (node->state == NODE_ONLINE || node->state == NODE_JOINING)) {
			node_touch(step, node, NODE_LOST, "left the view");
			node->down_ms = cluster->now_ms;
			lost |= node_bit(id);
		}
		/* A daemon that is restarted stays in the ring: that is no flapping. */
		if ((ring_before & ~cluster->ring & node_bit(id)) && node->state == NODE_LOST)
			quarantine_left(step, node);
	}
	step->out->nodes_changed |= before ^ cluster->members;
	view_remember(step);
	step->reword = true;
	vms_lost(step, lost);
	view_boots(step);
	fence_view(step, lost);
	fence_proven_before(step);
}

/* The owner is back and nobody else was given the VM in between. */
static void blocked_vm_returns(struct step *step, struct vm *vm, bool rebooted)
{
	const char *name = cluster_node_name(step->cluster, vm->owner);
	char why[REASON_BYTES];

	if (rebooted) {
		reason_set(why, "%s came back with another boot id: the copy of the boot before is dead", name);
		suspect_node_died(step, vm, vm->owner);
		vm_owner_dead(step, vm, why);
	} else if (!vm->started && vm->saved.status == SAVED_CONSUMED && vm->saved.epoch + 1 == vm->epoch) {
		vm_go(step, vm, VM_RESTORING, MOVE_RESUME, "%s is back, the loaded guest is to run there", name);
	} else if (vm->want == WANT_OFF) {
		vm_go(step, vm, VM_STOPPING, MOVE_IDLE, "%s is back, the guest is to stop", name);
	} else if (!vm->started) {
		vm_go(step, vm, VM_STARTING, MOVE_IDLE, "%s is back, it starts the guest", name);
	} else {
		vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "%s is back, without a reboot: its copy never stopped", name);
	}
}

static void node_report_step(struct step *step)
{
	struct cluster *cluster = step->cluster;
	const struct event *event = step->event;
	struct node *node = &cluster->nodes[event->node - 1];
	bool known = node->facts.boot_id[0];
	bool returns = node->state != NODE_ONLINE;
	bool rebooted = known && strcmp(node->facts.boot_id, event->facts.boot_id) != 0;
	char why[REASON_BYTES];

	for (uint32_t i = 0; i < NODES_MAX; i++) {
		const struct node *other = &cluster->nodes[i];
		if (other != node && other->id && !strcmp(other->facts.name, event->facts.name)) {
			refuse(step, ERR_EXISTS, "node id %u and node id %u both call themselves %s", node->id,
				other->id, event->facts.name);
			return;
		}
	}
	node->facts = event->facts;
	cluster->droppers &= ~node_bit(node->id);
	reason_set(why, "%s", rebooted ? "joined after a reboot" : known ? "joined, same boot as before" : "joined");
	node_touch(step, node, NODE_ONLINE, why);
	step->reword = true;
	if (rebooted && !returns)
		node->down_ms = cluster->now_ms; /* within one view: nobody knows what else went then */
	if (returns)
		quarantine_returns(step, node);
	fence_node_returns(step, node, rebooted || !known);
	if (rebooted)
		storage_node_rebooted(step, node->id);
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		struct vm *vm = &cluster->vms[i];
		if (!vm->def.uuid[0] || vm->owner != node->id)
			continue;
		if (vm->state == VM_BLOCKED) {
			blocked_vm_returns(step, vm, rebooted);
		} else if (rebooted) {
			/* Down and up again within one view: the watchers of the ring saw nothing, the boot id did. */
			reason_set(why, "%s rebooted: the copy of the boot before is dead", node->facts.name);
			if (vm->phase == MOVE_LOAD || vm->phase == MOVE_BACK)
				vm_source_gone(step, vm, why);
			else
				vm_owner_dead(step, vm, why);
		}
	}
	suspects_judge(step, node->id);
	fence_review(step);
}

static void tick_step(struct step *step)
{
	struct cluster *cluster = step->cluster;

	fence_tick(step);
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		struct vm *vm = &cluster->vms[i];
		char why[REASON_BYTES];
		if (!vm->def.uuid[0] || !vm->deadline_ms || vm->deadline_ms > cluster->now_ms)
			continue;
		if (vm->state == VM_STOPPING) {
			vm->want = WANT_ON;
			task_end(step, vm, TASK_FAILED, "the guest did not power off within its time: vm stop ends it");
			vm_go(step, vm, VM_ONLINE, MOVE_IDLE, "the guest did not power off within its time");
			continue;
		}
		if (vm->phase == MOVE_WAIT)
			reason_set(why, "%s has not read all pages of the move before within %d minutes",
				cluster_node_name(cluster, vm->owner), WAIT_LIMIT_MS / 60000);
		else
			reason_set(why, "%s did not finish the step '%s' within its time",
				cluster_node_name(cluster, vm->target && vm->phase != MOVE_COPY ? vm->target : vm->owner),
				move_phase_name((int)vm->phase));
		vm_move_failed(step, vm, vm->target, why);
	}
}

uint64_t core_deadline_ms(const struct cluster *cluster)
{
	uint64_t first = fence_deadline_ms(cluster);

	if (cluster->policy_ms && (!first || cluster->policy_ms < first))
		first = cluster->policy_ms;
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		uint64_t due = cluster->vms[i].deadline_ms;
		if (due && cluster->vms[i].def.uuid[0] && (!first || due < first))
			first = due;
	}
	return first;
}

/* Changes nothing that is decided on: the log says for ever who took the risk. */
static void quorum_forced_step(struct step *step)
{
	struct node *node = &step->cluster->nodes[step->event->node - 1];
	char why[REASON_BYTES];

	reason_set(why, "quorum was forced here by %s", step->event->by);
	node_touch(step, node, node->state, why);
}

/* A request that was sent again after a view change counts once. */
static bool is_repeated(struct step *step)
{
	const struct event *event = step->event;
	struct node *node = &step->cluster->nodes[event->node - 1];

	if (!event->seq)
		return false;
	if (node->incarnation == event->incarnation && event->seq <= node->request_seq)
		return true;
	node->incarnation = event->incarnation;
	node->request_seq = event->seq;
	return false;
}

/* The log is read by machines that may be wrong or hostile: what a struct may hold is checked before it is used. */
static bool event_ok(struct step *step)
{
	const struct event *event = step->event;

	if (event->node < 1 || event->node > NODES_MAX || event->target > NODES_MAX)
		return refuse(step, ERR_PROTOCOL, "event of node %u about node %u: there are %d", event->node,
			event->target, NODES_MAX);
	if (event->kind == EVENT_VIEW && !(event->members & node_bit(event->node)))
		return refuse(step, ERR_PROTOCOL, "a view that its own sender is not in");
	if (event->kind != EVENT_VIEW && !is_member(step->cluster, event->node))
		return refuse(step, ERR_PROTOCOL, "event of a node that is not in the view");
	if (event->kind == EVENT_NODE_REPORT && (!name_ok(event->facts.name) || !event->facts.boot_id[0]))
		return refuse(step, ERR_PROTOCOL, "a node's report without a proper name or boot id");
	if (is_repeated(step))
		return refuse(step, ERR_PROTOCOL, "repeated: counted before");
	return true;
}

static void dispatch(struct step *step)
{
	switch (step->event->kind) {
	case EVENT_TICK:
		tick_step(step);
		return;
	case EVENT_VIEW:
		view_step(step);
		return;
	case EVENT_NODE_REPORT:
		node_report_step(step);
		return;
	case EVENT_VM_CREATE:
	case EVENT_VM_EDIT:
	case EVENT_VM_DELETE:
	case EVENT_VM_START:
	case EVENT_VM_SHUTDOWN:
	case EVENT_VM_STOP:
	case EVENT_VM_SAVE:
	case EVENT_VM_MOVE:
	case EVENT_VM_CANCEL:
		request_step(step);
		return;
	case EVENT_NODE_RESUME:
		quarantine_resume(step);
		return;
	case EVENT_FENCE_SET:
	case EVENT_FENCE_REMOVE:
	case EVENT_NODE_CONFIRM_OFF:
	case EVENT_NODE_FENCE:
		fence_request_step(step);
		return;
	case EVENT_QUORUM_FORCED:
		quorum_forced_step(step);
		return;
	case EVENT_FENCED:
	case EVENT_FENCE_FAILED:
		fence_report_step(step);
		return;
	case EVENT_STARTED:
	case EVENT_GONE:
	case EVENT_PREPARED:
	case EVENT_SEALED:
	case EVENT_LOADED:
	case EVENT_RESUMED:
	case EVENT_FILLED:
	case EVENT_STEP_FAILED:
	case EVENT_STORAGE_LOST:
	case EVENT_STORAGE_OK:
	case EVENT_HELD:
		report_step(step);
		return;
	}
	refuse(step, ERR_PROTOCOL, "unknown kind of event");
}

static void digest_record(struct cluster *cluster, const struct schema *schema, const void *record)
{
	uint8_t bytes[RECORD_BYTES_MAX];
	size_t size = schema_encode(schema, record, bytes, sizeof(bytes));

	assert(size <= sizeof(bytes));
	cluster->digest = hash64(bytes, size, cluster->digest);
}

/* Folds in what this event has changed, so that equal digests mean equal histories of states. */
static void digest_step(struct step *step)
{
	struct cluster *cluster = step->cluster;
	struct core_outcome *out = step->out;
	uint64_t head[4] = {cluster->index, cluster->now_ms, cluster->members, out->code};

	cluster->digest = hash64(head, sizeof(head), cluster->digest);
	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (out->nodes_changed & node_bit(id))
			digest_record(cluster, &node_schema, &cluster->nodes[id - 1]);
	for (uint32_t i = 0; out->devices_changed && i < cluster->fence_device_count; i++)
		digest_record(cluster, &fence_device_schema, &cluster->fence_devices[i]);
	for (uint32_t i = 0; i < out->change_count; i++)
		if (!i || out->changes[i].vm != out->changes[i - 1].vm)
			digest_record(cluster, &vm_schema, &cluster->vms[out->changes[i].vm]);
}

void core_step(struct cluster *cluster, const struct event *event, struct core_outcome *out)
{
	struct step step = {.cluster = cluster, .event = event, .out = out, .plan = &out->plan};

	out->code = ERR_NONE;
	out->text[0] = 0;
	out->task = 0;
	out->nodes_changed = 0;
	out->devices_changed = false;
	out->change_count = 0;
	cluster->index++;
	if (event->now_ms > cluster->now_ms && event->now_ms <= TIME_MS_MAX)
		cluster->now_ms = event->now_ms;
	plan_forget(&out->plan);
	if (event_ok(&step))
		dispatch(&step);
	if (out->code == ERR_NONE)
		policy_run(&step);
	for (uint32_t i = 0; i < out->change_count; i++)
		vm_check(cluster, &cluster->vms[out->changes[i].vm]);
	digest_step(&step);
}
