/* SPDX-License-Identifier: Apache-2.0
 * What every request to a node's storage has to pass: open, or shut in one of the ways of storagefs.c.
 * Promises: when an order to shut it is answered, what was let through before has been done. */
#pragma once

#include <stdbool.h>

enum need { LOOK, CHANGE, GROW }; /* what a request does; GROW may want room */

/* Waits where the mode says so. 0: the request may be done, and gate_leave follows; else the error that it gets: EINTR
 * where is_ended(ctx) became true while it hung. */
int gate_enter(enum need need, bool (*is_ended)(void *ctx), void *ctx);
void gate_leave(void);

/* A thread: answers orders at the listening socket *ctx, one word a connection, for ever. */
void *gate_take_orders(void *ctx);
