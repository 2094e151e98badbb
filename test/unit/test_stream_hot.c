/* SPDX-License-Identifier: Apache-2.0
 * Which pages are sent first: the list of hot pages on its way from load to load, and the order made of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "stream/push_order.h"
#include "stream/sums.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { PAGES = 200 };

static struct hot list(uint32_t first, uint32_t count)
{
	struct hot hot = {.count = 0};

	for (uint32_t i = 0; i < count; i++)
		hot_note(&hot, first + i);
	return hot;
}

/* It comes out of a directory that anybody may have written. */
static void a_list_is_taken_whole_or_not_at_all(void **unused)
{
	static const char *const bad[] = {
		"{}", "7", "[1, 2, 200]", "[-1]", "[1.5]", "[\"1\"]", "[[1]]", "[null]", "[9223372036854775807]"};
	struct hot hot, before = list(3, 2);
	struct err err;

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		CLEANUP_JSON json_t *json = json_loads(bad[i], JSON_DECODE_ANY, NULL);
		assert_non_null(json);
		hot = before;
		assert_int_equal(hot_from_json(json, PAGES, &hot, &err), -1);
		assert_int_equal(err.code, ERR_INVALID);
		assert_memory_equal(&hot, &before, sizeof(hot));
	}
	struct hot longest = list(0, HOT_PAGES_MAX + 1); /* one more than there is room for */
	assert_int_equal(longest.count, HOT_PAGES_MAX);
	CLEANUP_JSON json_t *json = hot_to_json(&longest);
	assert_int_equal(hot_from_json(json, HOT_PAGES_MAX, &hot, &err), 0);
	assert_memory_equal(&hot, &longest, sizeof(hot));
	json_array_append_new(json, json_integer(0));
	assert_int_equal(hot_from_json(json, HOT_PAGES_MAX, &hot, &err), -1);
	assert_int_equal(hot_from_json(NULL, PAGES, &hot, &err), 0);
	assert_int_equal(hot.count, 0);
}

/* What was sent before it was asked for is never asked for again: it must stay known. */
static void what_was_hot_stays_hot_until_there_is_no_room(void **unused)
{
	struct hot before = list(10, 5), hot = list(13, 4);

	(void)unused;
	hot_join(&hot, &before, 16); /* page 16 is not there any more */
	const struct hot joined = list(10, 6);
	assert_int_equal(hot.count, joined.count);
	assert_memory_equal(hot.pages, joined.pages, joined.count * sizeof(uint32_t));

	before = list(0, HOT_PAGES_MAX);
	hot = list(HOT_PAGES_MAX - 1, 3); /* one known, two new ones: the two oldest go */
	hot_join(&hot, &before, HOT_PAGES_MAX + 2);
	assert_int_equal(hot.count, HOT_PAGES_MAX);
	assert_int_equal(hot.pages[0], 2);
	assert_int_equal(hot.pages[HOT_PAGES_MAX - 1], HOT_PAGES_MAX + 1);
}

struct world {
	struct state state;
	struct push_order order;
	int wake_fd;
};

/* Every third page is zero; those from 150 on were sent in the second pass. */
static void world_init(struct world *world, const struct hot *hot, bool eager)
{
	struct sums sums;
	struct err err;

	assert_int_equal(sums_init(&sums, -1, PAGES, &err), 0);
	memset(world, 0, sizeof(*world));
	world->state.pages = PAGES;
	world->state.manifest.hot = *hot;
	world->state.sums = malloc(sums_bytes(PAGES));
	for (uint64_t page = 0; page < PAGES; page++) {
		sums_set(&sums, page, page % 3 ? page : 0);
		sums_set_pass(&sums, page, page < 150 ? 1 : 2);
		world->state.manifest.used_bytes += page % 3 ? PAGE_BYTES : 0;
	}
	memcpy(world->state.sums, sums.mirror.bytes, sums_bytes(PAGES));
	sums_fini(&sums);
	world->wake_fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(push_order_init(&world->order, &world->state, eager, world->wake_fd, &err), 0);
	/* Not before it is told to, unless nothing is waited for; twice is once. */
	assert_int_equal(world->order.sorting, eager);
	push_order_sort(&world->order);
	push_order_sort(&world->order);
	/* Its end is told, so that nobody waits for it in vain. */
	assert_int_equal(poll(&(struct pollfd){.fd = world->wake_fd, .events = POLLIN}, 1, 60000), 1);
	assert_true(world->order.sorted);
}

static void world_fini(struct world *world)
{
	push_order_fini(&world->order);
	close(world->wake_fd);
	free(world->state.sums);
}

static void expect(
	struct world *world, bool (*next)(struct push_order *, uint64_t *), const uint64_t *pages, size_t count)
{
	uint64_t page = 0;

	for (size_t i = 0; i < count; i++) {
		assert_true(next(&world->order, &page));
		assert_int_equal(page, pages[i]);
		push_order_claim(&world->order, page);
	}
}

static void likely_pages_come_first_and_each_once(void **unused)
{
	struct hot hot = {.count = 3, .pages = {100, 0, 198}}; /* 198 is zero: sent as it was asked for */
	struct world world;
	uint64_t page;
	unsigned seen = 0, used = 0;

	(void)unused;
	world_init(&world, &hot, false);
	expect(&world, push_order_next_hot, (const uint64_t[]){100, 0, 198}, 3);
	assert_false(push_order_next_hot(&world.order, &page));
	assert_false(push_order_next_neighbour(&world.order, &page));
	push_order_asked(&world.order, 50);
	expect(&world, push_order_next_neighbour, (const uint64_t[]){49, 52, 53, 47, 46}, 5);
	assert_false(push_order_next_neighbour(&world.order, &page));
	push_order_asked(&world.order, 199); /* the last one, and its neighbour is claimed */
	expect(&world, push_order_next_neighbour, (const uint64_t[]){197, 196}, 2);
	push_order_asked(&world.order, 3); /* zero: so are those that it will want next */
	expect(&world, push_order_next_neighbour, (const uint64_t[]){4, 2, 5, 1, 6, 7, 8, 9, 10, 11}, 10);
	expect(&world, push_order_next_warm, (const uint64_t[]){101, 199}, 2);
	while (push_order_next_warm(&world.order, &page))
		push_order_claim(&world.order, page);
	expect(&world, push_order_next_far, (const uint64_t[]){151, 152, 154}, 3);
	while (push_order_next_far(&world.order, &page))
		push_order_claim(&world.order, page);
	for (page = 0; page < PAGES; page++) {
		used += page % 3 != 0;
		seen += page % 3 && world.order.claimed[page / 64] >> (page % 64) & 1;
	}
	assert_int_equal(seen, used);
	world_fini(&world);
}

static void eager_goes_as_the_pages_lie(void **unused)
{
	struct hot hot = {.count = 1, .pages = {100}};
	struct world world;
	uint64_t page;

	(void)unused;
	world_init(&world, &hot, true);
	assert_false(push_order_next_hot(&world.order, &page));
	assert_false(push_order_next_warm(&world.order, &page));
	expect(&world, push_order_next_far, (const uint64_t[]){1, 2, 4, 5}, 4);
	world_fini(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_list_is_taken_whole_or_not_at_all),
		cmocka_unit_test(what_was_hot_stays_hot_until_there_is_no_room),
		cmocka_unit_test(likely_pages_come_first_and_each_once),
		cmocka_unit_test(eager_goes_as_the_pages_lie),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
