/* SPDX-License-Identifier: Apache-2.0
 * instance.json: what the daemon writes down of an instance before it acts, to know it again after kill -9.
 *
 * Written to a new file and renamed, so that it is whole or absent. Not fsynced: the run directory and the processes die
 * with the machine together.
 * Promises: what was written is read back equal, also by a newer daemon. Must never: be taken for what is; whether a process
 * lives is told by its lock. */
#pragma once

#include "model/cluster.h"
#include "port/hypervisor.h"

/* What was being done. Whether it is still so is asked of QEMU and of watari-stream. */
#define RECORD_STEPS(X)                                                                                                \
	X(STEP_START, "start")	 /* a guest of `epoch` */                                                              \
	X(STEP_RUN, "run")	 /* started, or let run out of `task` */                                               \
	X(STEP_COPY, "copy")	 /* its memory is being saved as `task`, or is saved */                                \
	X(STEP_STANDBY, "standby") /* waits for a state, for `task` */                                                 \
	X(STEP_LOAD, "load")	 /* loads state `state_task` for `task`, or has loaded it */                           \
	X(STEP_STOP, "stop")	 /* to be ended, for `cause` */

enum record_step { RECORD_STEPS(CLUSTER_CONSTANT) };
enum { RECORD_STEP_COUNT = RECORD_STEPS(CLUSTER_COUNT) };
const char *record_step_name(int step);

struct record {
	enum record_step step;
	uint64_t epoch; /* 0 while it may not run */
	uint64_t task;
	uint64_t state_task; /* of a load */
	uint64_t state_epoch;
	enum gone_cause cause;
	bool kvm;
	bool postcopy; /* the load is by post-copy */
	bool filling;
	bool shutdown_asked;
	/* A copy has stopped the guest, which was running: whoever calls the copy off lets it run on. Set before the
	 * stream begins, cleared when the guest is seen to have stopped by itself. */
	bool stopped_by_copy;
	bool sealed;
	uint32_t uid;
	uint64_t pid; /* these two for people; the lock file is what counts */
	uint64_t starttime;
	uint64_t pipe_inode; /* of the copy, to find its end in QEMU again */
	struct move_figures figures;
	struct vm_def def;
	bool agent_heard; /* its guest's agent has answered: from then on its silence counts, for a later daemon too */
};
extern const struct schema record_schema;

/* In the instance's directory. */
int record_write(int dir_fd, const struct record *record, struct err *err);
/* ERR_NOT_FOUND: there is none. ERR_INVALID and others: it cannot be used, and *record is undefined. */
int record_read(int dir_fd, struct record *record, struct err *err);
