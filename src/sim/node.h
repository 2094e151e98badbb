/* SPDX-License-Identifier: Apache-2.0
 * One simulated server: its birth and end. What can be done to it is in sim.h. */
#pragma once

#include "sim/sim.h"

#define SIM_CLUSTER_UUID "5a5a5a5a-0000-4000-8000-00000000c1c1"

void node_init(struct sim *sim, uint32_t id);
void node_fini(struct sim_node *node);
