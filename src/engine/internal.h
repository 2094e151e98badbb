/* SPDX-License-Identifier: Apache-2.0
 * Shared among the files of the engine; nobody else includes it. */
#pragma once

#include "core/core.h"
#include "engine/engine.h"
#include "engine/message.h"

enum {
	SNAPSHOT_EVERY = 1000,
	DISK_LIMIT_MS = 5000,
	REPORT_AGAIN_MS = 2000, /* a report that the log does not show after this time is sent again */
	SEND_AGAIN_MS = 5,
	LOOK_MS = 1000,	      /* the periodic look at everything that a lost message could have left undone */
	SYNC_AGAIN_MS = 4000, /* a sync that stands still is begun again */
	/* Nobody begins: the others have synced without this node, in a view of which it was told once more. Longer than the
	 * lowest member's disk may take to answer. */
	SYNC_LIMIT_MS = 15000,
	REJOIN_MS = 3000,
	TOO_OLD_MS = 60 * 1000, /* for an upgrade nobody waits so long: it starts the daemon anew */
	WATCHERS_MAX = 80,
	HISTORY_MAX = 2048,
	PROGRESS_MAX = 256,
	VM_HINTS = 65536,
	MESSAGE_BYTES_MAX = MESSAGE_CHUNK_BYTES + 1024,
	EVENT_BYTES_MAX = 16 * 1024,
};
_Static_assert((int)MESSAGE_BYTES_MAX <= (int)GROUP_MESSAGE_MAX, "a message must fit the group's limit");
_Static_assert((int)VMS_MAX < UINT16_MAX, "a VM's place fits a hint");

enum sync_state {
	SYNC_OUT,      /* no quorate view */
	SYNC_HALF,     /* of two nodes cut apart: writes nothing before the other is proven off (half.c) */
	SYNC_BEGIN,    /* view is there; waiting for the lowest member to begin */
	SYNC_COLLECT,  /* waiting for every member's STATE */
	SYNC_TRANSFER, /* taking, or giving, what the best member has */
	SYNC_COMMIT,   /* all have the same log; the view's first event is being made durable */
	SYNC_DONE,     /* this node acts */
};

struct entry {
	uint64_t index;
	uint64_t term;
	uint8_t *bytes;
	size_t size;
};

/* Entries in order, contiguous. */
struct entries {
	struct entry *items;
	size_t count;
	size_t capacity;
};

/* The proof that this node is not lost to the others (lease.c). */
enum { LEASE_SENT_MAX = 64 };
struct lease_sent {
	uint64_t seq;
	uint64_t at_ms;
};

struct lease {
	uint64_t seq;	    /* of what was sent last */
	uint64_t first_seq; /* of this view */
	struct lease_sent sent[LEASE_SENT_MAX];
	uint64_t seen[NODES_MAX];	 /* the last question of each member in this view; 0: none */
	uint64_t answered_ms[NODES_MAX]; /* when the youngest question was sent that the member has answered */
	uint64_t asked_ms;		 /* somebody asked last */
	uint64_t stated_ms;		 /* STATE was sent */
	bool current;			 /* not in sync yet, but nobody in the view knows more, */
	bool behind;			 /* nor did since this node was in sync last: what it took then may say that it is lost */
	uint64_t proven_ms; /* nobody can have lost this node before this time (of the loop); 0: never in sync */
};

/* selffence.c */
enum selffence_state {
	SELFFENCE_NONE,	    /* no watchdog is configured, or it was taken away */
	SELFFENCE_WAIT,	    /* not armed: until this node is in sync */
	SELFFENCE_ARMED,    /* fed as long as the lease holds */
	SELFFENCE_WITHDRAW, /* the same, until the log says that nobody may rely on it any more; then disarmed */
	SELFFENCE_REFUSED,  /* it could not be armed, or was lost; tried again later */
};

struct selffence {
	enum selffence_state state;
	uint32_t timeout_ms; /* ARMED, WITHDRAW: of the timer */
	struct watchdog *watchdog;
	struct watchdog *next; /* WITHDRAW: what comes after it */
	uint32_t next_ms;
	struct loop_timer *timer;
	uint64_t held_ms; /* last time that the lease held and the timer was fed, by the clock before */
	uint64_t again_ms;
	uint64_t turned_ms;   /* last turn; 0: they rested */
	uint64_t patience_ms; /* no guest is killed before */
	uint64_t out_ms; /* out of sync since; 0: not */
	bool late;	 /* said: not fed any more */
	bool killing;
	bool leaving;
	uint64_t leave_by_ms;
	void (*left)(void *ctx);
	void *left_ctx;
	char note[96]; /* for node_facts.watchdog */
};

struct peer {
	bool told; /* its STATE of this sync is here */
	uint64_t term;
	uint64_t index;
	uint64_t applied;
	uint64_t digest;
	uint64_t pledged;
	uint64_t trail;
	char boot_id[UUID_BYTES];
	uint64_t committed;
	uint64_t lost_above, lost_to;
	uint32_t view_count;
	struct view_mark views[VIEWS_MAX];
	bool ready;	/* its log is the same as ours and durable, and so is its pledge of this term */
	uint64_t acked; /* durable there, of this term */
};

/* Something large that travels in pieces. */
struct blob {
	uint8_t *bytes;
	size_t size; /* of the whole */
	size_t at;   /* sent, or received */
};

struct pending {
	struct pending *next;
	uint64_t seq;
	uint8_t *bytes; /* the encoded event; sent again after a view change */
	size_t size;
	bool sent;
	bool tried; /* sent at least once: it may be in the log */
	uint64_t due_ms; /* its answer, at the latest; also where a timer before was late */
	engine_reply_fn *reply;
	void *ctx;
	struct loop_timer *timer;
	struct engine *engine;
};

/* What this node saw of its own copy of one VM, beside what the hypervisor can tell again. By slot in cluster.vms. */
struct local {
	char uuid[UUID_BYTES]; /* of the VM that the rest is about; another one: forget it */
	uint64_t failed_task;  /* the step of this task (or the start of this epoch) failed; */
	uint64_t failed_epoch;
	enum move_phase failed_phase;
	char failed_text[REASON_BYTES];
	enum err_code failed_code;
	uint64_t gone_epoch;
	enum gone_cause gone_cause;
	char gone_text[REASON_BYTES];
	uint64_t resumed_epoch;
	uint64_t resumed_task;
	struct move_figures figures;
	/* The report that was sent last, so that it is not sent at every look. */
	enum event_kind report_kind;
	uint64_t report_epoch;
	uint64_t report_task;
	uint64_t report_ms;
	uint64_t report_term;
	uint64_t purged_index; /* changed_index + 1 for which states were purged */
	uint64_t purged_kept;
	/* The last look at its disks, from a node on which it does not run. */
	uint64_t probe_epoch; /* for which it was asked; 0: not yet */
	bool probed;	      /* and answered: */
	enum err_code probe_code;
	char probe_text[REASON_BYTES];
	bool dirty;
};

/* What this node does about one suspect; compared with core_fence_duty at each look. */
struct fence_work {
	uint64_t id;	/* of the duty; 0: none */
	uint64_t order; /* being run, or run; 0: none */
	uint32_t level;
	uint32_t waiting; /* devices of the level that have not answered */
	bool failed;
	bool was_on;
	bool finished; /* all answered: reported until the log shows it */
	bool awaited;  /* the watchdog's time is over: the same */
	uint64_t reported_ms;
	struct loop_timer *await_timer;
	struct engine *engine;
	char text[REASON_BYTES];
};

struct engine {
	struct engine_config config;
	struct engine_ports ports;
	bool started;

	/* The committed state, and the clock that it was stamped with. */
	struct cluster *cluster;
	struct core_outcome *outcome;
	uint64_t clock_ms, clock_at_ms; /* the cluster's time, at this time of the loop; 0: nobody has told it */
	uint64_t snapshot_index;

	/* The log behind the applied state: received, perhaps durable, not committed. */
	struct entries tail;
	uint64_t last_term; /* of the last entry, also when the tail is empty */
	uint64_t durable;
	uint64_t flush_since_ms; /* something waits for the disk since; 0: nothing does */

	/* The view and its sync. */
	struct group_view view;
	bool in_group;
	enum sync_state sync;
	uint64_t out_ms; /* OUT: since when, of the loop */
	uint64_t nonce;
	uint64_t nonce_count;
	uint64_t term;
	uint64_t pledged;     /* durable here: the youngest term that this node has taken part in */
	uint64_t first_index; /* of this term: only from here on are acknowledgements counted (see log.c) */
	bool first_sent;
	uint32_t best;
	struct peer peers[NODES_MAX];
	bool forced; /* an administrator made these members a quorum; until there is a real one */
	bool last_of_two; /* of two nodes: this one was synced last, without a break since but for a witness's vote (sync.c) */
	bool sole; /* of two nodes: the other cannot go on before it was synced with this one */
	uint32_t sole_over; /* for this proof that it is off; 0: its daemon alone left the ring that both were in */
	enum death_proof sole_proof;
	bool sole_was_on;
	char sole_text[REASON_BYTES];
	struct cluster *half; /* SYNC_HALF: a copy of the state, in which the other one is fenced */
	uint32_t half_other;
	uint64_t half_count;
	struct loop_timer *half_timer;
	struct entries incoming;
	struct blob snapshot; /* being received or sent */
	struct blob trail;
	uint64_t snapshot_from_index;
	uint64_t snapshot_term;
	uint64_t snapshot_digest;
	size_t transfer_entry;
	struct loop_timer *transfer_timer;
	uint64_t sync_since_ms; /* of the last step of the sync, to begin again when a message got lost */
	uint64_t rejoin_ms;	/* left the group by itself; comes back at this time */
	char out_reason[REASON_BYTES];

	/* Requests and reports. */
	uint64_t seq;
	struct pending *pending;
	struct local *locals;
	uint64_t swept_index; /* what VMs that were deleted up to here left on the storage was purged by this daemon */
	bool stuck; /* out of the view by core_must_leave */
	uint64_t facts_sent_ms;
	struct loop_timer *tick_timer;
	struct loop_timer *look_timer;
	struct fence_work fence_work[NODES_MAX];
	struct lease lease;
	struct selffence selffence;
	struct question *questions; /* to fence devices, by persons: ask.c */
	uint64_t questions_asked;

	/* Those who look on. */
	const struct engine_watcher *watchers[WATCHERS_MAX];
	struct engine_history *history;
	uint64_t history_count;
	bool history_loaded;
	uint64_t lost_above, lost_to; /* events that were committed here alone and are dropped; the log does not say so yet (in the store, too) */
	uint64_t history_index; /* up to here it is known what came of each event */
	char event_vm[NAME_BYTES]; /* the VM that the event being applied names: a delete leaves no other trace of it */
	struct engine_progress *progress;
	uint64_t dropped; /* messages that were not understood, or not meant for us */
	/* By a hash of its uuid: the place + 1 where a VM was in the cluster last. Only a hint: looked at before it is used. */
	uint16_t vm_hints[VM_HINTS];
};

/* reconcile.c: this node left for a QEMU that does not die, and that is here still. */
bool reconcile_is_stuck(struct engine *engine);

/* engine.c */
void engine_trace(struct engine *engine, const char *format, ...) PRINTF_LIKE(2, 3);
int engine_send(struct engine *engine, struct message *message, const void *payload);
uint64_t engine_cluster_ms(struct engine *engine);
/* The same; 0 where only this node's wall clock could tell it. */
uint64_t engine_told_ms(struct engine *engine);
/* It is at least this, as an event or a member says. */
void engine_clock_hear(struct engine *engine, uint64_t told_ms);
uint32_t engine_lowest(const struct engine *engine);
/* As cluster_vm_find by uuid, without a walk over all VMs for one that was asked for before. */
const struct vm *engine_vm(struct engine *engine, const char *uuid);
bool engine_acts(const struct engine *engine);
void engine_status_changed(struct engine *engine);

/* log.c */
void entries_push(struct entries *entries, uint64_t index, uint64_t term, const uint8_t *bytes, size_t size);
void entries_clear(struct entries *entries);
void entries_drop_first(struct entries *entries, size_t count);
void entries_drop_above(struct entries *entries, uint64_t index);
uint64_t log_last_index(const struct engine *engine);
void log_append(struct engine *engine, uint64_t index, uint64_t term, const uint8_t *bytes, size_t size);
void log_flush(struct engine *engine);
/* An entry of a newer program may be none of the events that this one knows. */
bool log_can_read(const uint8_t *bytes, size_t size);
void log_on_event(struct engine *engine, uint32_t from, const struct message *message, const uint8_t *payload);
void log_on_ack(struct engine *engine, uint32_t from, const struct message *message);
void log_on_durable(void *ctx, uint64_t index);
void log_on_pledged(void *ctx, uint64_t term);
void log_on_failed(void *ctx, const struct err *err);
void log_commit(struct engine *engine);
void log_ack(struct engine *engine);
int log_load(struct engine *engine, struct err *err);

/* sync.c */
void sync_on_view(void *ctx, const struct group_view *view);
void sync_on_message(struct engine *engine, uint32_t from, const struct message *message, const uint8_t *payload);
void sync_out(struct engine *engine, const char *why);
void sync_done(struct engine *engine);
/* A member acknowledged something of this term: when enough are ready, the view's first event goes out. */
void sync_on_ready(struct engine *engine);
/* How many members have to have something on disk. */
uint32_t sync_needed(const struct engine *engine);
void sync_leave(struct engine *engine, const char *why);
void sync_too_old(struct engine *engine, uint32_t from, uint32_t needs);
void sync_look(struct engine *engine);
/* The view may be synced now. */
void sync_begin(struct engine *engine);
void sync_send_event(struct engine *engine, struct event *event);

/* transfer.c */
/* Forgets what is on its way, to or from this node. */
void transfer_reset(struct engine *engine);
/* All STATEs are here. The best member sends, in as many turns as the group's queue needs; the others wait. */
void transfer_begin(struct engine *engine);
/* A piece from the best member. Any bytes are survived. */
void transfer_take(struct engine *engine, const struct message *message, const uint8_t *payload);
/* All of it is here, and becomes this node's own. NULL, or why it cannot be taken: a literal. */
const char *transfer_adopt(struct engine *engine);

/* fork.c: whether what two members have is one history (decision 0030) */
/* What this node's STATE says of that. */
void fork_state(const struct engine *engine, struct message *state);
/* Keeps what a STATE says. False: it contradicts itself. */
bool fork_peer(struct peer *peer, const struct message *state);
/* The log of `whole` holds all that `part` has committed. */
bool fork_holds(const struct peer *whole, const struct peer *part);
/* Whose history goes on; 0: nobody has told what he has. */
uint32_t fork_best(const struct engine *engine);
/* The last event that both have, if that is known; else 0. */
uint64_t fork_index(const struct peer *a, const struct peer *b);
/* For the view event: what becomes of this member's history. */
void fork_report(const struct engine *engine, uint32_t node, struct member_boot *boot);
/* Before the best member's state is taken: where what was committed here is not in it, all that this node knows by
 * numbers of its own is void. */
void fork_drop(struct engine *engine);
void fork_applied(struct engine *engine, const struct event *event);

/* half.c */
bool half_waits(const struct engine *engine, const struct group_view *view, bool alone_in_log);
void half_begin(struct engine *engine);
void half_end(struct engine *engine);
void half_report(struct engine *engine, struct event *event);
/* True: a half does not do this; `reply` says why. */
bool half_refuses(const struct engine *engine, const struct event *request, struct engine_reply *reply);
/* False: `reply` is the answer. True: the request, changed, is to be queued: it is answered when this half goes on. */
bool half_submit(struct engine *engine, struct event *request, struct engine_reply *reply);

/* copies.c. Of VMs that the cluster does not have, deleted while this node was away: ends them. */
void copies_end_unknown(struct engine *engine);
/* Ends copies that a history gave to this node which it has dropped since (decision 0030), and says whether any is left. Nothing is
 * started anywhere before this node has reported, and then none may be. */
bool copies_of_dropped(struct engine *engine);

/* sweep.c */
/* Of one VM. */
void sweep_vm(struct engine *engine, uint32_t vm);
void sweep_deleted(struct engine *engine);

/* reconcile.c */
void reconcile_dirty(struct engine *engine, uint32_t vm);
void reconcile_run(struct engine *engine);
void reconcile_look_again(struct engine *engine);
void reconcile_look_soon(struct engine *engine);
void reconcile_on_hypervisor(void *ctx, const struct hv_event *event);
void reconcile_tick(struct engine *engine);
void reconcile_fini(struct engine *engine);

/* fence.c */
void fence_look(struct engine *engine);
/* A view has formed: who is in it is alive, and is not switched off while the log does not say so yet. */
void fence_spare(struct engine *engine);
/* Without quorum nobody is switched off: ends what runs. */
void fence_stop(struct engine *engine);
void fence_on_done(void *ctx, uint64_t id, enum fence_result result, bool was_on, const char *text);

/* history.c */
void history_applied(struct engine *engine, const struct event *event);
int history_load(struct engine *engine, struct err *err);
/* The lines of events above this index, for a member that takes our state; the caller frees. NULL: none. */
uint8_t *history_collect(struct engine *engine, uint64_t above, size_t *size);
/* All lines behind this event are another history's, which was dropped: they go to the journal alone. */
void history_rewind(struct engine *engine, uint64_t index);
/* Those of another member that this one lacks, as far as the state that is taken. Any bytes are survived. */
void history_take(struct engine *engine, const uint8_t *bytes, size_t size, uint64_t up_to);

/* lease.c */
void lease_on_view(struct engine *engine);
void lease_on_current(struct engine *engine);
/* All have said what they have, and somebody knows more. */
void lease_on_behind(struct engine *engine);
void lease_on_synced(struct engine *engine);
void lease_on_message(struct engine *engine, uint32_t from, const uint8_t *payload, size_t size);
void lease_send(struct engine *engine, bool asks);
bool lease_is_asked(const struct engine *engine);

/* selffence.c */
void selffence_start(struct engine *engine);
void selffence_fini(struct engine *engine);
void selffence_on_synced(struct engine *engine);
void selffence_turn_soon(struct engine *engine);
/* The same, but never sooner than a quarter of the period after the last one. */
void selffence_turn_hurried(struct engine *engine);
void selffence_turn_later(struct engine *engine); /* where no turn is due */
/* An event was applied: perhaps the one that lets a watchdog be disarmed. */
void selffence_on_applied(struct engine *engine);
void selffence_facts(struct engine *engine, struct node_facts *facts);
/* What the log says of this node's watchdog is true: guests may be started. */
bool selffence_as_told(const struct engine *engine);

/* ask.c */
bool ask_is_own(uint64_t id);
void ask_on_done(struct engine *engine, uint64_t id, enum fence_result result, const char *text);
void ask_on_checked(
	void *ctx, uint64_t id, const struct err *err, const char *text, const struct fence_agent_about *about);
void ask_forget(struct engine *engine, const void *ctx);
void ask_stop(struct engine *engine);

/* service.c */
void service_applied(struct engine *engine, const struct event *event);
void service_send_pending(struct engine *engine);
void service_view_lost(struct engine *engine);
void service_on_progress(struct engine *engine, uint32_t from, const uint8_t *payload, size_t size);
void service_gossip(struct engine *engine, const struct hv_event *event);
void service_fini(struct engine *engine);
