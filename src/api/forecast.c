/* SPDX-License-Identifier: Apache-2.0
 * `forecast`: the core is fed with deaths on a copy of the state. With many VMs that takes seconds, and a daemon whose loop
 * stands still for so long is killed by its watchdog: so it is a thread's work, which knows nothing but the copy. */
#include "api/internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

enum {
	LISTED_MAX = 1500, /* VMs in one answer, which has a bound; those that do not run come first */
	STACK_BYTES = 1 << 20,
};

struct forecast_job {
	pthread_mutex_t lock;
	struct api *api; /* NULL: it is gone */
	struct loop *loop;
	struct api_call *call; /* NULL: nobody waits any more */
	struct engine_forecast *forecast;
	uint64_t failed; /* 0: each member in turn */
	json_t *result;
};

static json_t *node_names(const struct cluster *cluster, uint64_t nodes)
{
	json_t *names = json_array();

	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (nodes & node_bit(id))
			json_array_append_new(names, node_name_json(cluster, id));
	return names;
}

static json_t *vm_json(const struct cluster *cluster, const struct forecast_vm *entry)
{
	json_t *vm = json_object();

	json_object_set_new(vm, "vm", json_string(cluster->vms[entry->vm].def.name));
	json_object_set_new(vm, "from", node_name_json(cluster, entry->from));
	json_object_set_new(vm, "to", node_name_json(cluster, entry->to));
	json_object_set_new(vm, "end", json_string(forecast_end_name((int)entry->end)));
	json_object_set_new(vm, "order", json_integer(entry->order));
	json_object_set_new(vm, "after_ms", json_integer((json_int_t)entry->after_ms));
	json_object_set_new(vm, "limit", json_string(forecast_limit_name((int)entry->limit)));
	/* That it would start after a person's word is the core's answer to a word that nobody gave. */
	if (entry->end == FORECAST_BLOCKED)
		json_object_set_new(vm, "text",
			json_sprintf("until %s is proven off, by a person; then on %s", cluster_node_name(cluster, entry->from),
				entry->to ? cluster_node_name(cluster, entry->to) : "a node with room"));
	else
		json_object_set_new(vm, "text", json_string(entry->text));
	return vm;
}

/* By when they start; those that do not at the end, as they stand in the cluster. */
static int by_order(const void *a, const void *b)
{
	const struct forecast_vm *x = *(const struct forecast_vm *const *)a, *y = *(const struct forecast_vm *const *)b;
	uint32_t p = x->end == FORECAST_WAITS || x->end == FORECAST_OFF ? UINT32_MAX : x->order;
	uint32_t q = y->end == FORECAST_WAITS || y->end == FORECAST_OFF ? UINT32_MAX : y->order;

	if (p != q)
		return p < q ? -1 : 1;
	return x->vm < y->vm ? -1 : x->vm > y->vm;
}

static json_t *case_json(const struct cluster *cluster, const struct forecast *forecast, uint32_t *room)
{
	CLEANUP_FREE const struct forecast_vm **sorted = calloc(forecast->count + 1, sizeof(*sorted));
	json_t *view = json_object(), *vms = json_array(), *proofs = json_object();
	uint32_t runs = 0;

	for (uint32_t i = 0; sorted && i < forecast->count; i++) {
		sorted[i] = &forecast->vms[i];
		runs += forecast->vms[i].end == FORECAST_RUNS;
	}
	if (sorted)
		qsort(sorted, forecast->count, sizeof(*sorted), by_order);
	bool all = forecast->count <= *room;
	for (uint32_t i = 0; sorted && i < forecast->count; i++) {
		if (!*room || (!all && sorted[i]->end == FORECAST_RUNS))
			continue;
		json_array_append_new(vms, vm_json(cluster, sorted[i]));
		--*room;
	}
	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (forecast->failed & node_bit(id))
			json_object_set_new(proofs, cluster_node_name(cluster, id), json_string(forecast->proof[id - 1]));
	json_object_set_new(view, "failed", node_names(cluster, forecast->failed));
	json_object_set_new(view, "unproven", node_names(cluster, forecast->unproven));
	json_object_set_new(view, "proofs", proofs);
	json_object_set_new(view, "down", json_integer(forecast->down));
	json_object_set_new(view, "count", json_integer(forecast->count));
	json_object_set_new(view, "runs", json_integer(runs));
	json_object_set_new(view, "left_out", json_integer((json_int_t)(forecast->count - json_array_size(vms))));
	json_object_set_new(view, "vms", vms);
	return view;
}

static json_t *survival_json(const struct cluster *cluster, const struct forecast_survival *survival)
{
	json_t *view = json_pack("{s:i, s:b, s:s}", "nodes", (int)survival->nodes, "exact", survival->exact, "limit",
		forecast_limit_name((int)survival->limit));

	json_object_set_new(view, "text", json_string(survival->text));
	json_object_set_new(view, "failed", node_names(cluster, survival->failed));
	return view;
}

static json_t *work_out(struct forecast_job *job)
{
	const struct cluster *cluster = engine_forecast_cluster(job->forecast);
	uint32_t needs = engine_forecast_quorum_needs(job->forecast), room = LISTED_MAX;
	struct forecast_survival survival;
	json_t *cases = json_array(), *result = json_object();

	for (uint32_t id = 1; id <= NODES_MAX; id++) {
		uint64_t failed = job->failed ? job->failed : node_bit(id);
		if (!(cluster->members & failed))
			continue;
		const struct forecast *forecast = engine_forecast_run(job->forecast, failed);
		json_t *view = case_json(cluster, forecast, &room);
		uint32_t left = (uint32_t)__builtin_popcountll(cluster->members & ~failed);
		json_object_set_new(view, "quorate", json_boolean(left >= needs));
		json_object_set_new(view, "members_left", json_integer(left));
		json_array_append_new(cases, view);
		if (job->failed)
			break;
	}
	engine_forecast_survival(job->forecast, &survival);
	json_object_set_new(result, "members", json_integer(__builtin_popcountll(cluster->members)));
	json_object_set_new(result, "quorum_needs", json_integer(needs));
	json_object_set_new(result, "survives", survival_json(cluster, &survival));
	json_object_set_new(result, "cases", cases);
	return result;
}

static void job_free(struct forecast_job *job)
{
	engine_forecast_free(job->forecast);
	json_decref(job->result);
	pthread_mutex_destroy(&job->lock);
	free(job);
}

/* On the loop's thread. */
static void finished(void *ctx, void *item)
{
	struct forecast_job *job = item;
	struct api_call *call = job->call;

	(void)ctx;
	pthread_mutex_lock(&job->lock); /* the thread is out of its last act */
	pthread_mutex_unlock(&job->lock);
	if (job->api)
		job->api->forecast = NULL;
	if (job->api && call) {
		call->forecast = NULL;
		call_result(call, STEAL(job->result));
	}
	job_free(job);
}

static void *run(void *arg)
{
	struct forecast_job *job = arg;
	struct err err;

	job->result = work_out(job);
	pthread_mutex_lock(&job->lock);
	bool posted = job->api && !loop_post(job->loop, finished, NULL, job, &err);
	bool orphan = !job->api;
	pthread_mutex_unlock(&job->lock);
	if (orphan && !posted)
		job_free(job);
	return NULL;
}

static int thread_start(struct forecast_job *job, struct err *err)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, before;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int failed = pthread_create(&thread, &attr, run, job);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return failed ? err_errno(err, failed, "start a thread") : 0;
}

/* "n2,n3": members all; 0 after the call was answered. */
static uint64_t nodes_of(struct api_call *call, const char *names)
{
	const struct cluster *cluster = engine_cluster(call->api->engine);
	uint64_t nodes = 0;
	struct err err;

	for (;;) {
		char name[NAME_BYTES];
		size_t length = strcspn(names, ",");
		snprintf(name, sizeof(name), "%.*s", (int)(length < NAME_BYTES ? length : NAME_BYTES - 1), names);
		const struct node *node = cluster_node_find(cluster, name);
		if (!node) {
			err_set(&err, ERR_NOT_FOUND, "fail: no node '%s'", name);
			call_fail_hint(call, &err, "'watari node list' shows all nodes");
			return 0;
		}
		if (!(cluster->members & node_bit(node->id))) {
			err_set(&err, ERR_UNFIT, "fail: %s is %s already", name, node_state_name((int)node->state));
			call_fail_hint(call, &err, "a forecast tells of nodes that are there now");
			return 0;
		}
		nodes |= node_bit(node->id);
		if (!names[length])
			break;
		names += length + 1;
	}
	if (nodes != cluster->members)
		return nodes;
	err_set(&err, ERR_UNFIT, "fail: no node is left then");
	call_fail_hint(call, &err, "name fewer nodes");
	return 0;
}

void call_forecast(struct api_call *call, const json_t *args)
{
	const char *names = json_string_value(json_object_get(args, "fail"));
	struct api *api = call->api;
	struct engine_status status;
	struct err err;
	uint64_t failed = names ? nodes_of(call, names) : 0;

	if (names && !failed)
		return;
	engine_get_status(api->engine, &status);
	if (!status.synced) {
		err_set(&err, ERR_NO_QUORUM, "this node is not in sync and does not know the cluster's state: %s",
			status.reason);
		call_fail_hint(call, &err, "ask another node; 'watari status' says what it waits for");
		return;
	}
	if (api->forecast) {
		err_set(&err, ERR_BUSY, "another forecast is being worked out");
		call_fail_hint(call, &err, "ask again in a moment");
		return;
	}
	struct forecast_job *job = calloc(1, sizeof(*job));
	if (!job) {
		err_set(&err, ERR_SYSTEM, "out of memory");
		call_fail(call, &err);
		return;
	}
	*job = (struct forecast_job){.api = api, .loop = api->loop, .failed = failed};
	pthread_mutex_init(&job->lock, NULL);
	job->forecast = engine_forecast_new(api->engine);
	if (thread_start(job, &err) < 0) {
		job_free(job);
		call_fail(call, &err);
		return;
	}
	job->call = call;
	call->forecast = api->forecast = job;
}

void forecast_forget(struct forecast_job *job)
{
	if (job)
		job->call = NULL;
}

void forecast_orphan(struct api *api)
{
	struct forecast_job *job = api->forecast;

	if (!job)
		return;
	api->forecast = NULL;
	pthread_mutex_lock(&job->lock);
	job->api = NULL;
	pthread_mutex_unlock(&job->lock);
}
