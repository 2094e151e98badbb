/* SPDX-License-Identifier: Apache-2.0
 * One body, compiled three times (meson.build): the vector width of XXH3 is chosen when it is compiled.
 * page.c picks one by the processor. Must never: differ in their sums. */
#pragma once

#include "stream/page.h"

#define PAGE_SUM_VARIANTS(X) X(sse2) X(avx2) X(avx512)
#define PAGE_SUM_DECLARE(isa)                                                                                          \
	void page_sums_##isa(const uint8_t *pages, size_t count, uint64_t *sums);                                      \
	uint64_t bytes_sum_##isa(const uint8_t *bytes, size_t size);
PAGE_SUM_VARIANTS(PAGE_SUM_DECLARE)
