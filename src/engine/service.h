/* SPDX-License-Identifier: Apache-2.0
 * What the API may ask of the engine: read the committed cluster, submit requests, watch changes. Nothing else of the
 * engine is visible above it. All calls on the loop's thread.
 *
 * Promises: a request's reply comes exactly once, and ERR_NONE only after the event is committed (durable at a
 * majority); refused and failed requests say which fact decided. Reading never blocks and needs no quorum: it is the
 * last committed state that this node knows, and engine_get_status says how current that is. */
#pragma once

#include "model/event.h"
#include "model/forecast.h"

struct engine;

struct engine_status {
	bool in_group;	/* corosync answers */
	bool quorate;
	bool synced;	/* this node has the committed history of the current view and acts on it */
	uint32_t node;	/* own id and name */
	char node_name[NAME_BYTES];
	uint64_t members;
	uint64_t term;
	uint64_t index;	   /* applied */
	uint64_t log_index; /* received */
	uint32_t watchdog_ms;	   /* of this node's, armed; 0: none is */
	char watchdog[96];	   /* which one, or why none is armed */
	char reason[REASON_BYTES]; /* when not synced: why, and what it waits for */
	char hint[2 * REASON_BYTES]; /* what a person can do about it; empty: nothing, or nothing is wrong */
};

struct engine_reply {
	enum err_code code;
	char text[512];
	uint64_t task;	/* begun by the request, or 0 */
	uint64_t index; /* of the event */
};
typedef void engine_reply_fn(void *ctx, const struct engine_reply *reply);

/* Volatile news of a long step, gossiped by the node that does it. */
struct engine_progress {
	char vm[UUID_BYTES];
	uint64_t task;
	uint32_t node;
	uint32_t percent;
	uint64_t updated_ms;
	struct move_figures figures;
	char note[REASON_BYTES];
};
extern const struct schema engine_progress_schema;

/* One line of what happened, made when an event was applied. */
struct engine_history {
	uint64_t index;
	uint64_t now_ms;
	enum event_kind kind;
	uint32_t node; /* origin */
	char by[NAME_BYTES];
	char vm[NAME_BYTES]; /* name, or empty */
	uint32_t about;	     /* node id, where the line is about a node; else 0 */
	uint32_t from_state, to_state; /* enum vm_state, or of `about` enum node_state (from: the same) */
	uint64_t task;	     /* of the VM, under way after the event; 0: none */
	uint64_t epoch;	     /* of the VM */
	uint32_t owner;	     /* of the VM, after the event; 0: none */
	bool refused;	     /* the event changed nothing; text has the fact that decided it */
	char text[512];	     /* "web: online -> moving (prepare): asked by root, to n2" */
};
extern const struct schema engine_history_schema;

struct engine_watcher {
	void *ctx;
	/* A VM, node or task changed; look at engine_cluster. vm: index or -1; nodes: bits of changed nodes. */
	void (*changed)(void *ctx, int vm, uint64_t nodes, uint64_t task);
	void (*progress)(void *ctx, const struct engine_progress *progress);
	void (*history)(void *ctx, const struct engine_history *line);
	void (*status)(void *ctx); /* engine_get_status gives another answer than before */
};

const struct cluster *engine_cluster(const struct engine *engine);
void engine_get_status(const struct engine *engine, struct engine_status *status);

/* A node as this one sees it: what the log says of it, but while this one is a half of two that waits (decision 0022): then
 * what is known of the other one, which left, and how its fencing goes; nothing of that is committed. NULL: none has that id. */
const struct node *engine_node(const struct engine *engine, uint32_t id);

/* The event's origin, times and number are filled in. It waits at most ENGINE_REPLY_MS; then ERR_TIMEOUT, and the outcome
 * is unknown until looked up. A change of the view takes a moment, in which nothing can be committed: a request waits for
 * that. Where this node has been out of a quorate view for ENGINE_GRACE_MS it is refused (ERR_NO_QUORUM), and nothing of
 * it was sent; the reply may come within the call then. */
enum { ENGINE_REPLY_MS = 15000, ENGINE_GRACE_MS = 4000 };
void engine_submit(struct engine *engine, const struct event *event, engine_reply_fn *reply, void *ctx);
/* A dry run: what this request would be answered now. Where this node may change nothing that is the answer, as without a dry
 * run; else the core's, to which it is fed on a copy of the committed cluster. Nothing is sent, and what only the target's
 * machine knows is not asked. */
void engine_try(struct engine *engine, const struct event *event, struct engine_reply *reply);

/* For each node that is known: whether it could take the VM now, and the fact that decides it, or the room that it has. */
typedef void engine_place_fn(void *ctx, uint32_t node, bool fits, const char *text);
void engine_place_each(const struct engine *engine, const struct vm *vm, engine_place_fn *fn, void *ctx);

/* What would happen if nodes died now. new copies the committed state (ms, at 8,000 VMs some ten) and belongs to the loop's
 * thread; the rest works on that copy alone, for long where there is much, on any one thread. run's result is overwritten
 * by the next run, and by survival. */
struct engine_forecast;
struct engine_forecast *engine_forecast_new(const struct engine *engine);
void engine_forecast_free(struct engine_forecast *forecast);
const struct cluster *engine_forecast_cluster(const struct engine_forecast *forecast);
const struct forecast *engine_forecast_run(struct engine_forecast *forecast, uint64_t failed);
uint32_t engine_forecast_quorum_needs(const struct engine_forecast *forecast);
void engine_forecast_survival(struct engine_forecast *forecast, struct forecast_survival *survival);

/* Makes the nodes that this one sees a quorum, although they are not a majority: for when the others never come back.
 * What those have committed last and these do not know is lost, and two sides that are both forced run VMs twice; only
 * proof that the others are off (fence, confirm-off) makes it safe, and nothing of theirs starts without it. Refused
 * where there is quorum. The reply comes when it is committed, which is the audit; as engine_submit otherwise. */
void engine_force_quorum(struct engine *engine, const char *by, engine_reply_fn *reply, void *ctx);
/* A dry run of it: true where it would be done, and `reply` says what that means; else why not. */
bool engine_may_force(const struct engine *engine, struct engine_reply *reply);

/* Asks a fence device, on this node and beside the log: nothing that is decided on changes. OFF and ON are for a person's
 * test of a device; OFF is refused unless all nodes are online and the device's node has no VM. The answer comes once,
 * within the call where it is refused. */
enum engine_ask {
	ENGINE_ASK_CHECK,  /* do its options fit the agent's metadata? */
	ENGINE_ASK_STATUS, /* on or off? */
	ENGINE_ASK_OFF,
	ENGINE_ASK_ON,
};
enum { ENGINE_CHECK_MS = 10000 };
struct engine_answer {
	enum err_code code; /* ERR_NONE, and then off or on (not for CHECK); or why there is no answer */
	bool off;
	bool on;
	char text[512];
	const struct fence_agent_about *about; /* of CHECK: the agent's options in its own words, also with a code; or NULL */
};
typedef void engine_answer_fn(void *ctx, const struct engine_answer *answer);
void engine_ask(struct engine *engine, enum engine_ask what, const struct fence_device *device, engine_answer_fn *fn,
	void *ctx);

/* A dry run of OFF: 0, or -1 and what stands against it. */
int engine_may_switch_off(const struct engine *engine, uint32_t target, struct err *err);

/* The caller goes away: its reply is not called any more. */
void engine_forget(struct engine *engine, void *ctx);

/* The watcher is the caller's and stays valid until engine_unwatch. */
void engine_watch(struct engine *engine, const struct engine_watcher *watcher);
void engine_unwatch(struct engine *engine, const struct engine_watcher *watcher);

/* NULL where nothing is known. Valid until the loop goes on. */
const struct engine_progress *engine_progress_of(const struct engine *engine, const char *vm_uuid);

/* Back in time: calls fn for each line of an event below this index (UINT64_MAX: from the newest on), the newest first,
 * until it returns false. The same lines on every node, also after restarts, for as long as the store keeps them (50,000;
 * a node that was away for more than 10,000 lines got the newest 10,000). Those that are in memory no more are read from
 * the disk, within the call: milliseconds per thousand. -1: the store cannot be read, err says why. */
typedef bool engine_history_fn(void *ctx, const struct engine_history *line);
int engine_history_back(
	const struct engine *engine, uint64_t below, engine_history_fn *fn, void *ctx, struct err *err);

/* The newest lines, those in memory, oldest first: calls fn for those with an index above `after`, at most count. */
void engine_history_each(const struct engine *engine, uint64_t after, uint32_t count,
	void (*fn)(void *ctx, const struct engine_history *line), void *ctx);
