/* SPDX-License-Identifier: Apache-2.0 */
#include "support/forgetful_store.h"

static struct forgetful_store *self_of(struct store *store)
{
	return (struct forgetful_store *)store;
}

static int load(struct store *store, const struct store_reader *reader, char uuid[UUID_BYTES], struct err *err)
{
	(void)store, (void)reader, (void)uuid, (void)err;
	return 0;
}

static void append(struct store *store, const struct store_entry *entry)
{
	self_of(store)->stored = entry->index;
}

static void flush(struct store *store)
{
	struct forgetful_store *self = self_of(store);
	struct store_callbacks callbacks = engine_store_callbacks(self->engine);

	if (self->pledge)
		callbacks.pledged(callbacks.ctx, self->pledge);
	if (self->pledge || self->durable != self->stored)
		callbacks.durable(callbacks.ctx, self->durable = self->stored);
	self->pledge = 0;
}

static void pledge(struct store *store, uint64_t term)
{
	self_of(store)->pledge = term;
}

static void dropped(struct store *store, uint64_t above, uint64_t last)
{
	(void)store, (void)above, (void)last;
}

static void truncate_above(struct store *store, uint64_t index)
{
	self_of(store)->stored = index;
}

static void install(struct store *store, const struct store_snapshot *snapshot, const char *uuid, bool keep_log)
{
	(void)uuid;
	if (!keep_log)
		self_of(store)->stored = snapshot->index;
}

static void note(struct store *store, const struct store_line *line)
{
	(void)store, (void)line;
}

static int lines(struct store *store, uint64_t below, const struct store_reader *reader, struct err *err)
{
	(void)store, (void)below, (void)reader, (void)err;
	return 0;
}

static const struct store_ops ops = {
	.load = load,
	.append = append,
	.flush = flush,
	.truncate = truncate_above,
	.install = install,
	.pledge = pledge,
	.dropped = dropped,
	.note = note,
	.lines = lines,
};

void forgetful_store_init(struct forgetful_store *store, struct engine *engine)
{
	*store = (struct forgetful_store){.store.ops = &ops, .engine = engine};
}
