/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/state.h"
#include "stream/file.h"
#include "stream/protocol.h"
#include "stream/sums.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

enum {
	END_SECTION_BYTES = 5 + 8 + 5,
	VERIFY_PAGES = 256,
};

static int expect_check(const json_t *expect, const json_t *facts, struct err *err)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)expect, name, value)
	{
		const json_t *found = json_object_get(facts, name);
		if (found && json_equal(found, value))
			continue;
		CLEANUP_FREE char *is = found ? json_dumps(found, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
		CLEANUP_FREE char *wanted = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		return err_set(err, ERR_UNFIT, "saved state has %s %.100s, %.100s was expected", name,
			is ? is : "nothing", wanted ? wanted : "another");
	}
	return 0;
}

/* From the room, or else in small pages: the kernel may look for ten ms for a huge one, and QEMU waits. */
static uint8_t *read_whole(
	struct room *room, int fd, const char *name, uint64_t size, uint64_t sum, struct err *err)
{
	uint8_t *bytes = room_take(room, size);

	if (!bytes) {
		err_errno(err, ENOMEM, "memory for '%s'", name);
		return NULL;
	}
	int result = file_read(fd, name, bytes, size, 0, err);
	if (!result && bytes_sum(bytes, size) != sum)
		result = err_set(err, ERR_CORRUPT, "the checksum of '%s' does not hold", name);
	if (result)
		room_give(room, STEAL(bytes));
	return bytes;
}

/* The device file is a stream: its parts go into an image of it. */

struct rebuild {
	struct state *state;
	const struct stream_parser *parser;
};

static int on_head(void *ctx, const uint8_t *bytes, size_t size, struct err *err)
{
	struct state *state = ((struct rebuild *)ctx)->state;

	/* The last that is neither header nor configuration begins ram. */
	if (bytes[0] == STREAM_SECTION_START && !state->start_at)
		state->start_at = state->image.mirror.size;
	return device_image_head(&state->image, bytes, size, err);
}

static int on_layout(void *ctx, const struct stream_layout *layout, struct err *err)
{
	struct rebuild *rebuild = ctx;
	const struct manifest *manifest = &rebuild->state->manifest;

	for (uint32_t i = 0; i < layout->count; i++) {
		if (strcmp(layout->blocks[i].name, manifest->block))
			continue;
		if (layout->blocks[i].bytes != manifest->ram_bytes)
			return err_set(err, ERR_CORRUPT,
				"memory block '%s' has %" PRIu64 " bytes in 'device', %" PRIu64 " in the manifest",
				manifest->block, layout->blocks[i].bytes, manifest->ram_bytes);
		return device_image_layout(&rebuild->state->image, layout, i, rebuild->parser->ram_id, err);
	}
	return err_set(err, ERR_CORRUPT, "'device' knows no memory block '%s'", manifest->block);
}

static int on_page(void *ctx, uint32_t block, uint64_t index, const uint8_t *page, struct err *err)
{
	struct state *state = ((struct rebuild *)ctx)->state;

	if (block == state->image.main_block)
		return err_set(err, ERR_CORRUPT, "'device' holds a page of the main memory");
	return device_image_page(&state->image, block, index, page, err);
}

static int on_ram_end(void *ctx, struct err *err)
{
	return device_image_ram_end(&((struct rebuild *)ctx)->state->image, err);
}

static int on_tail(void *ctx, const uint8_t *bytes, size_t size, struct err *err)
{
	return device_image_tail(&((struct rebuild *)ctx)->state->image, bytes, size, err);
}

static int device_parse(struct state *state, const uint8_t *bytes, struct err *err)
{
	struct stream_parser parser;
	struct rebuild rebuild = {.state = state, .parser = &parser};
	const struct stream_sink sink = {.ctx = &rebuild,
		.head = on_head,
		.layout = on_layout,
		.page = on_page,
		.ram_end = on_ram_end,
		.tail = on_tail};
	const struct manifest *manifest = &state->manifest;
	const struct mirror *image = &state->image.mirror;
	size_t size = manifest->device_bytes;
	size_t devices_bytes;

	stream_parser_init(&parser, &sink);
	ssize_t taken = stream_parse(&parser, bytes, size, err);
	if (taken < 0 || stream_parse_finish(&parser, size - (size_t)taken, err))
		return -1;
	/* What we write reads back as itself; anything else was not written by us. */
	if (image->size != size || memcmp(image->bytes, bytes, size) || state->image.tail_at != manifest->tail_at)
		return err_set(err, ERR_CORRUPT, "'device' is not of the form that a save gives it");
	if (stream_tail_split(bytes + manifest->tail_at, size - manifest->tail_at, &devices_bytes, err))
		return -1;
	if (devices_bytes != manifest->devices_bytes)
		return err_set(err, ERR_CORRUPT, "device state has %zu bytes, the manifest says %" PRIu64,
			devices_bytes, manifest->devices_bytes);
	state->end_at = manifest->tail_at - END_SECTION_BYTES;
	return 0;
}

static int device_load(struct state *state, struct err *err)
{
	const struct manifest *manifest = &state->manifest;

	if (manifest->device_bytes > 2 * STREAM_SMALL_BYTES_MAX + STREAM_TAIL_MAX)
		return err_set(err, ERR_CORRUPT, "'device' has %" PRIu64 " bytes: impossible", manifest->device_bytes);
	CLEANUP_FREE uint8_t *bytes =
		read_whole(NULL, state->files.device, STREAM_STATE_DEVICE, manifest->device_bytes, manifest->device_sum, err);
	if (!bytes || device_image_init(&state->image, -1, err))
		return -1;
	state->have_image = true;
	if (!device_parse(state, bytes, err))
		return 0;
	/* What QEMU's stream may not have is corrupt here: we would not have saved it. */
	if (err->code == ERR_PROTOCOL || err->code == ERR_UNFIT)
		err->code = ERR_CORRUPT;
	return err_prefix(err, "device");
}

int state_load_sums(struct state *state, struct err *err)
{
	uint64_t used = 0;

	state->sums = read_whole(state->room,
		state->files.sums, STREAM_STATE_SUMS, sums_bytes(state->pages), state->manifest.sums_sum, err);
	if (!state->sums)
		return -1;
	for (uint64_t page = 0; page < state->pages; page++)
		used += sums_get(state->sums, page) != 0;
	if (used * PAGE_BYTES != state->manifest.used_bytes)
		return err_set(err, ERR_CORRUPT, "'sums' has %" PRIu64 " pages in use, the manifest says %" PRIu64,
			used, state->manifest.used_bytes / PAGE_BYTES);
	return 0;
}

int state_load_devices(int dir, const json_t *expect, uint64_t ram_bytes, struct state *state, struct err *err)
{
	*state = (struct state){.dir = dir, .files = STATE_FILES_NONE};
	if (state_open(dir, &state->files, &state->manifest, &state->facts, err))
		return -1;
	state->pages = state->manifest.ram_bytes >> PAGE_BITS;
	bool fits = state->manifest.ram_bytes == ram_bytes;
	if (!fits)
		err_set(err, ERR_UNFIT, "saved state has %" PRIu64 " MiB of memory, the guest has %" PRIu64,
			state->manifest.ram_bytes >> 20, ram_bytes >> 20);
	if (!fits || (expect && expect_check(expect, state->facts, err)) || device_load(state, err)) {
		state_fini(state);
		return -1;
	}
	return 0;
}

int state_load(int dir, const json_t *expect, uint64_t ram_bytes, struct state *state, struct err *err)
{
	if (state_load_devices(dir, expect, ram_bytes, state, err))
		return -1;
	if (!state_load_sums(state, err))
		return 0;
	state_fini(state);
	return -1;
}

void state_fini(struct state *state)
{
	state_close(&state->files);
	if (state->have_image)
		device_image_fini(&state->image);
	state->have_image = false;
	room_give(state->room, STEAL(state->sums));
	json_decref(state->facts);
	state->facts = NULL;
}

int state_read_page(const struct state *state, int ram_fd, uint64_t index, uint8_t *page, struct err *err)
{
	if (file_read(ram_fd, STREAM_STATE_RAM, page, PAGE_BYTES, index * PAGE_BYTES, err))
		return -1;
	if (page_sum(page) != sums_get(state->sums, index))
		return err_set(err, ERR_CORRUPT, "the checksum of page %" PRIu64 " of 'ram' does not hold", index);
	return 0;
}

int state_verify_ram(const struct state *state, _Atomic uint64_t *done, const atomic_bool *stop, struct err *err)
{
	CLEANUP_FREE uint8_t *bytes = malloc((size_t)VERIFY_PAGES * PAGE_BYTES);
	uint64_t now[VERIFY_PAGES];

	if (!bytes)
		return err_errno(err, ENOMEM, "memory for verifying");
	posix_fadvise(state->files.ram, 0, 0, POSIX_FADV_SEQUENTIAL);
	for (uint64_t from = 0; from < state->pages;) {
		uint64_t to = from;
		while (to < state->pages && to - from < VERIFY_PAGES && sums_get(state->sums, to))
			to++;
		if (*stop)
			return err_set(err, ERR_CANCELLED, "cancelled");
		if (file_read(state->files.ram, STREAM_STATE_RAM, bytes, (to - from) * PAGE_BYTES, from * PAGE_BYTES,
			    err))
			return -1;
		page_sums(bytes, to - from, now);
		for (uint64_t page = from; page < to; page++)
			if (now[page - from] != sums_get(state->sums, page))
				return err_set(err, ERR_CORRUPT,
					"the checksum of page %" PRIu64 " of 'ram' does not hold", page);
		*done += to - from;
		from = to + (to < state->pages && !sums_get(state->sums, to));
	}
	return 0;
}
