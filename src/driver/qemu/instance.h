/* SPDX-License-Identifier: Apache-2.0
 * Inside the QEMU driver: one VM on this machine, and what its parts call of each other.
 *
 *	qemu.c	   the port's calls, facts, the queue of events
 *	instance.c birth, record, connection, death: all that every instance has
 *	begin.c	   start and standby
 *	save.c	   copy; call_off.c: its end before its time
 *	load.c	   load, filling
 *	run.c	   letting run
 *	storage.c  whether their disks are reached
 *	pause.c	   a guest that stopped by itself
 *	silence.c  a QEMU that does not answer
 *	heartbeat.c a guest's agent that does not
 *	adopt.c	   finding what an earlier daemon has left running
 *
 *	facts.c	   what a saved state says of its machine
 *
 * States (port/hypervisor.h), each move through instance_go:
 *
 *	STARTING ──────────────────────▶ RUNNING ◀──▶ COPYING ──▶ SEALED
 *	                                  ▲  ▲          │            │
 *	PREPARING ─▶ STANDBY ─▶ LOADING ─▶ LOADED       ◀─── run ────┘
 *	any ─▶ STOPPING ─▶ (no instance) */
#pragma once

#include "driver/qemu/job.h"
#include "driver/qemu/media.h"
#include "base/process.h"
#include "driver/qemu/qemu.h"
#include "driver/qemu/qmp.h"
#include "driver/qemu/record.h"
#include "driver/qemu/stream.h"

/* Worked timeline: core/timing.h gives a standby 60 s and a load 30 s; the driver gives up earlier, so that the reason is
 * known and no QEMU is left behind when the core decides. */
enum {
	RESET_NOTE_MS = 60 * 1000, /* a guest that reboots again and again is told of once in so long */
	STORE_LIMIT_MS = 20 * 1000,  /* opening files on shared storage */
	GREETING_LIMIT_MS = 30 * 1000, /* QEMU's monitor after exec */
	QMP_LIMIT_MS = 10 * 1000,
	QUIT_LIMIT_MS = 3 * 1000, /* then SIGKILL */
	LOAD_STEP_LIMIT_MS = 25 * 1000,
	STALL_LIMIT_MS = 30 * 1000, /* a copy, or the load of a cold state, that makes no progress */
	SEAL_LIMIT_MS = 60 * 1000,  /* from the stream's end to a durable manifest */
	CALL_OFF_LIMIT_MS = 5 * 1000, /* watari-stream's answer to cancel, then SIGKILL */
	CANCEL_LIMIT_MS = 2 * 1000,   /* QEMU's answer to migrate_cancel, then its pipe is emptied */
	LAST_LOOK_LIMIT_MS = 5 * 1000, /* QEMU's answer whether it has all pages, of a guest whose helper died */
	LAST_LOOKS = 2,
	RECONNECT_MS = 200,
	/* A QEMU that stops answering at 0 s, right after it was asked: asked again at 10 s, then found silent at 20, 30 and 40 s,
	 * and killed at the third time; right before it was asked: at 30 s. One that answers in between is forgiven all. The looks
	 * are counted, not the time, so that a daemon which was stopped itself blames nobody. */
	SILENCE_LOOK_MS = 10 * 1000,
	SILENCE_LOOKS = 3,
	CONT_AGAIN_MS = 100,
	CONT_TRIES = 50,
};

#define HEARTBEAT_SOCKET "agent.sock"

enum ending {
	ENDING_NONE,
	ENDING_STOPPED,	 /* kill() */
	ENDING_SHUTDOWN, /* the guest powered itself off */
	ENDING_PANICKED, /* kill(), of a guest that had panicked */
	ENDING_FAILED,	 /* start, standby or load did not work: why */
	ENDING_DIED,	 /* of no use any more: why */
};

/* Where a copy stands; the state is COPYING (SEALED in COPY_SEALED). */
enum copy_phase {
	COPY_NONE,
	COPY_STORE,   /* the directory is being made */
	COPY_ASK,     /* QEMU is asked whether and told how */
	COPY_HELPER,  /* watari-stream comes up */
	COPY_STREAM,  /* QEMU sends */
	COPY_SEALING, /* the guest is stopped, the state is being made durable */
	COPY_SEALED,
	COPY_CALL_OFF, /* watari-stream is told to stop */
	COPY_CANCEL,   /* QEMU is told to stop */
	COPY_RETURN,   /* looked at, and let run if that is wanted */
	COPY_FAILED,   /* the guest is paused by us, waiting for run() or kill() */
};

struct copy {
	enum copy_phase phase;
	int state_fd;	/* the directory, until watari-stream has it */
	int pipe_write; /* until QEMU has it */
	int drain_fd;	/* to empty the pipe of a migration that does not end */
	uint64_t used_bytes;
	bool helper_sealed, qemu_completed;
	uint32_t unsettled; /* passes in a row that did not shrink what is left */
	uint64_t remaining; /* bytes at the begin of the last pass */
	uint64_t moved_bytes, moved_ms; /* progress, and when it was seen last */
	bool failed;			/* FAILED(why) is to be told at the end of calling off */
	struct err why;
	bool echo; /* why is QEMU's word alone: watari-stream's may be the cause of it */
	bool run_wanted;
	bool complained; /* a refused cont is logged once */
};

/* heartbeat.c */
struct heartbeat {
	uint32_t seconds;    /* 0: not asked */
	struct lines *lines; /* NULL while there is no connection */
	struct loop_timer *timer;
	uint64_t first_sync, last_sync; /* their numbers on this connection: above the first, up to the last */
	bool synced;	 /* one of them was answered: what comes now belongs to this connection */
	bool asked;	 /* and not answered yet */
	uint32_t missed; /* looks in a row that found it unanswered */
	uint32_t heard;	 /* lines since the last look */
};

struct instance {
	struct qemu *qemu;
	struct instance *next;
	enum hv_state state;
	struct record record;
	int dir_fd;
	off_t log_from; /* where this run's part of QEMU's log begins */
	struct process process; /* pidfd -1 before it was begun */
	struct loop_io *death;
	struct qmp *qmp; /* NULL while there is no connection */
	struct stream *stream;
	struct job *job;
	struct loop_timer *timer;     /* the step's time limit, or its next look */
	struct loop_timer *reconnect; /* of the monitor */
	struct loop_timer *pause_timer;
	bool panicked;
	struct loop_timer *silence_timer;
	bool silence_asked;    /* the look's question is not answered yet */
	uint32_t silent_looks; /* in a row, without an answer */
	bool silent;	       /* given up for it: no polite end */
	struct heartbeat heartbeat;
	const char *paused; /* a constant: why the guest stopped by itself; NULL: it did not */
	uint32_t resets; /* by the guest, since they were told of, */
	uint64_t resets_told_ms; /* which was then; 0: never */
	bool storage_lost; /* storage.c */
	char storage_text[REASON_BYTES];
	enum ending ending;
	struct err why;
	struct copy copy;
	int incoming_fd; /* of a standby: connected to its QEMU, as its helper's is; -1 after a restart of the daemon */
	bool verify_all; /* of the load under way */
	bool stalled;	 /* its pages cannot be read; the guest is paused for that */
	bool faded;	 /* it comes after all else, since its guest runs elsewhere */
	uint64_t moved_pages, moved_ms; /* of a load: progress, and when it was seen last */
	bool run_wanted; /* cont is under way */
	uint32_t cont_tries;
	uint32_t last_looks; /* whether a guest without its helper has all pages: questions without answer */
};

struct queued_event {
	struct queued_event *next;
	char vm[UUID_BYTES];
	struct hv_event event;
};

struct qemu {
	struct hypervisor hypervisor; /* first */
	struct qemu_config config;    /* texts are ours */
	struct loop *loop;
	struct hv_callbacks callbacks;
	struct job_pool *jobs;
	struct job_pool *looks; /* of storage.c: those that hang take no place from work on states */
	struct worker *own_worker; /* NULL: the caller gave one */
	int vm_dir_fd, log_dir_fd, lock_fd;
	bool kvm;
	char qemu_version[32];
	struct instance *instances;
	struct queued_event *events, **events_last;
	struct loop_timer *events_timer, *log_timer;
	bool log_trim_running;
	struct storage_watch *watches;
	struct loop_timer *watch_timer;
};

/* qemu.c */
void PRINTF_LIKE(2, 3) qemu_log(struct qemu *qemu, const char *format, ...);
struct instance *qemu_instance(struct qemu *qemu, const char *vm);
/* "MemTotal", "MemAvailable": as the kernel tells it, in MiB; 0: it does not. */
uint64_t qemu_memory_mib(const char *what);
bool qemu_postcopy_allowed(const struct qemu *qemu);
/* Tells the engine: at once, or (within a call of the engine's) from the loop. */
struct hv_event qemu_event(const struct instance *instance, enum hv_event_kind kind);
void qemu_tell(struct qemu *qemu, const struct hv_event *event);
void qemu_tell_later(struct qemu *qemu, const struct hv_event *event);
void qemu_note(struct instance *instance, const char *note);

/* instance.c */
struct instance *instance_new(struct qemu *qemu, const struct vm_def *def, enum hv_state state);
void instance_free(struct instance *instance); /* the process lives on */
void instance_go(struct instance *instance, enum hv_state state);
/* Writes the record down. A failure is logged: what it costs is said where it is called. */
int instance_save(struct instance *instance, struct err *err);
uint64_t instance_now_us(void); /* CLOCK_REALTIME: for figures */
void instance_limit(struct instance *instance, uint64_t limit_ms, loop_timer_fn *fn); /* replaces; 0: none */
int instance_make_dir(struct instance *instance, struct err *err);
void instance_remove_files(int dir_fd);
int instance_open_log(struct instance *instance, const char *suffix, struct err *err);
void instance_watch_death(struct instance *instance);
/* Connects to QEMU's monitor, and again whenever the connection is lost. */
void instance_connect(struct instance *instance);
void instance_qmp(struct instance *instance, const char *command, json_t *arguments, qmp_reply_fn *reply);
void instance_capability(struct instance *instance, const char *name, bool on, qmp_reply_fn *reply); /* of migration */
void instance_end(struct instance *instance, enum ending ending, const struct err *why);
void instance_announce(struct instance *instance); /* the guest's addresses, to the switches */
void instance_drop_stream(struct instance *instance); /* kills it where it lives */

/* begin.c */
void begin_start(struct qemu *qemu, const struct vm_def *def, uint64_t epoch);
void begin_standby(struct qemu *qemu, const struct vm_def *def, uint64_t task);
void begin_on_status(struct instance *instance, const char *status);

/* save.c */
void save_begin(struct instance *instance, uint64_t task);
void save_on_migration(struct instance *instance, const char *status);
void save_on_pass(struct instance *instance);
void save_on_stop(struct instance *instance, uint64_t at_us);
void save_reset(struct instance *instance); /* no copy */
/* A copy of an earlier daemon, or one whose events were lost with the monitor's connection: looks how it stands. */
void save_look(struct instance *instance);

/* call_off.c */
/* Stops the copy, whatever its phase. why: is told as FAILED; NULL: the engine asked for it by run. */
void call_off(struct instance *instance, const struct err *why);
void call_off_helper_over(struct instance *instance);
void call_off_on_migration(struct instance *instance);

/* load.c */
/* QEMU waits for a state: a watari-stream for the move's own state beside it, then PREPARED. */
void load_prepare(struct instance *instance);
void load_begin(struct instance *instance, const struct hv_saved *saved);
/* A standby, load or filling of an earlier daemon. */
void load_look(struct instance *instance);

/* run.c */
void run_begin(struct instance *instance, uint64_t task, uint64_t epoch);
void run_on_resume(struct instance *instance, uint64_t at_us);

/* pause.c */
/* QEMU says that the guest is stopped, for a reason of its own (a run state). False: none that is known. */
bool pause_begin(struct instance *instance, const char *status);

/* storage.c */
void storage_begin(struct qemu *qemu);
void storage_fini(struct qemu *qemu);
void storage_probe(struct qemu *qemu, const struct vm_def *def);
/* The guest does not reach its disks, or does again; text: the fact, where it does not. */
void storage_set(struct instance *instance, bool lost, const char *text);
/* silence.c */
void silence_watch(struct instance *instance);
/* Waits in the kernel, or is being debugged: then it is none of its faults that nothing comes. */
bool silence_is_excused(const struct instance *instance);

/* heartbeat.c */
void heartbeat_set(struct instance *instance, uint32_t seconds);
void heartbeat_fini(struct instance *instance);

/* adopt.c */
int adopt_all(struct qemu *qemu, struct err *err);
/* The monitor is connected (again): what did we miss? */
void adopt_on_status(struct instance *instance, const char *status);
