/* SPDX-License-Identifier: Apache-2.0
 * What goes wrong in a random run, and when it is mended again.
 * Promises: faults and their times follow from the seed alone. Must never: tell the checkers more than faults_disturb says. */
#pragma once

#include "sim/sim.h"

#define FAULT_KINDS(X)                                                                                                 \
	X(FAULT_POWER, "a node loses its power")                                                                       \
	X(FAULT_POWER_ALL, "all nodes lose their power")                                                               \
	X(FAULT_KILL, "a daemon is killed")                                                                            \
	X(FAULT_PAUSE, "a daemon is stopped, and goes on")                                                             \
	X(FAULT_COROSYNC, "a corosync is killed")                                                                      \
	X(FAULT_RING_LOST, "a corosync, or all, is killed and loses its ring number")                                  \
	X(FAULT_PARTITION, "the network falls in parts")                                                               \
	X(FAULT_BUSY, "a node's group queue is full")                                                                  \
	X(FAULT_HOSTILE, "a forged, torn or repeated message")                                                         \
	X(FAULT_DISK_HANG, "a disk does not answer")                                                                   \
	X(FAULT_DISK_FAIL, "a disk fails writes")                                                                      \
	X(FAULT_DISK_DAMAGE, "a store is damaged")                                                                     \
	X(FAULT_DISK_LIE, "a disk that lied loses its power")                                                          \
	X(FAULT_QEMU, "a QEMU is killed")                                                                              \
	X(FAULT_GUEST, "a guest turns itself off")                                                                     \
	X(FAULT_STEP, "the next step of a kind fails")                                                                 \
	X(FAULT_HOLD, "a machine's steps do not end")                                                                  \
	X(FAULT_STATE, "a saved state rots")                                                                           \
	X(FAULT_LINK, "two nodes do not reach each other")                                                             \
	X(FAULT_FLAP, "a node's network comes and goes")                                                               \
	X(FAULT_CLOCK, "a wall clock jumps")                                                                           \
	X(FAULT_DEVICE, "a fence device does not do what it should")                                                   \
	X(FAULT_DEVICE_LIES, "a fence device lies, or is wired to another node")                                       \
	X(FAULT_STORAGE, "nodes do not reach their VMs' disks")                                                               \
	X(FAULT_PANIC, "a guest panics")                                                                               \
	X(FAULT_SILENCE, "a QEMU hangs")                                                                               \
	X(FAULT_WITNESS, "the witness is lost, or one node does not reach it; or it comes and goes")

enum fault_kind { FAULT_KINDS(CLUSTER_CONSTANT) };
enum { FAULT_KIND_COUNT = FAULT_KINDS(CLUSTER_COUNT) };
const char *fault_kind_name(int kind);

struct faults;

/* Mends what a fault broke, when its time is up. */
struct mend {
	struct faults *faults;
	enum fault_kind kind;
	uint32_t node;	/* 0: the slot is free */
	uint32_t again; /* FLAP: so many times more */
	struct timeline_item *item;
};

enum { MENDS_MAX = 64 };

struct faults {
	struct sim *sim;
	struct prng dice;
	uint32_t kinds; /* bits of those that this run knows */
	uint64_t spoiled; /* nodes whose store was damaged and that have not been synced since */
	struct mend mends[MENDS_MAX];
	struct timeline_item *healer;
	bool thrown; /* one, since faults_disturb() was asked last */
	uint64_t busy_until_ms; /* queues are full for that long at most */
};

void faults_init(struct faults *faults, struct sim *sim, uint64_t seed);
void fault_throw(struct faults *faults); /* one, at once */
/* Whether a fault is at work that may keep healthy nodes from what they should do. Nodes that are lost are no such: that
 * is what a cluster is for. */
bool faults_disturb(struct faults *faults);
void faults_rest(struct faults *faults); /* nodes that are lost stay so, all the rest is mended in its time */
void faults_end(struct faults *faults);	 /* nothing more comes, also no mending */
