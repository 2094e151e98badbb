/* SPDX-License-Identifier: Apache-2.0
 * The watchdog's driver against a program that plays one, and against what is no watchdog (fault B22): armed means that
 * the timer itself said so, and whatever else happens the driver does not hang and does not claim it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "driver/linux/watchdog.h"

struct player {
	char dir[64], path[96];
	int listener, fd;
	pthread_t thread;
	const char *answer; /* to the first line; NULL: none */
	char heard[256];
};

/* One line in, one answer out; then it hears until the connection ends or the test closes it. */
static void *play(void *arg)
{
	struct player *player = arg;

	if (player->fd < 0)
		player->fd = accept(player->listener, NULL, NULL);
	size_t used = 0;
	while (used < sizeof(player->heard) - 1 && !memchr(player->heard, '\n', used)) {
		ssize_t got = read(player->fd, player->heard + used, sizeof(player->heard) - 1 - used);
		if (got <= 0)
			return NULL;
		used += (size_t)got;
	}
	if (player->answer)
		assert(write(player->fd, player->answer, strlen(player->answer)) > 0);
	return NULL;
}

static void player_begin(struct player *player, const char *answer)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	*player = (struct player){.answer = answer, .fd = -1};
	strcpy(player->dir, "/tmp/watari-test-XXXXXX");
	assert_non_null(mkdtemp(player->dir));
	snprintf(player->path, sizeof(player->path), "%s/wd", player->dir);
	strcpy(address.sun_path, player->path);
	player->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(player->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(player->listener, 4), 0);
	assert_int_equal(pthread_create(&player->thread, NULL, play, player), 0);
}

static void player_end(struct player *player)
{
	close(player->listener);
	if (player->fd >= 0)
		close(player->fd);
	unlink(player->path);
	rmdir(player->dir);
}

/* What the player has not read yet. */
static const char *hear(struct player *player)
{
	static char text[128];
	struct pollfd poll_fd = {.fd = player->fd, .events = POLLIN};

	assert_int_equal(poll(&poll_fd, 1, 10000), 1);
	ssize_t got = read(player->fd, text, sizeof(text) - 1);
	assert_true(got >= 0);
	text[got] = 0;
	return text;
}

static void it_is_armed_when_the_timer_says_so_and_disarmed_likewise(void **state)
{
	struct player player;
	struct err err;

	(void)state;
	player_begin(&player, "armed 5000\n");
	struct watchdog *watchdog = watchdog_linux_new(player.path);
	assert_int_equal(watchdog_feed(watchdog, &err), -1); /* not armed */
	assert_int_equal(watchdog_disarm(watchdog, &err), 0);
	assert_int_equal(watchdog_arm(watchdog, 5000, &err), 0);
	pthread_join(player.thread, NULL);
	assert_string_equal(player.heard, "arm 5000\n");
	assert_int_equal(watchdog_feed(watchdog, &err), 0);
	assert_string_equal(hear(&player), "feed\n");
	assert_true(write(player.fd, "disarmed\n", 9) == 9); /* before it is asked: taken for what it is, noise */
	assert_int_equal(watchdog_disarm(watchdog, &err), -1);
	watchdog_linux_free(watchdog);
	player_end(&player);
}

static void a_disarm_waits_for_its_answer(void **state)
{
	struct player player;
	struct err err;

	(void)state;
	player_begin(&player, "armed 3000\n");
	struct watchdog *watchdog = watchdog_linux_new(player.path);
	assert_int_equal(watchdog_arm(watchdog, 3000, &err), 0);
	pthread_join(player.thread, NULL);
	assert_int_equal(watchdog_disarm(watchdog, &err), -1); /* silence: its time goes on, and it is still ours */
	assert_string_equal(hear(&player), "disarm\n");
	assert_int_equal(watchdog_feed(watchdog, &err), 0);
	assert_string_equal(hear(&player), "feed\n");
	player.answer = "disarmed\n";
	memset(player.heard, 0, sizeof(player.heard));
	assert_int_equal(pthread_create(&player.thread, NULL, play, &player), 0);
	assert_int_equal(watchdog_disarm(watchdog, &err), 0);
	pthread_join(player.thread, NULL);
	assert_string_equal(player.heard, "disarm\n");
	assert_string_equal(hear(&player), ""); /* and closed */
	watchdog_linux_free(watchdog);
	player_end(&player);
}

static void what_is_not_said_rightly_is_not_armed(void **state)
{
	static const char *const answers[] = {NULL, "armed 4000\n", "armed 50000\n", "error dead\n", "armed 5000"};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		struct player player;
		player_begin(&player, answers[i]);
		struct watchdog *watchdog = watchdog_linux_new(player.path);
		assert_int_equal(watchdog_arm(watchdog, 5000, &err), -1);
		assert_true(err.text[0]);
		assert_int_equal(watchdog_feed(watchdog, &err), -1);
		pthread_join(player.thread, NULL);
		watchdog_linux_free(watchdog);
		player_end(&player);
	}
}

static void a_timer_that_is_gone_is_noticed_at_the_next_feed(void **state)
{
	struct player player;
	struct err err;

	(void)state;
	player_begin(&player, "armed 5000\n");
	struct watchdog *watchdog = watchdog_linux_new(player.path);
	assert_int_equal(watchdog_arm(watchdog, 5000, &err), 0);
	pthread_join(player.thread, NULL);
	close(player.fd);
	player.fd = -1;
	assert_int_equal(watchdog_feed(watchdog, &err), -1);
	assert_non_null(strstr(err.text, "gone"));
	watchdog_linux_free(watchdog);
	player_end(&player);
}

static void what_is_no_watchdog_is_refused_with_its_name(void **state)
{
	static const char *const paths[] = {"/nonexistent/watchdog", "/etc/passwd", "/dev/null", "/tmp"};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		struct watchdog *watchdog = watchdog_linux_new(paths[i]);
		int before = open("/dev/null", O_RDONLY | O_CLOEXEC);
		close(before);
		assert_int_equal(watchdog_arm(watchdog, 5000, &err), -1);
		assert_non_null(strstr(err.text, paths[i]));
		int after = open("/dev/null", O_RDONLY | O_CLOEXEC);
		close(after);
		assert_int_equal(before, after); /* nothing is left open */
		watchdog_linux_free(watchdog);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_armed_when_the_timer_says_so_and_disarmed_likewise),
		cmocka_unit_test(a_disarm_waits_for_its_answer),
		cmocka_unit_test(what_is_not_said_rightly_is_not_armed),
		cmocka_unit_test(a_timer_that_is_gone_is_noticed_at_the_next_feed),
		cmocka_unit_test(what_is_no_watchdog_is_refused_with_its_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
