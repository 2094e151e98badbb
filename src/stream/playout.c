/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/playout.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* MIG_CMD_* in QEMU's migration/savevm.c. */
enum {
	COMMAND_OPEN_RETURN_PATH = 1,
	COMMAND_PING = 2,
	COMMAND_POSTCOPY_ADVISE = 3,
	COMMAND_POSTCOPY_LISTEN = 4,
	COMMAND_POSTCOPY_RUN = 5,
	COMMAND_POSTCOPY_DISCARD = 6,
	COMMAND_PACKAGED = 7,

	COMMAND_BYTES = 5,
	COMMANDS_BYTES_MAX = 1024, /* all of them together, without the package's content */
};

struct builder {
	uint8_t *bytes;
	size_t size, capacity;
};

static void put(struct builder *builder, const void *bytes, size_t size)
{
	assert(size <= builder->capacity - builder->size);
	if (size)
		memcpy(builder->bytes + builder->size, bytes, size);
	builder->size += size;
}

static void put_command(struct builder *builder, unsigned command, const void *data, size_t size)
{
	uint8_t head[COMMAND_BYTES] = {STREAM_COMMAND};

	put_be16(head + 1, (uint16_t)command);
	put_be16(head + 3, (uint16_t)size);
	put(builder, head, sizeof(head));
	put(builder, data, size);
}

/* The page sizes of the sender: of its memory, and of its target. Both sides must agree. */
static void put_advise(struct builder *builder)
{
	uint8_t data[16];

	put_be64(data, PAGE_BYTES);
	put_be64(data + 8, PAGE_BYTES);
	put_command(builder, COMMAND_POSTCOPY_ADVISE, data, sizeof(data));
}

static void put_discard(struct builder *builder, const struct manifest *manifest)
{
	size_t name = strlen(manifest->block);
	uint8_t data[2 + STREAM_NAME_BYTES + 1 + 16];

	data[0] = 0; /* version of this command's form */
	data[1] = (uint8_t)name;
	memcpy(data + 2, manifest->block, name + 1);
	put_be64(data + 2 + name + 1, 0);
	put_be64(data + 2 + name + 1 + 8, manifest->ram_bytes);
	put_command(builder, COMMAND_POSTCOPY_DISCARD, data, 2 + name + 1 + 16);
}

/* The package is loaded by QEMU's main thread while another one takes the pages. */
static void put_package(struct builder *builder, const struct state *state, uint32_t ping)
{
	const struct manifest *manifest = &state->manifest;
	uint8_t size[4], value[4];

	put_be32(size,
		(uint32_t)(COMMAND_BYTES + manifest->devices_bytes + COMMAND_BYTES + sizeof(value) + COMMAND_BYTES));
	put_command(builder, COMMAND_PACKAGED, size, sizeof(size));
	put_command(builder, COMMAND_POSTCOPY_LISTEN, NULL, 0);
	put(builder, state->image.mirror.bytes + manifest->tail_at, manifest->devices_bytes);
	put_be32(value, ping);
	put_command(builder, COMMAND_PING, value, sizeof(value));
	put_command(builder, COMMAND_POSTCOPY_RUN, NULL, 0);
}

static int builder_init(struct builder *builder, size_t capacity, struct err *err)
{
	*builder = (struct builder){.bytes = malloc(capacity), .capacity = capacity};
	return builder->bytes ? 0 : err_errno(err, ENOMEM, "memory for the device state");
}

int playout_head(const struct state *state, bool eager, uint32_t ping, uint8_t **bytes, size_t *size, struct err *err)
{
	const uint8_t *image = state->image.mirror.bytes;
	struct builder builder;

	if (builder_init(&builder, state->end_at + state->manifest.devices_bytes + COMMANDS_BYTES_MAX, err))
		return -1;
	put(&builder, image, state->start_at);
	put_command(&builder, COMMAND_OPEN_RETURN_PATH, NULL, 0);
	if (!eager)
		put_advise(&builder);
	put(&builder, image + state->start_at, state->end_at - state->start_at);
	if (!eager) {
		put_discard(&builder, &state->manifest);
		put_package(&builder, state, ping);
	}
	*bytes = builder.bytes;
	*size = builder.size;
	return 0;
}

int playout_end(const struct state *state, bool eager, uint8_t **bytes, size_t *size, struct err *err)
{
	const struct mirror *image = &state->image.mirror;
	static const uint8_t end_of_file = STREAM_EOF;
	struct builder builder;

	if (builder_init(&builder, image->size - state->end_at + 1, err))
		return -1;
	if (eager) {
		put(&builder, image->bytes + state->end_at, image->size - state->end_at);
	} else {
		put(&builder, image->bytes + state->end_at, state->manifest.tail_at - state->end_at);
		put(&builder, &end_of_file, 1);
	}
	*bytes = builder.bytes;
	*size = builder.size;
	return 0;
}

void playout_part_begin(const struct state *state, struct playout_part *part)
{
	part->bytes[0] = STREAM_SECTION_PART;
	put_be32(part->bytes + 1, state->image.ram_id);
	part->size = 5;
	part->block = -1;
}

void playout_part_page(
	const struct state *state, struct playout_part *part, uint32_t block, uint64_t index, const uint8_t *page)
{
	uint8_t *at = part->bytes + part->size;
	const char *name = state->image.layout.blocks[block].name;
	size_t name_size = strlen(name);
	uint64_t flags = page ? STREAM_RAM_PAGE : STREAM_RAM_ZERO;

	if (part->block == (int32_t)block) {
		put_be64(at, index << PAGE_BITS | flags | STREAM_RAM_CONTINUE);
		at += 8;
	} else {
		put_be64(at, index << PAGE_BITS | flags);
		at[8] = (uint8_t)name_size;
		memcpy(at + 9, name, name_size);
		at += 9 + name_size;
	}
	part->block = (int32_t)block;
	if (page)
		memcpy(at, page, PAGE_BYTES);
	else
		*at = 0;
	at += page ? (size_t)PAGE_BYTES : 1;
	part->size = (size_t)(at - part->bytes);
}

void playout_part_end(const struct state *state, struct playout_part *part)
{
	uint8_t *at = part->bytes + part->size;

	put_be64(at, STREAM_RAM_EOS);
	at[8] = STREAM_FOOTER;
	put_be32(at + 9, state->image.ram_id);
	part->size += 13;
}
