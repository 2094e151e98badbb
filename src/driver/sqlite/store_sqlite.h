/* SPDX-License-Identifier: Apache-2.0
 * port/store.h on SQLite: DIR/store.db in WAL mode, synchronous=FULL, written by one thread that owns the connection.
 *
 * Group commit: what is flushed while a transaction runs goes into the next one. Each row carries a hash of its content
 * (SQLite checks its structure, not the content), and DIR/store.mark says how far the log was durable, since SQLite
 * takes a damaged write-ahead log for one that ends there. Three levels so find a flipped bit: PRAGMA quick_check, the
 * rows' hashes and their contiguity, the mark.
 *
 * Promises: those of port/store.h. Each flush is answered by `durable`, also one that had nothing to do. A second
 * process with the same directory is refused. The log under the snapshot stays readable, bounded by count and size.
 * Must never: repair. A damaged store is refused with the reason; the other nodes have a copy. */
#pragma once

#include "port/loop.h"
#include "port/store.h"

enum {
	STORE_KEEP_ENTRIES = 100 * 1000,
	STORE_KEEP_BYTES = 64 << 20,
	STORE_KEEP_LINES = 50 * 1000, /* of the audit trail: some 10 MiB; the oldest go, 1,024 at a time */
	STORE_QUEUE_BYTES = 512 << 20, /* waiting for the disk; more is a disk that has failed */
};

struct store_sqlite_config {
	const char *dir; /* is made when absent; its parent must be there */
	/* Written into a new store and told by load: the next start under another cluster's uuid is found out. May be
	 * NULL. */
	const char *uuid;
	uint32_t keep_entries; /* under the snapshot; 0: STORE_KEEP_ENTRIES */
	uint64_t keep_bytes;   /* 0: STORE_KEEP_BYTES */
	uint32_t keep_lines;   /* of the audit trail; 0: STORE_KEEP_LINES */
	const char *vfs;       /* NULL: the system's; for tests */
};

/* Opens or makes it, and upgrades an older schema. ERR_BUSY: in use by another process. ERR_CORRUPT, ERR_INVALID (a
 * newer schema, or not ours), ERR_IO, ERR_NO_SPACE: the text says what and what to do. The callbacks are called on the
 * loop, and only after load. */
struct store *store_sqlite_open(const struct store_sqlite_config *config, struct loop *loop,
	const struct store_callbacks *callbacks, struct err *err);

/* Waits until what was flushed is durable, or has failed; what was not flushed is dropped. Takes NULL. */
void store_sqlite_close(struct store *store);
