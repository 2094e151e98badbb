/* SPDX-License-Identifier: Apache-2.0
 * The schema's versions. A new file goes through all steps, so that each step is run by every test. */
#include "driver/sqlite/db.h"

#include <string.h>

enum {
	APPLICATION_ID = 0x77746172, /* "wtar": file(1) and we know whose file it is */
};

typedef int step_fn(sqlite3 *sqlite, const char *path, struct err *err);

static int step_tables(sqlite3 *sqlite, const char *path, struct err *err)
{
	return db_exec(sqlite, path,
		"CREATE TABLE entry (idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, bytes BLOB NOT NULL) STRICT;"
		"CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), idx INTEGER NOT NULL,"
		" term INTEGER NOT NULL, bytes BLOB NOT NULL) STRICT;"
		"CREATE TABLE cluster (id INTEGER PRIMARY KEY CHECK (id = 1), uuid TEXT NOT NULL) STRICT;",
		err);
}

static void sql_entry_hash(sqlite3_context *context, int count, sqlite3_value **values)
{
	uint64_t index = (uint64_t)sqlite3_value_int64(values[0]);
	uint64_t term = (uint64_t)sqlite3_value_int64(values[1]);
	const void *bytes = sqlite3_value_blob(values[2]);

	(void)count;
	sqlite3_result_int64(
		context, (int64_t)db_entry_hash(index, term, bytes, (size_t)sqlite3_value_bytes(values[2])));
}

static void sql_snapshot_hash(sqlite3_context *context, int count, sqlite3_value **values)
{
	uint64_t index = (uint64_t)sqlite3_value_int64(values[0]);
	uint64_t term = (uint64_t)sqlite3_value_int64(values[1]);
	const void *bytes = sqlite3_value_blob(values[2]);

	(void)count;
	sqlite3_result_int64(
		context, (int64_t)db_snapshot_hash(index, term, bytes, (size_t)sqlite3_value_bytes(values[2])));
}

static void sql_uuid_hash(sqlite3_context *context, int count, sqlite3_value **values)
{
	const char *uuid = (const char *)sqlite3_value_text(values[0]);

	(void)count;
	sqlite3_result_int64(context, (int64_t)db_uuid_hash(uuid ? uuid : ""));
}

/* SQLite guards the structure of its pages, not what is in them. */
static int step_hashes(sqlite3 *sqlite, const char *path, struct err *err)
{
	const int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_DIRECTONLY;

	if (sqlite3_create_function(sqlite, "entry_hash", 3, flags, NULL, sql_entry_hash, NULL, NULL) ||
		sqlite3_create_function(sqlite, "snapshot_hash", 3, flags, NULL, sql_snapshot_hash, NULL, NULL) ||
		sqlite3_create_function(sqlite, "uuid_hash", 1, flags, NULL, sql_uuid_hash, NULL, NULL))
		return db_fail(sqlite, path, "upgrade", err);
	return db_exec(sqlite, path,
		"ALTER TABLE entry ADD COLUMN hash INTEGER NOT NULL DEFAULT 0;"
		"ALTER TABLE snapshot ADD COLUMN hash INTEGER NOT NULL DEFAULT 0;"
		"ALTER TABLE cluster ADD COLUMN hash INTEGER NOT NULL DEFAULT 0;"
		"UPDATE entry SET hash = entry_hash(idx, term, bytes);"
		"UPDATE snapshot SET hash = snapshot_hash(idx, term, bytes);"
		"UPDATE cluster SET hash = uuid_hash(uuid);",
		err);
}

static int step_pledge(sqlite3 *sqlite, const char *path, struct err *err)
{
	return db_exec(sqlite, path,
		"CREATE TABLE pledge (id INTEGER PRIMARY KEY CHECK (id = 1), term INTEGER NOT NULL,"
		" hash INTEGER NOT NULL) STRICT;",
		err);
}

static int step_trail(sqlite3 *sqlite, const char *path, struct err *err)
{
	return db_exec(sqlite, path,
		"CREATE TABLE trail (idx INTEGER NOT NULL, n INTEGER NOT NULL, bytes BLOB NOT NULL,"
		" hash INTEGER NOT NULL, PRIMARY KEY (idx, n)) STRICT, WITHOUT ROWID;",
		err);
}

static int step_dropped(sqlite3 *sqlite, const char *path, struct err *err)
{
	return db_exec(sqlite, path,
		"CREATE TABLE dropped (id INTEGER PRIMARY KEY CHECK (id = 1), above INTEGER NOT NULL, last INTEGER NOT NULL,"
		" hash INTEGER NOT NULL) STRICT;",
		err);
}

/* steps[v] goes from version v to v + 1. */
static step_fn *const steps[] = {step_tables, step_hashes, step_pledge, step_trail, step_dropped};
enum { SCHEMA_VERSION = ARRAY_SIZE(steps) };

static int upgrade_from(sqlite3 *sqlite, const char *path, int64_t version, struct err *err)
{
	char sql[128];

	for (; version < SCHEMA_VERSION; version++)
		if (steps[version](sqlite, path, err) < 0)
			return err_prefix(err, "upgrade from schema version %d", (int)version);
	snprintf(sql, sizeof(sql), "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT", APPLICATION_ID,
		SCHEMA_VERSION);
	return db_exec(sqlite, path, sql, err);
}

int schema_check(sqlite3 *sqlite, const char *path, int64_t *version, struct err *err)
{
	int64_t id, tables;

	if (db_number(sqlite, path, "PRAGMA application_id", &id, err) < 0 ||
		db_number(sqlite, path, "PRAGMA user_version", version, err) < 0 ||
		db_number(sqlite, path, "SELECT count(*) FROM sqlite_schema", &tables, err) < 0)
		return -1;
	if (id != APPLICATION_ID && (id || *version || tables))
		return err_set(err, ERR_INVALID, "%s: not a store of watari (application id 0x%llx)", path,
			(unsigned long long)id);
	if (*version > SCHEMA_VERSION)
		return err_set(err, ERR_INVALID,
			"%s: schema version %lld, this program (%s) knows versions up to %d: install the newer program "
			"again",
			path, (long long)*version, WATARI_VERSION, SCHEMA_VERSION);
	if (*version < 0 || (*version == 0) != (tables == 0))
		return err_set(err, ERR_CORRUPT, "%s: schema version %lld with %lld tables", path, (long long)*version,
			(long long)tables);
	return 0;
}

int schema_upgrade(sqlite3 *sqlite, const char *path, int64_t version, struct err *err)
{
	if (version == SCHEMA_VERSION)
		return 0;
	if (db_exec(sqlite, path, "BEGIN IMMEDIATE", err) < 0)
		return -1;
	if (upgrade_from(sqlite, path, version, err) < 0) {
		sqlite3_exec(sqlite, "ROLLBACK", NULL, NULL, NULL);
		return -1;
	}
	return 0;
}
