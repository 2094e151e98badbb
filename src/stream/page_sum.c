/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/page_sum.h"

#include <string.h>

#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#ifdef __clang__
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif
#include <xxhash.h>
#pragma GCC diagnostic pop

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

/* Most pages that are not zero say so in their first word or two. */
static bool page_is_zero(const uint8_t *page)
{
	for (size_t at = 0; at < PAGE_BYTES; at += 64) {
		uint64_t words[8];
		memcpy(words, page + at, sizeof(words));
		if (words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7])
			return false;
	}
	return true;
}

/* A processor's own prefetching ends with the page, and where pages lie scattered each begins with a walk through the
 * page tables: begun a page early, both are hidden. What is not mapped is not fetched, and does not fault. */
static inline void next_page_begin(const uint8_t *page)
{
	__builtin_prefetch(page + PAGE_BYTES);
	__builtin_prefetch(page + PAGE_BYTES + 64);
}

void JOIN(page_sums, PAGE_SUM_ISA)(const uint8_t *pages, size_t count, uint64_t *sums)
{
	for (size_t i = 0; i < count; i++) {
		const uint8_t *page = pages + i * PAGE_BYTES;
		uint64_t sum = 0;
		next_page_begin(page);
		if (!page_is_zero(page)) {
			sum = XXH3_64bits(page, PAGE_BYTES);
			sum += !sum;
		}
		sums[i] = sum;
	}
}

uint64_t JOIN(bytes_sum, PAGE_SUM_ISA)(const uint8_t *bytes, size_t size)
{
	return XXH3_64bits(bytes, size);
}
