/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/sqlite/db.h"

#include <assert.h>

enum {
	FORGET_AT_ONCE = 256, /* entries */
	LINES_BETWEEN = 1024, /* lines of the trail that are added before the oldest are looked for */
};

/* Steps a statement to its end and makes it ready for the next use. */
static int finish(struct db *db, sqlite3_stmt *statement, const char *what, struct err *err)
{
	int rc;

	do
		rc = sqlite3_step(statement);
	while (rc == SQLITE_ROW);
	if (rc != SQLITE_DONE)
		db_fail(db->sqlite, db->path, what, err);
	sqlite3_reset(statement);
	sqlite3_clear_bindings(statement);
	return rc == SQLITE_DONE ? 0 : -1;
}

int db_put_uuid(struct db *db, const char *uuid, struct err *err)
{
	sqlite3_bind_text(db->name, 1, uuid, -1, SQLITE_STATIC);
	sqlite3_bind_int64(db->name, 2, (int64_t)db_uuid_hash(uuid));
	return finish(db, db->name, "cluster uuid", err);
}

/* Deletes all entries up to this index. */
static int forget(struct db *db, uint64_t index, struct err *err)
{
	int rc;

	if (!db->first || index < db->first)
		return 0;
	sqlite3_bind_int64(db->forget, 1, (int64_t)index);
	while ((rc = sqlite3_step(db->forget)) == SQLITE_ROW)
		db->bytes -= (uint64_t)sqlite3_column_int64(db->forget, 0);
	if (rc != SQLITE_DONE)
		db_fail(db->sqlite, db->path, "delete", err);
	sqlite3_reset(db->forget);
	db->first = index < db->last ? index + 1 : 0;
	return rc == SQLITE_DONE ? 0 : -1;
}

/* Bounds what is kept for the audit trail alone. What is above the snapshot is never touched, nor the last entry: the
 * mark may speak of it. */
static int forget_oldest(struct db *db, struct err *err)
{
	uint64_t limit = db->base < db->last ? db->base : db->last - 1;
	uint64_t index = db->last > db->keep_entries ? db->last - db->keep_entries : 0;

	if (forget(db, index < limit ? index : limit, err) < 0)
		return -1;
	while (db->bytes > db->keep_bytes && db->first && db->first <= limit) {
		index = db->first + FORGET_AT_ONCE - 1;
		if (forget(db, index < limit ? index : limit, err) < 0)
			return -1;
	}
	return 0;
}

static int apply_append(struct db *db, const struct op *op, struct err *err)
{
	uint64_t hash = db_entry_hash(op->index, op->term, op->bytes, op->size);

	sqlite3_bind_int64(db->append, 1, (int64_t)op->index);
	sqlite3_bind_int64(db->append, 2, (int64_t)op->term);
	sqlite3_bind_blob64(db->append, 3, op->bytes, op->size, SQLITE_STATIC);
	sqlite3_bind_int64(db->append, 4, (int64_t)hash);
	if (finish(db, db->append, "append", err) < 0)
		return -1;
	if (!db->first)
		db->first = op->index;
	db->last = op->index;
	db->last_hash = hash;
	db->bytes += op->size;
	return 0;
}

static int apply_truncate(struct db *db, const struct op *op, struct err *err)
{
	int rc;

	sqlite3_bind_int64(db->truncate, 1, (int64_t)op->index);
	while ((rc = sqlite3_step(db->truncate)) == SQLITE_ROW)
		db->bytes -= (uint64_t)sqlite3_column_int64(db->truncate, 0);
	if (rc != SQLITE_DONE)
		db_fail(db->sqlite, db->path, "truncate", err);
	sqlite3_reset(db->truncate);
	if (db->first > op->index)
		db->first = 0;
	return rc == SQLITE_DONE ? db_find_last(db, err) : -1;
}

static int apply_install(struct db *db, const struct op *op, struct err *err)
{
	uint64_t hash = db_snapshot_hash(op->index, op->term, op->bytes, op->size);

	sqlite3_bind_int64(db->install, 1, (int64_t)op->index);
	sqlite3_bind_int64(db->install, 2, (int64_t)op->term);
	sqlite3_bind_blob64(db->install, 3, op->bytes, op->size, SQLITE_STATIC);
	sqlite3_bind_int64(db->install, 4, (int64_t)hash);
	if (finish(db, db->install, "snapshot", err) < 0 || db_put_uuid(db, op->uuid, err) < 0)
		return -1;
	db->base = op->index;
	if (op->keep_log)
		return forget_oldest(db, err);
	if (forget(db, db->last, err) < 0)
		return -1;
	db->last = op->index;
	db->last_hash = hash;
	return 0;
}

static int apply_dropped(struct db *db, const struct op *op, struct err *err)
{
	sqlite3_bind_int64(db->dropped, 1, (int64_t)op->index);
	sqlite3_bind_int64(db->dropped, 2, (int64_t)op->term);
	sqlite3_bind_int64(db->dropped, 3, (int64_t)db_dropped_hash(op->index, op->term));
	return finish(db, db->dropped, "dropped history", err);
}

static int apply_pledge(struct db *db, const struct op *op, bool *shortens, struct err *err)
{
	*shortens |= op->term < db->pledged;
	db->pledged = op->term;
	sqlite3_bind_int64(db->pledge, 1, (int64_t)op->term);
	sqlite3_bind_int64(db->pledge, 2, (int64_t)db_pledge_hash(op->term));
	return finish(db, db->pledge, "pledge", err);
}

static int apply_note(struct db *db, const struct op *op, struct err *err)
{
	if (!op->size) {
		sqlite3_bind_int64(db->note_drop, 1, (int64_t)op->index);
		return finish(db, db->note_drop, "trail", err);
	}
	if (!op->number) {
		sqlite3_bind_int64(db->note_clear, 1, (int64_t)op->index);
		if (finish(db, db->note_clear, "trail", err) < 0)
			return -1;
	}
	sqlite3_bind_int64(db->note, 1, (int64_t)op->index);
	sqlite3_bind_int64(db->note, 2, op->number);
	sqlite3_bind_blob64(db->note, 3, op->bytes, op->size, SQLITE_STATIC);
	sqlite3_bind_int64(db->note, 4, (int64_t)db_line_hash(op->index, op->number, op->bytes, op->size));
	if (finish(db, db->note, "trail", err) < 0)
		return -1;
	if (++db->lines_added < LINES_BETWEEN)
		return 0;
	db->lines_added = 0;
	sqlite3_bind_int64(db->note_forget, 1, db->keep_lines);
	return finish(db, db->note_forget, "trail", err);
}

static int apply_all(struct db *db, const struct op *first, bool *shortens, struct err *err)
{
	for (const struct op *op = first; op; op = op->next) {
		switch (op->kind) {
		case OP_APPEND:
			if (apply_append(db, op, err) < 0)
				return -1;
			break;
		case OP_TRUNCATE:
			*shortens = true;
			if (apply_truncate(db, op, err) < 0)
				return -1;
			break;
		case OP_INSTALL:
			*shortens |= !op->keep_log;
			if (apply_install(db, op, err) < 0)
				return -1;
			break;
		case OP_PLEDGE:
			if (apply_pledge(db, op, shortens, err) < 0)
				return -1;
			break;
		case OP_DROPPED:
			if (apply_dropped(db, op, err) < 0)
				return -1;
			break;
		case OP_NOTE:
			if (apply_note(db, op, err) < 0)
				return -1;
			break;
		}
	}
	return 0;
}

int db_apply(struct db *db, const struct op *first, struct err *err)
{
	bool shortens = false;

	if (db_exec(db->sqlite, db->path, "BEGIN IMMEDIATE", err) < 0)
		return -1;
	if (apply_all(db, first, &shortens, err) < 0 || (shortens && mark_clear(db->mark_fd, err) < 0) ||
		db_exec(db->sqlite, db->path, "COMMIT", err) < 0) {
		sqlite3_exec(db->sqlite, "ROLLBACK", NULL, NULL, NULL);
		return -1;
	}
	db->mark = (struct mark){.index = db->last, .hash = db->last_hash, .pledge = db->pledged};
	return mark_write(db->mark_fd, &db->mark, err);
}

int db_checkpoint(struct db *db, struct err *err)
{
	int frames = 0;
	int moved = 0;
	int rc = sqlite3_wal_checkpoint_v2(db->sqlite, NULL, SQLITE_CHECKPOINT_PASSIVE, &frames, &moved);

	/* A reader in the way: what is left is moved the next time. */
	if (rc == SQLITE_BUSY)
		return 0;
	if (rc != SQLITE_OK)
		return db_fail(db->sqlite, db->path, "checkpoint", err);
	db->wal_frames = frames - moved;
	return 0;
}
