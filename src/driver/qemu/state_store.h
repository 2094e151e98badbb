/* SPDX-License-Identifier: Apache-2.0
 * The directories of saved states on shared storage, <state>/<vm uuid>/<task>/. What is in them is watari-stream's.
 *
 * All of it may block on dead storage: for a job's process only. Directories are returned open, the caller's, or as -1.
 * Must never: follow a link; delete anything but the known files of a saved state, or by a name that is not a number. */
#pragma once

#include "base/err.h"

#include <stdint.h>

/* Opens the directory of a state that is there. */
int state_store_open(const char *state_dir, const char *vm, uint64_t task, struct err *err);

/* The directory of a state that the source of a move will write, made if it is not there: so both sides can begin. */
int state_store_make(const char *state_dir, const char *vm, uint64_t task, uint32_t owner, struct err *err);

/* An empty directory for a new state, the owner's (a user id; 0: it stays the daemon's), with room for `bytes`; litter
 * of an attempt that did not end is removed. ERR_EXISTS when there is a whole state already, ERR_NO_SPACE with the figures. */
int state_store_create(const char *state_dir, const char *vm, uint64_t task, uint32_t owner, uint64_t bytes,
	struct err *err);

/* Deletes the states of tasks below `below`, but that of `keep`. What is not ours is left and makes the result an error. */
int state_store_purge(const char *state_dir, const char *vm, uint64_t keep, uint64_t below, struct err *err);
