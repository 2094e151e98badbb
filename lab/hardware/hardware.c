/* SPDX-License-Identifier: Apache-2.0
 *   hardware run RUN TOOL NODES [watchdog]   becomes the lab's hardware, in the background; returns when it serves.
 *                                            Its command line is then "watari-hardware RUN".
 *   hardware ask SOCKET WORD...              sends one line, prints the answer; exit status 1 for "error ..." */
#include "doors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { POLL_MAX = DOORS_MAX + CLIENTS_MAX + NODES_MAX + 1 };

static int fail(const char *what)
{
	fprintf(stderr, "hardware: %s: %s\n", what, strerror(errno));
	return 1;
}

uint64_t monotonic_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void note(struct hardware *hw, const struct node *node, const char *format, ...)
{
	struct timespec now;
	va_list args;

	clock_gettime(CLOCK_REALTIME, &now);
	fprintf(hw->log, "%" PRId64 " %s ", (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, node->name);
	va_start(args, format);
	vfprintf(hw->log, format, args);
	va_end(args);
	fputc('\n', hw->log);
	fflush(hw->log);
}

int node_find(const struct hardware *hw, const char *name)
{
	for (int i = 0; i < hw->nodes_count; i++)
		if (!strcmp(hw->nodes[i].name, name))
			return i;
	return -1;
}

/* One turn: waits, then does what is due. Returns false when the lab is gone. */
static bool turn(struct hardware *hw, struct doors *doors, int switch_fd)
{
	struct pollfd fds[POLL_MAX];
	struct client *of_client[POLL_MAX] = {0};
	nfds_t count = 0;
	uint64_t now_ms = monotonic_ms(), in_ms = doors_due_in_ms(doors, now_ms);

	fds[count++] = (struct pollfd){.fd = switch_fd, .events = POLLIN};
	for (int i = 0; i < doors->doors_count; i++)
		fds[count++] = (struct pollfd){.fd = doors->doors[i].fd, .events = POLLIN};
	for (int i = 0; i < hw->nodes_count; i++) {
		uint64_t due_in_ms = watchdog_due_in_ms(&hw->nodes[i].watchdog, now_ms);

		in_ms = due_in_ms < in_ms ? due_in_ms : in_ms;
		fds[count++] = (struct pollfd){.fd = hw->nodes[i].pidfd, .events = POLLIN};
	}
	nfds_t first_client = count;
	for (int i = 0; i < CLIENTS_MAX; i++) {
		/* Who waits for an answer is not read, but for the end of the connection. */
		short events = doors->clients[i].wait == WAIT_NONE ? POLLIN : POLLRDHUP;

		if (!doors->clients[i].is_used || doors->clients[i].fd < 0)
			continue;
		of_client[count] = &doors->clients[i];
		fds[count++] = (struct pollfd){.fd = doors->clients[i].fd, .events = events};
	}
	if (poll(fds, count, in_ms > 60000 ? 60000 : (int)in_ms) < 0 && errno != EINTR)
		abort();
	if (fds[0].revents)
		return false;
	now_ms = monotonic_ms();
	/* What a node said in time counts as said, though this process comes round to it late. */
	for (nfds_t i = first_client; i < count; i++)
		if (fds[i].revents && of_client[i]->is_used && of_client[i]->fd == fds[i].fd)
			doors_read(hw, of_client[i]);
	for (int i = 0; i < hw->nodes_count; i++) {
		if (fds[1 + doors->doors_count + i].revents && hw->nodes[i].pidfd >= 0)
			power_is_on(hw, &hw->nodes[i]);
		watchdog_check(hw, &hw->nodes[i], now_ms);
	}
	doors_go_on(hw, doors);
	for (int i = 0; i < doors->doors_count; i++)
		if (fds[1 + i].revents)
			doors_accept(doors, &doors->doors[i]);
	return true;
}

/* As hardware does not wait for a processor: before every ordinary process, where that is allowed. */
static void become_punctual(void)
{
	const struct sched_param param = {.sched_priority = 50};

	if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param) < 0)
		fprintf(stderr, "hardware: no realtime priority: watchdogs may fire late on a busy machine\n");
	mlockall(MCL_CURRENT | MCL_FUTURE);
}

static int serve(const char *run_dir, const char *tool, int nodes, bool with_watchdogs)
{
	static struct hardware hw;
	static struct doors doors;
	char path[1100];
	int switch_fd = power_keeper(run_dir, "switch");

	prctl(PR_SET_NAME, "watari-hardware");
	hw = (struct hardware){.run_dir = run_dir, .tool = tool, .nodes_count = nodes};
	for (int i = 0; i < nodes; i++) {
		hw.nodes[i].pidfd = -1;
		snprintf(hw.nodes[i].name, NAME_MAX_BYTES, "n%d", i + 1);
	}
	snprintf(path, sizeof(path), "%s/hw", run_dir);
	if (switch_fd < 0 || chdir(path) < 0 || !(hw.log = fopen("log", "ae")) ||
		doors_open(&hw, &doors, with_watchdogs) < 0)
		return fail(path);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	become_punctual();
	for (int i = 0; i < nodes; i++)
		power_is_on(&hw, &hw.nodes[i]);
	/* The one who started it waits for the end of this. */
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	while (turn(&hw, &doors, switch_fd))
		;
	return 0;
}

static int run(char **argv)
{
	int ready[2];
	char text[400];
	ssize_t got;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return fail("pipe");
	pid_t pid = fork();
	if (pid < 0)
		return fail("fork");
	if (pid == 0) {
		setsid();
		dup2(ready[1], 2);
		close_range(3, ~0U, 0);
		execl("/proc/self/exe", "watari-hardware", argv[0], argv[1], argv[2], argv[3], (char *)NULL);
		_exit(127);
	}
	close(ready[1]);
	bool is_good = true;
	while ((got = read(ready[0], text, sizeof(text))) > 0) {
		fwrite(text, 1, (size_t)got, stderr);
		is_good = false;
	}
	/* What it said may have been a warning. */
	return is_good || waitpid(pid, NULL, WNOHANG) == 0 ? 0 : 1;
}

static int ask(const char *path, char **words)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char line[LINE_BYTES] = "";
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	FILE *stream = fd < 0 ? NULL : fdopen(fd, "r+");

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (!stream || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return fail(path);
	for (; *words; words++)
		fprintf(stream, "%s%c", *words, words[1] ? ' ' : '\n');
	fflush(stream);
	if (!fgets(line, sizeof(line), stream))
		return fail("no answer");
	fputs(line, stdout);
	return !strncmp(line, "error", 5);
}

int main(int argc, char **argv)
{
	if (argc >= 4 && !strcmp(argv[0], "watari-hardware"))
		return serve(argv[1], argv[2], atoi(argv[3]), argc > 4);
	if ((argc == 5 || argc == 6) && !strcmp(argv[1], "run") && argv[4][0] >= '1' && argv[4][0] <= '8')
		return run(argv + 2);
	if (argc >= 4 && !strcmp(argv[1], "ask"))
		return ask(argv[2], argv + 3);
	fprintf(stderr, "usage: hardware run RUN TOOL NODES [watchdog] | hardware ask SOCKET WORD...\n");
	return 64;
}
