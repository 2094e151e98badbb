/* SPDX-License-Identifier: Apache-2.0
 * The four files of a saved state, reached through the directory's descriptor and their fixed names alone.
 * Must never: follow a link, or open anything that is not a regular file. */
#pragma once

#include "base/err.h"
#include "stream/manifest.h"

struct state_files {
	int ram, device, sums;
};
#define STATE_FILES_NONE                                                                                               \
	(struct state_files)                                                                                           \
	{                                                                                                              \
		-1, -1, -1                                                                                             \
	}

/* New, empty files, 0600; `ram` and `sums` have their full size, all holes. Room for all of `ram` is reserved:
 * ERR_NO_SPACE with the figures when there is not enough. Where the file system cannot reserve, used_bytes must be
 * free. */
int state_create(int dir, uint64_t ram_bytes, uint64_t used_bytes, struct state_files *files, struct err *err);
void state_close(struct state_files *files);
/* Takes away what a save that failed has left. */
void state_remove(int dir);

/* Writes the manifest so that it is there whole or not at all, and durable. */
int state_write_manifest(int dir, const struct manifest *manifest, json_t *facts, struct err *err);

/* Opens for reading; the manifest is decoded, the files have the sizes that it says. *facts: a new reference. */
int state_open(int dir, struct state_files *files, struct manifest *manifest, json_t **facts, struct err *err);

/* Gives back the reserved room of pages that are zero. Bytes given back, as far as the file system can. */
uint64_t state_trim(const struct state_files *files, const uint8_t *sums, uint64_t pages);
