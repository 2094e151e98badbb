/* SPDX-License-Identifier: Apache-2.0
 * The bytes of a migration stream, put together: what page_server sends. Pure: state in, bytes out.
 * Must never: be given a page that was not compared with its sum. */
#pragma once

#include "stream/state.h"

/* Everything before the pages. The bytes are the caller's to free. */
int playout_head(const struct state *state, bool eager, uint32_t ping, uint8_t **bytes, size_t *size, struct err *err);
/* Everything after them. */
int playout_end(const struct state *state, bool eager, uint8_t **bytes, size_t *size, struct err *err);

/* A part of ram's section with pages: begin, pages, end, in a buffer of PLAYOUT_PART_BYTES(pages). */
#define PLAYOUT_PART_BYTES(pages) (5 + (size_t)(pages)*STREAM_LOOKAHEAD + 8 + 5)
struct playout_part {
	uint8_t *bytes;
	size_t size;
	int32_t block; /* of the last page; -1: none yet */
};
void playout_part_begin(const struct state *state, struct playout_part *part);
/* page NULL: zero. */
void playout_part_page(
	const struct state *state, struct playout_part *part, uint32_t block, uint64_t index, const uint8_t *page);
void playout_part_end(const struct state *state, struct playout_part *part);
