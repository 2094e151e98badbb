/* SPDX-License-Identifier: Apache-2.0
 * Finds the pages that QEMU's dirty log lost: compares a stopped guest's memory with the sums of what was copied.
 *
 * Needed under TCG (QEMU 7.2): a store through a TLB entry that is still marked dirty is not logged once the log was
 * read and cleared. Every page that memory has is summed again; nothing is left out on a guess, since no record that
 * could be trusted says which pages were written. Holes of the memfd are zero without being read (reading would
 * allocate them). It happens while the guest stands still, so all that can be done before is done before: the memory is
 * mapped and its page tables filled while the guest still runs (repair_warm). Must never: write to the memory; touch a
 * hole of it. */
#pragma once

#include "base/err.h"
#include "stream/page.h"

#include <stdatomic.h>

enum { REPAIR_THREADS_MAX = 8 };

struct repair {
	int fd; /* borrowed: the memfd, or any file of that content */
	uint64_t pages;
	const uint8_t *memory;
	uint64_t *warm;	      /* one bit a page: its page table entry was filled */
	uint64_t *present;    /* one bit a page: it is no hole, as of the last look */
	uint64_t *differs;    /* one bit a page, after repair_compare */
	uint64_t warm_blocks; /* st_blocks when the last warming was complete */
	unsigned threads;
};

/* threads 0: one a processor. ERR_UNFIT when the file is not of that size. */
int repair_init(struct repair *repair, int fd, uint64_t pages, unsigned threads, struct err *err);
void repair_fini(struct repair *repair);

/* Fills the page tables for what was allocated since the last call (cheap when nothing was); returns early when *stop
 * becomes true. */
void repair_warm(struct repair *repair, const atomic_bool *stop);

/* sums: the bytes of a sums file. Fills differs; counts the pages in it and the bytes that were summed. */
int repair_compare(struct repair *repair, const uint8_t *sums, const atomic_bool *stop, uint64_t *different,
	uint64_t *summed_bytes, struct err *err);

static inline bool repair_differs(const struct repair *repair, uint64_t page)
{
	return repair->differs[page / 64] >> (page % 64) & 1;
}
