/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/sqlite/db.h"

#include <assert.h>
#include <string.h>

struct row {
	uint64_t index;
	uint64_t term;
	const void *bytes;
	size_t size;
	uint64_t hash;
};

/* Of a statement that gives idx, term, bytes, hash. */
static struct row row_of(sqlite3_stmt *statement)
{
	/* The order matters: the size is that of the blob once it has been asked for. */
	struct row row = {.bytes = sqlite3_column_blob(statement, 2)};

	row.index = (uint64_t)sqlite3_column_int64(statement, 0);
	row.term = (uint64_t)sqlite3_column_int64(statement, 1);
	row.size = (size_t)sqlite3_column_bytes(statement, 2);
	row.hash = (uint64_t)sqlite3_column_int64(statement, 3);
	return row;
}

int db_find_last(struct db *db, struct err *err)
{
	CLEANUP_STATEMENT sqlite3_stmt *statement = NULL;
	/* Of a log that ends with the snapshot, the entry comes first. */
	const char *sql = "SELECT idx, hash, 0 AS class FROM (SELECT * FROM entry ORDER BY idx DESC LIMIT 1)"
			  " UNION ALL SELECT idx, hash, 1 FROM snapshot ORDER BY idx DESC, class LIMIT 1";

	if (db_prepare(db->sqlite, db->path, sql, &statement, err) < 0)
		return -1;
	int rc = sqlite3_step(statement);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return db_fail(db->sqlite, db->path, "last entry", err);
	db->last = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(statement, 0) : 0;
	db->last_hash = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(statement, 1) : 0;
	return 0;
}

static int load_uuid(struct db *db, char uuid[UUID_BYTES], struct err *err)
{
	CLEANUP_STATEMENT sqlite3_stmt *statement = NULL;

	uuid[0] = 0;
	if (db_prepare(db->sqlite, db->path, "SELECT uuid, hash FROM cluster", &statement, err) < 0)
		return -1;
	int rc = sqlite3_step(statement);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc != SQLITE_ROW)
		return db_fail(db->sqlite, db->path, "cluster uuid", err);
	const char *text = (const char *)sqlite3_column_text(statement, 0);
	if (!text || strlen(text) >= UUID_BYTES || db_uuid_hash(text) != (uint64_t)sqlite3_column_int64(statement, 1))
		return err_set(err, ERR_CORRUPT, "%s: the cluster uuid's checksum does not hold", db->path);
	snprintf(uuid, UUID_BYTES, "%s", text);
	return 0;
}

static int load_pledge(struct db *db, const struct store_reader *reader, struct err *err)
{
	CLEANUP_STATEMENT sqlite3_stmt *statement = NULL;

	if (db_prepare(db->sqlite, db->path, "SELECT term, hash FROM pledge", &statement, err) < 0)
		return -1;
	int rc = sqlite3_step(statement);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc != SQLITE_ROW)
		return db_fail(db->sqlite, db->path, "pledge", err);
	uint64_t term = (uint64_t)sqlite3_column_int64(statement, 0);
	if (db_pledge_hash(term) != (uint64_t)sqlite3_column_int64(statement, 1))
		return err_set(err, ERR_CORRUPT, "%s: the pledge's checksum does not hold", db->path);
	db->pledged = term;
	if (reader->pledge)
		reader->pledge(reader->ctx, term);
	return 0;
}

static int load_dropped(struct db *db, const struct store_reader *reader, struct err *err)
{
	CLEANUP_STATEMENT sqlite3_stmt *statement = NULL;

	if (db_prepare(db->sqlite, db->path, "SELECT above, last, hash FROM dropped", &statement, err) < 0)
		return -1;
	int rc = sqlite3_step(statement);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc != SQLITE_ROW)
		return db_fail(db->sqlite, db->path, "dropped history", err);
	uint64_t above = (uint64_t)sqlite3_column_int64(statement, 0);
	uint64_t last = (uint64_t)sqlite3_column_int64(statement, 1);
	if (db_dropped_hash(above, last) != (uint64_t)sqlite3_column_int64(statement, 2))
		return err_set(err, ERR_CORRUPT, "%s: the checksum of what was dropped does not hold", db->path);
	if (last && reader->dropped)
		reader->dropped(reader->ctx, above, last);
	return 0;
}

static int load_snapshot(struct db *db, const struct store_reader *reader, bool *marked, struct err *err)
{
	CLEANUP_STATEMENT sqlite3_stmt *statement = NULL;

	if (db_prepare(db->sqlite, db->path, "SELECT idx, term, bytes, hash FROM snapshot", &statement, err) < 0)
		return -1;
	int rc = sqlite3_step(statement);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc != SQLITE_ROW)
		return db_fail(db->sqlite, db->path, "snapshot", err);
	struct row row = row_of(statement);
	if (row.hash != db_snapshot_hash(row.index, row.term, row.bytes, row.size))
		return err_set(err, ERR_CORRUPT, "%s: the snapshot's checksum does not hold", db->path);
	db->base = row.index;
	*marked |= db->mark.index == row.index && db->mark.hash == row.hash;
	struct store_snapshot snapshot = {.index = row.index, .term = row.term, .bytes = row.bytes, .size = row.size};
	return reader->snapshot(reader->ctx, &snapshot, err);
}

static int load_entry(
	struct db *db, const struct row *row, const struct store_reader *reader, bool *marked, struct err *err)
{
	unsigned long long index = row->index;

	if (row->hash != db_entry_hash(row->index, row->term, row->bytes, row->size))
		return err_set(
			err, ERR_CORRUPT, "%s: entry %llu: its checksum does not hold", db->path, index);
	if (db->last && row->index != db->last + 1)
		return err_set(err, ERR_CORRUPT, "%s: entry %llu follows entry %llu", db->path, index,
			(unsigned long long)db->last);
	/* Beyond the snapshot, or without one: something before it is gone. */
	if (!db->last && (row->index > db->base + 1 || !row->index))
		return err_set(err, ERR_CORRUPT, "%s: the log begins at entry %llu, the snapshot ends at %llu",
			db->path, index, (unsigned long long)db->base);
	if (!db->first)
		db->first = row->index;
	db->last = row->index;
	db->bytes += row->size;
	*marked |= db->mark.index == row->index && db->mark.hash == row->hash;
	if (row->index <= db->base)
		return 0;
	struct store_entry entry = {.index = row->index, .term = row->term, .bytes = row->bytes, .size = row->size};
	return reader->entry(reader->ctx, &entry, err);
}

static int load_entries(struct db *db, const struct store_reader *reader, bool *marked, struct err *err)
{
	CLEANUP_STATEMENT sqlite3_stmt *statement = NULL;
	int rc;

	if (db_prepare(db->sqlite, db->path, "SELECT idx, term, bytes, hash FROM entry ORDER BY idx", &statement, err) <
		0)
		return -1;
	while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
		struct row row = row_of(statement);
		if (load_entry(db, &row, reader, marked, err) < 0)
			return -1;
	}
	if (rc != SQLITE_DONE)
		return db_fail(db->sqlite, db->path, "entries", err);
	if (db->last && db->last < db->base)
		return err_set(err, ERR_CORRUPT, "%s: the log ends at entry %llu, below the snapshot's %llu",
			db->path, (unsigned long long)db->last, (unsigned long long)db->base);
	return 0;
}

int db_load(struct db *db, const struct store_reader *reader, char uuid[UUID_BYTES], struct err *err)
{
	bool marked = false;

	/* What a process that was killed had written but not synced is read from memory as if it were on disk. Moving
	 * it into the database file syncs both (and is done by SQLite again and again until that works). */
	int rc = sqlite3_wal_checkpoint_v2(db->sqlite, NULL, SQLITE_CHECKPOINT_RESTART, NULL, NULL);
	if (rc != SQLITE_OK)
		return db_fail(db->sqlite, db->path, "checkpoint", err);
	db->wal_frames = 0;
	if (load_uuid(db, uuid, err) < 0 || load_pledge(db, reader, err) < 0 || load_dropped(db, reader, err) < 0 ||
		load_snapshot(db, reader, &marked, err) < 0 || load_entries(db, reader, &marked, err) < 0)
		return -1;
	/* A mark that is older than the oldest entry kept says nothing more. */
	bool passed = db->first ? db->mark.index < db->first : db->mark.index < db->base;
	if (db->mark.index && !marked && !passed)
		return err_set(err, ERR_CORRUPT,
			"%s: entry %llu was durable and is gone, the log ends at %llu", db->path,
			(unsigned long long)db->mark.index, (unsigned long long)(db->last ? db->last : db->base));
	if (db->mark.pledge > db->pledged)
		return err_set(err, ERR_CORRUPT, "%s: term %llu was pledged and is gone", db->path,
			(unsigned long long)db->mark.pledge);
	return db_find_last(db, err);
}

int db_open_reader(const char *path, const char *vfs, sqlite3 **reader, struct err *err)
{
	sqlite3 *sqlite = NULL;
	int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;

	if (sqlite3_open_v2(path, &sqlite, flags, vfs) != SQLITE_OK) {
		db_fail(sqlite, path, "open", err);
		sqlite3_close(sqlite);
		return -1;
	}
	sqlite3_busy_timeout(sqlite, 1000);
	*reader = sqlite;
	return 0;
}

int db_read(sqlite3 *sqlite, const char *path, uint64_t from, uint32_t count, const struct store_reader *reader,
	struct err *err)
{
	CLEANUP_STATEMENT sqlite3_stmt *statement = NULL;
	int rc;

	if (db_prepare(sqlite, path, "SELECT idx, term, bytes, hash FROM entry WHERE idx >= ? ORDER BY idx LIMIT ?",
		    &statement, err) < 0)
		return -1;
	sqlite3_bind_int64(statement, 1, from > INT64_MAX ? INT64_MAX : (int64_t)from);
	sqlite3_bind_int64(statement, 2, count);
	while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
		struct row row = row_of(statement);
		struct store_entry entry = {.index = row.index, .term = row.term, .bytes = row.bytes, .size = row.size};
		if (row.hash != db_entry_hash(row.index, row.term, row.bytes, row.size))
			return err_set(err, ERR_CORRUPT, "%s: entry %llu: its checksum does not hold", path,
				(unsigned long long)row.index);
		if (reader->entry(reader->ctx, &entry, err) < 0)
			return -1;
	}
	return rc == SQLITE_DONE ? 0 : db_fail(sqlite, path, "read", err);
}

int db_read_lines(
	sqlite3 *sqlite, const char *path, uint64_t below, const struct store_reader *reader, struct err *err)
{
	CLEANUP_STATEMENT sqlite3_stmt *statement = NULL;
	int rc;

	if (db_prepare(sqlite, path,
		    "SELECT idx, n, bytes, hash FROM trail WHERE idx < ? ORDER BY idx DESC, n DESC", &statement, err) < 0)
		return -1;
	sqlite3_bind_int64(statement, 1, below > INT64_MAX ? INT64_MAX : (int64_t)below);
	while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
		struct row row = row_of(statement);
		struct store_line line = {
			.index = row.index, .number = (uint32_t)row.term, .bytes = row.bytes, .size = row.size};
		if (row.hash != db_line_hash(line.index, line.number, line.bytes, line.size))
			return err_set(err, ERR_CORRUPT, "%s: line %u of entry %llu: its checksum does not hold", path,
				line.number, (unsigned long long)line.index);
		int more = reader->line(reader->ctx, &line, err);
		if (more)
			return more < 0 ? -1 : 0;
	}
	return rc == SQLITE_DONE ? 0 : db_fail(sqlite, path, "read the trail", err);
}
