/* SPDX-License-Identifier: Apache-2.0
 * Where a VM may run: exact, deterministic, and always with the fact that decided. */
#include "core/internal.h"

#include <string.h>

/* Memory counts where the VM is owned and where it is about to go. */
uint32_t place_free_mib(const struct cluster *cluster, uint32_t node, const struct vm *but)
{
	uint64_t used = 0;

	for (uint32_t i = 0; i < cluster->vm_count; i++) {
		const struct vm *vm = &cluster->vms[i];
		if (vm->def.uuid[0] && vm != but && (vm->owner == node || vm->target == node))
			used += vm->def.memory_mib;
	}
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

bool place_fits(const struct cluster *cluster, const struct vm *vm, uint32_t node, char text[REASON_BYTES])
{
	const struct node_facts *facts = &cluster_node(cluster, node)->facts;
	const char *name = cluster_node_name(cluster, node);

	if (!node_usable(cluster, node)) {
		reason_set(text, "%s is %s", name, node_state_name((int)cluster_node(cluster, node)->state));
		return false;
	}
	uint32_t free_mib = place_free_mib(cluster, node, vm);
	if (free_mib < vm->def.memory_mib) {
		reason_set(text, "%s has %u MiB free, %s needs %u", name, free_mib, vm->def.name, vm->def.memory_mib);
		return false;
	}
	for (uint32_t i = 0; i < vm->def.nic_count; i++) {
		if (!has_bridge(facts, vm->def.nics[i].bridge)) {
			reason_set(text, "%s has no bridge %s, which %s of %s needs", name, vm->def.nics[i].bridge,
				vm->def.nics[i].id, vm->def.name);
			return false;
		}
	}
	return true;
}

uint32_t place_choose(const struct cluster *cluster, const struct vm *vm, uint32_t preferred, uint64_t except,
	char text[REASON_BYTES])
{
	char why[REASON_BYTES];
	uint32_t best = 0;
	uint32_t best_free = 0;
	size_t used = 0;

	if (preferred && !(except & node_bit(preferred)) && place_fits(cluster, vm, preferred, why))
		return preferred;
	text[0] = 0;
	for (uint32_t node = 1; node <= NODES_MAX; node++) {
		if (!cluster_node(cluster, node)->id || (except & node_bit(node)))
			continue;
		if (!place_fits(cluster, vm, node, why)) {
			if (used + strlen(why) + 3 < REASON_BYTES)
				used += (size_t)snprintf(text + used, REASON_BYTES - used, "%s%s", used ? "; " : "", why);
			continue;
		}
		uint32_t free_mib = place_free_mib(cluster, node, vm);
		if (!best || free_mib > best_free) {
			best = node;
			best_free = free_mib;
		}
	}
	if (!best && !text[0])
		reason_set(text, "%s", except ? "no node is left to try" : "no node is online");
	return best;
}
