/* SPDX-License-Identifier: Apache-2.0
 * The decisions. Pure: no clock, I/O, allocation, randomness or log; `nm -u` of this layer is a test.
 *
 * core_step takes one committed event and changes the cluster; every node feeds the same events in the same order and
 * so knows the same cluster. core_duty says what a node should be doing about one VM right now. The engine compares
 * duties with what really runs and acts on the difference, so a crash between two steps is no special case.
 *
 * Promises (design §9), asserted after every step in release builds too: at most one node holds a duty under which a
 * VM's guest may run; a guest is given to another node only with proof that its copy is dead or sealed; a saved state
 * is consumed at most once, and only by an epoch that follows the one that wrote it without a run in between; every
 * change carries a reason.
 * Must never: depend on anything that is neither in the cluster nor in the event. */
#pragma once

#include "model/cluster.h"
#include "model/event.h"

/* What changed, for traces, subscribers and the engine's reconciliation. One VM may appear more than once. */
struct core_change {
	uint32_t vm; /* index in cluster.vms */
	enum vm_state from_state, to_state;
	enum move_phase from_phase, to_phase;
	char reason[REASON_BYTES]; /* of this very change: the VM's own reason is that of the last */
};

enum { CORE_CHANGES_MAX = 4 * VMS_MAX + 16 };

/* The core's own working space for one step: who is where, who waits, computed anew whenever it is needed. */
enum { CORE_LABELS = 16384 }; /* more than VMs, a power of two */
struct core_label {
	uint32_t vm;	/* index + 1 of one that has it; 0: a free slot */
	uint64_t nodes; /* where VMs with it are, bits */
};
enum { PLACE_NOTE_BYTES = 96 };
struct core_plan {
	bool counted;  /* memory_mib and probation hold */
	bool labelled; /* labels hold */
	uint64_t memory_mib[NODES_MAX + 1]; /* by node: owned, or on its way there */
	uint64_t probation; /* nodes with a VM that may have killed others */
	uint32_t starts[NODES_MAX + 1];	    /* under way */
	uint32_t leaving[NODES_MAX + 1], coming[NODES_MAX + 1]; /* moves under way */
	uint32_t queue_count;
	uint64_t queue[VMS_MAX]; /* VMs to be placed, sorted: what counts first in the high bits, the slot in the low ones */
	uint8_t chosen[VMS_MAX]; /* by place in the queue: the node, or 0 */
	char notes[VMS_MAX][PLACE_NOTE_BYTES]; /* the same: why it is no other one, for those that may start in this step */
	struct core_label labels[CORE_LABELS];
};

/* The caller owns it (it is large: keep one, not on the stack). */
struct core_outcome {
	enum err_code code;	 /* ERR_NONE: accepted. Else refused, nothing changed but the index and the digest */
	char text[REASON_BYTES]; /* of a refusal: the fact that decided it */
	uint64_t task;		 /* that an accepted request began, else 0 */
	uint64_t nodes_changed;	 /* bits id - 1 */
	bool devices_changed;	 /* the table of fence devices */
	uint32_t change_count;
	struct core_change changes[CORE_CHANGES_MAX];
	struct core_plan plan;
};

/* An empty cluster with this uuid. */
void core_init(struct cluster *cluster, const char *uuid);

/* Feed one event. Overwrites *outcome. Any event is survived, also one that no honest node would send. */
void core_step(struct cluster *cluster, const struct event *event, struct core_outcome *outcome);

/* When core_step wants a tick at the latest, in the time of event.now_ms; 0: never. */
uint64_t core_deadline_ms(const struct cluster *cluster);

#define DUTY_KINDS(X)                                                                                                  \
	X(DUTY_NONE, "none")	       /* no copy of this VM may exist here: end it if there is one */                  \
	X(DUTY_START, "start")	       /* start a new guest as this epoch; report STARTED or GONE */                    \
	X(DUTY_RUN, "run")	       /* a guest of this epoch runs here: let it run on (also after an aborted copy,   \
					  or what was loaded for this task); missing: report GONE */                    \
	X(DUTY_SHUTDOWN, "shutdown")   /* ask the guest to power off; report GONE */                                    \
	X(DUTY_STOP, "stop")	       /* end QEMU now; report GONE */                                                  \
	X(DUTY_STANDBY, "standby")     /* check that the VM fits, start QEMU waiting for a state; report PREPARED */    \
	X(DUTY_COPY, "copy")	       /* save the running guest's memory as state TASK; report SEALED */               \
	X(DUTY_HOLD, "hold")	       /* sealed: keep the paused copy, it may not run; report HELD where asked */      \
	X(DUTY_LOAD, "load")	       /* load state STATE_TASK into the QEMU that stands by; report LOADED */

enum duty_kind { DUTY_KINDS(CLUSTER_CONSTANT) };
const char *duty_kind_name(int kind);

struct duty {
	enum duty_kind kind;
	uint64_t epoch;	     /* START, RUN, SHUTDOWN, STOP, COPY, HOLD: of the copy here. STANDBY, LOAD: what it will be */
	uint64_t task;	     /* under way, or 0 */
	uint64_t state_task; /* LOAD: the saved state's directory */
	uint64_t state_epoch; /* LOAD: the epoch that the manifest must say */
	bool report_resumed; /* RUN: the log waits for RESUMED(task) */
	bool report_started; /* START, RUN: the log waits for STARTED(epoch) */
	bool report_held;    /* HOLD: the log waits for HELD(task, epoch) */
	bool filling;	     /* RUN: the log waits for FILLED(epoch) */
	bool storage_lost;   /* RUN: the log says that its disks are not reached here */
	bool at_once;	     /* STOP: by SIGKILL, nothing of it may be written any more */
	bool probe;	     /* NONE: report STORAGE_OK or STORAGE_LOST(probe_epoch) by what is found here */
	uint64_t probe_epoch;
	bool end_panicked;   /* RUN: a guest that has panicked is ended, rather than kept to be looked at */
	uint32_t heartbeat_s; /* RUN: what the policy says */
};

/* What node (1 … NODES_MAX) should be doing about cluster->vms[vm]. */
struct duty core_duty(const struct cluster *cluster, uint32_t vm, uint32_t node);

/* What `node` should be doing about a suspect. Beside each other: run is one member's, await_ms every member's. */
struct fence_duty {
	uint64_t id; /* fencing.id, goes into FENCED and FENCE_FAILED as task; 0: nothing is to be done */
	bool run;    /* switch off all devices of `level` that the suspect has, read back; report with epoch = order */
	bool look;   /* beside run: read whether they say off, and switch nothing */
	uint64_t order;
	uint32_t level;
	uint64_t delay_ms; /* before the devices' own delay */
	uint64_t await_ms; /* not 0: when the suspect has stayed away for this long, counted by a monotonic clock from when
			      this duty was first seen, its watchdog has ended it: report FENCED, PROOF_WATCHDOG */
};

struct fence_duty core_fence_duty(const struct cluster *cluster, uint32_t suspect, uint32_t node);

/* Whether the node could take the VM now, and the fact that decides it or the room that it has. For many questions about
 * one cluster: a plan that was all zero before the first. */
bool core_place_explain(
	const struct cluster *cluster, struct core_plan *plan, uint32_t vm, uint32_t node, char text[REASON_BYTES]);

/* The one saved-state directory of this VM that must be kept (a task number), or 0: all others may be deleted. */
uint64_t core_state_kept(const struct cluster *cluster, uint32_t vm);

/* The node is to leave the cluster by itself, and stays away while such a copy lives: one that does not die, whose end only
 * the node's own end can prove. */
bool core_must_leave(const struct cluster *cluster, uint32_t node);

/* The member that cleans up after this VM: its owner, else the lowest member. */
uint32_t core_janitor(const struct cluster *cluster, uint32_t vm);
