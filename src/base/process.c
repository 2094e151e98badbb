/* SPDX-License-Identifier: Apache-2.0 */
#include "base/process.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { FD_FREE = 64, NOFILE_MAX = 4096 }; /* FD_FREE: above every number that a child gets */

/* Between fork and exec only system calls are made: other threads may have held any lock of the C library. The raw
 * calls spare glibc's setuid its message to threads that are not there. */
static _Noreturn void child_fail(const char *what)
{
	static const char prefix[] = "watari: cannot start: ";
	ssize_t ignored = write(STDERR_FILENO, prefix, sizeof(prefix) - 1);

	ignored = write(STDERR_FILENO, what, strlen(what));
	ignored = write(STDERR_FILENO, "\n", 1);
	(void)ignored;
	_exit(127);
}

static void child_signals(void)
{
	sigset_t none;
	struct sigaction action = {.sa_handler = SIG_DFL};

	for (int i = 1; i < NSIG; i++)
		sigaction(i, &action, NULL); /* fails for KILL, STOP and the library's own: they stay as they are */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void child_fds(const struct spawn *spawn, int *lock_fd)
{
	int moved[SPAWN_FDS_MAX];
	int lock = -1;

	for (uint32_t i = 0; i < spawn->fd_count; i++)
		if ((moved[i] = fcntl(spawn->fds[i].ours, F_DUPFD_CLOEXEC, FD_FREE)) < 0)
			child_fail("duplicating a descriptor");
	if (spawn->lock_fd >= 0 && (lock = fcntl(spawn->lock_fd, F_DUPFD_CLOEXEC, FD_FREE)) < 0)
		child_fail("duplicating a descriptor");
	for (uint32_t i = 0; i < spawn->fd_count; i++)
		if (dup2(moved[i], spawn->fds[i].theirs) < 0)
			child_fail("placing a descriptor");
	/* The lock takes the place behind the last one; it stays open for the process's whole life. */
	*lock_fd = -1;
	if (lock >= 0 && (*lock_fd = dup2(lock, SPAWN_FDS_MAX)) < 0)
		child_fail("placing the lock");
	bool used[SPAWN_FDS_MAX] = {false};
	for (uint32_t i = 0; i < spawn->fd_count; i++)
		used[spawn->fds[i].theirs] = true;
	for (int fd = 0; fd < SPAWN_FDS_MAX; fd++)
		if (!used[fd])
			close(fd);
	if (syscall(SYS_close_range, (unsigned)(SPAWN_FDS_MAX + (*lock_fd >= 0)), ~0U, 0U) < 0)
		child_fail("close_range");
}

static void child_write_pid(int lock_fd)
{
	char text[16];
	size_t at = sizeof(text);
	unsigned pid = (unsigned)getpid();

	text[--at] = '\n';
	do
		text[--at] = (char)('0' + pid % 10);
	while (pid /= 10);
	if (pwrite(lock_fd, text + at, sizeof(text) - at, 0) != (ssize_t)(sizeof(text) - at))
		child_fail("writing the pid");
}

static void child_limits(int nice)
{
	struct rlimit none = {0, 0};
	struct rlimit files = {NOFILE_MAX, NOFILE_MAX};
	int fd;

	setrlimit(RLIMIT_CORE, &none); /* a core would hold the guest's memory */
	setrlimit(RLIMIT_NOFILE, &files);
	/* The daemon may come first at the CPU and last at the OOM killer; what it starts does not. */
	setpriority(PRIO_PROCESS, 0, nice);
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t ignored = write(fd, "0", 1);
		(void)ignored;
		close(fd);
	}
}

static void child_user(uint32_t uid)
{
	if (uid && (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, uid, uid, uid) < 0 ||
			   syscall(SYS_setresuid, uid, uid, uid) < 0))
		child_fail("taking its own user");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		child_fail("no_new_privs");
}

/* The parent may have died before the kernel was asked to tell: then there is nobody to be killed by. */
static void child_bind(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || getppid() != parent)
		child_fail("the daemon is gone");
}

static _Noreturn void child(const struct spawn *spawn, pid_t parent)
{
	static const char *const plain[] = {"LC_ALL=C", "HOME=/nonexistent", NULL};
	static const char *const searching[] = {
		"LC_ALL=C", "HOME=/nonexistent", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	const char *const *environment = spawn->search ? searching : plain;
	int lock_fd;

	child_signals();
	if (spawn->bound)
		child_bind(parent);
	setsid();
	umask(077);
	child_fds(spawn, &lock_fd);
	child_limits(spawn->nice);
	if (lock_fd >= 0)
		child_write_pid(lock_fd);
	child_user(spawn->uid);
	if (chdir("/") < 0)
		child_fail("chdir");
	execve(spawn->binary, (char *const *)(uintptr_t)spawn->argv, (char *const *)(uintptr_t)environment);
	child_fail(spawn->binary);
}

static uint64_t starttime_of(pid_t pid)
{
	char path[64], text[1024];
	uint64_t value = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return 0;
	text[n] = 0;
	/* Field 2 may hold spaces and parentheses: count from the last one. Field 3 follows it. */
	char *at = strrchr(text, ')');
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	if (at)
		sscanf(at, "%" SCNu64, &value);
	return value;
}

int process_open(pid_t pid, struct process *process, struct err *err)
{
	int pidfd = pidfd_open(pid, 0);

	if (pidfd < 0)
		return err_errno(err, errno, "pidfd of process %d", (int)pid);
	*process = (struct process){.pid = pid, .pidfd = pidfd, .starttime = starttime_of(pid)};
	return 0;
}

int process_spawn(const struct spawn *spawn, struct process *process, struct err *err)
{
	assert(spawn->fd_count <= SPAWN_FDS_MAX && spawn->binary[0] == '/');
	for (uint32_t i = 0; i < spawn->fd_count; i++)
		assert(spawn->fds[i].theirs < SPAWN_FDS_MAX);
	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid < 0)
		return err_errno(err, errno, "fork");
	if (!pid)
		child(spawn, parent);
	/* It cannot have been reaped yet, so the number is still its own. */
	if (process_open(pid, process, err) < 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return -1;
	}
	return 0;
}

int process_lock(int dir_fd, const char *name, struct err *err)
{
	CLEANUP_FD int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return err_errno(err, errno, "lock file '%s'", name);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? err_set(err, ERR_BUSY, "the process that holds '%s' lives", name)
					    : err_errno(err, errno, "lock file '%s'", name);
	if (ftruncate(fd, 0) < 0)
		return err_errno(err, errno, "lock file '%s'", name);
	return STEAL_FD(fd);
}

/* 1: somebody holds the lock. A lock that we get ourselves is dropped again by the close. */
static int lock_held(int fd, struct err *err)
{
	if (!flock(fd, LOCK_EX | LOCK_NB)) {
		flock(fd, LOCK_UN);
		return 0;
	}
	return errno == EWOULDBLOCK ? 1 : err_errno(err, errno, "lock file");
}

int process_find(int dir_fd, const char *name, struct process *process, struct err *err)
{
	CLEANUP_FD int fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	char text[16] = "";
	struct process found;
	int pid;

	if (fd < 0)
		return errno == ENOENT ? 0 : err_errno(err, errno, "lock file '%s'", name);
	int held = lock_held(fd, err);
	if (held <= 0)
		return held;
	/* Held but not yet written: a child between fork and exec. The next look finds it. */
	if (pread(fd, text, sizeof(text) - 1, 0) <= 0 || sscanf(text, "%d", &pid) != 1 || pid <= 1)
		return err_set(err, ERR_BUSY, "lock file '%s' is held by a process that has not told its number", name);
	if (process_open((pid_t)pid, &found, err) < 0)
		return lock_held(fd, err) == 0 ? 0 : -1;
	/* Held after the pidfd was opened: the number belonged to the holder all the time. */
	held = lock_held(fd, err);
	if (held <= 0) {
		close(found.pidfd);
		return held;
	}
	*process = found;
	return 1;
}

static void describe(const siginfo_t *info, char how[static 80])
{
	if (info->si_code == CLD_EXITED)
		snprintf(how, 80, "exit status %d", info->si_status);
	else
		snprintf(how, 80, "signal %d (%s)", info->si_status, sigdescr_np(info->si_status));
}

bool process_ended(const struct process *process, int *status, char how[static 80])
{
	struct pollfd poll_fd = {.fd = process->pidfd, .events = POLLIN};
	siginfo_t info = {0};

	*status = -1;
	how[0] = 0;
	/* Readable from the moment when the last thread has gone and its files are closed; also for another's child. */
	if (poll(&poll_fd, 1, 0) != 1)
		return false;
	if (waitid((idtype_t)P_PIDFD, (id_t)process->pidfd, &info, WEXITED | WNOHANG) < 0 || !info.si_pid)
		return true;
	if (info.si_code == CLD_EXITED)
		*status = info.si_status;
	describe(&info, how);
	return true;
}

bool process_dead(const struct process *process, char how[static 80])
{
	int status;

	return process_ended(process, &status, how);
}

void process_kill(const struct process *process)
{
	pidfd_send_signal(process->pidfd, SIGKILL, NULL, 0);
}

void process_signal_group(const struct process *process, int signo)
{
	assert(process->pid > 1);
	pidfd_send_signal(process->pidfd, signo, NULL, 0); /* it may not have come to its setsid yet */
	kill(-process->pid, signo);
}

int process_open_fd(const struct process *process, const char *prefix, int flags, struct err *err)
{
	char path[64], link[256];
	struct dirent *entry;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)process->pid);
	DIR *dir = opendir(path);
	if (!dir)
		return err_errno(err, errno, "'%s'", path);
	int fd = -1;
	while (fd < 0 && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		if (n <= 0)
			continue;
		link[n] = 0;
		if (strncmp(link, prefix, strlen(prefix)) != 0)
			continue;
		fd = openat(dirfd(dir), entry->d_name, flags | O_CLOEXEC);
		if (fd < 0)
			err_errno(err, errno, "%s/%s", path, entry->d_name);
	}
	if (fd < 0 && !entry)
		err_set(err, ERR_NOT_FOUND, "process %d has no '%s' open", (int)process->pid, prefix);
	closedir(dir);
	/* The number was still its own while we looked. */
	if (fd >= 0 && pidfd_send_signal(process->pidfd, 0, NULL, 0) < 0) {
		close(fd);
		return err_set(err, ERR_UNAVAILABLE, "process %d has died", (int)process->pid);
	}
	return fd;
}
