/* SPDX-License-Identifier: Apache-2.0
 * A timer outside of this program that ends the whole machine unless it is fed. /dev/watchdog in the daemon, a model of
 * it in the simulator.
 *
 * Promises: after arm() the machine ends at timeout_ms after the last feed (arm is one), also when this process hangs,
 * dies, or closes what it has open; nothing but disarm() stops it. arm() succeeds only when the timer itself has said
 * that it took exactly this time. An armed timer can be disarmed: one that cannot is refused by arm().
 * Must never: feed by itself, from a thread or a timer of its own; open the device before arm() (opening it starts its
 * time anew). Calls are short, and on the loop's thread. */
#pragma once

#include "base/err.h"
#include "model/limits.h"

#include <stdint.h>

enum { WATCHDOG_NAME_BYTES = 96 };

struct watchdog;
struct watchdog_ops {
	/* Also while armed: with this time from now on. On failure the time of an arm() before goes on, if there was
	 * one. */
	int (*arm)(struct watchdog *watchdog, uint32_t timeout_ms, struct err *err);
	/* Fails when the timer is gone or not armed; whether it still runs is not known then. */
	int (*feed)(struct watchdog *watchdog, struct err *err);
	/* Not armed: nothing. On failure the time goes on. */
	int (*disarm)(struct watchdog *watchdog, struct err *err);
	/* For people: "/dev/watchdog0 (iTCO_wdt)". */
	void (*name)(struct watchdog *watchdog, char name[WATCHDOG_NAME_BYTES]);
};

struct watchdog {
	const struct watchdog_ops *ops;
};

static inline int watchdog_arm(struct watchdog *watchdog, uint32_t timeout_ms, struct err *err)
{
	return watchdog->ops->arm(watchdog, timeout_ms, err);
}
static inline int watchdog_feed(struct watchdog *watchdog, struct err *err)
{
	return watchdog->ops->feed(watchdog, err);
}
static inline int watchdog_disarm(struct watchdog *watchdog, struct err *err)
{
	return watchdog->ops->disarm(watchdog, err);
}
static inline void watchdog_name(struct watchdog *watchdog, char name[WATCHDOG_NAME_BYTES])
{
	watchdog->ops->name(watchdog, name);
}
