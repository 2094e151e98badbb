/* SPDX-License-Identifier: Apache-2.0 */
#include "line_shell.h"

#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

void line_shell_say(json_t *json)
{
	json_dumpf(json, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(json);
}

static void on_input(void *ctx, uint32_t events)
{
	struct line_shell *shell = ctx;
	ssize_t n = read(STDIN_FILENO, shell->in + shell->in_size, sizeof(shell->in) - shell->in_size);
	char *end;

	(void)events;
	if (n <= 0) {
		loop_sd_exit(shell->loop, 0);
		return;
	}
	shell->in_size += (size_t)n;
	while ((end = memchr(shell->in, '\n', shell->in_size))) {
		size_t size = (size_t)(end - shell->in);
		shell->line(shell->ctx, shell->in, size);
		shell->in_size -= size + 1;
		memmove(shell->in, end + 1, shell->in_size);
	}
}

void line_shell_begin(struct line_shell *shell, struct loop *loop, line_shell_fn *line, void *ctx)
{
	shell->loop = loop;
	shell->line = line;
	shell->ctx = ctx;
	shell->in_size = 0;
	loop_io_watch(loop, STDIN_FILENO, EPOLLIN, on_input, shell);
}
