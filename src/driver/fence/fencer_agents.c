/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/fence/fencer_agents.h"

#include "driver/fence/call.h"
#include "driver/fence/metadata.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

/* An order's life. A question (status, check) has ASK only.
 *
 *   WAIT ─▶ FIRST ─▶ ACT ─▶ AFTER ◀─▶ PAUSE         FIRST: it may be so already; a device that does not answer is told
 * all │        └──────┬────────┘                    the same. AFTER: only the status is a proof, so it is read until it
 *    ASK ─────────▶ ANSWER                          says what was wanted or the time is over. */
enum order_state { ORDER_WAIT, ORDER_ASK, ORDER_FIRST, ORDER_ACT, ORDER_AFTER, ORDER_PAUSE, ORDER_ANSWER };

static const unsigned moves[] = {
	[ORDER_WAIT] = 1u << ORDER_ASK | 1u << ORDER_FIRST | 1u << ORDER_ANSWER,
	[ORDER_ASK] = 1u << ORDER_ANSWER,
	[ORDER_FIRST] = 1u << ORDER_ACT | 1u << ORDER_ANSWER,
	[ORDER_ACT] = 1u << ORDER_AFTER | 1u << ORDER_ANSWER,
	[ORDER_AFTER] = 1u << ORDER_PAUSE | 1u << ORDER_ANSWER,
	[ORDER_PAUSE] = 1u << ORDER_AFTER | 1u << ORDER_ANSWER,
	[ORDER_ANSWER] = 0,
};

enum { PAUSE_MS = 300, STATUS_ON = 0, STATUS_OFF = 2 };

struct fencer_agents;

struct order {
	struct order *next;
	struct fencer_agents *agents;
	enum order_state state;
	bool check;
	struct fence_order what;
	struct fence_input input;
	struct fence_call *call;
	struct loop_timer *timer;
	uint64_t deadline_ms;
	bool was_on;
	bool acted; /* the agent said that it did what it was told */
	char act_note[REASON_BYTES];
	bool read_back; /* a status behind the action came out, and it was not what was wanted */
	enum fence_result result;
	struct err err; /* of a check; ERR_NONE: fits */
	struct fence_agent_about *about; /* of a check whose agent has described itself */
	char text[REASON_BYTES];
};

struct fencer_agents {
	struct fencer fencer;
	struct fencer_agents_config config;
	struct fencer_callbacks callbacks;
	struct fence_calls calls;
	struct order *orders;
};

static struct fencer_agents *agents_of(struct fencer *fencer)
{
	return (struct fencer_agents *)fencer;
}

static void enter(struct order *order, enum order_state state)
{
	assert(moves[order->state] & 1u << state);
	order->state = state;
}

static void order_free(struct order *order)
{
	for (struct order **at = &order->agents->orders; *at; at = &(*at)->next)
		if (*at == order) {
			*at = order->next;
			break;
		}
	fence_call_cancel(order->call);
	loop_timer_cancel(order->agents->calls.loop, order->timer);
	fence_input_clear(&order->input);
	free(order->about);
	free(order);
}

static void on_answer(void *ctx)
{
	struct order *order = ctx;
	const struct fencer_callbacks callbacks = order->agents->callbacks;
	CLEANUP_FREE struct order *told = malloc(sizeof(*told));
	CLEANUP_FREE struct fence_agent_about *about = STEAL(order->about);

	assert(told);
	order->timer = NULL;
	/* The order is gone before anybody hears of it: the id may be used again at once. */
	*told = *order;
	order_free(order);
	fence_input_clear(&told->input);
	if (told->check && callbacks.checked)
		callbacks.checked(callbacks.ctx, told->what.id, told->err.code ? &told->err : NULL, told->text,
			about);
	else if (!told->check)
		callbacks.done(callbacks.ctx, told->what.id, told->result, told->was_on, told->text);
}

/* Told from the loop, never within the call that began the order. */
static void answer(struct order *order, enum fence_result result)
{
	enter(order, ORDER_ANSWER);
	order->result = result;
	loop_timer_cancel(order->agents->calls.loop, order->timer);
	order->timer = loop_timer_set(order->agents->calls.loop, 0, on_answer, order);
}

PRINTF_LIKE(2, 3) static void say(struct order *order, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(order->text, sizeof(order->text), format, args);
	va_end(args);
	/* Where it was cut, it may have been cut within a character. */
	for (size_t length = strlen(order->text); length && !schema_text_ok(order->text, length);)
		order->text[--length] = 0;
}

static void fail(struct order *order, const struct err *err)
{
	order->err = *err;
	say(order, "%.*s", REASON_BYTES - 1, err->text);
	answer(order, FENCE_RESULT_FAILED);
}

static uint64_t left_ms(const struct order *order)
{
	uint64_t now = loop_now_ms(order->agents->calls.loop);

	return now < order->deadline_ms ? order->deadline_ms - now : 0;
}

/* For the status behind an action that does not end. */
static uint64_t reserve_ms(const struct order *order)
{
	return order->what.device.limit_ms / 5;
}

/* What runs as root must not be what others can write. */
static int agent_path(const struct order *order, char path[static 2 * PATH_BYTES], struct err *err)
{
	const char *agent = order->what.device.agent;
	struct stat st;

	snprintf(path, 2 * PATH_BYTES, "%s/%s", order->agents->config.agents_dir, agent);
	if (stat(path, &st) < 0)
		return err_errno(err, errno, "agent '%s'", path);
	if (!S_ISREG(st.st_mode) || access(path, X_OK) < 0)
		return err_set(err, ERR_UNFIT, "agent '%s' is not an executable file", path);
	if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & (S_IWGRP | S_IWOTH)))
		return err_set(err, ERR_DENIED, "agent '%s': others than root can write to it", path);
	return 0;
}

static void on_end(void *ctx, const struct fence_call_end *end);

static void begin_call(struct order *order, const char *action, uint64_t limit_ms)
{
	size_t keep = order->check ? METADATA_BYTES_MAX : FENCE_CALL_KEEP;
	char path[2 * PATH_BYTES];
	struct err err;

	if (agent_path(order, path, &err) < 0 || !(order->call = fence_call_new(&order->agents->calls, path, action,
							   &order->input, keep, limit_ms, on_end, order, &err)))
		fail(order, &err);
}

static const char *verb(const struct order *order)
{
	return fence_action_name((int)order->what.action);
}

/* "off: exit status 1: ERROR: Unable to connect" */
static void describe(const char *action, const struct fence_call_end *end, char note[static REASON_BYTES])
{
	const char *colon = end->line[0] ? ": " : "";

	if (end->timed_out)
		snprintf(note, REASON_BYTES, "%.10s does not end%s%.130s", action, colon, end->line);
	else
		snprintf(note, REASON_BYTES, "%.10s: %.70s%s%.130s", action, end->how, colon, end->line);
}

/* FENCE_RESULT_FAILED where the status did not come out. */
static enum fence_result status_of(const struct fence_call_end *end)
{
	if (end->timed_out)
		return FENCE_RESULT_FAILED;
	return end->status == STATUS_ON	   ? FENCE_RESULT_ON
	       : end->status == STATUS_OFF ? FENCE_RESULT_OFF
					   : FENCE_RESULT_FAILED;
}

static enum fence_result wanted(const struct order *order)
{
	return order->what.action == FENCE_ON ? FENCE_RESULT_ON : FENCE_RESULT_OFF;
}

static void on_pause_over(void *ctx)
{
	struct order *order = ctx;

	order->timer = NULL;
	enter(order, ORDER_AFTER);
	begin_call(order, "status", left_ms(order) + 1);
}

static void after_first(struct order *order, const struct fence_call_end *end)
{
	uint64_t reserve = reserve_ms(order);

	if (status_of(end) == wanted(order)) {
		say(order, "status: %s already", verb(order));
		answer(order, wanted(order));
		return;
	}
	enter(order, ORDER_ACT);
	begin_call(order, verb(order), left_ms(order) > 2 * reserve ? left_ms(order) - reserve : reserve);
}

static void after_act(struct order *order, const struct fence_call_end *end)
{
	order->acted = !end->timed_out && end->status == 0;
	if (order->acted)
		snprintf(order->act_note, sizeof(order->act_note), "%s: done, as the agent says", verb(order));
	else
		describe(verb(order), end, order->act_note);
	enter(order, ORDER_AFTER);
	begin_call(order, "status", left_ms(order) > reserve_ms(order) ? left_ms(order) : reserve_ms(order));
}

static void after_status(struct order *order, const struct fence_call_end *end)
{
	enum fence_result is = status_of(end);
	char note[REASON_BYTES];

	if (is == wanted(order)) {
		say(order, order->acted ? "status read back: %s" : "status read back: %s (%.150s)", verb(order),
			order->act_note);
		answer(order, is);
		return;
	}
	/* A last status cut off by the limit says less than the one before it. */
	order->read_back |= is != FENCE_RESULT_FAILED;
	if (is == FENCE_RESULT_FAILED && !(end->timed_out && order->read_back))
		describe("status", end, note);
	else
		snprintf(note, sizeof(note), "status read back: still %s",
			fence_result_name(order->what.action == FENCE_ON ? FENCE_RESULT_OFF : FENCE_RESULT_ON));
	/* An action that failed will not come true by waiting: whoever ordered it tries again, or the next device. */
	if (!order->acted && !end->timed_out) {
		say(order, "%.140s; %.76s", order->act_note, note);
		answer(order, FENCE_RESULT_FAILED);
	} else if (left_ms(order) <= PAUSE_MS) {
		say(order, "timed out after %u s: %.90s; %.90s", order->what.device.limit_ms / 1000, order->act_note,
			note);
		answer(order, FENCE_RESULT_FAILED);
	} else {
		enter(order, ORDER_PAUSE);
		order->timer = loop_timer_set(order->agents->calls.loop, PAUSE_MS, on_pause_over, order);
	}
}

static void after_metadata(struct order *order, const struct fence_call_end *end)
{
	CLEANUP_FREE struct fence_metadata *metadata = malloc(sizeof(*metadata));
	const char *agent = order->what.device.agent;
	char note[REASON_BYTES];

	assert(metadata);
	order->err = (struct err){.code = ERR_NONE};
	describe("metadata", end, note);
	if (end->timed_out)
		err_set(&order->err, ERR_UNFIT, "%s: no answer within %u s: %s", agent, order->what.device.limit_ms / 1000, note);
	else if (end->status != 0)
		err_set(&order->err, ERR_UNFIT, "%s: %s", agent, note);
	else if (end->out_cut)
		err_set(&order->err, ERR_UNFIT, "%s: metadata: more than %d KiB", agent, METADATA_BYTES_MAX >> 10);
	else if (fence_metadata_parse(end->out, end->out_size, metadata, &order->err) < 0)
		err_prefix(&order->err, "%s: metadata", agent);
	else {
		order->about = malloc(sizeof(*order->about));
		assert(order->about);
		fence_metadata_tell(metadata, order->about);
		if (!fence_metadata_check(metadata, &order->what.device, &order->err))
			say(order, "%s", metadata->about);
	}
	if (order->err.code)
		fail(order, &order->err);
	else
		answer(order, FENCE_RESULT_FAILED); /* a check has no result */
}

static void after_question(struct order *order, const struct fence_call_end *end)
{
	if (order->check) {
		after_metadata(order, end);
		return;
	}
	char note[REASON_BYTES];

	describe("status", end, note);
	if (end->timed_out)
		say(order, "no answer within %u s: %.180s", order->what.device.limit_ms / 1000, note);
	else if (status_of(end) == FENCE_RESULT_FAILED)
		say(order, "%s", note);
	else
		say(order, "status: %s", fence_result_name((int)status_of(end)));
	answer(order, status_of(end));
}

static void on_end(void *ctx, const struct fence_call_end *end)
{
	struct order *order = ctx;

	order->call = NULL;
	if (order->state != ORDER_ACT && !order->check)
		order->was_on |= status_of(end) == FENCE_RESULT_ON;
	switch (order->state) {
	case ORDER_ASK:
		after_question(order, end);
		return;
	case ORDER_FIRST:
		after_first(order, end);
		return;
	case ORDER_ACT:
		after_act(order, end);
		return;
	case ORDER_AFTER:
		after_status(order, end);
		return;
	case ORDER_WAIT:
	case ORDER_PAUSE:
	case ORDER_ANSWER:
		break;
	}
	assert(!"no call was under way");
}

static bool is_question(const struct order *order)
{
	return order->check || order->what.action == FENCE_STATUS;
}

static void on_wait_over(void *ctx)
{
	struct order *order = ctx;
	struct err err;

	order->timer = NULL;
	order->deadline_ms = loop_now_ms(order->agents->calls.loop) + order->what.device.limit_ms;
	if (fence_input_fill(&order->input, &order->what.device, order->what.node_name,
		    order->agents->config.secrets_dir, &err) < 0) {
		fail(order, &err);
		return;
	}
	if (is_question(order)) {
		enter(order, ORDER_ASK);
		begin_call(order, order->check ? "metadata" : "status", left_ms(order));
		return;
	}
	/* A device that is slow to tell may still be quick to do: keep most of the time for that. */
	enter(order, ORDER_FIRST);
	begin_call(order, "status", order->what.device.limit_ms / 3);
}

static bool room_for(const struct fencer_agents *agents, bool question)
{
	uint32_t count = 0;

	for (const struct order *order = agents->orders; order; order = order->next)
		count += is_question(order) == question;
	return count < (question ? FENCE_QUESTIONS_MAX : FENCE_ORDERS_MAX);
}

static void order_new(struct fencer_agents *agents, const struct fence_order *what, bool check)
{
	struct err err;

	for (const struct order *order = agents->orders; order; order = order->next)
		if (order->what.id == what->id)
			return;
	struct order *order = calloc(1, sizeof(*order));
	assert(order);
	order->agents = agents;
	order->what = *what;
	order->check = check;
	bool room = room_for(agents, is_question(order));
	order->next = agents->orders;
	agents->orders = order;
	if (fence_device_check(&what->device, &err) < 0)
		fail(order, &err);
	else if (!room) {
		err_set(&err, ERR_BUSY, "%d fence %s are under way already",
			is_question(order) ? FENCE_QUESTIONS_MAX : FENCE_ORDERS_MAX,
			is_question(order) ? "questions" : "orders");
		fail(order, &err);
	} else
		order->timer = loop_timer_set(agents->calls.loop, what->delay_ms, on_wait_over, order);
}

static void agents_run(struct fencer *fencer, const struct fence_order *order)
{
	order_new(agents_of(fencer), order, false);
}

static void agents_check(struct fencer *fencer, uint64_t id, const struct fence_device *device)
{
	struct fence_order order = {.id = id, .action = FENCE_STATUS, .device = *device};

	order_new(agents_of(fencer), &order, true);
}

static void agents_cancel(struct fencer *fencer, uint64_t id)
{
	for (struct order *order = agents_of(fencer)->orders; order; order = order->next)
		if (order->what.id == id) {
			order_free(order);
			return;
		}
}

static const struct fencer_ops ops = {.run = agents_run, .cancel = agents_cancel, .check = agents_check};

struct fencer *fencer_agents_new(
	struct loop *loop, const struct fencer_agents_config *config, const struct fencer_callbacks *callbacks)
{
	struct fencer_agents *agents = calloc(1, sizeof(*agents));

	assert(agents && callbacks->done);
	agents->fencer.ops = &ops;
	agents->config = *config;
	agents->callbacks = *callbacks;
	agents->calls.loop = loop;
	return &agents->fencer;
}

void fencer_agents_free(struct fencer *fencer)
{
	if (!fencer)
		return;
	struct fencer_agents *agents = agents_of(fencer);
	while (agents->orders)
		order_free(agents->orders);
	fence_calls_free(&agents->calls);
	free(agents);
}
