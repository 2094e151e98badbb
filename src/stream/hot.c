/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/hot.h"

#include <stdlib.h>
#include <string.h>

void hot_note(struct hot *hot, uint64_t page)
{
	if (hot->count < HOT_PAGES_MAX && page <= UINT32_MAX)
		hot->pages[hot->count++] = (uint32_t)page;
}

/* Appends those that `seen` does not have yet. */
static uint32_t append(uint32_t *to, uint32_t count, const struct hot *from, uint64_t *seen, uint64_t pages)
{
	for (uint32_t i = 0; i < from->count; i++) {
		uint32_t page = from->pages[i];
		if (page >= pages || seen[page / 64] >> (page % 64) & 1)
			continue;
		seen[page / 64] |= UINT64_C(1) << (page % 64);
		to[count++] = page;
	}
	return count;
}

void hot_join(struct hot *hot, const struct hot *before, uint64_t pages)
{
	CLEANUP_FREE uint64_t *seen = calloc(pages / 64 + 1, sizeof(*seen));
	CLEANUP_FREE uint32_t *all = calloc(2 * HOT_PAGES_MAX, sizeof(*all));

	if (!seen || !all)
		return;
	uint32_t count = append(all, 0, before, seen, pages);
	count = append(all, count, hot, seen, pages);
	uint32_t dropped = count > HOT_PAGES_MAX ? count - HOT_PAGES_MAX : 0;
	hot->count = count - dropped;
	memcpy(hot->pages, all + dropped, hot->count * sizeof(*all));
}

json_t *hot_to_json(const struct hot *hot)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < hot->count; i++)
		json_array_append_new(array, json_integer(hot->pages[i]));
	return array;
}

int hot_from_json(const json_t *array, uint64_t pages, struct hot *hot, struct err *err)
{
	size_t count = json_array_size(array); /* 0 of what is no array */

	if (array && !json_is_array(array))
		return err_set(err, ERR_INVALID, "hot: an array of page numbers");
	if (count > HOT_PAGES_MAX)
		return err_set(err, ERR_INVALID, "hot: %zu pages, at most %d", count, HOT_PAGES_MAX);
	for (size_t i = 0; i < count; i++) {
		const json_t *page = json_array_get(array, i);
		json_int_t number = json_integer_value(page);
		if (!json_is_integer(page) || number < 0 || (uint64_t)number >= pages || number > UINT32_MAX)
			return err_set(err, ERR_INVALID, "hot[%zu]: not a page of this memory", i);
	}
	hot->count = (uint32_t)count;
	for (size_t i = 0; i < count; i++)
		hot->pages[i] = (uint32_t)json_integer_value(json_array_get(array, i));
	return 0;
}
