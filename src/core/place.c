/* SPDX-License-Identifier: Apache-2.0
 * Where a VM may run: exact, deterministic, and always with the fact that decided.
 *
 * Memory is never overcommitted: what VMs own, and what is on its way, counts in full. vCPUs are: guests share the
 * node's CPUs, but one guest never gets more vCPUs than its node has. Among the nodes that fit, in this order: none
 * with a VM of the same anti-affinity label; the administrator's order of preferred owners; the most free memory; the
 * lowest id. */
#include "core/internal.h"
#include "base/hash.h"

#include <assert.h>
#include <string.h>

static bool counts_on(const struct vm *vm, uint32_t node)
{
	return vm->owner == node || vm->target == node;
}

/* Memory counts where the VM is owned and where it is about to go. */
void place_count(const struct cluster *cluster, struct core_plan *plan)
{
	if (plan->counted)
		return;
	memset(plan->memory_mib, 0, sizeof(plan->memory_mib));
	plan->probation = 0;
	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		const struct vm *vm = &cluster->vms[i];
		if (!vm->owner && !vm->target)
			continue;
		plan->memory_mib[vm->owner] += vm->def.memory_mib;
		if (vm->target != vm->owner)
			plan->memory_mib[vm->target] += vm->def.memory_mib;
		if (vm_is_suspect(vm))
			plan->probation |= vm->owner ? node_bit(vm->owner) : node_bit(vm->target);
	}
	plan->counted = true;
}

/* The slot of a label in the table; a free one where nobody has it yet. */
static struct core_label *label_slot(const struct cluster *cluster, struct core_plan *plan, const char *label)
{
	uint64_t at = hash64(label, strlen(label), 0);

	for (;; at++) {
		struct core_label *slot = &plan->labels[at % CORE_LABELS];
		if (!slot->vm || !strcmp(cluster->vms[slot->vm - 1].def.policy.anti_affinity, label))
			return slot;
	}
}

/* Nodes on which VMs with this label are, bits; the VM itself is one of them. */
static uint64_t label_nodes(const struct cluster *cluster, struct core_plan *plan, const char *label)
{
	if (!plan->labelled) {
		memset(plan->labels, 0, sizeof(plan->labels));
		for (uint32_t i = 0; i < cluster->vm_count; i++) {
			const struct vm *vm = &cluster->vms[i];
			if ((!vm->owner && !vm->target) || !vm->def.policy.anti_affinity[0])
				continue;
			struct core_label *slot = label_slot(cluster, plan, vm->def.policy.anti_affinity);
			slot->vm = i + 1;
			slot->nodes |= (vm->owner ? node_bit(vm->owner) : 0) | (vm->target ? node_bit(vm->target) : 0);
		}
		plan->labelled = true;
	}
	return label_slot(cluster, plan, label)->nodes;
}

void place_claim(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node)
{
	const char *label = vm->def.policy.anti_affinity;

	assert(plan->counted);
	plan->memory_mib[node] += vm->def.memory_mib;
	if (vm_is_suspect(vm))
		plan->probation |= node_bit(node);
	if (!label[0])
		return;
	label_nodes(cluster, plan, label);
	struct core_label *slot = label_slot(cluster, plan, label);
	slot->vm = (uint32_t)(vm - cluster->vms) + 1;
	slot->nodes |= node_bit(node);
}

static uint32_t free_mib(
	const struct cluster *cluster, const struct core_plan *plan, uint32_t node, const struct vm *but)
{
	uint64_t used = plan->memory_mib[node] - (counts_on(but, node) ? but->def.memory_mib : 0);
	uint32_t all = cluster_node(cluster, node)->facts.memory_mib;

	return used < all ? all - (uint32_t)used : 0;
}

static bool has_bridge(const struct node_facts *facts, const char *bridge)
{
	for (uint32_t i = 0; i < facts->bridge_count; i++)
		if (!strcmp(facts->bridges[i].name, bridge))
			return true;
	return false;
}

/* Another VM with the same label is there. */
static bool has_label(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node)
{
	const char *label = vm->def.policy.anti_affinity;

	/* Where it is itself, the table cannot tell it from another one; it is not placed there again. */
	return label[0] && !counts_on(vm, node) && (label_nodes(cluster, plan, label) & node_bit(node));
}

/* The node whose kind of accelerator the VM's memory was made under; 0: it has none that must be kept. */
static uint32_t memory_from(const struct vm *vm)
{
	if (vm->saved.status == SAVED_SEALED)
		return vm->saved.sealed_by;
	return vm->state == VM_ONLINE ? vm->owner : 0;
}

/* text may be NULL: with many VMs and nodes most refusals are never read. */
static bool unfit(char *text, const char *format, ...) PRINTF_LIKE(2, 3);

static bool unfit(char *text, const char *format, ...)
{
	char why[REASON_BYTES];
	va_list args;

	if (!text)
		return false;
	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	reason_set(text, "%s", why);
	return false;
}

/* What ran in a history that is forgotten runs in no log: nobody but its node can say that it has ended. */
static bool dropper_holds(const struct cluster *cluster, char *text)
{
	return unfit(text, "%s dropped a history of its own, and has not said yet that what it started in it has ended",
		cluster_node_name(cluster, (uint32_t)__builtin_ctzll(cluster->droppers) + 1));
}

/* The administrator's rules, and watari's own about nodes and VMs that make trouble. */
static bool rules_fit(
	const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node, char *text)
{
	const char *name = cluster_node_name(cluster, node);
	const struct vm_policy *policy = &vm->def.policy;

	if (policy->possible && !(policy->possible & node_bit(node)))
		return unfit(text, "%s is no possible owner of %s", name, vm->def.name);
	if (quarantine_holds(cluster, node))
		return unfit(text, "%s is quarantined for flapping", name);
	if (policy->anti_affinity_hard && has_label(cluster, plan, vm, node))
		return unfit(text, "%s has another VM of anti-affinity '%s'", name, policy->anti_affinity);
	if (vm_is_suspect(vm) && !counts_on(vm, node) && (plan->probation & node_bit(node)))
		return unfit(text, "%s has another suspect on probation", name);
	return true;
}

bool place_fits(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node, char *text)
{
	const struct node_facts *facts = &cluster_node(cluster, node)->facts;
	const char *name = cluster_node_name(cluster, node);
	uint32_t from = memory_from(vm);

	place_count(cluster, plan);
	if (cluster->droppers)
		return dropper_holds(cluster, text);
	if (!node_usable(cluster, node))
		return unfit(text, "%s is %s", name, node_state_name((int)cluster_node(cluster, node)->state));
	if (!rules_fit(cluster, plan, vm, node, text))
		return false;
	if (facts->vcpus && vm->def.vcpus > facts->vcpus)
		return unfit(text, "%s has %u CPUs, %s needs %u", name, facts->vcpus, vm->def.name, vm->def.vcpus);
	uint32_t room_mib = free_mib(cluster, plan, node, vm);
	if (room_mib < vm->def.memory_mib)
		return unfit(text, "%s has %u MiB free, %s needs %u", name, room_mib, vm->def.name, vm->def.memory_mib);
	for (uint32_t i = 0; i < vm->def.nic_count; i++) {
		if (!has_bridge(facts, vm->def.nics[i].bridge))
			return unfit(text, "%s has no bridge %s, which %s of %s needs", name, vm->def.nics[i].bridge,
				vm->def.nics[i].id, vm->def.name);
	}
	if (from && from != node && strcmp(cluster_node(cluster, from)->facts.accel, facts->accel) != 0)
		return unfit(text, "%s has %s, the memory of %s is from %s: it does not load there", name, facts->accel,
			vm->def.name, cluster_node(cluster, from)->facts.accel);
	return true;
}

bool place_lacks_room(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node)
{
	place_count(cluster, plan);
	return !(vm->exhausted & node_bit(node)) && rules_fit(cluster, plan, vm, node, NULL) &&
	       free_mib(cluster, plan, node, vm) < vm->def.memory_mib;
}

/* Whether watari itself would put it there: an administrator may, where its restarts are used up. */
static bool place_may(
	const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node, char *text)
{
	if (vm->exhausted & node_bit(node))
		return unfit(text, "its restarts on %s are used up", cluster_node_name(cluster, node));
	if (vm->storage_lost & node_bit(node))
		return unfit(text, "%s did not reach its disks", cluster_node_name(cluster, node));
	if (vm->no_room & node_bit(node))
		return unfit(text, "%s had less memory free than it should when %s was to begin there",
			cluster_node_name(cluster, node), vm->def.name);
	return place_fits(cluster, plan, vm, node, text);
}

struct rank {
	bool beside;   /* another VM with its label is there */
	uint32_t wish; /* place among the preferred owners */
	uint32_t room_mib;
};

static struct rank rank_of(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node)
{
	struct rank rank = {
		.beside = has_label(cluster, plan, vm, node), .room_mib = free_mib(cluster, plan, node, vm)};

	rank.wish = place_wish(vm, node);
	return rank;
}

static bool better(struct rank a, struct rank b)
{
	if (a.beside != b.beside)
		return b.beside;
	if (a.wish != b.wish)
		return a.wish < b.wish;
	return a.room_mib > b.room_mib;
}

uint32_t place_wish(const struct vm *vm, uint32_t node)
{
	for (uint32_t i = 0; i < vm->def.policy.preferred_count; i++)
		if (vm->def.policy.preferred[i].node == node)
			return i;
	return OWNERS_PREFERRED_MAX;
}

bool place_beside(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node)
{
	return has_label(cluster, plan, vm, node);
}

/* Facts of several nodes in one text: as many as fit, and how many more there are. */
struct facts_text {
	char *text;
	size_t size;
	size_t used;
	uint32_t left_out;
};

static void facts_add(struct facts_text *facts, const char *why)
{
	enum { ROOM_FOR_MORE = 24 };

	if (facts->left_out || facts->used + strlen(why) + 2 + ROOM_FOR_MORE >= facts->size) {
		facts->left_out++;
		return;
	}
	facts->used += (size_t)snprintf(
		facts->text + facts->used, facts->size - facts->used, "%s%s", facts->used ? "; " : "", why);
}

static void facts_end(struct facts_text *facts)
{
	if (facts->left_out)
		snprintf(facts->text + facts->used, facts->size - facts->used, "%s%u nodes more",
			facts->used ? "; and " : "not ", facts->left_out);
}

/* Why no node can take it. */
static void explain_all(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint64_t except,
	char text[REASON_BYTES])
{
	struct facts_text facts = {.text = text, .size = REASON_BYTES};
	char why[REASON_BYTES];

	text[0] = 0;
	if (cluster->droppers) {
		dropper_holds(cluster, text);
		return;
	}
	for (uint32_t node = 1; node <= NODES_MAX; node++)
		if (cluster_node(cluster, node)->id && !(except & node_bit(node)) &&
			!place_may(cluster, plan, vm, node, why))
			facts_add(&facts, why);
	facts_end(&facts);
	if (!text[0])
		reason_set(text, "%s", except ? "no node is left to try" : "no node is online");
}

void place_others(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, char note[PLACE_NOTE_BYTES])
{
	struct facts_text facts = {.text = note, .size = PLACE_NOTE_BYTES};
	char why[REASON_BYTES];

	note[0] = 0;
	for (uint32_t node = 1; node <= NODES_MAX; node++) {
		/* Once the note is full only their number counts. */
		if (!node_usable(cluster, node) || place_may(cluster, plan, vm, node, facts.left_out ? NULL : why))
			continue;
		facts_add(&facts, facts.left_out ? "" : why);
	}
	facts_end(&facts);
}

uint32_t place_choose(
	const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint64_t except, char *text)
{
	struct rank best_rank = {0};
	uint32_t best = 0;

	for (uint32_t node = 1; node <= NODES_MAX; node++) {
		if (!cluster_node(cluster, node)->id || (except & node_bit(node)) ||
			!place_may(cluster, plan, vm, node, NULL))
			continue;
		struct rank rank = rank_of(cluster, plan, vm, node);
		if (!best || better(rank, best_rank)) {
			best = node;
			best_rank = rank;
		}
	}
	if (!best && text)
		explain_all(cluster, plan, vm, except, text);
	return best;
}

bool core_place_explain(
	const struct cluster *cluster, struct core_plan *plan, uint32_t index, uint32_t node, char text[REASON_BYTES])
{
	const struct vm *vm = &cluster->vms[index];

	if (!place_may(cluster, plan, vm, node, text))
		return false;
	reason_set(text, "%s has %u MiB free%s", cluster_node_name(cluster, node), free_mib(cluster, plan, node, vm),
		has_label(cluster, plan, vm, node) ? ", and another VM of its anti-affinity" : "");
	return true;
}
