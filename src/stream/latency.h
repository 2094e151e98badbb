/* SPDX-License-Identifier: Apache-2.0
 * How long something took, many times: count, mean, maximum and percentiles in bounded memory. One thread notes, any may
 * read. Must never: be decided on; a reader may find a count that its buckets have not yet. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

enum { LATENCY_BUCKETS = 192 }; /* eight to a doubling, from 1 µs to more than half a minute */

struct latency {
	_Atomic uint64_t count, sum_us, max_us;
	_Atomic uint64_t buckets[LATENCY_BUCKETS];
};

void latency_note(struct latency *latency, uint64_t us);
uint64_t latency_mean_us(const struct latency *latency);
/* What percent of all did not exceed, to 12 % and never more than the maximum; 0 of nothing. */
uint64_t latency_percentile_us(const struct latency *latency, unsigned percent);
