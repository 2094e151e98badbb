/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/sync_task.h"

#include <errno.h>
#include <unistd.h>

static void *sync_main(void *arg)
{
	struct sync_task *task = arg;

	if (!task->mirror)
		task->result = ram_writer_sync(task->writer, &task->err);
	else if (fdatasync(task->mirror->fd))
		task->result = err_errno(&task->err, errno, "sync of '%s'", task->mirror->name);
	return NULL;
}

void sync_task_begin(struct sync_task *task, struct ram_writer *writer, struct mirror *mirror)
{
	*task = (struct sync_task){.writer = writer, .mirror = mirror};
	task->threaded = !pthread_create(&task->thread, NULL, sync_main, task);
}

int sync_task_end(struct sync_task *task, struct err *err)
{
	if (task->threaded)
		pthread_join(task->thread, NULL);
	else
		sync_main(task);
	if (task->result)
		*err = task->err;
	return task->result;
}
