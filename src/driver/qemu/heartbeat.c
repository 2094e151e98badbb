/* SPDX-License-Identifier: Apache-2.0
 * A guest whose agent (qemu-guest-agent, over virtio-serial) has answered and then does not answer any more: it hangs, in a
 * QEMU that does not. It is ended, and its end is a death.
 *
 * Asked is `guest-ping`, behind a `guest-sync-delimited` on each new connection and after each question that was not
 * answered (docs/interop/qemu-ga-ref, "guest-sync-delimited"): answers to an earlier daemon may still be under way. Looks
 * are counted, not time, as in silence.c: a third of the limit apart, and the third in a row that finds the question
 * unanswered decides.
 *
 * Not judged: a guest whose agent was never heard, or has closed its channel since (it ended, or the guest reboots or shuts
 * down: QEMU knows); one that is stopped for whatever reason, saved, loaded, filled; a QEMU that is debugged or waits in the
 * kernel. All that comes from the guest is hostile: lines are bounded in size and number, and nothing but JSON's own
 * parser looks at them. */
#include "driver/qemu/argv.h"
#include "driver/qemu/instance.h"
#include "driver/qemu/lines.h"
#include "driver/qemu/sock.h"

#include <inttypes.h>
#include <string.h>

enum {
	LINE_BYTES_MAX = 4 << 10,
	LINES_A_LOOK = 64, /* no agent says more to one question */
	LOOKS = 3,
	SENTINEL = 0xff, /* before the answer to a sync; what was before it is over */
};

static bool is_judged(const struct instance *instance)
{
	return instance->state == HV_RUNNING && !instance->record.filling && !instance->stalled &&
	       !instance->storage_lost && !instance->paused;
}

static void hang_up(struct heartbeat *beat)
{
	lines_free(STEAL(beat->lines));
	beat->synced = false;
}

static void forget(struct heartbeat *beat)
{
	beat->asked = false;
	beat->missed = 0;
}

static void PRINTF_LIKE(2, 3) say(struct heartbeat *beat, const char *format, ...)
{
	char text[128];
	va_list args;

	va_start(args, format);
	int size = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	lines_send(beat->lines, text, (size_t)size, -1);
}

static void set_heard(struct instance *instance, bool heard)
{
	if (instance->record.agent_heard == heard)
		return;
	instance->record.agent_heard = heard;
	instance_save(instance, NULL); /* unwritten, a later daemon waits for its first answer again */
}

static void on_sync(struct heartbeat *beat, uint64_t number)
{
	if (number <= beat->first_sync || number > beat->last_sync)
		return; /* of an earlier connection */
	beat->missed = 0;
	if (!beat->synced)
		say(beat, "{\"execute\":\"guest-ping\"}");
	beat->synced = true;
}

static void on_line(void *ctx, char *text, size_t size)
{
	struct instance *instance = ctx;
	struct heartbeat *beat = &instance->heartbeat;
	const char *sentinel = memrchr(text, SENTINEL, size);
	struct err err;

	if (++beat->heard > LINES_A_LOOK) {
		hang_up(beat);
		return;
	}
	if (sentinel) {
		size -= (size_t)(sentinel + 1 - text);
		text += sentinel + 1 - text;
	}
	CLEANUP_JSON json_t *line = json_parse_bounded(text, size, LINE_BYTES_MAX, &err);
	const json_t *answer = json_object_get(line, "return");
	if (json_is_integer(answer)) {
		on_sync(beat, (uint64_t)json_integer_value(answer));
	} else if (json_is_object(answer) && beat->synced) {
		forget(beat);
		set_heard(instance, true);
	}
}

static void on_closed(void *ctx, const struct err *err)
{
	struct instance *instance = ctx;

	(void)err; /* made anew by the next look; whether QEMU has ended is told by its death */
	hang_up(&instance->heartbeat);
}

static void ask(struct instance *instance)
{
	struct heartbeat *beat = &instance->heartbeat;
	struct err err;

	if (!beat->lines) {
		int fd = sock_connect(instance->dir_fd, HEARTBEAT_SOCKET, &err);
		if (fd < 0)
			return;
		beat->lines = lines_new(instance->qemu->loop, fd, LINE_BYTES_MAX,
			&(struct lines_callbacks){.ctx = instance, .line = on_line, .closed = on_closed});
		beat->first_sync = beat->last_sync = instance_now_us();
	}
	if (beat->asked)
		beat->synced = false;
	beat->asked = true;
	if (beat->synced)
		say(beat, "{\"execute\":\"guest-ping\"}");
	else
		say(beat, "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%" PRIu64 "}}", ++beat->last_sync);
}

static void give_up(struct instance *instance)
{
	struct err why;

	err_set(&why, ERR_TIMEOUT, "its guest agent did not answer for %u s", instance->heartbeat.seconds);
	instance_end(instance, ENDING_DIED, &why);
}

/* Whether it is still to be judged, now that QEMU has answered. */
static bool is_due(const struct instance *instance)
{
	return instance->heartbeat.seconds && instance->heartbeat.missed >= LOOKS && is_judged(instance);
}

/* Whoever paused it, perhaps by the monitor, has us wait. */
static void on_status(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;
	const char *status = json_string_value(json_object_get(result, "status"));

	(void)err; /* a monitor that is silent is silence.c's */
	if (!status || !is_due(instance))
		return;
	if (!strcmp(status, "running"))
		give_up(instance);
	else
		forget(&instance->heartbeat);
}

static bool channel_open(const json_t *chardevs)
{
	const json_t *chardev;
	size_t i;

	json_array_foreach(chardevs, i, chardev)
	{
		const char *label = json_string_value(json_object_get(chardev, "label"));
		if (label && !strcmp(label, ARGV_AGENT))
			return json_is_true(json_object_get(chardev, "frontend-open"));
	}
	return false;
}

static void on_chardevs(void *ctx, const json_t *result, const struct err *err)
{
	struct instance *instance = ctx;

	(void)err;
	if (!result || !is_due(instance))
		return;
	if (channel_open(result)) {
		instance_qmp(instance, "query-status", NULL, on_status);
		return;
	}
	set_heard(instance, false);
	hang_up(&instance->heartbeat);
	forget(&instance->heartbeat);
}

/* Never heard: what was asked may have gone to an agent that ended, or lies in the channel until one comes. A new
 * connection empties it. */
static void judge(struct instance *instance)
{
	if (!instance->record.agent_heard) {
		hang_up(&instance->heartbeat);
		forget(&instance->heartbeat);
		ask(instance);
	} else if (instance->qmp) {
		instance_qmp(instance, "query-chardev", NULL, on_chardevs);
	}
}

static void on_look(void *ctx);

static void look_later(struct instance *instance)
{
	struct heartbeat *beat = &instance->heartbeat;

	beat->timer = loop_timer_set(
		instance->qemu->loop, beat->seconds * UINT64_C(1000) / LOOKS, on_look, instance);
}

static void on_look(void *ctx)
{
	struct instance *instance = ctx;
	struct heartbeat *beat = &instance->heartbeat;

	beat->timer = NULL;
	if (instance->state == HV_STOPPING)
		return;
	look_later(instance);
	beat->heard = 0;
	if (!is_judged(instance)) {
		forget(beat);
		return;
	}
	if (beat->asked && silence_is_excused(instance))
		return;
	if (beat->asked && ++beat->missed >= LOOKS) {
		judge(instance);
		return;
	}
	if (beat->missed && instance->record.agent_heard)
		qemu_note(instance, "the guest's agent does not answer");
	ask(instance);
}

void heartbeat_set(struct instance *instance, uint32_t seconds)
{
	struct heartbeat *beat = &instance->heartbeat;

	heartbeat_fini(instance);
	forget(beat);
	beat->seconds = seconds;
	if (seconds && instance->record.def.guest_agent)
		look_later(instance);
}

void heartbeat_fini(struct instance *instance)
{
	loop_timer_cancel(instance->qemu->loop, STEAL(instance->heartbeat.timer));
	hang_up(&instance->heartbeat);
}
