/* SPDX-License-Identifier: Apache-2.0
 * An event: the one input of the core. All nodes see the same events in the same order (design §3, §4).
 *
 * Requests come from an administrator and may be refused; reports come from the node that saw a thing happen and are
 * ignored when they are about an old incarnation (node, boot id, epoch, task). Flat on purpose: unused fields are zero
 * and cost nothing on the wire.
 * Promises: plain data; whatever is in it, core_step survives it. Must never: give a kind or a field another meaning, since
 * members of two versions decide by the same events. */
#pragma once

#include "model/cluster.h"

#define EVENT_KINDS(X)                                                                                                 \
	X(EVENT_TICK, "tick")                                                                                          \
	X(EVENT_VIEW, "view")	      /* members: the synced, quorate view; ring */                                        \
	X(EVENT_NODE_REPORT, "node-report") /* facts: of node */                                                       \
	X(EVENT_VM_CREATE, "vm-create")	    /* def */                                                                  \
	X(EVENT_VM_EDIT, "vm-edit")	    /* def; its machine only while it is off, its policy at any time */        \
	X(EVENT_VM_DELETE, "vm-delete")                                                                                \
	X(EVENT_VM_START, "vm-start") /* target or 0; force: throw a saved state away and boot */                      \
	X(EVENT_VM_SHUTDOWN, "vm-shutdown")                                                                            \
	X(EVENT_VM_STOP, "vm-stop")                                                                                    \
	X(EVENT_VM_SAVE, "vm-save")                                                                                    \
	X(EVENT_VM_MOVE, "vm-move") /* target; dry_run */                                                              \
	X(EVENT_VM_CANCEL, "vm-cancel")                                                                                \
	X(EVENT_STARTED, "started")   /* report: QEMU of (vm, epoch) runs */                                           \
	X(EVENT_GONE, "gone")	      /* report: the copy (vm, epoch) is proven dead; cause */                         \
	X(EVENT_PREPARED, "prepared") /* report: task's target stands by */                                            \
	X(EVENT_SEALED, "sealed")     /* report: task's state is complete and durable, the guest is stopped */         \
	X(EVENT_LOADED, "loaded")     /* report: task's target has the device state and waits for its cont */          \
	X(EVENT_RESUMED, "resumed")   /* report: the guest runs on (task, epoch), on the target or back at the source */ \
	X(EVENT_FILLED, "filled")     /* report: all pages are in (vm, epoch) */                                       \
	X(EVENT_STEP_FAILED, "step-failed") /* report: task's step on node failed; text has the fact */                \
	X(EVENT_FENCE_SET, "fence-set")	    /* fence: add a device, or replace the one of that name */                 \
	X(EVENT_FENCE_REMOVE, "fence-remove") /* fence.name */                                                         \
	X(EVENT_NODE_CONFIRM_OFF, "node-confirm-off") /* target; text: its name, typed by a person who saw it off */   \
	X(EVENT_NODE_FENCE, "node-fence") /* target, a lost node: try its devices again now; force: past the limiter */ \
	X(EVENT_QUORUM_FORCED, "quorum-forced") /* node: where an administrator made the nodes that are here a quorum */ \
	X(EVENT_FENCED, "fenced")	  /* report: target is proven dead; task: fencing.id, epoch: began_index; proof */ \
	X(EVENT_FENCE_FAILED, "fence-failed") /* report: the order (task, epoch) about target failed; text has the fact */ \
	X(EVENT_NODE_RESUME, "node-resume") /* target: its quarantine ends now */                                       \
	X(EVENT_STORAGE_LOST, "storage-lost") /* report: node does not reach the disks of (vm, epoch); text has the fact */ \
	X(EVENT_STORAGE_OK, "storage-ok")     /* report: it does, or does again */                                       \
	X(EVENT_HELD, "held")	      /* report: the paused copy (task, epoch) is there, and can run on */

#define GONE_CAUSES(X)                                                                                                 \
	X(GONE_DIED, "died")		       /* QEMU was killed, aborted or never came up */                         \
	X(GONE_GUEST_SHUTDOWN, "guest-shutdown") /* the guest turned itself off */                                     \
	X(GONE_STOPPED, "stopped")	       /* as the duty asked */                                                 \
	X(GONE_SELF_FENCED, "self-fenced")     /* the node ended it, for it had lost quorum: no death of the guest's own */ \
	X(GONE_PANICKED, "panicked")	       /* the guest had panicked, and was ended for it or later */

enum event_kind { EVENT_KINDS(CLUSTER_CONSTANT) };
enum gone_cause { GONE_CAUSES(CLUSTER_CONSTANT) };
enum { EVENT_KIND_COUNT = EVENT_KINDS(CLUSTER_COUNT), GONE_CAUSE_COUNT = GONE_CAUSES(CLUSTER_COUNT) };
const char *event_kind_name(int kind);
const char *gone_cause_name(int cause);

/* Of a member of a new view: which boot of the node its daemon runs in, and whether its history was dropped. */
struct member_boot {
	uint32_t node;
	char boot_id[UUID_BYTES];
	bool forked; /* it had committed what is not in the history that goes on … */
	uint64_t fork_index; /* … behind this event; 0: it is not known behind which */
	uint64_t committed;  /* … up to this one */
};

struct event {
	enum event_kind kind;
	uint32_t node;	      /* where it comes from */
	uint64_t incarnation; /* of that node's daemon, and the number of its request: 0 where it needs no answer */
	uint64_t seq;
	uint64_t now_ms; /* CLOCK_REALTIME at the origin */
	char boot_id[UUID_BYTES];
	char by[NAME_BYTES]; /* who asked: the audit trail */
	char vm[UUID_BYTES];
	uint64_t epoch;
	uint64_t task;
	uint32_t target;
	bool force;
	bool dry_run;
	bool filling; /* loaded by post-copy: pages are still coming in */
	enum gone_cause cause;
	uint64_t members;
	uint64_t ring;
	uint64_t nonce; /* VIEW: of its sync, no other view's; 0: an older program's */
	uint32_t boot_count;
	struct member_boot boots[NODES_MAX]; /* VIEW: what the members told when it was synced */
	enum death_proof proof;
	bool was_on; /* FENCED: the first status that was read said on, so it was this order that switched it */
	char text[REASON_BYTES];
	enum err_code code; /* step-failed, gone: what kind of failure text tells of */
	struct move_figures figures;
	struct node_facts facts;
	struct vm_def def;
	uint64_t was_digest; /* VM_EDIT: vm_def_digest of what was edited; 0: whatever is there */
	struct fence_device fence;
};

extern const struct schema event_schema;
