/* SPDX-License-Identifier: Apache-2.0
 * A QEMU that lives and does not answer: it hangs, or was stopped. Its guest may well not run, so it is killed, and its end
 * is a death. Asked is whether it answers at all; what, does not matter.
 *
 * Not judged: a QEMU that starts, stands by, is loaded, filled or saved, where its main loop may be held up rightly and each
 * step has its own limit; one that waits in the kernel, since then its storage hangs, which is none of its faults and which
 * SIGKILL would not end; one that is being debugged. */
#include "driver/qemu/instance.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>

_Static_assert(SILENCE_LOOK_MS >= QMP_LIMIT_MS, "no other question to it waits longer than one look");

static bool is_judged(const struct instance *instance)
{
	if (instance->state == HV_RUNNING)
		return !instance->record.filling && !instance->stalled && !instance->storage_lost;
	return instance->state == HV_COPYING && instance->copy.phase >= COPY_CANCEL;
}

/* The state of one thread, the first letter behind "(name)" in its stat. */
static char thread_state(int tasks_fd, const char *thread)
{
	char path[64], text[256];

	snprintf(path, sizeof(path), "%.32s/stat", thread);
	CLEANUP_FD int fd = openat(tasks_fd, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return 0;
	text[n] = 0;
	const char *end = strrchr(text, ')');
	return end && end[1] == ' ' ? end[2] : 0;
}

bool silence_is_excused(const struct instance *instance)
{
	char path[40];
	const struct dirent *entry;
	bool excused = false;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)instance->process.pid);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *threads = fd < 0 ? NULL : fdopendir(fd);
	if (!threads) {
		cleanup_fd_(&fd);
		return false;
	}
	while (!excused && (entry = readdir(threads))) {
		char state = entry->d_name[0] == '.' ? 0 : thread_state(fd, entry->d_name);
		excused = state == 'D' || state == 't';
	}
	closedir(threads);
	return excused;
}

static void on_answer(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;

	(void)err; /* a connection that was closed is made anew and asked again */
	instance->silence_asked = false;
	if (result)
		instance->silent_looks = 0;
}

static void give_up(struct instance *instance)
{
	struct err why;

	err_set(&why, ERR_TIMEOUT, "it has not answered for %d s, and was killed", SILENCE_LOOKS * SILENCE_LOOK_MS / 1000);
	instance->silent = true;
	instance_end(instance, ENDING_DIED, &why);
}

static void on_look(void *ctx)
{
	struct instance *instance = ctx;

	instance->silence_timer = NULL;
	if (instance->state == HV_STOPPING)
		return;
	silence_watch(instance);
	if (!is_judged(instance)) {
		instance->silent_looks = 0;
		return;
	}
	if (!instance->silence_asked && instance->qmp) {
		instance->silence_asked = true;
		qmp_send(instance->qmp, "query-status", NULL, -1, UINT64_C(2) * SILENCE_LOOKS * SILENCE_LOOK_MS, on_answer,
			instance);
		return;
	}
	if (silence_is_excused(instance))
		return;
	if (++instance->silent_looks < SILENCE_LOOKS) {
		qemu_note(instance, "QEMU does not answer");
		return;
	}
	give_up(instance);
}

void silence_watch(struct instance *instance)
{
	loop_timer_cancel(instance->qemu->loop, instance->silence_timer);
	instance->silence_timer = loop_timer_set(instance->qemu->loop, SILENCE_LOOK_MS, on_look, instance);
}
