/* SPDX-License-Identifier: Apache-2.0
 * The database of a store: its schema, its transactions and what it reads back. Used by one thread at a time.
 *
 * Promises: db_apply is all or nothing and durable when it returns; db_load gives back nothing that does not hold.
 * Must never: go on after a failure of db_apply (a failed fsync is not told twice by the kernel). */
#pragma once

#include "driver/sqlite/mark.h"
#include "port/store.h"

#include <sqlite3.h>

enum op_kind { OP_APPEND, OP_TRUNCATE, OP_INSTALL, OP_PLEDGE, OP_DROPPED, OP_NOTE };

struct op {
	struct op *next;
	enum op_kind kind;
	bool keep_log;
	char uuid[UUID_BYTES];
	uint64_t index; /* of DROPPED: above it, */
	uint64_t term;	/* up to this one */
	uint32_t number; /* of a NOTE */
	size_t size;
	uint8_t bytes[];
};

struct db {
	char path[PATH_BYTES + 16];
	sqlite3 *sqlite;
	sqlite3_stmt *append;
	sqlite3_stmt *truncate;
	sqlite3_stmt *install;
	sqlite3_stmt *forget;
	sqlite3_stmt *name;
	sqlite3_stmt *pledge;
	sqlite3_stmt *dropped;
	sqlite3_stmt *note;
	sqlite3_stmt *note_clear;
	sqlite3_stmt *note_drop;
	sqlite3_stmt *note_forget;
	int mark_fd;
	struct mark mark; /* as found at the start, then as written last */
	uint32_t keep_entries;
	uint64_t keep_bytes;
	uint32_t keep_lines;
	uint32_t lines_added; /* since the oldest were forgotten last */
	uint64_t first; /* index of the oldest entry; 0: none */
	uint64_t last;	/* of the log or the snapshot */
	uint64_t last_hash;
	uint64_t base;	  /* index of the snapshot */
	uint64_t bytes;	  /* in the entries */
	uint64_t pledged; /* term; 0: none yet */
	int wal_frames;	  /* that a checkpoint has to move */
};

/* Opens or makes DIR/store.db, upgrades it, and opens the mark. *db is to be closed also after a failure. */
int db_open(struct db *db, const char *dir, const char *vfs, const char *uuid, struct err *err);
void db_close(struct db *db);

/* Reads and judges everything. Before it returns, all that it told is durable, whatever a crash left unwritten. */
int db_load(struct db *db, const struct store_reader *reader, char uuid[UUID_BYTES], struct err *err);

/* One transaction. */
int db_apply(struct db *db, const struct op *first, struct err *err);

/* Moves what is in the write-ahead log into the database file, as far as no reader is in the way. */
int db_checkpoint(struct db *db, struct err *err);

/* A second connection, for the audit trail. */
int db_open_reader(const char *path, const char *vfs, sqlite3 **reader, struct err *err);
int db_read(sqlite3 *sqlite, const char *path, uint64_t from, uint32_t count, const struct store_reader *reader,
	struct err *err);

int db_read_lines(
	sqlite3 *sqlite, const char *path, uint64_t below, const struct store_reader *reader, struct err *err);

/* schema.c. Check: refuses a newer version and foreign files; *version 0 is a new file. Upgrade: brings an older or new
 * one to the version of this program, in one transaction. */
int schema_check(sqlite3 *sqlite, const char *path, int64_t *version, struct err *err);
int schema_upgrade(sqlite3 *sqlite, const char *path, int64_t version, struct err *err);

/* Shared by the files that do the above. */
uint64_t db_entry_hash(uint64_t index, uint64_t term, const void *bytes, size_t size);
uint64_t db_snapshot_hash(uint64_t index, uint64_t term, const void *bytes, size_t size);
uint64_t db_uuid_hash(const char *uuid);
uint64_t db_pledge_hash(uint64_t term);
uint64_t db_dropped_hash(uint64_t above, uint64_t last);
uint64_t db_line_hash(uint64_t index, uint32_t number, const void *bytes, size_t size);
int db_fail(sqlite3 *sqlite, const char *path, const char *what, struct err *err);
int db_exec(sqlite3 *sqlite, const char *path, const char *sql, struct err *err);
int db_prepare(sqlite3 *sqlite, const char *path, const char *sql, sqlite3_stmt **statement, struct err *err);
int db_put_uuid(struct db *db, const char *uuid, struct err *err);
int db_find_last(struct db *db, struct err *err); /* sets last and last_hash by what is stored */
int db_number(sqlite3 *sqlite, const char *path, const char *sql, int64_t *number, struct err *err);

static inline void cleanup_statement_(sqlite3_stmt **statement)
{
	sqlite3_finalize(*statement);
}
#define CLEANUP_STATEMENT CLEANUP(cleanup_statement_)
