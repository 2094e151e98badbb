/* SPDX-License-Identifier: Apache-2.0
 * Hand-made migration streams: one element a call, in a buffer that grows no further than it was made. */
#pragma once

#include "stream/stream_parse.h"

#include <assert.h>
#include <string.h>

#define MADE_MAIN_PAGES 64
#define MADE_SMALL_PAGES 3
#define MADE_RAM_ID 2

struct made {
	uint8_t bytes[1 << 20];
	size_t size;
};

static inline void make_bytes(struct made *made, const void *bytes, size_t size)
{
	assert(size <= sizeof(made->bytes) - made->size);
	memcpy(made->bytes + made->size, bytes, size);
	made->size += size;
}

static inline void make_u8(struct made *made, uint8_t value)
{
	make_bytes(made, &value, 1);
}

static inline void make_be32(struct made *made, uint32_t value)
{
	uint8_t bytes[4];

	put_be32(bytes, value);
	make_bytes(made, bytes, 4);
}

static inline void make_be64(struct made *made, uint64_t value)
{
	uint8_t bytes[8];

	put_be64(bytes, value);
	make_bytes(made, bytes, 8);
}

static inline void make_name(struct made *made, const char *name)
{
	make_u8(made, (uint8_t)strlen(name));
	make_bytes(made, name, strlen(name));
}

static inline void make_footer(struct made *made)
{
	make_u8(made, STREAM_FOOTER);
	make_be32(made, MADE_RAM_ID);
}

static inline void make_eos(struct made *made)
{
	make_be64(made, STREAM_RAM_EOS);
	make_footer(made);
}

static inline void make_header(struct made *made)
{
	make_bytes(made, "QEVM", 4);
	make_be32(made, 3);
	make_u8(made, STREAM_CONFIGURATION);
	make_be32(made, 10);
	make_bytes(made, "pc-q35-7.2", 10);
}

static inline void make_ram_section(struct made *made)
{
	make_u8(made, STREAM_SECTION_START);
	make_be32(made, MADE_RAM_ID);
	make_name(made, "ram");
	make_be32(made, 0);
	make_be32(made, 4);
}

static inline void make_block(struct made *made, const char *name, uint64_t bytes)
{
	make_name(made, name);
	make_be64(made, bytes);
}

/* Header to the end of ram's start section: blocks "ram" and "vga". */
static inline void make_start(struct made *made)
{
	make_header(made);
	make_ram_section(made);
	make_be64(made, (MADE_MAIN_PAGES + MADE_SMALL_PAGES) * (uint64_t)PAGE_BYTES | STREAM_RAM_SIZES);
	make_block(made, "ram", MADE_MAIN_PAGES * (uint64_t)PAGE_BYTES);
	make_block(made, "vga", MADE_SMALL_PAGES * (uint64_t)PAGE_BYTES);
	make_eos(made);
}

static inline void make_section(struct made *made, uint8_t kind)
{
	make_u8(made, kind);
	make_be32(made, MADE_RAM_ID);
}

/* name NULL: the same block as before. fill 0: a zero page; else a page of that byte. */
static inline void make_page(struct made *made, const char *name, uint64_t index, uint8_t fill)
{
	uint8_t page[PAGE_BYTES];

	make_be64(made,
		index * PAGE_BYTES | (fill ? STREAM_RAM_PAGE : STREAM_RAM_ZERO) | (name ? 0 : STREAM_RAM_CONTINUE));
	if (name)
		make_name(made, name);
	memset(page, fill, sizeof(page));
	make_bytes(made, page, fill ? sizeof(page) : 1);
}

static inline void make_tail(struct made *made)
{
	static const char description[] = "{\"page_size\": 4096, \"devices\": [{\"name\": \"{nested}\"}]}";

	make_u8(made, STREAM_SECTION_FULL);
	make_bytes(made, "\0\0\0\x07timer: opaque \0\x06\0\0\0\x02{} to us", 32);
	make_u8(made, STREAM_EOF);
	make_u8(made, STREAM_DESCRIPTION);
	make_be32(made, sizeof(description) - 1);
	make_bytes(made, description, sizeof(description) - 1);
}

/* A whole one: two passes, every kind of entry, pages of both blocks in turn. */
static inline void make_whole(struct made *made)
{
	make_start(made);
	make_section(made, STREAM_SECTION_PART);
	make_page(made, "ram", 0, 0x11);
	make_page(made, NULL, 1, 0);
	make_page(made, NULL, 2, 0x22);
	make_page(made, "vga", 0, 0x33);
	make_page(made, NULL, 1, 0);
	make_page(made, NULL, 2, 0);
	make_page(made, "ram", 63, 0x44);
	make_eos(made);
	make_section(made, STREAM_SECTION_PART);
	make_page(made, NULL, 2, 0x55);
	make_page(made, NULL, 63, 0);
	make_page(made, "vga", 1, 0x66);
	make_eos(made);
	make_section(made, STREAM_SECTION_END);
	make_page(made, "vga", 0, 0x77);
	make_page(made, "ram", 1, 0x88);
	make_eos(made);
	make_tail(made);
}
