/* SPDX-License-Identifier: Apache-2.0
 * How much of the processors a session gets beside others.
 *
 * Where the kernel groups tasks by session (autogroup, on by default, see sched(7)) a nice value counts within the
 * session alone, and every process that we start is a session of its own: the group has a nice value too, and that is
 * what counts between them. Without such grouping, or in a control group of its own, this changes nothing.
 * Must never: fail aloud; what it could not have is time. */
#pragma once

#include <sys/types.h>

/* A descriptor of a process's group for weight_set, the caller's to close, or -1. pid 0: our own; to be opened before a process makes itself
 * undumpable, later it may not any more. */
int weight_open(pid_t pid);

/* nice: as setpriority; below 0 is root's. fd -1: nothing. */
void weight_set(int fd, int nice);

enum { WEIGHT_LAST = 19 };
/* All that is left for this process is to end, and nobody waits for it: it runs where a processor has nothing else to
 * do. Ending takes more time than it seems: the kernel takes a mapping of a guest's memory apart page by page, 70 ms of
 * a processor for each GiB of 4 KiB pages, next to the guest that is about to run again. On a host that is never idle
 * this may take very long: to be taken back (WEIGHT_FADED_MS later) by weight_restore. */
void weight_fade(pid_t pid);
void weight_restore(pid_t pid);
enum { WEIGHT_FADED_MS = 3000 };
