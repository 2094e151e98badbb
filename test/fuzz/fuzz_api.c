/* SPDX-License-Identifier: Apache-2.0
 * One line to the API, of any content: answered exactly once, whatever it is; and what reaches the engine is an event
 * that the wire can carry, with a definition that passes the checks. The engine, the disks and the socket are stubs. */
#include "api/internal.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct cluster cluster;
static int answers;

void client_send(struct client *client, json_t *message)
{
	CLEANUP_JSON json_t *line = message;
	CLEANUP_FREE char *text = json_dumps(line, JSON_COMPACT);

	(void)client;
	assert(text && !strchr(text, '\n'));
	assert(json_object_get(line, "result") || json_object_get(line, "error"));
	answers++;
}

bool client_may_call(struct client *client)
{
	return client->uid == 0;
}

struct disk_check *disk_check_start(
	struct api *api, const struct vm_def *def, disk_check_fn *done, void *ctx, struct err *err)
{
	(void)api, (void)done, (void)ctx;
	assert(vm_def_check(def, err) == 0);
	err_set(err, ERR_NOT_FOUND, "no disks here");
	return NULL;
}

void disk_check_forget(struct disk_check *check)
{
	assert(!check);
}

/* Its answer is a thread's. */
void call_forecast(struct api_call *call, const json_t *args)
{
	struct err err;

	(void)args;
	err_set(&err, ERR_BUSY, "another forecast is being worked out");
	call_fail(call, &err);
}

void forecast_forget(struct forecast_job *job)
{
	assert(!job);
}

const struct cluster *engine_cluster(const struct engine *engine)
{
	(void)engine;
	return &cluster;
}

const struct node *engine_node(const struct engine *engine, uint32_t id)
{
	(void)engine;
	return cluster_node(&cluster, id);
}

void engine_place_each(const struct engine *engine, const struct vm *vm, engine_place_fn *fn, void *ctx)
{
	(void)engine, (void)vm;
	fn(ctx, 1, false, "n1 has 512 MiB free, web needs 1024");
}

void engine_get_status(const struct engine *engine, struct engine_status *status)
{
	(void)engine;
	*status = (struct engine_status){.node = 1, .synced = true};
}

void engine_submit(struct engine *engine, const struct event *event, engine_reply_fn *reply, void *ctx)
{
	static struct event again;
	static uint8_t wire[64 << 10];
	struct engine_reply ok = {.task = 1, .index = 1};
	struct err err;

	(void)engine;
	size_t size = schema_encode(&event_schema, event, wire, sizeof(wire));
	assert(size <= sizeof(wire) && schema_decode(&event_schema, wire, size, &again, &err) == 0);
	assert(schema_equal(&event_schema, event, &again));
	reply(ctx, &ok);
}

void engine_try(struct engine *engine, const struct event *event, struct engine_reply *reply)
{
	(void)engine, (void)event;
	*reply = (struct engine_reply){.code = ERR_UNFIT, .text = "not today"};
}

void engine_forget(struct engine *engine, void *ctx)
{
	(void)engine, (void)ctx;
}

void engine_watch(struct engine *engine, const struct engine_watcher *watcher)
{
	(void)engine, (void)watcher;
}

void engine_unwatch(struct engine *engine, const struct engine_watcher *watcher)
{
	(void)engine, (void)watcher;
}

const struct engine_progress *engine_progress_of(const struct engine *engine, const char *vm_uuid)
{
	(void)engine, (void)vm_uuid;
	return NULL;
}

void engine_history_each(const struct engine *engine, uint64_t after, uint32_t count,
	void (*fn)(void *ctx, const struct engine_history *line), void *ctx)
{
	static const struct engine_history line = {.index = 1, .text = "web: off, created"};

	(void)engine, (void)after, (void)count;
	fn(ctx, &line);
}

int engine_history_back(
	const struct engine *engine, uint64_t below, engine_history_fn *fn, void *ctx, struct err *err)
{
	static const struct engine_history line = {.index = 1, .text = "web: off, created"};

	(void)engine, (void)below, (void)err;
	fn(ctx, &line);
	return 0;
}

void engine_force_quorum(struct engine *engine, const char *by, engine_reply_fn *reply, void *ctx)
{
	struct engine_reply refused = {.code = ERR_UNFIT, .text = "this node has quorum"};

	(void)engine, (void)by;
	reply(ctx, &refused);
}

bool engine_may_force(const struct engine *engine, struct engine_reply *reply)
{
	(void)engine;
	*reply = (struct engine_reply){.code = ERR_UNFIT, .text = "this node has quorum"};
	return false;
}

void engine_ask(struct engine *engine, enum engine_ask what, const struct fence_device *device, engine_answer_fn *fn,
	void *ctx)
{
	struct engine_answer answer = {.code = ERR_NONE, .off = what == ENGINE_ASK_STATUS};

	(void)engine, (void)device;
	fn(ctx, &answer);
}

int engine_may_switch_off(const struct engine *engine, uint32_t target, struct err *err)
{
	(void)engine, (void)target;
	return err_set(err, ERR_UNFIT, "not today");
}

static uint64_t now_ms(struct loop *loop)
{
	(void)loop;
	return 1000;
}

static struct loop_timer *timer_set(struct loop *loop, uint64_t delay_ms, loop_timer_fn *fn, void *ctx)
{
	(void)loop, (void)delay_ms, (void)fn, (void)ctx;
	return NULL;
}

static void timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	(void)loop, (void)timer;
}

static void fill_cluster(void)
{
	struct vm *vm = &cluster.vms[0];

	cluster.vm_count = 1;
	strcpy(vm->def.name, "web");
	strcpy(vm->def.uuid, "00000000-0000-4000-8000-000000000001");
	strcpy(vm->def.kernel, "/boot/vmlinuz");
	vm->def.memory_mib = 64;
	vm_def_pin(&vm->def);
	vm->owner = 1;
	cluster.nodes[0].id = 1;
	strcpy(cluster.nodes[0].facts.name, "n1");
	cluster.task_count = 2;
	cluster.tasks[0] = (struct task){.id = 7, .state = TASK_DONE, .vm = "web"};
	cluster.tasks[1] = (struct task){.id = 8, .state = TASK_RUNNING, .vm = "web"};
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const struct loop_ops ops = {.now_ms = now_ms, .timer_set = timer_set, .timer_cancel = timer_cancel};
	struct loop loop = {.ops = &ops};
	struct api api = {.loop = &loop, .run_dir = "/run/watari"};
	struct client client = {.api = &api, .name = "root"};

	if (!cluster.vm_count)
		fill_cluster();
	answers = 0;
	calls_take_line(&client, (const char *)bytes, size);
	/* Not answered is only who waits for a task that runs. */
	assert(answers + (int)client.call_count == 1);
	assert(!client.calls || client.calls->wait_task == 8);
	if (client.calls)
		call_drop(client.calls);
	return 0;
}
