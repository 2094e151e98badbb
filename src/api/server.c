/* SPDX-License-Identifier: Apache-2.0
 * The socket and its clients: lines in, lines out, and every bound on both. */
#include "api/internal.h"

#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <pwd.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { READ_BYTES = 64 << 10, PASSWD_LINE_MAX = 1024, PEER_GROUPS_MAX = 256, CHECK_MS = 1000 };

static void reap(void *ctx);

static void client_free(struct client *client)
{
	struct api *api = client->api;

	while (client->calls)
		call_drop(client->calls);
	loop_timer_cancel(api->loop, client->timer);
	loop_io_cancel(api->loop, client->io);
	close(client->fd);
	for (size_t i = 0; i < API_CLIENTS_MAX; i++)
		if (api->clients[i] == client)
			api->clients[i] = NULL;
	free(client->in);
	free(client->out);
	free(client);
}

static void client_interest(struct client *client)
{
	uint32_t events = (client->closing ? 0u : (uint32_t)EPOLLIN) |
			  (client->out_sent < client->out_size ? (uint32_t)EPOLLOUT : 0u);

	if (client->io)
		loop_io_change(client->api->loop, client->io, events);
}

/* Frees it later, from the loop: the caller may be in the middle of its lines. What is queued goes out first, within
 * drain_ms. */
static void client_close(struct client *client, uint64_t drain_ms)
{
	struct api *api = client->api;

	if (client->closing)
		return;
	client->closing = true;
	client->subscription.on = false;
	while (client->calls)
		call_drop(client->calls);
	client->drop_ms = loop_now_ms(api->loop) + (client->out_sent < client->out_size ? drain_ms : 0);
	client_interest(client);
	if (!api->reap_timer)
		api->reap_timer = loop_timer_set(api->loop, 0, reap, api);
}

static void reap(void *ctx)
{
	struct api *api = ctx;
	uint64_t now_ms = loop_now_ms(api->loop);
	bool waiting = false;

	api->reap_timer = NULL;
	for (size_t i = 0; i < API_CLIENTS_MAX; i++) {
		struct client *client = api->clients[i];
		if (!client || !client->closing)
			continue;
		if (client->out_sent == client->out_size || now_ms >= client->drop_ms)
			client_free(client);
		else
			waiting = true;
	}
	if (waiting)
		api->reap_timer = loop_timer_set(api->loop, 100, reap, api);
}

static void client_flush(struct client *client)
{
	while (client->out_sent < client->out_size) {
		ssize_t sent = send(client->fd, client->out + client->out_sent, client->out_size - client->out_sent,
			MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && errno != EAGAIN) {
			client->out_sent = client->out_size = 0;
			client_close(client, 0);
		}
		if (sent < 0)
			break;
		client->out_sent += (size_t)sent;
	}
	if (client->out_sent == client->out_size)
		client->out_sent = client->out_size = 0;
	client_interest(client);
}

static int out_reserve(struct client *client, size_t size)
{
	if (client->out_sent && client->out_size + size > client->out_capacity) {
		client->out_size -= client->out_sent;
		memmove(client->out, client->out + client->out_sent, client->out_size);
		client->out_sent = 0;
	}
	if (client->out_size + size <= client->out_capacity)
		return 0;
	size_t capacity = 2 * (client->out_size + size);
	char *bigger = realloc(client->out, capacity);
	if (!bigger)
		return -1;
	client->out = bigger;
	client->out_capacity = capacity;
	return 0;
}

static int client_queue(struct client *client, json_t *message)
{
	CLEANUP_FREE char *text = json_dumps(message, JSON_COMPACT);
	size_t size = text ? strlen(text) + 1 : 0;

	if (!text || out_reserve(client, size) < 0)
		return -1;
	text[size - 1] = '\n';
	memcpy(client->out + client->out_size, text, size);
	client->out_size += size;
	return 0;
}

void client_send(struct client *client, json_t *message)
{
	CLEANUP_JSON json_t *line = message;

	if (client->closing)
		return;
	if (client->out_size - client->out_sent > API_OUTPUT_MAX) {
		CLEANUP_JSON json_t *why = json_pack("{s:n, s:{s:s, s:s}}", "id", "event", "kind", "dropped", "reason",
			"this client does not read what it is sent; connect again and read faster");
		log_notice("api: %s dropped: %zu bytes unread", client->name, client->out_size - client->out_sent);
		client_queue(client, why);
		client_close(client, API_DRAIN_MS);
		return;
	}
	if (client_queue(client, line) < 0) {
		client_close(client, 0);
		return;
	}
	client_flush(client);
}

static void client_refuse(struct client *client, enum err_code code, const char *message, const char *hint)
{
	const struct err_info *info = err_info(code);

	client_send(client, json_pack("{s:n, s:{s:s, s:i, s:s, s:s, s:s}}", "id", "error", "code", info->name, "exit",
				    info->exit_status, "exit_name", info->exit_name, "message", message, "hint", hint));
	client_close(client, API_DRAIN_MS);
}

/* Takes every whole line out of the input. */
static void client_lines(struct client *client)
{
	size_t start = 0;

	while (!client->closing) {
		char *line = client->in + start;
		char *end = memchr(line, '\n', client->in_size - start);
		if (!end)
			break;
		calls_take_line(client, line, (size_t)(end - line));
		start += (size_t)(end - line) + 1;
	}
	client->in_size -= start;
	if (start && client->in_size)
		memmove(client->in, client->in + start, client->in_size);
	if (client->in_size > API_LINE_MAX)
		client_refuse(client, ERR_INVALID, "a call of more than 1 MiB, which is the most",
			"one call is one line of JSON; the connection ends here");
	if (!client->in_size || start)
		client->line_ms = client->in_size ? loop_now_ms(client->api->loop) : 0;
	else if (!client->line_ms)
		client->line_ms = loop_now_ms(client->api->loop);
}

static int in_reserve(struct client *client)
{
	if (client->in_capacity - client->in_size >= READ_BYTES)
		return 0;
	size_t capacity = 2 * client->in_capacity + READ_BYTES;
	char *bigger = realloc(client->in, capacity);
	if (!bigger)
		return -1;
	client->in = bigger;
	client->in_capacity = capacity;
	return 0;
}

static void client_io(void *ctx, uint32_t events)
{
	struct client *client = ctx;

	if (events & EPOLLOUT)
		client_flush(client);
	if (client->closing && (events & (EPOLLHUP | EPOLLERR))) {
		/* Nobody reads any more, and a hung-up descriptor would wake the loop for ever. */
		loop_io_cancel(client->api->loop, client->io);
		client->io = NULL;
		client->out_sent = client->out_size = 0;
	}
	if (client->closing || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return;
	if (in_reserve(client) < 0) {
		client_close(client, 0);
		return;
	}
	ssize_t got = recv(client->fd, client->in + client->in_size, READ_BYTES, MSG_DONTWAIT);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		client_close(client, 0);
		return;
	}
	client->in_size += (size_t)got;
	client->heard_ms = loop_now_ms(client->api->loop);
	client_lines(client);
}

static void client_tick(void *ctx)
{
	struct client *client = ctx;
	uint64_t now_ms = loop_now_ms(client->api->loop);

	client->timer = loop_timer_set(client->api->loop, CHECK_MS, client_tick, client);
	if (client->closing)
		return;
	if (client->line_ms && now_ms - client->line_ms > API_LINE_MS)
		client_refuse(client, ERR_TIMEOUT, "a call was begun and not ended within 10 s",
			"one call is one line of JSON with a newline at its end; connect again");
	else if (!client->call_count && !client->subscription.on && now_ms - client->heard_ms > API_IDLE_MS)
		client_refuse(client, ERR_TIMEOUT, "no call for 10 minutes", "connect again, or subscribe");
}

/* The local passwd file alone: a name service that hangs must not hang the daemon. */
static void name_of_uid(uid_t uid, char name[NAME_BYTES])
{
	char line[PASSWD_LINE_MAX];
	struct passwd entry, *found = NULL;

	snprintf(name, NAME_BYTES, "uid-%u", uid);
	CLEANUP_FILE FILE *passwd = fopen("/etc/passwd", "re");
	while (passwd && !fgetpwent_r(passwd, &entry, line, sizeof(line), &found)) {
		if (found->pw_uid != uid || !schema_text_ok(found->pw_name, strlen(found->pw_name)))
			continue;
		snprintf(name, NAME_BYTES, "%s", found->pw_name);
		return;
	}
}

/* Asked for at each call: the rights are those of the process at the other end, not of whoever opened a file. */
bool client_may_call(struct client *client)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);
	gid_t groups[PEER_GROUPS_MAX];
	gid_t group = client->api->group;

	if (getsockopt(client->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return false;
	if (peer.uid != client->uid)
		return false;
	if (peer.uid == 0)
		return true;
	if (group == API_GROUP_NONE)
		return false;
	if (peer.gid == group)
		return true;
	size = sizeof(groups);
	if (getsockopt(client->fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
		return false; /* also where there are more than fit: refuse rather than guess */
	for (size_t i = 0; i < size / sizeof(gid_t); i++)
		if (groups[i] == group)
			return true;
	return false;
}

static struct client *client_new(struct api *api, int fd)
{
	struct client *client = calloc(1, sizeof(*client));
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t size = sizeof(peer);

	if (!client)
		return NULL;
	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
	client->api = api;
	client->fd = fd;
	client->uid = peer.uid;
	client->heard_ms = loop_now_ms(api->loop);
	name_of_uid(peer.uid, client->name);
	client->io = loop_io_watch(api->loop, fd, EPOLLIN, client_io, client);
	client->timer = loop_timer_set(api->loop, CHECK_MS, client_tick, client);
	return client;
}

static void accept_one(void *ctx, uint32_t events)
{
	struct api *api = ctx;

	(void)events;
	CLEANUP_FD int fd = accept4(api->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	for (size_t i = 0; i < API_CLIENTS_MAX; i++) {
		if (api->clients[i])
			continue;
		api->clients[i] = client_new(api, fd);
		if (api->clients[i])
			(void)STEAL_FD(fd);
		return;
	}
	static const char full[] =
		"{\"id\":null,\"error\":{\"code\":\"busy\",\"exit\":75,\"exit_name\":\"CRM_EX_TEMPFAIL\","
		"\"message\":\"64 clients are connected already\",\"hint\":\"close one of them, or try again\"}}\n";
	(void)!send(fd, full, sizeof(full) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	log_warning("api: a client turned away: %d are connected", API_CLIENTS_MAX);
}

/* A socket that nobody answers on is left over from a daemon that was killed. */
static int remove_stale(const struct sockaddr_un *address, struct err *err)
{
	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;

	if (lstat(address->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : err_errno(err, errno, "%s", address->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, ERR_EXISTS, "%s exists and is not a socket", address->sun_path);
	if (!connect(fd, (const struct sockaddr *)address, sizeof(*address)) || errno == EAGAIN)
		return err_set(err, ERR_EXISTS, "%s: another daemon answers there", address->sun_path);
	if (unlink(address->sun_path) < 0)
		return err_errno(err, errno, "remove %s", address->sun_path);
	return 0;
}

static int listen_on(struct api *api, struct err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_errno(err, errno, "socket");
	memcpy(address.sun_path, api->socket_path, sizeof(api->socket_path));
	if (remove_stale(&address, err) < 0)
		return -1;
	/* The mode that bind(2) gives the file (less the umask), so that it is never wider open, not even for a moment.
	 */
	if (fchmod(fd, 0600) < 0)
		return err_errno(err, errno, "mode of %s", api->socket_path);
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return err_errno(err, errno, "bind %s", api->socket_path);
	if (api->group != API_GROUP_NONE &&
		(chown(api->socket_path, (uid_t)-1, api->group) < 0 || chmod(api->socket_path, 0660) < 0))
		return err_errno(err, errno, "group of %s", api->socket_path);
	if (listen(fd, 16) < 0)
		return err_errno(err, errno, "listen on %s", api->socket_path);
	api->fd = STEAL_FD(fd);
	return 0;
}

struct api *api_new(const struct api_config *config, struct engine *engine, struct loop *loop, struct err *err)
{
	struct api *api = calloc(1, sizeof(*api));

	if (!api) {
		err_set(err, ERR_SYSTEM, "out of memory");
		return NULL;
	}
	api->engine = engine;
	api->loop = loop;
	api->group = config->group;
	api->fd = -1;
	if (strlen(config->socket_path) >= sizeof(api->socket_path) ||
		strlen(config->run_dir) >= sizeof(api->run_dir)) {
		err_set(err, ERR_INVALID, "'%s': longer than a socket's path may be", config->socket_path);
		api_free(api);
		return NULL;
	}
	strcpy(api->socket_path, config->socket_path);
	strcpy(api->run_dir, config->run_dir);
	if (!config->worker)
		api->own_worker = worker_new(err);
	api->worker = config->worker ? config->worker : api->own_worker;
	if (!api->worker) {
		api_free(api);
		return NULL;
	}
	if (listen_on(api, err) < 0) {
		api_free(api);
		return NULL;
	}
	api->io = loop_io_watch(loop, api->fd, EPOLLIN, accept_one, api);
	watch_start(api);
	return api;
}

void api_free(struct api *api)
{
	if (!api)
		return;
	for (size_t i = 0; i < API_CLIENTS_MAX; i++)
		if (api->clients[i])
			client_free(api->clients[i]);
	disk_checks_end(api);
	worker_free(api->own_worker);
	forecast_orphan(api);
	loop_timer_cancel(api->loop, api->reap_timer);
	if (api->io)
		watch_stop(api);
	loop_io_cancel(api->loop, api->io);
	if (api->fd >= 0) {
		unlink(api->socket_path);
		close(api->fd);
	}
	free(api);
}
