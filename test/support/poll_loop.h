/* SPDX-License-Identifier: Apache-2.0
 * port/loop.h on poll(2), in real time: for tests that need sockets and threads but not the daemon's own loop. */
#pragma once

#include "port/loop.h"

struct loop *poll_loop_new(void);
/* The same, but its clock stands, and goes on by poll_loop_skip alone. */
struct loop *poll_loop_new_still(void);
void poll_loop_free(struct loop *loop);
/* Runs what is due, and waits at most this long for more. */
void poll_loop_once(struct loop *loop, int wait_ms);
/* From now on the loop's clock is this much further: what was to wait is due. */
void poll_loop_skip(struct loop *loop, uint64_t ms);
