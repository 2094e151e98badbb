/* SPDX-License-Identifier: Apache-2.0
 * port/group.h on corosync: libcpg for membership and order, libquorum and libvotequorum for quorum, libcmap for who we
 * are and whether the wire is encrypted.
 *
 * Views. corosync tells a change of the ring twice, over two sockets: to the process group (CPG's totem callback, then
 * its membership callbacks, in order with the messages) and to the quorum service. A view is told only when both name
 * the same ring and every member of the process group is in it (design §4; dlm_controld does so). While CPG is ahead,
 * its socket is not read: what it would deliver belongs to a view that is not known yet. While the quorum service is
 * ahead, CPG is read on: what it delivers still belongs to the view before. A daemon that joins or leaves without a
 * change of the ring makes a new view with the same ring_seq.
 *
 * Promises: never blocks on a full queue; a corosync that dies is told as a view without quorum and `down`, and the
 * connection is tried again every second.
 * Must never: start without encryption; use cpg_zcb_* (removed upstream). */
#pragma once

#include "port/group.h"
#include "port/loop.h"

struct corosync_config {
	char cluster_uuid[UUID_BYTES]; /* names the process group, beside "watari:" */
};

/* Reads the node's id and name, refuses an unencrypted or unfit configuration with the line to change; connects when
 * group_join is called. */
struct group *corosync_new(const struct corosync_config *config, struct loop *loop,
	const struct group_callbacks *callbacks, struct err *err);
/* Takes NULL. */
void corosync_free(struct group *group);
