/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/fake/watchdog_fake.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

struct watchdog_fake {
	struct watchdog port; /* first: the port's pointer is ours */
	struct timeline *timeline;
	struct timeline_item *item; /* NULL: it does not run */
	void (*fired)(void *ctx);
	void *ctx;
	uint32_t timeout_ms;
	uint64_t fed_us;
	uint64_t arms;
	bool open; /* by the daemon of now */
	bool broken;
};

static struct watchdog_fake *of(struct watchdog *watchdog)
{
	return (struct watchdog_fake *)watchdog;
}

static void stop(struct watchdog_fake *fake)
{
	timeline_cancel(fake->timeline, fake->item);
	fake->item = NULL;
}

static void on_time(void *ctx)
{
	struct watchdog_fake *fake = ctx;

	fake->item = NULL;
	fake->fired(fake->ctx);
}

static void begin(struct watchdog_fake *fake)
{
	stop(fake);
	fake->fed_us = timeline_now_us(fake->timeline);
	fake->item = timeline_after(fake->timeline, fake->timeout_ms * UINT64_C(1000), on_time, fake);
}

static int fake_arm(struct watchdog *watchdog, uint32_t timeout_ms, struct err *err)
{
	struct watchdog_fake *fake = of(watchdog);

	if (fake->broken)
		return err_set(err, ERR_UNAVAILABLE, "/dev/watchdog0: no such device");
	fake->open = true;
	fake->timeout_ms = timeout_ms;
	fake->arms++;
	begin(fake);
	return 0;
}

static int fake_feed(struct watchdog *watchdog, struct err *err)
{
	struct watchdog_fake *fake = of(watchdog);

	if (!fake->open || fake->broken)
		return err_set(err, ERR_UNAVAILABLE, "/dev/watchdog0: not open");
	/* Nobody outlives its end: the machine is gone. */
	if (fake->item)
		begin(fake);
	return 0;
}

static int fake_disarm(struct watchdog *watchdog, struct err *err)
{
	struct watchdog_fake *fake = of(watchdog);

	if (fake->open && fake->broken)
		return err_set(err, ERR_UNAVAILABLE, "/dev/watchdog0: no such device");
	if (fake->open)
		stop(fake);
	fake->open = false;
	return 0;
}

static void fake_name(struct watchdog *watchdog, char name[WATCHDOG_NAME_BYTES])
{
	(void)watchdog;
	snprintf(name, WATCHDOG_NAME_BYTES, "/dev/watchdog0 (fake)");
}

static const struct watchdog_ops ops = {.arm = fake_arm, .feed = fake_feed, .disarm = fake_disarm, .name = fake_name};

struct watchdog_fake *watchdog_fake_new(struct timeline *timeline, void (*fired)(void *ctx), void *ctx)
{
	struct watchdog_fake *fake = calloc(1, sizeof(*fake));

	assert(fake);
	fake->port.ops = &ops;
	fake->timeline = timeline;
	fake->fired = fired;
	fake->ctx = ctx;
	return fake;
}

void watchdog_fake_free(struct watchdog_fake *fake)
{
	if (!fake)
		return;
	stop(fake);
	free(fake);
}

struct watchdog *watchdog_fake_port(struct watchdog_fake *fake)
{
	return &fake->port;
}

void watchdog_fake_power_loss(struct watchdog_fake *fake)
{
	stop(fake);
	fake->open = false;
}

void watchdog_fake_daemon_gone(struct watchdog_fake *fake)
{
	fake->open = false;
}

void watchdog_fake_break(struct watchdog_fake *fake, bool broken)
{
	fake->broken = broken;
}

bool watchdog_fake_runs(const struct watchdog_fake *fake)
{
	return fake->item;
}

uint64_t watchdog_fake_fed_us(const struct watchdog_fake *fake)
{
	return fake->fed_us;
}

uint64_t watchdog_fake_arms(const struct watchdog_fake *fake)
{
	return fake->arms;
}
