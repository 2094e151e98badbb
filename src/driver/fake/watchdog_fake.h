/* SPDX-License-Identifier: Apache-2.0
 * port/watchdog.h on virtual time: a timer in a simulated machine. It outlives the daemon, as a real one does.
 *
 * Promises: as the port. Must never: be stopped by the daemon's end. */
#pragma once

#include "driver/fake/timeline.h"
#include "port/watchdog.h"

#include <stdbool.h>

struct watchdog_fake;

/* fired: its time has run out. The machine's part is to end. */
struct watchdog_fake *watchdog_fake_new(struct timeline *timeline, void (*fired)(void *ctx), void *ctx);
void watchdog_fake_free(struct watchdog_fake *fake); /* takes NULL */
struct watchdog *watchdog_fake_port(struct watchdog_fake *fake);

/* The machine is off: the timer is as it was when it was made. */
void watchdog_fake_power_loss(struct watchdog_fake *fake);
/* The daemon is gone, and with it what it had open: the time goes on. */
void watchdog_fake_daemon_gone(struct watchdog_fake *fake);
/* From now on arm() and feed() fail, as with a device that was taken away; an armed one goes on. */
void watchdog_fake_break(struct watchdog_fake *fake, bool broken);

bool watchdog_fake_runs(const struct watchdog_fake *fake);
uint64_t watchdog_fake_fed_us(const struct watchdog_fake *fake); /* when last; 0: never */
uint64_t watchdog_fake_arms(const struct watchdog_fake *fake);
