/* SPDX-License-Identifier: Apache-2.0
 * Work that may block in the kernel for ever (files on dead storage), in processes of its own. A thread that hangs so keeps its
 * whole process from ending, whatever is sent to it.
 *
 * One small process is forked at the start, and for each piece of work it forks a child, which works on a copy of the caller's
 * data and sends it back with the descriptors that it opened.
 * Promises: the caller is never blocked; what hangs hangs alone; nothing of it goes on after worker_free or the caller's end, but
 * for the system call in which it hangs.
 * Must never: be given data with pointers that the work follows; run work that touches what the caller has open. */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

enum { WORKER_FDS_MAX = 16, WORKER_BYTES_MAX = 64 << 10 };

typedef void worker_fn(void *data);

struct worker;

/* Best before there are threads. */
struct worker *worker_new(struct err *err);
void worker_free(struct worker *worker); /* takes NULL */

/* Begins work(copy of data). fd_at: where in the data descriptors are, ints that are -1 or opened by the work. Returns a
 * descriptor, the caller's to close, that becomes readable when there is an answer; or -1. */
int worker_begin(struct worker *worker, worker_fn *work, const void *data, size_t size, const uint32_t *fd_at,
	uint32_t fd_count, struct err *err);

/* The answer: data is overwritten from byte `from` on, its descriptors are the caller's. -1: the work died without one, data is
 * untouched. Same size and places as at its beginning. */
int worker_take(int fd, void *data, size_t from, size_t size, const uint32_t *fd_at, uint32_t fd_count, struct err *err);
