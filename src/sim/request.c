/* SPDX-License-Identifier: Apache-2.0
 * Administrators: they ask any node, and remember what they were told. */
#include "sim/check.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPLY_MARGIN_MS = 2000 };

struct request {
	struct sim *sim;
	struct request *next;
	uint32_t node;
	struct event event;
	engine_reply_fn *reply;
	void *reply_ctx;
	uint64_t asked_us;
	struct timeline_item *late;
	bool stopped; /* its daemon was, when the answer was late */
};

static void request_free(struct request *request)
{
	struct request **at = &request->sim->pending;

	while (*at != request)
		at = &(*at)->next;
	*at = request->next;
	timeline_cancel(request->sim->timeline, request->late);
	free(request);
}

void sim_requests_drop(struct sim *sim, uint32_t node)
{
	for (struct request *at = sim->pending, *next; at; at = next) {
		next = at->next;
		if (at->node == node)
			request_free(at);
	}
}

static void on_late(void *ctx)
{
	struct request *request = ctx;
	struct sim *sim = request->sim;

	request->late = NULL;
	bool paused = sim->nodes[request->node].paused, was = request->stopped;

	/* A daemon that is stopped cannot answer; it must as soon as it goes on, which may be just now. */
	request->stopped = paused;
	if (paused || was)
		request->late = timeline_after(sim->timeline, (paused ? ENGINE_REPLY_MS : REPLY_MARGIN_MS) * 1000, on_late, request);
	else
		sim_violation(sim, "n%u did not answer %s within %d ms", request->node,
			event_kind_name((int)request->event.kind), ENGINE_REPLY_MS);
}

static void on_reply(void *ctx, const struct engine_reply *reply)
{
	struct request *request = ctx;
	struct sim *sim = request->sim;

	if (sim_traces(sim))
		sim_trace(sim, "n%u answers %s: %s%s%s (task %" PRIu64 ", index %" PRIu64 ")", request->node,
			event_kind_name((int)request->event.kind), err_info(reply->code)->name, reply->text[0] ? ": " : "",
			reply->text, reply->task, reply->index);
	if (reply->code && !reply->text[0])
		sim_violation(sim, "I8: n%u refuses %s and does not say why", request->node,
			event_kind_name((int)request->event.kind));
	checks_answered(sim, request->node, &request->event, reply);
	if (request->reply)
		request->reply(request->reply_ctx, reply);
	request_free(request);
}

static const char *vm_text(const struct sim *sim, const struct event *event)
{
	for (uint32_t i = 0; i < sim->vm_count; i++)
		if (!strcmp(sim->vms[i].def.uuid, event->vm))
			return sim->vms[i].def.name;
	return event->vm;
}

bool sim_request(struct sim *sim, uint32_t node, const struct event *event, engine_reply_fn *reply, void *ctx)
{
	if (!sim_daemon_answers(&sim->nodes[node]))
		return false;

	struct request *request = calloc(1, sizeof(*request));
	assert(request);
	*request = (struct request){.sim = sim, .next = sim->pending, .node = node, .event = *event, .reply = reply,
		.reply_ctx = ctx, .asked_us = timeline_now_us(sim->timeline)};
	sim->pending = request;
	request->late = timeline_after(sim->timeline, (ENGINE_REPLY_MS + REPLY_MARGIN_MS) * 1000, on_late, request);
	sim->requests++;
	if (sim_traces(sim)) {
		char target[16] = "";
		if (event->target)
			snprintf(target, sizeof(target), " n%u", event->target);
		sim_trace(sim, "# ask n%u: %s %s%s%s%s", node, event_kind_name((int)event->kind), vm_text(sim, event), target,
			event->force ? " force" : "", event->dry_run ? " dry-run" : "");
	}
	checks_asked(sim, node, event);
	if (event->kind == EVENT_QUORUM_FORCED)
		engine_force_quorum(sim->nodes[node].engine, event->by, on_reply, request);
	else
		engine_submit(sim->nodes[node].engine, event, on_reply, request);
	return true;
}

uint32_t sim_define_vm(struct sim *sim, const char *name, uint32_t memory_mib)
{
	uint32_t number = sim->vm_count++;
	struct vm_def *def = &sim->vms[number].def;

	assert(number < sim->config.vms_max);
	snprintf(def->uuid, sizeof(def->uuid), "00000000-0000-4000-8000-%012x", number + 1);
	snprintf(def->name, sizeof(def->name), "%s", name);
	def->memory_mib = memory_mib;
	def->disk_count = 1;
	snprintf(def->disks[0].path, sizeof(def->disks[0].path), "/srv/%s-%u.raw", name, number + 1);
	def->nic_count = 1;
	strcpy(def->nics[0].bridge, "br0");
	snprintf(def->nics[0].mac, sizeof(def->nics[0].mac), "52:54:00:00:%02x:%02x", number >> 8 & 0xff, number & 0xff);
	vm_def_pin(def);
	return number;
}
