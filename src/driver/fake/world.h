/* SPDX-License-Identifier: Apache-2.0
 * What is true of the guests: which copies of each exist, which of them executes, where their memory comes from, and
 * which saved states lie on the shared storage. No node of the simulated cluster can see it; the checkers can.
 *
 * A guest's disks have a generation that rises whenever a copy begins to execute. A stopped copy, or a saved state, fits
 * its disks as long as the generation is the one at which it was stopped.
 *
 * Promises: records, never judges, never prevents. Tells its observer of each change while it happens. */
#pragma once

#include "driver/fake/timeline.h"
#include "model/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct world_guest {
	char vm[UUID_BYTES];
	char name[NAME_BYTES];
	uint64_t disk_generation;
	uint64_t boots; /* cold starts so far; the last one's number is the identity of the memory that it began */
	struct world_copy *copies; /* of this guest, the newest first */
	struct world_guest *next;  /* of the world's table */
};

/* A guest's memory on the shared storage, <vm>/<task>. */
struct world_state {
	struct world_guest *guest;
	uint64_t task;
	uint64_t epoch;
	uint32_t node; /* that wrote it */
	uint64_t boot;
	uint64_t disk_generation; /* at which the guest was stopped; 0: it is running still */
	bool complete;		  /* the manifest is durable */
	bool corrupt;
	uint32_t resumes;
	uint32_t failed_loads; /* for reasons other than the node's */
	struct world_state *next;
};

enum world_begin {
	WORLD_BOOT,   /* from its disks */
	WORLD_RESUME, /* from a saved state */
	WORLD_GO_ON,  /* was stopped, as a copy that was being saved or is saved */
};

/* One QEMU with this guest in it, from the moment when it executes for the first time. */
struct world_copy {
	struct world_guest *guest;
	uint32_t node;
	uint64_t epoch;
	uint64_t boot;		   /* identity of its memory */
	uint64_t disk_generation;  /* when it began to execute last */
	struct world_state *state; /* it was resumed from, or NULL: booted, or the state is deleted */
	uint64_t state_task;	   /* the same as a number that stays */
	bool executes;
	bool filling; /* reads pages of state still */
	bool hangs; /* its QEMU does nothing; whoever looks after it kills it in time */
	bool dead;
	uint64_t began_us, stopped_us; /* executing, last */
	uint64_t died_us;
	char boot_id[UUID_BYTES]; /* of its node, when it began first; the observer's to fill in */
	struct world_copy *next;
	struct world_copy *next_of_guest;
};

struct world_observer {
	void *ctx;
	/* Called after the change; of begins: state is what is resumed. fits: the memory fits the disks. */
	void (*begins)(void *ctx, struct world_copy *copy, enum world_begin how, bool fits);
	void (*stops)(void *ctx, const struct world_copy *copy, const char *why);
	void (*sealed)(void *ctx, const struct world_state *state);
	void (*deleted)(void *ctx, const struct world_state *state, const struct world_copy *reader);
};

struct world;
struct world *world_new(struct timeline *timeline, const struct world_observer *observer);
void world_free(struct world *world);

/* Of a VM's uuid, for tables of them. */
uint64_t world_hash(const char *vm);

struct world_guest *world_guest(struct world *world, const char *vm, const char *name); /* made when new */
const struct world_guest *world_find(const struct world *world, const char *vm);
const struct world_copy *world_copies(const struct world *world);
/* The VM's copies, by next_of_guest; and the one that executes, the newest where there are two. NULL: there is none. */
const struct world_copy *world_copies_of(const struct world *world, const char *vm);
const struct world_copy *world_executing(const struct world *world, const char *vm);
const struct world_state *world_states(const struct world *world);
struct world_state *world_state(struct world *world, const char *vm, uint64_t task); /* NULL: there is none */

/* Copies. The pointers stay valid for the world's life. */
struct world_copy *world_boot(struct world *world, struct world_guest *guest, uint32_t node, uint64_t epoch);
struct world_copy *world_resume(struct world *world, struct world_state *state, uint32_t node, uint64_t epoch,
	bool filling);
void world_stop(struct world *world, struct world_copy *copy, const char *why);
void world_go_on(struct world *world, struct world_copy *copy, uint64_t epoch);
void world_die(struct world *world, struct world_copy *copy, const char *why); /* takes NULL, and the dead */
void world_filled(struct world *world, struct world_copy *copy);

/* Saved states. Beginning one replaces what an earlier attempt left there. */
struct world_state *world_state_begin(struct world *world, const struct world_copy *copy, uint64_t task);
void world_state_seal(struct world *world, struct world_state *state, const struct world_copy *copy);
void world_state_delete(struct world *world, struct world_state *state);
