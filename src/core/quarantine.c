/* SPDX-License-Identifier: Apache-2.0
 * Nodes that flap, and VMs under which nodes die.
 *
 * A node whose machine leaves the ring for the third time within an hour is quarantined: nothing is placed on it, and
 * once it is back its VMs are moved away. An hour in which it stays, or an administrator, ends that. Never more nodes
 * than may be fenced at one time: when all flap it is the network, and running on flapping nodes is better than not at
 * all. For the same reason it does not hold while no other node is there.
 *
 * A VM that was started on a node less than KILL_WINDOW before that node died is held against it, unless another node
 * went in the same time: a guest runs on one node. Two different nodes in a row, and it is a suspect. Two, because a
 * cluster of three has lost its quorum when a second one dies before the first is back: waiting for a third would let
 * one guest take the whole cluster with it. A node that was found without power is held against nobody: a guest can
 * crash a host, or hang it, and neither turns it off. One suspect alone is *failed*, until a person starts it. Of several that
 * died together all but one are likely victims: they are started one at a time on each node, the next when the one
 * before has run for KILL_WINDOW; the one under which another node dies is it. */
#include "core/internal.h"
#include "core/timing.h"

#include <assert.h>
#include <string.h>

static void say(struct step *step, struct node *node, const char *format, ...) PRINTF_LIKE(3, 4);

static void say(struct step *step, struct node *node, const char *format, ...)
{
	char text[REASON_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	reason_set(node->reason, "%s", text);
	step->out->nodes_changed |= node_bit(node->id);
	step->reword = true;
}

static uint32_t quarantined(const struct cluster *cluster)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < NODES_MAX; i++)
		count += cluster->nodes[i].quarantine_ms != 0;
	return count;
}

void quarantine_left(struct step *step, struct node *node)
{
	uint64_t now = step->cluster->now_ms;
	uint64_t first = node->left_before_ms;

	node->down_ms = now;
	node->left_before_ms = node->left_ms;
	node->left_ms = now;
	step->out->nodes_changed |= node_bit(node->id);
	if (node->quarantine_ms || !first || first + FLAP_PERIOD_MS < now)
		return;
	if (quarantined(step->cluster) + 1 <= fence_limit(step->cluster))
		node->quarantine_ms = now + QUARANTINE_MS;
}

void quarantine_returns(struct step *step, struct node *node)
{
	if (!node->quarantine_ms)
		return;
	node->quarantine_ms = step->cluster->now_ms + QUARANTINE_MS;
	say(step, node,
		"%.100s; quarantined: it left %d times within %d min. Its VMs are moved away; ends after %d min "
		"without "
		"another, or by 'node resume'",
		node->reason, FLAPS_MAX, FLAP_PERIOD_MS / 60000, QUARANTINE_MS / 60000);
}

bool quarantine_holds(const struct cluster *cluster, uint32_t node)
{
	if (!cluster_node(cluster, node)->quarantine_ms)
		return false;
	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (node_usable(cluster, id) && !cluster_node(cluster, id)->quarantine_ms)
			return true;
	return false;
}

static void lift(struct step *step, struct node *node, const char *why)
{
	const char *what = node->quarantine_ms ? "not quarantined any more" : "what was counted against it is forgotten";

	node->quarantine_ms = 0;
	node->left_ms = node->left_before_ms = 0;
	say(step, node, "%s: %s", what, why);
}

void quarantine_review(struct step *step, uint64_t *next_ms)
{
	for (uint32_t i = 0; i < NODES_MAX; i++) {
		struct node *node = &step->cluster->nodes[i];
		if (!node->quarantine_ms || !node_usable(step->cluster, node->id))
			continue;
		if (node->quarantine_ms <= step->cluster->now_ms)
			lift(step, node, "it has stayed for an hour");
		else
			next_at(step, next_ms, node->quarantine_ms);
	}
}

void quarantine_resume(struct step *step)
{
	uint32_t target = step->event->target;
	char why[REASON_BYTES];

	if (target < 1 || !step->cluster->nodes[target - 1].id) {
		refuse(step, ERR_NOT_FOUND, "no such node");
		return;
	}
	struct node *node = &step->cluster->nodes[target - 1];
	if (!node->quarantine_ms && !node->fences && !node->left_ms) {
		refuse(step, ERR_UNFIT, "%s is not quarantined, and nothing is counted against it",
			cluster_node_name(step->cluster, target));
		return;
	}
	node->fences = 0;
	reason_set(why, "resumed by %s", step->event->by);
	lift(step, node, why);
	fence_review(step); /* it may be held for having been fenced too often */
}

bool vm_is_suspect(const struct vm *vm)
{
	return __builtin_popcountll(vm->killed) >= KILLS_MAX;
}

void suspect_node_died(struct step *step, struct vm *vm, uint32_t node)
{
	const struct cluster *cluster = step->cluster;
	uint64_t died_ms = cluster_node(cluster, node)->down_ms;

	if (vm->saved.status == SAVED_CONSUMED && vm->saved.epoch + 1 == vm->epoch)
		return; /* it was not started there: its guest had run elsewhere and was moved */
	if (cluster_node(cluster, node)->fence.found_off)
		return; /* nor does this prove anything */
	if (!died_ms || !vm->run_ms || died_ms >= vm->run_ms + KILL_WINDOW_MS || died_ms < vm->run_ms) {
		vm->killed = 0;
		return;
	}
	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (id != node && cluster_node(cluster, id)->down_ms >= vm->run_ms)
			return; /* proves nothing, in either direction */
	vm->killed |= node_bit(node);
}

static bool is_of(const struct step *step, const struct vm *vm, uint32_t node)
{
	return vm->def.uuid[0] && vm->last_owner == node && vm->changed_index == step->cluster->index &&
	       vm->state == VM_OFF && vm->want == WANT_ON && vm_is_suspect(vm) && (vm->killed & node_bit(node));
}

static void nodes_text(const struct cluster *cluster, uint64_t nodes, char text[REASON_BYTES])
{
	size_t used = 0;

	text[0] = 0;
	for (uint32_t id = 1; id <= NODES_MAX && used + NAME_BYTES + 2 < REASON_BYTES / 2; id++)
		if (nodes & node_bit(id))
			used += (size_t)snprintf(text + used, REASON_BYTES - used, "%s%s", used ? ", " : "",
				cluster_node_name(cluster, id));
}

void suspects_judge(struct step *step, uint32_t node)
{
	struct cluster *cluster = step->cluster;
	char nodes[REASON_BYTES];
	uint32_t count = 0;

	for (uint32_t i = 0; i < cluster->vm_count; i++)
		count += is_of(step, &cluster->vms[i], node);
	for (uint32_t i = 0; i < cluster->vm_count && count; i++) {
		struct vm *vm = &cluster->vms[i];
		if (!is_of(step, vm, node))
			continue;
		nodes_text(cluster, vm->killed, nodes);
		if (count > 1) {
			vm_go(step, vm, VM_OFF, MOVE_IDLE,
				"suspect: %s died within %d min of its start, and %u others with it; started one at a "
				"time",
				nodes, KILL_WINDOW_MS / 60000, count - 1);
			continue;
		}
		vm->want = WANT_OFF;
		vm_go(step, vm, VM_FAILED, MOVE_IDLE,
			"%s died within %d min of its start there, one after the other: not started by itself any more",
			nodes, KILL_WINDOW_MS / 60000);
	}
}
