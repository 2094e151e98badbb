/* SPDX-License-Identifier: Apache-2.0
 * One random run: a cluster, administrators and faults, all from one seed.
 *
 * Each seed chooses not only when and where, but which kinds of faults there are at all (swarm testing: Groce and others
 * 2012), so that no frequent fault hides what only shows without it. */
#pragma once

#include "sim/sim.h"

struct random_options {
	uint32_t nodes;	     /* 0: by the dice */
	bool witness;	     /* has a vote, and faults of its own; then never two_node */
	uint32_t vms;	     /* that run since before (preload.h); 0: none, a few are created */
	uint64_t duration_ms; /* of the time with faults; 0: by the dice */
	void (*trace)(void *ctx, uint64_t now_us, const char *line);
	void *trace_ctx;
};

struct random_result {
	char violation[1024]; /* empty: none */
	uint64_t at_us;
	uint64_t steps;	   /* of virtual time */
	uint64_t requests;
	uint64_t index; /* events committed */
	uint64_t virtual_ms;
};

/* The name of a node's device of that level. */
void random_device_name(char name[NAME_BYTES], uint32_t node, uint32_t level);

void random_run(uint64_t seed, const struct random_options *options, struct random_result *result);
