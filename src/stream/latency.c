/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/latency.h"

static unsigned bucket_of(uint64_t us)
{
	if (us < 8)
		return (unsigned)us;
	unsigned log = 63 - (unsigned)__builtin_clzll(us);
	unsigned bucket = (log - 2) * 8 + (unsigned)(us >> (log - 3) & 7);
	return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

/* The highest value that falls into it. */
static uint64_t bucket_last_us(unsigned bucket)
{
	return bucket < 8 ? bucket : ((UINT64_C(9) + bucket % 8) << (bucket / 8 - 1)) - 1;
}

void latency_note(struct latency *latency, uint64_t us)
{
	latency->count++;
	latency->sum_us += us;
	if (us > latency->max_us)
		latency->max_us = us;
	latency->buckets[bucket_of(us)]++;
}

uint64_t latency_mean_us(const struct latency *latency)
{
	uint64_t count = latency->count;

	return count ? latency->sum_us / count : 0;
}

uint64_t latency_percentile_us(const struct latency *latency, unsigned percent)
{
	uint64_t all = 0, seen = 0;

	for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
		all += latency->buckets[i];
	for (unsigned i = 0; i < LATENCY_BUCKETS && all; i++) {
		seen += latency->buckets[i];
		if (seen * 100 >= all * percent)
			return bucket_last_us(i) < latency->max_us ? bucket_last_us(i) : latency->max_us;
	}
	return 0;
}
