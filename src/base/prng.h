/* SPDX-License-Identifier: Apache-2.0
 * Random numbers that can be had again: xoshiro256** seeded by splitmix64 (Blackman and Vigna 2018). For the simulator
 * and for tests; the same seed gives the same run on every machine.
 *
 * Must never: make a key, a nonce or a uuid. Those come from getrandom(2). */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

struct prng {
	uint64_t s[4];
};

static inline uint64_t prng_splitmix(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static inline void prng_seed(struct prng *prng, uint64_t seed)
{
	for (int i = 0; i < 4; i++)
		prng->s[i] = prng_splitmix(&seed);
}

static inline uint64_t prng_u64(struct prng *prng)
{
	uint64_t *s = prng->s;
	uint64_t result = s[1] * 5;
	uint64_t t = s[1] << 17;

	result = (result << 7 | result >> 57) * 9;
	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = s[3] << 45 | s[3] >> 19;
	return result;
}

/* 0 … bound - 1, without bias that matters here (Lemire's multiplication, the rejection left out); bound < 2^32. */
static inline uint32_t prng_below(struct prng *prng, uint32_t bound)
{
	assert(bound);
	return (uint32_t)(((prng_u64(prng) >> 32) * bound) >> 32);
}

/* low … high, both included. */
static inline uint64_t prng_between(struct prng *prng, uint64_t low, uint64_t high)
{
	assert(low <= high && high - low < UINT32_MAX);
	return low + prng_below(prng, (uint32_t)(high - low + 1));
}

/* True in `permille` of 1,000 cases. */
static inline bool prng_chance(struct prng *prng, uint32_t permille)
{
	return prng_below(prng, 1000) < permille;
}
