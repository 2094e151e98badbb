/* SPDX-License-Identifier: Apache-2.0
 * What ends a simulated server from outside. Only sim.c, node.c, power.c. */
#pragma once

#include "sim/sim.h"

struct outlets *power_outlets(struct sim *sim);
/* For the node's machine: when its time has run out the machine loses its power. */
struct watchdog_fake *power_watchdog(struct sim_node *node);
