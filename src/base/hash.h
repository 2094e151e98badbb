/* SPDX-License-Identifier: Apache-2.0
 * XXH3-64 (xxhash, header-only, so that the core links to nothing). Not for secrets or forgery, only for equality. */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint64_t hash64(const void *bytes, size_t size, uint64_t seed);
