/* SPDX-License-Identifier: Apache-2.0
 * The last file of a saved state: what the others must be like, and the daemon's facts about the guest.
 *
 *	{"facts": {…}, "format": 1, "state": {…}, "sum": "16 hex digits"}
 *
 * sum: XXH3 of the same object without "sum", keys sorted, no white space.
 *
 * "hot" in "state" is the list of hot.h; a state may be without it, and who does not know it passes over it.
 * The sum finds torn and rotten files; numbers are checked against each other as well, since whoever can write the
 * directory can make the sum right. Nothing in it names a path or a program.
 * Must never: be believed before manifest_decode has accepted it. */
#pragma once

#include "stream/hot.h"
#include "stream/stream_parse.h"

enum {
	MANIFEST_FORMAT = 1,
	MANIFEST_BYTES_MAX = 256 << 10,
};

struct manifest {
	char block[STREAM_NAME_BYTES]; /* QEMU's name of the main memory block */
	uint64_t ram_bytes;	       /* its length, and that of `ram` */
	uint64_t used_bytes;	       /* of it not zero */
	uint64_t passes;
	uint64_t device_bytes;
	uint64_t tail_at;	/* in `device`: where ram's end section is over */
	uint64_t devices_bytes; /* from there: the full sections, without marks and description */
	uint64_t device_sum;
	uint64_t sums_sum;
	uint64_t streamed_ns; /* CLOCK_REALTIME: when the guest stood still */
	uint64_t repaired_pages;
	bool compared; /* the memory was compared after the stop (TCG) */
	struct hot hot;
};

/* The text, to be freed; NULL with *err set. facts is borrowed. */
char *manifest_encode(const struct manifest *manifest, json_t *facts, size_t *size, struct err *err);
/* ERR_CORRUPT when it is no manifest or contradicts itself, ERR_UNFIT when its format is another. *facts: a new
 * reference. */
int manifest_decode(const char *text, size_t size, struct manifest *manifest, json_t **facts, struct err *err);
