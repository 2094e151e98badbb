/* SPDX-License-Identifier: Apache-2.0
 * Many random runs, in processes of their own: an assertion that fails in the product ends a process and is a finding
 * like any other, with its seed.
 *
 * Promises: every seed of the range is run once, or the count of the result says how many were. */
#pragma once

#include "sim/random.h"

#include <stdio.h>

struct runner_options {
	uint64_t first_seed;
	uint64_t seeds;
	uint32_t jobs;
	uint32_t violations_max; /* stop after so many; 0: never */
	uint32_t limit_s;	 /* of one seed, in real time; 0: 60, and more with many VMs */
	struct random_options random;
};

struct runner_totals {
	uint64_t seeds;
	uint64_t violations;
	uint64_t steps, requests, events, virtual_ms;
	double seconds;
};

/* Prints each violation with the command that replays it to out. Returns 0, or -1 when processes cannot be had. */
int runner_run(const struct runner_options *options, FILE *out, struct runner_totals *totals, struct err *err);
