/* SPDX-License-Identifier: Apache-2.0
 * A thread that reads and checks a state's table of page sums (state_load_sums), while another sends what needs none.
 * Must never: let the state be believed whole before it has ended well. */
#pragma once

#include "stream/state.h"

#include <pthread.h>

struct sums_task {
	struct state *state;
	int wake_fd; /* becomes readable at its end */
	pthread_t thread;
	bool running; /* to be joined */
	atomic_bool ended;
	int result;
	struct err err;
};

/* Without a thread to be had it does the work here. */
void sums_task_begin(struct sums_task *task, struct state *state, int wake_fd);
/* True once the thread is over, and then only once: the result is in result and err. */
bool sums_task_over(struct sums_task *task);
/* Waits for it. */
void sums_task_fini(struct sums_task *task);
