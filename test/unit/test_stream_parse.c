/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "stream/device_image.h"
#include "stream/return_path.h"
#include "stream_make.h"

/* What a sink saw: memory as it would be, and how often each call came. */
struct seen {
	uint8_t main[MADE_MAIN_PAGES][PAGE_BYTES];
	uint8_t small[MADE_SMALL_PAGES][PAGE_BYTES];
	unsigned pages, ends;
	struct made head, tail;
	struct device_image *image; /* fed as well, if set */
	const struct stream_parser *parser;
};

static int on_head(void *ctx, const uint8_t *bytes, size_t size, struct err *err)
{
	struct seen *seen = ctx;

	make_bytes(&seen->head, bytes, size);
	return seen->image ? device_image_head(seen->image, bytes, size, err) : 0;
}

static int on_layout(void *ctx, const struct stream_layout *layout, struct err *err)
{
	struct seen *seen = ctx;

	return seen->image ? device_image_layout(seen->image, layout, 0, seen->parser->ram_id, err) : 0;
}

static int on_page(void *ctx, uint32_t block, uint64_t index, const uint8_t *page, struct err *err)
{
	struct seen *seen = ctx;
	uint8_t *to = block ? seen->small[index] : seen->main[index];

	seen->pages++;
	if (page)
		memcpy(to, page, PAGE_BYTES);
	else
		memset(to, 0, PAGE_BYTES);
	return block && seen->image ? device_image_page(seen->image, block, index, page, err) : 0;
}

static int on_ram_end(void *ctx, struct err *err)
{
	struct seen *seen = ctx;

	seen->ends++;
	return seen->image ? device_image_ram_end(seen->image, err) : 0;
}

static int on_tail(void *ctx, const uint8_t *bytes, size_t size, struct err *err)
{
	struct seen *seen = ctx;

	make_bytes(&seen->tail, bytes, size);
	return seen->image ? device_image_tail(seen->image, bytes, size, err) : 0;
}

/* Feeds all of it in turns of at most `turn` bytes, as a pipe would. 0: it was a whole stream. */
static int feed(struct seen *seen, const uint8_t *bytes, size_t size, size_t turn, struct err *err)
{
	const struct stream_sink sink = {.ctx = seen,
		.head = on_head,
		.layout = on_layout,
		.page = on_page,
		.ram_end = on_ram_end,
		.tail = on_tail};
	struct stream_parser parser;
	size_t from = 0;

	stream_parser_init(&parser, &sink);
	seen->parser = &parser;
	for (size_t to = 0; to < size;) {
		to = size - to < turn ? size : to + turn;
		ssize_t taken = stream_parse(&parser, bytes + from, to - from, err);
		if (taken < 0)
			return -1;
		from += (size_t)taken;
		assert_true(parser.place == STREAM_AT_TAIL || to - from < STREAM_LOOKAHEAD);
		assert_int_equal(parser.offset, from);
	}
	return stream_parse_finish(&parser, size - from, err);
}

static struct seen *seen_new(void)
{
	return calloc(1, sizeof(struct seen));
}

static struct made *whole_new(void)
{
	struct made *made = calloc(1, sizeof(*made));

	make_whole(made);
	return made;
}

static void assert_memory(const struct seen *seen)
{
	assert_int_equal(seen->main[0][0], 0x11);
	assert_int_equal(seen->main[1][4095], 0x88);
	assert_int_equal(seen->main[2][7], 0x55);
	assert_int_equal(seen->main[63][0], 0);
	assert_int_equal(seen->small[0][0], 0x77);
	assert_int_equal(seen->small[1][0], 0x66);
	assert_int_equal(seen->small[2][0], 0);
}

/* A pipe cuts anywhere: the result must not depend on where. */
static void a_stream_is_understood_however_it_is_cut(void **unused)
{
	struct made *made = whole_new();
	static const size_t turns[] = {1, 2, 7, 8, 9, 13, 4095, 4096, 4097, 1 << 20};

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(turns); i++) {
		struct seen *seen = seen_new();
		struct err err = {0};
		assert_int_equal(feed(seen, made->bytes, made->size, turns[i], &err), 0);
		assert_memory(seen);
		assert_int_equal(seen->pages, 12);
		assert_int_equal(seen->ends, 1);
		free(seen);
	}
	free(made);
}

/* A QEMU that dies leaves a stream cut off anywhere; none of these may pass for a complete one. */
static void a_truncated_stream_is_never_complete(void **unused)
{
	struct made *made = whole_new();
	size_t devices;

	(void)unused;
	for (size_t size = 0; size < made->size; size++) {
		struct seen *seen = seen_new();
		struct err err = {0};
		int cut = feed(seen, made->bytes, size, made->size, &err);
		assert_true(cut || stream_tail_split(seen->tail.bytes, seen->tail.size, &devices, &err));
		assert_true(err.code == ERR_PROTOCOL);
		free(seen);
	}
	struct seen *seen = seen_new();
	assert_int_equal(feed(seen, made->bytes, made->size, made->size, NULL), 0);
	assert_int_equal(stream_tail_split(seen->tail.bytes, seen->tail.size, &devices, NULL), 0);
	assert_int_equal(devices, 33);
	free(seen);
	free(made);
}

static void refused(struct made *made, enum err_code code, const char *text)
{
	struct seen *seen = seen_new();
	struct err err = {0};

	assert_int_equal(feed(seen, made->bytes, made->size, made->size, &err), -1);
	assert_int_equal(err.code, code);
	if (!strstr(err.text, text))
		fail_msg("'%s' was expected in '%s'", text, err.text);
	free(seen);
	made->size = 0;
}

/* Nothing is guessed: what we do not know ends the save, with the place where it stands. */
static void what_is_unknown_is_refused_with_its_offset(void **unused)
{
	struct made *made = calloc(1, sizeof(*made));
	static const unsigned flags[] = {0x00, 0x01, 0x40, 0x80, 0x100, 0x200, 0x0a, 0x14, 0x18, 0x24, 0x30};
	char offset[64];

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		make_start(made);
		make_section(made, STREAM_SECTION_PART);
		snprintf(offset, sizeof(offset), "offset %zu: ", made->size);
		make_be64(made, flags[i]);
		make_name(made, "ram");
		refused(made, ERR_PROTOCOL, offset);
	}
	make_bytes(made, "QEVN\0\0\0\3", 8);
	refused(made, ERR_PROTOCOL, "offset 0: does not begin");
	make_bytes(made, "QEVM\0\0\0\4", 8);
	refused(made, ERR_PROTOCOL, "offset 0: unknown stream version");
	make_header(made);
	make_u8(made, 0x05);
	refused(made, ERR_PROTOCOL, "offset 23: ram's start section expected");
	make_start(made);
	make_u8(made, STREAM_COMMAND);
	refused(made, ERR_PROTOCOL, "unknown element 0x08");
	make_start(made);
	make_u8(made, STREAM_SECTION_FULL);
	refused(made, ERR_PROTOCOL, "unknown element 0x04");
	free(made);
}

/* A device with live state of its own (VFIO, block migration) would be lost silently otherwise. */
static void a_device_that_copies_itself_is_named(void **unused)
{
	struct made *made = calloc(1, sizeof(*made));

	(void)unused;
	make_header(made);
	make_u8(made, STREAM_SECTION_START);
	make_be32(made, 1);
	make_name(made, "0000:00:03.0/vf\x01io");
	make_be64(made, 1);
	refused(made, ERR_UNFIT, "device '0000:00:03.0/vf?io'");
	make_start(made);
	make_u8(made, STREAM_SECTION_START);
	make_be32(made, 3);
	make_name(made, "block");
	make_be64(made, 1);
	refused(made, ERR_UNFIT, "device 'block'");
	make_start(made);
	make_ram_section(made);
	refused(made, ERR_PROTOCOL, "ram begins twice");
	free(made);
}

static void sizes(struct made *made, uint64_t total)
{
	make_header(made);
	make_ram_section(made);
	make_be64(made, total | STREAM_RAM_SIZES);
}

/* Counts come from a stream that may be forged: none of them may overflow or repeat. */
static void impossible_block_lists_are_refused(void **unused)
{
	struct made *made = calloc(1, sizeof(*made));

	(void)unused;
	sizes(made, 0);
	refused(made, ERR_PROTOCOL, "no memory blocks");
	sizes(made, 4096);
	make_block(made, "ram", 8192);
	refused(made, ERR_PROTOCOL, "larger than their total");
	sizes(made, UINT64_MAX & ~UINT64_C(4095));
	make_block(made, "ram", UINT64_MAX & ~UINT64_C(4095));
	refused(made, ERR_PROTOCOL, "impossible size");
	sizes(made, 8192);
	make_block(made, "ram", 4095);
	refused(made, ERR_PROTOCOL, "impossible size");
	sizes(made, 8192);
	make_block(made, "ram", 0);
	refused(made, ERR_PROTOCOL, "impossible size");
	sizes(made, 8192);
	make_block(made, "ram", 4096);
	make_block(made, "ram", 4096);
	refused(made, ERR_PROTOCOL, "named twice");
	sizes(made, 8192);
	make_block(made, "", 4096);
	refused(made, ERR_PROTOCOL, "without a proper name");
	sizes(made, 1 << 20);
	for (int i = 0; i <= STREAM_BLOCKS_MAX; i++) {
		char name[16];
		snprintf(name, sizeof(name), "block%d", i);
		make_block(made, name, 4096);
	}
	refused(made, ERR_PROTOCOL, "too many memory blocks");
	make_start(made);
	make_section(made, STREAM_SECTION_PART);
	make_be64(made, 4096 | STREAM_RAM_SIZES);
	refused(made, ERR_PROTOCOL, "second list");
	make_header(made);
	make_ram_section(made);
	make_eos(made);
	refused(made, ERR_PROTOCOL, "no list of memory blocks");
	free(made);
}

static void part(struct made *made)
{
	make_start(made);
	make_section(made, STREAM_SECTION_PART);
}

static void impossible_pages_are_refused(void **unused)
{
	struct made *made = calloc(1, sizeof(*made));

	(void)unused;
	part(made);
	make_page(made, NULL, 0, 1);
	refused(made, ERR_PROTOCOL, "the same block as none before");
	part(made);
	make_page(made, "rom", 0, 1);
	refused(made, ERR_PROTOCOL, "unknown memory block");
	part(made);
	make_page(made, "ram", MADE_MAIN_PAGES, 1);
	refused(made, ERR_PROTOCOL, "beyond the end");
	part(made);
	make_page(made, "vga", UINT64_MAX >> PAGE_BITS, 0);
	refused(made, ERR_PROTOCOL, "beyond the end");
	part(made);
	make_be64(made, STREAM_RAM_ZERO);
	make_name(made, "ram");
	make_u8(made, 0xff);
	refused(made, ERR_PROTOCOL, "another byte than zero");
	part(made);
	make_be64(made, 4096 | STREAM_RAM_EOS);
	refused(made, ERR_PROTOCOL, "end of section with an address");
	part(made);
	make_be64(made, STREAM_RAM_EOS);
	make_u8(made, STREAM_FOOTER);
	make_be32(made, MADE_RAM_ID + 1);
	refused(made, ERR_PROTOCOL, "footer");
	make_start(made);
	make_u8(made, STREAM_SECTION_PART);
	make_be32(made, MADE_RAM_ID + 1);
	refused(made, ERR_PROTOCOL, "not begun");
	free(made);
}

/* However often the screen is drawn while the guest is copied, the device file has each of its pages once or twice. */
static void the_device_file_stays_bounded_and_reads_back_as_itself(void **unused)
{
	struct made *made = calloc(1, sizeof(*made));
	struct device_image image, again;
	struct err err = {0};

	(void)unused;
	make_start(made);
	for (unsigned pass = 1; pass <= 20; pass++) {
		make_section(made, STREAM_SECTION_PART);
		make_page(made, "vga", 0, 0);
		make_page(made, NULL, 1, (uint8_t)pass);
		make_page(made, NULL, 2, pass % 2 ? (uint8_t)pass : 0);
		make_page(made, "ram", 5, (uint8_t)pass);
		make_eos(made);
	}
	make_section(made, STREAM_SECTION_END);
	make_eos(made);
	make_tail(made);

	struct seen *seen = seen_new();
	assert_int_equal(device_image_init(&image, -1, &err), 0);
	seen->image = &image;
	assert_int_equal(feed(seen, made->bytes, made->size, 4096, &err), 0);
	assert_true(image.mirror.size < seen->head.size + (2 * MADE_SMALL_PAGES) * (PAGE_BYTES + 300) + 200);

	struct seen *reread = seen_new();
	assert_int_equal(device_image_init(&again, -1, &err), 0);
	reread->image = &again;
	assert_int_equal(feed(reread, image.mirror.bytes, image.mirror.size, 1 << 20, &err), 0);
	assert_memory_equal(reread->small, seen->small, sizeof(seen->small));
	assert_int_equal(reread->main[5][0], 0);
	assert_int_equal(again.mirror.size, image.mirror.size);
	assert_memory_equal(again.mirror.bytes, image.mirror.bytes, image.mirror.size);
	assert_int_equal(again.tail_at, image.tail_at);
	device_image_fini(&image);
	device_image_fini(&again);
	free(seen);
	free(reread);
	free(made);
}

/* Post-copy empties all memory first: a small page that is not in the file would be zero then. */
static void a_small_page_that_never_came_is_noticed(void **unused)
{
	struct made *made = calloc(1, sizeof(*made));
	struct device_image image;
	struct err err = {0};

	(void)unused;
	part(made);
	make_page(made, "vga", 0, 1);
	make_page(made, NULL, 2, 0);
	make_eos(made);
	make_section(made, STREAM_SECTION_END);
	make_eos(made);
	make_tail(made);
	struct seen *seen = seen_new();
	assert_int_equal(device_image_init(&image, -1, &err), 0);
	seen->image = &image;
	assert_int_equal(feed(seen, made->bytes, made->size, 4096, &err), -1);
	assert_non_null(strstr(err.text, "page 1 of memory block 'vga'"));
	device_image_fini(&image);
	free(seen);
	free(made);
}

struct heard {
	char name[256];
	uint64_t start;
	uint32_t size, pong, shut;
	unsigned calls;
};

static int on_pages(void *ctx, const char *name, uint64_t start, uint32_t size, struct err *err)
{
	struct heard *heard = ctx;

	(void)err;
	snprintf(heard->name, sizeof(heard->name), "%s", name ? name : "(same)");
	heard->start = start;
	heard->size = size;
	heard->calls++;
	return 0;
}

static int on_pong(void *ctx, uint32_t value, struct err *err)
{
	(void)err;
	((struct heard *)ctx)->pong = value;
	return 0;
}

static int on_shut(void *ctx, uint32_t status, struct err *err)
{
	(void)err;
	((struct heard *)ctx)->shut = status;
	return 0;
}

static void requests_are_understood_and_bounded(void **unused)
{
	static const uint8_t bytes[] = "\0\3\0\x10\0\0\0\0\0\0\x50\0\0\0\x10\0\3ram"
				       "\0\4\0\x0c\0\0\0\1\0\0\0\0\0\0\x20\0"
				       "\0\2\0\4\1\2\3\4"
				       "\0\1\0\4\0\0\0\7";
	static const struct {
		const char *bytes;
		size_t size;
	} bad[] = {
		{"\0\3\0\x10\0\0\0\0\0\0\x50\0\0\0\x10\0\4ram", 20},
		{"\0\3\0\x0c\0\0\0\0\0\0\x50\0\0\0\x10\0", 16},
		{"\0\4\0\x0b\0\0\0\0\0\0\x50\0\0\0\x10", 15},
		{"\0\1\0\0", 4},
		{"\0\2\0\5\0\0\0\0\0", 9},
		{"\0\5\0\4\0\0\0\0", 8},
		{"\0\3\xff\xff", 4},
		{"\0\0\0\0", 4},
	};
	struct heard heard = {0};
	const struct return_sink sink = {.ctx = &heard, .pages = on_pages, .pong = on_pong, .shut = on_shut};
	struct err err;

	(void)unused;
	assert_int_equal(return_parse(&sink, bytes, 20, &err), 20);
	assert_string_equal(heard.name, "ram");
	assert_int_equal(heard.start, 0x5000);
	assert_int_equal(return_parse(&sink, bytes + 20, 15, &err), 0);
	assert_int_equal(return_parse(&sink, bytes + 20, sizeof(bytes) - 1 - 20, &err), sizeof(bytes) - 1 - 20);
	assert_string_equal(heard.name, "(same)");
	assert_int_equal(heard.start, UINT64_C(1) << 32);
	assert_int_equal(heard.size, 0x2000);
	assert_int_equal(heard.pong, 0x01020304);
	assert_int_equal(heard.shut, 7);
	assert_int_equal(heard.calls, 2);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(return_parse(&sink, (const uint8_t *)bad[i].bytes, bad[i].size, &err), -1);
		assert_int_equal(err.code, ERR_PROTOCOL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stream_is_understood_however_it_is_cut),
		cmocka_unit_test(a_truncated_stream_is_never_complete),
		cmocka_unit_test(what_is_unknown_is_refused_with_its_offset),
		cmocka_unit_test(a_device_that_copies_itself_is_named),
		cmocka_unit_test(impossible_block_lists_are_refused),
		cmocka_unit_test(impossible_pages_are_refused),
		cmocka_unit_test(the_device_file_stays_bounded_and_reads_back_as_itself),
		cmocka_unit_test(a_small_page_that_never_came_is_noticed),
		cmocka_unit_test(requests_are_understood_and_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
