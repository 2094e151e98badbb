/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/message.h"
#include "model/names.h"

#include <string.h>

NAMES_FUNCTION(message_kind_name, MESSAGE_KINDS)

enum { MAGIC = 0x77617431 /* "wat1" */, PREFIX_BYTES = 8 };

static const struct field message_fields[] = {
	SCHEMA_ENUM(1, message, kind, message_kind_name, MESSAGE_KIND_COUNT),
	SCHEMA_U32(2, message, protocol),
	SCHEMA_TEXT(3, message, cluster_uuid),
	SCHEMA_U64(4, message, nonce),
	SCHEMA_U64(5, message, term),
	SCHEMA_U64(6, message, index),
	SCHEMA_U64(7, message, applied),
	SCHEMA_U64(8, message, digest),
	SCHEMA_U64(9, message, offset),
	SCHEMA_U64(10, message, total),
	SCHEMA_U64(11, message, payload_size),
	SCHEMA_U64(12, message, pledged),
	SCHEMA_U64(13, message, trail),
	SCHEMA_TEXT(14, message, boot_id),
	SCHEMA_U64(15, message, committed),
	SCHEMA_LIST(16, message, views, view_count, &view_mark_schema),
	SCHEMA_U64(17, message, lost_above),
	SCHEMA_U64(18, message, lost_to),
	SCHEMA_U64(19, message, now_ms),
	SCHEMA_U32(20, message, needs),
};
static SCHEMA_DEFINE(message_schema, message, message_fields);

void message_put32(uint8_t *to, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		to[i] = (uint8_t)(value >> (24 - 8 * i));
}

uint32_t message_get32(const uint8_t *from)
{
	return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

size_t message_write(const struct message *message, const void *payload, uint8_t *out, size_t capacity)
{
	size_t head = schema_encode(&message_schema, message, capacity > PREFIX_BYTES ? out + PREFIX_BYTES : NULL,
		capacity > PREFIX_BYTES ? capacity - PREFIX_BYTES : 0);
	size_t size = PREFIX_BYTES + head + (size_t)message->payload_size;

	if (size > capacity)
		return size;
	message_put32(out, MAGIC);
	message_put32(out + 4, (uint32_t)head);
	if (message->payload_size)
		memcpy(out + PREFIX_BYTES + head, payload, (size_t)message->payload_size);
	return size;
}

int message_parse(const uint8_t *bytes, size_t size, struct message *message, const uint8_t **payload, struct err *err)
{
	if (size < PREFIX_BYTES || message_get32(bytes) != MAGIC)
		return err_set(err, ERR_PROTOCOL, "not a message of this program");
	size_t head = message_get32(bytes + 4);
	if (head > size - PREFIX_BYTES)
		return err_set(err, ERR_PROTOCOL, "message cut short");
	if (schema_decode(&message_schema, bytes + PREFIX_BYTES, head, message, err) < 0)
		return -1;
	if (message->payload_size != size - PREFIX_BYTES - head)
		return err_set(err, ERR_PROTOCOL, "message of %zu bytes says its payload has %llu", size,
			(unsigned long long)message->payload_size);
	*payload = bytes + PREFIX_BYTES + head;
	return 0;
}
