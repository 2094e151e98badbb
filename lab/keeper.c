/* SPDX-License-Identifier: Apache-2.0
 * The first process of a lab machine, and the door into it.
 *
 *   keeper spawn DIR NAME       make a machine: a process with its own PID, mount, network, UTS and IPC namespaces.
 *                               Returns when it stands. Its command line is "watari-keeper DIR NAME", which is how
 *                               watari-lab finds it: no pid file that could lie after a crash.
 *   keeper enter PID -- CMD...  run CMD inside the namespaces of PID, pass signals on, exit as CMD does.
 *
 * A machine's keeper reaps what is orphaned in it and does nothing else: it forwards no signal and stops no daemon, so
 * that SIGKILL to it is the power cord (the kernel then kills all that lives in its PID namespace, at once).
 * It must never hold anything open of the shell that started it, above all not the lab's lock. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MACHINE_NAMESPACES (CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC)

static int fail(const char *what)
{
	fprintf(stderr, "keeper: %s: %s\n", what, strerror(errno));
	return 1;
}

/* Runs as PID 1 of the new machine; descriptor 3 tells the spawner that the machine stands. */
static int keep(void)
{
	sigset_t all;
	int null;

	prctl(PR_SET_NAME, "watari-keeper");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fail("making the mounts private");
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return fail("mounting /proc");
	umask(022);
	if (chdir("/") < 0 || (null = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0)
		return fail("/dev/null");
	if (write(3, "+", 1) != 1)
		return fail("telling the spawner");
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	close_range(3, ~0U, 0);

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	for (;;) {
		siginfo_t info;

		sigwaitinfo(&all, &info);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static int spawn(char *dir, char *name)
{
	int ready[2];
	char byte;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return fail("pipe");
	if (unshare(CLONE_NEWPID | MACHINE_NAMESPACES) < 0)
		return fail("unshare (is this root?)");
	pid_t pid = fork();
	if (pid < 0)
		return fail("fork");
	if (pid == 0) {
		setsid();
		/* 3 survives the exec, everything else that was inherited does not. */
		if (ready[1] == 3)
			fcntl(3, F_SETFD, 0);
		else
			dup2(ready[1], 3);
		close_range(4, ~0U, 0);
		execl("/proc/self/exe", "watari-keeper", dir, name, (char *)NULL);
		_exit(127);
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		fprintf(stderr, "keeper: machine %s did not come up\n", name);
		return 1;
	}
	return 0;
}

static int enter(pid_t target, char **argv)
{
	int pidfd = pidfd_open(target, 0);
	sigset_t all, old;
	int status;

	char *cwd = getcwd(NULL, 0);

	if (pidfd < 0 || setns(pidfd, CLONE_NEWPID | MACHINE_NAMESPACES) < 0)
		return fail("entering the machine (powered off?)") + 124;
	/* Where the caller was, if there is such a place in the machine. */
	if (cwd && chdir(cwd) < 0 && chdir("/") < 0)
		return fail("/") + 124;
	free(cwd);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	pid_t self = getpid();
	pid_t pid = fork();
	if (pid < 0)
		return fail("fork") + 124;
	if (pid == 0) {
		/* The command must not outlive a killed watari-lab; what it daemonizes itself may. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		sigprocmask(SIG_SETMASK, &old, NULL);
		close_range(3, ~0U, 0);
		execvp(argv[0], argv);
		fprintf(stderr, "keeper: %s: %s\n", argv[0], strerror(errno));
		_exit(errno == ENOENT ? 127 : 126);
	}
	for (;;) {
		siginfo_t info;
		int sig = sigwaitinfo(&all, &info);

		if (sig == SIGCHLD && waitpid(pid, &status, WNOHANG) == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		/* A terminal's Ctrl-C reaches the command by itself (one process group): pass on only what was sent to
		 * us. */
		if (sig > 0 && sig != SIGCHLD && info.si_code <= 0 && info.si_pid != self)
			kill(pid, sig);
	}
}

int main(int argc, char **argv)
{
	if (getpid() == 1 && argc == 3 && !strcmp(argv[0], "watari-keeper"))
		return keep();
	if (argc == 4 && !strcmp(argv[1], "spawn"))
		return spawn(argv[2], argv[3]);
	if (argc >= 5 && !strcmp(argv[1], "enter") && !strcmp(argv[3], "--"))
		return enter((pid_t)atoi(argv[2]), argv + 4);
	fprintf(stderr, "usage: keeper spawn DIR NAME | keeper enter PID -- CMD...\n");
	return 64;
}
