/* SPDX-License-Identifier: Apache-2.0
 * The daemon's loop: time, descriptors, other threads, signals and what systemd hears. */
#include "driver/linux/loop_sd.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <cmocka.h>

struct test {
	struct loop *loop;
	uint64_t due_ms;
	int fired;
	struct loop_timer *other;
	struct loop_io *io;
	int fd;
};

static void stop(void *ctx)
{
	struct test *test = ctx;
	loop_sd_exit(test->loop, 7);
}

static void run(struct loop *loop)
{
	struct err err;
	int status = -1;
	assert_int_equal(loop_sd_run(loop, &status, &err), 0);
	assert_int_equal(status, 7);
}

static int setup(void **state)
{
	struct err err;
	struct test *test = calloc(1, sizeof(*test));
	test->loop = loop_sd_new(&err);
	assert_non_null(test->loop);
	*state = test;
	return 0;
}

static int teardown(void **state)
{
	struct test *test = *state;
	loop_sd_free(test->loop);
	free(test);
	return 0;
}

static void on_due(void *ctx)
{
	struct test *test = ctx;
	assert_true(loop_now_ms(test->loop) >= test->due_ms);
	test->fired++;
	if (test->fired < 20) {
		/* A long callback: sd-event's own time stands still meanwhile. */
		uint64_t from = loop_now_ms(test->loop);
		while (loop_now_ms(test->loop) < from + 3)
			;
		test->due_ms = loop_now_ms(test->loop) + 2;
		loop_timer_set(test->loop, 2, on_due, test);
	} else {
		loop_sd_exit(test->loop, 7);
	}
}

/* A lease or a fence delay that ends early would break what the timing header proves. */
static void a_timer_never_fires_early(void **state)
{
	struct test *test = *state;
	test->due_ms = loop_now_ms(test->loop) + 1;
	loop_timer_set(test->loop, 1, on_due, test);
	assert_int_equal(test->fired, 0);
	run(test->loop);
	assert_int_equal(test->fired, 20);
}

static void on_first(void *ctx)
{
	struct test *test = ctx;
	test->fired++;
	loop_timer_cancel(test->loop, test->other);
	test->other = NULL;
}

static void on_never(void *ctx)
{
	(void)ctx;
	fail_msg("a cancelled timer fired");
}

/* Both are due when the first one runs: the second is pending in sd-event already. */
static void a_cancelled_timer_never_fires(void **state)
{
	struct test *test = *state;
	loop_timer_set(test->loop, 1, on_first, test);
	test->other = loop_timer_set(test->loop, 2, on_never, test);
	uint64_t from = loop_now_ms(test->loop);
	while (loop_now_ms(test->loop) < from + 5)
		;
	loop_timer_set(test->loop, 20, stop, test);
	run(test->loop);
	assert_int_equal(test->fired, 1);
	loop_timer_cancel(test->loop, NULL);
	loop_timer_set(test->loop, 100000, on_never, test); /* loop_sd_free drops it */
}

static void on_readable(void *ctx, uint32_t events)
{
	struct test *test = ctx;
	char byte;
	assert_true(events & EPOLLIN);
	assert_int_equal(read(test->fd, &byte, 1), 1);
	if (byte == 'x') {
		loop_io_cancel(test->loop, test->io);
		loop_sd_exit(test->loop, 7);
	} else if (byte == 'c') {
		loop_io_change(test->loop, test->io, 0);
		loop_timer_set(test->loop, 10, stop, test);
	}
	test->fired++;
}

static void a_watch_may_change_and_cancel_itself(void **state)
{
	struct test *test = *state;
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	test->fd = pair[0];
	test->io = loop_io_watch(test->loop, pair[0], EPOLLIN, on_readable, test);
	assert_int_equal(write(pair[1], "abcdex", 6), 6);
	run(test->loop);
	assert_int_equal(test->fired, 3); /* muted by the change */
	loop_io_change(test->loop, test->io, EPOLLIN);
	run(test->loop);
	assert_int_equal(test->fired, 6);
	close(pair[0]);
	close(pair[1]);
}

enum { THREADS = 4, POSTS = 5000 };
struct poster {
	struct test *test;
	uintptr_t next;
	int *done;
};

static void on_posted(void *ctx, void *item)
{
	struct poster *poster = ctx;
	assert_int_equal((uintptr_t)item, ++poster->next);
	if (poster->next == POSTS && ++*poster->done == THREADS)
		loop_sd_exit(poster->test->loop, 7);
}

static void *post_many(void *arg)
{
	struct poster *poster = arg;
	struct err err;
	for (uintptr_t i = 1; i <= POSTS; i++)
		while (loop_post(poster->test->loop, on_posted, poster, (void *)i, &err) < 0)
			sched_yield();
	return NULL;
}

/* The store's thread tells what is durable by this: lost or swapped posts would acknowledge what is not there. */
static void posts_of_threads_arrive_once_and_in_order(void **state)
{
	struct test *test = *state;
	struct poster posters[THREADS];
	pthread_t threads[THREADS];
	int done = 0;
	for (int i = 0; i < THREADS; i++) {
		posters[i] = (struct poster){test, 0, &done};
		assert_int_equal(pthread_create(&threads[i], NULL, post_many, &posters[i]), 0);
	}
	run(test->loop);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(done, THREADS);
}

static void a_full_queue_is_busy(void **state)
{
	struct test *test = *state;
	struct poster poster = {test, 0, &(int){THREADS - 1}};
	struct err err;
	for (uintptr_t i = 1; i <= LOOP_POSTS_MAX; i++)
		assert_int_equal(loop_post(test->loop, on_posted, &poster, (void *)i, &err), 0);
	assert_int_equal(loop_post(test->loop, on_posted, &poster, NULL, &err), -1);
	assert_int_equal(err.code, ERR_BUSY);
	loop_timer_set(test->loop, 50, stop, test);
	run(test->loop);
	assert_int_equal(poster.next, LOOP_POSTS_MAX);
}

static void on_signal(void *ctx, int signo)
{
	struct test *test = ctx;
	test->fired = signo;
	loop_sd_exit(test->loop, 7);
}

static void sigterm_and_sigint_are_told(void **state)
{
	struct test *test = *state;
	struct err err;
	assert_int_equal(loop_sd_on_signal(test->loop, on_signal, test, &err), 0);
	kill(getpid(), SIGTERM);
	run(test->loop);
	assert_int_equal(test->fired, SIGTERM);
	kill(getpid(), SIGINT);
	run(test->loop);
	assert_int_equal(test->fired, SIGINT);
}

/* What came to the socket since the last call: 'R'eady, 'W'atchdog, 'S'tatus, 's'topping, '?'. */
static void heard(int fd, char *out, size_t size)
{
	char text[600];
	size_t n = 0;
	for (;;) {
		ssize_t got = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);
		if (got < 0)
			break;
		text[got] = 0;
		assert_true(n + 1 < size);
		out[n++] = !strcmp(text, "READY=1")	       ? 'R'
			   : !strcmp(text, "WATCHDOG=1")       ? 'W'
			   : !strcmp(text, "STATUS=two words") ? 'S'
			   : !strcmp(text, "STOPPING=1")       ? 's'
							       : '?';
	}
	out[n] = 0;
}

static void hang(void *ctx)
{
	struct test *test = ctx;
	char said[100];
	heard(test->fd, said, sizeof(said));
	uint64_t from = loop_now_ms(test->loop);
	while (loop_now_ms(test->loop) < from + 300)
		;
	heard(test->fd, said, sizeof(said));
	assert_string_equal(said, ""); /* the watchdog would have bitten */
	loop_sd_exit(test->loop, 7);
}

/* systemd must restart a daemon that hangs, and only such a one. */
static void the_watchdog_is_fed_by_the_loop_alone(void **state)
{
	struct test *test = *state;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char said[100];
	char text[64];
	snprintf(text, sizeof(text), "@watari-test-loop-%d", getpid());
	memcpy(address.sun_path + 1, text + 1, strlen(text + 1));
	test->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(test->fd, (struct sockaddr *)&address,
				 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text))),
		0);
	setenv("NOTIFY_SOCKET", text, 1);
	setenv("WATCHDOG_USEC", "200000", 1);
	snprintf(text, sizeof(text), "%d", getpid());
	setenv("WATCHDOG_PID", text, 1);
	loop_sd_status("two%cwords", '\n');
	loop_sd_ready(test->loop);
	loop_sd_stopping();
	heard(test->fd, said, sizeof(said));
	assert_non_null(strchr(said, 'S'));
	assert_non_null(strchr(said, 'R'));
	assert_non_null(strchr(said, 's'));
	assert_null(strchr(said, '?'));
	loop_timer_set(test->loop, 1000, stop, test);
	run(test->loop);
	heard(test->fd, said, sizeof(said));
	assert_in_range(strlen(said), 5, 40);
	assert_int_equal(strspn(said, "W"), strlen(said));
	loop_timer_set(test->loop, 1, hang, test);
	run(test->loop);
	close(test->fd);
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_timer_never_fires_early),
		TEST(a_cancelled_timer_never_fires),
		TEST(a_watch_may_change_and_cancel_itself),
		TEST(posts_of_threads_arrive_once_and_in_order),
		TEST(a_full_queue_is_busy),
		TEST(sigterm_and_sigint_are_told),
		TEST(the_watchdog_is_fed_by_the_loop_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
