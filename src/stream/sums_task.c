/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/sums_task.h"

#include <unistd.h>

static void *sums_main(void *arg)
{
	struct sums_task *task = arg;
	uint64_t one = 1;

	task->result = state_load_sums(task->state, &task->err);
	task->ended = true;
	ssize_t woken = write(task->wake_fd, &one, sizeof(one));
	(void)woken;
	return NULL;
}

void sums_task_begin(struct sums_task *task, struct state *state, int wake_fd)
{
	*task = (struct sums_task){.state = state, .wake_fd = wake_fd};
	task->running = true;
	if (pthread_create(&task->thread, NULL, sums_main, task)) {
		sums_main(task);
		task->thread = pthread_self();
	}
}

bool sums_task_over(struct sums_task *task)
{
	if (!task->running || !task->ended)
		return false;
	sums_task_fini(task);
	return true;
}

void sums_task_fini(struct sums_task *task)
{
	if (task->running && !pthread_equal(task->thread, pthread_self()))
		pthread_join(task->thread, NULL);
	task->running = false;
}
