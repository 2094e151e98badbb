/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/corosync/views.h"

static bool same_ring(const struct ring *a, const struct ring *b)
{
	return a->leader == b->leader && a->seq == b->seq;
}

uint64_t views_bit(uint32_t node)
{
	return node >= 1 && node <= NODES_MAX ? UINT64_C(1) << (node - 1) : 0;
}

void views_on_members(struct views *views, uint64_t members, bool in_group, bool node_change)
{
	views->cpg_members = members;
	views->in_group = in_group;
	views->due = true;
	views->changing |= node_change;
}

void views_on_totem(struct views *views, struct ring ring, uint64_t members)
{
	views->cpg_ring = ring;
	views->ring_members = members;
	views->changing = false;
	views->due = true;
}

void views_on_quorum(struct views *views, struct ring ring, bool quorate)
{
	views->quorum_ring = ring;
	views->quorate = quorate;
}

void views_on_marker(struct views *views, uint32_t from)
{
	if (views_accepts(views, from))
		views->due = true;
}

bool views_hold(const struct views *views)
{
	return !views->changing && views->cpg_ring.seq && !same_ring(&views->cpg_ring, &views->quorum_ring) &&
	       views->cpg_ring.seq >= views->quorum_ring.seq;
}

bool views_accepts(const struct views *views, uint32_t from)
{
	return views->has_told && !views->due && same_ring(&views->told_ring, &views->cpg_ring) &&
	       (views->told.members & views_bit(from));
}

bool views_due(const struct views *views, struct group_view *view)
{
	if (!views->due || views->changing || !views->in_group || !views->cpg_ring.seq ||
		!same_ring(&views->cpg_ring, &views->quorum_ring))
		return false;
	*view = (struct group_view){
		.ring_seq = views->cpg_ring.seq, .members = views->cpg_members & views->ring_members,
		.ring = views->ring_members};
	return true;
}

void views_tell(struct views *views, const struct group_view *view)
{
	views->due = false;
	views->has_told = true;
	views->told = *view;
	views->told_ring = views->cpg_ring;
}

enum views_change views_compare(
	const struct views *views, bool quorate, uint32_t expected_votes, struct group_view *view)
{
	if (!views->has_told || views->due)
		return VIEWS_SAME;
	if (!same_ring(&views->told_ring, &views->cpg_ring) || !same_ring(&views->told_ring, &views->quorum_ring))
		return VIEWS_SAME; /* a new view is on its way */
	if (views->told.quorate && !quorate) {
		*view = views->told;
		view->quorate = false;
		view->expected_votes = expected_votes;
		return VIEWS_LOST;
	}
	return views->told.quorate != quorate || views->told.expected_votes != expected_votes ? VIEWS_MARKER
											      : VIEWS_SAME;
}
