/* SPDX-License-Identifier: Apache-2.0
 * What would happen: the core itself, fed on a copy of the state with the events that a death brings.
 *
 * Promises: pure as the rest; what it says is what core_step decides on these events, so it cannot differ from what
 * happens, as long as every fence device works, every start succeeds and nothing else changes meanwhile. Bounded: a
 * few steps for each VM of the dead nodes. The caller keeps it off the loop that must answer in time.
 * Must never: change the state that it is asked about, or decide by rules of its own. */
#pragma once

#include "core/core.h"
#include "model/forecast.h"

/* Room to work in; large, the caller's. */
struct forecast_work {
	struct cluster cluster; /* all zero, or what an earlier forecast left: taken anew from `from` */
	struct core_outcome outcome;
	struct event event;
	uint64_t began_ms;
	uint32_t entry[VMS_MAX]; /* by VM: its place in the forecast + 1; 0: none */
	uint32_t begun[4 * VMS_MAX]; /* VMs whose start or restore has begun, in order */
	uint32_t begun_count, begun_at;
	uint32_t orders;
};

/* The members in `failed` (bits id - 1) die. until_placed: only as far as it is known who has a place. */
void core_forecast(
	const struct cluster *from, uint64_t failed, bool until_placed, struct forecast_work *work, struct forecast *forecast);

/* How many may die at once, any of them. quorum_needs: with fewer members nothing goes on. Looks at all sets of one, two …
 * nodes, as many as a bounded number of steps allows. */
void core_survival(const struct cluster *from, uint32_t quorum_needs, struct forecast_work *work,
	struct forecast *scratch, struct forecast_survival *survival);
