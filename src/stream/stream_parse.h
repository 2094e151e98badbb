/* SPDX-License-Identifier: Apache-2.0
 * QEMU's migration stream, taken apart (QEMU's docs/devel/migration.rst; file header version 3 of QEMU 1.1 and later).
 *
 *	file	= "QEVM" be32(3) [0x07 be32-counted machine] start (part)* end tail
 *	start	= 0x01 be32(id) "ram" be32 be32 entry* EOS footer	part = 0x02 be32(id) entry* EOS footer
 *	end	= 0x03 be32(id) entry* EOS footer			footer = 0x7e be32(id)
 *	tail	= 0x04 full sections ... 0x00 0x06 be32-counted JSON	devices' state has no lengths: opaque to us
 *
 * A push parser: feed it what is there; it consumes whole elements, calls the sink, and leaves the rest (less than
 * STREAM_LOOKAHEAD bytes) for the next call. Pages are handed over in place, never copied. The same parser reads the
 * pipe from QEMU and the `device` file of a saved state, so it believes nothing: every count is checked, every failure
 * names the offset.
 * Must never: allocate, or keep a pointer into what it was fed. */
#pragma once

#include "base/err.h"
#include "stream/page.h"

enum {
	STREAM_BLOCKS_MAX = 64,
	STREAM_NAME_BYTES = 256,
	/* The longest element: flags, name, page. */
	STREAM_LOOKAHEAD = 8 + 1 + 255 + PAGE_BYTES + 8,
	STREAM_TAIL_MAX = 64 << 20,
};

/* Of one memory block: 16 TiB. Of all blocks but the largest: they are kept in memory while saving. */
#define STREAM_BLOCK_BYTES_MAX (UINT64_C(1) << 44)
#define STREAM_SMALL_BYTES_MAX (UINT64_C(512) << 20)

/* Element tags and flags as QEMU's migration/savevm.c and migration/ram.c have them. */
enum {
	STREAM_EOF = 0x00,
	STREAM_SECTION_START = 0x01,
	STREAM_SECTION_PART = 0x02,
	STREAM_SECTION_END = 0x03,
	STREAM_SECTION_FULL = 0x04,
	STREAM_DESCRIPTION = 0x06,
	STREAM_CONFIGURATION = 0x07,
	STREAM_COMMAND = 0x08,
	STREAM_FOOTER = 0x7e,

	STREAM_RAM_ZERO = 0x02,
	STREAM_RAM_SIZES = 0x04,
	STREAM_RAM_PAGE = 0x08,
	STREAM_RAM_EOS = 0x10,
	STREAM_RAM_CONTINUE = 0x20,
};

struct stream_block {
	char name[STREAM_NAME_BYTES];
	uint64_t bytes; /* a multiple of PAGE_BYTES, not 0 */
};

struct stream_layout {
	uint32_t count;
	struct stream_block blocks[STREAM_BLOCKS_MAX];
};

/* Each returns 0, or -1 with *err set, which ends the parse. */
struct stream_sink {
	void *ctx;
	/* File header, configuration, ram's start section: the bytes as they came. */
	int (*head)(void *ctx, const uint8_t *bytes, size_t size, struct err *err);
	/* Once, before any page. */
	int (*layout)(void *ctx, const struct stream_layout *layout, struct err *err);
	/* page NULL: all zero. Lies within the bytes that were fed. */
	int (*page)(void *ctx, uint32_t block, uint64_t index, const uint8_t *page, struct err *err);
	/* ram's end section is complete; then the tail as it comes. */
	int (*ram_end)(void *ctx, struct err *err);
	int (*tail)(void *ctx, const uint8_t *bytes, size_t size, struct err *err);
};

enum stream_place {
	STREAM_AT_HEADER,
	STREAM_AT_CONFIGURATION, /* or at the start section: the configuration is optional */
	STREAM_AT_START,
	STREAM_AT_SIZES, /* within ram: the list of blocks */
	STREAM_AT_ENTRY, /* within ram: pages */
	STREAM_AT_FOOTER,
	STREAM_AT_SECTION, /* between ram's sections */
	STREAM_AT_TAIL,
};

struct stream_parser {
	const struct stream_sink *sink;
	enum stream_place place;
	uint8_t section; /* tag of the section that is open */
	uint32_t ram_id;
	uint64_t offset;     /* bytes consumed */
	uint64_t sizes_left; /* of the list of blocks */
	int32_t block;	     /* of the last page; -1: none yet */
	struct stream_layout layout;
};

void stream_parser_init(struct stream_parser *parser, const struct stream_sink *sink);

/* The count of bytes consumed, or -1 with ERR_PROTOCOL (not a stream), ERR_UNFIT (a device that cannot be copied live)
 * or what the sink said. */
ssize_t stream_parse(struct stream_parser *parser, const uint8_t *bytes, size_t size, struct err *err);

/* Call at the end of the input with what was left over: -1 when the stream is not whole up to its tail. */
int stream_parse_finish(const struct stream_parser *parser, size_t left, struct err *err);

/* The tail of a complete stream: how many bytes the full sections take, before the end-of-file mark and the machine's
 * description. A stream that QEMU gave up does not have these, so this is also the proof that it is complete. */
int stream_tail_split(const uint8_t *tail, size_t size, size_t *devices_size, struct err *err);

static inline uint16_t be16_at(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}
static inline uint32_t be32_at(const uint8_t *at)
{
	return (uint32_t)be16_at(at) << 16 | be16_at(at + 2);
}
static inline uint64_t be64_at(const uint8_t *at)
{
	return (uint64_t)be32_at(at) << 32 | be32_at(at + 4);
}
static inline void put_be16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}
static inline void put_be32(uint8_t *at, uint32_t value)
{
	put_be16(at, (uint16_t)(value >> 16));
	put_be16(at + 2, (uint16_t)value);
}
static inline void put_be64(uint8_t *at, uint64_t value)
{
	put_be32(at, (uint32_t)(value >> 32));
	put_be32(at + 4, (uint32_t)value);
}
