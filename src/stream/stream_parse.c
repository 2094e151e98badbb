/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/stream_parse.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
	HEADER_BYTES = 8,
	FOOTER_BYTES = 5,
	HEADER_MAGIC = 0x5145564d, /* "QEVM" */
	HEADER_VERSION = 3,
	FLAGS_MASK = PAGE_BYTES - 1,
};

void stream_parser_init(struct stream_parser *parser, const struct stream_sink *sink)
{
	memset(parser, 0, sizeof(*parser));
	parser->sink = sink;
	parser->block = -1;
}

static int bad(const struct stream_parser *parser, struct err *err, const char *what)
{
	return err_set(err, ERR_PROTOCOL, "migration stream at offset %" PRIu64 ": %s", parser->offset, what);
}

/* Each step returns the size of the element it took, 0 when more bytes are needed, or -1. */

static ssize_t step_header(struct stream_parser *parser, const uint8_t *at, size_t left, struct err *err)
{
	if (left < HEADER_BYTES)
		return 0;
	if (be32_at(at) != HEADER_MAGIC)
		return bad(parser, err, "does not begin as a QEMU stream");
	if (be32_at(at + 4) != HEADER_VERSION)
		return bad(parser, err, "unknown stream version");
	parser->place = STREAM_AT_CONFIGURATION;
	return parser->sink->head(parser->sink->ctx, at, HEADER_BYTES, err) ? -1 : HEADER_BYTES;
}

static ssize_t step_configuration(struct stream_parser *parser, const uint8_t *at, size_t left, struct err *err)
{
	if (left < 1)
		return 0;
	if (at[0] != STREAM_CONFIGURATION) {
		parser->place = STREAM_AT_START;
		return 0;
	}
	if (left < 5)
		return 0;
	uint32_t size = be32_at(at + 1);
	if (size >= STREAM_NAME_BYTES)
		return bad(parser, err, "machine name too long");
	if (left < 5 + size)
		return 0;
	parser->place = STREAM_AT_START;
	return parser->sink->head(parser->sink->ctx, at, 5 + size, err) ? -1 : (ssize_t)(5 + size);
}

static ssize_t step_start(struct stream_parser *parser, const uint8_t *at, size_t left, struct err *err)
{
	if (left < 1)
		return 0;
	if (at[0] != STREAM_SECTION_START)
		return bad(parser, err, "ram's start section expected");
	if (left < 6 || left < (size_t)6 + at[5] + 8)
		return 0;
	size_t name_size = at[5];
	if (name_size != 3 || memcmp(at + 6, "ram", 3)) {
		char name[STREAM_NAME_BYTES] = "";
		for (size_t i = 0; i < name_size; i++)
			name[i] = at[6 + i] >= ' ' && at[6 + i] < 0x7f ? (char)at[6 + i] : '?';
		return err_set(err, ERR_UNFIT, "device '%s' sends its state while the guest runs: not supported", name);
	}
	size_t size = 6 + name_size + 8;
	parser->ram_id = be32_at(at + 1);
	parser->section = STREAM_SECTION_START;
	parser->place = STREAM_AT_ENTRY;
	return parser->sink->head(parser->sink->ctx, at, size, err) ? -1 : (ssize_t)size;
}

static int block_find(const struct stream_layout *layout, const uint8_t *name, size_t size)
{
	for (uint32_t i = 0; i < layout->count; i++)
		if (strlen(layout->blocks[i].name) == size && !memcmp(layout->blocks[i].name, name, size))
			return (int)i;
	return -1;
}

static ssize_t step_sizes(struct stream_parser *parser, const uint8_t *at, size_t left, struct err *err)
{
	struct stream_layout *layout = &parser->layout;

	if (left < 1 || left < (size_t)1 + at[0] + 8)
		return 0;
	size_t name_size = at[0];
	uint64_t bytes = be64_at(at + 1 + name_size);
	if (!name_size || memchr(at + 1, 0, name_size))
		return bad(parser, err, "memory block without a proper name");
	if (layout->count == STREAM_BLOCKS_MAX)
		return bad(parser, err, "too many memory blocks");
	if (block_find(layout, at + 1, name_size) >= 0)
		return bad(parser, err, "memory block named twice");
	if (!bytes || bytes % PAGE_BYTES || bytes > STREAM_BLOCK_BYTES_MAX)
		return bad(parser, err, "memory block of impossible size");
	if (bytes > parser->sizes_left)
		return bad(parser, err, "memory blocks larger than their total");

	struct stream_block *block = &layout->blocks[layout->count++];
	memcpy(block->name, at + 1, name_size);
	block->bytes = bytes;
	parser->sizes_left -= bytes;
	if (parser->sink->head(parser->sink->ctx, at, 1 + name_size + 8, err))
		return -1;
	if (!parser->sizes_left) {
		parser->place = STREAM_AT_ENTRY;
		if (parser->sink->layout(parser->sink->ctx, layout, err))
			return -1;
	}
	return (ssize_t)(1 + name_size + 8);
}

/* The list of blocks begins: once, in the start section. */
static ssize_t sizes_begin(struct stream_parser *parser, const uint8_t *at, struct err *err)
{
	if (parser->section != STREAM_SECTION_START || parser->layout.count)
		return bad(parser, err, "second list of memory blocks");
	parser->sizes_left = be64_at(at) & ~(uint64_t)FLAGS_MASK;
	if (!parser->sizes_left)
		return bad(parser, err, "no memory blocks");
	parser->place = STREAM_AT_SIZES;
	return parser->sink->head(parser->sink->ctx, at, 8, err) ? -1 : 8;
}

static ssize_t entries_end(struct stream_parser *parser, const uint8_t *at, struct err *err)
{
	if (be64_at(at) != STREAM_RAM_EOS)
		return bad(parser, err, "end of section with an address");
	if (!parser->layout.count)
		return bad(parser, err, "no list of memory blocks");
	parser->place = STREAM_AT_FOOTER;
	if (parser->section == STREAM_SECTION_START && parser->sink->head(parser->sink->ctx, at, 8, err))
		return -1;
	return 8;
}

/* Which block an entry is of, and how many bytes its header takes (0: more are needed). */
static ssize_t entry_block(
	const struct stream_parser *parser, const uint8_t *at, size_t left, int *block, struct err *err)
{
	if (be64_at(at) & STREAM_RAM_CONTINUE) {
		if (parser->block < 0)
			return bad(parser, err, "page of the same block as none before");
		*block = parser->block;
		return 8;
	}
	if (left < 9 || left < (size_t)9 + at[8])
		return 0;
	*block = block_find(&parser->layout, at + 9, at[8]);
	if (*block < 0)
		return bad(parser, err, "page of an unknown memory block");
	return 9 + at[8];
}

static ssize_t step_entry(struct stream_parser *parser, const uint8_t *at, size_t left, struct err *err)
{
	if (left < 8)
		return 0;
	uint64_t address = be64_at(at) & ~(uint64_t)FLAGS_MASK;
	unsigned flags = (unsigned)(be64_at(at) & FLAGS_MASK);
	if (flags == STREAM_RAM_SIZES)
		return sizes_begin(parser, at, err);
	if (flags == STREAM_RAM_EOS)
		return entries_end(parser, at, err);

	unsigned kind = flags & ~(unsigned)STREAM_RAM_CONTINUE;
	if (kind != STREAM_RAM_PAGE && kind != STREAM_RAM_ZERO)
		return err_set(err, ERR_PROTOCOL, "migration stream at offset %" PRIu64 ": unknown page flags 0x%x",
			parser->offset, flags);
	int block = -1;
	ssize_t head = entry_block(parser, at, left, &block, err);
	if (head <= 0)
		return head;
	size_t size = (size_t)head + (kind == STREAM_RAM_PAGE ? (size_t)PAGE_BYTES : 1);
	if (left < size)
		return 0;
	if (address >= parser->layout.blocks[block].bytes)
		return bad(parser, err, "page beyond the end of its memory block");
	if (kind == STREAM_RAM_ZERO && at[head])
		return bad(parser, err, "page filled with another byte than zero");
	const uint8_t *page = kind == STREAM_RAM_PAGE ? at + head : NULL;
	parser->block = block;
	if (parser->sink->page(parser->sink->ctx, (uint32_t)block, address >> PAGE_BITS, page, err))
		return -1;
	return (ssize_t)size;
}

static ssize_t step_footer(struct stream_parser *parser, const uint8_t *at, size_t left, struct err *err)
{
	if (left < FOOTER_BYTES)
		return 0;
	if (at[0] != STREAM_FOOTER || be32_at(at + 1) != parser->ram_id)
		return bad(parser, err, "section does not end with its footer");
	parser->place = STREAM_AT_SECTION;
	if (parser->section == STREAM_SECTION_START && parser->sink->head(parser->sink->ctx, at, FOOTER_BYTES, err))
		return -1;
	if (parser->section == STREAM_SECTION_END) {
		parser->place = STREAM_AT_TAIL;
		if (parser->sink->ram_end(parser->sink->ctx, err))
			return -1;
	}
	return FOOTER_BYTES;
}

static ssize_t step_section(struct stream_parser *parser, const uint8_t *at, size_t left, struct err *err)
{
	if (left < 1)
		return 0;
	if (at[0] == STREAM_SECTION_START) {
		parser->place = STREAM_AT_START;
		ssize_t taken = step_start(parser, at, left, err);
		parser->place = STREAM_AT_SECTION;
		return taken > 0 ? bad(parser, err, "ram begins twice") : taken;
	}
	if (at[0] != STREAM_SECTION_PART && at[0] != STREAM_SECTION_END)
		return err_set(err, ERR_PROTOCOL, "migration stream at offset %" PRIu64 ": unknown element 0x%02x",
			parser->offset, at[0]);
	if (left < 5)
		return 0;
	if (be32_at(at + 1) != parser->ram_id)
		return bad(parser, err, "part of a section that was not begun");
	parser->section = at[0];
	parser->place = STREAM_AT_ENTRY;
	return 5;
}

static ssize_t step_tail(struct stream_parser *parser, const uint8_t *at, size_t left, struct err *err)
{
	if (!left)
		return 0;
	return parser->sink->tail(parser->sink->ctx, at, left, err) ? -1 : (ssize_t)left;
}

static ssize_t step(struct stream_parser *parser, const uint8_t *at, size_t left, struct err *err)
{
	switch (parser->place) {
	case STREAM_AT_HEADER:
		return step_header(parser, at, left, err);
	case STREAM_AT_CONFIGURATION:
		return step_configuration(parser, at, left, err);
	case STREAM_AT_START:
		return step_start(parser, at, left, err);
	case STREAM_AT_SIZES:
		return step_sizes(parser, at, left, err);
	case STREAM_AT_ENTRY:
		return step_entry(parser, at, left, err);
	case STREAM_AT_FOOTER:
		return step_footer(parser, at, left, err);
	case STREAM_AT_SECTION:
		return step_section(parser, at, left, err);
	case STREAM_AT_TAIL:
		return step_tail(parser, at, left, err);
	}
	abort();
}

ssize_t stream_parse(struct stream_parser *parser, const uint8_t *bytes, size_t size, struct err *err)
{
	size_t done = 0;

	for (;;) {
		enum stream_place before = parser->place;
		ssize_t taken = step(parser, bytes + done, size - done, err);
		if (taken < 0)
			return -1;
		done += (size_t)taken;
		parser->offset += (uint64_t)taken;
		/* A missing configuration changes the place without taking a byte. */
		if (!taken && parser->place == before)
			return (ssize_t)done;
	}
}

int stream_parse_finish(const struct stream_parser *parser, size_t left, struct err *err)
{
	if (parser->place == STREAM_AT_TAIL && !left)
		return 0;
	return err_set(err, ERR_PROTOCOL, "migration stream ends at offset %" PRIu64 ", before the guest was stopped",
		parser->offset + left);
}

int stream_tail_split(const uint8_t *tail, size_t size, size_t *devices_size, struct err *err)
{
	enum {
		MARKS_BYTES = 1 + 1 + 4, /* end of file, description, be32 */
		KEY_WITHIN = 128,	 /* {"page_size": 4096, "devices": [... */
	};
	static const char key[] = "\"devices\"";

	if (size && tail[0] != STREAM_SECTION_FULL)
		return err_set(err, ERR_PROTOCOL, "migration stream: no device state after the memory");
	/* The description is text, so that going back over text finds where it begins; its length and its first key
	 * prove it, lest a device's own bytes are taken for it in a stream that was cut off behind them. */
	for (size_t at = size; at-- > MARKS_BYTES;) {
		if (tail[at] < ' ' && tail[at] != '\n' && tail[at] != '\t' && tail[at] != '\r')
			break;
		const uint8_t *marks = tail + at - MARKS_BYTES;
		if (tail[at] == '{' && be32_at(marks + 2) == size - at && marks[0] == STREAM_EOF &&
			marks[1] == STREAM_DESCRIPTION &&
			memmem(tail + at, size - at < KEY_WITHIN ? size - at : KEY_WITHIN, key, sizeof(key) - 1)) {
			*devices_size = at - MARKS_BYTES;
			return 0;
		}
	}
	return err_set(err, ERR_PROTOCOL, "migration stream is cut off within the device state");
}
