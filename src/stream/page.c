/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/page_sum.h"

/* Asked anew each time: libgcc and compiler-rt keep the answer in a variable. */
#ifdef __x86_64__
#define PAGE_SUM_PICK(fn)                                                                                              \
	(__builtin_cpu_supports("avx512f") ? fn##_avx512 : __builtin_cpu_supports("avx2") ? fn##_avx2 : fn##_sse2)
#else
#define PAGE_SUM_PICK(fn) (fn##_sse2)
#endif

void page_sums(const uint8_t *pages, size_t count, uint64_t *sums)
{
	PAGE_SUM_PICK(page_sums)(pages, count, sums);
}

uint64_t page_sum(const uint8_t *page)
{
	uint64_t sum;

	page_sums(page, 1, &sum);
	return sum;
}

uint64_t bytes_sum(const uint8_t *bytes, size_t size)
{
	return PAGE_SUM_PICK(bytes_sum)(bytes, size);
}
