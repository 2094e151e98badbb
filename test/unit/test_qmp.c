/* SPDX-License-Identifier: Apache-2.0
 * The monitor's protocol: the order of its commands, one answer for each, and a QEMU that hangs or talks nonsense. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "driver/linux/loop_sd.h"
#include "driver/qemu/qmp.h"

#include <sys/socket.h>
#include <unistd.h>

static void clamps(const char *from, const char *to)
{
	char text[256];

	snprintf(text, sizeof(text), "%s", from);
	qmp_clamp_integers(text, strlen(text));
	assert_string_equal(text, to);
}

/* QEMU tells sizes as unsigned 64-bit numbers, which jansson refuses: one such number would cost the monitor. */
static void integers_beyond_int64_are_clamped(void **state)
{
	(void)state;
	clamps("{\"a\": 18446744073709551615}", "{\"a\":  9223372036854775807}");
	clamps("{\"a\":9223372036854775808,\"b\":1}", "{\"a\":9223372036854775807,\"b\":1}");
	clamps("{\"a\":9223372036854775807}", "{\"a\":9223372036854775807}");
	clamps("[-9223372036854775808,-9223372036854775809]", "[-9223372036854775808,-9223372036854775808]");
	clamps("[123456789012345678901234567890]", "[           9223372036854775807]");
	clamps("{\"18446744073709551615\":\"18446744073709551615\"}", "{\"18446744073709551615\":\"18446744073709551615\"}");
	clamps("{\"a\\\"18446744073709551615\":18446744073709551615}", "{\"a\\\"18446744073709551615\": 9223372036854775807}");
	clamps("[18446744073709551615.5, 18446744073709551615e2]", "[18446744073709551615.5, 18446744073709551615e2]");
	clamps("[0.18446744073709551615]", "[0.18446744073709551615]");
	clamps("-", "-");
	clamps("18446744073709551615", " 9223372036854775807");
}

struct monitor {
	struct loop *loop;
	struct qmp *qmp;
	int peer;
	uint32_t ready, replies, closed, events;
	enum err_code code;
	char text[512];
	uint64_t at_us;
	bool free_in_reply;
};

static void on_ready(void *ctx)
{
	((struct monitor *)ctx)->ready++;
}

static void on_event(void *ctx, const char *name, const json_t *data, uint64_t at_us)
{
	struct monitor *monitor = ctx;

	assert_true(json_is_object(data));
	monitor->events++;
	monitor->at_us = at_us;
	snprintf(monitor->text, sizeof(monitor->text), "%s", name);
}

static void on_closed(void *ctx, const struct err *err)
{
	struct monitor *monitor = ctx;

	monitor->closed++;
	monitor->code = err->code;
	loop_sd_exit(monitor->loop, 0);
}

static void on_reply(void *ctx, const json_t *result, const struct err *err)
{
	struct monitor *monitor = ctx;

	monitor->replies++;
	monitor->code = result ? ERR_NONE : err->code;
	snprintf(monitor->text, sizeof(monitor->text), "%s", result ? json_string_value(json_object_get(result, "s")) : err->text);
	if (monitor->free_in_reply)
		qmp_free(STEAL(monitor->qmp));
	loop_sd_exit(monitor->loop, 0);
}

static void monitor_init(struct monitor *monitor)
{
	struct err err;
	int ends[2];

	memset(monitor, 0, sizeof(*monitor));
	monitor->loop = loop_sd_new(&err);
	assert_non_null(monitor->loop);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	monitor->peer = ends[1];
	monitor->qmp = qmp_new(monitor->loop, ends[0],
		&(struct qmp_callbacks){.ctx = monitor, .ready = on_ready, .event = on_event, .closed = on_closed});
}

static void monitor_fini(struct monitor *monitor)
{
	qmp_free(monitor->qmp);
	loop_sd_free(monitor->loop);
	cleanup_fd_(&monitor->peer);
}

static void peer_says(struct monitor *monitor, const char *text)
{
	assert_int_equal(write(monitor->peer, text, strlen(text)), strlen(text));
}

/* Runs callbacks until a reply or the end. */
static void monitor_run(struct monitor *monitor)
{
	struct err err;
	int status;

	assert_int_equal(loop_sd_run(monitor->loop, &status, &err), 0);
}

static const char greeting[] = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n{\"return\": {}, \"id\": 2}\r\n";

/* Commands given before the greeting are sent after the negotiation; QEMU counts on that order. */
static void commands_wait_for_the_greeting(void **state)
{
	struct monitor monitor;
	char text[512] = "";

	(void)state;
	monitor_init(&monitor);
	qmp_send(monitor.qmp, "query-status", NULL, -1, 5000, on_reply, &monitor);
	assert_int_equal(read(monitor.peer, text, sizeof(text)), -1);
	peer_says(&monitor, greeting);
	peer_says(&monitor, "{\"id\": 1, \"return\": {\"s\": \"running\", \"n\": 18446744073709551615}}\r\n");
	monitor_run(&monitor);
	assert_int_equal(monitor.ready, 1);
	assert_int_equal(monitor.replies, 1);
	assert_string_equal(monitor.text, "running");
	assert_true(read(monitor.peer, text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "qmp_capabilities"));
	assert_true(strstr(text, "query-status") > strstr(text, "qmp_capabilities"));
	monitor_fini(&monitor);
}

static void an_error_says_what_qemu_said(void **state)
{
	struct monitor monitor;

	(void)state;
	monitor_init(&monitor);
	qmp_send(monitor.qmp, "cont", NULL, -1, 5000, on_reply, &monitor);
	peer_says(&monitor, greeting);
	peer_says(&monitor, "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 5}}\n"
			    "{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"no lock\"}}\n");
	monitor_run(&monitor);
	assert_int_equal(monitor.events, 1);
	assert_true(monitor.at_us == UINT64_C(1700000000000005));
	assert_int_equal(monitor.code, ERR_UNFIT);
	assert_string_equal(monitor.text, "QEMU refuses 'cont': no lock");
	monitor_fini(&monitor);
}

/* A command's answer comes once: by the clock when QEMU hangs, and then not a second time. */
static void a_silent_monitor_is_given_up(void **state)
{
	struct monitor monitor;

	(void)state;
	monitor_init(&monitor);
	peer_says(&monitor, greeting);
	qmp_send(monitor.qmp, "query-status", NULL, -1, 30, on_reply, &monitor);
	monitor_run(&monitor);
	assert_int_equal(monitor.code, ERR_TIMEOUT);
	peer_says(&monitor, "{\"id\": 1, \"return\": {}}\n");
	close(STEAL_FD(monitor.peer));
	monitor_run(&monitor);
	assert_int_equal(monitor.replies, 1);
	assert_int_equal(monitor.closed, 1);
	monitor_fini(&monitor);
}

/* What is not QMP ends the connection, and every command is answered before that is told. */
static void garbage_ends_the_connection(void **state)
{
	static const char *const garbage[] = {"{\n", "[1]\n", "{\"a\":1,\"a\":2}\n", "\377\376\n", "{\"return\":{}}}}\n"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(garbage); i++) {
		struct monitor monitor;
		monitor_init(&monitor);
		peer_says(&monitor, greeting);
		qmp_send(monitor.qmp, "query-status", NULL, -1, 5000, on_reply, &monitor);
		peer_says(&monitor, garbage[i]);
		monitor_run(&monitor);
		assert_int_equal(monitor.replies, 1);
		assert_int_equal(monitor.code, ERR_PROTOCOL);
		assert_int_equal(monitor.closed, 1);
		monitor_fini(&monitor);
	}
}

static void a_client_may_be_freed_in_its_own_reply(void **state)
{
	struct monitor monitor;

	(void)state;
	monitor_init(&monitor);
	monitor.free_in_reply = true;
	qmp_send(monitor.qmp, "query-status", NULL, -1, 5000, on_reply, &monitor);
	qmp_send(monitor.qmp, "query-migrate", NULL, -1, 5000, on_reply, &monitor);
	peer_says(&monitor, greeting);
	peer_says(&monitor, "{\"id\": 1, \"return\": {\"s\": \"x\"}}\n{\"id\": 3, \"return\": {}}\n{\"event\": \"STOP\"}\n");
	monitor_run(&monitor);
	assert_int_equal(monitor.replies, 1);
	assert_int_equal(monitor.events, 0);
	assert_int_equal(monitor.closed, 0);
	monitor_fini(&monitor);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(integers_beyond_int64_are_clamped),
		cmocka_unit_test(commands_wait_for_the_greeting),
		cmocka_unit_test(an_error_says_what_qemu_said),
		cmocka_unit_test(a_silent_monitor_is_given_up),
		cmocka_unit_test(garbage_ends_the_connection),
		cmocka_unit_test(a_client_may_be_freed_in_its_own_reply),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
