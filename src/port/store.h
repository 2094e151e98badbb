/* SPDX-License-Identifier: Apache-2.0
 * A node's own durable memory: the log of events and a snapshot of the cluster. SQLite in the daemon.
 *
 * Writes are queued and made durable by store_flush, many by one fsync, off the loop's thread; `durable` tells how far.
 * Promises: after `durable(index)` all entries up to index survive kill -9 and power loss; entries are contiguous; what
 * store_load returns was durable or is a clean prefix of what was queued. What is queued between two calls of flush
 * becomes durable at once or not at all (one transaction), so that a truncate and what replaces it cannot be torn. A store
 * that is damaged, or of a newer schema, is refused with the reason, never half read.
 * Must never: block the loop on the disk; reorder; forget that a write failed (the first failure is final: `failed`). */
#pragma once

#include "base/err.h"
#include "model/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store_entry {
	uint64_t index;
	uint64_t term;
	const uint8_t *bytes; /* an encoded struct event */
	size_t size;
};

struct store_snapshot {
	uint64_t index; /* of the last event in it */
	uint64_t term;
	const uint8_t *bytes; /* an encoded struct cluster */
	size_t size;
};

/* One line of the audit trail: what came of a committed event, in words. */
struct store_line {
	uint64_t index;	 /* of the event */
	uint32_t number; /* of the line among those of this event, from 0 */
	const uint8_t *bytes;
	size_t size;
};

struct store_callbacks {
	void *ctx;
	/* Speaks of the log as the caller has made it by now: an entry that was truncated, or replaced by an install, since
	 * it was queued does not count, also where its write ended well. */
	void (*durable)(void *ctx, uint64_t index);
	/* This pledge is durable, with all that was queued before it. Told before `durable` of the same flush. */
	void (*pledged)(void *ctx, uint64_t term);
	void (*failed)(void *ctx, const struct err *err);
};

/* What store_load finds, in this order: the snapshot (if any), then the entries behind it. The bytes are gone after
 * each return. A callback that returns -1 stops the load. */
struct store_reader {
	void *ctx;
	int (*snapshot)(void *ctx, const struct store_snapshot *snapshot, struct err *err);
	int (*entry)(void *ctx, const struct store_entry *entry, struct err *err);
	/* First of all, if there ever was one; the last. May be NULL. */
	void (*pledge)(void *ctx, uint64_t term);
	/* Before the snapshot, if there is such a history. */
	void (*dropped)(void *ctx, uint64_t above, uint64_t last);
	/* Of `lines` alone. 1 ends the reading, well. */
	int (*line)(void *ctx, const struct store_line *line, struct err *err);
};

struct store;
struct store_ops {
	/* Blocking; at start only. Also gives the cluster uuid that was stored (empty: none yet). */
	int (*load)(struct store *store, const struct store_reader *reader, char uuid[UUID_BYTES], struct err *err);
	/* Queues one entry; index must be the last one + 1. */
	void (*append)(struct store *store, const struct store_entry *entry);
	/* Begins to make durable all that is queued. While one flush runs, another call is remembered and runs after. */
	void (*flush)(struct store *store);
	/* Queues: drop every entry with an index above `index` (a history that lost), and all after it. */
	void (*truncate)(struct store *store, uint64_t index);
	/* Queues: from now on this snapshot is the base. With keep_log the entries up to its index stay readable for the
	 * audit trail (own history, compaction); without, they are dropped (another member's history was taken). */
	void (*install)(struct store *store, const struct store_snapshot *snapshot, const char *uuid, bool keep_log);
	/* Queues: remember this number, a term that this node has taken part in, in place of the one before. */
	void (*pledge)(struct store *store, uint64_t term);
	/* Queues: remember that events above `above`, up to `last`, were committed here and are dropped, in place of what was
	 * said of that before; 0, 0: there are none. */
	void (*dropped)(struct store *store, uint64_t above, uint64_t last);
	/* Queues one line of the audit trail; number 0 replaces all that was there for this index. It is part of the next
	 * transaction and so never behind a snapshot that is installed after it. Not an entry's part: neither truncate nor
	 * install takes it away, only age does (the store's own bound), and a line without bytes: all lines from its index
	 * on go (they tell of a history that was dropped). */
	void (*note)(struct store *store, const struct store_line *line);
	/* Blocking and read-only: the audit trail backwards, the newest line below this index first. What was not flushed
	 * yet is not there. */
	int (*lines)(struct store *store, uint64_t below_index, const struct store_reader *reader, struct err *err);
	/* Blocking and read-only: entries from index on, at most count. Also those under a snapshot. */
	int (*read)(struct store *store, uint64_t from_index, uint32_t count, const struct store_reader *reader,
		struct err *err);
};

struct store {
	const struct store_ops *ops;
};
