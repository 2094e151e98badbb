/* SPDX-License-Identifier: Apache-2.0
 * Shared among the files of the core; nobody else includes it. */
#pragma once

#include "core/core.h"

struct step {
	struct cluster *cluster;
	const struct event *event;
	struct core_outcome *out;
	struct core_plan *plan;
	bool automatic; /* what happens now nobody asked for */
	bool reword;	/* a node or a rule has changed: reasons of those who wait are told anew */
};

/* vm_state.c: the only functions that change a VM's state, phase, reason and deadline. */
void vm_go(struct step *step, struct vm *vm, enum vm_state state, enum move_phase phase, const char *format, ...)
	PRINTF_LIKE(5, 6);
/* Something else of the VM changed: told to watchers and folded into the digest. */
void vm_touch(struct step *step, struct vm *vm);
void vm_check(const struct cluster *cluster, const struct vm *vm);
bool vm_state_allowed(enum vm_state from, enum vm_state to);

/* task.c */
uint64_t task_begin(struct step *step, struct vm *vm, enum task_kind kind, uint32_t target);
/* The task under way goes on with another target: the record says where it ends. */
void task_target(struct step *step, const struct vm *vm, uint32_t target);
/* Why the step that was just reported failed: kept, should the task fail with it. Takes a VM without a task. */
void task_trouble(struct step *step, const struct vm *vm, enum err_code code);
/* The VM has no task under way afterwards. Takes a VM without one. */
void task_end(struct step *step, struct vm *vm, enum task_state state, const char *format, ...) PRINTF_LIKE(4, 5);
void task_figures(struct step *step, const struct vm *vm, uint64_t task, const struct move_figures *figures);

/* place.c. text may be NULL where nobody reads it. */
/* After a change of who owns what, or of a label. */
static inline void plan_forget(struct core_plan *plan)
{
	plan->counted = plan->labelled = false;
}
void place_count(const struct cluster *cluster, struct core_plan *plan);
/* The VM is going to be there: counted from now on. */
void place_claim(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node);
/* Whether the node could take the VM now; text gets the fact that decides. */
bool place_fits(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node, char *text);
/* Which of the usable nodes could not take it now, and why; empty: all could. */
void place_others(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, char note[PLACE_NOTE_BYTES]);
/* Memory alone keeps the VM from this usable node, or its vCPUs and devices as well; no rule does. */
bool place_lacks_room(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node);
/* The best node that is not in `except` (bits); 0: none, and text says why. */
uint32_t place_choose(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint64_t except, char *text);
/* Its place in the VM's list of preferred owners, from 0; OWNERS_PREFERRED_MAX: it is not in it. */
uint32_t place_wish(const struct vm *vm, uint32_t node);
/* Another VM with the same anti-affinity label is there. */
bool place_beside(const struct cluster *cluster, struct core_plan *plan, const struct vm *vm, uint32_t node);

/* policy.c: at the end of every step that was accepted. */
void policy_run(struct step *step);
void next_at(const struct step *step, uint64_t *next_ms, uint64_t at_ms);

/* fence.c: were it to leave, whether a device or its watchdog could prove its end, and the others go on. */
bool fence_may_prove(const struct cluster *cluster, const struct node *node);

/* storage.c */
void storage_report(struct step *step, struct vm *vm);
/* Its owner does not reach its disks: what is due about that. */
void storage_review(struct step *step, struct vm *vm, uint64_t *next_ms);
/* The copy that was to end is dead. */
void storage_ended(struct step *step, struct vm *vm);
/* The node was to be switched off for a QEMU that does not die, and has told that one is dead: it may stay, unless there are more. */
void storage_node_well(struct step *step, struct node *node);
/* It does not run there any more, or is under way: what was known holds no more. */
void storage_reset(struct step *step, struct vm *vm);
/* Nobody asked for the start, and the node did not reach the disks: no fault of the VM's. */
void storage_start_failed(struct step *step, struct vm *vm);
/* No node can take it, some because they did not reach its disks: whether those may be tried again now. */
bool storage_all_again(struct step *step, struct vm *vm, uint64_t *next_ms);
void storage_node_rebooted(struct step *step, uint32_t node);

/* quarantine.c */
/* The node takes no VMs, and gives away what it has: it flaps, and some node that does not is there. */
bool quarantine_holds(const struct cluster *cluster, uint32_t node);
/* The node's machine left the ring, and nobody had asked for it. */
void quarantine_left(struct step *step, struct node *node);
void quarantine_returns(struct step *step, struct node *node);
void quarantine_review(struct step *step, uint64_t *next_ms);
void quarantine_resume(struct step *step);
/* Enough nodes died under it for it to be the reason. */
bool vm_is_suspect(const struct vm *vm);
/* The VM's node is dead, and that was no one's wish: is it held against the VM? */
void suspect_node_died(struct step *step, struct vm *vm, uint32_t node);
/* All VMs of the dead node have gone off in this step: which of them may start again? */
void suspects_judge(struct step *step, uint32_t node);

/* vm_step.c: steps of a VM's life that several events lead to. Each keeps the invariants. */
void vm_start_on(struct step *step, struct vm *vm, uint32_t node, const char *why);
void vm_restore_on(struct step *step, struct vm *vm, uint32_t node, const char *why);
/* The target, or the copy, did not do it: back to the source, to another node, or stay saved (design §6, no dead ends). */
void vm_move_failed(struct step *step, struct vm *vm, uint32_t failed_node, const char *why);
/* The node had no memory free when it was to begin there, though nothing is booked: a copy that left is still ending, or
 * something else takes it. It is not tried there again at once; the caller says what the VM does meanwhile. */
void vm_no_room(struct step *step, struct vm *vm, uint32_t node);
/* That time is over. */
void vm_room_review(struct step *step, struct vm *vm, uint64_t *next_ms);
/* Starting because a person asked for it, and for no other reason: should it fail he is told, and decides. One that would have
 * been started by itself anyhow still is: who tries to help takes nothing away. */
bool vm_start_is_asked(const struct vm *vm);
void vm_died(struct step *step, struct vm *vm, const char *why);
void vm_source_gone(struct step *step, struct vm *vm, const char *why);
void vm_copy_held(struct step *step, struct vm *vm);
void vm_owner_lost(struct step *step, struct vm *vm, const char *why);
void vm_target_lost(struct step *step, struct vm *vm, const char *why);
void vm_went_off(struct step *step, struct vm *vm, const char *why);

/* Its owner is proven dead, or was rebooted. Leaves it waiting for a place: policy_run follows. */
void vm_owner_dead(struct step *step, struct vm *vm, const char *why);
/* A quick migration to a target that fits. */
void vm_move_to(struct step *step, struct vm *vm, uint32_t target, bool dry_run, const char *why);

/* fence.c */
void fence_view(struct step *step, uint64_t lost);
void fence_proven_before(struct step *step);
void fence_begin(struct step *step, struct node *node);
void fence_review(struct step *step);
/* It is in the view in the boot that devices said off of: whoever reported that is not believed again until a person has looked. */
void fence_seen_alive(struct step *step, const struct node *node);
void fence_node_returns(struct step *step, struct node *node, bool rebooted);
void fence_report_step(struct step *step);
void fence_tick(struct step *step);
uint64_t fence_deadline_ms(const struct cluster *cluster);
/* NULL, or a node of which nobody knows whether it goes on by itself, as it may when the members are no majority (of two
 * nodes each may be quorate alone). What it and we would acknowledge could not both be kept. */
const struct node *fence_other_half(const struct cluster *cluster);
/* True, and the request is refused, where there is one. */
bool fence_waits_for_other_half(struct step *step);
/* The lowest level above `above` for which the node has a device that is trusted; 0: none. */
uint32_t fence_next_level(const struct cluster *cluster, uint32_t node, uint32_t above);
/* What is done about a lost node now; force: past the limiter, since somebody asked. */
void fence_decide(struct step *step, struct node *node, bool force);
/* The proof is in node->fence: its VMs are placed anew. */
void fence_node_dies(struct step *step, struct node *node);
/* fence_limit.c */
/* How many nodes may be off by our hand at one time; how many are, or are about to be; how many nodes there are. */
uint32_t fence_limit(const struct cluster *cluster);
uint32_t fence_nodes_taken(const struct cluster *cluster, const struct node *but);
uint32_t fence_nodes_known(const struct cluster *cluster);
/* The node comes back: should it be fenced just now, or be waiting for the next try, it counts as taken for
 * FENCE_RECALL_MS. Words for that, where one does; whether the time of any is over, which then counts no more; when the
 * first one's will be, 0: none counts. */
void fence_recall(struct step *step, struct node *node);
const char *fence_recalled(const struct cluster *cluster, const struct node *but);
bool fence_recalls_end(struct cluster *cluster);
uint64_t fence_recalls_deadline_ms(const struct cluster *cluster);
/* fence_request.c */
void fence_request_step(struct step *step);

/* request.c, report.c */
void request_step(struct step *step);
void report_step(struct step *step);

/* Refusal: fills the outcome. Returns false, so that a check is one statement. */
bool refuse(struct step *step, enum err_code code, const char *format, ...) PRINTF_LIKE(3, 4);
/* A formatted reason; cut where it is too long, never in the middle of a UTF-8 sequence. */
void reason_set(char reason[REASON_BYTES], const char *format, ...) PRINTF_LIKE(2, 3);
bool is_member(const struct cluster *cluster, uint32_t node);
bool node_usable(const struct cluster *cluster, uint32_t node);
