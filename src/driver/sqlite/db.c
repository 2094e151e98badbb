/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/sqlite/db.h"

#include "base/hash.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

enum {
	BUSY_MS = 5000, /* for somebody's sqlite3(1) on the file */
};

static uint64_t hash_of(uint64_t kind, uint64_t index, uint64_t term, const void *bytes, size_t size)
{
	const uint64_t head[] = {htole64(kind), htole64(index), htole64(term), htole64(size)};

	return hash64(bytes ? bytes : "", size, hash64(head, sizeof(head), 0));
}

uint64_t db_entry_hash(uint64_t index, uint64_t term, const void *bytes, size_t size)
{
	return hash_of(1, index, term, bytes, size);
}

uint64_t db_snapshot_hash(uint64_t index, uint64_t term, const void *bytes, size_t size)
{
	return hash_of(2, index, term, bytes, size);
}

uint64_t db_uuid_hash(const char *uuid)
{
	return hash_of(3, 0, 0, uuid, strlen(uuid));
}

uint64_t db_pledge_hash(uint64_t term)
{
	return hash_of(4, 0, term, NULL, 0);
}

uint64_t db_dropped_hash(uint64_t above, uint64_t last)
{
	return hash_of(6, above, last, NULL, 0);
}

uint64_t db_line_hash(uint64_t index, uint32_t number, const void *bytes, size_t size)
{
	return hash_of(5, index, number, bytes, size);
}

static enum err_code code_of(int code, int system_errno)
{
	switch (code & 0xff) {
	case SQLITE_FULL:
		return ERR_NO_SPACE;
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
		return system_errno == ENOSPC || system_errno == EDQUOT ? ERR_NO_SPACE : ERR_IO;
	case SQLITE_READONLY:
	case SQLITE_PERM:
		return ERR_IO;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return ERR_CORRUPT;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return ERR_BUSY;
	default:
		return ERR_SYSTEM;
	}
}

int db_fail(sqlite3 *sqlite, const char *path, const char *what, struct err *err)
{
	int code = sqlite3_extended_errcode(sqlite);
	int number = sqlite3_system_errno(sqlite);
	char reason[100];

	/* errno is set by failed calls only, and not cleared by others: it means something with these codes alone. */
	bool by_system =
		(code & 0xff) == SQLITE_IOERR || (code & 0xff) == SQLITE_CANTOPEN || (code & 0xff) == SQLITE_FULL;
	if (!by_system)
		number = 0;
	return err_set(err, code_of(code, number), "%s: %s: %s (SQLite %d%s%s)", path, what, sqlite3_errmsg(sqlite),
		code, number ? ", " : "", number ? strerror_r(number, reason, sizeof(reason)) : "");
}

int db_exec(sqlite3 *sqlite, const char *path, const char *sql, struct err *err)
{
	char what[24];

	if (sqlite3_exec(sqlite, sql, NULL, NULL, NULL) == SQLITE_OK)
		return 0;
	snprintf(what, sizeof(what), "%s", sql);
	return db_fail(sqlite, path, what, err);
}

int db_prepare(sqlite3 *sqlite, const char *path, const char *sql, sqlite3_stmt **statement, struct err *err)
{
	if (sqlite3_prepare_v3(sqlite, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, NULL) == SQLITE_OK)
		return 0;
	return db_fail(sqlite, path, "prepare", err);
}

int db_number(sqlite3 *sqlite, const char *path, const char *sql, int64_t *number, struct err *err)
{
	CLEANUP_STATEMENT sqlite3_stmt *statement = NULL;

	if (db_prepare(sqlite, path, sql, &statement, err) < 0)
		return -1;
	if (sqlite3_step(statement) != SQLITE_ROW)
		return db_fail(sqlite, path, sql, err);
	*number = sqlite3_column_int64(statement, 0);
	return 0;
}

/* PRAGMAs that answer with one word. */
static int expect_word(struct db *db, const char *sql, const char *word, struct err *err)
{
	CLEANUP_STATEMENT sqlite3_stmt *statement = NULL;

	if (db_prepare(db->sqlite, db->path, sql, &statement, err) < 0)
		return -1;
	if (sqlite3_step(statement) != SQLITE_ROW)
		return db_fail(db->sqlite, db->path, sql, err);
	const char *got = (const char *)sqlite3_column_text(statement, 0);
	if (!got || strcmp(got, word) != 0)
		return err_set(err, ERR_CORRUPT, "%s: %s: %.300s", db->path, sql, got ? got : "no answer");
	return 0;
}

static int on_wal(void *ctx, sqlite3 *sqlite, const char *name, int frames)
{
	struct db *db = ctx;

	(void)sqlite;
	(void)name;
	db->wal_frames = frames;
	return SQLITE_OK;
}

static int prepare_all(struct db *db, struct err *err)
{
	const struct {
		const char *sql;
		sqlite3_stmt **statement;
	} all[] = {
		{"INSERT INTO entry (idx, term, bytes, hash) VALUES (?, ?, ?, ?)", &db->append},
		{"DELETE FROM entry WHERE idx > ? RETURNING length(bytes)", &db->truncate},
		{"INSERT OR REPLACE INTO snapshot (id, idx, term, bytes, hash) VALUES (1, ?, ?, ?, ?)", &db->install},
		{"DELETE FROM entry WHERE idx <= ? RETURNING length(bytes)", &db->forget},
		{"INSERT OR REPLACE INTO cluster (id, uuid, hash) VALUES (1, ?, ?)", &db->name},
		{"INSERT OR REPLACE INTO pledge (id, term, hash) VALUES (1, ?, ?)", &db->pledge},
		{"INSERT OR REPLACE INTO dropped (id, above, last, hash) VALUES (1, ?, ?, ?)", &db->dropped},
		{"INSERT OR REPLACE INTO trail (idx, n, bytes, hash) VALUES (?, ?, ?, ?)", &db->note},
		{"DELETE FROM trail WHERE idx = ?", &db->note_clear},
		{"DELETE FROM trail WHERE idx >= ?", &db->note_drop},
		{"DELETE FROM trail WHERE idx < (SELECT idx FROM trail ORDER BY idx DESC, n DESC LIMIT 1 OFFSET ?)",
			&db->note_forget},
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (db_prepare(db->sqlite, db->path, all[i].sql, all[i].statement, err) < 0)
			return -1;
	return 0;
}

/* Made here and not by SQLite, for its mode; synced, since SQLite syncs the directory for its log alone. */
static int make_file(const char *dir, const char *path, struct err *err)
{
	CLEANUP_FD int folder = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CLEANUP_FD int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (folder < 0 || file < 0)
		return err_errno(err, errno, "%s", folder < 0 ? dir : path);
	if (fsync(file) < 0 || fsync(folder) < 0)
		return err_errno(err, errno, "fsync of %s", dir);
	return 0;
}

/* quick_check comes before the upgrade, which would otherwise spread what is damaged; and nothing is written into a
 * file that may not be ours. */
static int set_up(struct db *db, const char *uuid, struct err *err)
{
	int64_t version;

	sqlite3_busy_timeout(db->sqlite, BUSY_MS);
	if (schema_check(db->sqlite, db->path, &version, err) < 0 ||
		(version && expect_word(db, "PRAGMA quick_check(1)", "ok", err) < 0))
		return -1;
	if (db_exec(db->sqlite, db->path,
		    "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; PRAGMA temp_store=MEMORY;"
		    "PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF; PRAGMA mmap_size=0",
		    err) < 0 ||
		expect_word(db, "PRAGMA journal_mode=WAL", "wal", err) < 0)
		return -1;
	sqlite3_wal_hook(db->sqlite, on_wal, db);
	if (schema_upgrade(db->sqlite, db->path, version, err) < 0 || prepare_all(db, err) < 0)
		return -1;
	/* A store that is empty but once was not is refused by db_load; its new name changes nothing in that. */
	return !version && uuid ? db_put_uuid(db, uuid, err) : 0;
}

int db_open(struct db *db, const char *dir, const char *vfs, const char *uuid, struct err *err)
{
	char mark_path[sizeof(db->path)];
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;

	snprintf(db->path, sizeof(db->path), "%s/store.db", dir);
	snprintf(mark_path, sizeof(mark_path), "%s/store.mark", dir);
	if (make_file(dir, db->path, err) < 0)
		return -1;
	if (sqlite3_open_v2(db->path, &db->sqlite, flags, vfs) != SQLITE_OK)
		return db_fail(db->sqlite, db->path, "open", err);
	if (set_up(db, uuid, err) < 0)
		return -1;
	return mark_open(mark_path, &db->mark_fd, &db->mark, err);
}

void db_close(struct db *db)
{
	sqlite3_finalize(db->append);
	sqlite3_finalize(db->truncate);
	sqlite3_finalize(db->install);
	sqlite3_finalize(db->forget);
	sqlite3_finalize(db->name);
	sqlite3_finalize(db->pledge);
	sqlite3_finalize(db->dropped);
	sqlite3_finalize(db->note);
	sqlite3_finalize(db->note_clear);
	sqlite3_finalize(db->note_drop);
	sqlite3_finalize(db->note_forget);
	sqlite3_close(db->sqlite);
	if (db->mark_fd >= 0)
		close(db->mark_fd);
}
