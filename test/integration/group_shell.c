/* SPDX-License-Identifier: Apache-2.0
 * The group driver on a command line, for test_group.py: prints what it is told as JSON lines, does what stdin says.
 *
 *   send TEXT | flood COUNT | ping COUNT GAP_MS SIZE | leave | join | counters | quit
 *
 * flood sends COUNT messages "NODE.NUMBER" as fast as the driver takes them; ping measures the time from a send to its
 * own delivery, COUNT times with GAP_MS between a delivery and the next send. Starts with a join. */
#include "driver/corosync/corosync.h"
#include "driver/linux/loop_sd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

enum { PINGS_MAX = 20000, LINE_MAX_BYTES = 1024 };

struct shell {
	struct loop *loop;
	struct group *group;
	char line[LINE_MAX_BYTES];
	size_t line_size;
	uint64_t flood_next;
	uint64_t flood_count;
	uint32_t ping_count;
	uint32_t ping_done;
	uint32_t ping_gap_ms;
	uint32_t ping_size;
	uint64_t ping_sent_ns;
	uint64_t pings_ns[PINGS_MAX];
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void on_view(void *ctx, const struct group_view *view)
{
	(void)ctx;
	printf("{\"view\": {\"ring\": %" PRIu64 ", \"quorate\": %s, \"expected\": %u, \"members\": [", view->ring_seq,
		view->quorate ? "true" : "false", view->expected_votes);
	const char *comma = "";
	for (uint32_t node = 1; node <= NODES_MAX; node++)
		if (view->members >> (node - 1) & 1) {
			printf("%s%u", comma, node);
			comma = ", ";
		}
	printf("]}}\n");
}

static void on_down(void *ctx, const struct err *err)
{
	(void)ctx;
	printf("{\"down\": \"%s\"}\n", err->text);
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static void ping_send(void *ctx)
{
	struct shell *shell = ctx;
	uint8_t bytes[GROUP_MESSAGE_MAX] = "ping";
	struct err err;

	shell->ping_sent_ns = now_ns();
	if (group_send(shell->group, bytes, shell->ping_size, &err) < 0)
		printf("{\"error\": \"%s\"}\n", err.text);
}

static void on_ping(struct shell *shell)
{
	shell->pings_ns[shell->ping_done++] = now_ns() - shell->ping_sent_ns;
	if (shell->ping_done < shell->ping_count) {
		if (shell->ping_gap_ms)
			loop_timer_set(shell->loop, shell->ping_gap_ms, ping_send, shell);
		else
			ping_send(shell);
		return;
	}
	uint32_t n = shell->ping_done;
	qsort(shell->pings_ns, n, sizeof(shell->pings_ns[0]), by_value);
	printf("{\"ping\": {\"count\": %u, \"gap_ms\": %u, \"size\": %u, \"min_us\": %" PRIu64 ", \"p50_us\": %" PRIu64
	       ", \"p90_us\": %" PRIu64 ", \"p99_us\": %" PRIu64 ", \"max_us\": %" PRIu64 "}}\n",
		n, shell->ping_gap_ms, shell->ping_size, shell->pings_ns[0] / 1000, shell->pings_ns[n / 2] / 1000,
		shell->pings_ns[n * 9 / 10] / 1000, shell->pings_ns[n * 99 / 100] / 1000,
		shell->pings_ns[n - 1] / 1000);
	shell->ping_count = 0;
}

static void on_deliver(void *ctx, uint32_t from, const uint8_t *bytes, size_t size)
{
	struct shell *shell = ctx;

	if (size >= 4 && !memcmp(bytes, "ping", 4)) {
		if (from == shell->group->node && shell->ping_count)
			on_ping(shell);
		return;
	}
	printf("{\"from\": %u, \"text\": \"%.*s\"}\n", from, (int)size, (const char *)bytes);
}

static void flood(void *ctx)
{
	struct shell *shell = ctx;
	char text[64];
	struct err err;

	while (shell->flood_next < shell->flood_count) {
		int size = snprintf(text, sizeof(text), "%u.%" PRIu64, shell->group->node, shell->flood_next);
		if (group_send(shell->group, (const uint8_t *)text, (size_t)size, &err) < 0) {
			if (err.code != ERR_BUSY) {
				printf("{\"error\": \"%s\"}\n", err.text);
				return;
			}
			loop_timer_set(shell->loop, 1, flood, shell);
			return;
		}
		shell->flood_next++;
	}
}

static void counters(struct shell *shell)
{
	struct corosync_counters c;

	corosync_get_counters(shell->group, &c);
	printf("{\"counters\": {\"sent\": %" PRIu64 ", \"delivered\": %" PRIu64 ", \"dropped\": %" PRIu64
	       ", \"try_again\": %" PRIu64 ", \"views\": %" PRIu64 ", \"downs\": %" PRIu64 "}}\n",
		c.sent, c.delivered, c.dropped, c.try_again, c.views, c.downs);
}

static void command(struct shell *shell, const char *line)
{
	struct err err;
	unsigned count, gap, size;

	if (!strncmp(line, "send ", 5)) {
		if (group_send(shell->group, (const uint8_t *)line + 5, strlen(line + 5), &err) < 0)
			printf("{\"error\": \"%s\"}\n", err.text);
	} else if (sscanf(line, "flood %u", &count) == 1) {
		shell->flood_next = 0;
		shell->flood_count = count;
		flood(shell);
	} else if (sscanf(line, "ping %u %u %u", &count, &gap, &size) == 3 && count && count <= PINGS_MAX &&
		   size >= 4 && size <= GROUP_MESSAGE_MAX) {
		shell->ping_done = 0;
		shell->ping_count = count;
		shell->ping_gap_ms = gap;
		shell->ping_size = size;
		ping_send(shell);
	} else if (!strcmp(line, "leave")) {
		group_leave(shell->group);
	} else if (!strcmp(line, "join")) {
		group_join(shell->group);
	} else if (!strcmp(line, "counters")) {
		counters(shell);
	} else if (!strcmp(line, "quit")) {
		loop_sd_exit(shell->loop, 0);
	} else {
		printf("{\"error\": \"what?\"}\n");
	}
}

static void on_input(void *ctx, uint32_t events)
{
	struct shell *shell = ctx;
	ssize_t got = read(0, shell->line + shell->line_size, sizeof(shell->line) - shell->line_size);

	(void)events;
	if (got <= 0) {
		loop_sd_exit(shell->loop, 0);
		return;
	}
	shell->line_size += (size_t)got;
	char *end;
	while ((end = memchr(shell->line, '\n', shell->line_size))) {
		*end = 0;
		command(shell, shell->line);
		size_t used = (size_t)(end - shell->line) + 1;
		shell->line_size -= used;
		memmove(shell->line, end + 1, shell->line_size);
	}
}

int main(int argc, char **argv)
{
	static struct shell shell;
	struct corosync_config config = {.cluster_uuid = "00000000-0000-4000-8000-000000000001"};
	struct group_callbacks callbacks = {.ctx = &shell, .view = on_view, .deliver = on_deliver, .down = on_down};
	struct err err;
	int status = 1;

	if (argc > 1)
		snprintf(config.cluster_uuid, sizeof(config.cluster_uuid), "%s", argv[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	shell.loop = loop_sd_new(&err);
	shell.group = shell.loop ? corosync_new(&config, shell.loop, &callbacks, &err) : NULL;
	if (!shell.group) {
		printf("{\"refused\": \"%s\", \"code\": \"%s\"}\n", err.text, err_info(err.code)->name);
		return 1;
	}
	printf("{\"node\": %u, \"name\": \"%s\"}\n", shell.group->node, shell.group->node_name);
	group_join(shell.group);
	struct loop_io *input = loop_io_watch(shell.loop, 0, EPOLLIN, on_input, &shell);
	if (loop_sd_run(shell.loop, &status, &err) < 0)
		printf("{\"error\": \"%s\"}\n", err.text);
	loop_io_cancel(shell.loop, input);
	corosync_free(shell.group);
	loop_sd_free(shell.loop);
	return status;
}
