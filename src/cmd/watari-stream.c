/* SPDX-License-Identifier: Apache-2.0
 * watari-stream save|load|check: the helper that carries a guest's state between QEMU and a directory. Everything it
 * needs is inherited or said on its control channel: see stream/protocol.h and watari-stream(8). */
#include "base/weight.h"
#include "stream/load.h"
#include "stream/protocol.h"
#include "stream/save.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static int die(const struct err *err)
{
	fprintf(stderr, "watari-stream: %s\n", err->text);
	return err_info(err->code)->exit_status;
}

static int run(const struct control_ops *ops, void (*set)(void *work, struct control *control), void *work)
{
	struct err err;
	struct control *control = control_new(STREAM_FD_CONTROL, ops, &err);

	if (!control)
		return die(&err);
	set(work, control);
	/* Nothing is taken down: the work is over, and a read that hangs must not keep the process. */
	return control_run(control);
}

static void set_save(void *work, struct control *control)
{
	save_set_control(work, control);
}

static int verb_save(int weight_fd)
{
	struct err err;
	(void)weight_fd;
	struct save *save = save_new(
		STREAM_FD_QEMU, STREAM_FD_DIRECTORY, is_open(STREAM_FD_MEMORY) ? (int)STREAM_FD_MEMORY : -1, &err);

	if (!save)
		return die(&err);
	struct control_ops ops = save_ops(save);
	return run(&ops, set_save, save);
}

static void set_load(void *work, struct control *control)
{
	load_set_control(work, control);
}

static int load_from(int socket, int weight_fd)
{
	struct err err;
	struct load *load = load_new(socket, STREAM_FD_DIRECTORY, weight_fd, &err);

	if (!load)
		return die(&err);
	struct control_ops ops = load_ops(load);
	return run(&ops, set_load, load);
}

static int verb_load(int weight_fd)
{
	return load_from(STREAM_FD_QEMU, weight_fd);
}

static int verb_check(int weight_fd)
{
	return load_from(-1, weight_fd);
}

static const struct verb {
	const char *name;
	int fd_last; /* the highest descriptor that is kept */
	int (*run)(int weight_fd);
} verbs[] = {
	{"save", STREAM_FD_MEMORY, verb_save},
	{"load", STREAM_FD_DIRECTORY, verb_load},
	{"check", STREAM_FD_DIRECTORY, verb_check},
};

/* Memory of guests passes through here: no core dumps, no peeking. What was inherited by mistake is closed. Returns the
 * descriptor of weight_open. */
static int settle_in(int fd_last)
{
	syscall(SYS_close_range, (unsigned)fd_last + 1, ~0U, 0);
	int weight_fd = weight_open(0);

	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	for (int fd = STREAM_FD_CONTROL; fd <= fd_last; fd++)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	return weight_fd;
}

int main(int argc, char **argv)
{
	struct err err;

	for (size_t i = 0; argc == 2 && i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(argv[1], verbs[i].name))
			continue;
		int weight_fd = settle_in(verbs[i].fd_last);
		if (is_open(STREAM_FD_QEMU) && is_open(STREAM_FD_CONTROL) && is_open(STREAM_FD_DIRECTORY))
			return verbs[i].run(weight_fd);
		err_set(&err, ERR_USAGE, "descriptors %d, %d and %d must be inherited", STREAM_FD_QEMU,
			STREAM_FD_CONTROL, STREAM_FD_DIRECTORY);
		return die(&err);
	}
	err_set(&err, ERR_USAGE,
		"usage: watari-stream save|load|check, with inherited descriptors (started by watarid)");
	return die(&err);
}
