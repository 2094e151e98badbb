/* SPDX-License-Identifier: Apache-2.0 */
#include "base/worker.h"

#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct worker {
	int fd; /* to the process that forks; its end is that of the process */
};

/* Before the data. Caller and worker are one program: a function has the same address in both. */
struct request {
	worker_fn *work;
	size_t size;
	uint32_t fd_count;
	uint32_t fd_at[WORKER_FDS_MAX];
};

union control {
	struct cmsghdr header; /* for its alignment */
	char bytes[CMSG_SPACE(sizeof(int) * WORKER_FDS_MAX)];
};

static int *fd_in(void *data, uint32_t at)
{
	return (int *)(void *)((uint8_t *)data + at);
}

static void fds_attach(struct msghdr *message, union control *control, const int *fds, size_t count)
{
	if (!count)
		return;
	memset(control, 0, sizeof(*control));
	message->msg_control = control;
	message->msg_controllen = CMSG_SPACE(sizeof(int) * count);
	struct cmsghdr *header = CMSG_FIRSTHDR(message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int) * count);
	memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
}

static size_t fds_detach(struct msghdr *message, int fds[static WORKER_FDS_MAX])
{
	const struct cmsghdr *header = CMSG_FIRSTHDR(message);

	if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
		return 0;
	size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(fds, CMSG_DATA(header), count * sizeof(int));
	return count;
}

/* ---- the process that forks, and its children */

static _Noreturn void work(const struct request *request, void *data, int fd, pid_t parent)
{
	union control control;
	int fds[WORKER_FDS_MAX];
	size_t count = 0;

	/* One that hangs does nothing more, once it is out of the kernel, when those who wanted it are gone. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(1);
	request->work(data);
	for (uint32_t i = 0; i < request->fd_count; i++)
		if (*fd_in(data, request->fd_at[i]) >= 0)
			fds[count++] = *fd_in(data, request->fd_at[i]);
	struct iovec part = {.iov_base = data, .iov_len = request->size};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	fds_attach(&message, &control, fds, count);
	_exit(sendmsg(fd, &message, MSG_NOSIGNAL) < 0);
}

static _Noreturn void serve(int fd)
{
	static _Alignas(max_align_t) uint8_t data[WORKER_BYTES_MAX];
	static const int ignored[] = {SIGHUP, SIGINT, SIGTERM, SIGPIPE, SIGCHLD}; /* it ends with the socket; children are not waited for */
	struct request request;
	union control control;
	int fds[WORKER_FDS_MAX];
	pid_t self = getpid();
	sigset_t none;

	close_range(3, (unsigned)fd - 1, 0);
	close_range((unsigned)fd + 1, ~0U, 0);
	prctl(PR_SET_NAME, "watari-files");
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (;;) {
		struct iovec parts[] = {{&request, sizeof(request)}, {data, sizeof(data)}};
		struct msghdr message = {.msg_iov = parts,
			.msg_iovlen = 2,
			.msg_control = &control,
			.msg_controllen = sizeof(control)};
		ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < (ssize_t)sizeof(request) || fds_detach(&message, fds) != 1)
			_exit(0);
		if (!fork())
			work(&request, data, fds[0], self);
		close(fds[0]); /* of a fork that failed too: then the caller reads an end, and no answer */
	}
}

/* ---- the caller's side */

static int start(struct worker *worker, struct err *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(err, errno, "sockets to a process for files");
	pid_t pid = fork();
	if (!pid)
		serve(pair[1]);
	int why = errno;
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return err_errno(err, why, "a process for files");
	}
	worker->fd = pair[0];
	return 0;
}

struct worker *worker_new(struct err *err)
{
	struct worker *worker = calloc(1, sizeof(*worker));

	assert(worker);
	if (!start(worker, err))
		return worker;
	free(worker);
	return NULL;
}

void worker_free(struct worker *worker)
{
	if (!worker)
		return;
	cleanup_fd_(&worker->fd);
	free(worker);
}

static int send_request(struct worker *worker, struct request *request, const void *data, int fd)
{
	struct iovec parts[] = {{request, sizeof(*request)}, {(void *)data, request->size}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
	union control control;

	fds_attach(&message, &control, &fd, 1);
	return sendmsg(worker->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

int worker_begin(struct worker *worker, worker_fn *fn, const void *data, size_t size, const uint32_t *fd_at,
	uint32_t fd_count, struct err *err)
{
	struct request request = {.work = fn, .size = size, .fd_count = fd_count};
	int pair[2];

	assert(size <= WORKER_BYTES_MAX && fd_count <= WORKER_FDS_MAX);
	if (fd_count)
		memcpy(request.fd_at, fd_at, fd_count * sizeof(*fd_at));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(err, errno, "sockets to a process for files");
	CLEANUP_FD int ours = pair[0];
	CLEANUP_FD int theirs = pair[1];
	int result = worker->fd < 0 ? -EPIPE : send_request(worker, &request, data, theirs);
	if (result == -EPIPE || result == -ECONNRESET) {
		/* Somebody has ended it: another one. */
		cleanup_fd_(&worker->fd);
		worker->fd = -1;
		if (start(worker, err) < 0)
			return -1;
		result = send_request(worker, &request, data, theirs);
	}
	return result < 0 ? err_errno(err, -result, "the process for files takes no work") : STEAL_FD(ours);
}

int worker_take(int fd, void *data, size_t from, size_t size, const uint32_t *fd_at, uint32_t fd_count, struct err *err)
{
	CLEANUP_FREE uint8_t *answer = malloc(size);
	union control control;
	int fds[WORKER_FDS_MAX];
	size_t next = 0;

	assert(answer && from <= size);
	struct iovec part = {.iov_base = answer, .iov_len = size};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return err_errno(err, errno, "the answer of a process for files");
	size_t count = fds_detach(&message, fds);
	if ((size_t)n != size) {
		for (size_t i = 0; i < count; i++)
			close(fds[i]);
		return err_set(err, ERR_SYSTEM, "a process for files ended without an answer");
	}
	for (uint32_t i = 0; i < fd_count; i++) {
		int *at = fd_in(answer, fd_at[i]);
		if (*at >= 0)
			*at = next < count ? fds[next++] : -1;
	}
	memcpy((uint8_t *)data + from, answer + from, size - from);
	return 0;
}
