/* SPDX-License-Identifier: Apache-2.0 */
#include "base/weight.h"

#include <fcntl.h>
#include <stdio.h>
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
