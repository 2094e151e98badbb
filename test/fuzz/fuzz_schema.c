/* SPDX-License-Identifier: Apache-2.0
 * Bytes into the decoder of events, the largest of the tables; what decodes must encode to the same meaning. */
#include "model/event.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct event event, again;
	static uint8_t out[64 * 1024];
	struct err err;

	if (schema_decode(&event_schema, bytes, size, &event, &err) < 0)
		return 0;
	size_t used = schema_encode(&event_schema, &event, out, sizeof(out));
	assert(used <= sizeof(out));
	assert(schema_decode(&event_schema, out, used, &again, &err) == 0);
	assert(schema_equal(&event_schema, &event, &again));
	return 0;
}
