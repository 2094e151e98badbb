/* SPDX-License-Identifier: Apache-2.0
 * What the files of the API share. A call lives from its line until its answer; a client that goes away takes its
 * calls along. Everything runs on the loop's thread, but for a forecast (forecast.c) and the
 * look at disks (disks.c), which know no call. */
#pragma once

#include "api/api.h"
#include "base/json.h"

struct client;
struct disk_check;
struct forecast_job;

enum arg_type { ARG_TEXT, ARG_NUMBER, ARG_BOOL, ARG_OBJECT };

struct api_arg {
	const char *name;
	enum arg_type type;
	bool required;
	uint64_t max; /* TEXT: bytes; NUMBER: value */
	const char *help;
};

struct api_call;

struct api_verb {
	const char *name;
	bool changes; /* asks for a change of the cluster */
	struct api_arg args[8];
	/* Answers at once or later, exactly once, by call_result, call_fail or call_fail_hint. */
	void (*run)(struct api_call *call, const json_t *args);
	const char *help;
};

extern const struct api_verb api_verbs[];
extern const size_t api_verb_count;

struct api_call {
	struct api *api;
	struct client *client;
	const struct api_verb *verb;
	uint64_t id;
	struct event *event;	  /* what was, or will be, submitted */
	bool try_only;		  /* dry run: ask the core's opinion of event, commit nothing */
	uint64_t wait_task;	  /* task.wait: answered when this task has ended, */
	char wait_vm[NAME_BYTES]; /* of this VM, by name or UUID; empty: whosever it is */
	struct loop_timer *timer; /* task.wait's limit, or the disk check's */
	struct disk_check *disks; /* vm.create, vm.edit: what is being looked at */
	struct forecast_job *forecast; /* forecast: what is being worked out */
	struct api_call *next;	  /* of the client's outstanding calls */
};

struct subscription {
	bool on;
	uint64_t id; /* of the subscribe call: marks its events */
	bool progress;
	bool log;
	char vm[UUID_BYTES]; /* only news of this VM; empty: all */
	uint32_t node;	     /* of the log only what concerns it; 0: all */
};

struct client {
	struct api *api;
	int fd;
	struct loop_io *io;
	struct loop_timer *timer;
	char name[NAME_BYTES]; /* for the audit trail: the user's name, or "uid-1000" */
	uid_t uid;
	bool closing; /* answers no more; freed when the output is out or its time is up */
	uint64_t heard_ms;
	uint64_t line_ms; /* when the unfinished line was begun; 0: none */
	char *in;
	size_t in_size, in_capacity;
	char *out;
	size_t out_size, out_sent, out_capacity;
	uint64_t drop_ms; /* closing: freed then at the latest */
	struct api_call *calls;
	uint32_t call_count;
	struct subscription subscription;
};

/* What subscribers were last told of a slot of the cluster's table of tasks. */
struct api_task_seen {
	uint64_t id;
	enum task_state state;
};

struct api {
	struct engine *engine;
	struct loop *loop;
	struct engine_watcher watcher;
	char socket_path[108];
	char run_dir[PATH_BYTES];
	gid_t group;
	int fd;
	struct loop_io *io;
	struct loop_timer *reap_timer;
	struct disk_check *disk_checks; /* under way */
	struct worker *worker;
	struct worker *own_worker; /* NULL: the caller gave one */
	struct forecast_job *forecast; /* the one under way */
	struct client *clients[API_CLIENTS_MAX];
	struct api_task_seen tasks_seen[TASKS_MAX];
};

/* server.c */
/* Queues one line for the client; drops it where it reads too slowly. Takes the reference. */
void client_send(struct client *client, json_t *message);
/* Root, or a member of the configured group, at the other end. */
bool client_may_call(struct client *client);

/* calls.c */
/* One line from a client, of any content: finds the call, checks its arguments, runs it. */
void calls_take_line(struct client *client, const char *line, size_t size);
/* Checks args (may be NULL) against the verb's table. */
int calls_check_args(const struct api_verb *verb, const json_t *args, struct err *err);
void call_result(struct api_call *call, json_t *result); /* takes the reference */
void call_fail(struct api_call *call, const struct err *err);
void call_fail_hint(struct api_call *call, const struct err *err, const char *hint);
/* Without an answer: its client is gone. */
void call_drop(struct api_call *call);
/* Hands call->event to the engine and answers with what becomes of it. */
void call_submit(struct api_call *call);
void call_submit_forced(struct api_call *call);

/* changes.c */
/* The VM that args name, or NULL after the call was answered. */
const struct vm *call_vm(struct api_call *call, const json_t *args);
void call_vm_create(struct api_call *call, const json_t *args);
void call_vm_edit(struct api_call *call, const json_t *args);
/* The task of this number: that of the VM (NULL: not named), else the only one, else the one that somebody asked for; what came
 * along in the same event is watari's own. NULL: *count is how many there are. */
const struct task *api_task_find(const struct cluster *cluster, uint64_t id, const char *vm, uint32_t *count);
/* The same; NULL: the call has failed with the reason. */
const struct task *call_task(struct api_call *call, uint64_t id, const char *vm);
void call_vm_delete(struct api_call *call, const json_t *args);
void call_vm_start(struct api_call *call, const json_t *args);
void call_vm_shutdown(struct api_call *call, const json_t *args);
void call_vm_stop(struct api_call *call, const json_t *args);
void call_vm_save(struct api_call *call, const json_t *args);
void call_vm_move(struct api_call *call, const json_t *args);
void call_vm_cancel(struct api_call *call, const json_t *args);
/* Fills in what needs randomness, pins and checks. The part of vm.create that a fuzzer can reach. */
int def_complete(struct vm_def *def, const struct cluster *cluster, struct err *err);

/* definition.c */
/* The node's name, "node-N" where it never told one, null for 0. A new reference. */
json_t *node_name_json(const struct cluster *cluster, uint32_t id);
json_t *definition_to_json(const struct cluster *cluster, const struct vm_def *def);
int definition_from_json(const struct cluster *cluster, const json_t *json, struct vm_def *def, struct err *err);

/* fence.c */
void call_fence_list(struct api_call *call, const json_t *args);
void call_fence_show(struct api_call *call, const json_t *args);
void call_fence_agent(struct api_call *call, const json_t *args);
void call_fence_set(struct api_call *call, const json_t *args);
void call_fence_remove(struct api_call *call, const json_t *args);
void call_fence_check(struct api_call *call, const json_t *args);
void call_fence_status(struct api_call *call, const json_t *args);
void call_fence_off(struct api_call *call, const json_t *args);
void call_fence_on(struct api_call *call, const json_t *args);
void call_node_confirm_off(struct api_call *call, const json_t *args);
void call_node_fence(struct api_call *call, const json_t *args);
void call_node_resume(struct api_call *call, const json_t *args);

/* reads.c */
void call_api_list(struct api_call *call, const json_t *args);
void call_why(struct api_call *call, const json_t *args);
void call_force_quorum(struct api_call *call, const json_t *args);
void call_cluster_status(struct api_call *call, const json_t *args);
void call_node_list(struct api_call *call, const json_t *args);
void call_node_show(struct api_call *call, const json_t *args);
void call_vm_list(struct api_call *call, const json_t *args);
void call_vm_show(struct api_call *call, const json_t *args);
void call_vm_console(struct api_call *call, const json_t *args);
void call_task_list(struct api_call *call, const json_t *args);
void call_task_show(struct api_call *call, const json_t *args);
void call_log_list(struct api_call *call, const json_t *args);

/* forecast.c: worked out on a thread of its own, one at a time. */
void call_forecast(struct api_call *call, const json_t *args);
/* Its call is gone: nobody is told. Takes NULL. */
void forecast_forget(struct forecast_job *job);
/* The API goes away; the thread ends by itself. */
void forecast_orphan(struct api *api);

/* The line is about the node, about a VM that it owns then, or names it. */
bool line_concerns(const struct cluster *cluster, const struct engine_history *line, uint32_t node);
/* The id of the node that args name under key, 0 where the key is absent; -1 after the call was answered. */
int call_node(struct api_call *call, const json_t *args, const char *key);

/* watch.c */
void call_task_wait(struct api_call *call, const json_t *args);
void call_subscribe(struct api_call *call, const json_t *args);
void watch_start(struct api *api);
void watch_stop(struct api *api);

/* disks.c: looks, in a process of its own, whether a definition's files are there. */
typedef void disk_check_fn(void *ctx, const struct err *err); /* err->code ERR_NONE: all is well */
struct disk_check *disk_check_start(
	struct api *api, const struct vm_def *def, disk_check_fn *done, void *ctx, struct err *err);
/* done is not called any more; the look ends by itself. Takes NULL. */
void disk_check_forget(struct disk_check *check);
/* The API goes away, and with it those that still hang on a disk. */
void disk_checks_end(struct api *api);
/* The look itself, blocking. */
int disk_check_run(const struct vm_def *def, struct err *err);

/* view.c: the model as the API shows it. New references. */
json_t *view_status(struct api *api);
json_t *view_node(struct api *api, const struct node *node);
json_t *view_vm(struct api *api, const struct vm *vm, bool whole);
/* For each node whether it could take the VM, which has none, and the fact that decides. */
json_t *view_placement(struct api *api, const struct vm *vm);
json_t *view_task(struct api *api, const struct task *task);
json_t *view_progress(struct api *api, const struct engine_progress *progress);
json_t *view_history(struct api *api, const struct engine_history *line);
