/* SPDX-License-Identifier: Apache-2.0
 * port/group.h on corosync: libcpg for membership and order, libquorum and libvotequorum for quorum, libcmap for who we
 * are and whether the wire is encrypted.
 *
 * corosync's calls wait for its daemon without a limit, so they are made by a thread of their own; a corosync that
 * hangs is then a lost group and not a hung watarid (faults.md B16). When a view is told is decided in views.h.
 *
 * Promises: those of port/group.h. A view is quorate only if corosync is and the members themselves have the votes for
 * it: nodes on which corosync runs and watarid does not cannot hold a history. A corosync that dies, hangs, or takes no
 * messages for too long is told as a view without quorum and `down`, and is tried again until it is back.
 * Must never: start without encryption; use cpg_zcb_* (removed upstream); call corosync on the loop's thread, but in
 * corosync_new. */
#pragma once

#include "port/group.h"
#include "port/loop.h"

#define COROSYNC_GROUP_PREFIX "watari:"

enum {
	COROSYNC_STUCK_MS = 5000,      /* a call that takes longer: corosync hangs. With a witness, longer than its sync_timeout too */
	COROSYNC_TRY_AGAIN_MS = 10000, /* a message that is not taken for longer, and as long: as if corosync were gone */
	COROSYNC_QUEUE_MAX = 4096,     /* messages that wait to be sent */
	COROSYNC_QUEUE_BYTES = 16 << 20,
};

struct corosync_config {
	char cluster_uuid[UUID_BYTES]; /* names the process group, behind COROSYNC_GROUP_PREFIX */
};

/* Reads the node's id and name, refuses an unencrypted or unfit configuration with the line to change; connects when
 * group_join is called. */
struct group *corosync_new(const struct corosync_config *config, struct loop *loop,
	const struct group_callbacks *callbacks, struct err *err);
/* Leaves the group. Takes NULL. */
void corosync_free(struct group *group);

/* For the daemon's log and metrics. */
struct corosync_counters {
	uint64_t sent;
	uint64_t delivered;
	uint64_t dropped;   /* from nodes that are not in the view, between views, or malformed */
	uint64_t try_again; /* corosync's flow control */
	uint64_t views;
	uint64_t downs;
};
void corosync_get_counters(struct group *group, struct corosync_counters *counters);
