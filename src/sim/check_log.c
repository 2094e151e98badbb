/* SPDX-License-Identifier: Apache-2.0
 * I4: what was acknowledged is in every later history. I5: two nodes with the same index have the same digest, and the
 * same cluster. */
#include "sim/check_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum {
	BYTES_EVERY = 32,   /* whole clusters are compared at every so many-th index */
	BYTES_VMS = 1024,   /* of a large cluster so many VMs are, and all of it when a view is synced */
	KNOWN_US = 5000000, /* until a node that acts must have told that a QEMU of its own is dead */
};

static struct check_point *point_at(struct checks *checks, uint64_t index)
{
	if (index >= checks->point_capacity) {
		uint64_t capacity = checks->point_capacity ? checks->point_capacity : 1024;
		while (capacity <= index)
			capacity *= 2;
		checks->points = realloc(checks->points, capacity * sizeof(*checks->points));
		assert(checks->points);
		memset(checks->points + checks->point_capacity, 0,
			(capacity - checks->point_capacity) * sizeof(*checks->points));
		checks->point_capacity = capacity;
	}
	return &checks->points[index];
}

static uint64_t bytes_hash(struct checks *checks, const struct schema *schema, const void *record)
{
	size_t size = schema_encode(schema, record, checks->encoded, checks->encoded_capacity);

	if (size > checks->encoded_capacity) {
		checks->encoded_capacity = 2 * size;
		free(checks->encoded);
		checks->encoded = malloc(checks->encoded_capacity);
		assert(checks->encoded);
		size = schema_encode(schema, record, checks->encoded, checks->encoded_capacity);
	}
	return hash64(checks->encoded, size, 1) | 1;
}

/* Of a large cluster, which VMs are compared goes round with the index. */
static uint64_t part_hash(struct checks *checks, const struct cluster *cluster)
{
	uint64_t first = cluster->index / BYTES_EVERY * BYTES_VMS, hash = 1;

	for (uint32_t i = 0; i < BYTES_VMS; i++)
		hash = hash * 31 + bytes_hash(checks, &vm_schema, &cluster->vms[(first + i) % cluster->vm_count]);
	return hash | 1;
}

/* The source lets its paused copy run on, so the state is given up: that is right as long as the log could not know
 * that there is no such copy any more. */
static bool may_return(struct sim *sim, const struct cluster *cluster, const struct vm *vm)
{
	const struct node *source = cluster_node(cluster, vm->saved.sealed_by);
	const struct sim_node *node = &sim->nodes[vm->saved.sealed_by];

	for (const struct world_copy *copy = world_copies_of(sim->world, vm->def.uuid); copy; copy = copy->next_of_guest) {
		if (copy->node != source->id || copy->epoch != vm->saved.epoch)
			continue;
		bool rebooted = strcmp(source->facts.boot_id, copy->boot_id) != 0;
		/* A node that rebooted tells so by its facts; until those are in the log, the log cannot know. */
		bool told = copy->dead && !strcmp(node->boot_id, copy->boot_id) && copy->died_us + KNOWN_US < timeline_now_us(sim->timeline) && node->seen_synced &&
			    !node->paused && node->powered;
		return !rebooted && source->state == NODE_ONLINE && !told;
	}
	return false;
}

/* What the log says of saved states, as soon as any node has committed it. */
void check_saved(struct sim *sim, const struct cluster *cluster)
{
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		const struct vm *there = &cluster->vms[i];
		if (!there->def.uuid[0] || !there->saved.task)
			continue;
		struct check_vm *vm = check_vm(sim, there->def.uuid);
		bool known = vm->sealed_task == there->saved.task;
		/* A6: who has consumed it may have run it, even if it never did; it is never used again. */
		if (known && there->saved.status == SAVED_CONSUMED)
			vm->given_up_task = there->saved.task;
		if (known && there->saved.status == SAVED_DISCARDED && vm->given_up_task != there->saved.task &&
			!vm->discarded_seen && may_return(sim, cluster, there))
			vm->given_up_task = there->saved.task;
		vm->discarded_seen = there->saved.status == SAVED_DISCARDED;
		if (there->saved.status != SAVED_SEALED || known)
			continue;
		vm->sealed_task = there->saved.task;
		/* A forced start that was asked for before may have been refused; it says nothing of this state, unless it
		 * is under way still. */
		if (vm->discard_since_us + ENGINE_REPLY_MS * UINT64_C(1000) < timeline_now_us(sim->timeline))
			vm->discard_asked = false;
	}
}

/* From here on one history judges of all copies; of those that it finds there may be two. */
static void check_met(struct sim *sim, uint64_t members)
{
	if (!sim->checks->apart || (uint32_t)__builtin_popcountll(members) < sim->config.node_count)
		return;
	sim->checks->apart = false;
	for (uint32_t i = 0; i < sim->checks->vm_count; i++) {
		struct check_vm *vm = &sim->checks->vms[i];
		uint32_t executing = 0;
		for (const struct world_copy *copy = world_copies_of(sim->world, vm->uuid); copy; copy = copy->next_of_guest)
			executing += copy->executes;
		vm->falsely_dead |= executing > 1;
	}
}

static void check_same_history(struct sim *sim, const struct sim_node *node, const struct cluster *cluster, bool whole)
{
	struct check_point *point = point_at(sim->checks, cluster->index);

	if (!point->node) {
		*point = (struct check_point){.digest = cluster->digest, .node = node->id};
		checks_tasks(sim, node, cluster);
		check_saved(sim, cluster);
	} else if (point->digest != cluster->digest && sim->checks->two_histories) {
		*point = (struct check_point){.digest = cluster->digest, .node = node->id};
		sim->checks->forked = sim->checks->apart = true;
	} else if (point->digest != cluster->digest) {
		sim_violation(sim, "I5: n%u and n%u have committed different histories up to index %" PRIu64, point->node,
			node->id, cluster->index);
		return;
	}
	if (!whole && cluster->index % BYTES_EVERY)
		return;
	bool part = !whole && cluster->vm_count > BYTES_VMS;
	uint64_t hash = part ? part_hash(sim->checks, cluster) : bytes_hash(sim->checks, &cluster_schema, cluster);
	uint64_t *said = part ? &point->part_hash : &point->bytes_hash;
	if (*said && *said != hash)
		sim_violation(sim, "I5: n%u's cluster differs from another's at the same index %" PRIu64, node->id,
			cluster->index);
	*said = hash;
}

/* Of what was acknowledged before then, the highest index. */
static uint64_t acked_before(const struct checks *checks, uint64_t at_us)
{
	uint32_t low = 0, high = checks->ack_count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (checks->acks[middle].at_us < at_us)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? checks->acks[low - 1].index_max : 0;
}

static void ack_keep(struct sim *sim, uint64_t index)
{
	struct checks *checks = sim->checks;
	uint64_t before = checks->ack_count ? checks->acks[checks->ack_count - 1].index_max : 0;

	if (checks->ack_count == checks->ack_capacity) {
		checks->ack_capacity = checks->ack_capacity ? 2 * checks->ack_capacity : 64;
		checks->acks = realloc(checks->acks, checks->ack_capacity * sizeof(*checks->acks));
		assert(checks->acks);
	}
	checks->acks[checks->ack_count++] = (struct check_ack){.at_us = timeline_now_us(sim->timeline),
		.index_max = index > before ? index : before};
}

static void def_keep(struct check_vm *vm, const struct vm_def *def)
{
	vm->defs = realloc(vm->defs, (vm->def_count + 1) * sizeof(*vm->defs));
	assert(vm->defs);
	vm->defs[vm->def_count++] = (struct check_def){.def = *def};
}

/* The same definition may have been asked for more than once: one that is not answered yet, which may still come, else the
 * one that was acknowledged last. */
static struct check_def *def_find(const struct check_vm *vm, const struct vm_def *def)
{
	struct check_def *found = NULL;

	for (uint32_t i = vm->def_count; i; i--) {
		struct check_def *one = &vm->defs[i - 1];
		if ((found && one->index && one->index <= found->index) || !schema_equal(&vm_def_schema, &one->def, def))
			continue;
		if (!one->index)
			return one;
		found = one;
	}
	return found;
}

void checks_asked(struct sim *sim, uint32_t node, const struct event *event)
{
	check_run_asked(sim, node, event);
	if (event->kind == EVENT_VM_CREATE || event->kind == EVENT_VM_EDIT) {
		def_keep(check_vm(sim, event->def.uuid), &event->def);
	} else if (event->kind == EVENT_VM_DELETE) {
		check_vm(sim, event->vm)->delete_asked = true;
	} else if (event->kind == EVENT_VM_START && event->force) {
		struct check_vm *vm = check_vm(sim, event->vm);
		vm->discard_asked = true;
		vm->discard_since_us = timeline_now_us(sim->timeline);
	}
}

void checks_answered(struct sim *sim, uint32_t node, const struct event *event, const struct engine_reply *reply)
{
	check_run_answered(sim, event, reply);
	if (reply->code != ERR_NONE)
		return;
	if (!reply->index)
		sim_violation(sim, "n%u acknowledges %s without an index", node, event_kind_name((int)event->kind));
	if (event->kind != EVENT_NODE_FENCE) /* only the attempt is promised */
		ack_keep(sim, reply->index);

	if (!event->vm[0] && !event->def.uuid[0])
		return;
	const char *uuid = event->kind == EVENT_VM_CREATE || event->kind == EVENT_VM_EDIT ? event->def.uuid : event->vm;
	struct check_vm *vm = check_vm(sim, uuid);
	struct check_def *def;
	switch (event->kind) {
	case EVENT_VM_CREATE:
		vm->created_index = reply->index;
		/* fall through */
	case EVENT_VM_EDIT:
		def = def_find(vm, &event->def);
		if (reply->index > def->index)
			def->index = reply->index;
		if (reply->index > vm->edited_index)
			vm->edited_index = reply->index;
		break;
	case EVENT_VM_DELETE:
		vm->deleted_index = reply->index;
		break;
	default:
		break;
	}
}

void checks_preloaded(struct sim *sim, const struct vm_def *def, uint64_t index)
{
	struct check_vm *vm = check_vm(sim, def->uuid);

	def_keep(vm, def);
	vm->defs[0].index = vm->created_index = vm->edited_index = index;
	vm->must_run = true;
	ack_keep(sim, index);
}

void check_known(struct sim *sim, const struct sim_node *node, const struct cluster *cluster, struct check_vm *vm)
{
	const struct vm *there = check_there(cluster, vm);

	if (vm->created_index && cluster->index >= vm->created_index && !vm->delete_asked && !there)
		sim_violation(sim, "I4: n%u does not know VM %s, whose creation was acknowledged (index %" PRIu64 ")",
			node->id, vm->uuid, vm->created_index);
	if (vm->deleted_index && cluster->index >= vm->deleted_index && there)
		sim_violation(sim, "I4: n%u still has VM %s, whose deletion was acknowledged (index %" PRIu64 ")",
			node->id, vm->uuid, vm->deleted_index);
	if (!there)
		return;
	const struct check_def *def = def_find(vm, &there->def);
	if (!def)
		sim_violation(sim, "I4: n%u has a definition of %s that nobody ever asked for", node->id, there->def.name);
	else if (def->index && def->index < vm->edited_index && cluster->index >= vm->edited_index)
		sim_violation(sim, "I4: n%u has lost an edit of %s that was acknowledged (index %" PRIu64 ")", node->id,
			there->def.name, vm->edited_index);
}

void check_all_known(struct sim *sim, const struct sim_node *node, const struct cluster *cluster)
{
	for (uint32_t i = 0; i < sim->checks->vm_count && !sim->checks->two_histories; i++)
		check_known(sim, node, cluster, &sim->checks->vms[i]);
}

/* At every index of every node. Of many VMs only some, in turn; beside them each one that the node says it has changed
 * (checks_vm_changed), and all when a view is synced and at the end. */
static void check_acknowledged(struct sim *sim, struct sim_node *node, const struct cluster *cluster)
{
	uint32_t count = sim->checks->vm_count;

	if (sim->checks->two_histories)
		return; /* one of the two is lost when they meet, with what was acknowledged there */
	for (uint32_t i = 0; i < count && i < CHECK_VMS_AT_A_TIME; i++)
		check_known(sim, node, cluster, &sim->checks->vms[node->seen_vms++ % count]);
}

void checks_daemon_started(struct sim *sim, struct sim_node *node)
{
	node->seen_index = 0;
	node->seen_synced = false;
	node->seen_view_us = 0;
	memset(node->seen_states, 0xff, sim->config.vms_max);
}

void checks_step(struct sim *sim, struct sim_node *node)
{
	const struct cluster *cluster = engine_cluster(node->engine);
	uint64_t view_us = net_view_formed_us(sim->net, node->id);
	struct engine_status status;

	if (cluster->index == node->seen_index && view_us == node->seen_view_us && node->seen_synced)
		return;
	engine_get_status(node->engine, &status);
	if (view_us != node->seen_view_us) {
		node->seen_view_us = view_us;
		node->seen_synced = false;
	}
	if (cluster->index < node->seen_index && !sim->checks->two_histories)
		sim_violation(sim, "I4: n%u's committed history went back from %" PRIu64 " to %" PRIu64, node->id,
			node->seen_index, cluster->index);
	if (cluster->index != node->seen_index) {
		node->seen_index = cluster->index;
		check_same_history(sim, node, cluster, false);
		check_acknowledged(sim, node, cluster);
	}
	if (status.synced && !node->seen_synced) {
		node->seen_synced = true;
		check_same_history(sim, node, cluster, true);
		check_met(sim, status.members);
		if (sim->checks->vm_count > CHECK_VMS_AT_A_TIME)
			check_all_known(sim, node, cluster);
		uint64_t acked = acked_before(sim->checks, view_us);
		if (!status.quorate)
			sim_violation(sim, "n%u is synced without quorum", node->id);
		if (cluster->index < acked && !sim->checks->two_histories)
			sim_violation(sim, "I4: n%u is synced at index %" PRIu64 ", but index %" PRIu64
				" was acknowledged before this view formed", node->id, cluster->index, acked);
	} else if (!status.synced) {
		node->seen_synced = false;
	}
}
