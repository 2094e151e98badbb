/* SPDX-License-Identifier: Apache-2.0
 * Inside of the simulated group: nodes, their queues, and the rings that they form. Only group_fake.c, ring.c, votes.c and witness.c. */
#pragma once

#include "driver/fake/group_fake.h"
#include "model/cluster.h"

enum { OUTBOX_MAX = 64 };

enum packet_kind { PACKET_MESSAGE, PACKET_JOIN, PACKET_LEAVE };

struct packet {
	uint32_t references;
	enum packet_kind kind;
	uint32_t from;
	uint64_t generation; /* of the daemon that it comes from, or that joins or leaves */
	uint64_t *known;     /* by node: what the sender could know when it sent this */
	size_t size;
	uint8_t *bytes;
};

/* What a member is to be told: a message (packet), or a view. */
struct entry {
	uint64_t at_us;
	uint64_t ring_id;
	uint64_t position; /* in the ring's order; a ring begins at 1 */
	struct packet *packet;
	struct group_view view;
	uint64_t formed_us;
	uint64_t generation; /* of a view: the receiver's daemon that is in it */
};

struct fifo {
	struct entry *entries;
	uint32_t first, count, capacity; /* capacity: a power of two */
};

struct ring {
	struct net *net;
	uint32_t references; /* nodes that are in it */
	uint64_t id;	     /* unique, unlike seq */
	uint64_t seq;
	uint64_t members;
	uint64_t voted; /* members that count the witness's vote */
	bool frozen;
	uint64_t procs;	 /* members whose daemon has joined */
	uint64_t length; /* entries ordered */
	uint64_t generations[NODES_MAX + 1]; /* of the daemons in procs */
};

struct net_node {
	struct net *net;
	uint32_t id;
	bool up;
	uint32_t side;
	uint64_t cut; /* links that are down */
	uint64_t seen_seq; /* on corosync's disk */
	uint64_t apart_us[NODES_MAX + 1]; /* by node: since when rings of this one are without it; 0: they are not */
	uint64_t silence_us, died_us;
	uint32_t votes_expected, votes_highest, votes_needed; /* highest: of its ring, as far as it knows (votes.c) */
	bool met_all;	   /* wait_for_all is satisfied since this corosync started */
	struct ring *ring;
	uint64_t delivered; /* position of the last entry that was told here */
	struct fifo inbox;
	uint64_t inbox_last_us;
	struct timeline_item *pump;
	struct fifo outbox;
	struct timeline_item *order;
	uint64_t busy_until_us;
	struct group_fake *process;
};

struct reform {
	uint64_t members;
	struct net *net;
	struct timeline_item *item; /* NULL: the slot is free */
};

struct net {
	struct timeline *timeline;
	struct prng *prng;
	struct net_config config;
	struct net_node *nodes; /* by id */
	uint64_t *known;	/* (node, other) */
	uint64_t generations, rings; /* given so far */
	struct reform reforms[NODES_MAX];
	struct packet *recent[NET_RECENT_MAX];
	uint64_t recent_count;
	bool witness_down;
	uint64_t witness_cut; /* nodes that do not reach it */
	struct timeline_item *witness_look;
};

struct group_fake {
	struct group group;
	struct net *net;
	struct loop_fake *loop;
	struct group_callbacks callbacks;
	bool wants_in;
	bool in; /* a view with it was delivered to it */
	uint64_t generation;
	uint64_t leaves;
	uint64_t view_formed_us;
};

struct packet *packet_new(struct net *net, enum packet_kind kind, uint32_t from, const uint8_t *bytes, size_t size);
void packet_drop(struct packet *packet);

void fifo_push(struct fifo *fifo, struct entry entry);
struct entry *fifo_at(struct fifo *fifo, uint32_t i);
struct entry fifo_pop(struct fifo *fifo);
void fifo_clear(struct fifo *fifo);

uint64_t net_delay_us(struct net *net);
void net_deliver(struct net_node *node, struct entry entry);
void net_outbox_arm(struct net_node *node);
void net_process_lost(struct net_node *node);
void net_process_join(struct net_node *node);
/* The node is now in a ring of these members: who is away, and since when. */
void net_apart_note(struct net_node *node, uint64_t members);

/* The ring agrees on the packet's place: all members are told in this order. */
void ring_order(struct ring *ring, struct packet *packet);
void ring_leave(struct net_node *node);
/* These members are told the ring as it is, anew. */
void ring_tell(struct ring *ring, uint64_t nodes);
/* The nodes, with this one, that reach each other and will be one ring. */
uint64_t ring_reachable(const struct net *net, uint32_t node);

/* votes.c. corosync on this node starts anew. */
void votes_reset(struct net_node *node);
/* A ring forms, after the witness's vote in it is known; or a member of it counts one vote more. */
void votes_on_ring(struct ring *ring);
void votes_count(const struct ring *ring, uint32_t node);
/* Whether corosync on this member says so. */
bool ring_quorate(const struct ring *ring, uint32_t node);
/* Whether driver/corosync there says so of a view: the daemons among the members must be enough as well. */
bool ring_view_quorate(const struct ring *ring, uint32_t node, uint64_t members);
/* Of the nodes, as driver/corosync tells it to a view of these members. */
uint32_t ring_votes_expected(const struct ring *ring, uint32_t node, uint64_t members);
/* corosync-quorumtool -e with the votes that are here, and the end of wait_for_all. */
void votes_force(struct net_node *node);

/* witness.c. A ring forms: who counts the vote from its beginning. */
void witness_on_ring(struct ring *ring);
/* Something has changed that may move the vote. */
void witness_look_later(struct net *net);
