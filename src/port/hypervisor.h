/* SPDX-License-Identifier: Apache-2.0
 * The machine's own VMs: QEMU in the daemon, a model of it in the simulator.
 *
 * One instance per VM and node at most. Every call begins something and returns; how it went comes as an event. The
 * engine may call again what is under way or done already (it is level-triggered): that is no error and changes nothing.
 * Promises: hypervisor_inspect tells the truth about the machine, also after a restart of the daemon (instances are
 * found again and untouched); GONE is told only when the process is proven dead; a guest runs only after start or run;
 * after SEALED it is stopped and stays so until run or kill.
 * Must never: decide. Whether a guest may run is the engine's word, from a committed log. */
#pragma once

#include "base/err.h"
#include "model/event.h"
#include "model/names.h"
#include "model/vm.h"

#define HV_STATES(X)                                                                                                   \
	X(HV_ABSENT, "absent")                                                                                         \
	X(HV_STARTING, "starting")   /* process coming up */                                                            \
	X(HV_RUNNING, "running")     /* the guest runs, or was paused or powered off by itself */                        \
	X(HV_COPYING, "copying")     /* runs, memory is being saved; or just stopped and being sealed */                 \
	X(HV_SEALED, "sealed")	     /* stopped, the saved state is complete */                                          \
	X(HV_PREPARING, "preparing") /* standby coming up */                                                             \
	X(HV_STANDBY, "standby")     /* QEMU waits for a state */                                                        \
	X(HV_LOADING, "loading")                                                                                       \
	X(HV_LOADED, "loaded")	 /* device state is in, the guest may run as soon as it is told to */                   \
	X(HV_STOPPING, "stopping") /* being ended */

enum hv_state { HV_STATES(CLUSTER_CONSTANT) };
static inline NAMES_FUNCTION(hv_state_name, HV_STATES)

struct hv_info {
	enum hv_state state;
	uint64_t epoch; /* under which the guest was let run; of STANDBY … LOADED: 0 */
	uint64_t task;	/* of the copy or load under way or done; 0 */
	bool filling; /* pages are still being read: from LOADED on, where the state is loaded on demand */
	bool shutdown_asked;
	/* RUNNING: the guest does not reach its disks: paused by an error that another node may not have, or waiting for them
	 * for too long. Not: a full storage. The text is the fact. */
	bool storage_lost;
	char storage_text[REASON_BYTES];
	bool panicked; /* its kernel said so; it is stopped, and no run lets it go on */
	uint32_t heartbeat_s; /* as heartbeat() said last, to this daemon */
	/* COPYING: the copy of `task` has failed, and the guest, which was stopped for it, waits for run or kill. The code is
	 * not ERR_NONE then. Level-triggered, since FAILED may have been told to a daemon that was not synced yet. */
	enum err_code failed_code;
	char failed_text[REASON_BYTES];
};

enum hv_event_kind {
	HV_EVENT_STARTED,  /* the guest of (vm, epoch) runs */
	HV_EVENT_PREPARED, /* task's standby is ready */
	HV_EVENT_SEALED,   /* task's state is durable; figures */
	HV_EVENT_LOADED,   /* task's state is loaded; figures; filling: by post-copy */
	HV_EVENT_RESUMED,  /* run() took effect on (task, epoch); figures */
	HV_EVENT_FILLED,   /* all pages are in; figures */
	HV_EVENT_FAILED,   /* start, standby, copy or load did not work; err. After a failed copy the guest runs on or
			      is paused, waiting for run() or kill(); a failed standby or load leaves no instance */
	HV_EVENT_GONE,	   /* the process is proven dead; cause, err */
	HV_EVENT_PANICKED, /* hv_info.panicked has become true */
	HV_EVENT_PROGRESS, /* figures and percent; volatile */
	HV_EVENT_STORAGE,  /* hv_info.storage_lost has changed */
	HV_EVENT_PROBED,   /* probe() of the VM's disks: err.code is ERR_NONE where all of them are reached */
};

struct hv_event {
	enum hv_event_kind kind;
	const char *vm; /* uuid */
	uint64_t epoch;
	uint64_t task;
	enum gone_cause cause;
	bool filling;
	uint32_t percent;
	const char *note; /* PROGRESS: "stalled: state storage does not answer", else NULL */
	struct move_figures figures;
	struct err err;
};

struct hv_callbacks {
	void *ctx;
	void (*event)(void *ctx, const struct hv_event *event);
};

/* A saved state that is to be loaded, by what the log says of it. */
struct hv_saved {
	uint64_t task;
	uint64_t epoch;
	bool verify_all; /* every page before the guest runs: a cold restore, where time does not press */
};

struct hypervisor;
struct hypervisor_ops {
	void (*inspect)(struct hypervisor *hv, const char *vm, struct hv_info *info);
	/* Calls fn for each instance on this machine; fn must not start or end one. */
	void (*each)(struct hypervisor *hv, void (*fn)(void *ctx, const char *vm, const struct hv_info *info), void *ctx);
	/* Facts of this node, for EVENT_NODE_REPORT (all but the name). */
	int (*facts)(struct hypervisor *hv, struct node_facts *facts, struct err *err);

	/* Immediate failures too come as HV_EVENT_FAILED (and GONE where there is no instance), so calls return nothing. */
	void (*start)(struct hypervisor *hv, const struct vm_def *def, uint64_t epoch);
	void (*standby)(struct hypervisor *hv, const struct vm_def *def, uint64_t task);
	void (*copy)(struct hypervisor *hv, const struct vm_def *def, uint64_t task, uint64_t epoch);
	void (*load)(struct hypervisor *hv, const struct vm_def *def, uint64_t task, const struct hv_saved *saved);
	/* Lets run, as epoch: what was loaded for task; or a copy that was being saved or is sealed (any copy still under
	 * way is cancelled first). Answers with RESUMED(task, epoch) always, also where the guest runs already. A guest that had
	 * paused or powered off by itself before the copy is left so. */
	void (*run)(struct hypervisor *hv, const char *vm, uint64_t task, uint64_t epoch);
	void (*shutdown)(struct hypervisor *hv, const char *vm); /* ACPI power button */
	void (*kill)(struct hypervisor *hv, const char *vm);	 /* any state; answers with GONE(stopped) */
	/* SIGKILL at once, in any state, also where kill() has begun to end it gently: the node lost its cluster and the guest
	 * must be gone before others start it. Answers with GONE, as a death. May be NULL: then kill() is what there is. */
	void (*destroy)(struct hypervisor *hv, const char *vm);
	/* Deletes this VM's saved states on the shared storage that were written by tasks below `below`, but that of task
	 * keep (0: none is kept). In the background; `below` keeps it off a state that is begun meanwhile. */
	void (*purge)(struct hypervisor *hv, const char *vm, uint64_t keep, uint64_t below);
	/* Whether a VM that does not run here could have its disks here: opened as a start would, and read, within a time
	 * limit. Answers with PROBED, always. */
	void (*probe)(struct hypervisor *hv, const struct vm_def *def);
	/* A running guest's agent is asked from now on, and a guest whose agent has answered and then does not for this many
	 * seconds (by looks, not by the clock) is ended: GONE, as a death, with the reason in err. 0: not asked. Never while it
	 * is stopped for any reason, saved, loaded or filled. May be NULL: then nobody asks. */
	void (*heartbeat)(struct hypervisor *hv, const char *vm, uint32_t seconds);
};

struct hypervisor {
	const struct hypervisor_ops *ops;
};
