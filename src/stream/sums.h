/* SPDX-License-Identifier: Apache-2.0
 * The `sums` file: for each page of main memory its sum, and the pass of the copy in which it was last sent.
 *
 *	le64 sum[pages], le16 pass[pages]
 *
 * The pass is what tells hot pages from cold ones: the guest wrote those of the last passes just before it stopped.
 * Pass 0: never sent (then it is zero, as QEMU's own target would have it). */
#pragma once

#include "stream/mirror.h"
#include "stream/page.h"

enum { SUMS_BYTES_PER_PAGE = 8 + 2, SUMS_PASS_MAX = UINT16_MAX };

static inline uint64_t sums_bytes(uint64_t pages)
{
	return pages * SUMS_BYTES_PER_PAGE;
}

struct sums {
	struct mirror mirror;
	uint64_t pages;
};

/* All zero, pass 0. fd -1: in memory only. */
int sums_init(struct sums *sums, int fd, uint64_t pages, struct err *err);
void sums_fini(struct sums *sums);

void sums_set(struct sums *sums, uint64_t index, uint64_t sum);
void sums_set_pass(struct sums *sums, uint64_t index, uint64_t pass);

/* Of a file's bytes, however they got into memory. */
uint64_t sums_get(const uint8_t *bytes, uint64_t index);
uint32_t sums_get_pass(const uint8_t *bytes, uint64_t pages, uint64_t index);
