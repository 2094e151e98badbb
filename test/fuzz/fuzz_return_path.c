/* SPDX-License-Identifier: Apache-2.0
 * What a QEMU that its guest has taken over may say on the return path, cut anywhere. */
#include "stream/return_path.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static int on_pages(void *ctx, const char *name, uint64_t start, uint32_t length, struct err *err)
{
	(void)err;
	assert(!name || strlen(name) < STREAM_NAME_BYTES);
	*(uint64_t *)ctx = *(uint64_t *)ctx * 31 + start + length;
	return 0;
}

static int on_word(void *ctx, uint32_t value, struct err *err)
{
	(void)err;
	*(uint64_t *)ctx = *(uint64_t *)ctx * 31 + value;
	return 0;
}

static int feed(const uint8_t *bytes, size_t size, size_t turn, uint64_t *heard)
{
	const struct return_sink sink = {.ctx = heard, .pages = on_pages, .pong = on_word, .shut = on_word};
	struct err err;
	size_t from = 0;

	for (size_t to = 0; to < size;) {
		to = size - to < turn ? size : to + turn;
		ssize_t taken = return_parse(&sink, bytes + from, to - from, &err);
		if (taken < 0)
			return -1;
		from += (size_t)taken;
		assert(from <= to && to - from < RETURN_MESSAGE_MAX);
	}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	uint64_t whole = 0, cut = 0;

	int result = feed(bytes, size, SIZE_MAX / 2, &whole);
	assert(feed(bytes, size, 3, &cut) == result);
	assert(result || whole == cut);
	return 0;
}
