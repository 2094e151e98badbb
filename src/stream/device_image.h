/* SPDX-License-Identifier: Apache-2.0
 * The `device` file of a saved state while it is being built: the stream without the pages of the main memory block.
 *
 * It is a stream that QEMU would take: head, one part section with the pages of the small blocks (screen memory, ROMs),
 * ram's end section, tail. A small page that is sent again overwrites its place instead of being appended, so the file
 * never outgrows twice the small blocks, however long the copy takes.
 * Must never: be touched by two threads at once. */
#pragma once

#include "stream/mirror.h"
#include "stream/stream_parse.h"

struct device_image {
	struct mirror mirror;
	struct stream_layout layout;
	uint32_t main_block;
	uint32_t ram_id;
	bool part_open;
	size_t tail_at;			     /* where the tail begins; 0 before ram's end */
	uint32_t *places[STREAM_BLOCKS_MAX]; /* of each small page: offset of its bytes; 0: none; 1: sent as zero */
};

int device_image_init(struct device_image *image, int fd, struct err *err);
void device_image_fini(struct device_image *image);

int device_image_head(struct device_image *image, const uint8_t *bytes, size_t size, struct err *err);
/* ram_id: of the section that is open. ERR_UNFIT when the small blocks are too large together. */
int device_image_layout(struct device_image *image, const struct stream_layout *layout, uint32_t main_block,
	uint32_t ram_id, struct err *err);
int device_image_page(struct device_image *image, uint32_t block, uint64_t index, const uint8_t *page, struct err *err);
/* ERR_PROTOCOL when a page of a small block was never sent. */
int device_image_ram_end(struct device_image *image, struct err *err);
int device_image_tail(struct device_image *image, const uint8_t *bytes, size_t size, struct err *err);
