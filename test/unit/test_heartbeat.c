/* SPDX-License-Identifier: Apache-2.0
 * The heartbeat of a guest's agent: who is judged, and that nothing a hostile guest says ends in more than its own end. The
 * agent and QEMU's monitor are the test's own sockets; time is the test's. */
#include "driver/qemu/instance.h"
#include "driver/qemu/sock.h"
#include "support/poll_loop.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { SECONDS = 30, LOOK_MS = SECONDS * 1000 / 3 };

struct world {
	struct loop *loop;
	struct qemu qemu;
	struct instance *instance;
	char dir[32];
	int listener, agent, monitor; /* the far ends */
	bool frontend_open;
	const char *status;
	uint32_t notes;
};

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* What the other side has sent since the last time. */
static const char *heard(int fd)
{
	static char text[4096];
	ssize_t n = fd < 0 ? 0 : recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);

	text[n > 0 ? n : 0] = 0;
	return text;
}

static void monitor_answers(struct world *w)
{
	const char *text = heard(w->monitor);
	char line[256];

	for (const char *at = text; (at = strstr(at, "\"execute\"")); at++) {
		const char *end = strchrnul(at, '\n'), *id = memmem(text, (size_t)(end - text), "\"id\"", 4);
		for (const char *next = id; next && next < end; next = memmem(next + 1, (size_t)(end - next - 1), "\"id\"", 4))
			id = next;
		assert_non_null(id);
		long number = strtol(id + 5, NULL, 10);
		if (memmem(at, (size_t)(end - at), "query-chardev", 13))
			snprintf(line, sizeof(line),
				"{\"return\":[{\"label\":\"qmp\",\"frontend-open\":true},{\"label\":\"agent\",\"frontend-open\":%s}],\"id\":%ld}\n",
				w->frontend_open ? "true" : "false", number);
		else if (memmem(at, (size_t)(end - at), "query-status", 12))
			snprintf(line, sizeof(line), "{\"return\":{\"status\":\"%s\"},\"id\":%ld}\n", w->status, number);
		else
			snprintf(line, sizeof(line), "{\"return\":{},\"id\":%ld}\n", number);
		say(w->monitor, line);
	}
}

/* Whatever can be read is, until nothing comes any more. */
static void settle(struct world *w)
{
	for (int round = 0; round < 40; round++) {
		poll_loop_once(w->loop, 0);
		monitor_answers(w);
	}
	for (int fd; (fd = accept4(w->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0;) {
		if (w->agent >= 0)
			close(w->agent);
		w->agent = fd;
	}
}

static void look(struct world *w)
{
	poll_loop_skip(w->loop, LOOK_MS);
	settle(w);
}

static void on_event(void *ctx, const struct hv_event *event)
{
	struct world *w = ctx;

	w->notes += event->note != NULL;
}

static void ready(void *ctx)
{
	(void)ctx;
}

static void closed(void *ctx, const struct err *err)
{
	(void)ctx;
	fail_msg("%s", err->text);
}

static void qmp_event(void *ctx, const char *name, const json_t *data, uint64_t at_us)
{
	(void)ctx;
	(void)name;
	(void)data;
	(void)at_us;
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct vm_def def = {.uuid = "5b1f9d9e-0000-4000-8000-000000000001", .name = "web", .guest_agent = GUEST_AGENT_VIRTIO};
	int pair[2];
	struct err err;

	assert_non_null(w);
	*state = w;
	w->loop = poll_loop_new_still();
	w->agent = -1;
	w->frontend_open = true;
	w->status = "running";
	strcpy(w->dir, "/tmp/heartbeat.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->qemu.loop = w->loop;
	w->qemu.callbacks = (struct hv_callbacks){.ctx = w, .event = on_event};
	w->instance = instance_new(&w->qemu, &def, HV_RUNNING);
	w->instance->dir_fd = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	w->instance->process.pid = getpid(); /* to be looked at, whether it waits in the kernel */
	w->listener = sock_listen(w->instance->dir_fd, HEARTBEAT_SOCKET, &err);
	assert_true(w->listener >= 0);
	fcntl(w->listener, F_SETFL, O_NONBLOCK);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	w->monitor = pair[1];
	w->instance->qmp = qmp_new(
		w->loop, pair[0], &(struct qmp_callbacks){.ready = ready, .event = qmp_event, .closed = closed});
	say(w->monitor, "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\n");
	settle(w);
	heartbeat_set(w->instance, SECONDS);
	look(w);
	assert_true(w->agent >= 0);
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	unlinkat(w->instance->dir_fd, HEARTBEAT_SOCKET, 0);
	unlinkat(w->instance->dir_fd, "instance.json", 0);
	instance_free(w->instance);
	poll_loop_free(w->loop);
	assert_int_equal(rmdir(w->dir), 0);
	close(w->listener);
	close(w->monitor);
	if (w->agent >= 0)
		close(w->agent);
	free(w);
	return 0;
}

/* The agent's answer to the last question. */
static void agent_answers(struct world *w)
{
	const char *question = heard(w->agent), *id = strrchr(question, 0xff);
	char line[64];

	if (id) {
		assert_non_null(id = strstr(id, "\"id\":"));
		snprintf(line, sizeof(line), "noise\xff{\"return\": %llu}\n", strtoull(id + 5, NULL, 10));
		say(w->agent, line);
		settle(w);
		question = heard(w->agent);
	}
	assert_string_equal(question, "{\"execute\":\"guest-ping\"}\n");
	say(w->agent, "{\"return\": {}}\n");
	settle(w);
}

static bool ended(const struct world *w)
{
	return w->instance->state == HV_STOPPING;
}

static void an_agent_that_falls_silent_ends_its_guest(void **state)
{
	struct world *w = *state;

	for (int i = 0; i < 5; i++) {
		agent_answers(w);
		look(w);
	}
	assert_true(w->instance->record.agent_heard);
	look(w);
	look(w);
	assert_false(ended(w));
	assert_int_equal(w->notes, 2);
	agent_answers(w); /* the last of three questions: all is forgiven */
	for (int i = 0; i < 3; i++) {
		look(w);
		assert_false(ended(w));
	}
	look(w);
	assert_true(ended(w));
	assert_string_equal(w->instance->why.text, "its guest agent did not answer for 30 s");
	assert_int_equal(w->instance->ending, ENDING_DIED);
}

/* Not one that never came up, however long: a guest without an agent, or one that boots. Nor is anything piled up for it. */
static void an_agent_that_was_never_heard_is_not_missed(void **state)
{
	struct world *w = *state;

	for (int i = 0; i < 100; i++) {
		look(w);
		assert_false(ended(w));
	}
	assert_true(strlen(heard(w->agent)) < 512);
	agent_answers((look(w), look(w), look(w), w));
	assert_true(w->instance->record.agent_heard);
}

static void a_closed_channel_is_a_farewell(void **state)
{
	struct world *w = *state;

	agent_answers(w);
	w->frontend_open = false;
	for (int i = 0; i < 20; i++)
		look(w);
	assert_false(ended(w));
	assert_false(w->instance->record.agent_heard);
}

static void a_guest_that_does_not_run_is_not_judged(void **state)
{
	struct world *w = *state;
	struct instance *instance = w->instance;

	agent_answers(w);
	w->status = "paused"; /* by somebody at the monitor */
	for (int i = 0; i < 10; i++)
		look(w);
	assert_false(ended(w));
	w->status = "running";
	bool *const excuses[] = {&instance->record.filling, &instance->stalled, &instance->storage_lost};
	for (size_t e = 0; e < ARRAY_SIZE(excuses); e++) {
		*excuses[e] = true;
		for (int i = 0; i < 10; i++)
			look(w);
		assert_false(ended(w));
		*excuses[e] = false;
	}
	instance->paused = "its disk's storage is full";
	instance->state = HV_COPYING;
	for (int i = 0; i < 10; i++)
		look(w);
	instance->state = HV_RUNNING;
	for (int i = 0; i < 10; i++)
		look(w);
	assert_false(ended(w));
	instance->paused = NULL;
	for (int i = 0; i < 3; i++) { /* asked, and twice not answered */
		look(w);
		assert_false(ended(w));
	}
	look(w);
	assert_true(ended(w));
}

/* A daemon before this one asked too: its answers are still in the channel, and say nothing about now. */
static void answers_to_an_earlier_connection_do_not_count(void **state)
{
	struct world *w = *state;

	say(w->agent, "{\"return\": {}}\n\xff{\"return\": 1}\n{\"return\": {}}\n");
	settle(w);
	assert_false(w->instance->record.agent_heard);
	agent_answers(w);
	assert_true(w->instance->record.agent_heard);
}

static void a_hostile_agent_is_hung_up_on(void **state)
{
	static const char *const words[] = {"\n", "{\"return\":", "[[[[[[[[[[[[[[[[[[[[[\n", "{\"return\":99999999999999999999999}\n",
		"{\"return\":-1}\n", "\xff\xff\xff\n", "{\"return\":{\"a\":null}}\n", "{\"error\":{}}\n", "[]\n", "null\n",
		"{\"return\":{},\"return\":1}\n", "\x01\x02\n"};
	struct world *w = *state;
	char flood[5000];

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		say(w->agent, words[i]);
		settle(w);
	}
	assert_false(w->instance->record.agent_heard);
	memset(flood, 'x', sizeof(flood) - 1);
	flood[sizeof(flood) - 1] = 0;
	say(w->agent, flood);
	settle(w);
	assert_null(w->instance->heartbeat.lines);
	look(w);
	assert_non_null(w->instance->heartbeat.lines);
	for (size_t i = 0; i + 1 < sizeof(flood); i += 2)
		memcpy(flood + i, "x\n", 2);
	flood[200] = 0;
	say(w->agent, flood);
	settle(w);
	assert_null(w->instance->heartbeat.lines);
	assert_false(ended(w));
}

static void none_is_asked_of_a_machine_without_the_channel_or_with_no_limit(void **state)
{
	struct world *w = *state;

	agent_answers(w);
	heartbeat_set(w->instance, 0);
	assert_null(w->instance->heartbeat.lines);
	for (int i = 0; i < 10; i++)
		look(w);
	w->instance->record.def.guest_agent = GUEST_AGENT_NONE;
	heartbeat_set(w->instance, SECONDS);
	for (int i = 0; i < 10; i++)
		look(w);
	assert_null(w->instance->heartbeat.lines);
	assert_false(ended(w));
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(an_agent_that_falls_silent_ends_its_guest),
		T(an_agent_that_was_never_heard_is_not_missed),
		T(a_closed_channel_is_a_farewell),
		T(a_guest_that_does_not_run_is_not_judged),
		T(answers_to_an_earlier_connection_do_not_count),
		T(a_hostile_agent_is_hung_up_on),
		T(none_is_asked_of_a_machine_without_the_channel_or_with_no_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
