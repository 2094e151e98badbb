/* SPDX-License-Identifier: Apache-2.0
 * I7: how many nodes are off by our hand, or may be soon, and how many may be.
 *
 * A node that comes back while it is being fenced stays in the count for a while. Whoever fenced it stops, but a device that
 * was told to switch may do so yet, and with another node fenced meanwhile that would be one too many. */
#include "core/internal.h"
#include "core/timing.h"

uint32_t fence_nodes_known(const struct cluster *cluster)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < NODES_MAX; i++)
		count += cluster->nodes[i].id != 0;
	return count;
}

/* How many nodes are off, or about to be, by our hand. */
uint32_t fence_nodes_taken(const struct cluster *cluster, const struct node *but)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < NODES_MAX; i++) {
		const struct node *node = &cluster->nodes[i];
		bool fenced = node->fence.id && (node->fence.phase == FENCE_RUN || node->fence.phase == FENCE_RETRY ||
							node->fence.proof == PROOF_FENCED);
		count += node->id && node != but && (fenced || node->recalled_ms);
	}
	return count;
}

uint32_t fence_limit(const struct cluster *cluster)
{
	uint32_t known = fence_nodes_known(cluster);

	/* Of two nodes the one that quorum lets go on may fence the other; else only a minority. */
	return known == 2 ? 1 : (known - 1) / 2;
}

void fence_recall(struct step *step, struct node *node)
{
	/* Devices that did not answer in time may have been told all the same. */
	if ((node->fence.phase == FENCE_RUN || node->fence.phase == FENCE_RETRY) && !node->fence.look)
		node->recalled_ms = step->cluster->now_ms + FENCE_RECALL_MS;
}

const char *fence_recalled(const struct cluster *cluster, const struct node *but)
{
	for (uint32_t i = 0; i < NODES_MAX; i++)
		if (cluster->nodes[i].recalled_ms && &cluster->nodes[i] != but)
			return " (one is back, but may be switched off yet: 10 s are waited)";
	return "";
}

bool fence_recalls_end(struct cluster *cluster)
{
	bool any = false;

	for (uint32_t i = 0; i < NODES_MAX; i++) {
		struct node *node = &cluster->nodes[i];
		if (!node->recalled_ms || node->recalled_ms > cluster->now_ms)
			continue;
		node->recalled_ms = 0;
		any = true;
	}
	return any;
}

uint64_t fence_recalls_deadline_ms(const struct cluster *cluster)
{
	uint64_t first = 0;

	for (uint32_t i = 0; i < NODES_MAX; i++) {
		uint64_t due = cluster->nodes[i].recalled_ms;
		if (due && (!first || due < first))
			first = due;
	}
	return first;
}
