/* SPDX-License-Identifier: Apache-2.0
 * The API's socket as a hostile client meets it (faults D1, D2, D4): framing, bounds, wrong JSON, slow readers, callers without
 * the right. A real socket and real engines in one process. */
#include "support/api_peer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void the_socket_is_for_root_alone(void **state)
{
	struct api_fixture *f = *state;
	struct stat st;

	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void a_call_may_come_byte_by_byte(void **state)
{
	struct peer *peer = peer_new(*state);
	static const char call[] = "{\"id\":5,\"call\":\"cluster.status\"}\n";

	for (size_t i = 0; call[i]; i++)
		peer_put(peer, call + i, 1);
	CLEANUP_JSON json_t *answer = peer_hear(peer);
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
	peer_put(peer, all, strlen(all));
	for (int i = 1; i <= 10; i++) {
		CLEANUP_JSON json_t *answer = peer_hear(peer);
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
		peer_refused(peer, bad[i].line, bad[i].code, bad[i].holds);
	CLEANUP_JSON json_t *answer = peer_answer(peer, "{\"id\":7,\"call\":\"api.list\"}", 7);
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
	peer_refused(peer, brackets, "invalid", "nested deeper");
	peer_free(peer);
}

/* A gigabyte without a newline is never held: the client is told and hung up on behind the first MiB. */
static void an_endless_line_ends_the_connection(void **state)
{
	struct peer *peer = peer_new(*state);
	CLEANUP_FREE char *block = malloc(1 << 20);

	memset(block, 'x', 1 << 20);
	for (int i = 0; i < 3; i++)
		peer_put(peer, block, 1 << 20);
	CLEANUP_JSON json_t *answer = peer_hear(peer);
	assert_non_null(strstr(peer_text(answer, "error", "message"), "more than 1 MiB"));
	assert_null(peer_hear(peer));
	peer_free(peer);
}

static void a_64_kib_name_is_refused_with_its_rule(void **state)
{
	struct peer *peer = peer_new(*state);
	CLEANUP_FREE char *line = malloc(70000);
	int used = sprintf(line, "{\"id\":1,\"call\":\"vm.show\",\"args\":{\"vm\":\"");

	memset(line + used, 'a', 65536);
	strcpy(line + used + 65536, "\"}}");
	peer_refused(peer, line, "invalid", "vm: 65536 bytes, at most 63 are allowed");
	used = sprintf(line, "{\"id\":1,\"call\":\"vm.create\",\"args\":{\"definition\":{\"name\":\"");
	memset(line + used, 'a', 65536);
	strcpy(line + used + 65536, "\"}}}");
	peer_refused(peer, line, "invalid", "name: 65536 bytes, at most 63 are allowed");
	peer_free(peer);
}

/* It gets what was there, then the reason, then the end; the others are served on. */
static void a_slow_reader_is_dropped_with_the_reason(void **state)
{
	struct api_fixture *f = *state;
	struct peer *slow = peer_new(f), *other = peer_new(f);
	static const char call[] = "{\"id\":1,\"call\":\"api.list\"}\n";
	bool told = false;

	for (int i = 0; i < 20000; i++) {
		if (send(slow->fd, call, sizeof(call) - 1, MSG_NOSIGNAL) < 0)
			break;
		poll_loop_once(f->loop, 0);
	}
	CLEANUP_JSON json_t *answer = peer_answer(other, "{\"id\":2,\"call\":\"node.list\"}", 2);
	assert_non_null(json_object_get(answer, "result"));
	for (json_t *line = peer_hear(slow); line; line = peer_hear(slow)) {
		told |= !strcmp(peer_text(line, "event", "kind"), "dropped");
		json_decref(line);
	}
	assert_true(told);
	peer_free(slow);
	peer_free(other);
}

static void outstanding_calls_are_bounded(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peer = peer_new(f);
	char line[128];

	peer_create_web(peer);
	world_set_copy_ms(f->world, 100000);
	CLEANUP_JSON json_t *start = peer_answer(peer, "{\"id\":2,\"call\":\"vm.start\",\"args\":{\"vm\":\"web\"}}", 2);
	snprintf(line, sizeof(line), "{\"id\":3,\"call\":\"task.wait\",\"args\":{\"task\":%lld}}",
		(long long)json_integer_value(json_object_get(json_object_get(start, "result"), "task")));
	CLEANUP_JSON json_t *started = peer_answer(peer, line, 3);
	assert_string_equal(peer_text(started, "result", "state"), "done");
	CLEANUP_JSON json_t *save = peer_answer(peer, "{\"id\":4,\"call\":\"vm.save\",\"args\":{\"vm\":\"web\"}}", 4);
	json_int_t task = json_integer_value(json_object_get(json_object_get(save, "result"), "task"));
	for (int i = 0; i < API_CALLS_MAX; i++) {
		snprintf(line, sizeof(line),
			"{\"id\":%d,\"call\":\"task.wait\",\"args\":{\"task\":%lld,\"timeout_ms\":300}}", 10 + i,
			(long long)task);
		peer_say(peer, line);
	}
	peer_refused(peer, "{\"id\":99,\"call\":\"node.list\"}", "busy", "16 calls of this client are outstanding");
	for (int i = 0; i < API_CALLS_MAX; i++) {
		CLEANUP_JSON json_t *over = peer_hear(peer);
		assert_string_equal(peer_text(over, "error", "code"), "timeout");
	}
	CLEANUP_JSON json_t *answer = peer_answer(peer, "{\"id\":100,\"call\":\"node.list\"}", 100);
	assert_non_null(json_object_get(answer, "result"));
	peer_free(peer);
}

/* Gone in the middle of a wait, of a disk check, of a submission: nothing is answered to a client that is not there. */
static void a_client_may_vanish_at_any_time(void **state)
{
	struct api_fixture *f = *state;
	char line[512];

	snprintf(line, sizeof(line),
		"{\"id\":1,\"call\":\"vm.create\",\"args\":{\"definition\":{\"name\":\"web\",\"memory_mib\":512,"
		"\"disks\":[{\"path\":\"%s\"}]}}}",
		f->disk);
	for (int steps = 0; steps < 12; steps++) {
		struct peer *peer = peer_new(f);
		peer_put(peer, line, strlen(line));
		peer_put(peer, "\n", 1);
		for (int i = 0; i < steps; i++)
			poll_loop_once(f->loop, 1);
		peer_free(peer);
	}
	struct peer *peer = peer_new(f);
	CLEANUP_JSON json_t *answer = peer_answer(peer, "{\"id\":2,\"call\":\"cluster.status\"}", 2);
	assert_non_null(json_object_get(answer, "result"));
	peer_free(peer);
}

static void clients_are_bounded(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peers[API_CLIENTS_MAX];

	for (int i = 0; i < API_CLIENTS_MAX; i++)
		peers[i] = peer_new(f);
	struct peer *late = peer_new(f);
	CLEANUP_JSON json_t *answer = peer_hear(late);
	assert_string_equal(peer_text(answer, "error", "code"), "busy");
	assert_null(peer_hear(late));
	peer_free(late);
	for (int i = 0; i < API_CLIENTS_MAX; i++)
		peer_free(peers[i]);
	struct peer *next = peer_new(f);
	CLEANUP_JSON json_t *served = peer_answer(next, "{\"id\":1,\"call\":\"node.list\"}", 1);
	assert_non_null(json_object_get(served, "result"));
	peer_free(next);
}

/* A second daemon must not take the socket of one that lives; one that was killed leaves it behind, and is replaced. */
static void a_live_socket_is_not_stolen(void **state)
{
	struct api_fixture *f = *state;
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
	struct api_fixture *f = *state;
	struct peer *half = peer_new(f), *idle = peer_new(f), *listener = peer_new(f);

	peer_put(half, "{\"id\":1,", 8);
	CLEANUP_JSON json_t *subscribed = peer_answer(listener, "{\"id\":3,\"call\":\"subscribe\",\"args\":{}}", 3);
	assert_non_null(json_object_get(subscribed, "result"));
	poll_loop_skip(f->loop, API_LINE_MS + 2000);
	CLEANUP_JSON json_t *late = peer_hear(half);
	assert_non_null(strstr(peer_text(late, "error", "message"), "not ended within 10 s"));
	assert_null(peer_hear(half));
	CLEANUP_JSON json_t *alive = peer_answer(idle, "{\"id\":2,\"call\":\"node.list\"}", 2);
	assert_non_null(json_object_get(alive, "result"));
	poll_loop_skip(f->loop, API_IDLE_MS + 2000);
	CLEANUP_JSON json_t *goodbye = peer_hear(idle);
	assert_non_null(strstr(peer_text(goodbye, "error", "message"), "no call for 10 minutes"));
	assert_null(peer_hear(idle));
	CLEANUP_JSON json_t *still = peer_answer(listener, "{\"id\":4,\"call\":\"node.list\"}", 4);
	assert_non_null(json_object_get(still, "result"));
	peer_free(half);
	peer_free(idle);
	peer_free(listener);
}

/* As another user: what this process, with these groups, is answered. Runs in a child. */
static void call_as(struct api_fixture *f, uid_t uid, gid_t gid, char answer[256])
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
	struct api_fixture *f = *state;
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

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, api_fixture_setup, api_fixture_teardown)
	static const struct CMUnitTest tests[] = {
		T(the_socket_is_for_root_alone),
		T(a_call_may_come_byte_by_byte),
		T(calls_in_one_packet_are_all_answered),
		T(bad_lines_are_refused_and_the_connection_lives),
		T(a_million_brackets_cost_nothing),
		T(an_endless_line_ends_the_connection),
		T(a_64_kib_name_is_refused_with_its_rule),
		T(a_slow_reader_is_dropped_with_the_reason),
		T(outstanding_calls_are_bounded),
		T(a_client_may_vanish_at_any_time),
		T(clients_are_bounded),
		T(who_says_nothing_is_told_goodbye),
		T(a_caller_without_the_right_is_refused),
		T(a_live_socket_is_not_stolen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
