/* SPDX-License-Identifier: Apache-2.0
 * A cluster that is old already: before the first daemon of the run starts, each node's store holds the same snapshot, and
 * its guests run since before. What thousands of creations and starts would come to, at the price of one load.
 *
 * Promises: the daemons take it by the way that any restart takes (port/store.h: load); the checkers know what is in it as
 * if each VM had been created, started and acknowledged. Must never: be called once a daemon has run. */
#pragma once

#include "sim/sim.h"

struct sim_preload {
	uint32_t vms;	     /* vm1 … vmN, dealt out to the nodes in turn, of all priorities but none; they run */
	uint32_t memory_mib; /* of each; 0: 256, 512 and 1024 in turn */
	const struct fence_device *devices;
	uint32_t device_count;
};

/* All nodes have power. */
void sim_preload(struct sim *sim, const struct sim_preload *preload);
