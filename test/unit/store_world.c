/* SPDX-License-Identifier: Apache-2.0 */
#include "store_world.h"

#include <dirent.h>
#include <unistd.h>

enum { EXIT_AWAITED = 1, EXIT_TIMEOUT = 2 };

static size_t content(uint64_t index, uint64_t term, uint8_t bytes[2000])
{
	size_t size = 50 + (size_t)((index * 7919 + term * 104729) % 1500);

	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)((index * 31 + term * 17 + i * i) >> (i % 5));
	return size;
}

static void on_durable(void *ctx, uint64_t index)
{
	struct world *world = ctx;

	world->durable = index;
	world->durables++;
	if (world->awaited && index >= world->awaited)
		loop_sd_exit(world->loop, EXIT_AWAITED);
}

static void on_failed(void *ctx, const struct err *err)
{
	struct world *world = ctx;

	world->failures++;
	world->failure = *err;
	loop_sd_exit(world->loop, EXIT_AWAITED);
}

static void on_timeout(void *ctx)
{
	struct world *world = ctx;
	loop_sd_exit(world->loop, EXIT_TIMEOUT);
}

void world_init(struct world *world)
{
	struct err err;

	*world = (struct world){0};
	snprintf(world->dir, sizeof(world->dir), "%s/watari-test-store-XXXXXX",
		access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	assert_non_null(mkdtemp(world->dir));
	world->config.dir = world->dir;
	world->loop = loop_sd_new(&err);
	assert_non_null(world->loop);
}

void world_empty_dir(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	char name[400];

	assert_non_null(dir);
	while ((entry = readdir(dir))) {
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		if (entry->d_name[0] != '.')
			unlink(name);
	}
	closedir(dir);
}

void world_fini(struct world *world)
{
	world_close(world);
	loop_sd_free(world->loop);
	world_empty_dir(world->dir);
	rmdir(world->dir);
}

static int on_snapshot(void *ctx, const struct store_snapshot *snapshot, struct err *err)
{
	struct world *world = ctx;

	(void)err;
	assert_true(!world->snapshot && !world->first);
	for (size_t i = 0; i < snapshot->size; i++)
		assert_int_equal(snapshot->bytes[i], (uint8_t)(snapshot->index + i));
	world->snapshot = snapshot->index;
	world->snapshot_term = snapshot->term;
	world->last = snapshot->index;
	return 0;
}

static int on_entry(void *ctx, const struct store_entry *entry, struct err *err)
{
	struct world *world = ctx;
	uint8_t bytes[2000];

	(void)err;
	assert_int_equal(entry->size, content(entry->index, entry->term, bytes));
	assert_memory_equal(entry->bytes, bytes, entry->size);
	if (world->last)
		assert_int_equal(entry->index, world->last + 1);
	if (!world->first)
		world->first = entry->index;
	world->last = entry->index;
	world->last_term = entry->term;
	return 0;
}

static void on_pledge(void *ctx, uint64_t term)
{
	struct world *world = ctx;

	world->pledge = term;
}

static void on_dropped(void *ctx, uint64_t above, uint64_t last)
{
	struct world *world = ctx;

	world->dropped_above = above;
	world->dropped_last = last;
}

static void on_pledged(void *ctx, uint64_t term)
{
	struct world *world = ctx;

	world->pledged = term;
}

struct store_reader world_reader(struct world *world)
{
	world->snapshot = world->snapshot_term = world->first = world->last = world->last_term = 0;
	return (struct store_reader){
		.ctx = world, .snapshot = on_snapshot, .entry = on_entry, .pledge = on_pledge, .dropped = on_dropped};
}

int world_open(struct world *world, struct err *err)
{
	struct store_callbacks callbacks = {
		.ctx = world, .durable = on_durable, .pledged = on_pledged, .failed = on_failed};
	struct store_reader reader = world_reader(world);

	world->durable = 0;
	world->pledge = world->pledged = 0;
	world->dropped_above = world->dropped_last = 0;
	world->durables = world->failures = 0;
	world->store = store_sqlite_open(&world->config, world->loop, &callbacks, err);
	if (!world->store)
		return -1;
	if (world->store->ops->load(world->store, &reader, world->uuid, err) < 0) {
		world_close(world);
		return -1;
	}
	return 0;
}

void world_must_open(struct world *world)
{
	struct err err = {0};

	if (world_open(world, &err) < 0)
		fail_msg("%s", err.text);
}

void world_close(struct world *world)
{
	store_sqlite_close(world->store);
	world->store = NULL;
}

void world_append(struct world *world, uint64_t from, uint64_t to, uint64_t term)
{
	uint8_t bytes[2000];

	for (uint64_t index = from; index <= to; index++) {
		struct store_entry entry = {.index = index, .term = term, .bytes = bytes};
		entry.size = content(index, term, bytes);
		world->store->ops->append(world->store, &entry);
	}
}

void world_install(struct world *world, uint64_t index, uint64_t term, size_t size, bool keep_log)
{
	uint8_t *bytes = malloc(size);
	struct store_snapshot snapshot = {.index = index, .term = term, .bytes = bytes, .size = size};

	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(index + i);
	world->store->ops->install(world->store, &snapshot, UUID_A, keep_log);
	free(bytes);
}

void world_wait(struct world *world)
{
	struct err err;
	int status;

	struct loop_timer *limit = loop_timer_set(world->loop, 20000, on_timeout, world);
	assert_int_equal(loop_sd_run(world->loop, &status, &err), 0);
	assert_int_equal(status, EXIT_AWAITED);
	loop_timer_cancel(world->loop, limit);
}

void world_flush(struct world *world, uint64_t index)
{
	world->awaited = index;
	world->store->ops->flush(world->store);
	world_wait(world);
	world->awaited = 0;
}

void world_must_flush(struct world *world, uint64_t index)
{
	world_flush(world, index);
	if (world->failures)
		fail_msg("%s", world->failure.text);
	assert_int_equal(world->durable, index);
}
