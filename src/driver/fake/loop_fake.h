/* SPDX-License-Identifier: Apache-2.0
 * port/loop.h on virtual time: the thread of one simulated daemon.
 *
 * Promises: as the port. While the daemon is paused (SIGSTOP) what comes due waits, and runs in the order in which it
 * came due as soon as the daemon goes on; freeing the loop (kill -9) drops what waits.
 * Must never: run a callback of a daemon that is paused or gone. */
#pragma once

#include "driver/fake/timeline.h"
#include "port/loop.h"

struct loop_fake;

struct loop_fake *loop_fake_new(struct timeline *timeline);
void loop_fake_free(struct loop_fake *fake); /* takes NULL */
struct loop *loop_fake_port(struct loop_fake *fake);

void loop_fake_pause(struct loop_fake *fake);
void loop_fake_continue(struct loop_fake *fake); /* runs what waited, before it returns */

/* What the node's wall clock shows more than the true time; may be negative. */
void loop_fake_set_skew(struct loop_fake *fake, int64_t skew_ms);

/* As loop_timer_set, in µs, for the other fakes. When the loop is freed first, drop (if any) is called instead of fn. */
struct loop_timer *loop_fake_after(struct loop_fake *fake, uint64_t delay_us, loop_timer_fn *fn, loop_timer_fn *drop,
	void *ctx);

/* For what comes from outside the daemon, from an item of the timeline (never from within one of the daemon's own
 * callbacks): runs fn now, or as soon as the daemon goes on; drop instead when the loop is freed before. */
void loop_fake_call(struct loop_fake *fake, loop_timer_fn *fn, loop_timer_fn *drop, void *ctx);

/* True time 0 of the simulation as CLOCK_REALTIME: 2026-01-01 00:00:00 UTC. */
#define LOOP_FAKE_WALL_MS UINT64_C(1767225600000)
