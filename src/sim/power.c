/* SPDX-License-Identifier: Apache-2.0
 * What ends a simulated server from outside: fence devices and the watchdog. */
#include "sim/power.h"
#include "sim/check.h"
#include "sim/node.h"

#include <stdio.h>
#include <string.h>

static bool has_power(void *ctx, uint32_t node)
{
	const struct sim *sim = ctx;

	return sim->nodes[node].powered;
}

static void on_switches(void *ctx, uint32_t node, bool on, uint32_t by, uint32_t device_node)
{
	struct sim *sim = ctx;

	if (sim->nodes[node].powered == on)
		return;
	sim_trace(sim, "# the device of n%u switches n%u %s for n%u", device_node, node, on ? "on" : "off", by);
	if (on) {
		sim_power_on(sim, node);
		return;
	}
	sim->nodes[node].fenced = true;
	sim_power_off(sim, node);
}

static void on_began(void *ctx, uint32_t by, const struct fence_order *order)
{
	checks_fence_began(ctx, by, order);
}

static void on_sent(void *ctx, uint32_t by, const struct fence_order *order)
{
	checks_fence_sent(ctx, by, order);
}

static void on_answers(void *ctx, uint32_t by, const struct fence_order *order, enum fence_result told, bool was_on)
{
	struct sim *sim = ctx;
	uint32_t node = order->device.node;

	sim_trace(sim, "%s answers n%u: n%u is %s%s", order->device.name, by, node, fence_result_name((int)told),
		told == FENCE_RESULT_OFF && sim->nodes[node].powered ? ", which is not true" : "");
	if (told != FENCE_RESULT_OFF)
		return;
	if (!sim->nodes[node].powered)
		net_learn(sim->net, by, node); /* who saw it off knows all that it ever did */
	else
		checks_false_death(sim, node);
	(void)was_on;
}

struct outlets *power_outlets(struct sim *sim)
{
	struct outlets_config config = {.exact = sim->config.exact,
		.step_ms = sim->config.fence_step_ms,
		.ctx = sim,
		.has_power = has_power,
		.switches = on_switches,
		.began = on_began,
		.sent = on_sent,
		.answers = on_answers};

	return outlets_new(sim->timeline, &sim->fence_dice, &config);
}

void sim_fence_device(struct fence_device *device, const char *name, uint32_t node)
{
	*device = (struct fence_device){.node = node, .level = 1};
	snprintf(device->name, sizeof(device->name), "%s", name);
	strcpy(device->agent, "fence_sim");
	fence_device_default(device);
}

/* The watchdog. */

static void on_fired(void *ctx)
{
	struct sim_node *node = ctx;

	sim_trace(node->sim, "# the watchdog of %s fires", node->name);
	sim_power_off(node->sim, node->id);
}

struct watchdog_fake *power_watchdog(struct sim_node *node)
{
	return watchdog_fake_new(node->sim->timeline, on_fired, node);
}

void sim_watchdog(struct sim *sim, uint32_t id, uint32_t watchdog_ms)
{
	struct sim_node *node = &sim->nodes[id];

	node->watchdog_ms = watchdog_ms;
	net_set_silence(sim->net, id, (uint64_t)watchdog_ms * 1000);
	if (node->engine)
		engine_set_watchdog(
			node->engine, watchdog_ms ? watchdog_fake_port(node->watchdog) : NULL, watchdog_ms);
}
