/* SPDX-License-Identifier: Apache-2.0
 * How far the store was durable once: index and hash of the log's last row and the last pledge, in a file beside the
 * database.
 *
 * SQLite ends a write-ahead log at the first frame whose checksum does not hold; a flipped bit there would silently
 * take acknowledged entries away. The mark is written after each commit, without an fsync: power loss may leave an
 * older one, never one that is ahead of the database. Where the log gets shorter on purpose it is cleared durably
 * before. Promises: torn or flipped marks are found (ERR_CORRUPT). Must never: be ahead of what is durable. */
#pragma once

#include "base/err.h"

#include <stdint.h>

struct mark {
	uint64_t index; /* 0: nothing is known */
	uint64_t hash;
	uint64_t pledge; /* term; 0: none is known */
};

/* Opens or makes it; *fd is the caller's. Fills *mark; all zero where it is new. */
int mark_open(const char *path, int *fd, struct mark *mark, struct err *err);
int mark_write(int fd, const struct mark *mark, struct err *err);
/* Durable when it returns. */
int mark_clear(int fd, struct err *err);
