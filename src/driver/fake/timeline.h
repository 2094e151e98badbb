/* SPDX-License-Identifier: Apache-2.0
 * Virtual time: a queue of things that will happen, in µs since the start of the simulated world. One thread.
 *
 * Promises: items run in the order of their time, those of one time in the order in which they were set; nothing runs
 * inside the call that sets it.
 * Must never: look at a real clock. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct timeline;
struct timeline_item; /* the timeline's; valid until it has run or was cancelled */
typedef void timeline_fn(void *ctx);

struct timeline *timeline_new(void);
void timeline_free(struct timeline *timeline); /* takes NULL; items that wait are dropped */

uint64_t timeline_now_us(const struct timeline *timeline);
struct timeline_item *timeline_after(struct timeline *timeline, uint64_t delay_us, timeline_fn *fn, void *ctx);
void timeline_cancel(struct timeline *timeline, struct timeline_item *item); /* takes NULL */

/* Runs the next item that is due at or before until_us; false (and the time is until_us) when there is none. */
bool timeline_step(struct timeline *timeline, uint64_t until_us);

/* Items that were run so far. */
uint64_t timeline_steps(const struct timeline *timeline);
