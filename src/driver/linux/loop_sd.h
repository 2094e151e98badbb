/* SPDX-License-Identifier: Apache-2.0
 * The loop of the daemons: sd-event behind port/loop.h, with the signals that end a daemon and what systemd wants to
 * hear of it (sd_notify(3), Type=notify, WatchdogSec=).
 *
 * Promises: everything of port/loop.h. What other threads post is run in the order it was posted. The watchdog is fed
 * by the loop between two callbacks and by nothing else, so that a callback that hangs lets it bite.
 * Must never: run a callback on another thread than the one in loop_sd_run, or within loop_sd_free. */
#pragma once

#include "port/loop.h"

enum { LOOP_POSTS_MAX = 4096 }; /* that wait at one time; more are ERR_BUSY */

/* Call it before the process makes any thread: it blocks SIGTERM, SIGINT and SIGHUP, and threads inherit that. So do children:
 * whoever starts a program empties its signal mask. */
struct loop *loop_sd_new(struct err *err);

/* Drops what was set up and posted, without calling anybody. No other thread may post any more. Takes NULL. */
void loop_sd_free(struct loop *loop);

/* Calls fn on the loop at each SIGTERM, SIGINT and SIGHUP, instead of ending the process. At most once for a loop. */
typedef void loop_signal_fn(void *ctx, int signo);
int loop_sd_on_signal(struct loop *loop, loop_signal_fn *fn, void *ctx, struct err *err);

/* Runs callbacks until loop_sd_exit; *status is what that was given. May be called again. */
int loop_sd_run(struct loop *loop, int *status, struct err *err);

/* Ends loop_sd_run after the callback that calls this. */
void loop_sd_exit(struct loop *loop, int status);

/* To systemd, where it started us; nothing otherwise. Ready: also begins to feed the watchdog, where WATCHDOG_USEC asks
 * for it, when half to three quarters of its time are over. */
void loop_sd_ready(struct loop *loop);
void loop_sd_reloading(void); /* then loop_sd_ready again, whatever came of it */
void loop_sd_stopping(void);
void loop_sd_status(const char *format, ...) PRINTF_LIKE(1, 2); /* one line for `systemctl status` */
