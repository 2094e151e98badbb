/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/newer.h"
#include "engine/message.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { PROTOCOL = MESSAGE_PROTOCOL + 1, PREFIX_BYTES = 8, KIND_AT = 6 };

#define NEW_EVENT "an event of a kind that older programs do not know"

/* A field as base/schema.h writes it: tag, length, value. */
static const uint8_t news[] = {0x7f, 0x01, 0, 0, 0, 4, 'n', 'e', 'w', 's'};

/* The kind is the first field of an event. */
static bool is_kind(const uint8_t *event, size_t size, uint32_t kind)
{
	return size >= KIND_AT + 4 && message_get32(event + KIND_AT) == kind;
}

/* The event of newer_event, as it lies in the newer program's log. */
static bool is_new_event(const uint8_t *bytes, size_t size)
{
	return is_kind(bytes, size, EVENT_TICK) && memmem(bytes, size, NEW_EVENT, strlen(NEW_EVENT));
}

static size_t say_more(const struct newer *newer, const uint8_t *bytes, size_t size, uint8_t *out)
{
	static uint8_t payload[GROUP_MESSAGE_MAX];
	struct message message;
	const uint8_t *old;
	struct err err;

	if (message_parse(bytes, size, &message, &old, &err) < 0)
		assert(!"an engine sends what it can read");
	memcpy(payload, old, (size_t)message.payload_size);
	if (message.kind == MESSAGE_EVENT) {
		memcpy(payload + message.payload_size, news, sizeof(news));
		message.payload_size += sizeof(news);
	}
	if (message.kind == MESSAGE_ENTRY && is_new_event(payload, (size_t)message.payload_size))
		message_put32(payload + KIND_AT, EVENT_KIND_COUNT);
	message.protocol = PROTOCOL;
	message.needs = newer->needs ? PROTOCOL : 0;
	size_t whole = message_write(&message, payload, out, GROUP_MESSAGE_MAX);
	size_t head = message_get32(out + 4);
	assert(whole + sizeof(news) <= GROUP_MESSAGE_MAX);
	memmove(out + PREFIX_BYTES + head + sizeof(news), out + PREFIX_BYTES + head, (size_t)message.payload_size);
	memcpy(out + PREFIX_BYTES + head, news, sizeof(news));
	message_put32(out + 4, (uint32_t)(head + sizeof(news)));
	return whole + sizeof(news);
}

static int on_send(struct group *group, const uint8_t *bytes, size_t size, struct err *err)
{
	struct newer *newer = (struct newer *)group;
	static uint8_t more[GROUP_MESSAGE_MAX];

	if (!newer->on)
		return group_send(newer->inner, bytes, size, err);
	size = say_more(newer, bytes, size, more);
	return group_send(newer->inner, more, size, err);
}

static void on_leave(struct group *group)
{
	group_leave(((struct newer *)group)->inner);
}

static void on_join(struct group *group)
{
	group_join(((struct newer *)group)->inner);
}

static uint32_t on_token_ms(struct group *group)
{
	return group_token_ms(((struct newer *)group)->inner);
}

static void on_force(struct group *group)
{
	group_force(((struct newer *)group)->inner);
}

/* It knows what needs its protocol, and the kind of event that others do not. */
static void on_deliver(void *ctx, uint32_t from, const uint8_t *bytes, size_t size)
{
	struct newer *newer = ctx;
	static uint8_t known[GROUP_MESSAGE_MAX];
	struct message message;
	const uint8_t *payload;
	struct err err;

	if (!newer->on || message_parse(bytes, size, &message, &payload, &err) < 0 || message.protocol != PROTOCOL) {
		newer->engine.deliver(newer->engine.ctx, from, bytes, size);
		return;
	}
	uint8_t *copy = malloc((size_t)message.payload_size + 1);
	assert(copy);
	memcpy(copy, payload, (size_t)message.payload_size);
	if ((message.kind == MESSAGE_EVENT || message.kind == MESSAGE_ENTRY) &&
		is_kind(copy, (size_t)message.payload_size, EVENT_KIND_COUNT))
		message_put32(copy + KIND_AT, EVENT_TICK);
	message.needs = 0;
	size = message_write(&message, copy, known, sizeof(known));
	free(copy);
	newer->engine.deliver(newer->engine.ctx, from, known, size);
}

static void on_view(void *ctx, const struct group_view *view)
{
	struct newer *newer = ctx;

	newer->engine.view(newer->engine.ctx, view);
}

static void on_down(void *ctx, const struct err *err)
{
	struct newer *newer = ctx;

	newer->engine.down(newer->engine.ctx, err);
}

struct group_callbacks newer_callbacks(struct newer *newer, const struct group_callbacks *engine)
{
	newer->engine = *engine;
	return (struct group_callbacks){.ctx = newer, .view = on_view, .deliver = on_deliver, .down = on_down};
}

struct group *newer_port(struct newer *newer, struct group *inner)
{
	static const struct group_ops ops = {
		.send = on_send, .leave = on_leave, .join = on_join, .force = on_force, .token_ms = on_token_ms};

	newer->group = *inner;
	newer->group.ops = &ops;
	newer->inner = inner;
	return &newer->group;
}

void newer_event(struct newer *newer, const struct engine *engine)
{
	const struct cluster *cluster = engine_cluster(engine);
	struct event event = {
		.kind = EVENT_TICK, .node = newer->group.node, .now_ms = cluster->now_ms, .text = NEW_EVENT};
	struct message message = {.kind = MESSAGE_EVENT, .protocol = PROTOCOL};
	uint8_t bytes[1024], whole[2048];
	struct engine_status status;
	struct err err;

	engine_get_status(engine, &status);
	message.term = status.term;
	memcpy(message.cluster_uuid, cluster->uuid, sizeof(message.cluster_uuid));
	message.payload_size = schema_encode(&event_schema, &event, bytes, sizeof(bytes));
	assert(message.payload_size <= sizeof(bytes) && is_kind(bytes, sizeof(bytes), EVENT_TICK));
	message_put32(bytes + KIND_AT, EVENT_KIND_COUNT);
	size_t size = message_write(&message, bytes, whole, sizeof(whole));
	assert(size <= sizeof(whole));
	group_send(newer->inner, whole, size, &err);
}
