/* SPDX-License-Identifier: Apache-2.0
 * XXH3-64 (xxhash, header-only, so that the core links to nothing).
 * Promises: the same number for the same bytes and seed on every machine and in every version, since digests and stores hold
 * it. Must never: stand for more than equality: who can choose the bytes can choose the number. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Of size bytes, 0 included. A chain of hashes gives the one before as the seed. */
uint64_t hash64(const void *bytes, size_t size, uint64_t seed);
