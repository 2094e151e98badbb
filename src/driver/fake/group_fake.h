/* SPDX-License-Identifier: Apache-2.0
 * port/group.h without a network: a corosync on each simulated node, by the model of extended virtual synchrony.
 *
 * A ring is a set of nodes that order messages together. When its nodes can no longer all reach each other it freezes
 * at once (the token is lost), and after a while each set of nodes that do reach each other forms a new ring. Members
 * that go on together deliver the same part of what the old ring had ordered, at least what any of them had delivered;
 * another part of a partition may deliver less or more of it. What was sent but not ordered is lost or comes late, in the
 * new ring. Daemons join and leave a ring's process group by messages in the same order, so those views carry the same
 * ring number.
 *
 * It also keeps what each node can know: a clock per pair of nodes that only messages move. The checker for "no start
 * without proof" asks it, so that a start that was merely lucky is seen.
 *
 * Promises: as the port. Must never: reorder, invent or (within a ring) lose a message. */
#pragma once

#include "base/prng.h"
#include "driver/fake/loop_fake.h"
#include "driver/fake/timeline.h"
#include "port/group.h"

struct net;
struct group_fake;

struct net_config {
	uint32_t node_count;
	bool two_node;		/* votequorum's two_node with wait_for_all */
	bool witness;		/* one more vote, of a corosync-qnetd; expected votes stay those of the nodes */
	uint32_t delay_us;	/* typical time to order or to deliver a message */
	uint32_t token_ms;	/* corosync's token: the loss of a node is seen 2.2 times that after it, or sooner */
	bool exact;		/* no dice about times: always delay_us, and the minima below (scenarios) */
	uint32_t slow_permille; /* deliveries that take up to 50 times that */
	uint32_t lost_min_ms, lost_max_ms;   /* until the loss of a node makes a new ring */
	uint32_t merge_min_ms, merge_max_ms; /* until nodes that can reach each other again do */
	uint32_t late_permille;	 /* unordered messages that survive a change of the ring */
	uint32_t torn_permille;	 /* frozen rings of which not all that was ordered is delivered */
	uint32_t steps_permille; /* changes that show the old ring's survivors first, and then the whole new ring */
	/* A line for the trace; may be NULL. */
	void (*trace)(void *ctx, const char *line);
	void *trace_ctx;
};

struct net *net_new(struct timeline *timeline, struct prng *prng, const struct net_config *config);
void net_free(struct net *net); /* after all of its group_fakes */

/* corosync on a node starts, or ends (killed, or without power). Its ring number is kept between. */
void net_node_up(struct net *net, uint32_t node);
void net_node_down(struct net *net, uint32_t node);
bool net_node_is_up(const struct net *net, uint32_t node);
/* corosync's state directory is lost: the node's ring number begins again. Only while it is down. */
void net_forget_ring(struct net *net, uint32_t node);
/* Nodes reach each other when they are on the same side. All begin on side 0. */
void net_set_side(struct net *net, uint32_t node, uint32_t side);
/* Two nodes do not reach each other, though both may reach a third. Loss in one direction is the same to knet: a link is up
 * while pings are answered. Where not all reach all, the rings are the sets that a lowest node first makes. */
void net_set_link(struct net *net, uint32_t a, uint32_t b, bool up);
void net_links_mend(struct net *net);
/* The witness: without power or not, and reached by a node or not. Its vote follows a little later. */
void net_witness_up(struct net *net, bool up);
void net_witness_link(struct net *net, uint32_t node, bool up);
void net_witness_mend(struct net *net);
/* The node's queue is full for a while: send gives ERR_BUSY. */
void net_busy(struct net *net, uint32_t node, uint64_t duration_us);

/* Bits of the nodes whose corosyncs now form a ring with this one, 0 while it is in none. */
uint64_t net_ring_members(const struct net *net, uint32_t node);
bool net_ring_quorate(const struct net *net, uint32_t node);
/* The ring that it is in carries messages: nobody in it forms another one. */
bool net_ring_stands(const struct net *net, uint32_t node);
/* When the view came into being that the node's daemon was told last, in µs; 0: none. */
uint64_t net_view_formed_us(const struct net *net, uint32_t node);

/* The latest moment on `other` of which `node` can have heard, through any chain of messages. */
uint64_t net_knows_us(const struct net *net, uint32_t node, uint32_t other);

/* The node has seen with its own eyes what is so on `other` now. */
void net_learn(struct net *net, uint32_t node, uint32_t other);
/* The node has lost its power now. */
void net_died(struct net *net, uint32_t node);
/* Whoever has been in rings without this node for so long may conclude that it has died, if it has (its watchdog's time);
 * 0: silence says nothing. */
void net_set_silence(struct net *net, uint32_t node, uint64_t silence_us);

/* Hostile input: puts these bytes into the ring of node `from`, as if from it. */
void net_inject(struct net *net, uint32_t from, const uint8_t *bytes, size_t size);
/* One of the last messages that any node sent, and by whom; 0 where there is none. Valid until the next send. */
uint32_t net_recent(const struct net *net, uint32_t back, const uint8_t **bytes, size_t *size);
enum { NET_RECENT_MAX = 64 };

/* The daemon's side. Freeing is what the end of the process is: the group sees it leave. */
struct group_fake *group_fake_new(struct net *net, uint32_t node, const char *node_name, struct loop_fake *loop,
	const struct group_callbacks *callbacks);
void group_fake_free(struct group_fake *fake); /* takes NULL */
struct group *group_fake_port(struct group_fake *fake);
