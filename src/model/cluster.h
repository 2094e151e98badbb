/* SPDX-License-Identifier: Apache-2.0
 * The state of a cluster, as every node knows it: plain data, no pointers, fixed size.
 *
 * Only core_step changes it (src/core), always by a committed event; everything else reads. The same struct is the
 * snapshot that a joining node takes, what the API shows, and what the simulator's checkers compare.
 * Must never: hold what one node alone knows.
 *
 * A VM's life (VM_STATES; the table of allowed moves is in core/vm_state.c):
 *
 *            start            started             guest or admin stops
 *   OFF ───────────▶ STARTING ───────▶ ONLINE ──▶ STOPPING ───────────▶ OFF
 *    ▲                  │              ▲  │ ▲
 *    │ discard          │ no luck      │  │ └──── MOVING    (owner changes when the state is consumed)
 *    └──── SAVED ◀── SAVING ◀──────────┼──┘
 *            │                         │        any of these, when its owner leaves the view: BLOCKED, until proof
 *            └──────▶ RESTORING ───────┘        too many deaths: FAILED */
#pragma once

#include "model/fence.h"
#include "model/vm.h"

#define NODE_STATES(X)                                                                                                 \
	X(NODE_UNKNOWN, "unknown") /* never seen */                                                                    \
	X(NODE_JOINING, "joining") /* in the view, has not told its facts yet */                                       \
	X(NODE_ONLINE, "online")                                                                                       \
	X(NODE_LOST, "lost") /* left the view: suspect, nothing is known of its copies */                              \
	X(NODE_DEAD, "dead") /* left the view, and proven not to run: node.fence.proof */

/* Where the work stands that turns a suspect into a dead node (design §7; the rules are in core/fence.c). */
#define FENCE_PHASES(X)                                                                                                \
	X(FENCE_IDLE, "idle")	/* not lost, or lost without a VM: nothing needs proof */                              \
	X(FENCE_GRACE, "grace") /* only its daemon is away, the machine is in the ring: time for a restart */          \
	X(FENCE_RUN, "run")	/* member `by` switches the devices of `level` */                                      \
	X(FENCE_RETRY, "retry") /* all levels failed; begun anew at deadline_ms */                                     \
	X(FENCE_HELD, "held")	/* no device may be used: its watchdog's time, its return or a person ends this */     \
	X(FENCE_DONE, "done")	/* proof is there */

#define DEATH_PROOFS(X)                                                                                                \
	X(PROOF_NONE, "none")                                                                                          \
	X(PROOF_FENCED, "fenced")	/* its devices were switched, and their status read back says off */           \
	X(PROOF_WATCHDOG, "watchdog")	/* its watchdog's time has run out */                                          \
	X(PROOF_CONFIRMED, "confirmed") /* an administrator typed its name */

#define VM_STATES(X)                                                                                                   \
	X(VM_OFF, "off")                                                                                               \
	X(VM_STARTING, "starting")                                                                                     \
	X(VM_ONLINE, "online")                                                                                         \
	X(VM_STOPPING, "stopping")                                                                                     \
	X(VM_MOVING, "moving")                                                                                         \
	X(VM_SAVING, "saving")                                                                                         \
	X(VM_SAVED, "saved")                                                                                           \
	X(VM_RESTORING, "restoring")                                                                                   \
	X(VM_BLOCKED, "blocked") /* its owner is lost and no proof says that its copy is dead */                       \
	X(VM_FAILED, "failed")	 /* given up, the reason says why; an administrator decides */

/* Where a VM that is MOVING, SAVING or RESTORING stands (design §6). */
#define MOVE_PHASES(X)                                                                                                 \
	X(MOVE_IDLE, "idle")                                                                                           \
	X(MOVE_PREPARE, "prepare") /* the target proves that it can take the VM; QEMU stands by there */               \
	X(MOVE_WAIT, "wait")	   /* pages of the move before are still coming in on the source */                    \
	X(MOVE_COPY, "copy")	   /* the guest runs on the source, its memory is being saved; ends with SEALED */     \
	X(MOVE_LOAD, "load")	   /* sealed: the target loads; the source's copy is paused and may not run */         \
	X(MOVE_RESUME, "resume")   /* consumed: the target owns it and lets it run */                                  \
	X(MOVE_RETURN, "return")   /* aborted: the source lets its copy run on */                                       \
	X(MOVE_BACK, "back")	   /* aborted when sealed: the source looks whether its copy is there to run on */

#define SAVED_STATUSES(X)                                                                                              \
	X(SAVED_NONE, "none")                                                                                          \
	X(SAVED_SEALED, "sealed")     /* complete and durable; proves that the guest is not running */                 \
	X(SAVED_CONSUMED, "consumed") /* resumed once; never again */                                                  \
	X(SAVED_DISCARDED, "discarded") /* the source ran on, or an administrator threw it away */

#define VM_WANTS(X)                                                                                                    \
	X(WANT_OFF, "off")                                                                                             \
	X(WANT_ON, "on")                                                                                               \
	X(WANT_SAVED, "saved")

/* Why a VM that should run is not started now (core/policy.c). */
#define VM_WAITS(X)                                                                                                    \
	X(WAIT_NONE, "none")                                                                                           \
	X(WAIT_ROOM, "room")   /* no node can take it */                                                               \
	X(WAIT_ORDER, "order") /* VMs with a lower start order come first */                                           \
	X(WAIT_TURN, "turn")   /* its node has as many starts under way as it may */

#define TASK_KINDS(X)                                                                                                  \
	X(TASK_START, "start")                                                                                         \
	X(TASK_SHUTDOWN, "shutdown")                                                                                   \
	X(TASK_STOP, "stop")                                                                                           \
	X(TASK_SAVE, "save")                                                                                           \
	X(TASK_RESTORE, "restore")                                                                                     \
	X(TASK_MOVE, "move")

#define TASK_STATES(X)                                                                                                 \
	X(TASK_RUNNING, "running")                                                                                     \
	X(TASK_DONE, "done")                                                                                           \
	X(TASK_FAILED, "failed")                                                                                       \
	X(TASK_CANCELLED, "cancelled")

#define CLUSTER_CONSTANT(constant, name) constant,
#define CLUSTER_COUNT(constant, name) +1
enum node_state { NODE_STATES(CLUSTER_CONSTANT) };
enum vm_state { VM_STATES(CLUSTER_CONSTANT) };
enum move_phase { MOVE_PHASES(CLUSTER_CONSTANT) };
enum saved_status { SAVED_STATUSES(CLUSTER_CONSTANT) };
enum vm_want { VM_WANTS(CLUSTER_CONSTANT) };
enum vm_wait { VM_WAITS(CLUSTER_CONSTANT) };
enum task_kind { TASK_KINDS(CLUSTER_CONSTANT) };
enum task_state { TASK_STATES(CLUSTER_CONSTANT) };
enum fence_phase { FENCE_PHASES(CLUSTER_CONSTANT) };
enum death_proof { DEATH_PROOFS(CLUSTER_CONSTANT) };
enum {
	NODE_STATE_COUNT = NODE_STATES(CLUSTER_COUNT),
	VM_STATE_COUNT = VM_STATES(CLUSTER_COUNT),
	MOVE_PHASE_COUNT = MOVE_PHASES(CLUSTER_COUNT),
	SAVED_STATUS_COUNT = SAVED_STATUSES(CLUSTER_COUNT),
	VM_WANT_COUNT = VM_WANTS(CLUSTER_COUNT),
	VM_WAIT_COUNT = VM_WAITS(CLUSTER_COUNT),
	TASK_KIND_COUNT = TASK_KINDS(CLUSTER_COUNT),
	TASK_STATE_COUNT = TASK_STATES(CLUSTER_COUNT),
	FENCE_PHASE_COUNT = FENCE_PHASES(CLUSTER_COUNT),
	DEATH_PROOF_COUNT = DEATH_PROOFS(CLUSTER_COUNT),
};
const char *node_state_name(int state);
const char *vm_state_name(int state);
const char *move_phase_name(int phase);
const char *saved_status_name(int status);
const char *vm_want_name(int want);
const char *vm_wait_name(int wait);
const char *task_kind_name(int kind);
const char *task_state_name(int state);
const char *fence_phase_name(int phase);
const char *death_proof_name(int proof);

struct bridge {
	char name[BRIDGE_BYTES];
};

/* What a node tells about itself when it joins, and again when it changes. Decisions rest on the committed copy. */
struct node_facts {
	char name[NAME_BYTES];
	char boot_id[UUID_BYTES]; /* another boot id proves that all copies of the boot before are dead */
	uint32_t memory_mib;	  /* what VMs may use together */
	uint32_t vcpus;
	char accel[16]; /* "kvm" or "tcg" */
	char qemu_version[32];
	bool postcopy; /* userfaultfd is allowed: states can be restored on demand */
	uint32_t protocol;
	uint32_t watchdog_ms; /* armed and tested: its guests are dead this long after it was fed last; 0: none is */
	uint32_t token_ms;    /* corosync's real token here: how late a loss is noticed (timing.h); 0: not known */
	bool leaving; /* its daemon is being stopped in order: silence is expected, and it commits nothing any more */
	char watchdog[96];    /* for people: which one, or why none is armed */
	uint32_t bridge_count;
	struct bridge bridges[NODE_BRIDGES_MAX];
};

/* What is being done about a node that left the view. All zero while it is a member. */
struct fencing {
	uint64_t id; /* index of the event that lost it: reports about another one are late and change nothing */
	enum fence_phase phase;
	enum death_proof proof;
	uint32_t by;	/* RUN: the member that does it */
	uint32_t level; /* RUN: of the devices being switched */
	uint32_t round; /* how often all levels have failed */
	uint32_t doubt; /* this node left while the devices were being switched: they may be wired to it */
	uint64_t began_index; /* RUN: the event that gave the order of now; keys its report */
	uint64_t lost_ms;
	uint64_t deadline_ms; /* GRACE, RETRY: when it goes on */
	uint64_t proven_ms;
	char text[REASON_BYTES]; /* the last thing learned, and by which device */
	bool found_off; /* it had no power before anybody switched it: no guest did that, and no fence */
	bool look;	/* RUN, RETRY: the doubted node, back, only asks whether the devices still say off */
};

struct node {
	uint32_t id; /* 0: the slot is unused */
	enum node_state state;
	struct node_facts facts;
	uint64_t since_ms;
	uint64_t incarnation; /* of its daemon; with request_seq it lets a repeated request count once */
	uint64_t request_seq;
	char reason[REASON_BYTES];
	struct fencing fence;
	uint32_t fences; /* times that it was fenced, in the period that began at fences_ms */
	uint64_t fences_ms;
	uint64_t down_ms; /* when it was last known to have gone, in whatever way */
	uint64_t left_ms; /* when its machine last left the ring unplanned, */
	uint64_t left_before_ms; /* and the time before that */
	uint64_t recalled_ms; /* came back while being fenced: until this time what was sent may switch it off all the same; 0: no */
	uint64_t stuck_ms; /* a QEMU here does not die, its storage hangs: it leaves the cluster, to be switched off; 0: no */
	uint64_t quarantine_ms;	 /* flapping: no VM is placed there until this time; 0: none. Counted anew when it returns */
};

/* A saved state, <state dir>/<vm uuid>/<task>/. It fits the disks only while the VM has not run since: epoch. */
struct saved_state {
	enum saved_status status;
	uint64_t task;
	uint64_t epoch;
	uint32_t sealed_by;
	uint32_t consumed_by;
	uint64_t sealed_ms;
	uint64_t consumed_ms;
};

/* What a move took, measured where it happened: CLOCK_REALTIME in µs, 0 = not reached. Never decided on. */
struct move_figures {
	uint64_t prepared_us;
	uint64_t copy_us;     /* copy began */
	uint64_t stopped_us;  /* the guest stopped */
	uint64_t streamed_us; /* the stream's last byte was read */
	uint64_t repaired_us;
	uint64_t sealed_us; /* manifest durable */
	uint64_t loading_us;
	uint64_t loaded_us;
	uint64_t resumed_us;
	uint64_t filled_us;
	uint64_t ram_bytes;    /* written to the ram file over the whole move */
	uint64_t device_bytes;
	uint64_t used_bytes; /* RAM that is not zero */
	uint64_t repaired_pages;
	uint64_t passes;
};

/* What is looked at in every step comes first: a step walks over all VMs. */
struct vm {
	enum vm_state state;
	enum vm_want want;
	enum move_phase phase;
	enum vm_wait wait;
	uint32_t owner;	 /* the one node that may run it; 0: none */
	uint32_t target; /* of a move or a restore */
	uint64_t task;	 /* under way; 0: none. Also the name of the state directory that it writes or reads */
	uint64_t epoch;	 /* + 1 with each authorised run */
	uint64_t deadline_ms; /* when the step under way is over its time; 0: none */
	uint64_t since_ms;
	uint64_t run_ms;   /* its guest was started or restored; a move does not change it */
	uint64_t retry_ms; /* all nodes may be tried again then; 0: nothing is to be forgotten */
	bool dry_run;	   /* the move ends when the target has proved itself */
	bool filling;	   /* runs, but pages of saved.task are still coming in */
	bool turn_off;	   /* STOPPING: end QEMU now, instead of asking the guest */
	bool cancelled;	   /* RETURN: because somebody asked, not because a step failed */
	bool started;	   /* this epoch has run on its owner: a missing copy has died rather than not begun */
	bool wanted;	   /* STARTING, asked: it would have been started by itself, and will be if this start fails */
	bool displaced;	   /* not by an administrator's will where it is: failback may bring it home */
	uint64_t exhausted; /* nodes on which its restarts are used up, bit id - 1 */
	uint64_t killed;    /* nodes that died soon after it was started there, one after the other */
	struct vm_def def;  /* def.uuid empty: the slot is free */
	struct saved_state saved;
	uint64_t tried;	 /* nodes on which the restore under way has failed, bit id - 1 */
	uint32_t deaths; /* on last_owner, unplanned, in the period that began at deaths_ms */
	uint32_t last_owner;
	uint64_t deaths_ms;
	uint64_t move_again_ms; /* a move has failed: none by itself before this time */
	/* core/storage.c: its disks, from where it runs and from elsewhere. */
	uint64_t storage_ms;	 /* ONLINE: since then its owner does not reach them; 0: it does */
	uint32_t storage_asked;	 /* the node that is to find out whether it reaches them; 0: none */
	uint64_t storage_at_ms;	 /* when it was asked; or, none: when all are asked anew, or tried for want of others */
	uint64_t storage_ok_ms;	 /* when it said that it does; 0: it has not */
	uint64_t storage_end_ms; /* its copy is being ended, to be started elsewhere, since then; 0: it is not */
	uint64_t storage_lost;	 /* nodes that did not reach them, bit id - 1: it is not started there */
	uint64_t storage_forget_ms; /* when they may be tried again */
	uint64_t no_room;	    /* nodes that had no memory free when it was to begin there, bit id - 1 */
	uint64_t no_room_ms;	    /* when they may be tried again */
	uint32_t no_room_count;	    /* how often, since it ran last: the pause grows with it */
	uint64_t changed_index; /* of the event that last changed state, owner or phase */
	char reason[REASON_BYTES];
};

struct task {
	uint64_t id; /* the index of the event that began it */
	enum task_kind kind;
	enum task_state state;
	char vm[NAME_BYTES];
	char vm_uuid[UUID_BYTES];
	uint32_t source;
	uint32_t target;
	bool dry_run;
	char by[NAME_BYTES];
	uint64_t started_ms;
	uint64_t finished_ms;
	struct move_figures figures;
	char text[REASON_BYTES]; /* how it ended, and the fact that decided it */
	enum err_code code;	 /* the kind of that fact, where the task failed or was cancelled */
};

/* A VM that was deleted: what it left on the storage is purged by whoever is the lowest member, now or later. */
struct deleted_vm {
	char uuid[UUID_BYTES];
	uint64_t index; /* of the delete: states of younger tasks are those of a VM that was made since */
};

/* A view, by the event that began it. No two views have one nonce. */
struct view_mark {
	uint64_t index;
	uint64_t nonce;
};

struct cluster {
	char uuid[UUID_BYTES];
	uint64_t index;	 /* of the last event */
	uint64_t digest; /* of everything that the events so far have changed, in order */
	uint64_t now_ms;
	uint64_t members; /* of the view, bit id - 1 */
	uint64_t policy_ms; /* when core/policy.c wants a tick; 0: never */
	uint64_t ring;	  /* nodes whose corosync the view's sender saw, with a daemon or without */
	uint64_t droppers; /* dropped a history of their own, and have not said that what they ran in it has ended (decision 0030) */
	uint32_t view_count; /* the newest views, oldest first: two histories with the same ones are one history */
	struct view_mark views[VIEWS_MAX];
	uint32_t node_count; /* always NODES_MAX in memory; the table's length */
	struct node nodes[NODES_MAX];
	uint32_t fence_device_count; /* without gaps */
	struct fence_device fence_devices[FENCE_DEVICES_MAX];
	uint32_t deleted_count; /* the oldest first */
	struct deleted_vm deleted[DELETED_MAX];
	uint32_t vm_count; /* slots in use or freed: the table's length */
	struct vm vms[VMS_MAX];
	uint64_t task_serial; /* tasks ever begun */
	uint32_t task_count;
	struct task tasks[TASKS_MAX];
};

extern const struct schema node_facts_schema;
extern const struct schema fencing_schema;
extern const struct schema node_schema;
extern const struct schema move_figures_schema;
extern const struct schema saved_state_schema;
extern const struct schema vm_schema;
extern const struct schema task_schema;
extern const struct schema view_mark_schema;
extern const struct schema cluster_schema;

/* Lookups; NULL when absent. Names are unique among VMs. */
struct vm *cluster_vm(struct cluster *cluster, const char *uuid);
const struct vm *cluster_vm_find(const struct cluster *cluster, const char *uuid_or_name);
/* The first of that number: one event may have begun tasks of several VMs. */
const struct task *cluster_task_find(const struct cluster *cluster, uint64_t id);
/* id 1 … NODES_MAX; a node that was never seen has state NODE_UNKNOWN. */
const struct node *cluster_node(const struct cluster *cluster, uint32_t id);
const struct node *cluster_node_find(const struct cluster *cluster, const char *name);
/* Copies what is in use; *to is all zero before (fresh from calloc). A plain assignment would touch every slot. */
void cluster_copy(struct cluster *to, const struct cluster *from);
/* The node's name, or "none" for 0, or a phrase where it has not told its name. */
const char *cluster_node_name(const struct cluster *cluster, uint32_t id);

static inline uint64_t node_bit(uint32_t id)
{
	return UINT64_C(1) << (id - 1);
}
