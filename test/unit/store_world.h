/* SPDX-License-Identifier: Apache-2.0
 * What the tests of the store share: a store on a loop, in a directory of its own, whose entries say who they are.
 *
 * Entry i of term t has bytes that follow from (i, t) alone, so that what comes back can be judged without a copy. */
#pragma once

#include "driver/linux/loop_sd.h"
#include "driver/sqlite/store_sqlite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct world {
	char dir[64];
	struct loop *loop;
	struct store *store;
	struct store_sqlite_config config;
	uint64_t durable;
	int durables;
	int failures;
	struct err failure;
	uint64_t awaited;
	/* What load or read gave. */
	char uuid[UUID_BYTES];
	uint64_t snapshot;
	uint64_t snapshot_term;
	uint64_t first;
	uint64_t last;
	uint64_t last_term;
	uint64_t pledge;  /* as loaded */
	uint64_t pledged; /* as told */
	uint64_t dropped_above, dropped_last; /* as loaded */
};

#define UUID_A "0b7b0b1e-54c4-4a1c-9c3a-0f6d3c9a4a01"
#define UUID_B "0b7b0b1e-54c4-4a1c-9c3a-0f6d3c9a4a02"

void world_init(struct world *world);
void world_fini(struct world *world); /* removes the directory */
void world_empty_dir(const char *dir);

/* Open and load; -1 and err when either refuses. */
int world_open(struct world *world, struct err *err);
void world_must_open(struct world *world);
void world_close(struct world *world);
struct store_reader world_reader(struct world *world);

void world_append(struct world *world, uint64_t from, uint64_t to, uint64_t term);
void world_install(struct world *world, uint64_t index, uint64_t term, size_t size, bool keep_log);
/* Flushes and runs the loop until that index is durable, or the store has failed. At most 20 s. */
void world_flush(struct world *world, uint64_t index);
/* Until a durable that is awaited, or the store's failure. */
void world_wait(struct world *world);
void world_must_flush(struct world *world, uint64_t index);
