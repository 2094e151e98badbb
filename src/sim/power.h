/* SPDX-License-Identifier: Apache-2.0
 * What ends a simulated server from outside. Only sim.c, node.c, power.c. */
#pragma once

#include "sim/sim.h"

struct outlets *power_outlets(struct sim *sim);
/* After each step: a watchdog that is not fed any more will fire. */
void power_watchdog_look(struct sim_node *node);
void power_watchdog_stop(struct sim_node *node);
