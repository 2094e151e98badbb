/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/fake/store_fake.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct record {
	uint64_t index;
	uint64_t term;
	uint8_t *bytes;
	size_t size;
};

/* What one transaction does, in order. */
enum op_kind { OP_APPEND, OP_TRUNCATE, OP_INSTALL, OP_PLEDGE, OP_DROPPED, OP_NOTE };
struct op {
	enum op_kind kind;
	struct record record; /* of TRUNCATE: only the index; of PLEDGE: only the term; of DROPPED: above index, up to term; of NOTE: term is the line's number */
	char uuid[UUID_BYTES];
	bool keep_log;
	struct op *next;
};

struct ops {
	struct op *first, *last;
};

struct disk {
	struct timeline *timeline;
	struct prng *prng;
	uint32_t typical_us, slow_permille;
	bool fails, hangs, lies, damaged;
	char uuid[UUID_BYTES];
	uint64_t pledge; /* 0: none */
	uint64_t dropped_above, dropped_last; /* 0: none */
	struct record snapshot; /* bytes NULL: none */
	struct record *entries; /* contiguous, unless the disk lied; those at or below the snapshot are history */
	uint32_t count, capacity;
	struct record *lines; /* of the audit trail, by index and number (term) */
	uint32_t line_count, line_capacity;
	struct store_fake *store; /* the daemon that has it open */
};

struct store_fake {
	struct store store;
	struct disk *disk;
	struct loop_fake *loop;
	struct store_callbacks callbacks;
	struct ops queued;
	struct ops flushing;
	bool busy, again, failed;
	uint64_t pledge; /* of the transaction at the disk, to be told */
	bool in_flight; /* the transaction is at the disk: `done` is set, or it hangs */
	struct timeline_item *done;
};

static void record_free(struct record *record)
{
	free(record->bytes);
	*record = (struct record){0};
}

static struct record record_of(uint64_t index, uint64_t term, const uint8_t *bytes, size_t size)
{
	struct record record = {.index = index, .term = term, .size = size, .bytes = malloc(size ? size : 1)};

	assert(record.bytes);
	if (size)
		memcpy(record.bytes, bytes, size);
	return record;
}

static void ops_push(struct ops *ops, struct op op)
{
	struct op *copy = malloc(sizeof(*copy));

	assert(copy);
	*copy = op;
	copy->next = NULL;
	if (ops->last)
		ops->last->next = copy;
	else
		ops->first = copy;
	ops->last = copy;
}

static void ops_clear(struct ops *ops)
{
	while (ops->first) {
		struct op *op = ops->first;
		ops->first = op->next;
		record_free(&op->record);
		free(op);
	}
	ops->last = NULL;
}

struct disk *disk_new(struct timeline *timeline, struct prng *prng)
{
	struct disk *disk = calloc(1, sizeof(*disk));

	assert(disk);
	disk->timeline = timeline;
	disk->prng = prng;
	disk->typical_us = 1000;
	return disk;
}

static void disk_cut(struct disk *disk, uint64_t above)
{
	while (disk->count && disk->entries[disk->count - 1].index > above)
		record_free(&disk->entries[--disk->count]);
}

void disk_wipe(struct disk *disk)
{
	disk_cut(disk, 0);
	/* A lying disk may have left entries out of order behind; there are none below 1. */
	assert(!disk->count);
	while (disk->line_count)
		record_free(&disk->lines[--disk->line_count]);
	record_free(&disk->snapshot);
	memset(disk->uuid, 0, sizeof(disk->uuid));
	disk->pledge = disk->dropped_above = disk->dropped_last = 0;
	disk->damaged = false;
}

void disk_fill(struct disk *disk, const struct store_snapshot *snapshot, const char *uuid)
{
	assert(!disk->store && !disk->count && !disk->snapshot.bytes);
	disk->snapshot = record_of(snapshot->index, snapshot->term, snapshot->bytes, snapshot->size);
	snprintf(disk->uuid, sizeof(disk->uuid), "%s", uuid);
}

void disk_free(struct disk *disk)
{
	if (!disk)
		return;
	assert(!disk->store);
	disk_wipe(disk);
	free(disk->entries);
	free(disk->lines);
	free(disk);
}

void disk_set_speed(struct disk *disk, uint32_t typical_us, uint32_t slow_permille)
{
	disk->typical_us = typical_us;
	disk->slow_permille = slow_permille;
}

void disk_fail_writes(struct disk *disk, bool fails)
{
	disk->fails = fails;
}

void disk_lie(struct disk *disk, bool lies)
{
	disk->lies = lies;
}

void disk_damage(struct disk *disk)
{
	disk->damaged = disk->count || disk->snapshot.bytes;
}

uint64_t disk_last_index(const struct disk *disk)
{
	uint64_t last = disk->count ? disk->entries[disk->count - 1].index : 0;

	return last > disk->snapshot.index ? last : disk->snapshot.index;
}

static void disk_append(struct disk *disk, struct record *record)
{
	assert(record->index == disk_last_index(disk) + 1);
	if (disk->count == disk->capacity) {
		disk->capacity = disk->capacity ? 2 * disk->capacity : 64;
		disk->entries = realloc(disk->entries, disk->capacity * sizeof(*disk->entries));
		assert(disk->entries);
	}
	disk->entries[disk->count++] = *record;
	*record = (struct record){0};
}

static void disk_install(struct disk *disk, struct op *op)
{
	if (!op->keep_log)
		disk_cut(disk, 0);
	record_free(&disk->snapshot);
	disk->snapshot = op->record;
	op->record = (struct record){0};
	memcpy(disk->uuid, op->uuid, sizeof(disk->uuid));
}

/* Lines come in the order of their index, but for those that are written again after a restart. */
static void disk_note(struct disk *disk, struct record *line)
{
	uint32_t at = disk->line_count;

	if (!line->size) {
		while (disk->line_count && disk->lines[disk->line_count - 1].index >= line->index)
			record_free(&disk->lines[--disk->line_count]);
		return;
	}
	while (at && (disk->lines[at - 1].index > line->index ||
			     (disk->lines[at - 1].index == line->index && disk->lines[at - 1].term >= line->term)))
		at--;
	uint32_t end = at; /* those that it replaces: itself; with number 0 all of its index */
	while (end < disk->line_count && disk->lines[end].index == line->index &&
		(!line->term || disk->lines[end].term == line->term))
		record_free(&disk->lines[end++]);
	if (disk->line_count == disk->line_capacity) {
		disk->line_capacity = disk->line_capacity ? 2 * disk->line_capacity : 64;
		disk->lines = realloc(disk->lines, disk->line_capacity * sizeof(*disk->lines));
		assert(disk->lines);
	}
	memmove(&disk->lines[at + 1], &disk->lines[end], (disk->line_count - end) * sizeof(*disk->lines));
	disk->line_count = disk->line_count - (end - at) + 1;
	disk->lines[at] = *line;
	*line = (struct record){0};
}

static void disk_apply(struct disk *disk, struct ops *ops)
{
	for (struct op *op = ops->first; op; op = op->next) {
		switch (op->kind) {
		case OP_APPEND:
			disk_append(disk, &op->record);
			break;
		case OP_TRUNCATE:
			disk_cut(disk, op->record.index);
			break;
		case OP_INSTALL:
			disk_install(disk, op);
			break;
		case OP_PLEDGE:
			disk->pledge = op->record.term;
			break;
		case OP_DROPPED:
			disk->dropped_above = op->record.index;
			disk->dropped_last = op->record.term;
			break;
		case OP_NOTE:
			disk_note(disk, &op->record);
			break;
		}
	}
	ops_clear(ops);
}

static void store_flushed(void *ctx);

static void flush_begin(struct store_fake *fake)
{
	struct disk *disk = fake->disk;
	uint64_t typical = disk->typical_us;

	fake->busy = true;
	fake->again = false;
	fake->flushing = fake->queued;
	fake->queued = (struct ops){0};
	fake->in_flight = true;
	if (disk->hangs)
		return; /* until disk_hang(false) */
	uint64_t delay = typical;
	if (prng_chance(disk->prng, disk->slow_permille))
		delay = prng_between(disk->prng, typical, 20 * typical);
	else if (disk->slow_permille)
		delay = prng_between(disk->prng, typical / 4, typical);
	fake->done = timeline_after(disk->timeline, delay, store_flushed, fake);
}

/* The port: `durable` speaks of the log as the caller has made it by now. */
static bool still_durable(const struct store_fake *fake, uint64_t *index)
{
	*index = disk_last_index(fake->disk);
	for (const struct op *op = fake->queued.first; op; op = op->next) {
		if (op->kind == OP_TRUNCATE && op->record.index < *index)
			*index = op->record.index;
		if (op->kind == OP_INSTALL && !op->keep_log)
			return false;
	}
	return true;
}

static void tell_durable(void *ctx)
{
	struct store_fake *fake = ctx;
	uint64_t index;

	if (fake->pledge)
		fake->callbacks.pledged(fake->callbacks.ctx, fake->pledge);
	fake->pledge = 0;
	if (still_durable(fake, &index))
		fake->callbacks.durable(fake->callbacks.ctx, index);
	if (fake->failed)
		return;
	fake->busy = false;
	if (fake->again)
		flush_begin(fake);
}

static void tell_failed(void *ctx)
{
	struct store_fake *fake = ctx;
	struct err err;

	err_set(&err, ERR_IO, "write to the store: Input/output error");
	fake->callbacks.failed(fake->callbacks.ctx, &err);
}

static void store_flushed(void *ctx)
{
	struct store_fake *fake = ctx;

	fake->done = NULL;
	fake->in_flight = false;
	if (fake->disk->fails) {
		fake->failed = true;
		ops_clear(&fake->flushing);
		loop_fake_call(fake->loop, tell_failed, NULL, fake);
		return;
	}
	for (const struct op *op = fake->flushing.first; op; op = op->next)
		if (op->kind == OP_PLEDGE)
			fake->pledge = op->record.term;
	disk_apply(fake->disk, &fake->flushing);
	loop_fake_call(fake->loop, tell_durable, NULL, fake);
}

void disk_hang(struct disk *disk, bool hangs)
{
	struct store_fake *fake = disk->store;

	disk->hangs = hangs;
	if (!hangs && fake && fake->in_flight && !fake->done)
		fake->done = timeline_after(disk->timeline, disk->typical_us, store_flushed, fake);
	if (hangs && fake && fake->done) {
		timeline_cancel(disk->timeline, fake->done);
		fake->done = NULL;
	}
}

void disk_power_loss(struct disk *disk)
{
	if (!disk->lies || disk->count < 3)
		return;
	/* One of the last writes never reached the medium, those behind it did. */
	uint32_t lost = disk->count - 2 - prng_below(disk->prng, disk->count < 6 ? disk->count - 2 : 4);
	if (disk->entries[lost].index <= disk->snapshot.index)
		return;
	record_free(&disk->entries[lost]);
	memmove(&disk->entries[lost], &disk->entries[lost + 1], (disk->count - lost - 1) * sizeof(*disk->entries));
	disk->count--;
}

static int disk_check(const struct disk *disk, struct err *err)
{
	uint64_t expected = disk->snapshot.index + 1;

	if (disk->damaged)
		return err_set(err, ERR_CORRUPT, "the store's checksum does not hold");
	for (uint32_t i = 0; i < disk->count; i++) {
		if (disk->entries[i].index < expected && expected == disk->snapshot.index + 1)
			continue;
		if (disk->entries[i].index != expected)
			return err_set(err, ERR_CORRUPT, "the store lacks entry %llu", (unsigned long long)expected);
		expected++;
	}
	return 0;
}

static int fake_load(struct store *store, const struct store_reader *reader, char uuid[UUID_BYTES], struct err *err)
{
	const struct disk *disk = ((struct store_fake *)store)->disk;
	const struct record *snapshot = &disk->snapshot;

	if (disk->fails)
		return err_set(err, ERR_IO, "read the store: Input/output error");
	if (disk_check(disk, err) < 0)
		return -1;
	memcpy(uuid, disk->uuid, UUID_BYTES);
	if (disk->pledge && reader->pledge)
		reader->pledge(reader->ctx, disk->pledge);
	if (disk->dropped_last && reader->dropped)
		reader->dropped(reader->ctx, disk->dropped_above, disk->dropped_last);
	if (snapshot->bytes) {
		struct store_snapshot s = {.index = snapshot->index, .term = snapshot->term, .bytes = snapshot->bytes,
			.size = snapshot->size};
		if (reader->snapshot(reader->ctx, &s, err) < 0)
			return -1;
	}
	for (uint32_t i = 0; i < disk->count; i++) {
		const struct record *r = &disk->entries[i];
		struct store_entry entry = {.index = r->index, .term = r->term, .bytes = r->bytes, .size = r->size};
		if (r->index > snapshot->index && reader->entry(reader->ctx, &entry, err) < 0)
			return -1;
	}
	return 0;
}

static void fake_append(struct store *store, const struct store_entry *entry)
{
	struct store_fake *fake = (struct store_fake *)store;

	ops_push(&fake->queued, (struct op){.kind = OP_APPEND,
					.record = record_of(entry->index, entry->term, entry->bytes, entry->size)});
}

static void fake_flush(struct store *store)
{
	struct store_fake *fake = (struct store_fake *)store;

	if (fake->failed)
		return;
	if (fake->busy)
		fake->again = true;
	else
		flush_begin(fake);
}

static void fake_truncate(struct store *store, uint64_t index)
{
	struct store_fake *fake = (struct store_fake *)store;

	ops_push(&fake->queued, (struct op){.kind = OP_TRUNCATE, .record = {.index = index}});
}

static void fake_install(struct store *store, const struct store_snapshot *snapshot, const char *uuid, bool keep_log)
{
	struct store_fake *fake = (struct store_fake *)store;
	struct op op = {.kind = OP_INSTALL, .keep_log = keep_log,
		.record = record_of(snapshot->index, snapshot->term, snapshot->bytes, snapshot->size)};

	snprintf(op.uuid, sizeof(op.uuid), "%s", uuid);
	ops_push(&fake->queued, op);
}

static void fake_pledge(struct store *store, uint64_t term)
{
	struct store_fake *fake = (struct store_fake *)store;

	ops_push(&fake->queued, (struct op){.kind = OP_PLEDGE, .record = {.term = term}});
}

static void fake_dropped(struct store *store, uint64_t above, uint64_t last)
{
	struct store_fake *fake = (struct store_fake *)store;

	ops_push(&fake->queued, (struct op){.kind = OP_DROPPED, .record = {.index = above, .term = last}});
}

static int fake_read(struct store *store, uint64_t from_index, uint32_t count, const struct store_reader *reader,
	struct err *err)
{
	const struct disk *disk = ((struct store_fake *)store)->disk;

	for (uint32_t i = 0; i < disk->count && count; i++) {
		const struct record *r = &disk->entries[i];
		struct store_entry entry = {.index = r->index, .term = r->term, .bytes = r->bytes, .size = r->size};
		if (r->index < from_index)
			continue;
		if (reader->entry(reader->ctx, &entry, err) < 0)
			return -1;
		count--;
	}
	return 0;
}

static void fake_note(struct store *store, const struct store_line *line)
{
	struct store_fake *fake = (struct store_fake *)store;

	ops_push(&fake->queued,
		(struct op){.kind = OP_NOTE, .record = record_of(line->index, line->number, line->bytes, line->size)});
}

static int fake_lines(struct store *store, uint64_t below, const struct store_reader *reader, struct err *err)
{
	const struct disk *disk = ((struct store_fake *)store)->disk;

	for (uint32_t i = disk->line_count; i > 0; i--) {
		const struct record *r = &disk->lines[i - 1];
		struct store_line line = {
			.index = r->index, .number = (uint32_t)r->term, .bytes = r->bytes, .size = r->size};
		int more = r->index < below ? reader->line(reader->ctx, &line, err) : 0;
		if (more)
			return more < 0 ? -1 : 0;
	}
	return 0;
}

static const struct store_ops store_ops = {
	.load = fake_load,
	.append = fake_append,
	.flush = fake_flush,
	.truncate = fake_truncate,
	.install = fake_install,
	.pledge = fake_pledge,
	.dropped = fake_dropped,
	.read = fake_read,
	.note = fake_note,
	.lines = fake_lines,
};

struct store_fake *store_fake_new(struct disk *disk, struct loop_fake *loop, const struct store_callbacks *callbacks)
{
	struct store_fake *fake = calloc(1, sizeof(*fake));

	assert(fake && !disk->store);
	fake->store.ops = &store_ops;
	fake->disk = disk;
	fake->loop = loop;
	fake->callbacks = *callbacks;
	disk->store = fake;
	return fake;
}

void store_fake_free(struct store_fake *fake)
{
	if (!fake)
		return;
	/* The transaction under way was committed by the disk, or was not. */
	if (fake->done && !fake->disk->fails && prng_chance(fake->disk->prng, 500))
		disk_apply(fake->disk, &fake->flushing);
	timeline_cancel(fake->disk->timeline, fake->done);
	ops_clear(&fake->flushing);
	ops_clear(&fake->queued);
	fake->disk->store = NULL;
	free(fake);
}

struct store *store_fake_port(struct store_fake *fake)
{
	return &fake->store;
}
