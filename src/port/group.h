/* SPDX-License-Identifier: Apache-2.0
 * Membership, quorum and totally ordered messages among the cluster's nodes: corosync in the daemon.
 *
 * Promises (extended virtual synchrony, as corosync's CPG gives): members that go from one view to the next together
 * deliver the same messages in the same order in between; a message is delivered to its sender too; messages of one
 * sender arrive in the order sent. A view is told only when the membership of the process group and the quorum
 * service name the same ring (design §4). Messages may be lost when their sender leaves, never reordered or forged.
 * Must never: deliver between two views what belongs to neither, or block the caller. */
#pragma once

#include "base/err.h"
#include "model/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GROUP_MESSAGE_MAX = 256 * 1024 }; /* corosync takes 1 MiB; larger things are sent in pieces */

struct group_view {
	uint64_t ring_seq; /* rises with each view of one cluster, except when corosync's own state is lost */
	bool quorate; /* corosync's word, and enough daemons among the members: a majority, or all nodes of the ring */
	uint32_t expected_votes; /* of the nodes; a witness votes too, but keeps no log and is not among them */
	/* votequorum's two_node: each half of a split cluster believes itself to be quorate, so the loss of quorum proves
	 * nothing and only a fence device decides. */
	bool two_node;
	bool witness; /* votes where this node is (corosync-qdevice) */
	uint64_t members; /* nodes whose watarid is in the process group, bit id - 1; includes this one */
	uint64_t ring;	  /* nodes of the ring, whether their watarid runs or not */
	/* Where the ring has quorum and the members have not: the uuid of another cluster whose watarid runs in this
	 * ring; empty: none was found. For words alone. */
	char stranger[UUID_BYTES];
};

struct group_callbacks {
	void *ctx;
	/* A new view. Until the next call, messages come from these members. */
	void (*view)(void *ctx, const struct group_view *view);
	/* The bytes are the caller's and gone after the return. Hostile until parsed. */
	void (*deliver)(void *ctx, uint32_t from, const uint8_t *bytes, size_t size);
	/* The connection to the group is gone (corosync died). A view with quorate false was told before. The driver
	 * reconnects by itself, within its limits, and then tells a new view. */
	void (*down)(void *ctx, const struct err *err);
};

struct group;
struct group_ops {
	/* Queues one message for all members. Never blocks; a full queue is ERR_BUSY. Lost when the view changes before
	 * it was delivered: whoever needs it sends it again in the new view. */
	int (*send)(struct group *group, const uint8_t *bytes, size_t size, struct err *err);
	/* Leaves the process group (a member whose disk does not answer); join comes back. */
	void (*leave)(struct group *group);
	void (*join)(struct group *group);
	/* The real token, in ms, as it is by now; 0: not known. May be NULL. */
	uint32_t (*token_ms)(struct group *group);
	/* An administrator's last resort: let the nodes that this one sees be a quorum from now on. What came of it is a
	 * view, or none. Never blocks. */
	void (*force)(struct group *group);
};

struct group {
	const struct group_ops *ops;
	uint32_t node; /* own id, 1 … NODES_MAX */
	char node_name[NAME_BYTES];
};

static inline int group_send(struct group *group, const uint8_t *bytes, size_t size, struct err *err)
{
	return group->ops->send(group, bytes, size, err);
}
static inline uint32_t group_token_ms(struct group *group)
{
	return group->ops->token_ms ? group->ops->token_ms(group) : 0;
}
static inline void group_leave(struct group *group)
{
	group->ops->leave(group);
}
static inline void group_force(struct group *group)
{
	group->ops->force(group);
}
static inline void group_join(struct group *group)
{
	group->ops->join(group);
}
