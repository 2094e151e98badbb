/* SPDX-License-Identifier: Apache-2.0
 * A manifest as it may lie in a directory. To get behind its checksum the target also makes that right. */
#include "stream/manifest.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void decode(const char *text, size_t size)
{
	struct manifest manifest;
	struct err err;
	CLEANUP_JSON json_t *facts = NULL;

	if (manifest_decode(text, size, &manifest, &facts, &err))
		return;
	assert(manifest.ram_bytes && manifest.ram_bytes <= STREAM_BLOCK_BYTES_MAX &&
		manifest.ram_bytes % PAGE_BYTES == 0);
	assert(manifest.used_bytes <= manifest.ram_bytes);
	assert(manifest.tail_at + manifest.devices_bytes < manifest.device_bytes);
	for (uint32_t i = 0; i < manifest.hot.count; i++)
		assert(manifest.hot.pages[i] < manifest.ram_bytes / PAGE_BYTES);
	/* What was taken is written and taken again. */
	size_t again_size;
	CLEANUP_FREE char *again = manifest_encode(&manifest, facts, &again_size, &err);
	CLEANUP_JSON json_t *facts_again = NULL;
	struct manifest found;
	assert(again && !manifest_decode(again, again_size, &found, &facts_again, &err));
	assert(found.tail_at == manifest.tail_at && found.sums_sum == manifest.sums_sum &&
		found.hot.count == manifest.hot.count);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct err err;
	char sum[17];

	decode((const char *)bytes, size);
	CLEANUP_JSON json_t *object = json_parse_bounded((const char *)bytes, size, MANIFEST_BYTES_MAX, &err);
	if (!json_is_object(object))
		return 0;
	json_object_del(object, "sum");
	CLEANUP_FREE char *text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
	if (!text)
		return 0;
	snprintf(sum, sizeof(sum), "%016" PRIx64, bytes_sum((const uint8_t *)text, strlen(text)));
	json_object_set_new(object, "sum", json_string(sum));
	CLEANUP_FREE char *sealed = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
	if (sealed)
		decode(sealed, strlen(sealed));
	return 0;
}
