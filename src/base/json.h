/* SPDX-License-Identifier: Apache-2.0
 * JSON from outside, bounded; and structs as JSON by their schema tables.
 *
 * jansson does the parsing (design §10); this file adds what it lacks: a limit on size and depth before a byte is
 * parsed, no duplicate keys, no NaN, errors that name the path ("disks[0].path: too long").
 * Promises: any bytes are survived.
 * Must never: accept a key that the table does not know from a person (a typo would be silently ignored). */
#pragma once

#include "base/schema.h"

#include <jansson.h>

enum {
	JSON_BYTES_MAX = 1 << 20, /* one call, one definition, one reply */
	JSON_DEPTH_MAX = 16,
};

static inline void cleanup_json_(json_t **json)
{
	json_decref(*json);
}
#define CLEANUP_JSON CLEANUP(cleanup_json_)

/* A new reference, or NULL with ERR_INVALID. The text need not end with NUL; it must be one object or array. */
json_t *json_parse(const char *text, size_t size, struct err *err);

/* As json_parse, for speakers whose lines may be larger (QEMU's query replies): size_max bounds it. */
json_t *json_parse_bounded(const char *text, size_t size, size_t size_max, struct err *err);

enum json_flags {
	JSON_SKIP_ZERO = 1 << 0,    /* to JSON: leave out what is zero or empty */
	JSON_IGNORE_NEW = 1 << 1,   /* from JSON: skip unknown keys (a newer peer), instead of refusing them (a person) */
	JSON_KEEP_DEFAULT = 1 << 2, /* from JSON: do not clear the object first; absent keys keep what is there */
};

/* A new reference; NULL only when memory is out. */
json_t *json_from_record(const struct schema *schema, const void *object, unsigned flags);

/* Fills *object. On failure returns -1 with the path of the offending value; *object is then undefined. */
int json_to_record(const struct schema *schema, const json_t *json, unsigned flags, void *object, struct err *err);

/* Typed members of an object, for calls with few arguments. Absent: the default. Wrong type or range: ERR_INVALID. */
int json_get_text(const json_t *object, const char *key, const char *absent, const char **value, struct err *err);
int json_get_u64(const json_t *object, const char *key, uint64_t absent, uint64_t max, uint64_t *value, struct err *err);
int json_get_bool(const json_t *object, const char *key, bool absent, bool *value, struct err *err);
