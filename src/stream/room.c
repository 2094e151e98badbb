/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/room.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGN_BYTES = 64 };

void room_init(struct room *room, size_t size)
{
	void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	*room = (struct room){0};
	if (bytes != MAP_FAILED)
		*room = (struct room){.bytes = bytes, .size = size};
}

void room_fini(struct room *room)
{
	if (room->bytes)
		munmap(room->bytes, room->size);
	*room = (struct room){0};
}

void *room_take(struct room *room, size_t size)
{
	if (!room || size > room->size - room->used)
		return malloc(size ? size : 1);
	void *memory = room->bytes + room->used;
	size_t taken = (size + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
	room->used += taken < room->size - room->used ? taken : room->size - room->used;
	return memory;
}

void room_give(const struct room *room, void *memory)
{
	if (!room || !room->bytes || (uint8_t *)memory < room->bytes || (uint8_t *)memory >= room->bytes + room->size)
		free(memory);
}
