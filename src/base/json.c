/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"

#include <assert.h>
#include <string.h>

/* Depth is judged before parsing: jansson's own limit (2048) is fixed when it is built. */
static bool depth_ok(const char *text, size_t size)
{
	unsigned depth = 0;
	bool in_string = false;

	for (size_t i = 0; i < size; i++) {
		char c = text[i];
		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '{' || c == '[') {
			if (++depth > JSON_DEPTH_MAX)
				return false;
		} else if (c == '}' || c == ']') {
			if (depth)
				depth--;
		}
	}
	return true;
}

json_t *json_parse_bounded(const char *text, size_t size, size_t size_max, struct err *err)
{
	json_error_t why;

	if (size > size_max) {
		err_set(err, ERR_INVALID, "JSON of %zu bytes, at most %zu are taken", size, size_max);
		return NULL;
	}
	if (!depth_ok(text, size)) {
		err_set(err, ERR_INVALID, "JSON nested deeper than %d", JSON_DEPTH_MAX);
		return NULL;
	}
	json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
	if (!json)
		err_set(err, ERR_INVALID, "not JSON: %s (line %d, column %d)", why.text, why.line, why.column);
	return json;
}

json_t *json_parse(const char *text, size_t size, struct err *err)
{
	return json_parse_bounded(text, size, JSON_BYTES_MAX, err);
}

static json_t *json_of_field(const struct field *field, const uint8_t *object, unsigned flags)
{
	const uint8_t *at = object + field->offset;
	uint32_t u32;
	uint64_t u64;

	switch (field->type) {
	case FIELD_BOOL:
		return json_boolean(*(const bool *)at);
	case FIELD_U32:
		memcpy(&u32, at, sizeof(u32));
		return json_integer(u32);
	case FIELD_U64:
		memcpy(&u64, at, sizeof(u64));
		return json_integer((json_int_t)u64);
	case FIELD_ENUM:
		memcpy(&u32, at, sizeof(u32));
		return json_string(field->enum_name((int)u32));
	case FIELD_TEXT:
		return json_string((const char *)at);
	case FIELD_RECORD:
		return json_from_record(field->schema, at, flags);
	case FIELD_LIST: {
		json_t *list = json_array();
		memcpy(&u32, object + field->count_offset, sizeof(u32));
		assert(u32 <= field->count_max);
		for (uint32_t i = 0; i < u32; i++)
			json_array_append_new(list, json_from_record(field->schema, at + i * field->size, flags));
		return list;
	}
	}
	return NULL;
}

static bool is_empty(const json_t *json)
{
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		return !json_object_size(json);
	case JSON_ARRAY:
		return !json_array_size(json);
	case JSON_STRING:
		return !json_string_length(json);
	case JSON_INTEGER:
		return !json_integer_value(json);
	case JSON_FALSE:
	case JSON_NULL:
		return true;
	case JSON_REAL:
	case JSON_TRUE:
		return false;
	}
	return false;
}

json_t *json_from_record(const struct schema *schema, const void *object, unsigned flags)
{
	json_t *json = json_object();

	for (size_t i = 0; json && i < schema->field_count; i++) {
		const struct field *field = &schema->fields[i];
		json_t *value = json_of_field(field, object, flags);
		/* An enum's zero value has a name and stays: its meaning is not "absent". */
		if (value && (flags & JSON_SKIP_ZERO) && is_empty(value))
			json_decref(value);
		else
			json_object_set_new(json, field->name, value);
	}
	return json;
}

static int bad_value(const struct field *field, const char *why, struct err *err)
{
	return err_set(err, ERR_INVALID, "%s: %s", field->name, why);
}

static int enum_from_json(const struct field *field, const json_t *json, uint8_t *at, struct err *err)
{
	const char *text = json_string_value(json);
	char names[256] = "";

	for (int value = 0; text && value < field->enum_count; value++) {
		if (!strcmp(text, field->enum_name(value))) {
			memcpy(at, &value, sizeof(value));
			return 0;
		}
	}
	for (int value = 0; value < field->enum_count; value++) {
		size_t used = strlen(names);
		snprintf(names + used, sizeof(names) - used, "%s%s", value ? ", " : "", field->enum_name(value));
	}
	return err_set(err, ERR_INVALID, "%s: one of %s", field->name, names);
}

static int number_from_json(const struct field *field, const json_t *json, uint8_t *at, struct err *err)
{
	uint64_t max = field->type == FIELD_U32 ? UINT32_MAX : INT64_MAX;

	if (!json_is_integer(json) || json_integer_value(json) < 0 || (uint64_t)json_integer_value(json) > max)
		return err_set(err, ERR_INVALID, "%s: a whole number from 0 to %llu", field->name,
			(unsigned long long)max);
	uint64_t value = (uint64_t)json_integer_value(json);
	uint32_t u32 = (uint32_t)value;
	if (field->type == FIELD_U32)
		memcpy(at, &u32, sizeof(u32));
	else
		memcpy(at, &value, sizeof(value));
	return 0;
}

static int text_from_json(const struct field *field, const json_t *json, uint8_t *at, struct err *err)
{
	const char *text = json_string_value(json);
	size_t length = json_string_length(json);

	if (!text)
		return bad_value(field, "text expected", err);
	if (length >= field->size)
		return err_set(err, ERR_INVALID, "%s: %zu bytes, at most %zu are allowed", field->name, length,
			field->size - 1);
	if (!schema_text_ok(text, length))
		return bad_value(field, "control characters are not allowed", err);
	memset(at, 0, field->size);
	memcpy(at, text, length);
	return 0;
}

static int list_from_json(const struct field *field, const json_t *json, unsigned flags, uint8_t *object,
	struct err *err)
{
	size_t count = json_array_size(json);

	if (!json_is_array(json))
		return bad_value(field, "a list expected", err);
	if (count > field->count_max)
		return err_set(err, ERR_INVALID, "%s: %zu entries, at most %u are allowed", field->name, count,
			field->count_max);
	for (size_t i = 0; i < count; i++)
		if (json_to_record(field->schema, json_array_get(json, i), flags & ~(unsigned)JSON_KEEP_DEFAULT,
			    object + field->offset + i * field->size, err) < 0)
			return err_prefix(err, "%s[%zu]", field->name, i);
	uint32_t u32 = (uint32_t)count;
	memcpy(object + field->count_offset, &u32, sizeof(u32));
	return 0;
}

static int field_from_json(const struct field *field, const json_t *json, unsigned flags, uint8_t *object,
	struct err *err)
{
	uint8_t *at = object + field->offset;

	switch (field->type) {
	case FIELD_BOOL:
		if (!json_is_boolean(json))
			return bad_value(field, "true or false expected", err);
		*(bool *)at = json_is_true(json);
		return 0;
	case FIELD_U32:
	case FIELD_U64:
		return number_from_json(field, json, at, err);
	case FIELD_ENUM:
		return enum_from_json(field, json, at, err);
	case FIELD_TEXT:
		return text_from_json(field, json, at, err);
	case FIELD_RECORD:
		return json_to_record(field->schema, json, flags, at, err) < 0 ? err_prefix(err, "%s", field->name) : 0;
	case FIELD_LIST:
		return list_from_json(field, json, flags, object, err);
	}
	return -1;
}

int json_to_record(const struct schema *schema, const json_t *json, unsigned flags, void *object, struct err *err)
{
	const char *key;
	json_t *value;

	if (!json_is_object(json))
		return err_set(err, ERR_INVALID, "an object expected");
	if (!(flags & JSON_KEEP_DEFAULT))
		memset(object, 0, schema->size);
	json_object_foreach((json_t *)(uintptr_t)json, key, value)
	{
		const struct field *field = NULL;
		for (size_t i = 0; i < schema->field_count && !field; i++)
			if (!strcmp(schema->fields[i].name, key))
				field = &schema->fields[i];
		if (!field && (flags & JSON_IGNORE_NEW))
			continue;
		if (!field)
			return err_set(err, ERR_INVALID, "unknown key '%.64s'", key);
		if (field_from_json(field, value, flags, object, err) < 0)
			return -1;
	}
	return 0;
}

int json_get_text(const json_t *object, const char *key, const char *absent, const char **value, struct err *err)
{
	const json_t *json = json_object_get(object, key);

	if (json && !json_is_string(json))
		return err_set(err, ERR_INVALID, "%s: text expected", key);
	if (json && !schema_text_ok(json_string_value(json), json_string_length(json)))
		return err_set(err, ERR_INVALID, "%s: control characters are not allowed", key);
	*value = json ? json_string_value(json) : absent;
	return 0;
}

int json_get_u64(const json_t *object, const char *key, uint64_t absent, uint64_t max, uint64_t *value, struct err *err)
{
	const json_t *json = json_object_get(object, key);

	if (json && (!json_is_integer(json) || json_integer_value(json) < 0 ||
			    (uint64_t)json_integer_value(json) > max))
		return err_set(err, ERR_INVALID, "%s: a whole number from 0 to %llu", key, (unsigned long long)max);
	*value = json ? (uint64_t)json_integer_value(json) : absent;
	return 0;
}

int json_get_bool(const json_t *object, const char *key, bool absent, bool *value, struct err *err)
{
	const json_t *json = json_object_get(object, key);

	if (json && !json_is_boolean(json))
		return err_set(err, ERR_INVALID, "%s: true or false expected", key);
	*value = json ? json_is_true(json) : absent;
	return 0;
}
