/* SPDX-License-Identifier: Apache-2.0
 * From suspect to dead: who fences a node that left the view, with what, and when its death counts as proven.
 *
 *   member ──left the view──▶ LOST ─┬─ owns no VM ─────────────▶ IDLE     nothing of it needs proof
 *                                   ├─ only its daemon is away ▶ GRACE    its guests are left alone
 *                                   ├─ limiter, no device ─────▶ HELD     watchdog, return or a person
 *                                   └─ RUN: level 1, 2, … ──off read back──▶ DEAD ─▶ its VMs are placed
 *                                       ├── all failed ──▶ RETRY ──▶ RUN …
 *                                       └── off, but another node left meanwhile: the devices may be wired to that one
 *                                             ──▶ HELD until that node is back and sees them off itself (RUN, look)
 *
 * Rules: no VM of a lost node is touched before proof (I2). Never more than a minority is fenced, counted over all that
 * are off by our hand (I7). A report counts only for the order that it answers: (node, fencing.id, began_index). A node
 * that comes back ends its fencing at once. */
#include "core/internal.h"
#include "core/timing.h"

#include <assert.h>
#include <string.h>

/* Whether its machine is still in corosync's ring is all that is known of it. */
static const char *left_how(const struct cluster *cluster, const struct node *node)
{
	if (node->fence.phase == FENCE_GRACE)
		return "left the view; "; /* what follows says how */
	return cluster->ring & node_bit(node->id) ? "left the view (its daemon is away); " : "left the view (token lost); ";
}

PRINTF_LIKE(3, 4) static void node_say(struct step *step, struct node *node, const char *format, ...)
{
	char text[REASON_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	/* In the step that lost it, what came of it alone would not say so. */
	reason_set(node->reason, "%s%s", node->fence.id == step->cluster->index ? left_how(step->cluster, node) : "", text);
	step->out->nodes_changed |= node_bit(node->id);
}

static void fence_phase_set(struct step *step, struct node *node, enum fence_phase phase)
{
	node->fence.phase = phase;
	node->fence.deadline_ms = 0;
	step->out->nodes_changed |= node_bit(node->id);
}

/* Or may run what a history that it dropped gave to it. */
static bool owns_any(const struct cluster *cluster, uint32_t node)
{
	if (cluster->droppers & node_bit(node))
		return true;
	for (uint32_t i = 0; i < cluster->vm_count; i++)
		if (cluster->vms[i].def.uuid[0] && cluster->vms[i].owner == node)
			return true;
	return false;
}

/* Another fencing can only be judged when it is known whether this node has power. */
static bool is_doubt(const struct cluster *cluster, uint32_t node)
{
	for (uint32_t i = 0; i < NODES_MAX; i++)
		if (cluster->nodes[i].fence.id && cluster->nodes[i].fence.doubt == node)
			return true;
	return false;
}

uint32_t fence_next_level(const struct cluster *cluster, uint32_t node, uint32_t above)
{
	uint32_t best = 0;

	for (uint32_t i = 0; i < cluster->fence_device_count; i++) {
		const struct fence_device *device = &cluster->fence_devices[i];
		if (device->node == node && !device->distrusted && device->level > above &&
			(!best || device->level < best))
			best = device->level;
	}
	return best;
}

/* The other half, where it is alive, may take itself for the cluster just as well. */
static bool is_half(const struct cluster *cluster)
{
	return 2 * (uint32_t)__builtin_popcountll(cluster->members) <= fence_nodes_known(cluster);
}

/* Not in our ring, and enough for a quorum of its own. */
static bool may_go_on(const struct cluster *cluster, const struct node *node)
{
	return node->id && node->state == NODE_LOST && is_half(cluster) && !node->facts.leaving &&
	       !(cluster->ring & node_bit(node->id));
}

/* Its watchdog ends a node that is without quorum. The other half of two may have kept it, and feeds on. */
static bool watchdog_counts(const struct cluster *cluster, const struct node *node)
{
	return node->facts.watchdog_ms && !(cluster->ring & node_bit(node->id)) && !is_half(cluster);
}

const struct node *fence_other_half(const struct cluster *cluster)
{
	for (uint32_t i = 0; i < NODES_MAX; i++)
		if (may_go_on(cluster, &cluster->nodes[i]))
			return &cluster->nodes[i];
	return NULL;
}

bool fence_waits_for_other_half(struct step *step)
{
	const struct node *half = fence_other_half(step->cluster);

	if (half)
		refuse(step, ERR_NO_QUORUM,
			"%s left and is not proven off, so it may go on by itself: nothing can be changed "
			"until it is fenced, is back, or 'node confirm-off %s' was typed",
			half->facts.name, half->facts.name);
	return half;
}

PRINTF_LIKE(3, 4) static void hold(struct step *step, struct node *node, const char *format, ...)
{
	char text[REASON_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (node->fence.phase == FENCE_HELD && !strcmp(node->fence.text, text))
		return;
	fence_phase_set(step, node, FENCE_HELD);
	reason_set(node->fence.text, "%s", text);
	node_say(step, node, "not fenced: %s", text);
}

/* The members take turns, so that a member whose own way to the devices is broken does not end it. */
static uint32_t executor(const struct cluster *cluster, uint32_t round)
{
	uint32_t members = (uint32_t)__builtin_popcountll(cluster->members);
	uint32_t turn = members ? round % members : 0;

	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if ((cluster->members & node_bit(id)) && !turn--)
			return id;
	return 0;
}

static uint64_t weight(const struct cluster *cluster, uint64_t nodes)
{
	static const uint32_t weights[PRIORITY_COUNT] = {
		[PRIORITY_HIGH] = 10000, [PRIORITY_MEDIUM] = 100, [PRIORITY_LOW] = 1, [PRIORITY_NONE] = 1};
	uint64_t sum = 0;

	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		const struct vm *vm = &cluster->vms[i];
		if (vm->def.uuid[0] && vm->owner && (nodes & node_bit(vm->owner)))
			sum += weights[vm->def.priority];
	}
	return sum;
}

/* Of two equal halves both may fence: the one with less to lose waits, so that they do not shoot each other. */
static uint64_t split_delay_ms(const struct cluster *cluster, const struct node *node)
{
	uint64_t ours, theirs;

	if (!is_half(cluster) || node->fence.round)
		return 0;
	ours = weight(cluster, cluster->members);
	theirs = weight(cluster, node_bit(node->id));
	if (ours > theirs || (ours == theirs && (cluster->members & (~cluster->members + 1)) < node_bit(node->id)))
		return 0;
	return FENCE_SPLIT_DELAY_MS;
}

static void run_level(struct step *step, struct node *node, uint32_t level)
{
	char names[112] = "";
	size_t at = 0;

	for (uint32_t i = 0; i < step->cluster->fence_device_count && at < sizeof(names); i++) {
		const struct fence_device *device = &step->cluster->fence_devices[i];
		if (device->node == node->id && device->level == level && !device->distrusted)
			at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", at ? ", " : "", device->name);
	}
	fence_phase_set(step, node, FENCE_RUN);
	node->fence.look = false;
	node->fence.level = level;
	node->fence.by = executor(step->cluster, node->fence.round);
	node->fence.began_index = step->cluster->index;
	bool yields = split_delay_ms(step->cluster, node);
	node_say(step, node, "being fenced by %s with %s%s", cluster_node_name(step->cluster, node->fence.by), names,
		yields ? ", which gives the other half a head start: its VMs weigh as much or more" : "");
}

static void doubt_say(struct step *step, struct node *node)
{
	fence_phase_set(step, node, FENCE_HELD);
	node_say(step, node,
		"%.90s; but %s left while it was switched: wired to the wrong node? Its return decides, or 'node confirm-off'",
		node->fence.text, cluster_node_name(step->cluster, node->fence.doubt));
}

/* Its devices said off, and perhaps they spoke of the node that left meanwhile. That one is back: what it reads while it
 * runs is not about itself. Nothing is switched for it: they may be its own. */
static void look_begin(struct step *step, struct node *node)
{
	const char *doubted = cluster_node_name(step->cluster, node->fence.doubt);

	if (!node->fence.doubt)
		return;
	if (!is_member(step->cluster, node->fence.doubt)) {
		if (node->fence.phase != FENCE_HELD)
			doubt_say(step, node);
		return;
	}
	fence_phase_set(step, node, FENCE_RUN);
	node->fence.look = true;
	node->fence.by = node->fence.doubt;
	node->fence.began_index = step->cluster->index;
	node_say(step, node, "%.120s; %s is back, and asks whether they are off still", node->fence.text, doubted);
}

static bool has_device(const struct cluster *cluster, uint32_t node)
{
	for (uint32_t i = 0; i < cluster->fence_device_count; i++)
		if (cluster->fence_devices[i].node == node)
			return true;
	return false;
}

void fence_decide(struct step *step, struct node *node, bool force)
{
	struct cluster *cluster = step->cluster;
	const char *name = cluster_node_name(cluster, node->id);
	bool again = node->fences && cluster->now_ms < node->fences_ms + FENCES_PERIOD_MS;
	uint32_t level = fence_next_level(cluster, node->id, 0);

	bool needed = owns_any(cluster, node->id) || is_doubt(cluster, node->id) || force || may_go_on(cluster, node);

	if (node->fence.proof != PROOF_NONE) {
		look_begin(step, node); /* in doubt: only what lifts the doubt goes on */
	} else if (!needed) {
		fence_phase_set(step, node, FENCE_IDLE);
		node_say(step, node, "it owned no VM, so it is not fenced");
	} else if ((cluster->ring & node_bit(node->id)) && !force && !node->stuck_ms) {
		fence_phase_set(step, node, FENCE_GRACE);
		node_say(step, node,
			"its daemon is away, its machine is in the ring: its guests are left alone "
			"('node fence %s' fences it)",
			name);
	} else if (!level) {
		hold(step, node,
			"no fence device%s for %s; %sits return or 'node confirm-off %s' is the proof",
			has_device(cluster, node->id) ? " can be used" : " is configured", name,
			is_half(cluster) ? "" : "its watchdog, ", name);
	} else if (again && node->fences >= FENCES_MAX && !force) {
		hold(step, node, "fenced %u times within the hour; 'node fence %s --force' does it once more",
			node->fences, name);
	} else if (fence_nodes_taken(cluster, node) + 1 > fence_limit(cluster) && !force) {
		hold(step, node,
			"%u of %u nodes are off or being fenced already%s: never a majority; 'node confirm-off %s'",
			fence_nodes_taken(cluster, node), fence_nodes_known(cluster), fence_recalled(cluster, node), name);
	} else {
		run_level(step, node, level);
	}
}

bool fence_may_prove(const struct cluster *cluster, const struct node *node)
{
	uint32_t known = fence_nodes_known(cluster);
	uint32_t others = (uint32_t)__builtin_popcountll(cluster->members & ~node_bit(node->id));
	bool device = fence_next_level(cluster, node->id, 0) && fence_nodes_taken(cluster, node) + 1 <= fence_limit(cluster);

	if (2 * others > known)
		return device || node->facts.watchdog_ms;
	return device && known == 2 && others == 1;
}

void fence_begin(struct step *step, struct node *node)
{
	node->fence = (struct fencing){.id = step->cluster->index, .lost_ms = step->cluster->now_ms};
	fence_decide(step, node, false);
}

/* A node that left while the devices of another one were being switched: perhaps they are wired to it. */
static void doubt_begins(struct step *step, uint64_t lost)
{
	for (uint32_t i = 0; i < NODES_MAX; i++) {
		struct node *node = &step->cluster->nodes[i];
		if (node->fence.phase != FENCE_RUN || (lost & node_bit(node->id)) || node->fence.doubt)
			continue;
		node->fence.doubt = (uint32_t)__builtin_ctzll(lost) + 1;
		step->out->nodes_changed |= node_bit(node->id);
	}
}

void fence_view(struct step *step, uint64_t lost)
{
	struct cluster *cluster = step->cluster;

	/* Where only a daemon went, its machine has power. */
	if (lost & ~cluster->ring)
		doubt_begins(step, lost & ~cluster->ring);
	for (uint32_t i = 0; i < NODES_MAX; i++) {
		struct node *node = &cluster->nodes[i];
		if (!node->id || node->state != NODE_LOST)
			continue;
		if (lost & node_bit(node->id))
			fence_begin(step, node);
		else if (node->fence.phase == FENCE_RUN && !is_member(cluster, node->fence.by) && node->fence.look)
			look_begin(step, node);
		else if (node->fence.phase == FENCE_RUN && !is_member(cluster, node->fence.by))
			run_level(step, node, node->fence.level);
	}
	fence_review(step);
}

/* What was held may have become possible: a device was added, another node came back, the machine left the ring. */
void fence_review(struct step *step)
{
	for (uint32_t i = 0; i < NODES_MAX; i++) {
		struct node *node = &step->cluster->nodes[i];
		bool gone = node->fence.phase == FENCE_GRACE && !(step->cluster->ring & node_bit(node->id));
		bool asked = node->fence.phase == FENCE_IDLE && node->fence.id && is_doubt(step->cluster, node->id);
		if (node->id && node->state == NODE_LOST && (node->fence.phase == FENCE_HELD || gone || asked))
			fence_decide(step, node, false);
	}
}

static void fences_count(struct step *step, struct node *node)
{
	if (node->fences_ms + FENCES_PERIOD_MS < step->cluster->now_ms || !node->fences) {
		node->fences = 0;
		node->fences_ms = step->cluster->now_ms;
	}
	node->fences += !node->fence.found_off;
}

void fence_node_dies(struct step *step, struct node *node)
{
	struct cluster *cluster = step->cluster;
	char why[REASON_BYTES];

	fence_phase_set(step, node, FENCE_DONE);
	node->fence.doubt = 0;
	node->fence.look = false;
	node->fence.proven_ms = cluster->now_ms;
	node->state = NODE_DEAD;
	cluster->droppers &= ~node_bit(node->id);
	node->since_ms = cluster->now_ms;
	node_say(step, node, "%s", node->fence.text);
	reason_set(why, "%s is dead: %s", cluster_node_name(cluster, node->id), node->fence.text);
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		struct vm *vm = &cluster->vms[i];
		if (!vm->def.uuid[0] || vm->owner != node->id || vm->state != VM_BLOCKED)
			continue; /* nothing of it ran there: it is being restored elsewhere, or has ended */
		suspect_node_died(step, vm, node->id);
		vm_owner_dead(step, vm, why);
	}
	suspects_judge(step, node->id);
	fence_review(step);
}

/* Of two nodes the one that goes on wrote nothing before the other was proven off: its first word carries the proof. */
void fence_proven_before(struct step *step)
{
	const struct event *event = step->event;

	if (event->proof == PROOF_NONE || event->target < 1)
		return;
	struct node *node = &step->cluster->nodes[event->target - 1];
	if (!node->id || node->state != NODE_LOST || is_member(step->cluster, node->id))
		return;
	if (!node->fence.id)
		node->fence.id = step->cluster->index;
	node->fence.found_off = event->proof == PROOF_FENCED && !event->was_on;
	if (event->proof == PROOF_FENCED)
		fences_count(step, node);
	node->fence.proof = event->proof;
	reason_set(node->fence.text, "%s", event->text);
	fence_node_dies(step, node);
}

/* The node that was doubted has power, or had: the device that was suspected did switch what it should. */
static void doubt_ends(struct step *step, uint32_t doubted)
{
	for (uint32_t i = 0; i < NODES_MAX; i++) {
		struct node *node = &step->cluster->nodes[i];
		if (!node->fence.id || node->fence.doubt != doubted)
			continue;
		node->fence.doubt = 0;
		step->out->nodes_changed |= node_bit(node->id);
		if (node->fence.proof != PROOF_NONE && node->state == NODE_LOST)
			fence_node_dies(step, node);
	}
}

void fence_seen_alive(struct step *step, const struct node *node)
{
	if (node->fence.proof != PROOF_FENCED)
		return;
	for (uint32_t i = 0; i < step->cluster->fence_device_count; i++)
		if (step->cluster->fence_devices[i].node == node->id)
			step->cluster->fence_devices[i].distrusted = step->out->devices_changed = true;
}

void fence_node_returns(struct step *step, struct node *node, bool rebooted)
{
	const char *name = node->facts.name;

	if (!rebooted && node->fence.proof == PROOF_WATCHDOG) {
		/* As it should be: it ended its guests in time, and then had nothing for which to be ended itself. */
		node_say(step, node, "joined, same boot as before; without quorum it had ended its guests by itself");
	} else if (!rebooted && node->fence.proof == PROOF_CONFIRMED) {
		node_say(step, node, "ALARM: confirmed off by a person, and back in the same boot: it was not off");
	} else if (!rebooted && node->fence.proof != PROOF_NONE) {
		fence_seen_alive(step, node);
		node_say(step, node,
			"ALARM: taken for dead (%s) and back in the same boot; its devices are not used until "
			"'fence set' or 'fence test %s'",
			death_proof_name((int)node->fence.proof), name);
	}
	node->fence = (struct fencing){.id = 0};
	if (!rebooted)
		doubt_ends(step, node->id);
}

static bool answers_order(struct step *step, const struct node *node)
{
	const struct event *event = step->event;

	if (!node->fence.id || node->fence.id != event->task || node->state != NODE_LOST)
		return refuse(step, ERR_PROTOCOL, "late: %s is %s, this fencing is over",
			cluster_node_name(step->cluster, event->target), node_state_name((int)node->state));
	if (event->proof == PROOF_WATCHDOG && event->kind == EVENT_FENCED)
		return true;
	if (node->fence.phase != FENCE_RUN || node->fence.by != event->node || node->fence.began_index != event->epoch)
		return refuse(step, ERR_PROTOCOL, "late: another order about %s is under way",
			cluster_node_name(step->cluster, event->target));
	return true;
}

/* Without power when first looked at: by the first order, which the very event gave that lost it, with its daemon still
 * there a moment before; and before its watchdog, where it has one that switches off, can have been the reason. */
static bool was_found_off(const struct step *step, const struct node *node)
{
	uint64_t since_ms = step->cluster->now_ms - node->fence.lost_ms;
	uint64_t calm_ms = timing_detect_ms(node->facts.token_ms) + WATCHDOG_SYNC_MS;

	if (step->event->was_on || node->fence.began_index != node->fence.id)
		return false;
	return !node->facts.watchdog_ms || since_ms + calm_ms < node->facts.watchdog_ms;
}

static void fenced(struct step *step, struct node *node)
{
	struct cluster *cluster = step->cluster;
	const struct event *event = step->event;
	const char *by = cluster_node_name(cluster, event->node);

	if (event->proof == PROOF_WATCHDOG) {
		if (!watchdog_counts(cluster, node)) {
			refuse(step, ERR_PROTOCOL, "%s has no watchdog that must have ended it", node->facts.name);
			return;
		}
		node->fence.proof = PROOF_WATCHDOG;
		reason_set(node->fence.text, "the time of its watchdog (%u ms) has run out", node->facts.watchdog_ms);
		fence_node_dies(step, node);
		return;
	}
	if (node->fence.look) {
		char was[REASON_BYTES];
		reason_set(was, "%s", node->fence.text);
		reason_set(node->fence.text, "%.150s; still so while %s runs", was, by);
		fence_node_dies(step, node);
		return;
	}
	node->fence.found_off = was_found_off(step, node);
	fences_count(step, node);
	node->fence.proof = PROOF_FENCED;
	reason_set(node->fence.text, "%s by %s: %.150s", node->fence.found_off ? "found off" : "fenced", by, event->text);
	if (!node->fence.doubt) {
		fence_node_dies(step, node);
	} else {
		doubt_say(step, node);
		fence_review(step);
	}
	if (event->was_on)
		doubt_ends(step, node->id);
}

/* The devices say on, or nothing. Wired to the node that asks; or switched on again by a person, and soon here. */
static void look_failed(struct step *step, struct node *node)
{
	uint32_t shift = node->fence.round < FENCE_RETRY_SHIFT_MAX ? node->fence.round : FENCE_RETRY_SHIFT_MAX;

	node->fence.round++;
	fence_phase_set(step, node, FENCE_RETRY);
	node->fence.deadline_ms = step->cluster->now_ms + ((uint64_t)FENCE_RETRY_MS << shift);
	node_say(step, node, "fenced, but perhaps the wrong machine: %s, which left meanwhile, finds '%.60s'; asked again in %u s, or "
		"'node confirm-off'",
		cluster_node_name(step->cluster, node->fence.doubt), step->event->text, (FENCE_RETRY_MS << shift) / 1000);
}

static void fence_failed(struct step *step, struct node *node)
{
	struct cluster *cluster = step->cluster;
	uint32_t next = fence_next_level(cluster, node->id, node->fence.level);
	uint32_t shift;

	if (node->fence.look) {
		look_failed(step, node);
		return;
	}
	reason_set(node->fence.text, "%s: %.180s", cluster_node_name(cluster, step->event->node), step->event->text);
	if (next) {
		char now[REASON_BYTES];
		run_level(step, node, next);
		reason_set(now, "%s", node->reason);
		node_say(step, node, "failed: %.110s; now %.100s", node->fence.text, now);
		return;
	}
	shift = node->fence.round < FENCE_RETRY_SHIFT_MAX ? node->fence.round : FENCE_RETRY_SHIFT_MAX;
	node->fence.round++;
	fence_phase_set(step, node, FENCE_RETRY);
	node->fence.deadline_ms = cluster->now_ms + ((uint64_t)FENCE_RETRY_MS << shift);
	node_say(step, node, "fencing failed, tried again in %u s: %.150s", (FENCE_RETRY_MS << shift) / 1000,
		node->fence.text);
}

void fence_report_step(struct step *step)
{
	const struct event *event = step->event;
	struct node *node;

	if (event->target < 1 || event->target == event->node) {
		refuse(step, ERR_PROTOCOL, "a report about no other node");
		return;
	}
	node = &step->cluster->nodes[event->target - 1];
	if (!answers_order(step, node))
		return;
	if (event->kind == EVENT_FENCED && (event->proof == PROOF_FENCED || event->proof == PROOF_WATCHDOG))
		fenced(step, node);
	else if (event->kind == EVENT_FENCE_FAILED)
		fence_failed(step, node);
	else
		refuse(step, ERR_PROTOCOL, "a report without a proof");
}

void fence_tick(struct step *step)
{
	for (uint32_t i = 0; i < NODES_MAX; i++) {
		struct node *node = &step->cluster->nodes[i];
		if (node->fence.deadline_ms && node->fence.deadline_ms <= step->cluster->now_ms)
			fence_decide(step, node, false);
	}
	if (fence_recalls_end(step->cluster))
		fence_review(step);
}

uint64_t fence_deadline_ms(const struct cluster *cluster)
{
	uint64_t first = fence_recalls_deadline_ms(cluster);

	for (uint32_t i = 0; i < NODES_MAX; i++) {
		uint64_t due = cluster->nodes[i].fence.deadline_ms;
		if (due && (!first || due < first))
			first = due;
	}
	return first;
}

/* ---- duties */

struct fence_duty core_fence_duty(const struct cluster *cluster, uint32_t target, uint32_t node)
{
	const struct node *suspect = cluster_node(cluster, target);
	struct fence_duty duty = {.id = suspect->fence.id};

	if (!suspect->fence.id || suspect->state != NODE_LOST || !is_member(cluster, node))
		return (struct fence_duty){.id = 0};
	if (watchdog_counts(cluster, suspect) && (suspect->fence.proof == PROOF_NONE || suspect->fence.doubt))
		duty.await_ms = timing_watchdog_proof_ms(suspect->facts.token_ms, suspect->facts.watchdog_ms);
	if (suspect->fence.phase == FENCE_RUN && suspect->fence.by == node) {
		duty.run = true;
		duty.look = suspect->fence.look;
		duty.order = suspect->fence.began_index;
		duty.level = suspect->fence.level;
		duty.delay_ms = duty.look ? 0 : split_delay_ms(cluster, suspect);
	}
	return duty;
}
