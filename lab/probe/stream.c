/* SPDX-License-Identifier: Apache-2.0
 * One TCP connection that must never break (tcp), and one request (http). */
#include "probe.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct tcp {
	const struct probe_options *options;
	int fd;
	uint64_t sent, answered;
	int64_t last_answer_ns, longest_ns, longest_begin_ns, max_late_ns;
	char buffer[4096];
	size_t have;
	char broken[200]; /* why, when it is */
};

/* Line K of the connection says K; the guest answers "K K" (its own count first). */
static int tick_tcp(void *context, int64_t late_ns)
{
	struct tcp *tcp = context;
	char line[32];
	int len = snprintf(line, sizeof(line), "%" PRIu64 "\n", tcp->sent + 1);

	if (late_ns > tcp->max_late_ns)
		tcp->max_late_ns = late_ns;
	if (mono_ns() - tcp->last_answer_ns > tcp->options->stall_s * NS_PER_S) {
		snprintf(tcp->broken, sizeof(tcp->broken), "no answer for %u s", tcp->options->stall_s);
		return 1;
	}
	/* Away for so long that the buffer is full: nothing is lost, the next line waits. */
	if (send(tcp->fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) == len)
		tcp->sent++;
	else if (errno != EAGAIN)
		snprintf(tcp->broken, sizeof(tcp->broken), "sending line %" PRIu64 ": %s", tcp->sent + 1,
			strerror(errno));
	return !!*tcp->broken;
}

static int take_line(struct tcp *tcp, const char *line)
{
	uint64_t counted, said;
	int64_t now = mono_ns();

	if (sscanf(line, "%" SCNu64 " %" SCNu64, &counted, &said) != 2 || counted != tcp->answered + 1 ||
		said != counted) {
		snprintf(tcp->broken, sizeof(tcp->broken), "expected '%" PRIu64 "' twice, got '%.60s'",
			tcp->answered + 1, line);
		return 1;
	}
	if (!tcp->answered++)
		fprintf(stderr, "probe: first answer\n");
	else if (now - tcp->last_answer_ns > tcp->longest_ns) {
		tcp->longest_ns = now - tcp->last_answer_ns;
		tcp->longest_begin_ns = tcp->last_answer_ns;
	}
	tcp->last_answer_ns = now;
	return 0;
}

static int readable_tcp(void *context)
{
	struct tcp *tcp = context;
	ssize_t got = recv(tcp->fd, tcp->buffer + tcp->have, sizeof(tcp->buffer) - 1 - tcp->have, MSG_DONTWAIT);
	char *line = tcp->buffer, *end;

	if (got <= 0) {
		if (got < 0 && errno == EAGAIN)
			return 0;
		snprintf(tcp->broken, sizeof(tcp->broken), "%s", got ? strerror(errno) : "closed by the guest");
		return 1;
	}
	tcp->buffer[tcp->have += (size_t)got] = 0;
	while ((end = strchr(line, '\n'))) {
		*end = 0;
		if (take_line(tcp, line))
			return 1;
		line = end + 1;
	}
	tcp->have = (size_t)(tcp->buffer + tcp->have - line);
	memmove(tcp->buffer, line, tcp->have);
	return 0;
}

int probe_tcp(const struct probe_options *options)
{
	struct tcp tcp = {.options = options, .last_answer_ns = mono_ns()};
	const struct loop_calls calls = {tick_tcp, readable_tcp, &tcp};
	int on = 1;

	tcp.fd = probe_connect(options, SOCK_STREAM, 9);
	if (tcp.fd < 0)
		return 2;
	setsockopt(tcp.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	int broken = probe_loop(options, tcp.fd, &calls);
	const int64_t to_real = real_ns() - mono_ns();
	printf(options->json ? "{\"sent\":%" PRIu64 ",\"answered\":%" PRIu64 ",\"longest_gap_ms\":%.3f,"
			       "\"longest_gap_begin_ns\":%" PRId64 ",\"max_late_ms\":%.3f,\"broken\":%s%s%s}\n"
			     : "sent %" PRIu64 " lines, answered %" PRIu64
			       ", longest silence %.1f ms (began at %" PRId64
			       "), probe at most %.1f ms late, broken: %s%s%s\n",
		tcp.sent, tcp.answered, (double)tcp.longest_ns / 1e6,
		tcp.longest_begin_ns ? tcp.longest_begin_ns + to_real : 0, (double)tcp.max_late_ns / 1e6,
		broken && options->json ? "\"" : "",
		broken		? tcp.broken
		: options->json ? "null"
				: "no",
		broken && options->json ? "\"" : "");
	close(tcp.fd);
	return broken;
}

int probe_http(const struct probe_options *options)
{
	char request[600], head[64] = "", *body;
	char *answer = calloc(1, 65536);
	size_t have = 0;
	int status = 0;

	int fd = answer ? probe_connect(options, SOCK_STREAM, 80) : -1;
	if (fd < 0) {
		free(answer);
		return 2;
	}
	int len = snprintf(request, sizeof(request), "GET %.500s HTTP/1.0\r\nHost: guest\r\n\r\n", options->path);
	if (send(fd, request, (size_t)len, MSG_NOSIGNAL) == len) {
		ssize_t got;

		while (have < 65535 && (got = recv(fd, answer + have, 65535 - have, 0)) > 0)
			have += (size_t)got;
	}
	close(fd);
	snprintf(head, sizeof(head), "%.60s", answer);
	body = strstr(answer, "\r\n\r\n");
	if (body && sscanf(head, "HTTP/1.%*d %d", &status) == 1)
		fputs(body + 4, stdout);
	else
		fprintf(stderr, "probe: no answer from %s\n", options->to);
	free(answer);
	return status == 200 ? 0 : 1;
}
