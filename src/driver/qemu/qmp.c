/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/qmp.h"
#include "driver/qemu/lines.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct pending {
	struct pending *next;
	struct qmp *qmp;
	uint64_t id;
	qmp_reply_fn *reply;
	void *ctx;
	struct loop_timer *timer;
	char command[40];
};

struct queued {
	struct queued *next;
	char *text;
	int fd;
};

struct qmp {
	struct loop *loop;
	struct lines *lines;
	struct qmp_callbacks callbacks;
	bool greeted; /* commands may be sent */
	uint64_t next_id;
	struct pending *pending;
	uint32_t pending_count;
	struct queued *queue, **queue_last; /* until the greeting */
	int depth;			    /* of callbacks under way */
	bool freed;
};

static void on_line(void *ctx, char *text, size_t size);
static void on_closed(void *ctx, const struct err *err);

struct qmp *qmp_new(struct loop *loop, int fd, const struct qmp_callbacks *callbacks)
{
	struct qmp *qmp = calloc(1, sizeof(*qmp));

	assert(qmp);
	qmp->loop = loop;
	qmp->callbacks = *callbacks;
	qmp->queue_last = &qmp->queue;
	qmp->next_id = 1;
	qmp->lines = lines_new(loop, fd, QMP_LINE_MAX,
		&(struct lines_callbacks){.ctx = qmp, .line = on_line, .closed = on_closed});
	return qmp;
}

static void pending_free(struct pending *pending)
{
	loop_timer_cancel(pending->qmp->loop, pending->timer);
	pending->qmp->pending_count--;
	free(pending);
}

static void release(struct qmp *qmp)
{
	for (struct pending *pending = qmp->pending, *next; pending; pending = next) {
		next = pending->next;
		pending_free(pending);
	}
	for (struct queued *queued = qmp->queue, *next; queued; queued = next) {
		next = queued->next;
		if (queued->fd >= 0)
			close(queued->fd);
		free(queued->text);
		free(queued);
	}
	lines_free(qmp->lines);
	free(qmp);
}

void qmp_free(struct qmp *qmp)
{
	if (!qmp)
		return;
	if (qmp->depth)
		qmp->freed = true;
	else
		release(qmp);
}

static void enter(struct qmp *qmp)
{
	qmp->depth++;
}

/* Returns false when the client is gone. */
static bool leave(struct qmp *qmp)
{
	if (--qmp->depth || !qmp->freed)
		return !qmp->freed;
	release(qmp);
	return false;
}

static struct pending *take_pending(struct qmp *qmp, uint64_t id)
{
	for (struct pending **at = &qmp->pending; *at; at = &(*at)->next) {
		if ((*at)->id == id) {
			struct pending *pending = *at;
			*at = pending->next;
			return pending;
		}
	}
	return NULL;
}

static void answer(struct pending *pending, const json_t *result, const struct err *err)
{
	qmp_reply_fn *reply = pending->reply;
	void *ctx = pending->ctx;

	pending_free(pending);
	if (reply)
		reply(ctx, result, err);
}

static void on_limit(void *ctx)
{
	struct pending *pending = ctx;
	struct qmp *qmp = pending->qmp;
	struct err err;

	pending->timer = NULL;
	take_pending(qmp, pending->id);
	err_set(&err, ERR_TIMEOUT, "QEMU does not answer '%s'", pending->command);
	enter(qmp);
	answer(pending, NULL, &err);
	leave(qmp);
}

static void on_full(void *ctx)
{
	struct pending *pending = ctx;
	struct qmp *qmp = pending->qmp;
	struct err err;

	pending->timer = NULL;
	take_pending(qmp, pending->id);
	err_set(&err, ERR_BUSY, "QEMU has %d commands to answer already", QMP_PENDING_MAX);
	enter(qmp);
	answer(pending, NULL, &err);
	leave(qmp);
}

static char *command_text(uint64_t id, const char *command, json_t *arguments)
{
	CLEANUP_JSON json_t *object = json_object();

	json_object_set_new(object, "execute", json_string(command));
	if (arguments)
		json_object_set_new(object, "arguments", arguments);
	json_object_set_new(object, "id", json_integer((json_int_t)id));
	char *text = json_dumps(object, JSON_COMPACT);
	assert(text);
	return text;
}

/* Before the greeting only the negotiation itself is sent. */
static void put(struct qmp *qmp, char *text, int fd, bool at_once)
{
	if (!qmp->lines) {
		free(text);
		if (fd >= 0)
			close(fd);
		return; /* over: the reply is on_limit's, or end's */
	}
	if (qmp->greeted || at_once) {
		lines_send(qmp->lines, text, strlen(text), fd);
		free(text);
		return;
	}
	struct queued *queued = calloc(1, sizeof(*queued));
	assert(queued);
	queued->text = text;
	queued->fd = fd;
	*qmp->queue_last = queued;
	qmp->queue_last = &queued->next;
}

static void send_command(struct qmp *qmp, const char *command, json_t *arguments, int pass_fd, uint64_t limit_ms,
	qmp_reply_fn *reply, void *ctx, bool at_once)
{
	struct pending *pending = calloc(1, sizeof(*pending));

	assert(pending);
	*pending = (struct pending){.next = qmp->pending, .qmp = qmp, .id = qmp->next_id++, .reply = reply, .ctx = ctx};
	snprintf(pending->command, sizeof(pending->command), "%s", command);
	qmp->pending = pending;
	if (++qmp->pending_count > QMP_PENDING_MAX) {
		json_decref(arguments);
		if (pass_fd >= 0)
			close(pass_fd);
		pending->timer = loop_timer_set(qmp->loop, 0, on_full, pending);
		return;
	}
	pending->timer = loop_timer_set(qmp->loop, limit_ms, on_limit, pending);
	put(qmp, command_text(pending->id, command, arguments), pass_fd, at_once);
}

void qmp_send(struct qmp *qmp, const char *command, json_t *arguments, int pass_fd, uint64_t limit_ms,
	qmp_reply_fn *reply, void *ctx)
{
	send_command(qmp, command, arguments, pass_fd, limit_ms, reply, ctx, false);
}

static void end(struct qmp *qmp, const struct err *err)
{
	lines_free(STEAL(qmp->lines));
	enter(qmp);
	while (qmp->pending && !qmp->freed) {
		struct pending *pending = qmp->pending;
		qmp->pending = pending->next;
		answer(pending, NULL, err);
	}
	if (!qmp->freed)
		qmp->callbacks.closed(qmp->callbacks.ctx, err);
	leave(qmp);
}

static void on_closed(void *ctx, const struct err *why)
{
	struct err err = *why;

	err_prefix(&err, "QEMU's monitor");
	end(ctx, &err);
}

static void on_capabilities(void *ctx, const json_t *result, const struct err *err)
{
	struct qmp *qmp = ctx;

	if (!result) {
		end(qmp, err);
		return;
	}
	qmp->greeted = true;
	while (qmp->queue) {
		struct queued *queued = qmp->queue;
		qmp->queue = queued->next;
		lines_send(qmp->lines, queued->text, strlen(queued->text), queued->fd);
		free(queued->text);
		free(queued);
	}
	qmp->callbacks.ready(qmp->callbacks.ctx);
}

static void on_error(struct pending *pending, const json_t *error)
{
	const char *what = json_string_value(json_object_get(error, "desc"));
	struct err err;

	if (what && !schema_text_ok(what, strlen(what)))
		what = NULL;
	err_set(&err, ERR_UNFIT, "QEMU refuses '%s': %.300s", pending->command, what ? what : "without saying why");
	answer(pending, NULL, &err);
}

static void on_reply(struct qmp *qmp, const json_t *json)
{
	const json_t *id = json_object_get(json, "id");
	struct pending *pending =
		json_is_integer(id) && json_integer_value(id) > 0 ? take_pending(qmp, (uint64_t)json_integer_value(id)) : NULL;

	if (!pending)
		return; /* its time was up, or it was never asked */
	if (json_object_get(json, "return"))
		answer(pending, json_object_get(json, "return"), NULL);
	else
		on_error(pending, json_object_get(json, "error"));
}

static uint64_t time_of(const json_t *json)
{
	const json_t *stamp = json_object_get(json, "timestamp");
	json_int_t seconds = json_integer_value(json_object_get(stamp, "seconds"));
	json_int_t micros = json_integer_value(json_object_get(stamp, "microseconds"));

	/* QEMU says -1 where it has no clock. */
	if (seconds <= 0 || seconds > INT64_MAX / 2000000 || micros < 0 || micros >= 1000000)
		return 0;
	return (uint64_t)seconds * 1000000 + (uint64_t)micros;
}

static void on_event(struct qmp *qmp, const json_t *json, const char *name)
{
	const json_t *data = json_object_get(json, "data");
	CLEANUP_JSON json_t *none = json_object();

	qmp->callbacks.event(qmp->callbacks.ctx, name, json_is_object(data) ? data : none, time_of(json));
}

static void on_line(void *ctx, char *text, size_t size)
{
	struct qmp *qmp = ctx;
	struct err err;

	if (!size)
		return;
	qmp_clamp_integers(text, size);
	CLEANUP_JSON json_t *json = json_parse_bounded(text, size, QMP_LINE_MAX, &err);
	if (!json || !json_is_object(json)) {
		if (json)
			err_set(&err, ERR_PROTOCOL, "not an object");
		err.code = ERR_PROTOCOL;
		err_prefix(&err, "QEMU's monitor");
		end(qmp, &err);
		return;
	}
	const char *event = json_string_value(json_object_get(json, "event"));
	enter(qmp);
	if (event)
		on_event(qmp, json, event);
	else if (json_object_get(json, "QMP") && !qmp->greeted)
		send_command(qmp, "qmp_capabilities", NULL, -1, 10000, on_capabilities, qmp, true);
	else
		on_reply(qmp, json);
	leave(qmp);
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The number begins at `at`; returns where it ends. */
static size_t clamp_one(char *text, size_t size, size_t at)
{
	static const char max[] = "9223372036854775807", min[] = "9223372036854775808";
	bool negative = text[at] == '-';
	size_t first = at + negative;
	size_t end = first;

	while (end < size && is_digit(text[end]))
		end++;
	size_t digits = end - first;
	const char *bound = negative ? min : max;
	bool real = end < size && (text[end] == '.' || text[end] == 'e' || text[end] == 'E');
	if (!real && (digits > strlen(bound) || (digits == strlen(bound) && memcmp(text + first, bound, digits) > 0))) {
		memset(text + at, ' ', end - at);
		memcpy(text + end - strlen(bound), bound, strlen(bound));
		if (negative)
			text[end - strlen(bound) - 1] = '-';
	}
	/* The rest of a real number is not looked at as a number of its own. */
	while (end < size && (is_digit(text[end]) || strchr(".eE+-", text[end])) && text[end])
		end++;
	return end;
}

void qmp_clamp_integers(char *text, size_t size)
{
	bool in_string = false;

	for (size_t i = 0; i < size; i++) {
		if (in_string) {
			if (text[i] == '\\')
				i++;
			else if (text[i] == '"')
				in_string = false;
		} else if (text[i] == '"') {
			in_string = true;
		} else if (is_digit(text[i]) || text[i] == '-') {
			i = clamp_one(text, size, i) - 1;
		}
	}
}
