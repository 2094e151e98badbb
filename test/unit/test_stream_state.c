/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "stream/file.h"
#include "stream/latency.h"
#include "stream/page_sum.h"
#include "stream/protocol.h"
#include "stream/ram_writer.h"
#include "stream/repair.h"
#include "stream/state.h"
#include "stream_make.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { PAGES = MADE_MAIN_PAGES };
#define RAM_BYTES (PAGES * (uint64_t)PAGE_BYTES)

struct world {
	char path[64];
	int dir;
};

static int world_make(void **state)
{
	struct world *world = calloc(1, sizeof(*world));

	strcpy(world->path, "/tmp/watari-state-XXXXXX");
	assert_non_null(mkdtemp(world->path));
	world->dir = open(world->path, O_RDONLY | O_DIRECTORY);
	*state = world;
	return 0;
}

static int world_end(void **state)
{
	struct world *world = *state;

	state_remove(world->dir);
	unlinkat(world->dir, STREAM_STATE_MANIFEST, 0);
	close(world->dir);
	rmdir(world->path);
	free(world);
	return 0;
}

static void fill_page(uint8_t *page, uint64_t index, uint8_t salt)
{
	for (size_t i = 0; i < PAGE_BYTES; i++)
		page[i] = (uint8_t)(index * 7 + i * 13 + salt);
}

static void write_page(struct ram_writer *writer, uint64_t index, const uint8_t *page)
{
	struct err err;
	struct ram_batch *batch = ram_writer_batch(writer, &err);

	assert_non_null(batch);
	if (page) {
		memcpy(batch->bytes + RAM_BATCH_HEADROOM, page, PAGE_BYTES);
		ram_batch_page(batch, index, batch->bytes + RAM_BATCH_HEADROOM);
	} else {
		ram_batch_zero(batch, index);
	}
	ram_writer_submit(writer, batch);
}

struct image_feed {
	struct device_image *image;
	struct stream_parser *parser;
};

static int feed_head(void *ctx, const uint8_t *bytes, size_t size, struct err *err)
{
	return device_image_head(((struct image_feed *)ctx)->image, bytes, size, err);
}

static int feed_layout(void *ctx, const struct stream_layout *layout, struct err *err)
{
	struct image_feed *feed = ctx;

	return device_image_layout(feed->image, layout, 0, feed->parser->ram_id, err);
}

static int feed_page(void *ctx, uint32_t block, uint64_t index, const uint8_t *page, struct err *err)
{
	return block ? device_image_page(((struct image_feed *)ctx)->image, block, index, page, err) : 0;
}

static int feed_end(void *ctx, struct err *err)
{
	return device_image_ram_end(((struct image_feed *)ctx)->image, err);
}

static int feed_tail(void *ctx, const uint8_t *bytes, size_t size, struct err *err)
{
	return device_image_tail(((struct image_feed *)ctx)->image, bytes, size, err);
}

static void make_device(struct device_image *image, int fd)
{
	struct stream_parser parser;
	struct image_feed feed = {.image = image, .parser = &parser};
	const struct stream_sink sink = {.ctx = &feed,
		.head = feed_head,
		.layout = feed_layout,
		.page = feed_page,
		.ram_end = feed_end,
		.tail = feed_tail};
	struct made *made = calloc(1, sizeof(*made));
	struct err err;

	make_whole(made);
	assert_int_equal(device_image_init(image, fd, &err), 0);
	stream_parser_init(&parser, &sink);
	assert_int_equal(stream_parse(&parser, made->bytes, made->size, &err), made->size);
	assert_int_equal(mirror_flush(&image->mirror, &err), 0);
	free(made);
}

/* A state as a save leaves it: pages 0, 3, 6 … hold bytes, those from 30 on were sent in the second pass. */
static void make_state(const struct world *world)
{
	struct state_files files;
	struct ram_writer writer;
	struct device_image image;
	struct manifest manifest = {.block = "ram", .ram_bytes = RAM_BYTES, .passes = 2, .streamed_ns = 1};
	struct err err;
	uint8_t page[PAGE_BYTES];
	CLEANUP_JSON json_t *facts = json_pack("{s:s, s:i}", "vm", "web", "epoch", 12);

	assert_int_equal(state_create(world->dir, RAM_BYTES, RAM_BYTES, &files, &err), 0);
	assert_int_equal(ram_writer_init(&writer, files.ram, files.sums, PAGES, false, &err), 0);
	for (uint64_t i = 0; i < PAGES; i++) {
		fill_page(page, i, 1);
		write_page(&writer, i, i % 3 ? NULL : page);
		manifest.used_bytes += i % 3 ? 0 : PAGE_BYTES;
	}
	for (uint64_t i = 30; i < PAGES; i += 3) {
		fill_page(page, i, 2);
		write_page(&writer, i, page);
	}
	assert_int_equal(ram_writer_drain(&writer, &err), 0);
	assert_int_equal(ram_writer_sync(&writer, &err), 0);
	assert_int_equal(mirror_flush(&writer.sums.mirror, &err), 0);
	make_device(&image, files.device);
	manifest.device_bytes = image.mirror.size;
	manifest.tail_at = image.tail_at;
	manifest.device_sum = bytes_sum(image.mirror.bytes, image.mirror.size);
	manifest.sums_sum = bytes_sum(writer.sums.mirror.bytes, writer.sums.mirror.size);
	size_t devices;
	assert_int_equal(stream_tail_split(
				 image.mirror.bytes + image.tail_at, image.mirror.size - image.tail_at, &devices, &err),
		0);
	manifest.devices_bytes = devices;
	assert_int_equal(state_write_manifest(world->dir, &manifest, facts, &err), 0);
	device_image_fini(&image);
	ram_writer_fini(&writer);
	state_close(&files);
}

/* Loads and verifies all; 0: the state was taken. */
static int take(const struct world *world, const json_t *expect, struct err *err)
{
	struct state state;
	_Atomic uint64_t done = 0;
	static const atomic_bool stop;

	if (state_load(world->dir, expect, RAM_BYTES, &state, err))
		return -1;
	int result = state_verify_ram(&state, &done, &stop, err);
	state_fini(&state);
	return result;
}

static void what_was_saved_is_loaded(void **unused)
{
	const struct world *world = *unused;
	struct state state;
	struct err err = {0};
	uint8_t page[PAGE_BYTES], expected[PAGE_BYTES];

	make_state(world);
	assert_int_equal(take(world, NULL, &err), 0);
	assert_int_equal(state_load(world->dir, NULL, RAM_BYTES, &state, &err), 0);
	assert_int_equal(state.manifest.passes, 2);
	for (uint64_t i = 0; i < PAGES; i += 3) {
		fill_page(expected, i, i < 30 ? 1 : 2);
		assert_int_equal(state_read_page(&state, state.files.ram, i, page, &err), 0);
		assert_memory_equal(page, expected, PAGE_BYTES);
		assert_int_equal(sums_get_pass(state.sums, PAGES, i), i < 30 ? 1 : 2);
	}
	assert_int_equal(sums_get(state.sums, 1), 0);
	state_fini(&state);
}

static void flip(const struct world *world, const char *name, off_t at, uint8_t bits)
{
	CLEANUP_FD int fd = openat(world->dir, name, O_RDWR);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= bits;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static off_t size_of(const struct world *world, const char *name)
{
	struct stat stat;

	assert_int_equal(fstatat(world->dir, name, &stat, AT_SYMLINK_NOFOLLOW), 0);
	return stat.st_size;
}

/* A9: one bit anywhere. Holes of ram are never read, so a bit there is no part of the state. */
static void one_flipped_bit_is_found(void **unused)
{
	const struct world *world = *unused;
	static const char *const names[] = {"manifest", "sums", "device", "ram"};
	struct err err = {0};

	make_state(world);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		off_t size = size_of(world, names[i]);
		for (off_t at = 0; at < size; at += i < 2 ? 1 : 997) {
			if (i == 3 && at / PAGE_BYTES % 3)
				continue;
			flip(world, names[i], at, (uint8_t)(1 << at % 8));
			if (!take(world, NULL, &err))
				fail_msg("%s: bit %ld at %ld was not found", names[i], (long)at % 8, (long)at);
			assert_true(err.code == ERR_CORRUPT || err.code == ERR_UNFIT);
			flip(world, names[i], at, (uint8_t)(1 << at % 8));
		}
	}
	assert_int_equal(take(world, NULL, &err), 0);
}

static void resize(const struct world *world, const char *name, off_t size)
{
	CLEANUP_FD int fd = openat(world->dir, name, O_RDWR);

	assert_int_equal(ftruncate(fd, size), 0);
}

/* A9: truncated, empty, 10 TB of holes. */
static void a_file_of_another_size_is_refused(void **unused)
{
	const struct world *world = *unused;
	static const char *const names[] = {"manifest", "sums", "device", "ram"};
	struct err err = {0};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		make_state(world);
		off_t size = size_of(world, names[i]);
		const off_t sizes[] = {size + 1, size + PAGE_BYTES, (off_t)10 << 40, size - 1, size / 2, 0};
		for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
			resize(world, names[i], sizes[k]);
			assert_int_equal(take(world, NULL, &err), -1);
			assert_int_equal(err.code, ERR_CORRUPT);
		}
		state_remove(world->dir);
		unlinkat(world->dir, STREAM_STATE_MANIFEST, 0);
	}
}

/* Nothing in the directory may lead out of it, or hang who opens it. */
static void only_regular_files_are_opened(void **unused)
{
	const struct world *world = *unused;
	static const char *const names[] = {"manifest", "sums", "device", "ram"};
	struct err err = {0};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		make_state(world);
		assert_int_equal(renameat(world->dir, names[i], world->dir, "real"), 0);
		assert_int_equal(take(world, NULL, &err), -1);
		assert_int_equal(err.code, ERR_NOT_FOUND);
		assert_int_equal(symlinkat("real", world->dir, names[i]), 0);
		assert_int_equal(take(world, NULL, &err), -1);
		assert_int_equal(unlinkat(world->dir, names[i], 0), 0);
		assert_int_equal(mkfifoat(world->dir, names[i], 0600), 0);
		assert_int_equal(take(world, NULL, &err), -1);
		assert_int_equal(err.code, ERR_CORRUPT);
		assert_int_equal(unlinkat(world->dir, "real", 0), 0);
		state_remove(world->dir);
		unlinkat(world->dir, STREAM_STATE_MANIFEST, 0);
	}
}

static void a_state_of_another_guest_is_unfit(void **unused)
{
	const struct world *world = *unused;
	struct state state;
	struct err err = {0};
	CLEANUP_JSON json_t *same = json_pack("{s:i, s:s}", "epoch", 12, "vm", "web");
	CLEANUP_JSON json_t *other = json_pack("{s:s, s:i}", "vm", "web", "epoch", 13);
	CLEANUP_JSON json_t *more = json_pack("{s:s}", "cluster", "c");

	make_state(world);
	assert_int_equal(take(world, same, &err), 0);
	assert_int_equal(take(world, other, &err), -1);
	assert_int_equal(err.code, ERR_UNFIT);
	assert_string_equal(err.text, "saved state has epoch 12, 13 was expected");
	assert_int_equal(take(world, more, &err), -1);
	assert_string_equal(err.text, "saved state has cluster nothing, \"c\" was expected");
	assert_int_equal(state_load(world->dir, NULL, RAM_BYTES * 2, &state, &err), -1);
	assert_int_equal(err.code, ERR_UNFIT);
}

/* The directory's sums can be made right by whoever can write it: numbers must fit each other as well. */
static void a_manifest_that_contradicts_itself_is_refused(void **unused)
{
	const struct manifest good = {.block = "ram",
		.ram_bytes = RAM_BYTES,
		.used_bytes = PAGE_BYTES,
		.device_bytes = 1000,
		.tail_at = 500,
		.devices_bytes = 400};
	struct manifest bad[8], found;
	CLEANUP_JSON json_t *facts = json_object();
	struct err err;

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		bad[i] = good;
	bad[0].ram_bytes = 0;
	bad[1].ram_bytes = 4097;
	bad[2].used_bytes = RAM_BYTES + PAGE_BYTES;
	bad[3].devices_bytes = 500;
	bad[4].tail_at = 0;
	bad[5].ram_bytes = STREAM_BLOCK_BYTES_MAX + PAGE_BYTES;
	bad[6].block[0] = 0;
	bad[7].hot.count = 1;
	bad[7].hot.pages[0] = PAGES;
	for (size_t i = 0; i <= ARRAY_SIZE(bad); i++) {
		size_t size;
		json_t *back = NULL;
		CLEANUP_FREE char *text = manifest_encode(i < ARRAY_SIZE(bad) ? &bad[i] : &good, facts, &size, &err);
		assert_non_null(text);
		int result = manifest_decode(text, size, &found, &back, &err);
		assert_int_equal(result, i < ARRAY_SIZE(bad) ? -1 : 0);
		if (result)
			assert_int_equal(err.code, ERR_CORRUPT);
		json_decref(back);
	}
}

/* What QEMU sends again replaces what was there, also by zeros, and the file never grows. */
static void the_last_copy_of_a_page_wins(void **unused)
{
	const struct world *world = *unused;
	struct state_files files;
	struct ram_writer writer;
	struct err err;
	uint8_t page[PAGE_BYTES], found[PAGE_BYTES];
	static const uint8_t zeros[PAGE_BYTES];

	assert_int_equal(state_create(world->dir, RAM_BYTES, RAM_BYTES, &files, &err), 0);
	assert_int_equal(ram_writer_init(&writer, files.ram, files.sums, PAGES, false, &err), 0);
	for (unsigned pass = 1; pass <= 50; pass++)
		for (uint64_t i = 0; i < PAGES; i += 5) {
			fill_page(page, i, (uint8_t)pass);
			write_page(&writer, i, i == 10 && pass == 50 ? NULL : page);
		}
	assert_int_equal(ram_writer_drain(&writer, &err), 0);
	assert_int_equal(writer.counters.pass, 50);
	assert_int_equal(size_of(world, "ram"), RAM_BYTES);
	for (uint64_t i = 0; i < PAGES; i++) {
		fill_page(page, i, 50);
		const uint8_t *expected = i % 5 || i == 10 ? zeros : page;
		assert_int_equal(file_read(files.ram, "ram", found, PAGE_BYTES, i * PAGE_BYTES, &err), 0);
		assert_memory_equal(found, expected, PAGE_BYTES);
		assert_true(sums_get(writer.sums.mirror.bytes, i) == (expected == zeros ? 0 : page_sum(page)));
	}
	/* Holes were reserved, so that a full disk cannot end the copy; trim gives them back. */
	assert_true(state_trim(&files, writer.sums.mirror.bytes, PAGES) % 512 == 0);
	assert_int_equal(size_of(world, "ram"), RAM_BYTES);
	ram_writer_fini(&writer);
	state_close(&files);
}

/* A10: the first write that fails ends it, and is told to whoever asks next. */
static void a_failed_write_is_told(void **unused)
{
	const struct world *world = *unused;
	struct state_files files;
	struct ram_writer writer;
	struct err err = {0};
	uint8_t page[PAGE_BYTES];
	struct ram_batch *batch;

	assert_int_equal(state_create(world->dir, RAM_BYTES, RAM_BYTES, &files, &err), 0);
	CLEANUP_FD int read_only = openat(world->dir, "ram", O_RDONLY);
	assert_int_equal(ram_writer_init(&writer, read_only, files.sums, PAGES, false, &err), 0);
	fill_page(page, 0, 1);
	write_page(&writer, 0, page);
	while ((batch = ram_writer_batch(&writer, &err)))
		ram_writer_submit(&writer, batch);
	assert_non_null(strstr(err.text, "write of 'ram' at 0"));
	assert_int_equal(ram_writer_drain(&writer, &err), -1);
	ram_writer_fini(&writer);
	state_close(&files);
}

static void a_second_save_does_not_touch_the_first(void **unused)
{
	const struct world *world = *unused;
	struct state_files files;
	struct err err;

	make_state(world);
	assert_int_equal(state_create(world->dir, RAM_BYTES, RAM_BYTES, &files, &err), -1);
	assert_int_equal(err.code, ERR_EXISTS);
	assert_int_equal(take(world, NULL, &err), 0);
}

/* The reason for the repair pass: every way in which memory and copy can differ, holes on either side included. */
static void the_repair_pass_finds_every_difference_and_no_other(void **unused)
{
	CLEANUP_FD int fd = memfd_create("guest", MFD_CLOEXEC);
	struct repair repair;
	struct sums sums;
	struct err err;
	uint64_t different, summed;
	uint8_t page[PAGE_BYTES];
	static const atomic_bool stop;
	static const uint8_t zeros[PAGE_BYTES];
	enum { MANY = 5000 }; /* more than two strides */

	(void)unused;
	assert_int_equal(ftruncate(fd, (off_t)MANY * PAGE_BYTES), 0);
	assert_int_equal(sums_init(&sums, -1, MANY, &err), 0);
	for (uint64_t i = 0; i < MANY; i += 2) {
		fill_page(page, i, 1);
		assert_int_equal(pwrite(fd, page, PAGE_BYTES, (off_t)(i * PAGE_BYTES)), PAGE_BYTES);
		sums_set(&sums, i, page_sum(page));
	}
	assert_int_equal(repair_init(&repair, fd, MANY, 3, &err), 0);
	repair_warm(&repair, &stop);
	assert_int_equal(repair_compare(&repair, sums.mirror.bytes, &stop, &different, &summed, &err), 0);
	assert_int_equal(different, 0);
	assert_int_equal(summed, MANY / 2 * (uint64_t)PAGE_BYTES);

	page[0]++;
	assert_int_equal(pwrite(fd, page, 1, (off_t)2048 * PAGE_BYTES + 4095), 1);	      /* one byte */
	assert_int_equal(pwrite(fd, page, PAGE_BYTES, (off_t)4999 * PAGE_BYTES), PAGE_BYTES); /* was a hole */
	assert_int_equal(pwrite(fd, zeros, PAGE_BYTES, (off_t)100 * PAGE_BYTES), PAGE_BYTES); /* became zero */
	assert_int_equal(
		pwrite(fd, zeros, PAGE_BYTES, (off_t)101 * PAGE_BYTES), PAGE_BYTES); /* zero, no more a hole: same */
	assert_int_equal(
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)200 * PAGE_BYTES, PAGE_BYTES), 0);
	sums_set(&sums, 301, 7); /* the copy has something where memory has a hole */
	repair_warm(&repair, &stop);
	assert_int_equal(repair_compare(&repair, sums.mirror.bytes, &stop, &different, &summed, &err), 0);
	assert_int_equal(different, 5);
	for (uint64_t i = 0; i < MANY; i++)
		assert_int_equal(
			repair_differs(&repair, i), i == 2048 || i == 4999 || i == 100 || i == 200 || i == 301);
	assert_int_equal(lseek(fd, 0, SEEK_DATA), 0);
	assert_int_equal(lseek(fd, PAGE_BYTES, SEEK_DATA), 2 * PAGE_BYTES); /* no hole was touched */
	repair_fini(&repair);
	sums_fini(&sums);
}

/* Every vector width must agree, since the node that loads may have another processor than the one that saved. */
static void sums_do_not_depend_on_the_processor(void **unused)
{
	static uint8_t pages[8][PAGE_BYTES];
	static const uint8_t zeros[PAGE_BYTES];

	(void)unused;
	for (size_t i = 0; i < 8; i++)
		fill_page(pages[i], i, 9);
	memset(pages[3], 0, PAGE_BYTES);
	uint64_t sums[8], wide[8];
	page_sums_sse2(pages[0], 8, sums);
	assert_true(sums[3] == 0 && page_sum(zeros) == 0);
	page_sums(pages[0], 8, wide);
	assert_memory_equal(sums, wide, sizeof(sums));
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2")) {
		page_sums_avx2(pages[0], 8, wide);
		assert_memory_equal(sums, wide, sizeof(sums));
	}
	if (__builtin_cpu_supports("avx512f")) {
		page_sums_avx512(pages[0], 8, wide);
		assert_memory_equal(sums, wide, sizeof(sums));
	}
#endif
	/* XXH3 itself is a contract: a library that answered otherwise would refuse every state there is. */
	assert_true(bytes_sum((const uint8_t *)"watari", 6) == UINT64_C(0xd6ae7555a8c85d36));
	pages[3][4095] = 1;
	assert_true(page_sum(pages[3]) != 0);
}

/* Percentiles come out of buckets: they may be a little high, never low, and never above the maximum. */
static void latencies_are_told_to_an_eighth(void **unused)
{
	struct latency latency = {0};

	(void)unused;
	assert_int_equal(latency_percentile_us(&latency, 99), 0);
	for (uint64_t us = 1; us <= 1000; us++)
		latency_note(&latency, us);
	assert_int_equal(latency_mean_us(&latency), 500);
	assert_in_range(latency_percentile_us(&latency, 50), 500, 563);
	assert_in_range(latency_percentile_us(&latency, 99), 990, 1000);
	assert_int_equal(latency_percentile_us(&latency, 100), 1000);
	latency_note(&latency, UINT64_C(1) << 40);
	assert_true(latency_percentile_us(&latency, 100) <= UINT64_C(1) << 40);
}

int main(void)
{
#define WORLD_TEST(name) cmocka_unit_test_setup_teardown(name, world_make, world_end)
	const struct CMUnitTest tests[] = {
		WORLD_TEST(what_was_saved_is_loaded),
		WORLD_TEST(one_flipped_bit_is_found),
		WORLD_TEST(a_file_of_another_size_is_refused),
		WORLD_TEST(only_regular_files_are_opened),
		WORLD_TEST(a_state_of_another_guest_is_unfit),
		WORLD_TEST(the_last_copy_of_a_page_wins),
		WORLD_TEST(a_failed_write_is_told),
		WORLD_TEST(a_second_save_does_not_touch_the_first),
		cmocka_unit_test(a_manifest_that_contradicts_itself_is_refused),
		cmocka_unit_test(the_repair_pass_finds_every_difference_and_no_other),
		cmocka_unit_test(sums_do_not_depend_on_the_processor),
		cmocka_unit_test(latencies_are_told_to_an_eighth),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
