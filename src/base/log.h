/* SPDX-License-Identifier: Apache-2.0
 * The daemon's log: one line an event on stderr, for the journal or a file. The program's only global state.
 *
 * Promises: a line is one line (control characters become spaces), at most LOG_LINE_MAX bytes, written by one write(2);
 * under systemd it carries its priority, elsewhere a wall clock stamp and the level. A log that cannot be written is
 * dropped: no decision waits for it.
 * Must never: hold a secret. Nothing that came in a definition's kernel command line or a peer's bytes is logged. */
#pragma once

#include "base/cleanup.h"

enum { LOG_LINE_MAX = 1024 };

enum log_level {
	LOG_LEVEL_ERROR = 3, /* as in syslog(3) */
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_NOTICE = 5,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,
};

/* Lines above this level are dropped. Starts as LOG_LEVEL_INFO. */
void log_set_level(enum log_level level);

void log_line(enum log_level level, const char *format, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_line(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)
