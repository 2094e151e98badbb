/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/sock.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static void address(struct sockaddr_un *address, int dir_fd, const char *name)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/%s", dir_fd, name);
}

int sock_listen(int dir_fd, const char *name, struct err *err)
{
	struct sockaddr_un to;

	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(err, errno, "socket");
	unlinkat(dir_fd, name, 0);
	address(&to, dir_fd, name);
	/* The mode of the socket's file is that of the descriptor at bind: nobody gets between bind and a chmod. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&to, sizeof(to)) < 0 || listen(fd, 8) < 0)
		return err_errno(err, errno, "socket '%s'", name);
	return STEAL_FD(fd);
}

int sock_connect(int dir_fd, const char *name, struct err *err)
{
	struct sockaddr_un to;

	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, errno, "socket");
	address(&to, dir_fd, name);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		return err_set(err, ERR_UNAVAILABLE, "nobody listens on '%s' (error %d)", name, errno);
	return STEAL_FD(fd);
}
