/* SPDX-License-Identifier: Apache-2.0
 * A program under a test's hand: lines of JSON on stdin, lines of JSON on stdout, until the input ends.
 *
 * Promises: each line comes once and whole, and what is said is out when the call returns. A line that does not fit
 * ends the program as the end of its input does. Must never: answer by itself. */
#pragma once

#include "base/json.h"
#include "driver/linux/loop_sd.h"

/* The line is gone after the return. */
typedef void line_shell_fn(void *ctx, const char *line, size_t size);

struct line_shell {
	struct loop *loop;
	line_shell_fn *line;
	void *ctx;
	char in[256 << 10];
	size_t in_size;
};

/* Begins to read. The shell is the caller's and stays; the end of its input ends the loop with 0. */
void line_shell_begin(struct line_shell *shell, struct loop *loop, line_shell_fn *line, void *ctx);
/* Takes over the reference. */
void line_shell_say(json_t *json);
