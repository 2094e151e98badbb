/* SPDX-License-Identifier: Apache-2.0
 * The pages that a guest wanted first when it ran on after a load, in the order in which it wanted them. The next load
 * of the same guest sends them before all others, so that it need not wait for each of them again.
 *
 * A hint and no more: a list that is wrong costs the time to send its pages a little earlier than others. It goes from
 * the load to the daemon, with the next save into the manifest, and so to the next load.
 * Must never: hold a page that the memory does not have; grow beyond HOT_PAGES_MAX. */
#pragma once

#include "base/json.h"

enum { HOT_PAGES_MAX = 2048 }; /* 8 MiB: sent while QEMU still loads its devices */

struct hot {
	uint32_t count;
	uint32_t pages[HOT_PAGES_MAX];
};

/* A page that was asked for, with room for it or not. */
void hot_note(struct hot *hot, uint64_t page);
/* What was known before, then what was asked for besides; of too many the oldest go. pages: of the memory. Without
 * memory for it *hot stays as it is. */
void hot_join(struct hot *hot, const struct hot *before, uint64_t pages);

/* An array of page numbers; NULL only when memory is out. */
json_t *hot_to_json(const struct hot *hot);
/* NULL: an empty list. ERR_INVALID when it is no such array, is too long, or names a page from `pages` on. */
int hot_from_json(const json_t *array, uint64_t pages, struct hot *hot, struct err *err);
