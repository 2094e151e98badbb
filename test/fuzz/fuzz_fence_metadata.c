/* SPDX-License-Identifier: Apache-2.0
 * What a fence agent says of itself is whatever a program prints: it parses into bounded text or is refused, and a
 * device can be held against whatever came of it. */
#include "driver/fence/metadata.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct fence_device device = {
	.name = "a",
	.node = 1,
	.agent = "fence_a",
	.option_count = 3,
	.options = {{"ip", "192.0.2.1", false}, {"auth", "md5", false}, {"lanplus", "1", false}},
};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct fence_metadata metadata;
	char *exact = malloc(size ? size : 1); /* so that a sanitizer sees a read behind the end */
	struct err err = {.code = ERR_NONE};

	assert(exact);
	memcpy(exact, bytes, size);
	int parsed = fence_metadata_parse(exact, size, &metadata, &err);
	free(exact);
	if (parsed < 0) {
		assert(err.code && schema_text_ok(err.text, strlen(err.text)));
		return 0;
	}
	assert(schema_text_ok(metadata.about, strlen(metadata.about)));
	for (uint32_t i = 0; i < metadata.parameter_count; i++) {
		const struct fence_parameter *parameter = &metadata.parameters[i];
		assert(schema_text_ok(parameter->name, strlen(parameter->name)));
		assert(parameter->choice_count <= METADATA_CHOICES_MAX);
	}
	if (fence_metadata_check(&metadata, &device, &err) < 0)
		assert(err.code);
	return 0;
}
