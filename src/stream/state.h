/* SPDX-License-Identifier: Apache-2.0
 * A saved state that was found whole: everything that a load needs, checked before a byte is sent.
 *
 * What may be in the directory: anything. Sizes, counts and sums are checked against the manifest, the manifest against
 * itself, the device file by the parser that reads QEMU's own stream; then the sums against the device file.
 * Must never: change the state. */
#pragma once

#include "stream/device_image.h"
#include "stream/manifest.h"
#include "stream/room.h"
#include "stream/state_dir.h"

#include <stdatomic.h>

struct state {
	int dir;	   /* borrowed */
	struct room *room; /* borrowed; NULL: none. For what grows with the memory */
	struct state_files files;
	struct manifest manifest;
	json_t *facts;
	uint8_t *sums; /* the file's bytes */
	uint64_t pages;
	struct device_image image; /* the device file, and where each small page lies in it */
	bool have_image;
	size_t start_at; /* in the image: where ram's start section begins */
	size_t end_at;	 /* where ram's end section begins; it takes the bytes up to manifest.tail_at */
};

/* expect: members that the facts must have with equal values; NULL: none. ram_bytes: what the main block must have, so
 * that a manifest cannot make us take memory for terabytes of holes. ERR_CORRUPT, ERR_UNFIT or what the system said;
 * *state is then void. */
int state_load(int dir, const json_t *expect, uint64_t ram_bytes, struct state *state, struct err *err);
/* The same in two steps, for a QEMU that has work to do while the sums are read and checked: after the first one
 * state->sums is NULL, and the state not yet known to be whole; its room may be set in between. */
int state_load_devices(int dir, const json_t *expect, uint64_t ram_bytes, struct state *state, struct err *err);
int state_load_sums(struct state *state, struct err *err);
void state_fini(struct state *state);

/* Reads every page that is not zero and compares its sum. done counts pages as it goes; ends early when *stop. */
int state_verify_ram(const struct state *state, _Atomic uint64_t *done, const atomic_bool *stop, struct err *err);

/* One page, read and compared. ERR_CORRUPT when the sum does not hold. */
int state_read_page(const struct state *state, int ram_fd, uint64_t index, uint8_t *page, struct err *err);
