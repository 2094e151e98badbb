/* SPDX-License-Identifier: Apache-2.0
 * The core's duties about suspects, against what this node does about them. Level-triggered like reconcile.c: an order
 * that the log no longer asks for is ended, a result is reported until the log shows it. Times count on the loop's
 * monotonic clock, so that a wall clock that jumps neither shortens a delay nor a watchdog's time. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

/* The state whose duties count: that of the log, but for a half that may not write it. */
static const struct cluster *judged(const struct engine *engine)
{
	return engine->half ? engine->half : engine->cluster;
}

/* An order's number at the port: the event that gave it, the suspect and the device's place in the level. */
static uint64_t port_id(uint64_t order, uint32_t suspect, uint32_t place)
{
	return order << 16 | (uint64_t)suspect << 8 | place;
}

static void cancel_orders(struct engine *engine, struct fence_work *work, uint32_t suspect)
{
	for (uint32_t place = 0; work->order && engine->ports.fencer && place < FENCE_ORDERS_MAX; place++)
		fencer_cancel(engine->ports.fencer, port_id(work->order, suspect, place));
}

static void work_end(struct engine *engine, struct fence_work *work, uint32_t suspect)
{
	cancel_orders(engine, work, suspect);
	loop_timer_cancel(engine->ports.loop, work->await_timer);
	memset(work, 0, sizeof(*work));
}

void fence_stop(struct engine *engine)
{
	for (uint32_t i = 0; i < NODES_MAX; i++)
		if (engine->fence_work[i].id)
			work_end(engine, &engine->fence_work[i], i + 1);
}

void fence_spare(struct engine *engine)
{
	for (uint32_t i = 0; i < NODES_MAX; i++) {
		struct fence_work *work = &engine->fence_work[i];
		if (!(engine->view.members & node_bit(i + 1)))
			continue;
		/* What is awaited is counted anew, should it leave again. */
		loop_timer_cancel(engine->ports.loop, work->await_timer);
		work->await_timer = NULL;
		work->awaited = false;
		cancel_orders(engine, work, i + 1);
		work->order = 0; /* begun anew if the log still asks for it when this view is synced */
	}
}

static void work_text(struct fence_work *work, const char *device, const char *text)
{
	size_t used = strlen(work->text);

	snprintf(work->text + used, sizeof(work->text) - used, "%s%s: %s", used ? "; " : "", device, text);
	/* Cut where it is too long; never in the middle of a sequence. */
	size_t end = strlen(work->text);
	while (end && !schema_text_ok(work->text, end))
		work->text[--end] = 0;
}

static bool is_meant(const struct fence_device *device, uint32_t suspect, uint32_t level)
{
	return device->node == suspect && device->level == level && !device->distrusted;
}

/* All devices of the level at once: a server with two supplies is off only when both are. */
static void begin(struct engine *engine, struct fence_work *work, uint32_t suspect, const struct fence_duty *duty)
{
	const struct cluster *cluster = judged(engine);

	work->order = duty->order;
	work->level = duty->level;
	work->text[0] = 0;
	work->failed = work->was_on = work->finished = false;
	work->reported_ms = 0;
	work->waiting = 0;
	for (uint32_t i = 0; i < cluster->fence_device_count && work->waiting < FENCE_ORDERS_MAX; i++) {
		const struct fence_device *device = &cluster->fence_devices[i];
		struct fence_order order = {
			.action = FENCE_OFF, .delay_ms = (uint32_t)duty->delay_ms + device->delay_ms};
		if (!is_meant(device, suspect, duty->level))
			continue;
		if (duty->look)
			order.action = FENCE_STATUS;
		order.id = port_id(duty->order, suspect, work->waiting++);
		order.device = *device;
		snprintf(order.node_name, sizeof(order.node_name), "%s", cluster_node_name(cluster, suspect));
		engine_trace(engine, "fence: %s with %s (level %u)", order.node_name, device->name, device->level);
		if (engine->ports.fencer)
			fencer_run(engine->ports.fencer, &order);
	}
	if (!engine->ports.fencer || !work->waiting) {
		work->failed = work->finished = true;
		work->waiting = 0;
		snprintf(work->text, sizeof(work->text), "%s",
			engine->ports.fencer ? "its devices were removed meanwhile"
					     : "this daemon runs no fence agents");
	}
}

static void report(struct engine *engine, struct fence_work *work, uint32_t suspect, bool by_watchdog)
{
	uint64_t now = loop_now_ms(engine->ports.loop);
	struct event event = {.target = suspect, .task = work->id};

	if (work->reported_ms && now < work->reported_ms + REPORT_AGAIN_MS)
		return;
	work->reported_ms = now;
	event.kind = by_watchdog || !work->failed ? EVENT_FENCED : EVENT_FENCE_FAILED;
	event.proof = by_watchdog ? PROOF_WATCHDOG : work->failed ? PROOF_NONE : PROOF_FENCED;
	event.epoch = by_watchdog ? 0 : work->order;
	event.was_on = work->was_on && !work->failed;
	memcpy(event.text, work->text, sizeof(event.text));
	if (engine->half)
		half_report(engine, &event);
	else
		sync_send_event(engine, &event);
}

static void on_awaited(void *ctx)
{
	struct fence_work *work = ctx;

	work->await_timer = NULL;
	work->awaited = true;
	work->reported_ms = 0;
	fence_look(work->engine);
}

void fence_look(struct engine *engine)
{
	if (!engine->half && !engine_acts(engine))
		return;
	for (uint32_t suspect = 1; suspect <= NODES_MAX; suspect++) {
		struct fence_work *work = &engine->fence_work[suspect - 1];
		struct fence_duty duty = core_fence_duty(judged(engine), suspect, engine->ports.group->node);

		if (work->id && (work->id != duty.id || (!duty.run && !duty.await_ms)))
			work_end(engine, work, suspect);
		if (!duty.run && !duty.await_ms)
			continue;
		work->id = duty.id;
		work->engine = engine;
		if (duty.await_ms && !work->await_timer && !work->awaited)
			work->await_timer = loop_timer_set(engine->ports.loop, duty.await_ms, on_awaited, work);
		if (work->order && (!duty.run || duty.order != work->order)) {
			cancel_orders(engine, work, suspect);
			work->order = 0;
		}
		if (duty.run && work->order != duty.order)
			begin(engine, work, suspect, &duty);
		if (work->order && work->finished)
			report(engine, work, suspect, false);
		else if (work->awaited && duty.await_ms)
			report(engine, work, suspect, true);
	}
}

void fence_on_done(void *ctx, uint64_t id, enum fence_result result, bool was_on, const char *text)
{
	struct engine *engine = ctx;
	uint32_t suspect = (uint32_t)(id >> 8 & 0xff);
	uint32_t place = (uint32_t)(id & 0xff);

	if (ask_is_own(id)) {
		ask_on_done(engine, id, result, text);
		return;
	}
	if (suspect < 1 || suspect > NODES_MAX)
		return;
	struct fence_work *work = &engine->fence_work[suspect - 1];
	if (!work->id || work->order != id >> 16 || !work->waiting || work->finished)
		return; /* the answer to an order that is over */
	const char *device = "a device";
	for (uint32_t i = 0, seen = 0; i < judged(engine)->fence_device_count; i++)
		if (is_meant(&judged(engine)->fence_devices[i], suspect, work->level) && seen++ == place)
			device = judged(engine)->fence_devices[i].name;
	engine_trace(engine, "fence: %s answers %s: %s", device, fence_result_name((int)result), text);
	work_text(work, device, text);
	work->failed |= result != FENCE_RESULT_OFF;
	work->was_on |= was_on;
	if (--work->waiting == 0)
		work->finished = true;
	fence_look(engine);
}
