/* SPDX-License-Identifier: Apache-2.0 */
#include "base/weight.h"

#include "base/cleanup.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <unistd.h>

int weight_open(pid_t pid)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/autogroup", (int)(pid ? pid : getpid()));
	return open(path, O_WRONLY | O_CLOEXEC);
}

void weight_set(int fd, int nice)
{
	char text[16];
	int size = snprintf(text, sizeof(text), "%d\n", nice);

	if (fd < 0)
		return;
	ssize_t ignored = write(fd, text, (size_t)size);
	(void)ignored;
}

/* On Linux policy and priority are a thread's. */
static void threads_set(pid_t pid, int policy, int nice)
{
	const struct sched_param param = {0};
	const struct dirent *entry;
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *threads = opendir(path);
	while (threads && (entry = readdir(threads))) {
		pid_t thread = atoi(entry->d_name);
		if (thread > 0 && !sched_setscheduler(thread, policy, &param))
			setpriority(PRIO_PROCESS, (id_t)thread, nice);
	}
	if (threads)
		closedir(threads);
}

static void fade(pid_t pid, int policy, int nice)
{
	CLEANUP_FD int fd = weight_open(pid);

	weight_set(fd, nice);
	threads_set(pid, policy, nice);
}

void weight_fade(pid_t pid)
{
	fade(pid, SCHED_IDLE, WEIGHT_LAST);
}

void weight_restore(pid_t pid)
{
	fade(pid, SCHED_OTHER, 0);
}
