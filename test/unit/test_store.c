/* SPDX-License-Identifier: Apache-2.0
 * The store as the engine uses it. What goes wrong beneath it is in test_store_faults.c. */
#include "store_world.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

static int setup(void **state)
{
	struct world *world = malloc(sizeof(*world));
	world_init(world);
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	world_fini(*state);
	free(*state);
	return 0;
}

static void sql(struct world *world, const char *text)
{
	char path[100];
	sqlite3 *sqlite;
	snprintf(path, sizeof(path), "%s/store.db", world->dir);
	assert_int_equal(sqlite3_open(path, &sqlite), SQLITE_OK);
	if (sqlite3_exec(sqlite, text, NULL, NULL, NULL) != SQLITE_OK)
		fail_msg("%s", sqlite3_errmsg(sqlite));
	sqlite3_close(sqlite);
}

static uint64_t read_from(struct world *world, uint64_t from, uint32_t count)
{
	struct store_reader reader = world_reader(world);
	struct err err = {0};
	if (world->store->ops->read(world->store, from, count, &reader, &err) < 0)
		fail_msg("%s", err.text);
	return world->first ? world->last - world->first + 1 : 0;
}

static void what_was_durable_is_loaded(void **state)
{
	struct world *world = *state;
	world_must_open(world);
	assert_string_equal(world->uuid, "");
	assert_int_equal(world->last, 0);
	world_append(world, 1, 300, 4);
	world_must_flush(world, 300);
	world_close(world);
	world_must_open(world);
	assert_int_equal(world->first, 1);
	assert_int_equal(world->last, 300);
	assert_int_equal(world->last_term, 4);
	world_append(world, 301, 301, 5);
	world_must_flush(world, 301);
}

/* What was dropped is known after a restart, until it is said that there is nothing to know any more. */
static void a_dropped_history_is_remembered(void **state)
{
	struct world *world = *state;
	world_must_open(world);
	assert_int_equal(world->dropped_last, 0);
	world->store->ops->dropped(world->store, 7, 9);
	world_append(world, 1, 2, 5);
	world_must_flush(world, 2);
	world->store->ops->dropped(world->store, 0, 0); /* never flushed */
	world_close(world);
	world_must_open(world);
	assert_int_equal(world->dropped_above, 7);
	assert_int_equal(world->dropped_last, 9);
	world->store->ops->dropped(world->store, 0, 0);
	world_append(world, 3, 3, 5);
	world_must_flush(world, 3);
	world_close(world);
	world_must_open(world);
	assert_int_equal(world->dropped_last, 0);
}

/* A term that was taken part in is known after a restart, whatever became of the log; the last one counts. */
static void a_pledge_is_remembered(void **state)
{
	struct world *world = *state;
	world_must_open(world);
	assert_int_equal(world->pledge, 0);
	world->store->ops->pledge(world->store, 7);
	world_append(world, 1, 2, 5);
	world_must_flush(world, 2);
	assert_int_equal(world->pledged, 7);
	world->store->ops->pledge(world->store, 9);
	world->store->ops->truncate(world->store, 1);
	world_must_flush(world, 1);
	assert_int_equal(world->pledged, 9);
	world->store->ops->pledge(world->store, 11); /* never flushed */
	world_close(world);
	world_must_open(world);
	assert_int_equal(world->pledge, 9);
	assert_int_equal(world->last, 1);
}

/* The engine asks for a flush after a sync in which it got nothing new, and waits for the answer. */
static void a_flush_of_nothing_is_answered(void **state)
{
	struct world *world = *state;
	world_must_open(world);
	world_append(world, 1, 3, 1);
	world_must_flush(world, 3);
	world->durables = 0;
	world_must_flush(world, 3);
	assert_int_equal(world->durables, 1);
}

/* Ten flushes while the first one runs are not ten fsyncs. The last answer covers all. */
static void flushes_in_a_row_become_few_transactions(void **state)
{
	struct world *world = *state;
	world_must_open(world);
	for (uint64_t i = 1; i <= 1000; i++) {
		world_append(world, i, i, 1);
		world->store->ops->flush(world->store);
	}
	world_must_flush(world, 1000);
	assert_in_range(world->durables, 1, 900);
}

struct trail {
	int count;
	uint64_t newest, oldest;
	uint64_t stop_at;
};

static int on_line(void *ctx, const struct store_line *line, struct err *err)
{
	struct trail *trail = ctx;

	(void)err;
	assert_int_equal(line->size, 8);
	assert_memory_equal(line->bytes, &line->index, 8);
	if (!trail->count++)
		trail->newest = 10 * line->index + line->number;
	else
		assert_true(10 * line->index + line->number < trail->oldest);
	trail->oldest = 10 * line->index + line->number;
	return line->index == trail->stop_at;
}

static struct trail read_trail(struct world *world, uint64_t below, uint64_t stop_at)
{
	struct trail trail = {.stop_at = stop_at};
	struct store_reader reader = {.ctx = &trail, .line = on_line};
	struct err err = {0};
	if (world->store->ops->lines(world->store, below, &reader, &err) < 0)
		fail_msg("%s", err.text);
	return trail;
}

static void note(struct world *world, uint64_t index, uint32_t number)
{
	struct store_line line = {.index = index, .number = number, .bytes = (const uint8_t *)&index, .size = 8};
	world->store->ops->note(world->store, &line);
}

/* The audit trail outlives what the log is cut down to, restarts, and another member's history that is taken over. */
static void the_trail_outlives_the_log(void **state)
{
	struct world *world = *state;
	world_must_open(world);
	world_append(world, 1, 9, 1);
	for (uint64_t i = 1; i <= 8; i++)
		for (uint32_t number = 0; number < 3; number++)
			note(world, i, number);
	note(world, 5, 0); /* said again, and with fewer words */
	world_install(world, 9, 1, 100, false);
	world_must_flush(world, 9);
	note(world, 9, 0); /* never flushed */
	world_close(world);
	world_must_open(world);
	struct trail trail = read_trail(world, UINT64_MAX, 0);
	assert_int_equal(trail.count, 22);
	assert_int_equal(trail.newest, 82);
	assert_int_equal(trail.oldest, 10);
	trail = read_trail(world, 6, 5);
	assert_int_equal(trail.count, 1);
	assert_int_equal(trail.newest, 50);
}

/* Lines of a history that was dropped are not to be read again, nor to hide the new ones of the same number. */
static void a_dropped_history_leaves_the_trail(void **state)
{
	struct world *world = *state;
	struct store_line from = {.index = 6};
	world_must_open(world);
	world_append(world, 1, 9, 1);
	for (uint64_t i = 1; i <= 9; i++)
		note(world, i, 0);
	world_must_flush(world, 9);
	world->store->ops->note(world->store, &from);
	note(world, 6, 1);
	world_install(world, 7, 2, 100, false);
	world_must_flush(world, 7);
	world_close(world);
	world_must_open(world);
	struct trail trail = read_trail(world, UINT64_MAX, 0);
	assert_int_equal(trail.count, 6);
	assert_int_equal(trail.newest, 61);
}

static void the_trail_is_bounded(void **state)
{
	struct world *world = *state;
	world->config.keep_lines = 100;
	world_must_open(world);
	for (uint64_t i = 1; i <= 3000; i++)
		note(world, i, 0);
	world_append(world, 1, 1, 1);
	world_must_flush(world, 1);
	struct trail trail = read_trail(world, UINT64_MAX, 0);
	assert_int_equal(trail.newest, 30000);
	assert_in_range(trail.count, 100, 100 + 1024);
}

static void a_damaged_line_is_found(void **state)
{
	struct world *world = *state;
	world_must_open(world);
	note(world, 1, 0);
	world_append(world, 1, 1, 1);
	world_must_flush(world, 1);
	world_close(world);
	sql(world, "UPDATE trail SET bytes = x'0000000000000007'");
	world_must_open(world);
	struct trail trail = {0};
	struct store_reader reader = {.ctx = &trail, .line = on_line};
	struct err err = {0};
	assert_int_equal(world->store->ops->lines(world->store, UINT64_MAX, &reader, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
	assert_int_equal(trail.count, 0);
}

static void the_log_under_a_snapshot_stays_readable(void **state)
{
	struct world *world = *state;
	world_must_open(world);
	world_append(world, 1, 50, 1);
	world_install(world, 40, 1, 10000, true);
	world_must_flush(world, 50);
	world_close(world);
	world_must_open(world);
	assert_string_equal(world->uuid, UUID_A);
	assert_int_equal(world->snapshot, 40);
	assert_int_equal(world->first, 41);
	assert_int_equal(world->last, 50);
	assert_int_equal(read_from(world, 1, 1000), 50);
	assert_int_equal(read_from(world, 20, 7), 7);
	assert_int_equal(world->first, 20);
	assert_int_equal(read_from(world, 51, 7), 0);
	/* The reader sees what the writer does while it is open. */
	world_append(world, 51, 60, 2);
	world_must_flush(world, 60);
	assert_int_equal(read_from(world, 1, 1000), 60);
}

static void another_members_history_replaces_the_own(void **state)
{
	struct world *world = *state;
	world_must_open(world);
	world_append(world, 1, 50, 1);
	world_must_flush(world, 50);
	world_append(world, 51, 55, 1);
	world_install(world, 45, 3, 100, false);
	world_append(world, 46, 47, 3);
	world_must_flush(world, 47);
	assert_int_equal(read_from(world, 1, 1000), 2);
	world_close(world);
	world_must_open(world);
	assert_int_equal(world->snapshot, 45);
	assert_int_equal(world->snapshot_term, 3);
	assert_int_equal(world->first, 46);
	assert_int_equal(world->last, 47);
	/* A snapshot alone is a history too. */
	world_install(world, 1000, 9, 100, false);
	world_must_flush(world, 1000);
	world_close(world);
	world_must_open(world);
	assert_int_equal(world->snapshot, 1000);
	assert_int_equal(world->first, 0);
	world_append(world, 1001, 1001, 9);
	world_must_flush(world, 1001);
}

static void a_lost_history_is_truncated_and_replaced(void **state)
{
	struct world *world = *state;
	world_must_open(world);
	world_append(world, 1, 50, 1);
	world_must_flush(world, 50);
	world->store->ops->truncate(world->store, 60); /* nothing is above it */
	world->store->ops->truncate(world->store, 30);
	world_append(world, 31, 35, 2);
	world_must_flush(world, 35);
	world_close(world);
	world_must_open(world);
	assert_int_equal(world->last, 35);
	assert_int_equal(world->last_term, 2);
	assert_int_equal(read_from(world, 1, 1000), 35);
	/* Down to the snapshot, so that no entry is left. */
	world_install(world, 35, 2, 10, false);
	world_append(world, 36, 40, 2);
	world_must_flush(world, 40);
	world->store->ops->truncate(world->store, 35);
	world_must_flush(world, 35);
	world_close(world);
	world_must_open(world);
	assert_int_equal(world->snapshot, 35);
	assert_int_equal(world->last, 35);
}

/* An answer that comes after a truncate must not speak of what was truncated: it would be acknowledged to others. */
static void durable_speaks_of_the_log_as_it_is_now(void **state)
{
	struct world *world = *state;
	world_must_open(world);
	world_append(world, 1, 50, 1);
	world->store->ops->flush(world->store);
	world->store->ops->truncate(world->store, 10);
	world_append(world, 11, 20, 2);
	world_flush(world, 10); /* the first answer; the other flush may have joined it */
	assert_true(world->durable == 10 || world->durable == 20);
	world_must_flush(world, 20);

	world_append(world, 21, 90, 2);
	world->store->ops->flush(world->store);
	world_install(world, 70, 3, 10, false);
	world->durable = 1;
	world->store->ops->flush(world->store);
	world_must_flush(world, 70);
	assert_true(world->durables > 0);
}

static void a_second_process_is_refused(void **state)
{
	struct world *world = *state;
	struct err err;
	int status;
	world_must_open(world);
	pid_t child = fork();
	if (!child) {
		struct store_callbacks none = {0};
		struct store *store = store_sqlite_open(&world->config, world->loop, &none, &err);
		_exit(store || err.code != ERR_BUSY || !strstr(err.text, "another process") ? 1 : 0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	world_close(world);
	world_must_open(world);
}

static void the_kept_log_is_bounded(void **state)
{
	struct world *world = *state;
	world->config.keep_entries = 100;
	world_must_open(world);
	for (uint64_t i = 0; i < 10; i++) {
		world_append(world, i * 100 + 1, i * 100 + 100, 1);
		world_install(world, i * 100 + 90, 1, 10, true);
		world_must_flush(world, i * 100 + 100);
	}
	assert_int_equal(read_from(world, 1, 10000), 100);
	assert_int_equal(world->first, 901);
	world_close(world);
	world->config.keep_entries = 1000;
	world->config.keep_bytes = 50 * 1000;
	world_must_open(world);
	for (uint64_t i = 10; i < 30; i++) {
		world_append(world, i * 100 + 1, i * 100 + 100, 1);
		world_install(world, i * 100 + 90, 1, 10, true);
		world_must_flush(world, i * 100 + 100);
	}
	/* About 800 bytes each; whole steps are forgotten, never what is above the snapshot. */
	assert_in_range(read_from(world, 1, 10000), 10, 70);
	assert_int_equal(world->last, 3000);
	world_close(world);
	world_must_open(world);
	assert_int_equal(world->first, 2991);
	assert_int_equal(world->last, 3000);
}

/* A node that is configured for another cluster must not bring its old log into it. */
static void a_new_store_remembers_its_cluster(void **state)
{
	struct world *world = *state;
	world->config.uuid = UUID_B;
	world_must_open(world);
	assert_string_equal(world->uuid, UUID_B);
	world_close(world);
	world->config.uuid = UUID_A;
	world_must_open(world);
	assert_string_equal(world->uuid, UUID_B);
}

/* What version 1 made: no hashes. Its content stays, and is guarded from then on. */
static void an_older_schema_is_upgraded(void **state)
{
	struct world *world = *state;
	struct err err = {0};
	sql(world, "CREATE TABLE entry (idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, bytes BLOB NOT NULL) STRICT;"
		   "CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), idx INTEGER NOT NULL,"
		   " term INTEGER NOT NULL, bytes BLOB NOT NULL) STRICT;"
		   "CREATE TABLE cluster (id INTEGER PRIMARY KEY CHECK (id = 1), uuid TEXT NOT NULL) STRICT;"
		   "INSERT INTO snapshot VALUES (1, 7, 2, x'0708090a');"
		   "INSERT INTO cluster VALUES (1, '" UUID_A "');"
		   "PRAGMA application_id=0x77746172; PRAGMA user_version=1");
	world_must_open(world);
	assert_int_equal(world->snapshot, 7);
	assert_string_equal(world->uuid, UUID_A);
	world_append(world, 8, 9, 2);
	world_must_flush(world, 9);
	world_close(world);
	world_must_open(world);
	assert_int_equal(world->last, 9);
	world_close(world);
	sql(world, "UPDATE entry SET term = 3 WHERE idx = 9");
	assert_int_equal(world_open(world, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
	assert_non_null(strstr(err.text, "entry 9"));
}

static void a_newer_schema_is_refused(void **state)
{
	struct world *world = *state;
	struct err err = {0};
	world_must_open(world);
	world_close(world);
	sql(world, "PRAGMA user_version=77");
	assert_int_equal(world_open(world, &err), -1);
	assert_int_equal(err.code, ERR_INVALID);
	assert_non_null(strstr(err.text, "schema version 77"));
}

static void somebody_elses_file_is_refused_and_untouched(void **state)
{
	struct world *world = *state;
	struct err err = {0};
	char path[100];
	sql(world, "CREATE TABLE other (a)");
	assert_int_equal(world_open(world, &err), -1);
	assert_int_equal(err.code, ERR_INVALID);
	assert_non_null(strstr(err.text, "not a store"));
	sql(world, "SELECT a FROM other");
	snprintf(path, sizeof(path), "%s/store.db", world->dir);
	int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	for (int i = 0; i < 100; i++)
		assert_int_equal(write(fd, "this is a letter and not a database\n", 36), 36);
	close(fd);
	assert_int_equal(world_open(world, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
	assert_non_null(strstr(err.text, "not a database"));
	assert_non_null(strstr(err.text, "the other nodes have a copy"));
}

static void an_unfit_directory_is_refused(void **state)
{
	struct world *world = *state;
	struct err err = {0};
	world->config.dir = "/proc/nowhere";
	assert_int_equal(world_open(world, &err), -1);
	assert_int_equal(err.code, ERR_NOT_FOUND);
	char longer[400];
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = 0;
	world->config.dir = longer;
	assert_int_equal(world_open(world, &err), -1);
	assert_int_equal(err.code, ERR_INVALID);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_was_durable_is_loaded),
		TEST(a_pledge_is_remembered),
		TEST(a_dropped_history_is_remembered),
		TEST(the_trail_outlives_the_log),
		TEST(a_dropped_history_leaves_the_trail),
		TEST(the_trail_is_bounded),
		TEST(a_damaged_line_is_found),
		TEST(a_flush_of_nothing_is_answered),
		TEST(flushes_in_a_row_become_few_transactions),
		TEST(the_log_under_a_snapshot_stays_readable),
		TEST(another_members_history_replaces_the_own),
		TEST(a_lost_history_is_truncated_and_replaced),
		TEST(durable_speaks_of_the_log_as_it_is_now),
		TEST(a_second_process_is_refused),
		TEST(the_kept_log_is_bounded),
		TEST(a_new_store_remembers_its_cluster),
		TEST(an_older_schema_is_upgraded),
		TEST(a_newer_schema_is_refused),
		TEST(somebody_elses_file_is_refused_and_untouched),
		TEST(an_unfit_directory_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
