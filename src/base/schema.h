/* SPDX-License-Identifier: Apache-2.0
 * Plain structs, described by tables, to bytes and back.
 *
 * Every struct that crosses a wire, a disk or the API has one table (struct schema). The tables drive the binary form
 * here, the JSON form in base/json.h, and thereby the limits: a text never outgrows its array, a list its capacity, an
 * enum its names. One decoder to trust, one fuzzer to run.
 *
 * Binary form: for each field that is not zero or empty, in the order of the table: be16 tag, be32 length, payload
 * (bool 1 byte; numbers 8 bytes big-endian; enums 4; text without NUL; a record nested; a list as one field per
 * element). A reader skips tags that it does not know, so that versions N and N+1 understand each other; an enum value
 * that it does not know is refused, since nothing may be decided on it. The same struct always gives the same bytes.
 *
 * Promises: no allocation, no I/O; decode never reads outside its input nor recurses deeper than the tables nest.
 * Must never: leave an object half filled. On failure it is all zero. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum field_type {
	FIELD_BOOL,   /* bool */
	FIELD_U32,    /* uint32_t */
	FIELD_U64,    /* uint64_t; JSON carries at most 2^63-1 and shows a larger one as negative */
	FIELD_ENUM,   /* an enum of int size, 0 … enum_count-1 */
	FIELD_TEXT,   /* char[size], NUL-terminated UTF-8 without control characters */
	FIELD_RECORD, /* a nested struct */
	FIELD_LIST,   /* struct[count_max] with a uint32_t count elsewhere in the same struct */
};

struct schema;

struct field {
	uint16_t tag; /* never reused within a table once released */
	enum field_type type;
	const char *name; /* the key in JSON */
	size_t offset;
	size_t size; /* TEXT: capacity with NUL; RECORD, LIST: size of one element */
	const struct schema *schema;
	size_t count_offset;
	uint32_t count_max;
	const char *(*enum_name)(int value);
	int enum_count;
};

struct schema {
	const char *name;
	size_t size;
	const struct field *fields;
	size_t field_count;
};

#define SCHEMA_BOOL(t, st, m) {.tag = (t), .type = FIELD_BOOL, .name = #m, .offset = offsetof(struct st, m)}
#define SCHEMA_U32(t, st, m) {.tag = (t), .type = FIELD_U32, .name = #m, .offset = offsetof(struct st, m)}
#define SCHEMA_U64(t, st, m) {.tag = (t), .type = FIELD_U64, .name = #m, .offset = offsetof(struct st, m)}
#define SCHEMA_ENUM(t, st, m, names, n)                                                                                \
	{.tag = (t), .type = FIELD_ENUM, .name = #m, .offset = offsetof(struct st, m), .enum_name = (names),           \
		.enum_count = (n)}
#define SCHEMA_TEXT(t, st, m)                                                                                          \
	{.tag = (t), .type = FIELD_TEXT, .name = #m, .offset = offsetof(struct st, m),                                 \
		.size = sizeof(((struct st *)0)->m)}
#define SCHEMA_RECORD(t, st, m, sub)                                                                                   \
	{.tag = (t), .type = FIELD_RECORD, .name = #m, .offset = offsetof(struct st, m),                               \
		.size = sizeof(((struct st *)0)->m), .schema = (sub)}
#define SCHEMA_LIST(t, st, m, count, sub)                                                                              \
	{.tag = (t), .type = FIELD_LIST, .name = #m, .offset = offsetof(struct st, m),                                 \
		.size = sizeof(((struct st *)0)->m[0]), .schema = (sub), .count_offset = offsetof(struct st, count),   \
		.count_max = (uint32_t)(sizeof(((struct st *)0)->m) / sizeof(((struct st *)0)->m[0]))}
#define SCHEMA_DEFINE(var, st, table)                                                                                  \
	const struct schema var = {                                                                                    \
		.name = #st, .size = sizeof(struct st), .fields = (table), .field_count = ARRAY_SIZE(table)}

/* Writes the binary form to out and returns its size. Where that exceeds capacity, out holds an unusable prefix and
 * the return value says what would be needed; out may be NULL with capacity 0. */
size_t schema_encode(const struct schema *schema, const void *object, uint8_t *out, size_t capacity);

/* Fills *object (of schema->size bytes), fields that are absent with zero. ERR_PROTOCOL names the field. */
int schema_decode(const struct schema *schema, const uint8_t *bytes, size_t size, void *object, struct err *err);

/* As schema_decode, into an object that is all zero already (fresh from calloc): for tables of which most stays
 * untouched. On failure the object is undefined. */
int schema_decode_zeroed(const struct schema *schema, const uint8_t *bytes, size_t size, void *object, struct err *err);

/* Field by field; what stands behind the end of a text or of a list does not count. */
bool schema_equal(const struct schema *schema, const void *a, const void *b);

/* True for bounded, NUL-terminated UTF-8 without control characters (C0, DEL). */
bool schema_text_ok(const char *text, size_t length);
