/* SPDX-License-Identifier: Apache-2.0 */
#include "hardware.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

/* The command line is the keeper's identity (see keeper.c). */
static bool is_keeper(const char *pid, const char *want, size_t want_bytes)
{
	char path[64], have[1200];

	snprintf(path, sizeof(path), "/proc/%.20s/cmdline", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t got = read(fd, have, sizeof(have));
	close(fd);
	return got == (ssize_t)want_bytes && !memcmp(have, want, want_bytes);
}

static bool has_ended(int pidfd)
{
	struct pollfd ended = {.fd = pidfd, .events = POLLIN};

	return poll(&ended, 1, 0) != 0;
}

int power_keeper(const char *run_dir, const char *machine)
{
	char want[1100];
	int found = -1;
	int bytes = snprintf(want, sizeof(want), "watari-keeper%c%s%c%s", 0, run_dir, 0, machine) + 1;
	DIR *proc = opendir("/proc");

	if (bytes > (int)sizeof(want) || !proc)
		abort();
	for (struct dirent *entry; found < 0 && (entry = readdir(proc));) {
		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !is_keeper(entry->d_name, want, (size_t)bytes))
			continue;
		found = pidfd_open(atoi(entry->d_name), 0);
		/* A keeper that ended between the two steps may have left its number to somebody else. */
		if (found >= 0 && (has_ended(found) || !is_keeper(entry->d_name, want, (size_t)bytes))) {
			close(found);
			found = -1;
		}
	}
	closedir(proc);
	return found;
}

void power_lost(struct hardware *hw, struct node *node)
{
	close(node->pidfd);
	node->pidfd = -1;
	watchdog_reset(&node->watchdog);
	note(hw, node, "is off");
}

bool power_is_on(struct hardware *hw, struct node *node)
{
	if (node->pidfd >= 0 && has_ended(node->pidfd))
		power_lost(hw, node);
	if (node->pidfd < 0 && (node->pidfd = power_keeper(hw->run_dir, node->name)) >= 0)
		note(hw, node, "is on");
	return node->pidfd >= 0;
}

void power_cut(struct hardware *hw, struct node *node, const char *why)
{
	if (!power_is_on(hw, node))
		return;
	note(hw, node, "power cut %s", why);
	pidfd_send_signal(node->pidfd, SIGKILL, NULL, 0);
}

int power_restore(struct hardware *hw, struct node *node, const char *why)
{
	note(hw, node, "power on %s", why);
	/* Children are reaped by the kernel: SIGCHLD is ignored. */
	pid_t pid = fork();
	if (pid < 0)
		return -1;
	if (pid == 0) {
		signal(SIGCHLD, SIG_DFL);
		dup2(fileno(hw->log), 1);
		dup2(fileno(hw->log), 2);
		execl(hw->tool, hw->tool, "power-on", node->name, (char *)NULL);
		_exit(127);
	}
	return 0;
}
