/* SPDX-License-Identifier: Apache-2.0
 * A binary heap of items that know their place, so that cancelling is cheap. */
#include "driver/fake/timeline.h"

#include <assert.h>
#include <stdlib.h>

struct timeline_item {
	uint64_t at_us;
	uint64_t order;
	timeline_fn *fn;
	void *ctx;
	uint32_t place; /* in the heap; of a free item: unused */
	struct timeline_item *next_free;
};

struct timeline {
	uint64_t now_us;
	uint64_t orders;
	uint64_t steps;
	struct timeline_item **heap;
	uint32_t count;
	uint32_t capacity;
	struct timeline_item *free_items;
};

struct timeline *timeline_new(void)
{
	struct timeline *timeline = calloc(1, sizeof(*timeline));

	assert(timeline);
	return timeline;
}

void timeline_free(struct timeline *timeline)
{
	if (!timeline)
		return;
	for (uint32_t i = 0; i < timeline->count; i++)
		free(timeline->heap[i]);
	while (timeline->free_items) {
		struct timeline_item *item = timeline->free_items;
		timeline->free_items = item->next_free;
		free(item);
	}
	free(timeline->heap);
	free(timeline);
}

uint64_t timeline_now_us(const struct timeline *timeline)
{
	return timeline->now_us;
}

uint64_t timeline_steps(const struct timeline *timeline)
{
	return timeline->steps;
}

static bool sooner(const struct timeline_item *a, const struct timeline_item *b)
{
	return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static void put(struct timeline *timeline, uint32_t place, struct timeline_item *item)
{
	timeline->heap[place] = item;
	item->place = place;
}

static void sift_up(struct timeline *timeline, uint32_t place, struct timeline_item *item)
{
	while (place && sooner(item, timeline->heap[(place - 1) / 2])) {
		put(timeline, place, timeline->heap[(place - 1) / 2]);
		place = (place - 1) / 2;
	}
	put(timeline, place, item);
}

static void sift_down(struct timeline *timeline, uint32_t place, struct timeline_item *item)
{
	for (;;) {
		uint32_t child = 2 * place + 1;
		if (child >= timeline->count)
			break;
		if (child + 1 < timeline->count && sooner(timeline->heap[child + 1], timeline->heap[child]))
			child++;
		if (!sooner(timeline->heap[child], item))
			break;
		put(timeline, place, timeline->heap[child]);
		place = child;
	}
	put(timeline, place, item);
}

static struct timeline_item *item_new(struct timeline *timeline)
{
	struct timeline_item *item = timeline->free_items;

	if (item) {
		timeline->free_items = item->next_free;
		return item;
	}
	item = calloc(1, sizeof(*item));
	assert(item);
	return item;
}

struct timeline_item *timeline_after(struct timeline *timeline, uint64_t delay_us, timeline_fn *fn, void *ctx)
{
	struct timeline_item *item = item_new(timeline);

	if (timeline->count == timeline->capacity) {
		timeline->capacity = timeline->capacity ? 2 * timeline->capacity : 256;
		timeline->heap = realloc(timeline->heap, timeline->capacity * sizeof(*timeline->heap));
		assert(timeline->heap);
	}
	item->at_us = timeline->now_us + delay_us;
	item->order = timeline->orders++;
	item->fn = fn;
	item->ctx = ctx;
	timeline->count++;
	sift_up(timeline, timeline->count - 1, item);
	return item;
}

static void item_remove(struct timeline *timeline, struct timeline_item *item)
{
	uint32_t place = item->place;

	assert(place < timeline->count && timeline->heap[place] == item);
	struct timeline_item *last = timeline->heap[--timeline->count];
	if (last != item) {
		if (place && sooner(last, timeline->heap[(place - 1) / 2]))
			sift_up(timeline, place, last);
		else
			sift_down(timeline, place, last);
	}
	item->next_free = timeline->free_items;
	timeline->free_items = item;
}

void timeline_cancel(struct timeline *timeline, struct timeline_item *item)
{
	if (item)
		item_remove(timeline, item);
}

bool timeline_step(struct timeline *timeline, uint64_t until_us)
{
	if (!timeline->count || timeline->heap[0]->at_us > until_us) {
		if (timeline->now_us < until_us)
			timeline->now_us = until_us;
		return false;
	}

	struct timeline_item *item = timeline->heap[0];
	timeline_fn *fn = item->fn;
	void *ctx = item->ctx;

	timeline->now_us = item->at_us;
	timeline->steps++;
	item_remove(timeline, item);
	fn(ctx);
	return true;
}
