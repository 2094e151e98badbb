/* SPDX-License-Identifier: Apache-2.0
 * How much of the processors a session gets beside others.
 *
 * Where the kernel groups tasks by session (autogroup, on by default, see sched(7)) a nice value counts within the
 * session alone, and every process that we start is a session of its own: the group has a nice value too, and that is
 * what counts between them. Without such grouping, or in a control group of its own, this changes nothing.
 * Must never: fail aloud; what it could not have is time. */
#pragma once

#include <sys/types.h>

/* A descriptor of a process's group for weight_set, or -1. pid 0: our own; to be opened before a process makes itself
 * undumpable, later it may not any more. */
int weight_open(pid_t pid);

/* nice: as setpriority; below 0 is root's. fd -1: nothing. */
void weight_set(int fd, int nice);
