/* SPDX-License-Identifier: Apache-2.0
 * watari-reach r:PATH|w:PATH...: whether files on shared storage are reached from here: opened (w: for writing too),
 * and their first block read, past the cache. The exit status is 0, or the first errno. Started by watarid, of which it
 * is not a thread because it may hang in the kernel for ever, and then nothing ends it, nor the process that it is a
 * part of. Must never: write, or take a lock. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

static int reach(const char *word)
{
	/* O_DIRECT wants aligned memory. O_NONBLOCK: a path that names a FIFO must not hang. */
	static _Alignas(4096) uint8_t block[4096];
	int flags = (word[0] == 'w' ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	int fd = open(word + 2, flags | O_DIRECT);

	if (fd < 0 && errno == EINVAL)
		fd = open(word + 2, flags);
	if (fd < 0)
		return errno;
	int error = pread(fd, block, sizeof(block), 0) < 0 ? errno : 0;
	close(fd);
	return error;
}

int main(int argc, char **argv)
{
	int error = 0;

	for (int i = 1; i < argc && !error; i++) {
		if ((argv[i][0] != 'r' && argv[i][0] != 'w') || argv[i][1] != ':') {
			fputs("usage: watari-reach r:PATH|w:PATH...\n", stderr);
			return EINVAL;
		}
		error = reach(argv[i]);
	}
	return error;
}
