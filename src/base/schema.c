/* SPDX-License-Identifier: Apache-2.0 */
#include "base/schema.h"

#include <assert.h>
#include <string.h>

enum { HEADER_BYTES = 6 };

struct writer {
	uint8_t *out;
	size_t capacity;
	size_t used; /* may exceed capacity: then nothing more is stored, only counted */
};

static void put_bytes(struct writer *w, const void *bytes, size_t size)
{
	if (w->used + size <= w->capacity && size)
		memcpy(w->out + w->used, bytes, size);
	w->used += size;
}

static void put_be(uint8_t *to, uint64_t value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
}

static uint64_t get_be(const uint8_t *from, size_t bytes)
{
	uint64_t value = 0;

	for (size_t i = 0; i < bytes; i++)
		value = value << 8 | from[i];
	return value;
}

static void put_header(struct writer *w, uint16_t tag, size_t length)
{
	uint8_t header[HEADER_BYTES];

	put_be(header, tag, 2);
	put_be(header + 2, length, 4);
	put_bytes(w, header, sizeof(header));
}

static void put_number(struct writer *w, uint16_t tag, uint64_t value, size_t bytes)
{
	uint8_t payload[8];

	if (!value)
		return;
	put_be(payload, value, bytes);
	put_header(w, tag, bytes);
	put_bytes(w, payload, bytes);
}

static void put_object(struct writer *w, const struct schema *schema, const uint8_t *object);

static void put_record(struct writer *w, const struct field *field, const uint8_t *object, bool keep_empty)
{
	size_t header_at = w->used;

	put_header(w, field->tag, 0);
	put_object(w, field->schema, object);
	size_t length = w->used - header_at - HEADER_BYTES;
	if (!length && !keep_empty)
		w->used = header_at;
	else if (w->used <= w->capacity)
		put_be(w->out + header_at + 2, length, 4);
}

static uint32_t list_count(const struct field *field, const uint8_t *object)
{
	uint32_t count;

	memcpy(&count, object + field->count_offset, sizeof(count));
	assert(count <= field->count_max);
	return count;
}

static void put_field(struct writer *w, const struct field *field, const uint8_t *object)
{
	const uint8_t *at = object + field->offset;
	uint32_t u32;
	uint64_t u64;

	switch (field->type) {
	case FIELD_BOOL:
		put_number(w, field->tag, *(const bool *)at, 1);
		break;
	case FIELD_U32:
	case FIELD_ENUM:
		memcpy(&u32, at, sizeof(u32));
		put_number(w, field->tag, u32, field->type == FIELD_ENUM ? 4 : 8);
		break;
	case FIELD_U64:
		memcpy(&u64, at, sizeof(u64));
		put_number(w, field->tag, u64, 8);
		break;
	case FIELD_TEXT: {
		size_t length = strnlen((const char *)at, field->size);
		assert(length < field->size);
		if (length) {
			put_header(w, field->tag, length);
			put_bytes(w, at, length);
		}
		break;
	}
	case FIELD_RECORD:
		put_record(w, field, at, false);
		break;
	case FIELD_LIST:
		/* An empty element is written all the same: it counts. */
		for (uint32_t i = 0, count = list_count(field, object); i < count; i++)
			put_record(w, field, at + i * field->size, true);
		break;
	}
}

static void put_object(struct writer *w, const struct schema *schema, const uint8_t *object)
{
	for (size_t i = 0; i < schema->field_count; i++)
		put_field(w, &schema->fields[i], object);
}

size_t schema_encode(const struct schema *schema, const void *object, uint8_t *out, size_t capacity)
{
	struct writer w = {.out = out, .capacity = capacity};

	put_object(&w, schema, object);
	return w.used;
}

/* Well-formed UTF-8, shortest forms only, no surrogates: Unicode 15, table 3-7. */
static size_t utf8_length(const uint8_t *s, size_t left)
{
	uint8_t c = s[0];
	size_t need = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;

	if (!need || need > left)
		return 0;
	for (size_t i = 1; i < need; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((c == 0xe0 && s[1] < 0xa0) || (c == 0xed && s[1] > 0x9f) || (c == 0xf0 && s[1] < 0x90) ||
		(c == 0xf4 && s[1] > 0x8f))
		return 0;
	return need;
}

bool schema_text_ok(const char *text, size_t length)
{
	for (size_t i = 0; i < length;) {
		uint8_t c = (uint8_t)text[i];
		if (c < 0x20 || c == 0x7f)
			return false;
		size_t step = utf8_length((const uint8_t *)text + i, length - i);
		if (!step)
			return false;
		i += step;
	}
	return true;
}

static const struct field *field_of_tag(const struct schema *schema, uint16_t tag)
{
	for (size_t i = 0; i < schema->field_count; i++)
		if (schema->fields[i].tag == tag)
			return &schema->fields[i];
	return NULL;
}

static int bad_field(const struct schema *schema, const struct field *field, const char *why, struct err *err)
{
	return err_set(err, ERR_PROTOCOL, "%s.%s: %s", schema->name, field->name, why);
}

static int get_number(const struct schema *schema, const struct field *field, const uint8_t *payload, size_t length,
	uint8_t *at, struct err *err)
{
	size_t want = field->type == FIELD_BOOL ? 1 : field->type == FIELD_ENUM ? 4 : 8;

	if (length != want)
		return bad_field(schema, field, "wrong length", err);
	uint64_t value = get_be(payload, length);
	uint32_t u32 = (uint32_t)value;
	switch (field->type) {
	case FIELD_BOOL:
		if (value > 1)
			return bad_field(schema, field, "neither true nor false", err);
		*(bool *)at = value;
		return 0;
	case FIELD_ENUM:
		if (value >= (uint64_t)field->enum_count)
			return bad_field(schema, field, "unknown value", err);
		memcpy(at, &u32, sizeof(u32));
		return 0;
	case FIELD_U32:
		if (value > UINT32_MAX)
			return bad_field(schema, field, "out of range", err);
		memcpy(at, &u32, sizeof(u32));
		return 0;
	case FIELD_U64:
		memcpy(at, &value, sizeof(value));
		return 0;
	case FIELD_TEXT:
	case FIELD_RECORD:
	case FIELD_LIST:
		break;
	}
	assert(false && "not a number");
	return -1;
}

static int get_object(const struct schema *schema, const uint8_t *bytes, size_t size, uint8_t *object, struct err *err);

static int get_field(const struct schema *schema, const struct field *field, const uint8_t *payload, size_t length,
	uint8_t *object, struct err *err)
{
	uint8_t *at = object + field->offset;
	uint32_t count;

	switch (field->type) {
	case FIELD_TEXT:
		if (length >= field->size)
			return bad_field(schema, field, "too long", err);
		if (!schema_text_ok((const char *)payload, length))
			return bad_field(schema, field, "not printable UTF-8", err);
		memcpy(at, payload, length);
		at[length] = 0;
		return 0;
	case FIELD_RECORD:
		return get_object(field->schema, payload, length, at, err);
	case FIELD_LIST:
		count = list_count(field, object);
		if (count == field->count_max)
			return bad_field(schema, field, "too many", err);
		if (get_object(field->schema, payload, length, at + count * field->size, err) < 0)
			return -1;
		count++;
		memcpy(object + field->count_offset, &count, sizeof(count));
		return 0;
	case FIELD_BOOL:
	case FIELD_U32:
	case FIELD_U64:
	case FIELD_ENUM:
		break;
	}
	return get_number(schema, field, payload, length, at, err);
}

/* Recursion is bounded by the nesting of the tables, not by the input. */
static int get_object(const struct schema *schema, const uint8_t *bytes, size_t size, uint8_t *object, struct err *err)
{
	size_t at = 0;

	while (at < size) {
		if (size - at < HEADER_BYTES)
			return err_set(err, ERR_PROTOCOL, "%s: truncated", schema->name);
		uint16_t tag = (uint16_t)get_be(bytes + at, 2);
		size_t length = (size_t)get_be(bytes + at + 2, 4);
		at += HEADER_BYTES;
		if (length > size - at)
			return err_set(err, ERR_PROTOCOL, "%s: field %u longer than its record", schema->name, tag);
		const struct field *field = field_of_tag(schema, tag);
		if (field && get_field(schema, field, bytes + at, length, object, err) < 0)
			return -1;
		at += length;
	}
	return 0;
}

int schema_decode_zeroed(const struct schema *schema, const uint8_t *bytes, size_t size, void *object, struct err *err)
{
	return get_object(schema, bytes, size, object, err);
}

int schema_decode(const struct schema *schema, const uint8_t *bytes, size_t size, void *object, struct err *err)
{
	memset(object, 0, schema->size);
	if (get_object(schema, bytes, size, object, err) < 0) {
		memset(object, 0, schema->size);
		return -1;
	}
	return 0;
}

/* Equality field by field, so that no buffer is needed. Bytes behind a text's NUL do not count. */
static bool field_equal(const struct field *field, const uint8_t *a, const uint8_t *b)
{
	const uint8_t *at_a = a + field->offset;
	const uint8_t *at_b = b + field->offset;

	switch (field->type) {
	case FIELD_BOOL:
		return *(const bool *)at_a == *(const bool *)at_b;
	case FIELD_U32:
	case FIELD_ENUM:
		return !memcmp(at_a, at_b, sizeof(uint32_t));
	case FIELD_U64:
		return !memcmp(at_a, at_b, sizeof(uint64_t));
	case FIELD_TEXT:
		return !strncmp((const char *)at_a, (const char *)at_b, field->size);
	case FIELD_RECORD:
		return schema_equal(field->schema, at_a, at_b);
	case FIELD_LIST: {
		uint32_t count = list_count(field, a);
		if (count != list_count(field, b))
			return false;
		for (uint32_t i = 0; i < count; i++)
			if (!schema_equal(field->schema, at_a + i * field->size, at_b + i * field->size))
				return false;
		return true;
	}
	}
	return false;
}

bool schema_equal(const struct schema *schema, const void *a, const void *b)
{
	for (size_t i = 0; i < schema->field_count; i++)
		if (!field_equal(&schema->fields[i], a, b))
			return false;
	return true;
}
