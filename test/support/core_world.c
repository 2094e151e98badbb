/* SPDX-License-Identifier: Apache-2.0 */
#include "support/core_world.h"

enum { STEP_MS = 10, TICKS_MAX = 1000 };

static uint32_t lowest(uint64_t members)
{
	return members ? (uint32_t)__builtin_ctzll(members) + 1 : 1;
}

static void boot_of(const struct core_world *w, uint32_t node, char boot_id[UUID_BYTES])
{
	snprintf(boot_id, UUID_BYTES, "boot-%u-%u", node, w->boots[node]);
}

enum err_code world_feed(struct core_world *w, const struct event *event)
{
	struct event e = *event;

	e.now_ms = w->now_ms += STEP_MS;
	if (!e.node)
		e.node = lowest(w->cluster->members);
	if (!e.by[0])
		strcpy(e.by, "root");
	if (!e.boot_id[0])
		boot_of(w, e.node, e.boot_id);
	core_step(w->cluster, &e, w->outcome);
	return w->outcome->code;
}

static void accepted(struct core_world *w, const struct event *event)
{
	if (world_feed(w, event) != ERR_NONE)
		fail_msg("%s: %s", event_kind_name((int)event->kind), w->outcome->text);
}

void world_ring(struct core_world *w, uint64_t members, uint64_t ring)
{
	accepted(w, &(struct event){
			    .kind = EVENT_VIEW, .node = lowest(members), .members = members, .ring = members | ring});
}

void world_view(struct core_world *w, uint64_t members)
{
	world_ring(w, members, members);
}

void world_join(struct core_world *w, uint32_t node)
{
	struct event event = {.kind = EVENT_NODE_REPORT, .node = node, .facts = w->facts};

	snprintf(event.facts.name, sizeof(event.facts.name), "n%u", node);
	boot_of(w, node, event.facts.boot_id);
	accepted(w, &event);
}

void world_reboots(struct core_world *w, uint32_t node)
{
	w->boots[node]++;
}

void world_leaves(struct core_world *w, uint32_t node)
{
	world_view(w, w->cluster->members & ~node_bit(node));
}

void world_node_dies(struct core_world *w, uint32_t node)
{
	struct event event = {.kind = EVENT_NODE_CONFIRM_OFF, .target = node};

	world_leaves(w, node);
	snprintf(event.text, sizeof(event.text), "n%u", node);
	accepted(w, &event);
}

void world_returns(struct core_world *w, uint32_t node, bool rebooted)
{
	if (rebooted)
		world_reboots(w, node);
	world_view(w, w->cluster->members | node_bit(node));
	world_join(w, node);
}

void world_device(struct core_world *w, const char *name, uint32_t node, uint32_t level)
{
	struct event event = {.kind = EVENT_FENCE_SET, .fence = {.node = node, .level = level}};

	snprintf(event.fence.name, sizeof(event.fence.name), "%s", name);
	strcpy(event.fence.agent, "fence_ipmilan");
	fence_device_default(&event.fence);
	accepted(w, &event);
}

void world_uuid(uint32_t number, char uuid[UUID_BYTES])
{
	snprintf(uuid, UUID_BYTES, "00000000-0000-4000-8000-%012u", number);
}

struct vm_def world_def(uint32_t number, uint32_t memory_mib)
{
	struct vm_def def = {.memory_mib = memory_mib};

	world_uuid(number, def.uuid);
	snprintf(def.name, sizeof(def.name), "vm%u", number);
	strcpy(def.kernel, "/boot/vmlinuz");
	def.nic_count = 1;
	strcpy(def.nics[0].bridge, "br0");
	snprintf(def.nics[0].mac, sizeof(def.nics[0].mac), "52:54:00:00:%02x:%02x", number >> 8 & 0xff, number & 0xff);
	return def;
}

uint32_t world_create(struct core_world *w, struct vm_def def)
{
	struct vm_def open = world_def(++w->vms, def.memory_mib);
	struct event event = {.kind = EVENT_VM_CREATE};

	if (!def.uuid[0])
		strcpy(def.uuid, open.uuid);
	if (!def.name[0])
		strcpy(def.name, open.name);
	if (!def.kernel[0])
		strcpy(def.kernel, open.kernel);
	vm_def_pin(&def);
	event.def = def;
	accepted(w, &event);
	return w->vms;
}

struct vm *world_vm(struct core_world *w, uint32_t number)
{
	char uuid[UUID_BYTES];

	world_uuid(number, uuid);
	struct vm *found = cluster_vm(w->cluster, uuid);
	assert_non_null(found);
	return found;
}

enum err_code world_ask(struct core_world *w, enum event_kind kind, uint32_t number, uint32_t target)
{
	struct event event = {.kind = kind, .target = target};

	world_uuid(number, event.vm);
	return world_feed(w, &event);
}

/* What the owner tells of its copy of now. */
static void owner_tells(struct core_world *w, uint32_t number, struct event event)
{
	const struct vm *vm = world_vm(w, number);

	event.node = vm->owner;
	event.epoch = vm->epoch;
	world_uuid(number, event.vm);
	accepted(w, &event);
}

void world_up(struct core_world *w, uint32_t number)
{
	assert_int_equal(world_vm(w, number)->state, VM_STARTING);
	owner_tells(w, number, (struct event){.kind = EVENT_STARTED});
	assert_int_equal(world_vm(w, number)->state, VM_ONLINE);
}

void world_finds_no_room(struct core_world *w, uint32_t number)
{
	assert_int_equal(world_vm(w, number)->state, VM_STARTING);
	owner_tells(w, number,
		(struct event){.kind = EVENT_GONE, .code = ERR_NO_ROOM, .text = "this node has 12 MiB of memory left"});
}

void world_run(struct core_world *w, uint32_t number, uint32_t node)
{
	if (world_ask(w, EVENT_VM_START, number, node) != ERR_NONE)
		fail_msg("vm%u: %s", number, w->outcome->text);
	world_up(w, number);
}

void world_dies(struct core_world *w, uint32_t number)
{
	owner_tells(w, number, (struct event){.kind = EVENT_GONE});
}

void world_panics(struct core_world *w, uint32_t number)
{
	owner_tells(w, number, (struct event){.kind = EVENT_GONE, .cause = GONE_PANICKED});
}

void world_moves(struct core_world *w, uint32_t number)
{
	const struct vm *vm = world_vm(w, number);
	uint32_t from = vm->owner, to = vm->target;
	struct event event = {.task = vm->task, .epoch = vm->epoch};
	const struct {
		enum event_kind kind;
		uint32_t node;
	} steps[] = {{EVENT_PREPARED, to}, {EVENT_SEALED, from}, {EVENT_LOADED, to}, {EVENT_RESUMED, to}};

	assert_int_equal(vm->state, VM_MOVING);
	world_uuid(number, event.vm);
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		event.kind = steps[i].kind;
		event.node = steps[i].node;
		event.epoch += event.kind == EVENT_RESUMED;
		accepted(w, &event);
	}
}

void world_pass(struct core_world *w, uint64_t ms)
{
	uint64_t end_ms = w->now_ms + ms;
	uint64_t due;

	for (int i = 0; (due = core_deadline_ms(w->cluster)) && due <= end_ms; i++) {
		assert_true(i < TICKS_MAX);
		if (due > w->now_ms)
			w->now_ms = due;
		FEED(w, .kind = EVENT_TICK);
	}
	if (w->now_ms < end_ms)
		w->now_ms = end_ms;
}

void world_assert_reason(struct core_world *w, uint32_t number, const char *part)
{
	if (!strstr(world_vm(w, number)->reason, part))
		fail_msg("vm%u: '%s' does not say '%s'", number, world_vm(w, number)->reason, part);
}

struct core_world *core_world_new(void **state, uint32_t nodes, uint32_t memory_mib, uint32_t watchdog_ms)
{
	struct core_world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	*state = w;
	w->cluster = calloc(1, sizeof(*w->cluster));
	w->outcome = calloc(1, sizeof(*w->outcome));
	assert_true(w->cluster && w->outcome);
	w->now_ms = CORE_WORLD_BEGIN_MS;
	w->facts = (struct node_facts){.memory_mib = memory_mib,
		.vcpus = 4,
		.accel = "tcg",
		.watchdog_ms = watchdog_ms,
		.token_ms = 1000,
		.bridge_count = 1,
		.bridges = {{"br0"}}};
	core_init(w->cluster, "00000000-0000-4000-8000-0000000000aa");
	world_view(w, UINT64_MAX >> (NODES_MAX - nodes));
	for (uint32_t node = 1; node <= nodes; node++)
		world_join(w, node);
	return w;
}

int core_world_free(void **state)
{
	struct core_world *w = *state;

	free(w->cluster);
	free(w->outcome);
	free(w);
	return 0;
}
