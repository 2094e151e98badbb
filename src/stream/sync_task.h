/* SPDX-License-Identifier: Apache-2.0
 * Makes one file of a state durable in a thread of its own: beside others, and beside the repair pass.
 * Promises: durable when sync_task_end has returned 0. Must never: end well after a write that failed. */
#pragma once

#include "stream/ram_writer.h"

struct sync_task {
	struct ram_writer *writer;
	struct mirror *mirror; /* NULL: the ram file */
	struct err err;
	int result;
	pthread_t thread;
	bool threaded;
};

/* Without a thread to be had the work is done by sync_task_end. */
void sync_task_begin(struct sync_task *task, struct ram_writer *writer, struct mirror *mirror);
/* Waits for it. 0, or -1 with what failed first. */
int sync_task_end(struct sync_task *task, struct err *err);
