/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/fake/fencer_fake.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

NAMES_FUNCTION(device_fault_name, DEVICE_FAULTS)

enum { TWICE_MS = 700 }; /* until the second answer */

struct outlet {
	char name[NAME_BYTES];
	enum device_fault fault;
	uint32_t ms;
	uint32_t wired; /* 0: as defined */
	uint64_t cut;	/* nodes that do not reach it */
};

/* What a device was told and will do. */
struct pull {
	struct outlets *outlets;
	struct pull *next;
	struct timeline_item *item;
	uint32_t node, by, device_node;
	bool on;
};

struct outlets {
	struct timeline *timeline;
	struct prng *prng;
	struct outlets_config config;
	struct outlet table[FENCE_DEVICES_MAX];
	uint32_t count;
	struct pull *pulls;
};

struct run {
	struct fencer_fake *fake;
	struct run *next;
	struct fence_order order;
	struct loop_timer *step, *limit;
	bool sent, was_on;
	bool stray; /* the second answer of DEVICE_TWICE: cannot be cancelled */
	enum fence_result result;
};

struct fencer_fake {
	struct fencer fencer;
	struct outlets *outlets;
	uint32_t node;
	struct loop_fake *loop;
	struct fencer_callbacks callbacks;
	struct run *runs;
};

/* The world's side. */

struct outlets *outlets_new(struct timeline *timeline, struct prng *prng, const struct outlets_config *config)
{
	struct outlets *outlets = calloc(1, sizeof(*outlets));

	assert(outlets);
	*outlets = (struct outlets){.timeline = timeline, .prng = prng, .config = *config};
	return outlets;
}

void outlets_free(struct outlets *outlets)
{
	if (!outlets)
		return;
	while (outlets->pulls) {
		struct pull *pull = outlets->pulls;
		outlets->pulls = pull->next;
		timeline_cancel(outlets->timeline, pull->item);
		free(pull);
	}
	free(outlets);
}

static struct outlet *outlet_of(struct outlets *outlets, const char *name)
{
	for (uint32_t i = 0; i < outlets->count; i++)
		if (!strcmp(outlets->table[i].name, name))
			return &outlets->table[i];
	assert(outlets->count < FENCE_DEVICES_MAX);
	struct outlet *outlet = &outlets->table[outlets->count++];
	snprintf(outlet->name, sizeof(outlet->name), "%s", name);
	return outlet;
}

void outlets_fault(struct outlets *outlets, const char *device, enum device_fault fault, uint32_t ms)
{
	struct outlet *outlet = outlet_of(outlets, device);

	outlet->fault = fault;
	outlet->ms = ms;
}

void outlets_wire(struct outlets *outlets, const char *device, uint32_t node)
{
	outlet_of(outlets, device)->wired = node;
}

void outlets_cut(struct outlets *outlets, const char *device, uint32_t node, bool cut)
{
	struct outlet *outlet = outlet_of(outlets, device);

	outlet->cut = cut ? outlet->cut | node_bit(node) : outlet->cut & ~node_bit(node);
}

void outlets_mend(struct outlets *outlets)
{
	for (uint32_t i = 0; i < outlets->count; i++) {
		outlets->table[i].fault = DEVICE_OK;
		outlets->table[i].wired = 0;
		outlets->table[i].cut = 0;
	}
}

static uint64_t step_us(struct outlets *outlets)
{
	uint64_t typical = (uint64_t)outlets->config.step_ms * 1000;

	return outlets->config.exact ? typical : prng_between(outlets->prng, typical / 4, typical * 2);
}

static void pull_run(void *ctx)
{
	struct pull *pull = ctx;
	struct outlets *outlets = pull->outlets;
	struct pull **at = &outlets->pulls;

	while (*at != pull)
		at = &(*at)->next;
	*at = pull->next;
	outlets->config.switches(outlets->config.ctx, pull->node, pull->on, pull->by, pull->device_node);
	free(pull);
}

static void pull_later(
	struct outlets *outlets, uint32_t node, bool on, uint32_t by, uint32_t device_node, uint64_t delay_us)
{
	struct pull *pull = calloc(1, sizeof(*pull));

	assert(pull);
	*pull = (struct pull){.outlets = outlets,
		.node = node,
		.on = on,
		.by = by,
		.device_node = device_node,
		.next = outlets->pulls};
	outlets->pulls = pull;
	pull->item = timeline_after(outlets->timeline, delay_us, pull_run, pull);
}

/* The daemon's side. */

static void run_free(struct run *run)
{
	struct run **at = &run->fake->runs;
	struct loop *loop = loop_fake_port(run->fake->loop);

	while (*at != run)
		at = &(*at)->next;
	*at = run->next;
	loop_timer_cancel(loop, run->step);
	loop_timer_cancel(loop, run->limit);
	free(run);
}

static struct run *run_new(struct fencer_fake *fake, const struct fence_order *order)
{
	struct run *run = calloc(1, sizeof(*run));

	assert(run);
	*run = (struct run){.fake = fake, .order = *order, .next = fake->runs};
	fake->runs = run;
	return run;
}

static void on_stray(void *ctx)
{
	struct run *run = ctx;
	struct fencer_fake *fake = run->fake;
	struct fence_order order = run->order;
	enum fence_result result = run->result;

	run->step = NULL;
	run_free(run);
	fake->callbacks.done(fake->callbacks.ctx, order.id, result, false, "the same answered once more");
}

static void stray_later(struct fencer_fake *fake, const struct fence_order *order, enum fence_result result)
{
	struct run *stray = run_new(fake, order);

	stray->stray = true;
	stray->result = result;
	stray->step = loop_fake_after(fake->loop, TWICE_MS * 1000, on_stray, NULL, stray);
}

static void answer(struct run *run, enum fence_result result, const char *text)
{
	struct fencer_fake *fake = run->fake;
	struct outlets *outlets = fake->outlets;
	struct fence_order order = run->order;
	bool was_on = run->was_on;

	run_free(run);
	if (outlet_of(outlets, order.device.name)->fault == DEVICE_TWICE)
		stray_later(fake, &order, result == FENCE_RESULT_FAILED ? FENCE_RESULT_OFF : FENCE_RESULT_FAILED);
	outlets->config.answers(outlets->config.ctx, fake->node, &order, result, was_on);
	fake->callbacks.done(fake->callbacks.ctx, order.id, result, was_on, text);
}

static void on_limit(void *ctx)
{
	struct run *run = ctx;
	char text[96];

	run->limit = NULL;
	snprintf(text, sizeof(text), "timed out after %u ms", run->order.device.limit_ms);
	answer(run, FENCE_RESULT_FAILED, text);
}

static void send_switch(struct run *run, const struct outlet *outlet, uint32_t node, bool on)
{
	struct outlets *outlets = run->fake->outlets;
	uint64_t delay_us = outlet->fault == DEVICE_LATE ? (uint64_t)outlet->ms * 1000 : step_us(outlets) / 2;

	run->sent = true;
	outlets->config.sent(outlets->config.ctx, run->fake->node, &run->order);
	if (outlet->fault != DEVICE_IDLE && outlet->fault != DEVICE_LIE)
		pull_later(outlets, node, on, run->fake->node, run->order.device.node, delay_us);
}

/* A status has come back: the whole of the order's dialogue. */
static void on_status(void *ctx)
{
	struct run *run = ctx;
	struct outlets *outlets = run->fake->outlets;
	const struct outlet *outlet = outlet_of(outlets, run->order.device.name);
	uint32_t node = outlet->wired ? outlet->wired : run->order.device.node;
	bool on = outlets->config.has_power(outlets->config.ctx, node);

	run->step = NULL;
	if (outlet->fault == DEVICE_HANG)
		return; /* the limit ends it */
	if (outlet->fault == DEVICE_FAIL || (outlet->cut & node_bit(run->fake->node))) {
		answer(run, FENCE_RESULT_FAILED, "status: exit 1: Unable to connect");
		return;
	}
	if (outlet->fault == DEVICE_BLIND || (outlet->fault == DEVICE_LIE && run->sent))
		on = false;
	if (!run->sent)
		run->was_on = on;
	if (run->order.action == FENCE_STATUS || on == (run->order.action == FENCE_ON)) {
		answer(run, on ? FENCE_RESULT_ON : FENCE_RESULT_OFF,
			on ? "status read back: on" : "status read back: off");
		return;
	}
	if (!run->sent)
		send_switch(run, outlet, node, run->order.action == FENCE_ON);
	run->step = loop_fake_after(run->fake->loop, step_us(outlets), on_status, NULL, run);
}

static void on_delayed(void *ctx)
{
	struct run *run = ctx;
	struct outlets *outlets = run->fake->outlets;

	outlets->config.began(outlets->config.ctx, run->fake->node, &run->order);
	run->limit = loop_fake_after(run->fake->loop, (uint64_t)run->order.device.limit_ms * 1000, on_limit, NULL, run);
	run->step = loop_fake_after(run->fake->loop, step_us(outlets), on_status, NULL, run);
}

static struct run *find(struct fencer_fake *fake, uint64_t id)
{
	for (struct run *run = fake->runs; run; run = run->next)
		if (run->order.id == id && !run->stray)
			return run;
	return NULL;
}

static void fake_run(struct fencer *fencer, const struct fence_order *order)
{
	struct fencer_fake *fake = (struct fencer_fake *)fencer;

	if (find(fake, order->id))
		return;
	struct run *run = run_new(fake, order);
	run->step = loop_fake_after(fake->loop, (uint64_t)order->delay_ms * 1000, on_delayed, NULL, run);
}

static void fake_cancel(struct fencer *fencer, uint64_t id)
{
	struct fencer_fake *fake = (struct fencer_fake *)fencer;
	struct run *run = find(fake, id);

	if (!run)
		return;
	if (outlet_of(fake->outlets, run->order.device.name)->fault == DEVICE_TWICE)
		stray_later(fake, &run->order, FENCE_RESULT_OFF);
	run_free(run);
}

static void on_checked(void *ctx)
{
	struct run *run = ctx;
	struct fencer_fake *fake = run->fake;
	uint64_t id = run->order.id;

	run->step = NULL;
	run_free(run);
	fake->callbacks.checked(fake->callbacks.ctx, id, NULL, "a simulated device", NULL);
}

static void fake_check(struct fencer *fencer, uint64_t id, const struct fence_device *device)
{
	struct fencer_fake *fake = (struct fencer_fake *)fencer;
	struct fence_order order = {.id = id, .device = *device};
	struct run *run = run_new(fake, &order);

	run->step = loop_fake_after(fake->loop, step_us(fake->outlets), on_checked, NULL, run);
}

struct fencer_fake *fencer_fake_new(
	struct outlets *outlets, uint32_t node, struct loop_fake *loop, const struct fencer_callbacks *callbacks)
{
	static const struct fencer_ops ops = {.run = fake_run, .cancel = fake_cancel, .check = fake_check};
	struct fencer_fake *fake = calloc(1, sizeof(*fake));

	assert(fake);
	*fake = (struct fencer_fake){
		.fencer.ops = &ops, .outlets = outlets, .node = node, .loop = loop, .callbacks = *callbacks};
	return fake;
}

void fencer_fake_free(struct fencer_fake *fake)
{
	if (!fake)
		return;
	while (fake->runs)
		run_free(fake->runs);
	free(fake);
}

struct fencer *fencer_fake_port(struct fencer_fake *fake)
{
	return &fake->fencer;
}
