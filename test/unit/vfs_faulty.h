/* SPDX-License-Identifier: Apache-2.0
 * A disk that fails on purpose, as a SQLite VFS named "faulty" around the system's own.
 *
 * Counts what changes the disk (write, truncate, sync, delete) and lets the N-th fail. For a loss of power it remembers
 * for each file what was synced and what was written since, and can leave the files as a disk might: what was synced,
 * and any part of the rest, by sectors. */
#pragma once

#include <stdbool.h>

enum faulty_mode {
	FAULTY_NONE,  /* count only */
	FAULTY_ONCE,  /* the N-th fails, the others work: the kernel tells a failed sync once */
	FAULTY_DEAD,  /* all from the N-th on */
	FAULTY_FULL,  /* as DEAD, but with SQLITE_FULL, and only what needs room */
	FAULTY_POWER, /* as DEAD; then call faulty_power_loss */
};

void faulty_register(void);
/* nth from 1. */
void faulty_arm(enum faulty_mode mode, unsigned nth);
unsigned faulty_count(void);
bool faulty_hit(void);
/* After the store is closed. Seeded: the same seed leaves the same part. */
void faulty_power_loss(unsigned seed);
