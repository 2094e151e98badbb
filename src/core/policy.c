/* SPDX-License-Identifier: Apache-2.0
 * What happens by itself, at the end of every step: VMs that should run and do not are started or restored where they
 * fit, those on a quarantined node are moved away, those that are not where they belong go home.
 *
 * Who gets room: by priority, then start order, then the larger one, then the older slot. The whole queue is placed in
 * that order before anything starts, so that a VM that still waits for its turn keeps its room. Who starts first: VMs
 * with a lower start order must run (and have run for their start_delay_s), have failed or wait for room before a
 * higher one; and on each node no more than STARTS_MAX starts are under way at once.
 *
 * One walk over the VMs a step (see struct vm), one more where something waits. Times that matter later go into
 * cluster.policy_ms, always later than now. */
#include "core/internal.h"
#include "core/timing.h"

#include <assert.h>
#include <string.h>

enum { SLOT_BITS = 14, MEMORY_BITS = 23, ORDER_BITS = 14 };
_Static_assert(VMS_MAX <= 1 << SLOT_BITS, "a slot must fit the queue's key");
_Static_assert(MEMORY_MIB_MAX < 1 << MEMORY_BITS, "memory must fit the queue's key");
_Static_assert(START_ORDER_MAX < 1 << ORDER_BITS, "a start order must fit the queue's key");

/* What the walk over all VMs found. */
struct found {
	uint32_t gate;	      /* the lowest start order of which one is not up yet */
	uint64_t next_ms;     /* the next time something may change by itself */
	uint64_t slow_ms;     /* when the first start that is under way does not count any more */
	bool move_candidates; /* some VM may have to be moved */
};

void next_at(const struct step *step, uint64_t *next_ms, uint64_t at_ms)
{
	if (at_ms > step->cluster->now_ms && (!*next_ms || at_ms < *next_ms))
		*next_ms = at_ms;
}

/* ---- the queue */

static uint64_t queue_key(const struct cluster *cluster, const struct vm *vm)
{
	static const uint64_t ranks[PRIORITY_COUNT] = {
		[PRIORITY_HIGH] = 0, [PRIORITY_MEDIUM] = 1, [PRIORITY_LOW] = 2, [PRIORITY_NONE] = 3};
	uint64_t key = ranks[vm->def.priority];

	key = key << ORDER_BITS | vm->def.policy.start_order;
	key = key << MEMORY_BITS | (MEMORY_MIB_MAX - vm->def.memory_mib);
	return key << SLOT_BITS | (uint64_t)(vm - cluster->vms);
}

static void queue_add(struct core_plan *plan, const struct cluster *cluster, const struct vm *vm)
{
	plan->queue[plan->queue_count++] = queue_key(cluster, vm);
}

static struct vm *queue_vm(const struct step *step, uint32_t place)
{
	return &step->cluster->vms[step->plan->queue[place] & ((1u << SLOT_BITS) - 1)];
}

static void sift_down(uint64_t *heap, uint32_t count, uint32_t at)
{
	for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
		child += child + 1 < count && heap[child + 1] > heap[child];
		if (heap[at] >= heap[child])
			return;
		uint64_t swap = heap[at];
		heap[at] = heap[child];
		heap[child] = swap;
	}
}

/* Heap sort: no recursion, no memory, the same on every node. Keys are unique. */
static void queue_sort(struct core_plan *plan)
{
	uint64_t *heap = plan->queue;

	for (uint32_t at = plan->queue_count / 2; at-- > 0;)
		sift_down(heap, plan->queue_count, at);
	for (uint32_t count = plan->queue_count; count > 1; count--) {
		uint64_t largest = heap[0];
		heap[0] = heap[count - 1];
		heap[count - 1] = largest;
		sift_down(heap, count - 1, 0);
	}
}

/* ---- the walk */

static bool waits_to_run(const struct vm *vm)
{
	return vm->want == WANT_ON && (vm->state == VM_OFF || vm->state == VM_SAVED || vm->state == VM_FAILED);
}

/* Its start keeps others waiting; not for ever, where it hangs. */
static bool is_starting(const struct cluster *cluster, const struct vm *vm)
{
	return (vm->state == VM_STARTING || vm->state == VM_RESTORING) &&
	       vm->since_ms + START_SLOT_MS > cluster->now_ms;
}

static void gate_lower(uint32_t *gate, uint32_t order)
{
	if (order && order < *gate)
		*gate = order;
}

/* How far this VM holds back those with a higher start order. */
static void find_gate(struct step *step, const struct vm *vm, struct found *found)
{
	const struct cluster *cluster = step->cluster;
	uint64_t up_ms = vm->run_ms + (uint64_t)vm->def.policy.start_delay_s * 1000;

	if (!vm->def.policy.start_order)
		return;
	if (is_starting(cluster, vm) || (vm->state == VM_ONLINE && up_ms > cluster->now_ms))
		gate_lower(&found->gate, vm->def.policy.start_order);
	/* Its node is being switched off: soon it is in the queue. One that is held stays blocked until a person acts.
	 */
	if (vm->state == VM_BLOCKED && cluster_node(cluster, vm->owner)->fence.phase == FENCE_RUN)
		gate_lower(&found->gate, vm->def.policy.start_order);
	if (vm->state == VM_ONLINE)
		next_at(step, &found->next_ms, up_ms);
}

static void look_at(struct step *step, struct vm *vm, struct found *found)
{
	struct core_plan *plan = step->plan;
	uint64_t now = step->cluster->now_ms;

	if (vm->retry_ms && vm->retry_ms <= now) {
		vm->retry_ms = 0;
		vm->exhausted = 0;
		vm->deaths = 0;
		if (vm->state == VM_FAILED)
			vm_go(step, vm, VM_OFF, MOVE_IDLE,
				"tried again on all nodes, %u min after its restarts were used up",
				(uint32_t)((now - vm->since_ms) / 60000));
		else
			vm_touch(step, vm);
	}
	if (vm_is_suspect(vm) && vm->state == VM_ONLINE && vm->run_ms + KILL_WINDOW_MS <= now) {
		vm->killed = 0;
		vm_touch(step, vm);
	}
	if (vm_is_suspect(vm) && vm->state == VM_ONLINE)
		next_at(step, &found->next_ms, vm->run_ms + KILL_WINDOW_MS);
	next_at(step, &found->next_ms, vm->retry_ms);
	if (vm->storage_ms || vm->storage_lost)
		storage_review(step, vm, &found->next_ms);
	if (vm->no_room)
		vm_room_review(step, vm, &found->next_ms);
	find_gate(step, vm, found);
	if (is_starting(step->cluster, vm)) {
		plan->starts[vm->target ? vm->target : vm->owner]++;
		next_at(step, &found->slow_ms, vm->since_ms + START_SLOT_MS);
	}
	if (vm->state == VM_MOVING) {
		plan->leaving[vm->owner]++;
		plan->coming[vm->target]++;
	}
	if (waits_to_run(vm))
		queue_add(plan, step->cluster, vm);
	if (vm->state == VM_ONLINE && (vm->displaced || quarantine_holds(step->cluster, vm->owner)))
		found->move_candidates = true;
}

static void walk(struct step *step, struct found *found)
{
	struct core_plan *plan = step->plan;

	memset(plan->starts, 0, sizeof(plan->starts));
	memset(plan->leaving, 0, sizeof(plan->leaving));
	memset(plan->coming, 0, sizeof(plan->coming));
	plan->queue_count = 0;
	for (uint32_t i = 0; i < step->cluster->vm_count; i++)
		if (step->cluster->vms[i].def.uuid[0])
			look_at(step, &step->cluster->vms[i], found);
}

/* ---- starts */

/* The reason changes when its kind does, and when nodes or the VM do; not with each start of another VM. */
static void wait_for(struct step *step, struct vm *vm, enum vm_wait wait, const char *text)
{
	if ((vm->wait == wait && !step->reword) || !strcmp(vm->reason, text))
		return;
	vm_go(step, vm, vm->state, MOVE_IDLE, "%s", text);
	vm->wait = wait;
}

/* A guest that died is restarted where it was, as long as it may be; and what ran on a node that is back goes on there,
 * where no rule wishes otherwise, rather than all of it on the first node that came back. */
static bool stays(const struct step *step, const struct vm *vm)
{
	const struct cluster *cluster = step->cluster;
	uint32_t node = vm->last_owner;
	bool at_will = !vm->killed && !vm->def.policy.preferred_count && !place_beside(cluster, step->plan, vm, node);

	return node && (vm->deaths || at_will) && !((vm->exhausted | vm->storage_lost | vm->no_room) & node_bit(node)) &&
	       place_fits(cluster, step->plan, vm, node, NULL);
}

static uint32_t choose(struct step *step, struct vm *vm, struct found *found)
{
	const struct cluster *cluster = step->cluster;
	bool said = vm->wait == WAIT_ROOM && !step->reword;
	char text[REASON_BYTES], why[REASON_BYTES];

	if (stays(step, vm))
		return vm->last_owner;
	uint32_t node = place_choose(cluster, step->plan, vm, 0, said || vm->state == VM_FAILED ? NULL : text);
	if (!node && storage_all_again(step, vm, &found->next_ms))
		node = place_choose(cluster, step->plan, vm, 0, said || vm->state == VM_FAILED ? NULL : text);
	if (!node && !said && vm->state != VM_FAILED) {
		reason_set(why, "%s: %s", vm->state == VM_SAVED ? "saved, waits for room" : "waits for room", text);
		wait_for(step, vm, WAIT_ROOM, why);
	}
	return node;
}

/* Beside a note, "starting on" and a node's name; what is cut off was said when the node died. */
enum { NOTED_REASON_MAX = 96 };

/* How many of its bytes are at most `max`, without a part of a UTF-8 sequence. */
static int cut_at(const char *text, int max)
{
	int length = (int)strnlen(text, (size_t)max);

	while (length == max && length && ((unsigned char)text[length] & 0xc0) == 0x80)
		length--;
	return length;
}

static void start_one(struct step *step, struct vm *vm, uint32_t node, bool beside, const char *note)
{
	static const char *const because[VM_WAIT_COUNT] = {[WAIT_ROOM] = "there is room now",
		[WAIT_ORDER] = "those before it are up",
		[WAIT_TURN] = "its turn has come"};
	const char *reason = because[vm->wait] ? because[vm->wait] : vm->reason;
	char why[REASON_BYTES];

	if (beside)
		reason_set(why, "beside another VM of anti-affinity '%s', no other node has room; %.120s",
			vm->def.policy.anti_affinity, reason);
	else if (note[0])
		reason_set(why, "%.*s; %s", cut_at(reason, NOTED_REASON_MAX), reason, note);
	else
		reason_set(why, "%.190s", reason);
	vm->tried = 0;
	vm->displaced = place_wish(vm, node) != 0 && vm->def.policy.preferred_count;
	if (vm->state == VM_SAVED)
		vm_restore_on(step, vm, node, why);
	else
		vm_start_on(step, vm, node, why);
}

/* It has a place, and others come first. */
static void hold_back(struct step *step, struct vm *vm, enum vm_wait wait, uint32_t gate)
{
	char text[REASON_BYTES];

	if (vm->state == VM_FAILED)
		vm_go(step, vm, VM_OFF, MOVE_IDLE, "tried again: %.180s", vm->reason);
	if (wait == WAIT_ORDER)
		reason_set(text, "waits for the VMs with start order %u", gate);
	else
		reason_set(text, "waits its turn: %d starts at a time on each node", STARTS_MAX);
	wait_for(step, vm, wait, text);
}

enum { BESIDE = 0x80 }; /* in plan.chosen: the place is one that soft anti-affinity would not have */

/* Places the whole queue, then starts what may start now. */
static void run_queue(struct step *step, struct found *found)
{
	struct core_plan *plan = step->plan;
	uint32_t noted[NODES_MAX + 1] = {0};
	bool held = false;

	queue_sort(plan);
	place_count(step->cluster, plan);
	for (uint32_t i = 0; i < plan->queue_count; i++) {
		struct vm *vm = queue_vm(step, i);
		uint32_t node = choose(step, vm, found);
		plan->chosen[i] = (uint8_t)node;
		if (!node)
			continue;
		if (place_beside(step->cluster, plan, vm, node))
			plan->chosen[i] |= BESIDE;
		plan->notes[i][0] = 0;
		if (plan->starts[node] + noted[node]++ < STARTS_MAX)
			place_others(step->cluster, plan, vm, plan->notes[i]);
		place_claim(step->cluster, plan, vm, node);
		gate_lower(&found->gate, vm->def.policy.start_order);
	}
	for (uint32_t i = 0; i < plan->queue_count; i++) {
		struct vm *vm = queue_vm(step, i);
		uint32_t node = plan->chosen[i] & (uint32_t)~BESIDE;
		bool gated = vm->def.policy.start_order > found->gate;
		if (!node)
			continue;
		if (gated || plan->starts[node] >= STARTS_MAX) {
			hold_back(step, vm, gated ? WAIT_ORDER : WAIT_TURN, found->gate);
			held = true;
			continue;
		}
		plan->starts[node]++;
		start_one(step, vm, node, plan->chosen[i] & BESIDE, plan->notes[i]);
		next_at(step, &found->slow_ms, vm->since_ms + START_SLOT_MS);
	}
	if (held)
		next_at(step, &found->next_ms, found->slow_ms);
}

/* ---- moves */

/* When its window is open; now, where it is or needs none. */
static uint64_t window_ms(const struct vm_policy *policy, uint64_t now)
{
	enum { HOUR_MS = 3600 * 1000, DAY_MS = 24 * HOUR_MS };
	uint64_t opens = now - now % DAY_MS + (uint64_t)policy->failback_from_hour * HOUR_MS;

	if (policy->failback != FAILBACK_WINDOW || vm_policy_window(policy, (uint32_t)(now % DAY_MS / HOUR_MS)))
		return now;
	return opens > now ? opens : opens + DAY_MS;
}

/* The most preferred owner that can take it and is preferred to the one that it has; 0: none, or not yet. */
static uint32_t home_of(struct step *step, const struct vm *vm, struct found *found)
{
	const struct cluster *cluster = step->cluster;
	const struct vm_policy *policy = &vm->def.policy;
	uint32_t here = place_wish(vm, vm->owner);
	uint64_t now = cluster->now_ms;

	for (uint32_t i = 0; i < policy->preferred_count && i < here; i++) {
		uint32_t node = policy->preferred[i].node;
		uint64_t stable_ms = cluster_node(cluster, node)->since_ms + FAILBACK_STABLE_MS;
		uint64_t opens_ms = window_ms(policy, now);
		if (!node_usable(cluster, node))
			continue;
		if (stable_ms > now || opens_ms > now) {
			next_at(step, &found->next_ms, stable_ms > opens_ms ? stable_ms : opens_ms);
			continue;
		}
		if (place_fits(cluster, step->plan, vm, node, NULL) && !place_beside(cluster, step->plan, vm, node))
			return node;
	}
	return 0;
}

static void move_one(struct step *step, struct vm *vm, struct found *found)
{
	struct core_plan *plan = step->plan;
	bool drained = quarantine_holds(step->cluster, vm->owner);
	uint32_t target = 0;
	char why[REASON_BYTES];

	if (plan->leaving[vm->owner] >= MOVES_MAX)
		return;
	if (drained)
		target = place_choose(step->cluster, plan, vm, node_bit(vm->owner), NULL);
	else if (vm->def.policy.failback != FAILBACK_NEVER)
		target = home_of(step, vm, found);
	if (!target || plan->coming[target] >= MOVES_MAX)
		return;
	reason_set(why, "%s to %s: %s %s", drained ? "away" : "back", cluster_node_name(step->cluster, target),
		cluster_node_name(step->cluster, drained ? vm->owner : target),
		drained ? "is quarantined" : "is a more preferred owner");
	plan->leaving[vm->owner]++;
	plan->coming[target]++;
	vm->displaced |= vm->def.policy.preferred_count && place_wish(vm, target) != 0;
	vm_move_to(step, vm, target, false, why);
	place_claim(step->cluster, plan, vm, target);
}

static void run_moves(struct step *step, struct found *found)
{
	struct cluster *cluster = step->cluster;
	struct core_plan *plan = step->plan;

	plan->queue_count = 0;
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		struct vm *vm = &cluster->vms[i];
		if (vm->state != VM_ONLINE || vm->task || vm->filling || !node_usable(cluster, vm->owner) ||
			!(vm->displaced || quarantine_holds(cluster, vm->owner)))
			continue;
		next_at(step, &found->next_ms, vm->move_again_ms);
		if (vm->move_again_ms <= cluster->now_ms)
			queue_add(plan, cluster, vm);
	}
	queue_sort(plan);
	for (uint32_t i = 0; i < plan->queue_count; i++)
		move_one(step, queue_vm(step, i), found);
}

void policy_run(struct step *step)
{
	struct found found = {.gate = UINT32_MAX};
	uint64_t task = step->out->task; /* of the request; what begins here is nobody's answer */

	step->automatic = true;
	quarantine_review(step, &found.next_ms);
	plan_forget(step->plan);
	walk(step, &found);
	if (step->plan->queue_count)
		run_queue(step, &found);
	if (found.move_candidates)
		run_moves(step, &found);
	step->cluster->policy_ms = found.next_ms;
	step->out->task = task;
}
