/* SPDX-License-Identifier: Apache-2.0
 * A migration stream from a QEMU that its guest has taken over: parsed, kept, and read again. What passes must read
 * back as itself, however it was cut. */
#include "stream/device_image.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

struct fed {
	struct device_image image;
	struct stream_parser parser;
	uint64_t main_pages;
};

static int on_head(void *ctx, const uint8_t *bytes, size_t size, struct err *err)
{
	return device_image_head(&((struct fed *)ctx)->image, bytes, size, err);
}

static int on_layout(void *ctx, const struct stream_layout *layout, struct err *err)
{
	struct fed *fed = ctx;
	uint32_t largest = 0;

	for (uint32_t i = 0; i < layout->count; i++)
		if (layout->blocks[i].bytes > layout->blocks[largest].bytes)
			largest = i;
	/* Valid, but too slow for a fuzzer. */
	for (uint32_t i = 0; i < layout->count; i++)
		if (i != largest && layout->blocks[i].bytes > 1 << 24)
			return err_set(err, ERR_UNFIT, "large");
	return device_image_layout(&fed->image, layout, largest, fed->parser.ram_id, err);
}

static int on_page(void *ctx, uint32_t block, uint64_t index, const uint8_t *page, struct err *err)
{
	struct fed *fed = ctx;

	assert(index < fed->image.layout.blocks[block].bytes >> PAGE_BITS);
	if (block != fed->image.main_block)
		return device_image_page(&fed->image, block, index, page, err);
	fed->main_pages += page ? page[0] : 1;
	return 0;
}

static int on_ram_end(void *ctx, struct err *err)
{
	return device_image_ram_end(&((struct fed *)ctx)->image, err);
}

static int on_tail(void *ctx, const uint8_t *bytes, size_t size, struct err *err)
{
	return device_image_tail(&((struct fed *)ctx)->image, bytes, size, err);
}

/* 0: a whole stream. */
static int feed(struct fed *fed, const uint8_t *bytes, size_t size, size_t turn)
{
	const struct stream_sink sink = {.ctx = fed,
		.head = on_head,
		.layout = on_layout,
		.page = on_page,
		.ram_end = on_ram_end,
		.tail = on_tail};
	struct err err;
	size_t from = 0;

	memset(fed, 0, sizeof(*fed));
	assert(!device_image_init(&fed->image, -1, &err));
	stream_parser_init(&fed->parser, &sink);
	for (size_t to = 0; to < size;) {
		to = size - to < turn ? size : to + turn;
		ssize_t taken = stream_parse(&fed->parser, bytes + from, to - from, &err);
		if (taken < 0)
			return -1;
		from += (size_t)taken;
		assert(from <= to && (to - from < STREAM_LOOKAHEAD));
	}
	return stream_parse_finish(&fed->parser, size - from, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct fed whole, cut, again;
	size_t devices;
	struct err err;

	int result = feed(&whole, bytes, size, SIZE_MAX / 2);
	assert(feed(&cut, bytes, size, 61) == result);
	if (!result) {
		const struct mirror *image = &whole.image.mirror;
		if (!stream_tail_split(
			    image->bytes + whole.image.tail_at, image->size - whole.image.tail_at, &devices, &err))
			assert(whole.image.tail_at + devices < image->size);
		assert(!feed(&again, image->bytes, image->size, SIZE_MAX / 2));
		assert(again.image.mirror.size == image->size &&
			!memcmp(again.image.mirror.bytes, image->bytes, image->size));
		device_image_fini(&again.image);
	}
	device_image_fini(&whole.image);
	device_image_fini(&cut.image);
	return 0;
}
