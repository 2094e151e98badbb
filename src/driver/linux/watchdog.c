/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/linux/watchdog.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/watchdog.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { ANSWER_LIMIT_MS = 500 };

struct watchdog_linux {
	struct watchdog port; /* first: the port's pointer is ours */
	char path[PATH_BYTES];
	int fd; /* -1: not armed by this process */
	bool is_socket;
	char driver[40];
};

static struct watchdog_linux *of(struct watchdog *watchdog)
{
	return (struct watchdog_linux *)watchdog;
}

static void drop(struct watchdog_linux *self)
{
	if (self->fd >= 0)
		close(self->fd);
	self->fd = -1;
}

/* ---- a program that plays a watchdog ---- */

static int say(struct watchdog_linux *self, const char *line, struct err *err)
{
	size_t length = strlen(line);
	char byte;

	/* It speaks only when it is asked: what can be read now is its end. */
	ssize_t got = recv(self->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (got > 0)
		return err_set(err, ERR_PROTOCOL, "%.60s: an answer that was not asked for", self->path);
	if (got >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
		return err_set(err, ERR_UNAVAILABLE, "%.60s: the program behind it is gone", self->path);
	ssize_t sent = send(self->fd, line, length, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0)
		return err_errno(err, errno, "%.60s", self->path);
	if ((size_t)sent != length)
		return err_set(err, ERR_UNAVAILABLE, "%.60s does not read", self->path);
	return 0;
}

static int ask(struct watchdog_linux *self, const char *line, const char *answer, struct err *err)
{
	char said[64];
	size_t length = strlen(answer), used = 0;

	if (say(self, line, err) < 0)
		return -1;
	while (used < length) {
		struct pollfd poll_fd = {.fd = self->fd, .events = POLLIN};
		ssize_t got = poll(&poll_fd, 1, ANSWER_LIMIT_MS) == 1
				      ? recv(self->fd, said + used, sizeof(said) - used, MSG_DONTWAIT)
				      : 0;
		if (got <= 0)
			return err_set(err, ERR_UNAVAILABLE, "%.60s does not answer", self->path);
		used += (size_t)got;
		if (used > length || memcmp(said, answer, used) != 0)
			return err_set(err, ERR_PROTOCOL, "%.60s: an answer that was not asked for", self->path);
	}
	return 0;
}

static int socket_arm(struct watchdog_linux *self, uint32_t timeout_ms, struct err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char line[32], answer[32];

	if (self->fd < 0) {
		if (strlen(self->path) >= sizeof(address.sun_path))
			return err_set(err, ERR_INVALID, "%.60s…: too long for a socket", self->path);
		strcpy(address.sun_path, self->path);
		CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
			return err_errno(err, errno, "%.60s", self->path);
		self->fd = STEAL_FD(fd);
	}
	snprintf(line, sizeof(line), "arm %u\n", timeout_ms);
	snprintf(answer, sizeof(answer), "armed %u\n", timeout_ms);
	if (ask(self, line, answer, err) == 0)
		return 0;
	drop(self);
	return -1;
}

/* ---- a device of the kernel ---- */

/* Before it is opened, which starts it: one that cannot be stopped again would end the machine when the daemon is. */
static bool has_no_way_out(const char *path)
{
	const char *name = strrchr(path, '/') + 1;
	char sys[PATH_BYTES + 64];

	snprintf(sys, sizeof(sys), "/sys/class/watchdog/%s/nowayout", strcmp(name, "watchdog") ? name : "watchdog0");
	CLEANUP_FILE FILE *file = fopen(sys, "re");
	return file && fgetc(file) == '1';
}

static int device_stop(struct watchdog_linux *self, struct err *err)
{
	if (write(self->fd, "V", 1) != 1)
		return err_errno(err, errno, "%.60s: magic close", self->path);
	drop(self);
	return 0;
}

static int device_open(struct watchdog_linux *self, struct err *err)
{
	if (has_no_way_out(self->path))
		return err_set(err, ERR_INVALID, "%.60s cannot be stopped once it runs (nowayout)", self->path);
	self->fd = open(self->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	if (self->fd < 0 && errno == EBUSY)
		return err_set(err, ERR_BUSY, "%.60s is another program's (systemd: RuntimeWatchdogSec=?)", self->path);
	return self->fd < 0 ? err_errno(err, errno, "%.60s", self->path) : 0;
}

static int device_set(struct watchdog_linux *self, uint32_t timeout_ms, struct err *err)
{
	struct watchdog_info info;
	int seconds = (int)(timeout_ms / 1000), read_back = -1;

	if (timeout_ms % 1000)
		return err_set(err, ERR_INVALID, "%.60s counts in whole seconds", self->path);
	if (ioctl(self->fd, WDIOC_GETSUPPORT, &info) < 0)
		return err_errno(err, errno, "%.60s: WDIOC_GETSUPPORT", self->path);
	snprintf(self->driver, sizeof(self->driver), "%.*s", (int)sizeof(info.identity), (const char *)info.identity);
	if (!(info.options & WDIOF_MAGICCLOSE))
		return err_set(err, ERR_INVALID, "%.60s stops when its program dies", self->path);
	if (!(info.options & WDIOF_SETTIMEOUT) || ioctl(self->fd, WDIOC_SETTIMEOUT, &seconds) < 0)
		return err_set(err, ERR_INVALID, "%.60s does not take a time of %u ms", self->path, timeout_ms);
	if (ioctl(self->fd, WDIOC_GETTIMEOUT, &read_back) < 0 || (uint32_t)read_back != timeout_ms / 1000)
		return err_set(
			err, ERR_INVALID, "%.60s was told %u ms and took %d s", self->path, timeout_ms, read_back);
	if (ioctl(self->fd, WDIOC_KEEPALIVE, 0) < 0)
		return err_errno(err, errno, "%.60s: WDIOC_KEEPALIVE", self->path);
	return 0;
}

static int device_arm(struct watchdog_linux *self, uint32_t timeout_ms, struct err *err)
{
	bool was_armed = self->fd >= 0;
	struct err ignored;

	if (!was_armed && device_open(self, err) < 0)
		return -1;
	if (device_set(self, timeout_ms, err) == 0)
		return 0;
	if (!was_armed && device_stop(self, &ignored) < 0)
		drop(self);
	return -1;
}

/* ---- the port ---- */

static int linux_arm(struct watchdog *watchdog, uint32_t timeout_ms, struct err *err)
{
	struct watchdog_linux *self = of(watchdog);
	struct stat st;

	if (self->fd >= 0)
		return self->is_socket ? socket_arm(self, timeout_ms, err) : device_arm(self, timeout_ms, err);
	if (stat(self->path, &st) < 0)
		return err_errno(err, errno, "%.60s", self->path);
	self->is_socket = S_ISSOCK(st.st_mode);
	if (!self->is_socket && !S_ISCHR(st.st_mode))
		return err_set(err, ERR_INVALID, "%.60s is no watchdog", self->path);
	return self->is_socket ? socket_arm(self, timeout_ms, err) : device_arm(self, timeout_ms, err);
}

static int linux_feed(struct watchdog *watchdog, struct err *err)
{
	struct watchdog_linux *self = of(watchdog);

	if (self->fd < 0)
		return err_set(err, ERR_UNAVAILABLE, "%.60s is not armed", self->path);
	if (self->is_socket ? say(self, "feed\n", err) < 0
			    : ioctl(self->fd, WDIOC_KEEPALIVE, 0) < 0 && err_errno(err, errno, "%.60s", self->path)) {
		/* Without the magic character: its time goes on. */
		drop(self);
		return -1;
	}
	return 0;
}

static int linux_disarm(struct watchdog *watchdog, struct err *err)
{
	struct watchdog_linux *self = of(watchdog);

	if (self->fd < 0)
		return 0;
	if (!self->is_socket)
		return device_stop(self, err);
	if (ask(self, "disarm\n", "disarmed\n", err) < 0)
		return -1;
	drop(self);
	return 0;
}

static void linux_name(struct watchdog *watchdog, char name[WATCHDOG_NAME_BYTES])
{
	struct watchdog_linux *self = of(watchdog);

	if (self->driver[0])
		snprintf(name, WATCHDOG_NAME_BYTES, "%.50s (%s)", self->path, self->driver);
	else
		snprintf(name, WATCHDOG_NAME_BYTES, "%.90s", self->path);
}

static const struct watchdog_ops ops = {
	.arm = linux_arm, .feed = linux_feed, .disarm = linux_disarm, .name = linux_name};

struct watchdog *watchdog_linux_new(const char *path)
{
	struct watchdog_linux *self = calloc(1, sizeof(*self));

	assert(self && path[0] == '/');
	self->port.ops = &ops;
	self->fd = -1;
	snprintf(self->path, sizeof(self->path), "%s", path);
	return &self->port;
}

void watchdog_linux_free(struct watchdog *watchdog)
{
	if (!watchdog)
		return;
	drop(of(watchdog));
	free(watchdog);
}
