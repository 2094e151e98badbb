/* SPDX-License-Identifier: Apache-2.0
 * A failover drill at the end of a random run: the cluster is at rest, whatever state the faults before have left it
 * in; one node is lost, and what ran on it must run elsewhere within the bound (I6), and be well when the node comes
 * back.
 *
 * Must never: expect a start where neither a device nor a watchdog can give proof. */
#pragma once

#include "sim/sim.h"

struct drill_config {
	uint32_t levels; /* of devices that a node has: 0 to 2 */
	uint32_t limit_ms;
	uint64_t devices;     /* nodes that have them, bits */
	uint32_t watchdog_ms; /* of nodes that have one */
};

void drill_device(const struct drill_config *config, struct fence_device *device, uint32_t node, uint32_t level);
/* An administrator defines all devices anew, so that all are trusted. */
void drill_define(struct sim *sim, const struct drill_config *config);
void drill_run(struct sim *sim, const struct drill_config *config, struct prng *dice);
