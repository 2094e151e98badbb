/* SPDX-License-Identifier: Apache-2.0
 * The programs that the daemon starts: those that outlive it (QEMU, watari-stream) and those that must not (fence
 * agents).
 *
 * A process is born in a session of its own, where asked as an unprivileged user taken before exec, with no way to gain
 * a capability, an empty environment and exactly the descriptors that it was given. Whether it lives is told by two
 * things that cannot be mistaken for another's: a pidfd, and, for those that outlive the daemon, a lock file whose lock
 * it inherits and the kernel drops at its death, however that comes. So a reused pid is never taken for it, and a
 * daemon that was killed between the fork and its own note of it finds it again. Must never: be waited for. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { SPAWN_FDS_MAX = 32 };

struct spawn_fd {
	int ours;
	int theirs; /* 0 … SPAWN_FDS_MAX - 1, each once; the child has no other descriptors */
};

struct spawn {
	const char *binary; /* absolute */
	const char *const *argv;
	uint32_t uid; /* also the gid; 0: stays who it is */
	int lock_fd;  /* -1, or an open, locked file: the child writes its pid into it and keeps it open */
	bool bound;   /* killed by the kernel when the thread that started it ends, and so with the daemon */
	int nice;     /* below 0: comes before others; it may step back, not return */
	bool search;  /* has the system's usual PATH, since it starts programs by their names */
	uint32_t fd_count;
	struct spawn_fd fds[SPAWN_FDS_MAX];
};

struct process {
	pid_t pid;
	int pidfd; /* the caller's to close; it becomes readable when the process has ended */
	uint64_t starttime; /* clock ticks since boot, /proc/PID/stat field 22: for people and logs */
};

/* Fills *process. -1: there is no child. A failure of exec itself is told on the child's stderr and by its death. */
int process_spawn(const struct spawn *spawn, struct process *process, struct err *err);

/* Opens the lock file `name` in the directory, creating it. Returns the descriptor, locked, or -1: ERR_BUSY while the
 * process that holds it lives. */
int process_lock(int dir_fd, const char *name, struct err *err);

/* Finds the process that holds the lock file. 1: it lives, *process is filled. 0: there is none. -1: it is not known;
 * ERR_BUSY: one holds it that has not told its number yet, and will in a moment. */
int process_find(int dir_fd, const char *name, struct process *process, struct err *err);

/* A pidfd for a process of which only the number is known. The caller must prove afterwards that it is still the one.
 */
int process_open(pid_t pid, struct process *process, struct err *err);

/* True once it is dead; reaps it if it was ours. `how`, of 80 bytes, says how it ended where that is known. */
bool process_dead(const struct process *process, char how[static 80]);

/* The same, with the exit status; -1 where a signal ended it, or where it was not ours. */
bool process_ended(const struct process *process, int *status, char how[static 80]);

/* SIGKILL, also to one that has ended already. */
void process_kill(const struct process *process);

/* To it and to what it started, except what made itself a session of its own. Only while process_dead and process_ended
 * have not said that it is dead: until then, also when it has ended, its number cannot be another's. */
void process_signal_group(const struct process *process, int signo);

/* -1, or the caller's: a descriptor of the process whose link in /proc begins with `prefix` ("/memfd:memory-backend-memfd", "pipe:[123]"),
 * opened anew with these flags. */
int process_open_fd(const struct process *process, const char *prefix, int flags, struct err *err);
