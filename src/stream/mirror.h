/* SPDX-License-Identifier: Apache-2.0
 * A small file that is built in memory and brought to disk in pieces: only the 4 KiB chunks that changed since the last
 * flush are written, so that the last flush, with the guest stopped, has little to do.
 *
 * One thread at a time. Must never: write a chunk that did not change, or outgrow its capacity. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mirror {
	int fd;		  /* borrowed; -1: memory only */
	const char *name; /* for errors */
	uint8_t *bytes;
	size_t size;
	size_t capacity;
	uint64_t *dirty;  /* one bit a chunk */
	uint64_t written; /* bytes, over all flushes */
};

int mirror_init(struct mirror *mirror, int fd, const char *name, size_t capacity, struct err *err);
void mirror_fini(struct mirror *mirror);

/* Grows the file. Fails with ERR_UNFIT at the capacity. */
int mirror_append(struct mirror *mirror, const void *bytes, size_t size, struct err *err);
/* Changes bytes that are there; marks only chunks whose content really changes. */
void mirror_set(struct mirror *mirror, size_t offset, const void *bytes, size_t size);

/* Writes what changed and asks the kernel to begin writing it back; durable only after an fsync by the caller. */
int mirror_flush(struct mirror *mirror, struct err *err);
