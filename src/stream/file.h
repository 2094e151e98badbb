/* SPDX-License-Identifier: Apache-2.0
 * Whole reads and writes at an offset, the two clocks, and a thread's place behind the guest.
 * Promises: all of it, or -1 and the reason. Must never: make durable; that is a call of its own (sync_task.h). */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* All of it, or -1 with the file's name and the reason. */
int file_write(int fd, const char *name, const void *bytes, size_t size, uint64_t offset, struct err *err);
/* As file_write for pieces that lie one after the other in the file; count ≤ 1024; the pieces are changed. */
int file_writev(int fd, const char *name, struct iovec *pieces, int count, uint64_t offset, struct err *err);
/* All of it; an end of file within is ERR_CORRUPT ("is cut off"). */
int file_read(int fd, const char *name, void *bytes, size_t size, uint64_t offset, struct err *err);

uint64_t clock_real_ns(void);
uint64_t clock_mono_ns(void);

/* For threads that work while the guest runs and may be late: gives up the calling thread's higher priority, if the
 * process was started with one (protocol.h). */
void thread_step_back(void);
