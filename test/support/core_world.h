/* SPDX-License-Identifier: Apache-2.0
 * A cluster for the tests of the core: nothing but the state, a clock that goes on by 10 ms with each event, and words
 * for what can happen to nodes and VMs. Nothing runs: the test itself says what the machines would report.
 *
 * Promises: each word is the events that a real cluster would send, and the core must accept them, or the test fails
 * there and then; only world_feed, FEED and world_ask leave the answer to the test. Must never: judge what the core
 * decided, that is what the tests are for; keep anything from one test to the next. */
#pragma once

#include "core/core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { MINUTE_MS = 60 * 1000 };
#define CORE_WORLD_BEGIN_MS UINT64_C(1764000000000) /* 2025-11-24 16:00 UTC */

struct core_world {
	struct cluster *cluster;
	struct core_outcome *outcome; /* of the last event */
	uint64_t now_ms;
	uint32_t vms;		       /* ever created; the VM of that number is in slot number - 1 */
	uint32_t boots[NODES_MAX + 1]; /* by node: which boot it is in */
	struct node_facts facts;       /* what a node tells when it joins, but for its name and its boot */
};

/* Nodes 1 … nodes (at most 64), all of them members and online. Each has that much memory, 4 CPUs, bridge br0, and a
 * watchdog unless watchdog_ms is 0. *state is for core_world_free, the teardown of each such test. */
struct core_world *core_world_new(void **state, uint32_t nodes, uint32_t memory_mib, uint32_t watchdog_ms);
int core_world_free(void **state);

/* One event, 10 ms after the one before. What is open is filled in: from the lowest member, by root, in the boot that
 * the node is in. Returns the core's answer; its text is in w->outcome. */
enum err_code world_feed(struct core_world *w, const struct event *event);
#define FEED(w, ...) world_feed(w, &(struct event){__VA_ARGS__})

/* Members as bits; world_ring: beside them the nodes whose corosync alone is seen. */
void world_view(struct core_world *w, uint64_t members);
void world_ring(struct core_world *w, uint64_t members, uint64_t ring);
/* Tells its facts, as each daemon does that has come into a view. */
void world_join(struct core_world *w, uint32_t node);
/* It is in another boot from now on. */
void world_reboots(struct core_world *w, uint32_t node);
void world_leaves(struct core_world *w, uint32_t node);
/* Leaves, and a person says that it is off. */
void world_node_dies(struct core_world *w, uint32_t node);
/* Into the view, and joins. */
void world_returns(struct core_world *w, uint32_t node, bool rebooted);
/* A fence device of this node. */
void world_device(struct core_world *w, const char *name, uint32_t node, uint32_t level);

/* The uuid that the VM of this number has. */
void world_uuid(uint32_t number, char uuid[UUID_BYTES]);
/* vm<number>, with a NIC at br0, not pinned yet. */
struct vm_def world_def(uint32_t number, uint32_t memory_mib);
/* Returns its number: 1 for the first. What def leaves open (uuid, name, kernel) is that number's. */
uint32_t world_create(struct core_world *w, struct vm_def def);
struct vm *world_vm(struct core_world *w, uint32_t number);
enum err_code world_ask(struct core_world *w, enum event_kind kind, uint32_t number, uint32_t target);
/* The start that is under way succeeds. */
void world_up(struct core_world *w, uint32_t number);
/* It fails: that node has less memory left than the core believes. */
void world_finds_no_room(struct core_world *w, uint32_t number);
/* Asked to start there, and up; node 0: where the core likes. */
void world_run(struct core_world *w, uint32_t number, uint32_t node);
/* Its QEMU is gone where it should be; the second: because the guest had panicked. */
void world_dies(struct core_world *w, uint32_t number);
void world_panics(struct core_world *w, uint32_t number);
/* The move that is under way to its end, as the machines would report it; no pages are left to come in. */
void world_moves(struct core_world *w, uint32_t number);

/* Time, with all ticks that the core wants until then. */
void world_pass(struct core_world *w, uint64_t ms);

/* Fails unless the VM's reason holds this part. */
void world_assert_reason(struct core_world *w, uint32_t number, const char *part);
