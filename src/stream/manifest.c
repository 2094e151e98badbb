/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/manifest.h"
#include "stream/sums.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Sums are text: JSON integers here end at 2^63 - 1. */
#define MANIFEST_NUMBERS(X)                                                                                            \
	X(ram_bytes, STREAM_BLOCK_BYTES_MAX)                                                                           \
	X(used_bytes, STREAM_BLOCK_BYTES_MAX)                                                                          \
	X(passes, INT64_MAX)                                                                                           \
	X(device_bytes, UINT32_MAX)                                                                                    \
	X(tail_at, UINT32_MAX)                                                                                         \
	X(devices_bytes, STREAM_TAIL_MAX)                                                                              \
	X(streamed_ns, INT64_MAX)                                                                                      \
	X(repaired_pages, INT64_MAX)
#define MANIFEST_SUMS(X) X(device_sum) X(sums_sum)

enum { SUM_TEXT_BYTES = 17, FLAGS = JSON_COMPACT | JSON_SORT_KEYS };

static void sum_text(uint64_t sum, char text[SUM_TEXT_BYTES])
{
	snprintf(text, SUM_TEXT_BYTES, "%016" PRIx64, sum);
}

static int sum_parse(const char *text, uint64_t *sum)
{
	uint64_t value = 0;

	if (!text || strlen(text) != 16)
		return -1;
	for (; *text; text++) {
		const char *digits = "0123456789abcdef";
		const char *digit = strchr(digits, *text);
		if (!digit)
			return -1;
		value = value << 4 | (uint64_t)(digit - digits);
	}
	*sum = value;
	return 0;
}

/* Over the object as it is now, which has no "sum" yet or any more. */
static int object_sum(const json_t *object, uint64_t *sum)
{
	CLEANUP_FREE char *text = json_dumps(object, FLAGS);

	if (!text)
		return -1;
	*sum = bytes_sum((const uint8_t *)text, strlen(text));
	return 0;
}

static json_t *state_object(const struct manifest *manifest)
{
	char text[SUM_TEXT_BYTES];
	json_t *state = json_object();

	json_object_set_new(state, "block", json_string(manifest->block));
	json_object_set_new(state, "page_bytes", json_integer(PAGE_BYTES));
	json_object_set_new(state, "compared", json_boolean(manifest->compared));
#define NUMBER(name, max) json_object_set_new(state, #name, json_integer((json_int_t)manifest->name));
	MANIFEST_NUMBERS(NUMBER)
#undef NUMBER
#define SUM(name)                                                                                                      \
	sum_text(manifest->name, text);                                                                                \
	json_object_set_new(state, #name, json_string(text));
	MANIFEST_SUMS(SUM)
#undef SUM
	if (manifest->hot.count)
		json_object_set_new(state, "hot", hot_to_json(&manifest->hot));
	return state;
}

char *manifest_encode(const struct manifest *manifest, json_t *facts, size_t *size, struct err *err)
{
	CLEANUP_JSON json_t *object = json_object();
	char text[SUM_TEXT_BYTES];
	uint64_t sum;

	json_object_set(object, "facts", facts);
	json_object_set_new(object, "format", json_integer(MANIFEST_FORMAT));
	json_object_set_new(object, "state", state_object(manifest));
	if (object_sum(object, &sum)) {
		err_errno(err, ENOMEM, "manifest");
		return NULL;
	}
	sum_text(sum, text);
	json_object_set_new(object, "sum", json_string(text));
	CLEANUP_FREE char *encoded = json_dumps(object, FLAGS);
	if (!encoded) {
		err_errno(err, ENOMEM, "manifest");
		return NULL;
	}
	*size = strlen(encoded);
	if (*size > MANIFEST_BYTES_MAX) {
		err_set(err, ERR_INVALID, "manifest of %zu bytes, at most %d are possible", *size, MANIFEST_BYTES_MAX);
		return NULL;
	}
	return STEAL(encoded);
}

static int corrupt(struct err *err, const char *what)
{
	return err_set(err, ERR_CORRUPT, "manifest: %s", what);
}

static int state_decode(const json_t *state, struct manifest *manifest, struct err *err)
{
	const char *block;
	uint64_t page_bytes;

	if (json_get_text(state, "block", "", &block, err) ||
		json_get_bool(state, "compared", false, &manifest->compared, err) ||
		json_get_u64(state, "page_bytes", 0, INT64_MAX, &page_bytes, err))
		return -1;
	if (page_bytes != PAGE_BYTES)
		return err_set(
			err, ERR_UNFIT, "pages of %" PRIu64 " bytes, only %d are known here", page_bytes, PAGE_BYTES);
	if (!*block || strlen(block) >= sizeof(manifest->block))
		return corrupt(err, "no proper name of a memory block");
	strcpy(manifest->block, block);
#define NUMBER(name, max)                                                                                              \
	if (json_get_u64(state, #name, 0, max, &manifest->name, err))                                                  \
		return -1;
	MANIFEST_NUMBERS(NUMBER)
#undef NUMBER
#define SUM(name)                                                                                                      \
	if (sum_parse(json_string_value(json_object_get(state, #name)), &manifest->name))                              \
		return corrupt(err, "no proper " #name);
	MANIFEST_SUMS(SUM)
#undef SUM
	if (hot_from_json(json_object_get(state, "hot"), manifest->ram_bytes >> PAGE_BITS, &manifest->hot, err))
		return -1;
	return 0;
}

static int state_check(const struct manifest *manifest, struct err *err)
{
	if (!manifest->ram_bytes || manifest->ram_bytes % PAGE_BYTES)
		return corrupt(err, "impossible ram_bytes");
	if (manifest->used_bytes > manifest->ram_bytes || manifest->used_bytes % PAGE_BYTES)
		return corrupt(err, "impossible used_bytes");
	/* Each is below 2^32, so that the sum cannot overflow. */
	if (!manifest->tail_at || manifest->tail_at + manifest->devices_bytes >= manifest->device_bytes)
		return corrupt(err, "device state does not lie within the device file");
	return 0;
}

int manifest_decode(const char *text, size_t size, struct manifest *manifest, json_t **facts, struct err *err)
{
	struct manifest found = {0};
	uint64_t format, sum, sum_now;

	CLEANUP_JSON json_t *object = json_parse_bounded(text, size, MANIFEST_BYTES_MAX, err);
	if (!object) {
		err->code = ERR_CORRUPT;
		return err_prefix(err, "manifest");
	}
	if (!json_is_object(object) || json_get_u64(object, "format", 0, INT64_MAX, &format, err))
		return corrupt(err, "no format");
	if (format != MANIFEST_FORMAT)
		return err_set(err, ERR_UNFIT, "saved state has format %" PRIu64 ", only %d is known here", format,
			MANIFEST_FORMAT);
	if (sum_parse(json_string_value(json_object_get(object, "sum")), &sum))
		return corrupt(err, "no sum");
	json_object_del(object, "sum");
	if (object_sum(object, &sum_now))
		return err_errno(err, ENOMEM, "manifest");
	if (sum != sum_now)
		return corrupt(err, "its checksum does not hold");

	json_t *state = json_object_get(object, "state");
	json_t *facts_found = json_object_get(object, "facts");
	if (!json_is_object(state) || !json_is_object(facts_found))
		return corrupt(err, "no state or no facts");
	if (state_decode(state, &found, err) || state_check(&found, err)) {
		err->code = err->code == ERR_UNFIT ? ERR_UNFIT : ERR_CORRUPT;
		return -1;
	}
	*manifest = found;
	*facts = json_incref(facts_found);
	return 0;
}
