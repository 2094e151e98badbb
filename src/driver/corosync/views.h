/* SPDX-License-Identifier: Apache-2.0
 * When a view is told: corosync's callbacks in, views out. Pure, so that orders which a test bench never produces can
 * be tried.
 *
 * How corosync tells a change (exec/cpg.c, cpg_sync_activate; exec/sync.c). The services are brought into the new ring
 * one after another: CPG first, votequorum later, each at the same point of the total order on all members. CPG then
 * tells, without a message in between:
 *
 *   membership without the nodes that are gone (reason NODEDOWN)
 *   membership with a node that came (NODEUP), once for each process
 *   the ring (totem callback): id and nodes
 *
 * A process that joins or leaves while the ring stays is a membership callback alone (JOIN, LEAVE, PROCDOWN). So a
 * membership that names NODEDOWN or NODEUP is half of the news: the ring that is known still is the one before, and so
 * is what the quorum service has said. Telling a view at that point would give a node that was cut off a quorate view
 * of itself alone. Views wait for the totem callback then.
 *
 * The quorum service speaks on another socket. Where CPG is ahead of it, CPG is not read (views_hold): its next
 * messages belong to a view whose quorum is not known. Where it is ahead of CPG, CPG is read on, and messages are
 * delivered to the view that was told as long as CPG itself is still there. A ring that CPG has been in and the quorum
 * service never named (it broke before votequorum's turn) is never told, and its messages are dropped.
 *
 * Messages that were sent in one ring may be delivered in the next one, before CPG's turn: they come to those members
 * that knew the sender before, in the same order on all of them, and belong to the old view.
 *
 * Quorum and expected votes may change while the ring stays, and such news has no place in the total order. Their loss
 * is told at once. Anything else is told at a marker: the member that sees it multicasts one, and every member tells a
 * view where the marker is delivered, so that what follows belongs to the new view on all of them.
 *
 * Must never: tell a quorate view whose members are of one ring and whose quorum is of another. */
#pragma once

#include "port/group.h"

struct ring {
	uint32_t leader;
	uint64_t seq; /* of one node's rings, each is higher than the one before */
};

struct views {
	struct ring cpg_ring;
	struct ring quorum_ring;
	uint64_t cpg_members;
	uint64_t ring_members; /* by CPG's totem callback, in order with the messages */
	bool in_group;	       /* our own process is a member */
	bool changing;	       /* half of the news is here, the totem callback follows */
	bool due;	       /* the group or the ring is another one than was told */
	bool quorate;	       /* by the quorum service */
	bool has_told;
	struct ring told_ring;
	struct group_view told;
};

/* Node ids are checked here: those beyond NODES_MAX are no members. */
uint64_t views_bit(uint32_t node);

/* CPG's membership callback. node_change: a reason is NODEDOWN or NODEUP. */
void views_on_members(struct views *views, uint64_t members, bool in_group, bool node_change);
void views_on_totem(struct views *views, struct ring ring, uint64_t members);
void views_on_quorum(struct views *views, struct ring ring, bool quorate);
/* A marker was delivered, in order. */
void views_on_marker(struct views *views, uint32_t from);

/* CPG must not be read now. */
bool views_hold(const struct views *views);
/* A message that is delivered now belongs to the view that was told, and its sender to its members. */
bool views_accepts(const struct views *views, uint32_t from);

/* A view is to be told now: fills ring_seq and members; the caller finds out the votes and calls views_tell. */
bool views_due(const struct views *views, struct group_view *view);
void views_tell(struct views *views, const struct group_view *view);

enum views_change {
	VIEWS_SAME,
	VIEWS_LOST,   /* *view, the old one without quorum, is told at once; the caller calls views_tell */
	VIEWS_MARKER, /* multicast a marker */
};
/* Compares quorum and votes, as they are by now, with what was told. */
enum views_change views_compare(
	const struct views *views, bool quorate, uint32_t expected_votes, struct group_view *view);
