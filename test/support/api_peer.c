/* SPDX-License-Identifier: Apache-2.0 */
#include "support/api_peer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static bool is_ready(struct api_fixture *f)
{
	for (uint32_t id = 1; id <= WORLD_NODES; id++)
		if (cluster_node(engine_cluster(world_engine(f->world, 1)), id)->state != NODE_ONLINE)
			return false;
	return true;
}

int api_fixture_setup(void **state)
{
	struct api_fixture *f = calloc(1, sizeof(*f));
	struct err err;

	strcpy(f->dir, "/tmp/watari-api-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/api.sock", f->dir);
	snprintf(f->disk, sizeof(f->disk), "%s/web.raw", f->dir);
	int fd = open(f->disk, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && !ftruncate(fd, 1 << 20));
	close(fd);
	f->loop = poll_loop_new();
	f->world = world_new(f->loop);
	struct api_config config = {.socket_path = f->path, .group = API_GROUP_NONE, .run_dir = "/run/watari"};
	f->api = api_new(&config, world_engine(f->world, 1), f->loop, &err);
	assert_non_null(f->api);
	for (int i = 0; i < 5000 && !is_ready(f); i++)
		poll_loop_once(f->loop, 5);
	assert_true(is_ready(f));
	*state = f;
	return 0;
}

int api_fixture_teardown(void **state)
{
	struct api_fixture *f = *state;

	api_free(f->api);
	world_free(f->world);
	poll_loop_free(f->loop);
	unlink(f->disk);
	assert_int_equal(rmdir(f->dir), 0); /* the socket is gone, too */
	free(f);
	return 0;
}

struct peer *peer_new(struct api_fixture *f)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct peer *peer = calloc(1, sizeof(*peer));

	peer->f = f;
	peer->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	strcpy(address.sun_path, f->path);
	assert_int_equal(connect(peer->fd, (struct sockaddr *)&address, sizeof(address)), 0);
	poll_loop_once(f->loop, 0);
	return peer;
}

void peer_free(struct peer *peer)
{
	close(peer->fd);
	poll_loop_once(peer->f->loop, 0);
	poll_loop_once(peer->f->loop, 0);
	free(peer->in);
	free(peer);
}

void peer_put(struct peer *peer, const char *bytes, size_t size)
{
	for (int idle = 0; size && idle < 1000;) {
		ssize_t sent = send(peer->fd, bytes, size, MSG_NOSIGNAL);
		if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
			return; /* hung up on: the test looks at what was said */
		if (sent > 0) {
			bytes += sent;
			size -= (size_t)sent;
		} else {
			idle++;
		}
		poll_loop_once(peer->f->loop, 0);
	}
}

void peer_say(struct peer *peer, const char *line)
{
	peer_put(peer, line, strlen(line));
	peer_put(peer, "\n", 1);
}

json_t *peer_hear(struct peer *peer)
{
	for (int i = 0; i < 4000; i++) {
		char *end = peer->size ? memchr(peer->in, '\n', peer->size) : NULL;
		if (end) {
			json_t *json = json_loadb(peer->in, (size_t)(end - peer->in), 0, NULL);
			assert_non_null(json);
			peer->size -= (size_t)(end - peer->in) + 1;
			memmove(peer->in, end + 1, peer->size);
			return json;
		}
		if (peer->eof)
			return NULL;
		if (peer->capacity - peer->size < 65536)
			peer->in = realloc(peer->in, peer->capacity += 1 << 20);
		ssize_t got = recv(peer->fd, peer->in + peer->size, 65536, 0);
		if (got > 0)
			peer->size += (size_t)got;
		else if (!got || (errno != EAGAIN && errno != EINTR))
			peer->eof = true;
		else
			poll_loop_once(peer->f->loop, 5);
	}
	fail_msg("no answer");
	return NULL;
}

const char *peer_text(const json_t *json, const char *a, const char *b)
{
	const char *text = json_string_value(json_object_get(json_object_get(json, a), b));

	return text ? text : "";
}

void peer_refused(struct peer *peer, const char *line, const char *code, const char *holds)
{
	peer_say(peer, line);
	CLEANUP_JSON json_t *answer = peer_hear(peer);
	assert_non_null(answer);
	if (strcmp(peer_text(answer, "error", "code"), code) != 0 ||
		!strstr(peer_text(answer, "error", "message"), holds))
		fail_msg("%.80s gave %s", line, json_dumps(answer, 0));
}

json_t *peer_answer(struct peer *peer, const char *line, json_int_t id)
{
	peer_say(peer, line);
	for (;;) {
		json_t *answer = peer_hear(peer);
		assert_non_null(answer);
		if (!json_object_get(answer, "event") && json_integer_value(json_object_get(answer, "id")) == id)
			return answer;
		json_decref(answer);
	}
}

void peer_create_web(struct peer *peer)
{
	char line[512];

	snprintf(line, sizeof(line),
		"{\"id\":1,\"call\":\"vm.create\",\"args\":{\"definition\":{\"name\":\"web\",\"memory_mib\":512,"
		"\"disks\":[{\"path\":\"%s\"}],\"nics\":[{\"bridge\":\"br0\"}]}}}",
		peer->f->disk);
	CLEANUP_JSON json_t *answer = peer_answer(peer, line, 1);
	if (!json_object_get(answer, "result"))
		fail_msg("%s", json_dumps(answer, 0));
}
