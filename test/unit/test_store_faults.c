/* SPDX-License-Identifier: Apache-2.0
 * The store on a disk that fails: what was told durable is there afterwards, and nothing that is wrong is told. */
#include "store_world.h"
#include "vfs_faulty.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int setup(void **state)
{
	struct world *world = malloc(sizeof(*world));
	world_init(world);
	faulty_register();
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	world_fini(*state);
	free(*state);
	return 0;
}

/* ---- a life of a store in steps, each made durable by one flush ---- */

struct state {
	uint64_t snapshot;
	uint64_t last;
	uint64_t last_term;
	uint64_t pledge;
};

enum { STEPS = 6 };
static const struct state states[STEPS + 1] = {{0, 0, 0, 0}, {0, 20, 1, 1}, {10, 30, 1, 1}, {10, 28, 2, 2},
	{100, 110, 3, 2}, {100, 150, 3, 3}, {150, 151, 4, 3}};

static void step(struct world *world, int number)
{
	switch (number) {
	case 1:
		world->store->ops->pledge(world->store, 1);
		world_append(world, 1, 20, 1);
		break;
	case 2:
		world_install(world, 10, 1, 9000, true);
		world_append(world, 21, 30, 1);
		break;
	case 3:
		world->store->ops->truncate(world->store, 25);
		world->store->ops->pledge(world->store, 2);
		world_append(world, 26, 28, 2);
		break;
	case 4:
		world_install(world, 100, 3, 5000, false);
		world_append(world, 101, 110, 3);
		break;
	case 5:
		world_append(world, 111, 150, 3);
		world->store->ops->pledge(world->store, 3);
		break;
	case 6:
		world_install(world, 150, 3, 100, true);
		world_append(world, 151, 151, 4);
		break;
	}
}

static bool is_state(const struct world *world, int number)
{
	const struct state *state = &states[number];
	return world->snapshot == state->snapshot && world->last == state->last && world->pledge == state->pledge &&
	       (state->last == state->snapshot || world->last_term == state->last_term);
}

/* Lives from the start until something fails; returns the steps that were told durable. */
static int live(struct world *world)
{
	struct err err;
	int done = 0;

	if (world_open(world, &err) < 0)
		return 0;
	while (done < STEPS) {
		step(world, done + 1);
		world_flush(world, states[done + 1].last);
		if (world->failures)
			break;
		done++;
		assert_int_equal(world->durable, states[done].last);
		assert_int_equal(world->pledged, states[done].pledge);
	}
	if (done < STEPS) {
		/* Final: nothing is told any more, and what is queued still is forgotten. */
		int told = world->durables;
		world_append(world, states[done + 1].last + 1, states[done + 1].last + 5, 9);
		world->store->ops->flush(world->store);
		assert_int_equal(world->failures, 1);
		assert_int_equal(world->durables, told);
	}
	world_close(world);
	return done;
}

/* All steps without waiting, so that flushes stand in line behind the one that fails. */
static int live_fast(struct world *world)
{
	struct err err;
	int done = 0;

	if (world_open(world, &err) < 0)
		return 0;
	for (int number = 1; number < STEPS; number++) {
		step(world, number);
		world->store->ops->flush(world->store);
	}
	step(world, STEPS);
	world_flush(world, states[STEPS].last);
	/* Durable speaks of the log as it was at the end: what was durable before it was replaced does not count. */
	for (int number = 1; number <= STEPS; number++)
		if (world->durable == states[number].last)
			done = number;
	assert_true(done || !world->durable);
	assert_int_equal(world->failures, done < STEPS);
	world_close(world);
	return done;
}

static void expect(struct world *world, int done, int most, const char *what, unsigned nth)
{
	struct err err = {0};

	world->config.vfs = NULL;
	if (world_open(world, &err) < 0)
		fail_msg("%s %u: after %d steps: %s", what, nth, done, err.text);
	int found = done;
	while (found <= most && !is_state(world, found))
		found++;
	if (found > most)
		fail_msg("%s %u: after %d steps: snapshot %d, last %d of term %d", what, nth, done,
			(int)world->snapshot, (int)world->last, (int)world->last_term);
	/* And it goes on. */
	uint64_t next = world->last + 1;
	world_append(world, next, next, 9);
	world_must_flush(world, next);
	world_close(world);
}

static void every_change_of(struct world *world, enum faulty_mode mode, const char *what, bool fast)
{
	bool power = mode == FAULTY_POWER;

	for (unsigned nth = 1;; nth++) {
		assert_true(nth < 2000);
		world_empty_dir(world->dir);
		world->config.vfs = "faulty";
		faulty_arm(mode, nth);
		int done = fast ? live_fast(world) : live(world);
		bool hit = faulty_hit();
		if (power)
			faulty_power_loss(nth);
		faulty_arm(FAULTY_NONE, 0);
		if (!hit)
			assert_int_equal(done, STEPS);
		expect(world, done, fast || done == STEPS ? STEPS : done + 1, what, nth);
		if (!hit) {
			assert_true(nth > 50);
			return;
		}
	}
}

static void every_change(struct world *world, enum faulty_mode mode, const char *what)
{
	every_change_of(world, mode, what, false);
	every_change_of(world, mode, what, true);
}

static void a_change_that_fails_once_is_final_and_loses_nothing(void **state)
{
	every_change(*state, FAULTY_ONCE, "once");
}

static void a_disk_that_dies_loses_nothing(void **state)
{
	every_change(*state, FAULTY_DEAD, "dead");
}

static void a_full_disk_loses_nothing(void **state)
{
	every_change(*state, FAULTY_FULL, "full");
}

/* What was told durable was synced: it is there when all else that was written is lost, or half of it is there. */
static void loss_of_power_loses_nothing_that_was_told(void **state)
{
	every_change(*state, FAULTY_POWER, "power");
}

/* A checkpoint moves what is safe in the log already; its failure is told all the same: the disk is not to be trusted.
 */
static void a_failed_checkpoint_is_told(void **state)
{
	struct world *world = *state;

	world->config.vfs = "faulty";
	faulty_arm(FAULTY_NONE, 0);
	world_must_open(world);
	world_append(world, 1, 3000, 1);
	world_must_flush(world, 3000);
	faulty_arm(FAULTY_ONCE, 3);
	/* The quiet moment that it waits for comes by itself. */
	world_wait(world);
	assert_int_equal(world->failures, 1);
	assert_int_equal(world->failure.code, ERR_IO);
	world_close(world);
	faulty_arm(FAULTY_NONE, 0);
	world_must_open(world);
	assert_int_equal(world->last, 3000);
}

/* ---- kill -9 ---- */

static void write_until_killed(struct world *world, int fd)
{
	uint64_t next = world->last + 1;

	for (;;) {
		uint64_t count = 1 + next % 7;
		world_append(world, next, next + count - 1, 1);
		next += count;
		if (next % 5 == 0)
			world_install(world, next - 1, 1, 3000, true);
		world_flush(world, next - 1);
		if (world->failures || write(fd, &world->durable, sizeof(world->durable)) != sizeof(world->durable))
			_exit(1);
	}
}

static void kill_9_loses_nothing_that_was_told(void **state)
{
	struct world *world = *state;
	unsigned seed = 1;
	uint64_t told = 0;

	for (int round = 0; round < 30; round++) {
		int pipes[2];
		int status;
		assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
		pid_t child = fork();
		if (!child) {
			struct err err;
			world->loop = loop_sd_new(&err); /* an epoll of its own */
			if (world_open(world, &err) < 0)
				_exit(2);
			write_until_killed(world, pipes[1]);
		}
		close(pipes[1]);
		/* Somewhere within the first commits: at a number of them, and a little later. */
		unsigned commits = (unsigned)rand_r(&seed) % 12;
		for (unsigned i = 0; i < commits; i++)
			assert_int_equal(read(pipes[0], &told, sizeof(told)), sizeof(told));
		usleep((unsigned)rand_r(&seed) % 3000);
		kill(child, SIGKILL);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status));
		while (read(pipes[0], &told, sizeof(told)) == sizeof(told))
			;
		close(pipes[0]);
		world_must_open(world);
		assert_true(world->last >= told);
		world_close(world);
	}
	assert_true(told > 100);
}

/* ---- a disk that is full ---- */

static void fill_a_small_disk(struct world *world)
{
	uint64_t next = 1;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("small", world->dir, "tmpfs", 0, "size=1m") < 0)
		_exit(77);
	world_must_open(world);
	while (!world->failures && next < 100000) {
		world_append(world, next, next + 9, 1);
		next += 10;
		world_flush(world, next - 1);
	}
	assert_int_equal(world->failures, 1);
	assert_int_equal(world->failure.code, ERR_NO_SPACE);
	uint64_t durable = world->durable;
	assert_true(durable >= 100);
	world_close(world);
	assert_int_equal(mount("small", world->dir, "tmpfs", MS_REMOUNT, "size=16m"), 0);
	world_must_open(world);
	assert_true(world->last >= durable);
	world_append(world, world->last + 1, world->last + 1, 1);
	world_must_flush(world, world->last + 1);
	world_close(world);
	_exit(0);
}

static void a_small_disk_that_fills_up_is_told(void **state)
{
	struct world *world = *state;
	int status;

	pid_t child = fork();
	if (!child) {
		struct err err;
		if (unshare(CLONE_NEWNS) < 0)
			_exit(77);
		world->loop = loop_sd_new(&err);
		fill_a_small_disk(world);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
}

/* ---- damage ---- */

enum { FILE_BYTES_MAX = 4 << 20 };
struct image {
	char path[100];
	uint8_t *bytes;
	size_t size;
};

static struct image image_of(const struct world *world, const char *name)
{
	struct image image = {.bytes = malloc(FILE_BYTES_MAX)};

	snprintf(image.path, sizeof(image.path), "%s/%s", world->dir, name);
	int fd = open(image.path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	ssize_t got = read(fd, image.bytes, FILE_BYTES_MAX);
	assert_in_range(got, 1, FILE_BYTES_MAX - 1);
	image.size = (size_t)got;
	close(fd);
	return image;
}

static void put(const struct image *image, size_t size)
{
	int fd = open(image->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, image->bytes, size), size);
	close(fd);
}

/* A store with a snapshot, a log under and above it, and a write-ahead log that was never moved. */
enum { DB, WAL, MARK, IMAGES };
static void make_images(struct world *world, struct image images[IMAGES])
{
	world_must_open(world);
	world_append(world, 1, 40, 1);
	world_install(world, 30, 1, 6000, true);
	world_must_flush(world, 40);
	world_close(world); /* moves it */
	world_must_open(world);
	world_append(world, 41, 50, 2);
	world_must_flush(world, 50);
	world->store->ops->pledge(world->store, 5);
	world_must_flush(world, 50);
	images[DB] = image_of(world, "store.db");
	images[WAL] = image_of(world, "store.db-wal");
	images[MARK] = image_of(world, "store.mark");
	world_close(world);
}

static void put_all(struct world *world, const struct image images[IMAGES])
{
	world_empty_dir(world->dir);
	for (int i = 0; i < IMAGES; i++)
		put(&images[i], images[i].size);
}

static void free_all(struct image images[IMAGES])
{
	for (int i = 0; i < IMAGES; i++)
		free(images[i].bytes);
}

/* True when it was refused; what is loaded otherwise has to be right to the byte (the reader looks at that). */
static bool is_refused(struct world *world, const char *what, size_t at)
{
	struct err err = {0};

	if (world_open(world, &err) < 0) {
		if (err.code != ERR_CORRUPT && err.code != ERR_INVALID)
			fail_msg("%s at %zu: %s: %s", what, at, err_info(err.code)->name, err.text);
		return true;
	}
	if (world->snapshot != 30 || world->snapshot_term != 1 || world->last != 50 || world->last_term != 2 ||
		world->pledge != 5)
		fail_msg("%s at %zu: taken for whole: snapshot %d, last %d, pledge %d", what, at, (int)world->snapshot,
			(int)world->last, (int)world->pledge);
	world_close(world);
	return false;
}

static void a_flipped_bit_is_found_or_harmless(void **state)
{
	static const char *const names[] = {"bit of store.db", "bit of store.db-wal", "bit of store.mark"};
	static const size_t strides[] = {41, 23, 1};
	struct world *world = *state;
	struct image images[IMAGES];
	unsigned seed = 7;

	make_images(world, images);
	put_all(world, images);
	assert_false(is_refused(world, "nothing", 0));
	for (int i = 0; i < IMAGES; i++) {
		size_t refused = 0, all = 0;
		for (size_t at = 0; at < images[i].size; at += strides[i]) {
			uint8_t bit = (uint8_t)(1u << rand_r(&seed) % 8);
			put_all(world, images);
			images[i].bytes[at] ^= bit;
			put(&images[i], images[i].size);
			images[i].bytes[at] ^= bit;
			refused += is_refused(world, names[i], at);
			all++;
		}
		/* Free space in pages and in the log's old part is no content. */
		print_message("%s: %zu of %zu flips refused, the others without effect\n", names[i], refused, all);
		assert_true(refused * 4 > all);
	}
	free_all(images);
}

static void a_truncated_file_is_found_or_harmless(void **state)
{
	static const char *const names[] = {"store.db cut", "store.db-wal cut", "store.mark cut"};
	struct world *world = *state;
	struct image images[IMAGES];

	make_images(world, images);
	for (int i = 0; i < IMAGES; i++)
		for (size_t n = 0; n <= 40; n++) {
			size_t size = n < 40 ? images[i].size * n / 40 : images[i].size - 1;
			put_all(world, images);
			put(&images[i], size);
			bool refused = is_refused(world, names[i], size);
			/* An empty mark is that of a file system that lost it with the power; no mark, nothing found
			 * out. */
			assert_true(refused || (i == MARK && !size));
		}
	put_all(world, images);
	unlink(images[DB].path);
	assert_true(is_refused(world, "store.db gone", 0));
	put_all(world, images);
	unlink(images[WAL].path);
	assert_true(is_refused(world, "store.db-wal gone", 0));
	free_all(images);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_change_that_fails_once_is_final_and_loses_nothing),
		TEST(a_disk_that_dies_loses_nothing),
		TEST(a_full_disk_loses_nothing),
		TEST(loss_of_power_loses_nothing_that_was_told),
		TEST(a_failed_checkpoint_is_told),
		TEST(kill_9_loses_nothing_that_was_told),
		TEST(a_small_disk_that_fills_up_is_told),
		TEST(a_flipped_bit_is_found_or_harmless),
		TEST(a_truncated_file_is_found_or_harmless),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
