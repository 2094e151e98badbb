/* SPDX-License-Identifier: Apache-2.0
 * Processes of our own: the lock by which one is known for what it is, and what a child is given and what not. */
#include "qemu_make.h"

#include "base/process.h"

#include <poll.h>

static void spawn_cat(int lock_fd, int from, struct process *process)
{
	static const char *const argv[] = {"/bin/cat", NULL};
	CLEANUP_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct spawn spawn = {.binary = argv[0], .argv = argv, .lock_fd = lock_fd, .fd_count = 3,
		.fds = {{from, 0}, {null, 1}, {null, 2}}};
	struct err err;

	assert_int_equal(process_spawn(&spawn, process, &err), 0);
}

static void wait_death(const struct process *process)
{
	struct pollfd poll_fd = {.fd = process->pidfd, .events = POLLIN};

	assert_int_equal(poll(&poll_fd, 1, 10000), 1);
}

/* The daemon is killed right after the fork, before it wrote anything down: the next one still finds the process, and
 * knows when it is dead, whoever has its number then. */
static void a_process_is_known_by_its_lock(void **state)
{
	struct process process, found;
	char path[64], how[80];
	struct err err;
	int ends[2];

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	int lock = process_lock(dir, "lock", &err);
	assert_true(lock >= 0);
	assert_int_equal(process_lock(dir, "lock", &err), -1);
	assert_int_equal(err.code, ERR_BUSY);
	spawn_cat(lock, ends[0], &process);
	close(lock);
	int result;
	while ((result = process_find(dir, "lock", &found, &err)) != 1)
		assert_true(result < 0 && err.code == ERR_BUSY); /* between fork and its first write */
	assert_int_equal(found.pid, process.pid);
	assert_true(found.starttime == process.starttime && found.starttime);
	assert_false(process_dead(&found, how));
	close(ends[1]);
	close(ends[0]);
	wait_death(&found);
	assert_true(process_dead(&process, how));
	assert_true(process_dead(&found, how));
	assert_int_equal(process_find(dir, "lock", &process, &err), 0);
	assert_int_equal(process_find(dir, "none", &process, &err), 0);
	unlinkat(dir, "lock", 0);
	rmdir(path);
}

/* A pid in the file proves nothing. */
static void a_number_without_the_lock_is_nobody(void **state)
{
	struct process process;
	char path[64];
	struct err err;

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	CLEANUP_FD int fd = openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(dprintf(fd, "%d\n", (int)getpid()) > 0);
	assert_int_equal(process_find(dir, "lock", &process, &err), 0);
	unlinkat(dir, "lock", 0);
	rmdir(path);
}

/* A child has what it was given and nothing else: no descriptor of the daemon's, no core, its own session. */
static void a_child_inherits_only_what_it_is_given(void **state)
{
	static const char *const argv[] = {"/bin/sh", "-c",
		"ls /proc/self/fd | wc -l; ulimit -c; ulimit -n; env | wc -l; grep NoNewPrivs /proc/self/status", NULL};
	struct process process;
	char text[256] = "", how[80];
	struct err err;
	int ends[2];

	(void)state;
	assert_int_equal(pipe2(ends, 0), 0); /* without O_CLOEXEC: somebody's mistake */
	CLEANUP_FD int null = open("/dev/null", O_RDWR);
	struct spawn spawn = {.binary = argv[0], .argv = argv, .lock_fd = -1, .fd_count = 3,
		.fds = {{null, 0}, {ends[1], 1}, {null, 2}}};
	assert_int_equal(process_spawn(&spawn, &process, &err), 0);
	wait_death(&process);
	assert_true(read(ends[0], text, sizeof(text) - 1) > 0);
	/* ls has 0, 1, 2 and the directory; sh adds PWD and such to the two variables that it got. */
	unsigned fds, core, files, variables;
	assert_int_equal(sscanf(text, "%u %u %u %u", &fds, &core, &files, &variables), 4);
	assert_int_equal(fds, 4);
	assert_int_equal(core, 0);
	assert_int_equal(files, 4096);
	assert_true(variables <= 5);
	assert_non_null(strstr(text, "NoNewPrivs:\t1"));
	assert_true(process_dead(&process, how));
	assert_string_equal(how, "exit status 0");
	close(ends[0]);
	close(ends[1]);
}

/* What answers a guest that waits for a page comes before other work, can step back and return, and needs no right for it
 * beyond that. All else that is started comes last like anybody. */
static void a_helper_keeps_the_priority_that_it_was_given(void **state)
{
	static const char *const argv[] = {"/bin/sh", "-c", "exec 2>&1; id -u; nice; nice -n 10 nice", NULL};
	struct process process;
	char text[256] = "";
	struct err err;
	int ends[2];

	(void)state;
	if (geteuid())
		skip();
	for (int nice = -10; nice <= 0; nice += 10) {
		assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
		struct spawn spawn = {.binary = argv[0], .argv = argv, .uid = 65534, .nice = nice, .lock_fd = -1,
			.fd_count = 1, .fds = {{ends[1], 1}}};
		assert_int_equal(process_spawn(&spawn, &process, &err), 0);
		wait_death(&process);
		assert_true(read(ends[0], text, sizeof(text) - 1) > 0);
		int uid, first, stepped;
		assert_int_equal(sscanf(text, "%d %d %d", &uid, &first, &stepped), 3);
		assert_int_equal(uid, 65534);
		assert_int_equal(first, nice);
		assert_int_equal(stepped, nice + 10);
		close(ends[0]);
		close(ends[1]);
	}
}

static void a_binary_that_is_missing_is_told_by_the_child(void **state)
{
	static const char *const argv[] = {"/nonexistent/qemu", NULL};
	struct process process;
	char text[256] = "", how[80];
	struct err err;
	int ends[2];

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	struct spawn spawn = {.binary = argv[0], .argv = argv, .lock_fd = -1, .fd_count = 1, .fds = {{ends[1], 2}}};
	assert_int_equal(process_spawn(&spawn, &process, &err), 0);
	wait_death(&process);
	assert_true(process_dead(&process, how));
	assert_string_equal(how, "exit status 127");
	assert_true(read(ends[0], text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "/nonexistent/qemu"));
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_process_is_known_by_its_lock),
		cmocka_unit_test(a_number_without_the_lock_is_nobody),
		cmocka_unit_test(a_child_inherits_only_what_it_is_given),
		cmocka_unit_test(a_helper_keeps_the_priority_that_it_was_given),
		cmocka_unit_test(a_binary_that_is_missing_is_told_by_the_child),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
