/* SPDX-License-Identifier: Apache-2.0
 * The checkers: what must be true of any cluster at any time (design §9), judged from outside by the world, the group
 * and what engines say through their service calls. Written from the contract, without the core and the engine.
 *
 *	check_world.c	I1 one running copy, I2 no start without proof, I3 no second resume and nothing thrown away
 *	check_log.c	I4 nothing acknowledged is lost, I5 the same history everywhere
 *	check_cluster.c	I8 reasons; tasks that are done were done
 *	check_fence.c	I7 never a majority, never a member; what must run (I6)
 *	check_calm.c	what must run does, whenever the world is calm (I6)
 *	check_end.c	with all faults gone: everything comes to rest, and as it should
 *
 * Must never: be weakened to let a run pass. */
#pragma once

#include "sim/sim.h"

struct checks *checks_new(struct sim *sim);
void checks_free(struct checks *checks);
struct world_observer checks_world_observer(struct sim *sim);

/* A request was submitted, and answered. */
void checks_asked(struct sim *sim, uint32_t node, const struct event *event);
void checks_answered(struct sim *sim, uint32_t node, const struct event *event, const struct engine_reply *reply);

/* The VM was created and started at this index before the run began, and that was acknowledged. */
void checks_preloaded(struct sim *sim, const struct vm_def *def, uint64_t index);

/* Copies that execute, and cold starts, so far. */
uint32_t checks_executing(const struct sim *sim);
uint32_t checks_boots(const struct sim *sim);

/* After each step: an engine whose index or view is another than before is looked at. */
void checks_step(struct sim *sim, struct sim_node *node);
void checks_daemon_started(struct sim *sim, struct sim_node *node);

/* By the first node that has applied an index: tasks that have come to their end. */
void checks_tasks(struct sim *sim, const struct sim_node *node, const struct cluster *cluster);

/* From the engine's watcher. */
void checks_vm_changed(struct sim *sim, struct sim_node *node, uint32_t vm);
void checks_history(struct sim *sim, struct sim_node *node, const struct engine_history *line);

/* check_fence.c. An order to switch off begins; the device is told; somebody was told that a node is off, and it is not. */
void checks_fence_began(struct sim *sim, uint32_t by, const struct fence_order *order);
void checks_fence_sent(struct sim *sim, uint32_t by, const struct fence_order *order);
void checks_false_death(struct sim *sim, uint32_t node);
/* I6: every VM that runs now runs `bound_ms` from now on another node than `lost`. Call at both ends. */
void checks_failover_begin(struct sim *sim, uint32_t lost);
bool checks_failover_done(struct sim *sim, uint32_t lost, char *why, size_t size);

/* check_calm.c; from time to time. disturbed: a fault is at work, or was thrown since the last call. */
void checks_calm(struct sim *sim, bool disturbed);

/* At the end: its history is what was said when it happened, all of it. */
void check_trail(struct sim *sim, struct sim_node *node);

/* A store was given up, and with it perhaps one of two histories. */
void checks_wiped(struct sim *sim);

/* check_end.c: NULL when the cluster is at rest and well, else what is not. Valid until the next call. */
const char *check_end(struct sim *sim);
void check_end_states(struct sim *sim);
