/* SPDX-License-Identifier: Apache-2.0
 * The serial console: bytes between this terminal and the VM's socket until Ctrl-]. */
#include "cmd/cli.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>

enum { LEAVE_KEY = 0x1d }; /* Ctrl-], as telnet and virsh have it */

static int connect_console(struct cli *cli, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err_errno(&cli->err, errno, "socket");
	if (strlen(path) >= sizeof(address.sun_path))
		return err_set(&cli->err, ERR_PROTOCOL, "the console's socket has too long a path");
	strcpy(address.sun_path, path);
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return err_errno(&cli->err, errno, "the console's socket %s", path);
	return STEAL_FD(fd);
}

static bool write_all(int fd, const char *bytes, size_t size)
{
	while (size) {
		ssize_t written = write(fd, bytes, size);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return false;
		bytes += written;
		size -= (size_t)written;
	}
	return true;
}

/* One direction's bytes. False: this side is at its end. */
static bool pass(int from, int to, bool leave_key, bool *left)
{
	char bytes[4096];
	ssize_t got = read(from, bytes, sizeof(bytes));

	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	if (got <= 0)
		return false;
	char *leave = leave_key ? memchr(bytes, LEAVE_KEY, (size_t)got) : NULL;
	if (leave) {
		got = leave - bytes;
		*left = true;
	}
	return write_all(to, bytes, (size_t)got) && !*left;
}

static void relay(int console, bool terminal)
{
	struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = console, .events = POLLIN}};
	bool left = false;

	while (!left) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return;
		if (fds[1].revents && !pass(console, STDOUT_FILENO, false, &left))
			return;
		/* A script's input may end long before the guest has answered. */
		if (fds[0].revents && !pass(STDIN_FILENO, console, terminal, &left))
			fds[0].fd = -1;
	}
}

int run_vm_console(struct cli *cli)
{
	CLEANUP_JSON json_t *where = NULL;
	bool terminal = isatty(STDIN_FILENO);
	struct termios before, raw;

	if (cli_call(cli, "vm.console", json_pack("{s:s}", "vm", cli->operands[0]), &where) < 0)
		return -1;
	if (cli->json) {
		print_json(where);
		return 0;
	}
	CLEANUP_FD int console = connect_console(cli, member_text(where, "socket"));
	if (console < 0)
		return -1;
	if (terminal) {
		fprintf(stderr, "console of %s; Ctrl-] leaves\n", member_text(where, "vm"));
		tcgetattr(STDIN_FILENO, &before);
		raw = before;
		cfmakeraw(&raw);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	relay(console, terminal);
	if (terminal) {
		tcsetattr(STDIN_FILENO, TCSANOW, &before);
		fprintf(stderr, "\nleft the console of %s\n", member_text(where, "vm"));
	}
	return 0;
}
