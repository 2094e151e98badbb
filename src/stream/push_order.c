/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/push_order.h"
#include "stream/file.h"
#include "stream/sums.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static bool is_claimed(const struct push_order *order, uint64_t page)
{
	return order->claimed[page / 64] >> (page % 64) & 1;
}

void push_order_claim(struct push_order *order, uint64_t page)
{
	order->claimed[page / 64] |= UINT64_C(1) << (page % 64);
}

static size_t rank_of(const struct push_order *order, uint64_t page)
{
	return order->eager ? 0 : SUMS_PASS_MAX - sums_get_pass(order->state->sums, order->state->pages, page);
}

/* A counting sort over the passes. */
static void sort(struct push_order *order)
{
	const struct state *state = order->state;
	uint64_t *starts = order->starts;

	for (uint64_t page = 0; page < state->pages; page++)
		if (sums_get(state->sums, page))
			starts[rank_of(order, page) + 1]++;
	for (size_t i = 1; i <= SUMS_PASS_MAX + 1; i++)
		starts[i] += starts[i - 1];
	for (uint64_t page = 0; page < state->pages; page++)
		if (sums_get(state->sums, page))
			order->pages[starts[rank_of(order, page)]++] = (uint32_t)page;
	order->sorted = true;
}

static void *sorter_main(void *arg)
{
	struct push_order *order = arg;
	uint64_t one = 1;

	thread_step_back();
	sort(order);
	ssize_t woken = write(order->wake_fd, &one, sizeof(one));
	(void)woken;
	return NULL;
}

int push_order_init(struct push_order *order, const struct state *state, bool eager, int wake_fd, struct err *err)
{
	uint64_t used = state->manifest.used_bytes >> PAGE_BITS;

	static_assert(STREAM_BLOCK_BYTES_MAX >> PAGE_BITS <= UINT64_C(1) << 32, "page numbers fit 32 bits");
	*order = (struct push_order){.state = state,
		.eager = eager,
		.neighbour = 2 * PUSH_NEIGHBOURS_ZERO,
		.pages = room_take(state->room, used * sizeof(*order->pages)),
		.count = used,
		.starts = calloc(SUMS_PASS_MAX + 2, sizeof(*order->starts)),
		.claimed = calloc(state->pages / 64 + 1, sizeof(*order->claimed)),
		.wake_fd = wake_fd};
	if (!order->pages || !order->starts || !order->claimed) {
		push_order_fini(order);
		return err_errno(err, ENOMEM, "memory for the order of pages");
	}
	if (eager)
		push_order_sort(order);
	return 0;
}

void push_order_sort(struct push_order *order)
{
	if (order->sorting || order->sorted)
		return;
	order->sorting = !pthread_create(&order->sorter, NULL, sorter_main, order);
	/* Without a thread to be had it takes its time here. */
	if (!order->sorting)
		sort(order);
}

void push_order_fini(struct push_order *order)
{
	if (order->sorting)
		pthread_join(order->sorter, NULL);
	order->sorting = false;
	if (order->pages)
		room_give(order->state->room, STEAL(order->pages));
	free(STEAL(order->starts));
	free(STEAL(order->claimed));
}

void push_order_asked(struct push_order *order, uint64_t page)
{
	order->asked = page;
	order->neighbour = 0;
}

bool push_order_next_hot(struct push_order *order, uint64_t *page)
{
	const struct hot *hot = &order->state->manifest.hot;

	while (!order->eager && order->hot_at < hot->count) {
		*page = hot->pages[order->hot_at++];
		if (!is_claimed(order, *page))
			return true;
	}
	return false;
}

/* The n-th nearest page, the one above before the one below. False: the memory ends before it. */
static bool neighbour_of(const struct push_order *order, uint64_t of, uint32_t n, uint64_t *page)
{
	uint64_t step = n / 2 + 1;

	if (n % 2 ? step > of : step >= order->state->pages - of)
		return false;
	*page = n % 2 ? of - step : of + step;
	return !is_claimed(order, *page);
}

bool push_order_next_neighbour(struct push_order *order, uint64_t *page)
{
	const uint8_t *sums = order->state->sums;
	bool zeros = !sums_get(sums, order->asked);

	while (order->neighbour < 2 * (zeros ? PUSH_NEIGHBOURS_ZERO : PUSH_NEIGHBOURS))
		if (neighbour_of(order, order->asked, order->neighbour++, page) && (zeros || sums_get(sums, *page)))
			return true;
	return false;
}

bool push_order_next_warm(struct push_order *order, uint64_t *page)
{
	const struct state *state = order->state;
	const struct hot *hot = &state->manifest.hot;

	while (!order->eager && order->warm_neighbour < 2 * PUSH_NEIGHBOURS) {
		if (order->warm_at == hot->count) {
			order->warm_at = 0;
			order->warm_neighbour++;
		} else if (neighbour_of(order, hot->pages[order->warm_at++], order->warm_neighbour, page) &&
			   sums_get(state->sums, *page)) {
			return true;
		}
	}
	return false;
}

bool push_order_next_far(struct push_order *order, uint64_t *page)
{
	while (order->sorted && order->at < order->count) {
		*page = order->pages[order->at++];
		if (!is_claimed(order, *page))
			return true;
	}
	return false;
}
