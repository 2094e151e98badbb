/* SPDX-License-Identifier: Apache-2.0
 * One half of a two-node cluster that was cut in two (decision 0022).
 *
 *   view {self}, the other gone from the ring ──▶ HALF: writes nothing, starts nothing, fences on a copy of the state
 *       ├─ the other is proven off ──▶ sync; the view event carries the proof ──▶ goes on
 *       └─ the other is back ────────▶ sync with it, as if nothing had been
 *
 * With votequorum's two_node both halves are quorate. Whatever both wrote could not both be kept, so a half writes when
 * the other one cannot any more, and not before. The core decides about the fencing as it always does; only that what
 * it decides is thrown away but for the proof. Guests run on untouched. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

enum { HALF_LOOK_MS = 1000, HALF_TICK_MS = 100 };

static uint32_t other_node(const struct engine *engine)
{
	uint32_t other = 0;

	for (uint32_t i = 0; i < engine->cluster->node_count; i++)
		if (engine->cluster->nodes[i].id && engine->cluster->nodes[i].id != engine->ports.group->node)
			other = engine->cluster->nodes[i].id;
	return other;
}

bool half_waits(const struct engine *engine, const struct group_view *view, bool alone_in_log)
{
	return view->expected_votes == 2 && view->members == node_bit(engine->ports.group->node) && !engine->forced &&
	       !engine->sole && !alone_in_log && other_node(engine);
}

static void half_look(void *ctx);

static void look_in(struct engine *engine, uint64_t delay_ms)
{
	loop_timer_cancel(engine->ports.loop, engine->half_timer);
	engine->half_timer = loop_timer_set(engine->ports.loop, delay_ms, half_look, engine);
}

static void half_step(struct engine *engine, struct event *event)
{
	const struct node *other = cluster_node(engine->half, engine->half_other);

	event->node = engine->ports.group->node;
	event->now_ms = engine_cluster_ms(engine);
	memcpy(event->boot_id, engine->config.boot_id, sizeof(event->boot_id));
	core_step(engine->half, event, engine->outcome);
	snprintf(engine->out_reason, sizeof(engine->out_reason),
		"%.48s left and is not proven off, so it may go on by itself (%.110s)", other->facts.name,
		other->fence.text[0] ? other->fence.text : "it is being fenced");
	/* Cut where it is too long; never in the middle of a sequence. */
	size_t end = strlen(engine->out_reason);
	while (end && !schema_text_ok(engine->out_reason, end))
		engine->out_reason[--end] = 0;
	engine_status_changed(engine);
}

void half_begin(struct engine *engine)
{
	CLEANUP_FREE struct event *event = calloc(1, sizeof(*event));

	if (engine->half)
		return; /* the same view, told again */
	fence_stop(engine);
	engine->sync = SYNC_HALF;
	engine->half = calloc(1, sizeof(*engine->half));
	assert(event && engine->half);
	cluster_copy(engine->half, engine->cluster);
	engine->half_other = other_node(engine);
	/* Never the number of an order that the log gave, or that another split did. */
	engine->half->index += (UINT64_C(1) << 40) + (++engine->half_count << 28);
	/* Whatever is known of it is older than the last view that both were in. */
	struct node *other = &engine->half->nodes[engine->half_other - 1];
	other->state = NODE_JOINING;
	other->fence = (struct fencing){.id = 0};
	other->facts.leaving = false;
	event->kind = EVENT_VIEW;
	event->members = event->ring = engine->view.members;
	half_step(engine, event);
	engine_trace(engine, "half of two: %s", engine->out_reason);
	look_in(engine, 0);
}

void half_end(struct engine *engine)
{
	if (!engine->half)
		return;
	loop_timer_cancel(engine->ports.loop, engine->half_timer);
	engine->half_timer = NULL;
	free(engine->half);
	engine->half = NULL;
	fence_stop(engine);
}

void half_report(struct engine *engine, struct event *event)
{
	half_step(engine, event);
	look_in(engine, 0);
}

static bool half_is_proven(struct engine *engine)
{
	const struct node *other = cluster_node(engine->half, engine->half_other);

	if (other->state != NODE_DEAD)
		return false;
	engine->sole = true;
	engine->sole_over = engine->half_other;
	engine->sole_proof = other->fence.proof;
	engine->sole_was_on = !other->fence.found_off;
	memcpy(engine->sole_text, other->fence.text, sizeof(engine->sole_text));
	return true;
}

static void half_look(void *ctx)
{
	struct engine *engine = ctx;
	uint64_t due = core_deadline_ms(engine->half);
	uint64_t now = engine_cluster_ms(engine);

	engine->half_timer = NULL;
	if (half_is_proven(engine)) {
		half_end(engine);
		sync_begin(engine);
		return;
	}
	look_in(engine, HALF_LOOK_MS);
	if (due && due <= now) {
		CLEANUP_FREE struct event *event = calloc(1, sizeof(*event));
		assert(event);
		event->kind = EVENT_TICK;
		half_step(engine, event);
		look_in(engine, HALF_TICK_MS);
	} else if (due && due - now < HALF_LOOK_MS) {
		look_in(engine, due - now);
	}
	fence_look(engine);
}

bool half_refuses(const struct engine *engine, const struct event *request, struct engine_reply *refused)
{
	const char *name = cluster_node_name(engine->half, engine->half_other);

	*refused = (struct engine_reply){.code = ERR_NO_QUORUM};
	if (request->kind == EVENT_NODE_CONFIRM_OFF || request->kind == EVENT_NODE_FENCE)
		return false;
	snprintf(refused->text, sizeof(refused->text),
		"%.63s left and is not proven off, so it may go on by itself: nothing can be changed until it is fenced, is back, or "
		"'node confirm-off %.63s' was typed",
		name, name);
	return true;
}

bool half_submit(struct engine *engine, struct event *request, struct engine_reply *refused)
{
	CLEANUP_FREE struct event *event = malloc(sizeof(*event));

	assert(event);
	if (half_refuses(engine, request, refused))
		return false;
	*event = *request;
	half_step(engine, event);
	refused->code = engine->outcome->code;
	snprintf(refused->text, sizeof(refused->text), "%s", engine->outcome->text);
	look_in(engine, 0);
	/* Answered when what comes of it is in the log, and so for good. */
	request->proof = request->kind == EVENT_NODE_CONFIRM_OFF ? PROOF_CONFIRMED : PROOF_FENCED;
	return refused->code == ERR_NONE;
}
