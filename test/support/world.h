/* SPDX-License-Identifier: Apache-2.0
 * Three real engines in one process and in real time, on a perfect group, stores that forget and machines on which
 * every guest does what it is told: enough world for the API and the CLI to be tested whole. Faults are the
 * simulator's. */
#pragma once

#include "engine/engine.h"

enum { WORLD_NODES = 3 };

struct world;

struct world *world_new(struct loop *loop);
void world_free(struct world *world);
struct engine *world_engine(struct world *world, uint32_t node);

/* Cuts a node off the others, or joins it again. */
void world_cut(struct world *world, uint32_t node, bool away);
/* The next standby on this node fails with this text; NULL: works again. */
void world_fail_standby(struct world *world, uint32_t node, const char *text);
/* Whether the node has power, as fence devices (of any agent but fence_unfit, which does not exist) say and switch it. A node
 * without power is only cut off. */
bool world_has_power(const struct world *world, uint32_t node);
/* How long a copy takes from now on. */
void world_set_copy_ms(struct world *world, uint64_t ms);
