/* SPDX-License-Identifier: Apache-2.0
 * port/store.h on a simulated disk, which outlives the daemon and the node's power.
 *
 * Writes are queued by the daemon and become durable by flushes that take time. When the daemon or the node dies, the
 * transaction under way is there or not as the dice say, and what was queued behind it is gone. The disk may also fail
 * writes, hang until it is healed, be full of somebody else's zeros (damaged), or lie: after a power loss a write in the
 * middle is missing although later ones are there. What is damaged is refused at load, never half read.
 *
 * Promises: as the port. Must never: call back inside a call. */
#pragma once

#include "base/prng.h"
#include "driver/fake/loop_fake.h"
#include "driver/fake/timeline.h"
#include "port/store.h"

struct disk;
struct store_fake;

struct disk *disk_new(struct timeline *timeline, struct prng *prng);
void disk_free(struct disk *disk); /* takes NULL */

/* How long a flush takes: up to typical_us, in some cases 20 times that; with slow_permille 0 always typical_us. */
void disk_set_speed(struct disk *disk, uint32_t typical_us, uint32_t slow_permille);
void disk_fail_writes(struct disk *disk, bool fails);
void disk_hang(struct disk *disk, bool hangs); /* flushes do not end until it is false again */
void disk_lie(struct disk *disk, bool lies);
/* The node has lost its power: after the daemon's end. */
void disk_power_loss(struct disk *disk);
void disk_damage(struct disk *disk); /* one bit flips in what is durable */
/* A daemon of before has left this behind, durable. */
void disk_fill(struct disk *disk, const struct store_snapshot *snapshot, const char *uuid);
void disk_wipe(struct disk *disk);   /* an administrator gives the node an empty store */

/* What is durable, for checkers: the index and term of the last entry or of the snapshot. */
uint64_t disk_last_index(const struct disk *disk);

struct store_fake *store_fake_new(struct disk *disk, struct loop_fake *loop, const struct store_callbacks *callbacks);
void store_fake_free(struct store_fake *fake); /* the daemon's end; takes NULL */
struct store *store_fake_port(struct store_fake *fake);
