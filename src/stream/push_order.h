/* SPDX-License-Identifier: Apache-2.0
 * In which order pages are sent that nobody has asked for yet.
 *
 *	hot		what the guest wanted first after its last load (hot.h), in that order
 *	neighbours	of the page that was asked for last, the nearest first; of a page of zeros, which a guest asks
 *			for when it begins to use it, also those that are zero
 *	warm		the neighbours of hot pages: what went along with them was never asked for, so it is not known
 *			to be hot when it is
 *	far		all that is not zero: by falling pass of the copy, so that what was written last comes first,
 *			and within a pass as it lies, which suits both the disk and the guest. Eager: as it lies,
 *			for the disk
 *
 * The far ones are sorted by a thread of its own, and not before push_order_sort: at 4 GiB that takes a processor for tens of
 * ms, which the guest wants that is about to run. Eager: at once. Each page comes up at most once.
 * Must never: leave out a page that is not zero. */
#pragma once

#include "stream/state.h"

#include <pthread.h>

enum { PUSH_NEIGHBOURS = 4, PUSH_NEIGHBOURS_ZERO = 8 }; /* on each side */

struct push_order {
	const struct state *state;
	bool eager;
	uint32_t hot_at;
	uint64_t asked;	    /* the page that was asked for last */
	uint32_t neighbour; /* its next one */
	uint32_t warm_at, warm_neighbour;
	uint32_t *pages;
	uint64_t count, at;
	uint64_t *starts;  /* the sorter's */
	uint64_t *claimed; /* one bit a page: sent, or about to be */
	int wake_fd;	   /* becomes readable when all is sorted */
	pthread_t sorter;
	bool sorting; /* the thread is to be joined */
	atomic_bool sorted;
};

int push_order_init(struct push_order *order, const struct state *state, bool eager, int wake_fd, struct err *err);
/* Begins it, once. Until it is done there are no far pages. */
void push_order_sort(struct push_order *order);
void push_order_fini(struct push_order *order);

/* It goes another way: it does not come up any more. */
void push_order_claim(struct push_order *order, uint64_t page);
/* The guest has asked for it: its neighbours are next. */
void push_order_asked(struct push_order *order, uint64_t page);

/* The next page of its kind; false: there is none now. Those that are not far may be zero. */
bool push_order_next_hot(struct push_order *order, uint64_t *page);
bool push_order_next_neighbour(struct push_order *order, uint64_t *page);
bool push_order_next_warm(struct push_order *order, uint64_t *page);
bool push_order_next_far(struct push_order *order, uint64_t *page);
