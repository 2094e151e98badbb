/* SPDX-License-Identifier: Apache-2.0 */
#include "doors.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int door_open(struct doors *doors, enum door_kind kind, struct node *node, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 64) < 0) {
		fprintf(stderr, "hardware: %s: %s\n", path, strerror(errno));
		return -1;
	}
	doors->doors[doors->doors_count++] = (struct door){.fd = fd, .kind = kind, .node = node};
	return 0;
}

int doors_open(struct hardware *hw, struct doors *doors, bool with_watchdogs)
{
	char path[64];

	if (door_open(doors, DOOR_CONTROL, NULL, "control.sock") < 0)
		return -1;
	for (int i = 0; i < hw->nodes_count; i++) {
		struct node *node = &hw->nodes[i];

		snprintf(path, sizeof(path), "%s/bmc.sock", node->name);
		if (door_open(doors, DOOR_BMC, node, path) < 0)
			return -1;
		snprintf(path, sizeof(path), "%s/watchdog.sock", node->name);
		if (with_watchdogs && door_open(doors, DOOR_WATCHDOG, node, path) < 0)
			return -1;
	}
	return 0;
}

void doors_accept(struct doors *doors, struct door *door)
{
	int fd = accept4(door->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	/* As a controller that cannot be reached: the line is dead. */
	if (door->kind == DOOR_BMC && door->node->path_is_cut) {
		close(fd);
		return;
	}
	for (int i = 0; i < CLIENTS_MAX; i++) {
		if (doors->clients[i].is_used)
			continue;
		doors->clients[i] = (struct client){.is_used = true, .fd = fd, .door = door};
		return;
	}
	close(fd);
}

static void hang_up(struct client *client)
{
	if (client->fd >= 0)
		close(client->fd);
	client->fd = -1;
	client->is_used = client->wait != WAIT_NONE;
}

void client_answer(struct client *client, const char *format, ...)
{
	char text[LINE_BYTES];
	va_list args;

	va_start(args, format);
	int bytes = vsnprintf(text, sizeof(text) - 1, format, args);
	va_end(args);
	if (bytes > (int)sizeof(text) - 2)
		bytes = (int)sizeof(text) - 2;
	text[bytes++] = '\n';
	client->wait = WAIT_NONE;
	/* Nobody's answer is worth waiting for: who does not read loses the connection. */
	if (client->fd < 0 || send(client->fd, text, (size_t)bytes, MSG_NOSIGNAL | MSG_DONTWAIT) != bytes)
		hang_up(client);
}

static void take_lines(struct hardware *hw, struct client *client)
{
	char *end;

	while (client->fd >= 0 && client->wait == WAIT_NONE && (end = memchr(client->line, '\n', client->line_bytes))) {
		char line[LINE_BYTES];
		size_t bytes = (size_t)(end - client->line);

		memcpy(line, client->line, bytes);
		line[bytes] = 0;
		client->line_bytes -= bytes + 1;
		memmove(client->line, end + 1, client->line_bytes);
		request_take(hw, client, line);
	}
	if (client->line_bytes == sizeof(client->line))
		hang_up(client);
}

void doors_read(struct hardware *hw, struct client *client)
{
	ssize_t got = recv(
		client->fd, client->line + client->line_bytes, sizeof(client->line) - client->line_bytes, MSG_DONTWAIT);

	if (got > 0) {
		client->line_bytes += (size_t)got;
		take_lines(hw, client);
	} else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
		hang_up(client);
	}
}

void doors_go_on(struct hardware *hw, struct doors *doors)
{
	uint64_t now_ms = monotonic_ms();

	for (int i = 0; i < CLIENTS_MAX; i++) {
		struct client *client = &doors->clients[i];

		if (!client->is_used || client->wait == WAIT_NONE)
			continue;
		request_go_on(hw, client, now_ms);
		if (client->wait == WAIT_NONE && client->fd < 0)
			client->is_used = false;
		else
			take_lines(hw, client);
	}
}

uint64_t doors_due_in_ms(const struct doors *doors, uint64_t now_ms)
{
	uint64_t due_in_ms = UINT64_MAX;

	for (int i = 0; i < CLIENTS_MAX; i++) {
		const struct client *client = &doors->clients[i];
		uint64_t in_ms = client->until_ms > now_ms ? client->until_ms - now_ms : 0;

		if (!client->is_used || client->wait == WAIT_NONE)
			continue;
		if (client->wait == WAIT_ON && in_ms > ON_LOOK_MS)
			in_ms = ON_LOOK_MS;
		if (in_ms < due_in_ms)
			due_in_ms = in_ms;
	}
	return due_in_ms;
}
