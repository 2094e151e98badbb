/* SPDX-License-Identifier: Apache-2.0
 * What an administrator asks of the fencing: devices, the override, one more try (the rules are those of fence.c). */
#include "core/internal.h"

#include <string.h>

static void device_set(struct step *step)
{
	struct cluster *cluster = step->cluster;
	const struct fence_device *device = &step->event->fence;
	struct fence_device *slot = NULL;
	struct err err;

	if (fence_waits_for_other_half(step))
		return;
	if (fence_device_check(device, &err) < 0) {
		refuse(step, err.code, "%.200s", err.text);
		return;
	}
	if (!cluster_node(cluster, device->node)->id) {
		refuse(step, ERR_NOT_FOUND, "%s: there is no node with id %u", device->name, device->node);
		return;
	}
	for (uint32_t i = 0; i < cluster->fence_device_count; i++)
		if (!strcmp(cluster->fence_devices[i].name, device->name))
			slot = &cluster->fence_devices[i];
	if (!slot && cluster->fence_device_count == FENCE_DEVICES_MAX) {
		refuse(step, ERR_UNFIT, "%d fence devices are defined, more are not possible", FENCE_DEVICES_MAX);
		return;
	}
	if (!slot)
		slot = &cluster->fence_devices[cluster->fence_device_count++];
	*slot = *device;
	slot->distrusted = false;
	step->out->devices_changed = true;
	fence_review(step);
}

static void device_remove(struct step *step)
{
	struct cluster *cluster = step->cluster;

	if (fence_waits_for_other_half(step))
		return;
	for (uint32_t i = 0; i < cluster->fence_device_count; i++) {
		struct fence_device *device = &cluster->fence_devices[i];
		if (strcmp(device->name, step->event->fence.name) != 0)
			continue;
		memmove(device, device + 1, (cluster->fence_device_count - i - 1) * sizeof(*device));
		cluster->fence_device_count--;
		memset(&cluster->fence_devices[cluster->fence_device_count], 0, sizeof(*device));
		step->out->devices_changed = true;
		return;
	}
	refuse(step, ERR_NOT_FOUND, "there is no fence device '%.63s'", step->event->fence.name);
}

/* A node about which a person may be asked; else the refusal says why not. */
static struct node *lost_node(struct step *step)
{
	uint32_t target = step->event->target;

	if (target < 1 || !step->cluster->nodes[target - 1].id) {
		refuse(step, ERR_NOT_FOUND, "no such node");
		return NULL;
	}
	struct node *node = &step->cluster->nodes[target - 1];
	const char *name = cluster_node_name(step->cluster, target);
	if (is_member(step->cluster, target)) {
		refuse(step, ERR_UNFIT, "%s is in the view: it is alive", name);
		return NULL;
	}
	if (node->state == NODE_DEAD) {
		refuse(step, ERR_UNFIT, "%s is dead already: %.150s", name, node->fence.text);
		return NULL;
	}
	return node;
}

/* Asked of one half of two: it has carried it out, and said so with its first view (fence_proven_before). */
static bool done_before(const struct step *step)
{
	const struct event *event = step->event;

	return event->proof != PROOF_NONE && event->target &&
	       cluster_node(step->cluster, event->target)->state == NODE_DEAD;
}

static void confirm_off(struct step *step)
{
	struct node *node = lost_node(step);

	if (!node)
		return;
	if (strcmp(step->event->text, node->facts.name) != 0) {
		refuse(step, ERR_INVALID, "the name typed, '%.63s', is not that of %s", step->event->text,
			node->facts.name);
		return;
	}
	if (step->cluster->ring & node_bit(node->id)) {
		refuse(step, ERR_UNFIT, "%s is seen alive: its corosync answers, only its daemon is away",
			node->facts.name);
		return;
	}
	if (!node->fence.id)
		node->fence.id = step->cluster->index;
	node->fence.proof = PROOF_CONFIRMED;
	reason_set(node->fence.text, "confirmed off by %s", step->event->by);
	fence_node_dies(step, node);
}

static void fence_now(struct step *step)
{
	struct node *node = lost_node(step);

	if (!node)
		return;
	if (node->fence.phase == FENCE_RUN) {
		refuse(step, ERR_BUSY, "%s is being fenced already", node->facts.name);
		return;
	}
	if (!fence_next_level(step->cluster, node->id, 0)) {
		refuse(step, ERR_UNFIT, "no fence device can be used for %s: 'fence add', or 'node confirm-off'",
			node->facts.name);
		return;
	}
	if (fence_nodes_taken(step->cluster, node) + 1 > fence_limit(step->cluster) && !step->event->force) {
		refuse(step, ERR_NEEDS_FORCE, "%u of %u nodes are off or being fenced already",
			fence_nodes_taken(step->cluster, node), fence_nodes_known(step->cluster));
		return;
	}
	if (!node->fence.id)
		node->fence.id = step->cluster->index;
	node->fence.proof = PROOF_NONE;
	fence_decide(step, node, true);
}

void fence_request_step(struct step *step)
{
	if (done_before(step))
		return;
	if (step->event->kind == EVENT_FENCE_SET)
		device_set(step);
	else if (step->event->kind == EVENT_FENCE_REMOVE)
		device_remove(step);
	else if (step->event->kind == EVENT_NODE_CONFIRM_OFF)
		confirm_off(step);
	else
		fence_now(step);
}
