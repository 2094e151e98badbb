/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/file.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

int file_writev(int fd, const char *name, struct iovec *pieces, int count, uint64_t offset, struct err *err)
{
	while (count > 0) {
		ssize_t done = pwritev(fd, pieces, count, (off_t)offset);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return err_errno(err, errno, "write of '%s' at %" PRIu64, name, offset);
		if (done == 0) /* POSIX leaves this open for files; what is sure is that nothing more fits. */
			return err_errno(err, ENOSPC, "write of '%s' at %" PRIu64, name, offset);
		offset += (uint64_t)done;
		while (count > 0 && (size_t)done >= pieces->iov_len) {
			done -= (ssize_t)pieces->iov_len;
			pieces++;
			count--;
		}
		if (count > 0) {
			pieces->iov_base = (uint8_t *)pieces->iov_base + done;
			pieces->iov_len -= (size_t)done;
		}
	}
	return 0;
}

int file_write(int fd, const char *name, const void *bytes, size_t size, uint64_t offset, struct err *err)
{
	struct iovec piece = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};

	return size ? file_writev(fd, name, &piece, 1, offset, err) : 0;
}

int file_read(int fd, const char *name, void *bytes, size_t size, uint64_t offset, struct err *err)
{
	uint8_t *at = bytes;

	while (size) {
		ssize_t done = pread(fd, at, size, (off_t)offset);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return err_errno(err, errno, "read of '%s' at %" PRIu64, name, offset);
		if (done == 0)
			return err_set(err, ERR_CORRUPT, "'%s' is cut off at %" PRIu64, name, offset);
		at += done;
		size -= (size_t)done;
		offset += (uint64_t)done;
	}
	return 0;
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec now;

	clock_gettime(id, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

uint64_t clock_real_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

uint64_t clock_mono_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

void thread_step_back(void)
{
	/* On Linux the priority is the thread's, not the process's. */
	if (getpriority(PRIO_PROCESS, 0) < 0)
		setpriority(PRIO_PROCESS, 0, 0);
}
