/* SPDX-License-Identifier: Apache-2.0
 * The API's socket as a hostile client meets it (faults D1, D2, D4): framing, bounds, wrong JSON, slow readers; and
 * what an honest one may rely on. A real socket and real engines in one process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "api/api.h"
#include "base/json.h"
#include "support/poll_loop.h"
#include "support/world.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

struct fixture {
	struct loop *loop;
	struct world *world;
	struct api *api;
	char dir[64];
	char path[96];
	char disk[96];
};

struct peer {
	struct fixture *f;
	int fd;
	char *in;
	size_t size, capacity;
	bool eof;
};

static bool is_ready(struct fixture *f)
{
	for (uint32_t id = 1; id <= WORLD_NODES; id++)
		if (cluster_node(engine_cluster(world_engine(f->world, 1)), id)->state != NODE_ONLINE)
			return false;
	return true;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
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

static int teardown(void **state)
{
	struct fixture *f = *state;

	api_free(f->api);
	world_free(f->world);
	poll_loop_free(f->loop);
	unlink(f->disk);
	assert_int_equal(rmdir(f->dir), 0); /* the socket is gone, too */
	free(f);
	return 0;
}

static struct peer *peer_new(struct fixture *f)
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

static void peer_free(struct peer *peer)
{
	close(peer->fd);
	poll_loop_once(peer->f->loop, 0);
	poll_loop_once(peer->f->loop, 0);
	free(peer->in);
	free(peer);
}

static void put(struct peer *peer, const char *bytes, size_t size)
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

static void say(struct peer *peer, const char *line)
{
	put(peer, line, strlen(line));
	put(peer, "\n", 1);
}

/* The next line as JSON, or NULL at the end of the connection. */
static json_t *hear(struct peer *peer)
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

static const char *text_at(const json_t *json, const char *a, const char *b)
{
	const char *text = json_string_value(json_object_get(json_object_get(json, a), b));

	return text ? text : "";
}

/* Says a line, wants an error of this code whose message holds this text. */
static void refused(struct peer *peer, const char *line, const char *code, const char *holds)
{
	say(peer, line);
	CLEANUP_JSON json_t *answer = hear(peer);
	assert_non_null(answer);
	if (strcmp(text_at(answer, "error", "code"), code) != 0 || !strstr(text_at(answer, "error", "message"), holds))
		fail_msg("%.80s gave %s", line, json_dumps(answer, 0));
}

/* The answer with this id; events in between are skipped. */
static json_t *answer_to(struct peer *peer, const char *line, json_int_t id)
{
	say(peer, line);
	for (;;) {
		json_t *answer = hear(peer);
		assert_non_null(answer);
		if (!json_object_get(answer, "event") && json_integer_value(json_object_get(answer, "id")) == id)
			return answer;
		json_decref(answer);
	}
}

static void create_web(struct peer *peer)
{
	char line[512];

	snprintf(line, sizeof(line),
		"{\"id\":1,\"call\":\"vm.create\",\"args\":{\"definition\":{\"name\":\"web\",\"memory_mib\":512,"
		"\"disks\":[{\"path\":\"%s\"}],\"nics\":[{\"bridge\":\"br0\"}]}}}",
		peer->f->disk);
	CLEANUP_JSON json_t *answer = answer_to(peer, line, 1);
	if (!json_object_get(answer, "result"))
		fail_msg("%s", json_dumps(answer, 0));
}

static void the_socket_is_for_root_alone(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void a_call_may_come_byte_by_byte(void **state)
{
	struct peer *peer = peer_new(*state);
	static const char call[] = "{\"id\":5,\"call\":\"cluster.status\"}\n";

	for (size_t i = 0; call[i]; i++)
		put(peer, call + i, 1);
	CLEANUP_JSON json_t *answer = hear(peer);
	assert_int_equal(json_integer_value(json_object_get(answer, "id")), 5);
	assert_true(json_is_true(json_object_get(json_object_get(answer, "result"), "quorate")));
	peer_free(peer);
}

static void calls_in_one_packet_are_all_answered(void **state)
{
	struct peer *peer = peer_new(*state);
	char all[1024] = "";

	for (int i = 1; i <= 10; i++) {
		size_t used = strlen(all);
		snprintf(all + used, sizeof(all) - used, "{\"id\":%d,\"call\":\"node.list\"}\n", i);
	}
	put(peer, all, strlen(all));
	for (int i = 1; i <= 10; i++) {
		CLEANUP_JSON json_t *answer = hear(peer);
		assert_int_equal(json_integer_value(json_object_get(answer, "id")), i);
		assert_int_equal(json_array_size(json_object_get(json_object_get(answer, "result"), "nodes")), 3);
	}
	peer_free(peer);
}

static void bad_lines_are_refused_and_the_connection_lives(void **state)
{
	static const struct {
		const char *line, *code, *holds;
	} bad[] = {
		{"", "invalid", "not JSON"},
		{"hello", "invalid", "not JSON"},
		{"[]", "invalid", "a call is an object"},
		{"{}", "invalid", "id: a whole number"},
		{"{\"id\":-1,\"call\":\"api.list\"}", "invalid", "id: a whole number"},
		{"{\"id\":1.5,\"call\":\"api.list\"}", "invalid", "id: a whole number"},
		{"{\"id\":18446744073709551617,\"call\":\"api.list\"}", "invalid", "not JSON: too big integer"},
		{"{\"id\":NaN,\"call\":\"api.list\"}", "invalid", "not JSON"},
		{"{\"id\":1,\"id\":2,\"call\":\"api.list\"}", "invalid", "duplicate"},
		{"{\"id\":1}", "invalid", "call: text expected"},
		{"{\"id\":1,\"call\":\"vm.explode\"}", "usage", "no call 'vm.explode'"},
		{"{\"id\":1,\"call\":\"api.list\",\"sudo\":true}", "usage", "unknown key 'sudo'"},
		{"{\"id\":1,\"call\":\"api.list\",\"args\":[]}", "invalid", "args: an object"},
		{"{\"id\":1,\"call\":\"api.list\",\"args\":{\"x\":1}}", "usage", "takes no argument 'x'"},
		{"{\"id\":1,\"call\":\"vm.show\"}", "usage", "needs the argument 'vm'"},
		{"{\"id\":1,\"call\":\"vm.show\",\"args\":{\"vm\":5}}", "invalid", "vm: text expected"},
		{"{\"id\":1,\"call\":\"vm.show\",\"args\":{\"vm\":\"\"}}", "invalid", "vm: must not be empty"},
		{"{\"id\":1,\"call\":\"vm.show\",\"args\":{\"vm\":\"a\\nb\"}}", "invalid", "control characters"},
		{"{\"id\":1,\"call\":\"vm.show\",\"args\":{\"vm\":\"a\\u0000b\"}}", "invalid", "not JSON"},
		{"{\"id\":1,\"call\":\"vm.show\",\"args\":{\"vm\":\"../x\"}}", "invalid", "'../x' is no VM's name"},
		{"{\"id\":1,\"call\":\"vm.show\",\"args\":{\"vm\":\"-x\"}}", "invalid", "'-x' is no VM's name"},
		{"{\"id\":1,\"call\":\"vm.show\",\"args\":{\"vm\":\"nobody\"}}", "not-found", "no VM 'nobody'"},
		{"{\"id\":1,\"call\":\"vm.show\",\"args\":{\"vm\":\"\xff\"}}", "invalid", "not JSON"},
		{"{\"id\":1,\"call\":\"task.show\",\"args\":{\"task\":-1}}", "invalid", "task: a whole number"},
		{"{\"id\":1,\"call\":\"task.show\",\"args\":{\"task\":99}}", "not-found", "no task 99"},
		{"{\"id\":1,\"call\":\"vm.list\",\"args\":{\"limit\":1001}}", "invalid",
			"limit: a whole number from 0 to 1000"},
		{"[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]", "invalid", "nested deeper"},
	};
	struct peer *peer = peer_new(*state);

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refused(peer, bad[i].line, bad[i].code, bad[i].holds);
	CLEANUP_JSON json_t *answer = answer_to(peer, "{\"id\":7,\"call\":\"api.list\"}", 7);
	assert_non_null(json_object_get(answer, "result"));
	peer_free(peer);
}

static void a_million_brackets_cost_nothing(void **state)
{
	struct peer *peer = peer_new(*state);
	size_t size = 1000000;
	CLEANUP_FREE char *brackets = malloc(size + 1);

	memset(brackets, '[', size);
	brackets[size] = '\0';
	refused(peer, brackets, "invalid", "nested deeper");
	peer_free(peer);
}

/* A gigabyte without a newline is never held: the client is told and hung up on behind the first MiB. */
static void an_endless_line_ends_the_connection(void **state)
{
	struct peer *peer = peer_new(*state);
	CLEANUP_FREE char *block = malloc(1 << 20);

	memset(block, 'x', 1 << 20);
	for (int i = 0; i < 3; i++)
		put(peer, block, 1 << 20);
	CLEANUP_JSON json_t *answer = hear(peer);
	assert_non_null(strstr(text_at(answer, "error", "message"), "more than 1 MiB"));
	assert_null(hear(peer));
	peer_free(peer);
}

static void a_64_kib_name_is_refused_with_its_rule(void **state)
{
	struct peer *peer = peer_new(*state);
	CLEANUP_FREE char *line = malloc(70000);
	int used = sprintf(line, "{\"id\":1,\"call\":\"vm.show\",\"args\":{\"vm\":\"");

	memset(line + used, 'a', 65536);
	strcpy(line + used + 65536, "\"}}");
	refused(peer, line, "invalid", "vm: 65536 bytes, at most 63 are allowed");
	used = sprintf(line, "{\"id\":1,\"call\":\"vm.create\",\"args\":{\"definition\":{\"name\":\"");
	memset(line + used, 'a', 65536);
	strcpy(line + used + 65536, "\"}}}");
	refused(peer, line, "invalid", "name: 65536 bytes, at most 63 are allowed");
	peer_free(peer);
}

static void bad_definitions_name_the_rule(void **state)
{
	static const struct {
		const char *definition, *code, *holds;
	} bad[] = {
		{"{}", "invalid", "name"},
		{"{\"name\":\"web\",\"memory_mib\":0}", "invalid", "memory 0 MiB: allowed are 16"},
		{"{\"name\":\"web\",\"memory_mib\":-5}", "invalid", "memory_mib: a whole number from 0"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"vcpus\":1000000000}", "invalid", "vCPUs: allowed are 1 to 256"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"vcpus\":1e9}", "invalid", "vcpus: a whole number"},
		{"{\"name\":\"web\",\"memory_mib\":64}", "invalid", "nothing to boot from"},
		{"{\"name\":\"../web\",\"memory_mib\":64}", "invalid", "name '../web'"},
		{"{\"name\":\"web;reboot\",\"memory_mib\":64}", "invalid", "name 'web;reboot'"},
		{"{\"name\":\"w\xd0\xb5"
		 "b\",\"memory_mib\":64}",
			"invalid", "1 to 63 of a-z"},
		{"{\"name\":\"web\",\"memory\":64}", "invalid", "unknown key 'memory'"},
		{"{\"name\":\"web\",\"policy\":{\"preferred\":[\"n9\"]}}", "not-found", "preferred: no node 'n9'"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"kernel\":\"/bin/sh\",\"policy\":{\"heartbeat_s\":5}}", "invalid",
			"heartbeat_s 5: allowed are 10 to 3600 s"},
		{"{\"name\":\"web\",\"policy\":{\"possible\":[1]}}", "invalid", "possible: no node"},
		{"{\"name\":\"web\",\"policy\":{\"possible\":7}}", "invalid", "a list of nodes' names"},
		{"{\"name\":\"web\",\"policy\":{\"restarts\":7}}", "invalid", "unknown key 'restarts'"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"disks\":[{\"path\":\"exec:reboot\"}]}", "invalid",
			"must be an absolute path"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"disks\":[{\"path\":\"/no/such/disk\"}]}", "not-found",
			"disk disk0: /no/such/disk"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"disks\":[{\"path\":\"/tmp\"}]}", "invalid",
			"/tmp is a directory"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"disks\":[{\"path\":\"/dev/null\"}]}", "invalid",
			"neither a file nor a block device"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"kernel\":\"/no/vmlinuz\"}", "not-found", "kernel: /no/vmlinuz"},
	};
	struct peer *peer = peer_new(*state);
	char line[1024];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(line, sizeof(line), "{\"id\":1,\"call\":\"vm.create\",\"args\":{\"definition\":%s}}",
			bad[i].definition);
		refused(peer, line, bad[i].code, bad[i].holds);
	}
	peer_free(peer);
}

static void a_disk_of_another_format_is_refused(void **state)
{
	struct fixture *f = *state;
	struct peer *peer = peer_new(f);
	char line[512];

	snprintf(line, sizeof(line),
		"{\"id\":1,\"call\":\"vm.create\",\"args\":{\"definition\":{\"name\":\"web\",\"memory_mib\":64,"
		"\"disks\":[{\"path\":\"%s\",\"format\":\"qcow2\"}]}}}",
		f->disk);
	refused(peer, line, "invalid", "is no qcow2 image, the definition says format qcow2");
	peer_free(peer);
}

static void a_vm_is_created_pinned_and_moved(void **state)
{
	struct fixture *f = *state;
	struct peer *peer = peer_new(f);

	create_web(peer);
	CLEANUP_JSON json_t *vm = answer_to(peer, "{\"id\":2,\"call\":\"vm.show\",\"args\":{\"vm\":\"web\"}}", 2);
	const json_t *definition = json_object_get(json_object_get(vm, "result"), "definition");
	assert_int_equal(strlen(json_string_value(json_object_get(definition, "uuid"))), 36);
	assert_string_equal(json_string_value(json_object_get(definition, "machine")), "pc-q35-7.2");
	assert_string_equal(json_string_value(json_object_get(definition, "panic_device")), "isa");
	assert_string_equal(json_string_value(json_object_get(definition, "guest_agent")), "none");
	const json_t *nic = json_array_get(json_object_get(definition, "nics"), 0);
	assert_int_equal(strncmp(json_string_value(json_object_get(nic, "mac")), "52:54:00:", 9), 0);

	CLEANUP_JSON json_t *subscribed =
		answer_to(peer, "{\"id\":3,\"call\":\"subscribe\",\"args\":{\"vm\":\"web\"}}", 3);
	assert_non_null(json_object_get(subscribed, "result"));
	refused(peer, "{\"id\":4,\"call\":\"subscribe\"}", "exists", "a subscription already");
	CLEANUP_JSON json_t *start =
		answer_to(peer, "{\"id\":5,\"call\":\"vm.start\",\"args\":{\"vm\":\"web\",\"node\":\"n1\"}}", 5);
	char line[128];
	snprintf(line, sizeof(line), "{\"id\":6,\"call\":\"task.wait\",\"args\":{\"task\":%lld}}",
		(long long)json_integer_value(json_object_get(json_object_get(start, "result"), "task")));
	CLEANUP_JSON json_t *started = answer_to(peer, line, 6);
	assert_string_equal(text_at(started, "result", "state"), "done");

	CLEANUP_JSON json_t *move =
		answer_to(peer, "{\"id\":7,\"call\":\"vm.move\",\"args\":{\"vm\":\"web\",\"target\":\"n2\"}}", 7);
	json_int_t task = json_integer_value(json_object_get(json_object_get(move, "result"), "task"));
	assert_true(task > 0);
	snprintf(line, sizeof(line), "{\"id\":8,\"call\":\"task.wait\",\"args\":{\"task\":%lld}}", (long long)task);
	say(peer, line);
	/* News of every kind comes before the end of the task is told. */
	bool saw_vm = false, saw_progress = false, saw_task = false;
	for (bool ended = false; !ended;) {
		CLEANUP_JSON json_t *message = hear(peer);
		assert_non_null(message);
		const char *kind = text_at(message, "event", "kind");
		saw_vm |= !strcmp(kind, "vm");
		saw_progress |= !strcmp(kind, "progress");
		saw_task |= !strcmp(kind, "task");
		if (json_object_get(message, "event"))
			assert_int_equal(json_integer_value(json_object_get(message, "id")), 3);
		if (json_integer_value(json_object_get(message, "id")) != 8)
			continue;
		ended = true;
		assert_string_equal(text_at(message, "result", "state"), "done");
		const json_t *spans = json_object_get(json_object_get(message, "result"), "spans_us");
		assert_true(json_integer_value(json_object_get(spans, "blackout")) > 0);
	}
	assert_true(saw_vm && saw_progress && saw_task);
	refused(peer, "{\"id\":9,\"call\":\"vm.console\",\"args\":{\"vm\":\"web\"}}", "unfit",
		"runs on n2, this is n1");
	peer_free(peer);
}

static void a_dry_run_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct peer *peer = peer_new(f);

	create_web(peer);
	uint64_t index = engine_cluster(world_engine(f->world, 1))->index;
	CLEANUP_JSON json_t *start =
		answer_to(peer, "{\"id\":2,\"call\":\"vm.start\",\"args\":{\"vm\":\"web\",\"dry_run\":true}}", 2);
	assert_true(json_is_true(json_object_get(json_object_get(start, "result"), "dry_run")));
	refused(peer, "{\"id\":3,\"call\":\"vm.stop\",\"args\":{\"vm\":\"web\",\"dry_run\":true}}", "unfit", "web");
	assert_int_equal(engine_cluster(world_engine(f->world, 1))->index, index);
	peer_free(peer);
}

/* A creation that asks for a heartbeat has the channel; an edit would change the machine, and says so. */
static void a_heartbeat_needs_the_agents_channel(void **state)
{
	struct fixture *f = *state;
	struct peer *peer = peer_new(f);
	char line[512];

	create_web(peer);
	snprintf(line, sizeof(line),
		"{\"id\":2,\"call\":\"vm.edit\",\"args\":{\"vm\":\"web\",\"definition\":{\"name\":\"web\",\"memory_mib\":512,"
		"\"disks\":[{\"path\":\"%s\"}],\"policy\":{\"heartbeat_s\":30}}}}",
		f->disk);
	refused(peer, line, "invalid", "'vm edit web --guest-agent virtio' adds one");
	snprintf(line, sizeof(line),
		"{\"id\":3,\"call\":\"vm.create\",\"args\":{\"definition\":{\"name\":\"beat\",\"memory_mib\":64,"
		"\"kernel\":\"%s\",\"policy\":{\"heartbeat_s\":30}}}}",
		f->disk);
	CLEANUP_JSON json_t *created = answer_to(peer, line, 3);
	assert_non_null(json_object_get(created, "result"));
	CLEANUP_JSON json_t *vm = answer_to(peer, "{\"id\":4,\"call\":\"vm.show\",\"args\":{\"vm\":\"beat\"}}", 4);
	const json_t *definition = json_object_get(json_object_get(vm, "result"), "definition");
	assert_string_equal(json_string_value(json_object_get(definition, "guest_agent")), "virtio");
	peer_free(peer);
}

/* An edit is refused where somebody else's came in between, not silently won by the later one. */
static void an_edit_does_not_overwrite_anothers(void **state)
{
	struct fixture *f = *state;
	struct peer *peer = peer_new(f);

	create_web(peer);
	CLEANUP_JSON json_t *vm = answer_to(peer, "{\"id\":2,\"call\":\"vm.show\",\"args\":{\"vm\":\"web\"}}", 2);
	json_t *was = json_object_get(json_object_get(vm, "result"), "definition");
	CLEANUP_JSON json_t *mine = json_deep_copy(was);
	json_object_set_new(mine, "memory_mib", json_integer(256));
	CLEANUP_JSON json_t *call = json_pack("{s:i, s:s, s:{s:s, s:O, s:O}}", "id", 3, "call", "vm.edit", "args", "vm",
		"web", "was", was, "definition", mine);
	CLEANUP_FREE char *line = json_dumps(call, JSON_COMPACT);
	CLEANUP_JSON json_t *first = answer_to(peer, line, 3);
	assert_non_null(json_object_get(first, "result"));
	refused(peer, line, "busy", "was changed by somebody else");
	peer_free(peer);
}

/* People know nodes by name: what is written with names is shown with names, in the same order. */
static void owners_are_told_by_name(void **state)
{
	struct fixture *f = *state;
	struct peer *peer = peer_new(f);

	create_web(peer);
	CLEANUP_JSON json_t *vm = answer_to(peer, "{\"id\":2,\"call\":\"vm.show\",\"args\":{\"vm\":\"web\"}}", 2);
	json_t *mine = json_object_get(json_object_get(vm, "result"), "definition");
	json_t *policy = json_pack("{s:[ss], s:[ss], s:s, s:i, s:i}", "preferred", "n2", "n1", "possible", "n1", "n2",
		"failback", "window", "failback_from_hour", 22, "failback_to_hour", 4);
	json_object_update(json_object_get(mine, "policy"), policy);
	CLEANUP_JSON json_t *call = json_pack(
		"{s:i, s:s, s:{s:s, s:O}}", "id", 3, "call", "vm.edit", "args", "vm", "web", "definition", mine);
	CLEANUP_FREE char *line = json_dumps(call, JSON_COMPACT);
	CLEANUP_JSON json_t *edited = answer_to(peer, line, 3);
	assert_non_null(json_object_get(edited, "result"));
	CLEANUP_JSON json_t *after = answer_to(peer, "{\"id\":4,\"call\":\"vm.show\",\"args\":{\"vm\":\"web\"}}", 4);
	const json_t *shown = json_object_get(json_object_get(json_object_get(after, "result"), "definition"), "policy");
	assert_true(json_equal(json_object_get(shown, "preferred"), json_object_get(policy, "preferred")));
	assert_true(json_equal(json_object_get(shown, "possible"), json_object_get(policy, "possible")));
	assert_int_equal(cluster_vm_find(engine_cluster(world_engine(f->world, 1)), "web")->def.policy.possible, 3);
	json_decref(policy);
	peer_free(peer);
}

static void without_quorum_it_says_so(void **state)
{
	struct fixture *f = *state;
	struct peer *peer = peer_new(f);

	create_web(peer);
	world_cut(f->world, 1, true);
	for (int i = 0; i < 20; i++)
		poll_loop_once(f->loop, 1);
	refused(peer, "{\"id\":1,\"call\":\"vm.start\",\"args\":{\"vm\":\"web\"}}", "no-quorum",
		"cannot change the cluster");
	/* What was committed can still be read. */
	CLEANUP_JSON json_t *list = answer_to(peer, "{\"id\":2,\"call\":\"vm.list\"}", 2);
	assert_int_equal(json_array_size(json_object_get(json_object_get(list, "result"), "vms")), 1);
	peer_free(peer);
}

/* A daemon that was just started, or is cut off, does not know all tasks: it must not say that there is none. */
static void a_node_out_of_sync_denies_no_task(void **state)
{
	struct fixture *f = *state;
	struct peer *peer = peer_new(f);

	world_cut(f->world, 1, true);
	for (int i = 0; i < 20; i++)
		poll_loop_once(f->loop, 1);
	say(peer, "{\"id\":1,\"call\":\"task.wait\",\"args\":{\"task\":999}}");
	refused(peer, "{\"id\":2,\"call\":\"task.show\",\"args\":{\"task\":999}}", "not-found", "no task 999");
	world_cut(f->world, 1, false);
	CLEANUP_JSON json_t *answer = hear(peer);
	assert_int_equal(json_integer_value(json_object_get(answer, "id")), 1);
	assert_string_equal(text_at(answer, "error", "code"), "not-found");
	peer_free(peer);
}

/* It gets what was there, then the reason, then the end; the others are served on. */
static void a_slow_reader_is_dropped_with_the_reason(void **state)
{
	struct fixture *f = *state;
	struct peer *slow = peer_new(f), *other = peer_new(f);
	static const char call[] = "{\"id\":1,\"call\":\"api.list\"}\n";
	bool told = false;

	for (int i = 0; i < 20000; i++) {
		if (send(slow->fd, call, sizeof(call) - 1, MSG_NOSIGNAL) < 0)
			break;
		poll_loop_once(f->loop, 0);
	}
	CLEANUP_JSON json_t *answer = answer_to(other, "{\"id\":2,\"call\":\"node.list\"}", 2);
	assert_non_null(json_object_get(answer, "result"));
	for (json_t *line = hear(slow); line; line = hear(slow)) {
		told |= !strcmp(text_at(line, "event", "kind"), "dropped");
		json_decref(line);
	}
	assert_true(told);
	peer_free(slow);
	peer_free(other);
}

static void outstanding_calls_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct peer *peer = peer_new(f);
	char line[128];

	create_web(peer);
	world_set_copy_ms(f->world, 100000);
	CLEANUP_JSON json_t *start = answer_to(peer, "{\"id\":2,\"call\":\"vm.start\",\"args\":{\"vm\":\"web\"}}", 2);
	snprintf(line, sizeof(line), "{\"id\":3,\"call\":\"task.wait\",\"args\":{\"task\":%lld}}",
		(long long)json_integer_value(json_object_get(json_object_get(start, "result"), "task")));
	CLEANUP_JSON json_t *started = answer_to(peer, line, 3);
	assert_string_equal(text_at(started, "result", "state"), "done");
	CLEANUP_JSON json_t *save = answer_to(peer, "{\"id\":4,\"call\":\"vm.save\",\"args\":{\"vm\":\"web\"}}", 4);
	json_int_t task = json_integer_value(json_object_get(json_object_get(save, "result"), "task"));
	for (int i = 0; i < API_CALLS_MAX; i++) {
		snprintf(line, sizeof(line),
			"{\"id\":%d,\"call\":\"task.wait\",\"args\":{\"task\":%lld,\"timeout_ms\":300}}", 10 + i,
			(long long)task);
		say(peer, line);
	}
	refused(peer, "{\"id\":99,\"call\":\"node.list\"}", "busy", "16 calls of this client are outstanding");
	for (int i = 0; i < API_CALLS_MAX; i++) {
		CLEANUP_JSON json_t *over = hear(peer);
		assert_string_equal(text_at(over, "error", "code"), "timeout");
	}
	CLEANUP_JSON json_t *answer = answer_to(peer, "{\"id\":100,\"call\":\"node.list\"}", 100);
	assert_non_null(json_object_get(answer, "result"));
	peer_free(peer);
}

/* Gone in the middle of a wait, of a disk check, of a submission: nothing is answered to a client that is not there. */
static void a_client_may_vanish_at_any_time(void **state)
{
	struct fixture *f = *state;
	char line[512];

	snprintf(line, sizeof(line),
		"{\"id\":1,\"call\":\"vm.create\",\"args\":{\"definition\":{\"name\":\"web\",\"memory_mib\":512,"
		"\"disks\":[{\"path\":\"%s\"}]}}}",
		f->disk);
	for (int steps = 0; steps < 12; steps++) {
		struct peer *peer = peer_new(f);
		put(peer, line, strlen(line));
		put(peer, "\n", 1);
		for (int i = 0; i < steps; i++)
			poll_loop_once(f->loop, 1);
		peer_free(peer);
	}
	struct peer *peer = peer_new(f);
	CLEANUP_JSON json_t *answer = answer_to(peer, "{\"id\":2,\"call\":\"cluster.status\"}", 2);
	assert_non_null(json_object_get(answer, "result"));
	peer_free(peer);
}

static void clients_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct peer *peers[API_CLIENTS_MAX];

	for (int i = 0; i < API_CLIENTS_MAX; i++)
		peers[i] = peer_new(f);
	struct peer *late = peer_new(f);
	CLEANUP_JSON json_t *answer = hear(late);
	assert_string_equal(text_at(answer, "error", "code"), "busy");
	assert_null(hear(late));
	peer_free(late);
	for (int i = 0; i < API_CLIENTS_MAX; i++)
		peer_free(peers[i]);
	struct peer *next = peer_new(f);
	CLEANUP_JSON json_t *served = answer_to(next, "{\"id\":1,\"call\":\"node.list\"}", 1);
	assert_non_null(json_object_get(served, "result"));
	peer_free(next);
}

/* A second daemon must not take the socket of one that lives; one that was killed leaves it behind, and is replaced. */
static void a_live_socket_is_not_stolen(void **state)
{
	struct fixture *f = *state;
	struct api_config config = {.socket_path = f->path, .group = API_GROUP_NONE, .run_dir = "/run/watari"};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct err err;

	assert_null(api_new(&config, world_engine(f->world, 2), f->loop, &err));
	assert_int_equal(err.code, ERR_EXISTS);
	api_free(f->api);
	int dead = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(address.sun_path, f->path);
	assert_int_equal(bind(dead, (struct sockaddr *)&address, sizeof(address)), 0);
	close(dead);
	f->api = api_new(&config, world_engine(f->world, 1), f->loop, &err);
	assert_non_null(f->api);
}

/* Ten half calls must not hold ten places for ever; who waits for a task, or listens, may be silent for as long. */
static void who_says_nothing_is_told_goodbye(void **state)
{
	struct fixture *f = *state;
	struct peer *half = peer_new(f), *idle = peer_new(f), *listener = peer_new(f);

	put(half, "{\"id\":1,", 8);
	CLEANUP_JSON json_t *subscribed = answer_to(listener, "{\"id\":3,\"call\":\"subscribe\",\"args\":{}}", 3);
	assert_non_null(json_object_get(subscribed, "result"));
	poll_loop_skip(f->loop, API_LINE_MS + 2000);
	CLEANUP_JSON json_t *late = hear(half);
	assert_non_null(strstr(text_at(late, "error", "message"), "not ended within 10 s"));
	assert_null(hear(half));
	CLEANUP_JSON json_t *alive = answer_to(idle, "{\"id\":2,\"call\":\"node.list\"}", 2);
	assert_non_null(json_object_get(alive, "result"));
	poll_loop_skip(f->loop, API_IDLE_MS + 2000);
	CLEANUP_JSON json_t *goodbye = hear(idle);
	assert_non_null(strstr(text_at(goodbye, "error", "message"), "no call for 10 minutes"));
	assert_null(hear(idle));
	CLEANUP_JSON json_t *still = answer_to(listener, "{\"id\":4,\"call\":\"node.list\"}", 4);
	assert_non_null(json_object_get(still, "result"));
	peer_free(half);
	peer_free(idle);
	peer_free(listener);
}

/* As another user: what this process, with these groups, is answered. Runs in a child. */
static void call_as(struct fixture *f, uid_t uid, gid_t gid, char answer[256])
{
	int pipes[2];

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		struct sockaddr_un address = {.sun_family = AF_UNIX};
		static const char call[] = "{\"id\":1,\"call\":\"node.list\"}\n";
		char line[255] = "";
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		strcpy(address.sun_path, f->path);
		if (syscall(SYS_setgroups, 1, &gid) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
			snprintf(line, sizeof(line), "cannot change user");
		else if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
			snprintf(line, sizeof(line), "connect: %s", strerror(errno));
		else if (send(fd, call, sizeof(call) - 1, MSG_NOSIGNAL) > 0)
			(void)!recv(fd, line, sizeof(line) - 1, 0);
		(void)!write(pipes[1], line, strlen(line) + 1);
		_exit(0);
	}
	int status;
	while (waitpid(child, &status, WNOHANG) == 0)
		poll_loop_once(f->loop, 10);
	close(pipes[1]);
	assert_true(read(pipes[0], answer, 255) > 0);
	close(pipes[0]);
}

/* Fault D4. The file's mode keeps others out; were it wide open, the credentials of the caller would. */
static void a_caller_without_the_right_is_refused(void **state)
{
	struct fixture *f = *state;
	struct err err;
	char answer[256];
	enum { NOBODY = 65534, FRIENDS = 54321 };

	if (geteuid() != 0)
		skip();
	assert_int_equal(chmod(f->dir, 0755), 0);
	call_as(f, NOBODY, NOBODY, answer);
	assert_string_equal(answer, "connect: Permission denied");
	assert_int_equal(chmod(f->path, 0666), 0);
	call_as(f, NOBODY, NOBODY, answer);
	assert_non_null(strstr(answer, "\"denied\""));
	api_free(f->api);
	struct api_config config = {.socket_path = f->path, .group = FRIENDS, .run_dir = "/run/watari"};
	f->api = api_new(&config, world_engine(f->world, 1), f->loop, &err);
	assert_non_null(f->api);
	call_as(f, NOBODY, NOBODY, answer);
	assert_string_equal(answer, "connect: Permission denied");
	call_as(f, NOBODY, FRIENDS, answer); /* as a supplementary group, as login gives it */
	if (!strstr(answer, "\"result\""))
		fail_msg("%s", answer);
}

#define SET_N2                                                                                                         \
	"{\"id\":1,\"call\":\"fence.set\",\"args\":{\"create\":true,\"device\":{\"name\":\"ipmi-n2\",\"node\":\"n2\","              \
	"\"agent\":\"fence_ipmilan\",\"options\":[{\"name\":\"ip\",\"value\":\"192.0.2.2\"}]}}}"

static void done(struct peer *peer, const char *line)
{
	CLEANUP_JSON json_t *answer = answer_to(peer, line, 1);

	if (!json_object_get(answer, "result"))
		fail_msg("%.80s gave %s", line, json_dumps(answer, 0));
}

static void fence_devices_are_checked_kept_and_shown(void **state)
{
	struct peer *peer = peer_new(*state);

	refused(peer, "{\"id\":1,\"call\":\"fence.set\",\"args\":{\"device\":{\"name\":\"a\",\"node\":\"n9\"}}}", "not-found",
		"no node 'n9'");
	refused(peer,
		"{\"id\":1,\"call\":\"fence.set\",\"args\":{\"device\":{\"name\":\"a\",\"node\":\"n2\",\"agent\":\"sh\"}}}",
		"invalid", "agent 'sh'");
	refused(peer,
		"{\"id\":1,\"call\":\"fence.set\",\"args\":{\"device\":{\"name\":\"a\",\"node\":\"n2\",\"agent\":\"fence_a\","
		"\"options\":[{\"name\":\"password\",\"value\":\"hunter2\"}]}}}",
		"invalid", "is a secret");
	refused(peer,
		"{\"id\":1,\"call\":\"fence.set\",\"args\":{\"device\":{\"name\":\"a\",\"node\":\"n2\",\"agent\":\"fence_unfit\"}}}",
		"not-found", "agent 'fence_unfit' is not there");
	done(peer, SET_N2);
	refused(peer, SET_N2, "exists", "'ipmi-n2' exists already");
	CLEANUP_JSON json_t *shown =
		answer_to(peer, "{\"id\":2,\"call\":\"fence.show\",\"args\":{\"device\":\"ipmi-n2\"}}", 2);
	assert_string_equal(text_at(shown, "result", "node"), "n2");
	assert_string_equal(text_at(shown, "result", "agent"), "fence_ipmilan");
	/* What is shown can be set again. */
	CLEANUP_JSON json_t *again = json_pack("{s:i, s:s, s:{s:O, s:b}}", "id", 1, "call", "fence.set", "args",
		"device", json_object_get(shown, "result"), "no_check", 1);
	CLEANUP_FREE char *line = json_dumps(again, JSON_COMPACT);
	done(peer, line);
	CLEANUP_JSON json_t *node = answer_to(peer, "{\"id\":2,\"call\":\"node.show\",\"args\":{\"node\":\"n2\"}}", 2);
	assert_int_equal(json_array_size(json_object_get(json_object_get(node, "result"), "fence_devices")), 1);
	CLEANUP_JSON json_t *log = answer_to(peer, "{\"id\":2,\"call\":\"log.list\"}", 2);
	CLEANUP_FREE char *text = json_dumps(log, 0);
	assert_non_null(strstr(text, "fence device ipmi-n2: set by root: n2 with fence_ipmilan, level 1"));
	done(peer, "{\"id\":1,\"call\":\"fence.remove\",\"args\":{\"device\":\"ipmi-n2\"}}");
	refused(peer, "{\"id\":1,\"call\":\"fence.check\",\"args\":{\"device\":\"ipmi-n2\"}}", "not-found",
		"no fence device 'ipmi-n2'");
	peer_free(peer);
}

/* A test takes the power of a machine that is alive: its name must be typed, and nothing may depend on it. */
static void a_test_switches_off_only_what_nobody_needs(void **state)
{
	struct fixture *f = *state;
	struct peer *peer = peer_new(f);

	done(peer, SET_N2);
	CLEANUP_JSON json_t *status =
		answer_to(peer, "{\"id\":2,\"call\":\"fence.status\",\"args\":{\"device\":\"ipmi-n2\"}}", 2);
	assert_string_equal(text_at(status, "result", "power"), "on");
	refused(peer, "{\"id\":1,\"call\":\"fence.off\",\"args\":{\"device\":\"ipmi-n2\",\"confirm\":\"n3\"}}", "invalid",
		"'n3', is not that of n2");
	create_web(peer);
	CLEANUP_JSON json_t *start =
		answer_to(peer, "{\"id\":2,\"call\":\"vm.start\",\"args\":{\"vm\":\"web\",\"node\":\"n2\"}}", 2);
	assert_non_null(json_object_get(start, "result"));
	refused(peer, "{\"id\":1,\"call\":\"fence.off\",\"args\":{\"device\":\"ipmi-n2\",\"confirm\":\"n2\"}}", "unfit",
		"n2 has VM 'web'");
	done(peer, "{\"id\":1,\"call\":\"vm.stop\",\"args\":{\"vm\":\"web\"}}");
	while (cluster_vm_find(engine_cluster(world_engine(f->world, 1)), "web")->owner)
		poll_loop_once(f->loop, 5);
	done(peer, "{\"id\":1,\"call\":\"fence.off\",\"args\":{\"device\":\"ipmi-n2\",\"confirm\":\"n2\"}}");
	assert_false(world_has_power(f->world, 2));
	while (cluster_node(engine_cluster(world_engine(f->world, 1)), 2)->state == NODE_ONLINE)
		poll_loop_once(f->loop, 5);
	refused(peer, "{\"id\":1,\"call\":\"fence.off\",\"args\":{\"device\":\"ipmi-n2\",\"confirm\":\"n2\"}}", "unfit",
		"a test needs all nodes online");
	done(peer, "{\"id\":1,\"call\":\"fence.on\",\"args\":{\"device\":\"ipmi-n2\"}}");
	assert_true(world_has_power(f->world, 2));
	peer_free(peer);
}

static void a_person_may_say_that_a_lost_node_is_off(void **state)
{
	struct fixture *f = *state;
	struct peer *peer = peer_new(f);
	const struct cluster *cluster = engine_cluster(world_engine(f->world, 1));

	refused(peer, "{\"id\":1,\"call\":\"node.confirm_off\",\"args\":{\"node\":\"n3\",\"confirm\":\"n3\"}}", "unfit",
		"it is alive");
	world_cut(f->world, 3, true);
	while (cluster_node(cluster, 3)->state == NODE_ONLINE)
		poll_loop_once(f->loop, 5);
	refused(peer, "{\"id\":1,\"call\":\"node.confirm_off\",\"args\":{\"node\":\"n3\",\"confirm\":\"n2\"}}", "invalid",
		"is not that of n3");
	refused(peer, "{\"id\":1,\"call\":\"node.fence\",\"args\":{\"node\":\"n3\"}}", "unfit", "no fence device");
	done(peer, "{\"id\":1,\"call\":\"node.confirm_off\",\"args\":{\"node\":\"n3\",\"confirm\":\"n3\"}}");
	assert_int_equal(cluster_node(cluster, 3)->state, NODE_DEAD);
	CLEANUP_JSON json_t *node = answer_to(peer, "{\"id\":2,\"call\":\"node.show\",\"args\":{\"node\":\"n3\"}}", 2);
	assert_string_equal(
		text_at(json_object_get(node, "result"), "fencing", "proof"), "confirmed");
	peer_free(peer);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	static const struct CMUnitTest tests[] = {
		T(the_socket_is_for_root_alone),
		T(a_call_may_come_byte_by_byte),
		T(calls_in_one_packet_are_all_answered),
		T(bad_lines_are_refused_and_the_connection_lives),
		T(a_million_brackets_cost_nothing),
		T(an_endless_line_ends_the_connection),
		T(a_64_kib_name_is_refused_with_its_rule),
		T(bad_definitions_name_the_rule),
		T(a_disk_of_another_format_is_refused),
		T(a_vm_is_created_pinned_and_moved),
		T(a_dry_run_changes_nothing),
		T(a_heartbeat_needs_the_agents_channel),
		T(an_edit_does_not_overwrite_anothers),
		T(owners_are_told_by_name),
		T(without_quorum_it_says_so),
		T(a_node_out_of_sync_denies_no_task),
		T(a_slow_reader_is_dropped_with_the_reason),
		T(outstanding_calls_are_bounded),
		T(a_client_may_vanish_at_any_time),
		T(clients_are_bounded),
		T(who_says_nothing_is_told_goodbye),
		T(a_caller_without_the_right_is_refused),
		T(a_live_socket_is_not_stolen),
		T(fence_devices_are_checked_kept_and_shown),
		T(a_test_switches_off_only_what_nobody_needs),
		T(a_person_may_say_that_a_lost_node_is_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
