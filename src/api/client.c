/* SPDX-License-Identifier: Apache-2.0 */
#include "api/client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int api_client_open(struct api_client *client, const char *socket_path, struct err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(socket_path) >= sizeof(address.sun_path))
		return err_set(err, ERR_INVALID, "socket '%.64s…': longer than %zu bytes", socket_path,
			sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, socket_path);
	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, errno, "socket");
	client->hint[0] = '\0';
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		int why = errno;
		err_errno(err, why, "%s", socket_path);
		if (why == ENOENT || why == ECONNREFUSED) {
			err_set(err, ERR_UNAVAILABLE, "no watarid answers on %s", socket_path);
			snprintf(client->hint, sizeof(client->hint),
				"is it running? 'systemctl status watarid'; in a lab: 'watari-lab status'; another "
				"socket: --socket");
		} else if (why == EACCES || why == EPERM) {
			snprintf(client->hint, sizeof(client->hint),
				"run as root, or have an administrator add you to the group in watarid.conf, [api] "
				"group=");
		}
		return -1;
	}
	client->fd = STEAL_FD(fd);
	client->in_size = 0;
	return 0;
}

void api_client_close(struct api_client *client)
{
	if (client->fd >= 0)
		close(client->fd);
	client->fd = -1;
	free(client->in);
	client->in = NULL;
	client->in_size = client->in_capacity = 0;
}

static int broken(struct api_client *client, struct err *err)
{
	api_client_close(client);
	snprintf(client->hint, sizeof(client->hint),
		"watarid ended or was restarted: 'watari status'; what was begun goes on, see 'watari task list'");
	return err_set(err, ERR_UNAVAILABLE, "the connection to watarid broke");
}

static int send_all(struct api_client *client, const char *text, size_t size, struct err *err)
{
	while (size) {
		ssize_t sent = send(client->fd, text, size, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return broken(client, err);
		text += sent;
		size -= (size_t)sent;
	}
	return 0;
}

/* Reads some more. 1: got something; 0: the time is up. */
static int read_more(struct api_client *client, uint64_t until_ms, struct err *err)
{
	struct pollfd wait = {.fd = client->fd, .events = POLLIN};
	uint64_t now = now_ms();

	if (client->in_capacity - client->in_size < 4096) {
		size_t capacity = 2 * client->in_capacity + (64 << 10);
		char *bigger = capacity <= API_REPLY_MAX ? realloc(client->in, capacity) : NULL;
		if (!bigger)
			return err_set(err, ERR_PROTOCOL, "an answer of more than %zu bytes", client->in_capacity);
		client->in = bigger;
		client->in_capacity = capacity;
	}
	int limit = !until_ms ? -1 : now >= until_ms ? 0 : until_ms - now > 1000000 ? 1000000 : (int)(until_ms - now);
	int ready = poll(&wait, 1, limit);
	if (ready < 0 && errno != EINTR)
		return err_errno(err, errno, "poll");
	if (ready <= 0)
		return until_ms && now_ms() >= until_ms ? 0 : 1;
	ssize_t got = recv(client->fd, client->in + client->in_size, client->in_capacity - client->in_size, 0);
	if (got < 0 && errno == EINTR)
		return 1;
	if (got <= 0)
		return broken(client, err);
	client->in_size += (size_t)got;
	return 1;
}

/* The next whole line as JSON. 1: *message is there; 0: the time is up. */
static int next_message(struct api_client *client, uint64_t until_ms, json_t **message, struct err *err)
{
	for (;;) {
		char *end = client->in_size ? memchr(client->in, '\n', client->in_size) : NULL;
		if (end) {
			size_t size = (size_t)(end - client->in);
			*message = json_parse_bounded(client->in, size, API_REPLY_MAX, err);
			client->in_size -= size + 1;
			memmove(client->in, end + 1, client->in_size);
			if (!*message)
				return err_prefix(err, "an answer of watarid");
			return 1;
		}
		int more = read_more(client, until_ms, err);
		if (more <= 0)
			return more;
	}
}

static int take_error(struct api_client *client, const json_t *error, struct err *err)
{
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *message = json_string_value(json_object_get(error, "message"));
	const char *hint = json_string_value(json_object_get(error, "hint"));

	snprintf(client->hint, sizeof(client->hint), "%s", hint ? hint : "");
	return err_set(err, err_from_name(code ? code : ""), "%s", message ? message : "an error without a message");
}

static int dispatch_event(struct api_client *client, const json_t *message, struct err *err)
{
	const json_t *event = json_object_get(message, "event");
	const char *kind = json_string_value(json_object_get(event, "kind"));
	const char *reason = json_string_value(json_object_get(event, "reason"));

	if (kind && !strcmp(kind, "dropped"))
		return err_set(err, ERR_UNAVAILABLE, "dropped by watarid: %s", reason ? reason : "no reason given");
	if (event && client->on_event)
		client->on_event(client->ctx, event);
	return 0;
}

int api_client_call(struct api_client *client, const char *call, json_t *args, uint64_t timeout_ms, json_t **result,
	struct err *err)
{
	uint64_t until_ms = timeout_ms ? now_ms() + timeout_ms : 0;
	uint64_t id = ++client->last_id;
	CLEANUP_JSON json_t *line = json_pack("{s:I, s:s, s:o*}", "id", (json_int_t)id, "call", call, "args", args);
	CLEANUP_FREE char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;

	client->hint[0] = '\0';
	if (!text)
		return err_set(err, ERR_INVALID, "an argument is not valid UTF-8");
	size_t size = strlen(text);
	text[size] = '\n'; /* in the place of the NUL */
	if (client->fd < 0)
		return broken(client, err);
	if (send_all(client, text, size + 1, err) < 0)
		return -1;
	for (;;) {
		CLEANUP_JSON json_t *message = NULL;
		int got = next_message(client, until_ms, &message, err);
		if (got < 0)
			return -1;
		if (!got)
			return err_set(err, ERR_TIMEOUT, "no answer within %.0f s", (double)timeout_ms / 1000);
		const json_t *its_id = json_object_get(message, "id");
		if (json_object_get(message, "event")) {
			if (dispatch_event(client, message, err) < 0)
				return -1;
			continue;
		}
		/* An error without an id is about a line that could not be read, or about this connection. */
		if (json_is_integer(its_id) && (uint64_t)json_integer_value(its_id) != id)
			continue;
		if (json_object_get(message, "error"))
			return take_error(client, json_object_get(message, "error"), err);
		*result = json_incref(json_object_get(message, "result"));
		return *result ? 0 : err_set(err, ERR_PROTOCOL, "an answer without a result");
	}
}

int api_client_listen(struct api_client *client, uint64_t timeout_ms, struct err *err)
{
	uint64_t until_ms = timeout_ms ? now_ms() + timeout_ms : 0;

	for (;;) {
		CLEANUP_JSON json_t *message = NULL;
		int got = next_message(client, until_ms, &message, err);
		if (got <= 0)
			return got;
		if (json_object_get(message, "error"))
			return take_error(client, json_object_get(message, "error"), err);
		if (dispatch_event(client, message, err) < 0)
			return -1;
	}
}
