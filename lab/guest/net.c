/* SPDX-License-Identifier: Apache-2.0
 * How the outside sees the guest: UDP port 7, TCP port 9, HTTP port 80. Runs in the lab's own network alone. */
#include "watch.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int listen_on(int type, uint16_t port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	int on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || (type == SOCK_STREAM && listen(fd, 32) < 0)) {
		perror("bind");
		abort();
	}
	return fd;
}

/* The payload comes back with nonce (16 bytes), counter and uptime in ns (be64 each) behind it. */
static void *run_udp(void *arg)
{
	int fd = listen_on(SOCK_DGRAM, 7);
	uint8_t packet[2048];

	for (;; (void)arg) {
		struct sockaddr_in from;
		socklen_t from_len = sizeof(from);
		ssize_t len = recvfrom(fd, packet, 1400, 0, (struct sockaddr *)&from, &from_len);

		if (len < 0)
			continue;
		uint64_t counter = htobe64(atomic_load(&witness.counter));
		uint64_t uptime = htobe64(now_ns());
		uint8_t *end = packet + len;

		memcpy(end, witness.nonce, 16);
		memcpy(end + 16, &counter, 8);
		memcpy(end + 24, &uptime, 8);
		atomic_fetch_add(&witness.udp_answers, 1);
		sendto(fd, packet, (size_t)len + 32, 0, (struct sockaddr *)&from, from_len);
	}
	return NULL;
}

/* Answers line K of a connection with "K LINE": a client sees at once when a line was lost, doubled or reordered. */
static void *serve_lines(void *arg)
{
	int fd = (int)(intptr_t)arg;
	FILE *in = fdopen(fd, "r");
	char line[512], answer[600];
	uint64_t count = 0;
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	atomic_fetch_add(&witness.tcp_connections, 1);
	while (in && fgets(line, sizeof(line), in)) {
		int len = snprintf(answer, sizeof(answer), "%" PRIu64 " %s", ++count, line);

		atomic_fetch_add(&witness.tcp_lines, 1);
		if (send(fd, answer, (size_t)len, MSG_NOSIGNAL) != len)
			break;
	}
	atomic_fetch_sub(&witness.tcp_connections, 1);
	if (in)
		fclose(in);
	return NULL;
}

static int write_state(char *out, size_t size)
{
	int ok = atomic_load(&witness.checksum_ok);

	return snprintf(out, size,
		"{\"nonce\":\"%s\",\"counter\":%" PRIu64 ",\"uptime_ms\":%" PRIu64 ",\"vcpus\":%ld,"
		"\"fill_mib\":%u,\"fill_ready\":%s,\"fill_phys\":%" PRIu64 ",\"checksum\":\"%016" PRIx64
		"\",\"checksum_ok\":%s,"
		"\"memory_load\":{\"on\":%s,\"mib\":%u,\"rate\":%u,\"written\":%" PRIu64 ",\"errors\":%" PRIu64 "},"
		"\"disk_load\":{\"on\":%s,\"mib\":%u,\"rate\":%u,\"written\":%" PRIu64 ",\"errors\":%" PRIu64
		",\"io_errors\":%" PRIu64 "},\"writer\":{\"number\":%" PRIu64 ",\"strangers\":%" PRIu64
		",\"io_errors\":%" PRIu64 "},\"udp_answers\":%" PRIu64 ",\"tcp_connections\":%" PRIu64
		",\"tcp_lines\":%" PRIu64 "}\n",
		witness.nonce_hex, atomic_load(&witness.counter), now_ns() / 1000000, sysconf(_SC_NPROCESSORS_ONLN),
		witness.options.fill_mib, atomic_load(&witness.fill_ready) ? "true" : "false",
		atomic_load(&witness.fill_phys), atomic_load(&witness.fill_checksum),
		ok < 0 ? "null"
		: ok   ? "true"
		       : "false",
		atomic_load(&witness.memory_on) ? "true" : "false", witness.options.load_mib,
		atomic_load(&witness.memory_rate), atomic_load(&witness.memory_written),
		atomic_load(&witness.memory_errors), atomic_load(&witness.disk_on) ? "true" : "false",
		witness.options.disk_mib, atomic_load(&witness.disk_rate), atomic_load(&witness.disk_written),
		atomic_load(&witness.disk_errors), atomic_load(&witness.disk_io_errors),
		atomic_load(&witness.writer_number), atomic_load(&witness.writer_strangers),
		atomic_load(&witness.writer_io_errors), atomic_load(&witness.udp_answers),
		atomic_load(&witness.tcp_connections), atomic_load(&witness.tcp_lines));
}

/* Reads everything again. Takes the time that emulation takes (see docs/lab.md). */
static int write_check(char *out, size_t size)
{
	struct verdict verdict = {0};
	uint64_t began = now_ns();

	memory_verify(&verdict);
	disk_verify(&verdict);
	int ok = atomic_load(&witness.fill_ready) && verdict.checksum == atomic_load(&witness.fill_checksum) &&
		 !verdict.pages_bad && !verdict.load_bad && !verdict.disk_bad && !atomic_load(&witness.memory_errors) &&
		 !atomic_load(&witness.disk_errors);
	atomic_store(&witness.checksum_ok, ok);
	return snprintf(out, size,
		"{\"nonce\":\"%s\",\"counter\":%" PRIu64 ",\"checksum_ok\":%s,\"checksum\":\"%016" PRIx64
		"\",\"pages\":%" PRIu64 ",\"pages_bad\":%" PRIu64 ",\"first_bad\":%" PRIu64 ",\"load_bad\":%" PRIu64
		",\"disk_bad\":%" PRIu64 ",\"ms\":%" PRIu64 "}\n",
		witness.nonce_hex, atomic_load(&witness.counter), ok ? "true" : "false", verdict.checksum,
		verdict.pages, verdict.pages_bad, verdict.first_bad, verdict.load_bad, verdict.disk_bad,
		(now_ns() - began) / 1000000);
}

static int set_one(const char *name, const char *value)
{
	unsigned number = (unsigned)strtoul(value, NULL, 10);

	if (!strcmp(name, "load")) {
		atomic_store(&witness.memory_on, !!strstr(value, "mem"));
		atomic_store(&witness.disk_on, !!strstr(value, "disk"));
	} else if (!strcmp(name, "load_rate")) {
		atomic_store(&witness.memory_rate, number);
	} else if (!strcmp(name, "disk_rate")) {
		atomic_store(&witness.disk_rate, number);
	} else {
		return -1;
	}
	return 0;
}

/* /set?load=mem,disk&load_rate=2000 */
static int set_all(char *query)
{
	char *save, *value;

	for (char *item = strtok_r(query, "& ", &save); item; item = strtok_r(NULL, "& ", &save)) {
		if (!(value = strchr(item, '=')))
			return -1;
		*value++ = 0;
		if (set_one(item, value) < 0)
			return -1;
	}
	return 0;
}

static void *serve_http(void *arg)
{
	const struct timeval limit = {.tv_sec = 5};
	int fd = (int)(intptr_t)arg;
	char request[2048] = "", body[2048], head[160];
	size_t have = 0;
	int status = 200, len;
	void (*last)(void) = NULL;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	while (have < sizeof(request) - 1 && !strstr(request, "\r\n\r\n")) {
		ssize_t got = recv(fd, request + have, sizeof(request) - 1 - have, 0);

		if (got <= 0)
			break;
		request[have += (size_t)got] = 0;
	}
	char *end = strstr(request, " HTTP/");
	if (end)
		*end = 0;
	if (!strcmp(request, "GET /")) {
		len = write_state(body, sizeof(body));
	} else if (!strcmp(request, "GET /checksum")) {
		len = write_check(body, sizeof(body));
	} else if (!strcmp(request, "GET /panic")) {
		last = panic_machine;
		len = write_state(body, sizeof(body));
	} else if (!strcmp(request, "GET /agent-stop")) {
		agent_stop();
		len = write_state(body, sizeof(body));
	} else if (!strncmp(request, "GET /set?", 9) && set_all(request + 9) == 0) {
		len = write_state(body, sizeof(body));
	} else {
		status = 404;
		len = snprintf(
			body, sizeof(body), "{\"error\":\"GET /, /checksum, /panic, /agent-stop or /set?load=mem,disk&load_rate=N\"}\n");
	}
	int head_len = snprintf(head, sizeof(head),
		"HTTP/1.0 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		status, status == 200 ? "OK" : "Not Found", len);
	if (send(fd, head, (size_t)head_len, MSG_NOSIGNAL | MSG_MORE) == head_len)
		send(fd, body, (size_t)len, MSG_NOSIGNAL);
	shutdown(fd, SHUT_WR);
	while (recv(fd, request, sizeof(request), 0) > 0)
		;
	close(fd);
	if (last)
		last();
	return NULL;
}

struct service {
	uint16_t port;
	void *(*serve)(void *);
};

static void *run_accept(void *arg)
{
	const struct service *service = arg;
	int fd = listen_on(SOCK_STREAM, service->port);

	for (;;) {
		int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

		if (client >= 0)
			spawn_thread(service->serve, (void *)(intptr_t)client, NORMAL);
	}
	return NULL;
}

void net_start(void)
{
	static struct service http = {80, serve_http}, lines = {9, serve_lines};

	spawn_thread(run_udp, NULL, REALTIME);
	spawn_thread(run_accept, &http, NORMAL);
	spawn_thread(run_accept, &lines, NORMAL);
}
