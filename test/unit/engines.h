/* SPDX-License-Identifier: Apache-2.0
 * Three engines on virtual time, on a perfect group, stores that forget and machines whose one VM does at once what it
 * is told.
 *
 * Promises: a millisecond passes after all messages were delivered, and nothing comes but what the test or an engine
 * does. Must never: lose, delay or forge anything: the simulator is where everything goes wrong. */
#pragma once

#include "engine/engine.h"
#include "support/forgetful_store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { NODES = 3, QUEUE_MAX = 4096, WALL_MS = 1000000 }; /* WALL_MS: what a right wall clock shows at the beginning */
#define UUID "00000000-0000-4000-8000-0000000000aa"
#define WEB "00000000-0000-4000-8000-000000000001"

struct machine {
	struct loop loop;
	struct group group;
	struct forgetful_store store;
	struct hypervisor hv;
	struct engines *all;
	struct engine *engine;
	struct loop_timer *timers;
	struct hv_info web;	 /* the one VM */
	int starts, runs, kills; /* calls so far */
	int64_t skew_ms;	 /* of its wall clock */
	bool in_group;
};

struct engines {
	uint64_t now; /* ms */
	uint64_t ring;
	struct machine machines[NODES + 1]; /* by node id */
	struct {
		uint32_t from;
		uint8_t *bytes;
		size_t size;
	} queue[QUEUE_MAX];
	int head, tail;
};

/* For cmocka: *state has three nodes that are in sync. */
int engines_setup(void **state);
int engines_teardown(void **state);

/* Delivers everything, then lets timers run, for this long. */
void engines_run_ms(struct engines *w, uint64_t ms);
/* Those whose in_group is set are the view. What was on its way is lost. */
void engines_tell_view(struct engines *w);
/* Out of the group, where it sees itself alone, or into it again; tells the view. */
void engines_cut(struct engines *w, uint32_t id, bool away);
/* Starts the node's engine again, with a store that has nothing, and a wall clock that is ahead. */
void engines_boot_empty(struct machine *m, int64_t skew_ms);
/* What the machine's hypervisor sees of web. */
void machine_tell(struct machine *m, enum hv_event_kind kind, uint64_t epoch, uint64_t task);
