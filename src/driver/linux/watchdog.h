/* SPDX-License-Identifier: Apache-2.0
 * port/watchdog.h by a device of the kernel (/dev/watchdog0: Documentation/watchdog/watchdog-api.rst), or, where the path
 * is a socket, by a program that plays one (the lab's).
 *
 * A device is taken only when it keeps running after this process has died (WDIOF_MAGICCLOSE) and can be stopped by it
 * (not nowayout), and when WDIOC_GETTIMEOUT reads back the time that was set. The socket's protocol: "arm MS\n" is
 * answered "armed MS\n"; "feed\n" by nothing; "disarm\n" by "disarmed\n"; a connection that ends without it leaves the
 * timer running.
 * Promises: those of port/watchdog.h. Must never: believe a device about the time without reading it back. */
#pragma once

#include "port/watchdog.h"

/* Opens nothing yet. */
struct watchdog *watchdog_linux_new(const char *path);
/* An armed one goes on: the kernel is not told to stop it. Takes NULL. */
void watchdog_linux_free(struct watchdog *watchdog);
