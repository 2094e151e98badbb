/* SPDX-License-Identifier: Apache-2.0
 * port/store.h without a disk: what is queued is durable at the next flush, and there is nothing to load.
 *
 * Promises: pledged and durable are told within flush, in the port's order. Must never: be given to an engine that is to
 * find anything again; the simulator has stores for that. */
#pragma once

#include "engine/engine.h"

struct forgetful_store {
	struct store store; /* first */
	struct engine *engine;
	uint64_t stored, durable; /* last index */
	uint64_t pledge;	  /* queued; 0: none */
};

/* Empty; told to this engine, which is not started yet. */
void forgetful_store_init(struct forgetful_store *store, struct engine *engine);
