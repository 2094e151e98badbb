/* SPDX-License-Identifier: Apache-2.0
 * Requests and their replies, watchers and progress: the engine as the API sees it. */
#include "engine/internal.h"
#include "engine/service.h"

#include <assert.h>
#include <string.h>

static const struct field progress_fields[] = {
	SCHEMA_TEXT(1, engine_progress, vm),
	SCHEMA_U64(2, engine_progress, task),
	SCHEMA_U32(3, engine_progress, node),
	SCHEMA_U32(4, engine_progress, percent),
	SCHEMA_U64(5, engine_progress, updated_ms),
	SCHEMA_RECORD(6, engine_progress, figures, &move_figures_schema),
	SCHEMA_TEXT(7, engine_progress, note),
};
SCHEMA_DEFINE(engine_progress_schema, engine_progress, progress_fields);

const struct cluster *engine_cluster(const struct engine *engine)
{
	return engine->cluster;
}

/* "n2, n3": those that are known, and are in the view, or are not. */
static void names_of(const struct engine *engine, bool here, char *text, size_t size)
{
	size_t used = 0;

	text[0] = 0;
	for (uint32_t id = 1; id <= NODES_MAX && used + NAME_BYTES + 8 < size; id++)
		if (cluster_node(engine->cluster, id)->id && here == !!(engine->view.members & node_bit(id)))
			used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "",
				cluster_node_name(engine->cluster, id));
}

void engine_get_status(const struct engine *engine, struct engine_status *status)
{
	*status = (struct engine_status){
		.in_group = engine->in_group,
		.quorate = engine->view.quorate,
		.synced = engine->sync == SYNC_DONE,
		.node = engine->ports.group->node,
		.members = engine->view.members,
		.term = engine->term,
		.index = engine->cluster->index,
		.log_index = log_last_index(engine),
		.watchdog_ms = engine->selffence.state == SELFFENCE_ARMED ? engine->selffence.timeout_ms : 0,
	};
	memcpy(status->watchdog, engine->selffence.note, sizeof(status->watchdog));
	memcpy(status->node_name, engine->config.node_name, sizeof(status->node_name));
	memcpy(status->reason, engine->out_reason, sizeof(status->reason));
	if (engine->half) {
		const char *other = cluster_node_name(engine->half, engine->half_other);
		snprintf(status->hint, sizeof(status->hint),
			"guests run on, and nothing is changed until %.63s is fenced or back; if you have seen that it is off: "
			"watari node confirm-off %.63s --yes %.63s",
			other, other, other);
	} else if (!engine->view.quorate && engine->view.members && !engine->view.stranger[0]) {
		char gone[160];
		names_of(engine, false, gone, sizeof(gone));
		snprintf(status->hint, sizeof(status->hint),
			"%s%s%sIt goes on when a majority of the nodes is here; should the others never come back: 'watari cluster "
			"force-quorum --help' tells what going on without them risks",
			gone[0] ? "not here: " : "", gone, gone[0] ? ". " : "");
	}
}

const struct node *engine_node(const struct engine *engine, uint32_t id)
{
	return cluster_node(engine->half && id == engine->half_other ? engine->half : engine->cluster, id);
}

/* Watchers. */

void engine_watch(struct engine *engine, const struct engine_watcher *watcher)
{
	for (int i = 0; i < WATCHERS_MAX; i++) {
		if (!engine->watchers[i]) {
			engine->watchers[i] = watcher;
			return;
		}
	}
	assert(false && "more watchers than clients");
}

void engine_unwatch(struct engine *engine, const struct engine_watcher *watcher)
{
	for (int i = 0; i < WATCHERS_MAX; i++)
		if (engine->watchers[i] == watcher)
			engine->watchers[i] = NULL;
}

void engine_status_changed(struct engine *engine)
{
	for (int i = 0; i < WATCHERS_MAX; i++)
		if (engine->watchers[i] && engine->watchers[i]->status)
			engine->watchers[i]->status(engine->watchers[i]->ctx);
}

static void tell_changed(struct engine *engine, int vm, uint64_t nodes, uint64_t task)
{
	for (int i = 0; i < WATCHERS_MAX; i++)
		if (engine->watchers[i] && engine->watchers[i]->changed)
			engine->watchers[i]->changed(engine->watchers[i]->ctx, vm, nodes, task);
}

/* Requests. */

static void pending_free(struct engine *engine, struct pending *pending)
{
	loop_timer_cancel(engine->ports.loop, pending->timer);
	free(pending->bytes);
	free(pending);
}

static void pending_reply(struct engine *engine, struct pending *pending, const struct engine_reply *reply)
{
	struct pending **at = &engine->pending;

	while (*at != pending)
		at = &(*at)->next;
	*at = pending->next;
	if (pending->reply)
		pending->reply(pending->ctx, reply);
	pending_free(engine, pending);
}

static void on_reply_late(void *ctx)
{
	struct pending *pending = ctx;
	struct engine_reply reply = {.code = ERR_TIMEOUT};

	pending->timer = NULL;
	snprintf(reply.text, sizeof(reply.text),
		"the cluster did not commit the request within %d s (%s); it may still take effect",
		ENGINE_REPLY_MS / 1000,
		pending->engine->out_reason[0] ? pending->engine->out_reason : "no answer from a majority");
	pending_reply(pending->engine, pending, &reply);
}

static void pending_send(struct engine *engine, struct pending *pending)
{
	struct message message = {.kind = MESSAGE_EVENT, .term = engine->term, .payload_size = pending->size};

	pending->sent = engine_send(engine, &message, pending->bytes) == 0;
	pending->tried |= pending->sent;
}

/* In the order of their numbers: the core takes a lower number than the last as a repetition. */
void service_send_pending(struct engine *engine)
{
	for (struct pending *pending = engine->pending; pending; pending = pending->next) {
		if (!pending->sent)
			pending_send(engine, pending);
		if (!pending->sent)
			return;
	}
}

void service_view_lost(struct engine *engine)
{
	for (struct pending *pending = engine->pending; pending; pending = pending->next)
		pending->sent = false;
}

static struct pending *queue(struct engine *engine, const struct event *request, engine_reply_fn *reply, void *ctx)
{
	struct pending **at = &engine->pending;
	bool waiting = false;

	CLEANUP_FREE struct event *event = malloc(sizeof(*event));
	assert(event);
	*event = *request;
	event->node = engine->ports.group->node;
	event->incarnation = engine->config.incarnation;
	event->seq = ++engine->seq;
	event->now_ms = engine_told_ms(engine); /* it may wait until this node is in sync */
	memcpy(event->boot_id, engine->config.boot_id, sizeof(event->boot_id));

	struct pending *pending = calloc(1, sizeof(*pending));
	assert(pending);
	pending->seq = event->seq;
	pending->size = schema_encode(&event_schema, event, NULL, 0);
	pending->bytes = malloc(pending->size);
	assert(pending->bytes && pending->size <= EVENT_BYTES_MAX);
	schema_encode(&event_schema, event, pending->bytes, pending->size);
	pending->reply = reply;
	pending->ctx = ctx;
	pending->engine = engine;
	pending->due_ms = loop_now_ms(engine->ports.loop) + ENGINE_REPLY_MS;
	pending->timer = loop_timer_set(engine->ports.loop, ENGINE_REPLY_MS, on_reply_late, pending);
	for (; *at; at = &(*at)->next)
		waiting |= !(*at)->sent;
	*at = pending;
	if (engine->sync == SYNC_DONE && !waiting)
		pending_send(engine, pending);
	return pending;
}

static struct engine_reply refusal(const struct engine *engine)
{
	struct engine_reply refused = {.code = ERR_NO_QUORUM};

	snprintf(refused.text, sizeof(refused.text), "this node cannot change the cluster: %s", engine->out_reason);
	return refused;
}

static void on_grace_over(void *ctx)
{
	struct pending *pending = ctx;
	struct engine *engine = pending->engine;

	pending->timer = NULL;
	if (engine->sync == SYNC_OUT && !pending->tried) {
		struct engine_reply refused = refusal(engine);
		pending_reply(engine, pending, &refused);
		return;
	}
	uint64_t now = loop_now_ms(engine->ports.loop);
	pending->timer = loop_timer_set(
		engine->ports.loop, pending->due_ms > now ? pending->due_ms - now : 0, on_reply_late, pending);
}

void engine_submit(struct engine *engine, const struct event *request, engine_reply_fn *reply, void *ctx)
{
	uint64_t out_for_ms = loop_now_ms(engine->ports.loop) - engine->out_ms;

	if (engine->sync == SYNC_OUT && out_for_ms >= ENGINE_GRACE_MS) {
		struct engine_reply refused = refusal(engine);
		reply(ctx, &refused);
		return;
	}
	CLEANUP_FREE struct event *event = malloc(sizeof(*event));
	struct engine_reply answer;
	assert(event);
	*event = *request;
	event->proof = PROOF_NONE;
	if (engine->half && !half_submit(engine, event, &answer)) {
		reply(ctx, &answer);
		return;
	}
	struct pending *pending = queue(engine, event, reply, ctx);
	if (engine->sync != SYNC_OUT)
		return;
	loop_timer_cancel(engine->ports.loop, pending->timer);
	pending->timer =
		loop_timer_set(engine->ports.loop, ENGINE_GRACE_MS - out_for_ms, on_grace_over, pending);
}

bool engine_may_force(const struct engine *engine, struct engine_reply *reply)
{
	char here[160], gone[160];

	*reply = (struct engine_reply){.code = ERR_UNFIT};
	if (!engine->in_group) {
		snprintf(reply->text, sizeof(reply->text),
			"corosync does not answer here: start it first, quorum is its to say");
	} else if (engine->half) {
		const char *other = cluster_node_name(engine->half, engine->half_other);
		snprintf(reply->text, sizeof(reply->text),
			"this node has quorum: there is nothing to force. What it waits for is proof that %.63s is off: its fence "
			"device, or 'watari node confirm-off %.63s'",
			other, other);
	} else if (engine->sync != SYNC_OUT) {
		snprintf(reply->text, sizeof(reply->text), "this node has quorum: there is nothing to force");
	} else {
		names_of(engine, true, here, sizeof(here));
		names_of(engine, false, gone, sizeof(gone));
		reply->code = ERR_NONE;
		snprintf(reply->text, sizeof(reply->text),
			"%s would go on without %s; what those have committed last and is not known here would be lost, and VMs "
			"that ran there start only when they are proven off",
			here[0] ? here : engine->config.node_name, gone[0] ? gone : "the others");
	}
	return reply->code == ERR_NONE;
}

void engine_force_quorum(struct engine *engine, const char *by, engine_reply_fn *reply, void *ctx)
{
	struct event event = {.kind = EVENT_QUORUM_FORCED};
	struct engine_reply refused;

	if (!engine_may_force(engine, &refused)) {
		reply(ctx, &refused);
		return;
	}
	snprintf(event.by, sizeof(event.by), "%s", by);
	engine->forced = true;
	group_force(engine->ports.group);
	queue(engine, &event, reply, ctx);
}

void engine_forget(struct engine *engine, void *ctx)
{
	for (struct pending *pending = engine->pending; pending; pending = pending->next)
		if (pending->ctx == ctx)
			pending->reply = NULL;
	ask_forget(engine, ctx);
}

void engine_try(struct engine *engine, const struct event *request, struct engine_reply *reply)
{
	CLEANUP_FREE struct cluster *cluster = calloc(1, sizeof(*cluster));
	CLEANUP_FREE struct core_outcome *outcome = calloc(1, sizeof(*outcome));
	CLEANUP_FREE struct event *event = malloc(sizeof(*event));

	assert(cluster && outcome && event);
	/* What the same request would be told without being a dry run. */
	if (engine->sync == SYNC_OUT) {
		*reply = refusal(engine);
		return;
	}
	if (engine->half && half_refuses(engine, request, reply))
		return;
	*event = *request;
	event->node = engine->ports.group->node;
	event->now_ms = engine_cluster_ms(engine);
	cluster_copy(cluster, engine->half ? engine->half : engine->cluster);
	core_step(cluster, event, outcome);
	*reply = (struct engine_reply){.code = outcome->code};
	snprintf(reply->text, sizeof(reply->text), "%s", outcome->text);
}

static void answer_own(struct engine *engine, const struct event *event)
{
	struct pending *pending = engine->pending;
	struct engine_reply reply = {
		.code = engine->outcome->code, .task = engine->outcome->task, .index = engine->cluster->index};

	if (event->node != engine->ports.group->node || event->incarnation != engine->config.incarnation || !event->seq)
		return;
	while (pending && pending->seq != event->seq)
		pending = pending->next;
	if (!pending)
		return;
	snprintf(reply.text, sizeof(reply.text), "%s", engine->outcome->text);
	pending_reply(engine, pending, &reply);
}

void service_applied(struct engine *engine, const struct event *event)
{
	const struct core_outcome *outcome = engine->outcome;

	history_applied(engine, event);
	for (uint32_t i = 0; i < outcome->change_count; i++)
		if (!i || outcome->changes[i].vm != outcome->changes[i - 1].vm)
			tell_changed(engine, (int)outcome->changes[i].vm, 0, outcome->task);
	if (outcome->nodes_changed)
		tell_changed(engine, -1, outcome->nodes_changed, 0);
	answer_own(engine, event);
}

/* Progress: gossip beside the log, kept for whoever asks. */

static void progress_keep(struct engine *engine, const struct engine_progress *progress)
{
	struct engine_progress *slot = &engine->progress[0];

	for (int i = 0; i < PROGRESS_MAX; i++) {
		struct engine_progress *other = &engine->progress[i];
		if (!strcmp(other->vm, progress->vm)) {
			slot = other;
			break;
		}
		if (other->updated_ms < slot->updated_ms)
			slot = other;
	}
	*slot = *progress;
	for (int i = 0; i < WATCHERS_MAX; i++)
		if (engine->watchers[i] && engine->watchers[i]->progress)
			engine->watchers[i]->progress(engine->watchers[i]->ctx, slot);
}

void service_on_progress(struct engine *engine, uint32_t from, const uint8_t *payload, size_t size)
{
	struct engine_progress progress;
	struct err err;

	if (schema_decode(&engine_progress_schema, payload, size, &progress, &err) < 0 || progress.node != from) {
		engine->dropped++;
		return;
	}
	progress.updated_ms = loop_now_ms(engine->ports.loop);
	progress_keep(engine, &progress);
}

void service_gossip(struct engine *engine, const struct hv_event *event)
{
	uint8_t bytes[2048];
	struct engine_progress progress = {
		.task = event->task,
		.node = engine->ports.group->node,
		.percent = event->percent,
		.figures = event->figures,
	};
	struct message message = {.kind = MESSAGE_PROGRESS};

	snprintf(progress.vm, sizeof(progress.vm), "%s", event->vm);
	snprintf(progress.note, sizeof(progress.note), "%s", event->note ? event->note : "");
	message.payload_size = schema_encode(&engine_progress_schema, &progress, bytes, sizeof(bytes));
	if (engine->sync == SYNC_DONE && message.payload_size <= sizeof(bytes)) {
		engine_send(engine, &message, bytes);
		return;
	}
	progress.updated_ms = loop_now_ms(engine->ports.loop);
	progress_keep(engine, &progress);
}

const struct engine_progress *engine_progress_of(const struct engine *engine, const char *vm_uuid)
{
	for (int i = 0; i < PROGRESS_MAX; i++)
		if (engine->progress[i].vm[0] && !strcmp(engine->progress[i].vm, vm_uuid))
			return &engine->progress[i];
	return NULL;
}

void service_fini(struct engine *engine)
{
	while (engine->pending) {
		struct pending *pending = engine->pending;
		engine->pending = pending->next;
		pending_free(engine, pending);
	}
}
