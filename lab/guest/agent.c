/* SPDX-License-Identifier: Apache-2.0
 * So much of a qemu-guest-agent that a heartbeat can be heard, and stopped: guest-sync-delimited and guest-ping, on the
 * virtio port that has the agent's name. Any other command gets an error. */
#include "watch.h"

#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic int stopped;

void agent_stop(void)
{
	atomic_store(&stopped, 1);
}

/* There is no udev here to make /dev/virtio-ports. */
static int open_port(void)
{
	char name[64], path[32];
	glob_t found;
	int port = -1;

	if (glob("/sys/class/virtio-ports/*/name", 0, NULL, &found) != 0)
		return -1;
	for (size_t i = 0; i < found.gl_pathc && port < 0; i++) {
		FILE *file = fopen(found.gl_pathv[i], "re");
		if (file && fgets(name, sizeof(name), file) && !strcmp(name, "org.qemu.guest_agent.0\n") &&
			sscanf(found.gl_pathv[i], "/sys/class/virtio-ports/%16[^/]", name) == 1) {
			snprintf(path, sizeof(path), "/dev/%.16s", name);
			port = open(path, O_RDWR | O_CLOEXEC);
		}
		if (file)
			fclose(file);
	}
	globfree(&found);
	return port;
}

static void answer(int port, const char *line)
{
	const char *id = strstr(line, "\"id\":");
	char text[80];
	int len;

	if (atomic_load(&stopped))
		return;
	if (strstr(line, "\"guest-sync-delimited\"") && id)
		len = snprintf(text, sizeof(text), "\xff{\"return\": %llu}\n", strtoull(id + 5, NULL, 10));
	else if (strstr(line, "\"guest-ping\""))
		len = snprintf(text, sizeof(text), "{\"return\": {}}\n");
	else
		len = snprintf(text, sizeof(text), "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"\"}}\n");
	if (write(port, text, (size_t)len) < 0)
		perror("agent");
}

static void *run_agent(void *arg)
{
	/* A port whose host end is closed reads as its end, and tells nobody when it is opened: qemu-guest-agent waits so too. */
	const struct timespec wait = {.tv_nsec = 100000000};
	int port = open_port();
	char line[512];
	size_t have = 0;

	(void)arg;
	while (port >= 0) {
		ssize_t got = read(port, line + have, sizeof(line) - 1 - have);

		if (got <= 0) {
			have = 0;
			nanosleep(&wait, NULL);
			continue;
		}
		line[have += (size_t)got] = 0;
		for (char *end; (end = memchr(line, '\n', have));) {
			*end++ = 0;
			answer(port, line);
			have -= (size_t)(end - line);
			memmove(line, end, have + 1);
		}
		if (have == sizeof(line) - 1)
			have = 0;
	}
	return NULL;
}

void agent_start(void)
{
	spawn_thread(run_agent, NULL, NORMAL);
}
