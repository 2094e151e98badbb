/* SPDX-License-Identifier: Apache-2.0
 * History: in words, what came of each committed event. The newest lines in memory, many more in the store.
 *
 * A line is written when its event is applied here and is never worked out again: a newer program would decide, or say,
 * something else. So a node that takes another's state takes the lines that led to it with it, as its audit trail.
 * After a restart the events behind the snapshot are applied once more; their lines, where the store has them, stay as
 * they were. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

enum {
	LINE_BYTES_MAX = 2048,
	TRAIL_LINES_MAX = 10 * 1000, /* that are sent to a member which lacks them */
	TRAIL_BYTES_MAX = 16 << 20,
	FLUSH_LINES = HISTORY_MAX / 2, /* of one event: more must be in the store before they leave the memory */
};

static const struct field history_fields[] = {
	SCHEMA_U64(1, engine_history, index),
	SCHEMA_U64(2, engine_history, now_ms),
	SCHEMA_ENUM(3, engine_history, kind, event_kind_name, EVENT_KIND_COUNT),
	SCHEMA_U32(4, engine_history, node),
	SCHEMA_TEXT(5, engine_history, by),
	SCHEMA_TEXT(6, engine_history, vm),
	SCHEMA_TEXT(7, engine_history, text),
	SCHEMA_U32(8, engine_history, about),
	SCHEMA_U64(9, engine_history, task),
	SCHEMA_U64(10, engine_history, epoch),
	SCHEMA_U32(11, engine_history, from_state),
	SCHEMA_U32(12, engine_history, to_state),
	SCHEMA_BOOL(13, engine_history, refused),
	SCHEMA_U32(14, engine_history, owner),
};
SCHEMA_DEFINE(engine_history_schema, engine_history, history_fields);

/* Into memory alone. */
static struct engine_history *ring_add(struct engine *engine)
{
	return &engine->history[engine->history_count++ % HISTORY_MAX];
}

static void line_note(struct engine *engine, const struct engine_history *line, uint32_t number)
{
	uint8_t bytes[LINE_BYTES_MAX];
	struct store_line stored = {.index = line->index, .number = number, .bytes = bytes};

	stored.size = schema_encode(&engine_history_schema, line, bytes, sizeof(bytes));
	assert(stored.size <= sizeof(bytes));
	engine->ports.store->ops->note(engine->ports.store, &stored);
}

struct saying {
	struct engine *engine;
	uint32_t number;	    /* of the next line */
	struct engine_history line; /* what all lines of the event share */
};

static void say(struct saying *saying, const struct engine_history *line)
{
	struct engine *engine = saying->engine;

	*ring_add(engine) = *line;
	line_note(engine, line, saying->number++);
	engine_trace(engine, "%s", line->text);
	for (int i = 0; i < WATCHERS_MAX; i++)
		if (engine->watchers[i] && engine->watchers[i]->history)
			engine->watchers[i]->history(engine->watchers[i]->ctx, line);
}

static void say_refused(struct saying *saying)
{
	struct engine_history line = saying->line;
	struct engine *engine = saying->engine;

	line.refused = true;
	memcpy(line.vm, engine->event_vm, sizeof(line.vm));
	snprintf(
		line.text, sizeof(line.text), "%s refused: %s", event_kind_name((int)line.kind), engine->outcome->text);
	say(saying, &line);
}

static void say_node(struct saying *saying, uint32_t id)
{
	const struct node *node = cluster_node(saying->engine->cluster, id);
	struct engine_history line = saying->line;

	char name[NAME_BYTES];

	/* It tells its name with its facts, a moment after it has joined for the first time. */
	if (node->facts.name[0])
		memcpy(name, node->facts.name, sizeof(name));
	else
		snprintf(name, sizeof(name), "node %u", id);
	line.about = id;
	line.from_state = line.to_state = node->state;
	snprintf(line.text, sizeof(line.text), "%s: %s: %s", name, node_state_name((int)node->state), node->reason);
	say(saying, &line);
}

static void say_vm(struct saying *saying, const struct core_change *change)
{
	struct engine *engine = saying->engine;
	const struct vm *vm = &engine->cluster->vms[change->vm];
	struct engine_history line = saying->line;
	char phase[32] = "";

	line.from_state = change->from_state;
	line.to_state = change->to_state;
	if (!vm->def.uuid[0]) {
		memcpy(line.vm, engine->event_vm, sizeof(line.vm));
		snprintf(line.text, sizeof(line.text), "%s: deleted, asked by %s", line.vm, line.by);
		say(saying, &line);
		return;
	}
	line.epoch = vm->epoch;
	line.owner = vm->owner;
	line.task = vm->task;
	memcpy(line.vm, vm->def.name, sizeof(line.vm));
	if (change->to_phase != MOVE_IDLE)
		snprintf(phase, sizeof(phase), " (%s)", move_phase_name((int)change->to_phase));
	if (change->from_state == change->to_state && change->from_phase == change->to_phase)
		snprintf(line.text, sizeof(line.text), "%s: %s%s, %s", line.vm, vm_state_name((int)change->to_state),
			phase, line.kind == EVENT_FILLED ? "all pages are in" : change->reason);
	else
		snprintf(line.text, sizeof(line.text), "%s: %s -> %s%s: %s", line.vm,
			vm_state_name((int)change->from_state), vm_state_name((int)change->to_state), phase,
			change->reason);
	say(saying, &line);
}

static void say_device(struct saying *saying, const struct event *event)
{
	const struct fence_device *device = &event->fence;
	struct engine_history line = saying->line;

	if (event->kind == EVENT_FENCE_SET) {
		line.about = device->node;
		snprintf(line.text, sizeof(line.text), "fence device %s: set by %s: %s with %s, level %u", device->name,
			event->by, cluster_node_name(saying->engine->cluster, device->node), device->agent,
			device->level);
	} else {
		snprintf(line.text, sizeof(line.text), "fence device %s: removed by %s", device->name, event->by);
	}
	say(saying, &line);
}

void history_applied(struct engine *engine, const struct event *event)
{
	const struct core_outcome *outcome = engine->outcome;
	struct saying saying = {.engine = engine};

	/* Applied once more after a restart: said before. */
	if (engine->cluster->index <= engine->history_index)
		return;
	engine->history_index = engine->cluster->index;
	saying.line.index = engine->cluster->index;
	saying.line.now_ms = engine->cluster->now_ms;
	saying.line.kind = event->kind;
	saying.line.node = event->node;
	memcpy(saying.line.by, event->by, sizeof(saying.line.by));
	if (outcome->code != ERR_NONE) {
		say_refused(&saying);
		return;
	}
	if (event->kind == EVENT_FENCE_SET || event->kind == EVENT_FENCE_REMOVE)
		say_device(&saying, event);
	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (outcome->nodes_changed & node_bit(id))
			say_node(&saying, id);
	for (uint32_t i = 0; i < outcome->change_count; i++)
		say_vm(&saying, &outcome->changes[i]);
	if (saying.number > FLUSH_LINES)
		log_flush(engine);
}

void engine_history_each(const struct engine *engine, uint64_t after, uint32_t count,
	void (*fn)(void *ctx, const struct engine_history *line), void *ctx)
{
	uint64_t have = engine->history_count < HISTORY_MAX ? engine->history_count : HISTORY_MAX;

	for (uint64_t i = engine->history_count - have; i < engine->history_count && count; i++) {
		const struct engine_history *line = &engine->history[i % HISTORY_MAX];
		if (line->index <= after)
			continue;
		fn(ctx, line);
		count--;
	}
}

/* Back in time. */

struct backward {
	engine_history_fn *fn;
	void *ctx;
};

static int on_stored(void *ctx, const struct store_line *stored, struct err *err)
{
	const struct backward *backward = ctx;
	struct engine_history line;

	/* The store vouches for the bytes: a newer program wrote a line that this one cannot say. */
	if (schema_decode(&engine_history_schema, stored->bytes, stored->size, &line, err) < 0)
		return 0;
	return backward->fn(backward->ctx, &line) ? 0 : 1;
}

int engine_history_back(const struct engine *engine, uint64_t below, engine_history_fn *fn, void *ctx, struct err *err)
{
	uint64_t have = engine->history_count < HISTORY_MAX ? engine->history_count : HISTORY_MAX;
	struct backward backward = {.fn = fn, .ctx = ctx};
	struct store_reader reader = {.ctx = &backward, .line = on_stored};
	/* Once the memory is full, the oldest index in it may have lost some of its lines. */
	bool all = engine->history_count < HISTORY_MAX && engine->history_loaded;
	uint64_t whole_above = all || !have ? 0 : engine->history[(engine->history_count - have) % HISTORY_MAX].index;

	for (uint64_t i = engine->history_count; i > engine->history_count - have; i--) {
		const struct engine_history *line = &engine->history[(i - 1) % HISTORY_MAX];
		if (line->index <= whole_above)
			break;
		if (line->index < below && !fn(ctx, line))
			return 0;
	}
	if (all)
		return 0;
	if (have && whole_above < below)
		below = whole_above + 1;
	return engine->ports.store->ops->lines(engine->ports.store, below, &reader, err);
}

/* At start, and when a state is taken over. */

struct recent {
	struct engine_history *lines; /* HISTORY_MAX of them, the newest first */
	uint64_t count;
};

static bool on_recent(void *ctx, const struct engine_history *line)
{
	struct recent *recent = ctx;

	recent->lines[recent->count++] = *line;
	return recent->count < HISTORY_MAX;
}

int history_load(struct engine *engine, struct err *err)
{
	struct recent recent = {.lines = calloc(HISTORY_MAX, sizeof(*recent.lines))};
	CLEANUP_FREE struct engine_history *lines = recent.lines;

	assert(lines);
	engine->history_count = 0;
	if (engine_history_back(engine, UINT64_MAX, on_recent, &recent, err) < 0)
		return -1;
	while (recent.count)
		*ring_add(engine) = lines[--recent.count];
	engine->history_loaded = true;
	if (engine->history_count)
		engine->history_index = engine->history[(engine->history_count - 1) % HISTORY_MAX].index;
	return 0;
}

/* A trail that is sent: lines, the newest first, each a be32 size and its schema's bytes. */

struct collecting {
	uint64_t above;
	uint32_t count;
	uint8_t *bytes;
	size_t size, room;
};

static bool on_collected(void *ctx, const struct engine_history *line)
{
	struct collecting *to = ctx;

	if (line->index <= to->above || to->count++ == TRAIL_LINES_MAX)
		return false;
	if (to->size + LINE_BYTES_MAX + 4 > to->room) {
		to->room = to->room ? 2 * to->room : 64 * 1024;
		to->bytes = realloc(to->bytes, to->room);
		assert(to->bytes);
	}
	size_t size = schema_encode(&engine_history_schema, line, to->bytes + to->size + 4, LINE_BYTES_MAX);
	assert(size <= LINE_BYTES_MAX);
	message_put32(to->bytes + to->size, (uint32_t)size);
	to->size += 4 + size;
	return to->size < TRAIL_BYTES_MAX - LINE_BYTES_MAX;
}

uint8_t *history_collect(struct engine *engine, uint64_t above, size_t *size)
{
	struct collecting to = {.above = above};
	struct err err;

	/* Without it the others still get the state: what cannot be read here is only missing in their history. */
	if (engine_history_back(engine, UINT64_MAX, on_collected, &to, &err) < 0)
		engine_trace(engine, "history: %s", err.text);
	*size = to.size;
	return to.bytes;
}

struct incoming_line {
	const uint8_t *bytes;
	uint32_t size;
};

/* Splits; false where the sizes do not come out even. */
static bool split(const uint8_t *bytes, size_t size, struct incoming_line *lines, uint32_t *count)
{
	*count = 0;
	while (size) {
		if (size < 4 || *count == TRAIL_LINES_MAX)
			return false;
		uint32_t length = message_get32(bytes);
		if (length > size - 4)
			return false;
		lines[(*count)++] = (struct incoming_line){.bytes = bytes + 4, .size = length};
		bytes += 4 + length;
		size -= 4 + length;
	}
	return true;
}

void history_rewind(struct engine *engine, uint64_t index)
{
	uint64_t have = engine->history_count < HISTORY_MAX ? engine->history_count : HISTORY_MAX;
	uint64_t first = engine->history_count - have, count = 0;
	CLEANUP_FREE struct engine_history *kept = malloc((have + 1) * sizeof(*kept));
	struct store_line from = {.index = index + 1};

	assert(kept);
	for (uint64_t i = 0; i < have; i++) {
		const struct engine_history *line = &engine->history[(first + i) % HISTORY_MAX];
		if (line->index <= index)
			kept[count++] = *line;
		else
			engine_trace(engine, "dropped: %llu: %s", (unsigned long long)line->index, line->text);
	}
	if (engine->history_index <= index)
		return;
	memcpy(engine->history, kept, count * sizeof(*kept));
	engine->history_loaded = engine->history_loaded && !first;
	engine->history_count = count;
	engine->history_index = index;
	engine->ports.store->ops->note(engine->ports.store, &from);
}

void history_take(struct engine *engine, const uint8_t *bytes, size_t size, uint64_t up_to)
{
	CLEANUP_FREE struct incoming_line *lines = calloc(TRAIL_LINES_MAX, sizeof(*lines));
	uint32_t count, number = 0;
	uint64_t own = engine->history_index;
	struct engine_history line;
	struct err err;

	assert(lines);
	if (!split(bytes, size, lines, &count)) {
		engine->dropped++;
		return;
	}
	while (count--) {
		if (schema_decode(&engine_history_schema, lines[count].bytes, lines[count].size, &line, &err) < 0 ||
			line.index <= own || line.index < engine->history_index || line.index > up_to) {
			engine->dropped++;
			continue;
		}
		number = line.index == engine->history_index ? number + 1 : 0;
		engine->history_index = line.index;
		*ring_add(engine) = line;
		line_note(engine, &line, number);
	}
	if (engine->history_index < up_to)
		engine->history_index = up_to;
}
