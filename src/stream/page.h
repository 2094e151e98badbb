/* SPDX-License-Identifier: Apache-2.0
 * The unit of everything in a saved state: a 4 KiB page of guest memory and its 64-bit sum.
 *
 * A sum of 0 means "all zero": such a page is a hole, is never read and never sent. The XXH3 of any other page that
 * happens to be 0 counts as 1. Equality only, no defence against forgery: who can write the state can write the sums.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	PAGE_BITS = 12,
	PAGE_BYTES = 1 << PAGE_BITS,
};

/* Sums of count pages that lie one after the other, with the widest vectors that the processor has. */
void page_sums(const uint8_t *pages, size_t count, uint64_t *sums);
uint64_t page_sum(const uint8_t *page);

/* The same for bytes of any size, 0 included: for whole files. */
uint64_t bytes_sum(const uint8_t *bytes, size_t size);
