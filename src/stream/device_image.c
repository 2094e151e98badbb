/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/device_image.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum {
	PLACE_NONE = 0,
	PLACE_ZERO = 1, /* no page's bytes can lie there: the file's header does */
	ENTRY_HEAD_MAX = 8 + 1 + 255,
};

/* Each small page at most once as bytes and once as zero, and room for the rest. */
#define IMAGE_BYTES_MAX (2 * STREAM_SMALL_BYTES_MAX + STREAM_TAIL_MAX + (1 << 20))
static_assert(IMAGE_BYTES_MAX <= UINT32_MAX, "places are 32 bits wide");

int device_image_init(struct device_image *image, int fd, struct err *err)
{
	memset(image, 0, sizeof(*image));
	return mirror_init(&image->mirror, fd, "device", IMAGE_BYTES_MAX, err);
}

void device_image_fini(struct device_image *image)
{
	for (size_t i = 0; i < STREAM_BLOCKS_MAX; i++)
		free(image->places[i]);
	mirror_fini(&image->mirror);
}

int device_image_head(struct device_image *image, const uint8_t *bytes, size_t size, struct err *err)
{
	return mirror_append(&image->mirror, bytes, size, err);
}

int device_image_layout(struct device_image *image, const struct stream_layout *layout, uint32_t main_block,
	uint32_t ram_id, struct err *err)
{
	uint64_t small_bytes = 0;

	image->layout = *layout;
	image->main_block = main_block;
	image->ram_id = ram_id;
	for (uint32_t i = 0; i < layout->count; i++) {
		if (i == main_block)
			continue;
		small_bytes += layout->blocks[i].bytes;
		if (small_bytes > STREAM_SMALL_BYTES_MAX)
			return err_set(err, ERR_UNFIT,
				"memory besides '%s' is larger than %" PRIu64 " MiB together (block '%s')",
				layout->blocks[main_block].name, STREAM_SMALL_BYTES_MAX >> 20, layout->blocks[i].name);
		image->places[i] = calloc(layout->blocks[i].bytes >> PAGE_BITS, sizeof(*image->places[i]));
		if (!image->places[i])
			return err_errno(err, ENOMEM, "memory for block '%s'", layout->blocks[i].name);
	}
	return 0;
}

static int part_open(struct device_image *image, struct err *err)
{
	uint8_t head[5] = {STREAM_SECTION_PART};

	if (image->part_open)
		return 0;
	image->part_open = true;
	put_be32(head + 1, image->ram_id);
	return mirror_append(&image->mirror, head, sizeof(head), err);
}

/* Always with the block's name: what came before it in QEMU's stream may not be here. */
static int entry_append(
	struct device_image *image, uint32_t block, uint64_t index, const uint8_t *page, struct err *err)
{
	const char *name = image->layout.blocks[block].name;
	size_t name_size = strlen(name);
	uint8_t head[ENTRY_HEAD_MAX];
	static const uint8_t zero;

	if (part_open(image, err))
		return -1;
	put_be64(head, index << PAGE_BITS | (page ? STREAM_RAM_PAGE : STREAM_RAM_ZERO));
	head[8] = (uint8_t)name_size;
	memcpy(head + 9, name, name_size);
	if (mirror_append(&image->mirror, head, 9 + name_size, err))
		return -1;
	return page ? mirror_append(&image->mirror, page, PAGE_BYTES, err)
		    : mirror_append(&image->mirror, &zero, 1, err);
}

int device_image_page(struct device_image *image, uint32_t block, uint64_t index, const uint8_t *page, struct err *err)
{
	static const uint8_t zeros[PAGE_BYTES];
	uint32_t *place = &image->places[block][index];

	assert(block != image->main_block);
	if (*place > PLACE_ZERO) {
		mirror_set(&image->mirror, *place, page ? page : zeros, PAGE_BYTES);
		return 0;
	}
	if (*place == PLACE_ZERO && !page)
		return 0;
	if (entry_append(image, block, index, page, err))
		return -1;
	*place = page ? (uint32_t)(image->mirror.size - PAGE_BYTES) : (uint32_t)PLACE_ZERO;
	return 0;
}

static int section_close(struct device_image *image, struct err *err)
{
	uint8_t close[13];

	put_be64(close, STREAM_RAM_EOS);
	close[8] = STREAM_FOOTER;
	put_be32(close + 9, image->ram_id);
	return mirror_append(&image->mirror, close, sizeof(close), err);
}

int device_image_ram_end(struct device_image *image, struct err *err)
{
	uint8_t end[5] = {STREAM_SECTION_END};

	for (uint32_t i = 0; i < image->layout.count; i++)
		for (uint64_t page = 0; image->places[i] && page < image->layout.blocks[i].bytes >> PAGE_BITS; page++)
			if (image->places[i][page] == PLACE_NONE)
				return err_set(err, ERR_PROTOCOL,
					"QEMU never sent page %" PRIu64 " of memory block '%s'", page,
					image->layout.blocks[i].name);
	if (image->part_open && section_close(image, err))
		return -1;
	put_be32(end + 1, image->ram_id);
	if (mirror_append(&image->mirror, end, sizeof(end), err) || section_close(image, err))
		return -1;
	image->tail_at = image->mirror.size;
	return 0;
}

int device_image_tail(struct device_image *image, const uint8_t *bytes, size_t size, struct err *err)
{
	if (image->mirror.size - image->tail_at + size > STREAM_TAIL_MAX)
		return err_set(err, ERR_UNFIT, "device state is larger than %d MiB", STREAM_TAIL_MAX >> 20);
	return mirror_append(&image->mirror, bytes, size, err);
}
