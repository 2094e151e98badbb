/* SPDX-License-Identifier: Apache-2.0
 * Memory that is there before it is needed: taken from the system and touched while nobody waits, handed out while a
 * guest stands still. A first touch costs a fault for each page, tens of ms for what a load of 4 GiB needs when the
 * machine is itself a virtual one.
 *
 * One thread at a time. Must never: fail where plain memory would do. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct room {
	uint8_t *bytes; /* NULL: none */
	size_t size, used;
};

/* Without memory to be had the room stays empty. */
void room_init(struct room *room, size_t size);
void room_fini(struct room *room);

/* Out of the room while it lasts, else by malloc; room NULL: by malloc. NULL: no memory. Not zeroed. */
void *room_take(struct room *room, size_t size);
/* What room_take gave: freed if it came from malloc. Takes NULL. */
void room_give(const struct room *room, void *memory);
