/* SPDX-License-Identifier: Apache-2.0
 * The fake watchdog: as /dev/watchdog with nowayout unset, but for what a closed connection does (nothing: the process
 * that fed it may have died, and that is what a watchdog is for). */
#include "hardware.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void arm(struct hardware *hw, struct node *node, const char *text, char answer[LINE_BYTES])
{
	char *end;
	unsigned long ms = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || ms < WATCHDOG_MS_MIN || ms > WATCHDOG_MS_MAX) {
		snprintf(answer, LINE_BYTES, "error %d to %d ms", WATCHDOG_MS_MIN, WATCHDOG_MS_MAX);
		return;
	}
	node->watchdog.timeout_ms = (uint32_t)ms;
	node->watchdog.fed_ms = monotonic_ms();
	node->watchdog.has_run_out = false;
	note(hw, node, "watchdog armed %lu ms", ms);
	snprintf(answer, LINE_BYTES, "armed %lu", ms);
}

void watchdog_line(struct hardware *hw, struct node *node, const char *line, char answer[LINE_BYTES])
{
	struct watchdog *watchdog = &node->watchdog;

	answer[0] = 0;
	if (!strncmp(line, "arm ", 4)) {
		arm(hw, node, line + 4, answer);
	} else if (!strcmp(line, "feed")) {
		/* Silence is the answer: a feeder must not have to wait. Too late is too late. */
		if (watchdog->timeout_ms && !watchdog->has_run_out)
			watchdog->fed_ms = monotonic_ms();
	} else if (!strcmp(line, "disarm")) {
		if (watchdog->timeout_ms)
			note(hw, node, "watchdog disarmed");
		watchdog->timeout_ms = 0;
		watchdog->has_run_out = false;
		strcpy(answer, "disarmed");
	} else {
		strcpy(answer, "error arm MS, feed or disarm");
	}
}

uint64_t watchdog_due_in_ms(const struct watchdog *watchdog, uint64_t now_ms)
{
	if (!watchdog->timeout_ms || watchdog->has_run_out)
		return UINT64_MAX;
	uint64_t due_ms = watchdog->fed_ms + watchdog->timeout_ms;
	return due_ms > now_ms ? due_ms - now_ms : 0;
}

void watchdog_check(struct hardware *hw, struct node *node, uint64_t now_ms)
{
	struct watchdog *watchdog = &node->watchdog;

	if (watchdog_due_in_ms(watchdog, now_ms) > 0)
		return;
	watchdog->has_run_out = true;
	if (watchdog->is_dead)
		note(hw, node, "watchdog ran out and is dead: nothing happens");
	else
		power_cut(hw, node, "by its watchdog");
}

void watchdog_describe(const struct watchdog *watchdog, char answer[LINE_BYTES])
{
	const char *health = watchdog->is_dead ? ", dead: it will never fire" : "";

	if (!watchdog->timeout_ms)
		snprintf(answer, LINE_BYTES, "disarmed%s", health);
	else
		snprintf(answer, LINE_BYTES, "armed %" PRIu32 " ms, fed %" PRIu64 " ms ago%s%s", watchdog->timeout_ms,
			monotonic_ms() - watchdog->fed_ms, watchdog->has_run_out ? ", ran out" : "", health);
}

void watchdog_reset(struct watchdog *watchdog)
{
	watchdog->timeout_ms = 0;
	watchdog->has_run_out = false;
}
