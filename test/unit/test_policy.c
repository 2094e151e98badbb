/* SPDX-License-Identifier: Apache-2.0
 * What happens by itself, as traces on the core: who is started where and when, and what is left alone. Each test is a
 * promise of docs/failover.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/core.h"
#include "core/timing.h"

struct world {
	struct cluster *cluster;
	struct core_outcome *outcome;
	uint64_t now_ms;
	uint64_t members;
	uint32_t vms;
	uint32_t boots[NODES_MAX + 1];
};

enum { MINUTE_MS = 60 * 1000 };

static enum err_code feed(struct world *w, const struct event *event)
{
	static struct event e;

	e = *event;
	e.now_ms = w->now_ms += 10;
	if (!e.node)
		e.node = (uint32_t)__builtin_ctzll(w->members) + 1;
	if (!e.by[0])
		strcpy(e.by, "root");
	snprintf(e.boot_id, sizeof(e.boot_id), "boot-%u-%u", e.node, w->boots[e.node]);
	core_step(w->cluster, &e, w->outcome);
	return w->outcome->code;
}
#define FEED(...) feed(w, &(struct event){__VA_ARGS__})

static void view(struct world *w, uint64_t members)
{
	w->members = members;
	assert_int_equal(FEED(.kind = EVENT_VIEW, .members = members), ERR_NONE);
}

static void join(struct world *w, uint32_t node)
{
	struct event event = {.kind = EVENT_NODE_REPORT, .node = node};

	snprintf(event.facts.name, sizeof(event.facts.name), "n%u", node);
	snprintf(event.facts.boot_id, sizeof(event.facts.boot_id), "boot-%u-%u", node, w->boots[node]);
	event.facts.memory_mib = 2048;
	event.facts.vcpus = 4;
	event.facts.bridge_count = 1;
	strcpy(event.facts.bridges[0].name, "br0");
	strcpy(event.facts.accel, "tcg");
	assert_int_equal(feed(w, &event), ERR_NONE);
}

static struct world *world(void **state, uint32_t nodes)
{
	struct world *w = calloc(1, sizeof(*w));

	w->cluster = calloc(1, sizeof(*w->cluster));
	w->outcome = calloc(1, sizeof(*w->outcome));
	w->now_ms = UINT64_C(1764000000000); /* 2025-11-24 16:00 UTC */
	core_init(w->cluster, "00000000-0000-4000-8000-0000000000aa");
	view(w, (UINT64_C(1) << nodes) - 1);
	for (uint32_t node = 1; node <= nodes; node++)
		join(w, node);
	*state = w;
	return w;
}

static int teardown(void **state)
{
	struct world *w = *state;

	free(w->cluster);
	free(w->outcome);
	free(w);
	return 0;
}

static void uuid_of(uint32_t number, char uuid[UUID_BYTES])
{
	snprintf(uuid, UUID_BYTES, "00000000-0000-4000-8000-%012u", number);
}

static struct vm *vm(struct world *w, uint32_t number)
{
	char uuid[UUID_BYTES];

	uuid_of(number, uuid);
	struct vm *found = cluster_vm(w->cluster, uuid);
	assert_non_null(found);
	return found;
}

static struct vm_def definition(uint32_t number, uint32_t memory_mib)
{
	struct vm_def def = {.memory_mib = memory_mib};

	uuid_of(number, def.uuid);
	snprintf(def.name, sizeof(def.name), "vm%u", number);
	strcpy(def.kernel, "/boot/vmlinuz");
	return def;
}

static uint32_t create(struct world *w, struct vm_def def)
{
	struct event event = {.kind = EVENT_VM_CREATE};

	vm_def_pin(&def);
	event.def = def;
	assert_int_equal(feed(w, &event), ERR_NONE);
	return ++w->vms;
}

static enum err_code ask(struct world *w, enum event_kind kind, uint32_t number, uint32_t target)
{
	struct event event = {.kind = kind, .target = target};

	uuid_of(number, event.vm);
	return feed(w, &event);
}

static void up(struct world *w, uint32_t number)
{
	struct event event = {.kind = EVENT_STARTED, .node = vm(w, number)->owner, .epoch = vm(w, number)->epoch};

	assert_int_equal(vm(w, number)->state, VM_STARTING);
	uuid_of(number, event.vm);
	assert_int_equal(feed(w, &event), ERR_NONE);
}

static void run_on(struct world *w, uint32_t number, uint32_t node)
{
	assert_int_equal(ask(w, EVENT_VM_START, number, node), ERR_NONE);
	up(w, number);
}

static void dies(struct world *w, uint32_t number)
{
	struct event event = {.kind = EVENT_GONE, .node = vm(w, number)->owner, .epoch = vm(w, number)->epoch};

	uuid_of(number, event.vm);
	assert_int_equal(feed(w, &event), ERR_NONE);
}

static void panics(struct world *w, uint32_t number)
{
	struct event event = {.kind = EVENT_GONE, .node = vm(w, number)->owner, .epoch = vm(w, number)->epoch,
		.cause = GONE_PANICKED};

	uuid_of(number, event.vm);
	assert_int_equal(feed(w, &event), ERR_NONE);
}

static void leaves(struct world *w, uint32_t node)
{
	view(w, w->members & ~node_bit(node));
}

/* Leaves, and a person says that it is off. */
static void node_dies(struct world *w, uint32_t node)
{
	struct event event = {.kind = EVENT_NODE_CONFIRM_OFF, .target = node};

	leaves(w, node);
	snprintf(event.text, sizeof(event.text), "n%u", node);
	assert_int_equal(feed(w, &event), ERR_NONE);
}

static void returns(struct world *w, uint32_t node, bool rebooted)
{
	w->boots[node] += rebooted;
	view(w, w->members | node_bit(node));
	join(w, node);
}

/* All ticks that are due until then. */
static void pass(struct world *w, uint64_t ms)
{
	uint64_t end_ms = w->now_ms + ms;
	uint64_t due;

	for (int i = 0; (due = core_deadline_ms(w->cluster)) && due <= end_ms; i++) {
		assert_true(i < 1000);
		if (due > w->now_ms)
			w->now_ms = due;
		FEED(.kind = EVENT_TICK);
	}
	if (w->now_ms < end_ms)
		w->now_ms = end_ms;
}

/* A move to its end, as the machines would report it. */
static void moves(struct world *w, uint32_t number)
{
	struct vm *it = vm(w, number);
	struct event event = {.task = it->task, .epoch = it->epoch};
	uint32_t from = it->owner, to = it->target;

	assert_int_equal(it->state, VM_MOVING);
	uuid_of(number, event.vm);
	event.kind = EVENT_PREPARED;
	event.node = to;
	assert_int_equal(feed(w, &event), ERR_NONE);
	event.kind = EVENT_SEALED;
	event.node = from;
	assert_int_equal(feed(w, &event), ERR_NONE);
	event.kind = EVENT_LOADED;
	event.node = to;
	assert_int_equal(feed(w, &event), ERR_NONE);
	event.kind = EVENT_RESUMED;
	event.epoch++;
	assert_int_equal(feed(w, &event), ERR_NONE);
}

static void assert_reason(struct world *w, uint32_t number, const char *part)
{
	if (!strstr(vm(w, number)->reason, part))
		fail_msg("vm%u: '%s' does not say '%s'", number, vm(w, number)->reason, part);
}

/* B19: the important ones first; the rest waits with each node's fact, and starts when room returns. */
static void room_goes_by_priority_and_the_rest_waits(void **state)
{
	struct world *w = world(state, 3);
	struct vm_def low = definition(1, 1024), high = definition(3, 1024);

	low.priority = PRIORITY_LOW;
	high.priority = PRIORITY_HIGH;
	create(w, low);
	create(w, definition(2, 1024));
	create(w, high);
	for (uint32_t filler = 4; filler <= 5; filler++)
		create(w, definition(filler, 1024));
	run_on(w, 1, 3);
	run_on(w, 3, 3);
	run_on(w, 4, 1);
	run_on(w, 5, 2);
	run_on(w, 2, 1);
	node_dies(w, 3);
	assert_int_equal(vm(w, 3)->state, VM_STARTING);
	assert_int_equal(vm(w, 3)->owner, 2);
	assert_int_equal(vm(w, 1)->state, VM_OFF);
	assert_int_equal(vm(w, 1)->wait, WAIT_ROOM);
	assert_reason(w, 1, "n1 has 0 MiB free, vm1 needs 1024; n2 has 0 MiB free, vm1 needs 1024; n3 is dead");
	/* Room returns in every way there is: a VM stops, or a node joins. */
	assert_int_equal(ask(w, EVENT_VM_STOP, 5, 0), ERR_NONE);
	dies(w, 5);
	assert_int_equal(vm(w, 1)->state, VM_STARTING);
	assert_reason(w, 1, "there is room now");
}

static void room_returns_with_a_node_or_an_edit(void **state)
{
	struct world *w = world(state, 3);

	create(w, definition(1, 2048));
	create(w, definition(2, 2048));
	create(w, definition(3, 2048));
	for (uint32_t i = 1; i <= 3; i++)
		run_on(w, i, i);
	node_dies(w, 3);
	assert_int_equal(vm(w, 3)->state, VM_OFF);
	returns(w, 3, true);
	assert_int_equal(vm(w, 3)->state, VM_STARTING);
	up(w, 3);
	node_dies(w, 3);
	assert_int_equal(vm(w, 3)->state, VM_OFF);
	ask(w, EVENT_VM_STOP, 2, 0);
	dies(w, 2);
	assert_int_equal(vm(w, 3)->owner, 2);
}

/* A node that cannot show the VM all its vCPUs does not take it; sums may exceed the node's. */
static void a_vm_has_no_more_vcpus_than_its_node(void **state)
{
	struct world *w = world(state, 2);
	struct vm_def def = definition(1, 64);

	def.vcpus = 5;
	create(w, def);
	assert_int_equal(ask(w, EVENT_VM_START, 1, 2), ERR_UNFIT);
	assert_string_equal(w->outcome->text, "n2 has 4 CPUs, vm1 needs 5");
	for (uint32_t i = 2; i <= 4; i++) {
		struct vm_def other = definition(i, 64);
		other.vcpus = 4;
		create(w, other);
		run_on(w, i, 1);
	}
}

static void owners_are_preferred_in_order_and_possible_ones_alone(void **state)
{
	struct world *w = world(state, 4);
	struct vm_def def = definition(1, 1024);

	def.policy = (struct vm_policy){.preferred_count = 2, .preferred = {{3}, {2}}, .possible = 2 | 4};
	create(w, def);
	assert_int_equal(ask(w, EVENT_VM_START, 1, 1), ERR_UNFIT);
	assert_string_equal(w->outcome->text, "n1 is no possible owner of vm1");
	run_on(w, 1, 0);
	assert_int_equal(vm(w, 1)->owner, 3);
	node_dies(w, 3);
	assert_int_equal(vm(w, 1)->owner, 2);
	assert_true(vm(w, 1)->displaced);
	up(w, 1);
	pass(w, 10 * MINUTE_MS);
	node_dies(w, 2);
	assert_int_equal(vm(w, 1)->state, VM_OFF);
	assert_reason(w, 1, "n1 is no possible owner of vm1; n2 is dead; n3 is dead");
}

/* B20. */
static void anti_affinity_is_kept_or_said(void **state)
{
	struct world *w = world(state, 3);

	for (uint32_t i = 1; i <= 4; i++) {
		struct vm_def def = definition(i, 128);
		strcpy(def.policy.anti_affinity, i <= 2 ? "dc" : "web");
		def.policy.anti_affinity_hard = i <= 2;
		create(w, def);
	}
	run_on(w, 1, 0);
	run_on(w, 2, 0);
	run_on(w, 3, 0);
	run_on(w, 4, 0);
	assert_int_not_equal(vm(w, 1)->owner, vm(w, 2)->owner);
	assert_int_not_equal(vm(w, 3)->owner, vm(w, 4)->owner);
	assert_int_equal(ask(w, EVENT_VM_MOVE, 1, vm(w, 2)->owner), ERR_UNFIT);
	/* One node is left: the hard pair is apart even so, the soft one together. */
	uint32_t keep = vm(w, 2)->owner;
	for (uint32_t node = 1; node <= 3; node++) {
		if (node == keep)
			continue;
		pass(w, 10 * MINUTE_MS);
		node_dies(w, node);
	}
	assert_int_equal(vm(w, 1)->state, VM_OFF);
	assert_reason(w, 1, "has another VM of anti-affinity 'dc'");
	assert_int_equal(vm(w, 3)->owner, keep);
	assert_int_equal(vm(w, 4)->owner, keep);
	assert_non_null(strstr(vm(w, 3)->state == VM_STARTING && strstr(vm(w, 3)->reason, "beside") ? vm(w, 3)->reason
												    : vm(w, 4)->reason,
		"beside another VM of anti-affinity 'web', no other node has room"));
}

/* A storm of starts would make each of them slow: so many at a time, the important ones first, none forgotten. */
static void starts_are_bounded_and_by_priority(void **state)
{
	struct world *w = world(state, 2);
	uint32_t starting = 0, count = 12;

	for (uint32_t i = 1; i <= count; i++) {
		struct vm_def def = definition(i, 64);
		def.priority = i > 8 ? PRIORITY_HIGH : PRIORITY_LOW;
		create(w, def);
		run_on(w, i, 2);
	}
	node_dies(w, 2);
	for (uint32_t i = 1; i <= count; i++)
		starting += vm(w, i)->state == VM_STARTING;
	assert_int_equal(starting, STARTS_MAX);
	for (uint32_t i = 9; i <= 12; i++)
		assert_int_equal(vm(w, i)->state, VM_STARTING);
	assert_int_equal(vm(w, 1)->wait, WAIT_TURN);
	up(w, 9);
	assert_int_equal(vm(w, 1)->state, VM_STARTING);
	assert_int_equal(vm(w, 2)->state, VM_OFF);
	/* A start that hangs keeps the others waiting for a minute, not for ever. */
	pass(w, START_SLOT_MS + 1000);
	for (uint32_t i = 2; i <= 5; i++)
		assert_int_equal(vm(w, i)->state, VM_STARTING);
}

static void the_next_start_order_waits_until_the_lower_one_is_up(void **state)
{
	struct world *w = world(state, 2);

	for (uint32_t i = 1; i <= 4; i++) {
		struct vm_def def = definition(i, 64);
		def.policy.start_order = i == 4 ? 0 : i;
		def.policy.start_delay_s = i == 1 ? 30 : 0;
		def.priority = i == 3 ? PRIORITY_HIGH : PRIORITY_MEDIUM;
		create(w, def);
		run_on(w, i, 2);
	}
	pass(w, MINUTE_MS);
	node_dies(w, 2);
	assert_int_equal(vm(w, 1)->state, VM_STARTING);
	assert_int_equal(vm(w, 2)->wait, WAIT_ORDER);
	assert_int_equal(vm(w, 3)->wait, WAIT_ORDER);
	assert_int_equal(vm(w, 4)->state, VM_STARTING); /* in no order: waits for none */
	up(w, 1);
	assert_int_equal(vm(w, 2)->state, VM_OFF);
	pass(w, 29 * 1000);
	assert_int_equal(vm(w, 2)->state, VM_OFF);
	pass(w, 2 * 1000);
	assert_int_equal(vm(w, 2)->state, VM_STARTING);
	assert_int_equal(vm(w, 3)->state, VM_OFF);
	up(w, 2);
	assert_int_equal(vm(w, 3)->state, VM_STARTING);
}

/* One that waits for room holds nobody back. */
static void a_start_order_does_not_wait_for_what_has_no_room(void **state)
{
	struct world *w = world(state, 2);
	struct vm_def big = definition(1, 2048), small = definition(2, 64), filler = definition(3, 1024);

	big.policy.start_order = 1;
	small.policy.start_order = 2;
	create(w, big);
	create(w, small);
	create(w, filler);
	run_on(w, 3, 1);
	run_on(w, 1, 2);
	assert_int_equal(ask(w, EVENT_VM_START, 2, 1), ERR_NONE);
	up(w, 2);
	node_dies(w, 2);
	assert_int_equal(vm(w, 1)->wait, WAIT_ROOM);
	dies(w, 2);
	assert_int_equal(vm(w, 2)->state, VM_STARTING);
}

/* B18: the second node in a row, and it is not started by itself any more; who only stood beside it goes on. */
static void a_vm_that_kills_its_nodes_ends_failed(void **state)
{
	struct world *w = world(state, 5);

	create(w, definition(1, 512));
	create(w, definition(2, 64));
	run_on(w, 2, 1);
	pass(w, 20 * MINUTE_MS);
	run_on(w, 1, 1);
	pass(w, MINUTE_MS);
	node_dies(w, 1);
	uint32_t second = vm(w, 1)->owner;
	up(w, 1);
	if (vm(w, 2)->state == VM_STARTING)
		up(w, 2);
	pass(w, MINUTE_MS);
	node_dies(w, second);
	assert_int_equal(vm(w, 1)->state, VM_FAILED);
	assert_reason(w, 1, "died within 5 min of its start there, one after the other");
	assert_true(vm(w, 2)->state == VM_STARTING || vm(w, 2)->state == VM_ONLINE);
	pass(w, 24 * 60 * MINUTE_MS);
	assert_int_equal(vm(w, 1)->state, VM_FAILED);
	run_on(w, 1, 0); /* a person may */
}

/* Victims that were started together with the culprit cannot be told from it: one at a time, until it shows. */
static void of_several_suspects_one_is_tried_at_a_time(void **state)
{
	struct world *w = world(state, 5);

	for (uint32_t i = 1; i <= 3; i++) {
		struct vm_def def = definition(i, 64);
		def.policy =
			(struct vm_policy){.preferred_count = 4, .preferred = {{1}, {2}, {3}, {4}}, .possible = 15};
		create(w, def);
		run_on(w, i, 0);
	}
	node_dies(w, 1);
	for (uint32_t i = 1; i <= 3; i++)
		up(w, i);
	node_dies(w, 2);
	/* Two nodes are possible: two suspects start, the third one waits. */
	assert_int_equal(vm(w, 1)->state, VM_STARTING);
	assert_int_equal(vm(w, 1)->owner, 3);
	assert_int_equal(vm(w, 2)->state, VM_STARTING);
	assert_int_equal(vm(w, 2)->owner, 4);
	assert_int_equal(vm(w, 3)->state, VM_OFF);
	assert_reason(w, 3, "another suspect on probation");
	up(w, 1);
	up(w, 2);
	pass(w, MINUTE_MS);
	node_dies(w, 3);
	assert_int_equal(vm(w, 1)->state, VM_FAILED);
	pass(w, 5 * MINUTE_MS);
	assert_int_equal(vm(w, 2)->killed, 0);
	assert_int_equal(vm(w, 3)->state, VM_STARTING);
}

/* A rack without power is no guest's deed. */
static void nodes_that_go_together_are_not_held_against_vms(void **state)
{
	struct world *w = world(state, 7);

	create(w, definition(1, 64));
	run_on(w, 1, 1);
	leaves(w, 2);
	node_dies(w, 1);
	up(w, 1);
	leaves(w, vm(w, 1)->owner == 3 ? 4 : 3);
	node_dies(w, vm(w, 1)->owner);
	assert_int_equal(vm(w, 1)->state, VM_STARTING);
	assert_int_equal(vm(w, 1)->killed, 0);
}

/* B9. */
static void a_flapping_node_is_quarantined_and_drained(void **state)
{
	struct world *w = world(state, 3);
	uint32_t moving = 0;

	for (uint32_t i = 1; i <= 4; i++) {
		create(w, definition(i, 64));
		run_on(w, i, 3);
	}
	for (int flap = 0; flap < 3; flap++) {
		leaves(w, 3);
		pass(w, MINUTE_MS);
		returns(w, 3, false);
		assert_int_equal(w->cluster->nodes[2].quarantine_ms != 0, flap == 2);
	}
	assert_non_null(strstr(w->cluster->nodes[2].reason, "it left 3 times within 60 min"));
	for (uint32_t i = 1; i <= 4; i++)
		moving += vm(w, i)->state == VM_MOVING;
	assert_int_equal(moving, MOVES_MAX);
	assert_string_equal(cluster_task_find(w->cluster, vm(w, 1)->task)->by, "watari");
	for (uint32_t i = 1; i <= 4; i++) {
		moves(w, i);
		assert_int_not_equal(vm(w, i)->owner, 3);
	}
	assert_int_equal(ask(w, EVENT_VM_MOVE, 1, 3), ERR_UNFIT);
	assert_string_equal(w->outcome->text, "n3 is quarantined for flapping");
	pass(w, 59 * MINUTE_MS);
	assert_true(w->cluster->nodes[2].quarantine_ms != 0);
	pass(w, 2 * MINUTE_MS);
	assert_int_equal(w->cluster->nodes[2].quarantine_ms, 0);
}

static void a_person_lifts_a_quarantine(void **state)
{
	struct world *w = world(state, 3);

	assert_int_equal(FEED(.kind = EVENT_NODE_RESUME, .target = 3), ERR_UNFIT);
	assert_int_equal(FEED(.kind = EVENT_NODE_RESUME, .target = 9), ERR_NOT_FOUND);
	for (int flap = 0; flap < 3; flap++) {
		leaves(w, 3);
		returns(w, 3, true);
	}
	assert_int_equal(FEED(.kind = EVENT_NODE_RESUME, .target = 3), ERR_NONE);
	assert_int_equal(w->cluster->nodes[2].quarantine_ms, 0);
	/* It starts with a clean sheet. */
	leaves(w, 3);
	returns(w, 3, true);
	assert_int_equal(w->cluster->nodes[2].quarantine_ms, 0);
}

/* When every node flaps it is the network: most of them go on. */
static void only_a_minority_is_quarantined(void **state)
{
	struct world *w = world(state, 5);

	for (int flap = 0; flap < 3; flap++) {
		for (uint32_t node = 2; node <= 5; node++) {
			leaves(w, node);
			returns(w, node, true);
		}
	}
	uint32_t count = 0;
	for (uint32_t i = 0; i < 5; i++)
		count += w->cluster->nodes[i].quarantine_ms != 0;
	assert_int_equal(count, 2);
}

/* A daemon that is restarted or upgraded is no flapping node. */
static void a_daemon_that_restarts_is_not_quarantined(void **state)
{
	struct world *w = world(state, 3);

	for (int restart = 0; restart < 5; restart++) {
		w->members = 3;
		assert_int_equal(FEED(.kind = EVENT_VIEW, .members = 3, .ring = 7), ERR_NONE);
		returns(w, 3, false);
	}
	assert_int_equal(w->cluster->nodes[2].quarantine_ms, 0);
}

static struct vm_def at_home(uint32_t number, enum failback failback)
{
	struct vm_def def = definition(number, 64);

	def.policy = (struct vm_policy){.preferred_count = 1, .preferred = {{3}}, .failback = failback};
	def.policy.failback_from_hour = 22;
	def.policy.failback_to_hour = 4;
	return def;
}

static void failback_waits_until_home_is_stable(void **state)
{
	struct world *w = world(state, 3);

	create(w, at_home(1, FAILBACK_IMMEDIATE));
	create(w, at_home(2, FAILBACK_NEVER));
	create(w, at_home(3, FAILBACK_WINDOW));
	for (uint32_t i = 1; i <= 3; i++)
		run_on(w, i, 0);
	pass(w, 10 * MINUTE_MS);
	node_dies(w, 3);
	for (uint32_t i = 1; i <= 3; i++)
		up(w, i);
	pass(w, 10 * MINUTE_MS);
	returns(w, 3, true);
	pass(w, FAILBACK_STABLE_MS - 2000);
	assert_int_equal(vm(w, 1)->state, VM_ONLINE);
	pass(w, 4000);
	assert_int_equal(vm(w, 1)->state, VM_MOVING);
	assert_reason(w, 1, "back to n3: n3 is a more preferred owner");
	moves(w, 1);
	assert_int_equal(vm(w, 1)->owner, 3);
	/* It is a little after 16:00 UTC; the window opens at 22:00. */
	uint64_t opens_ms = UINT64_C(1764000000000) + 6 * 60 * MINUTE_MS;
	pass(w, opens_ms - w->now_ms - 1000);
	assert_int_equal(vm(w, 3)->state, VM_ONLINE);
	pass(w, 2000);
	assert_int_equal(vm(w, 3)->state, VM_MOVING);
	assert_int_equal(vm(w, 2)->state, VM_ONLINE);
	assert_int_not_equal(vm(w, 2)->owner, 3);
}

/* Where a person moved it, it stays; and a move that fails is not tried again at once. */
static void failback_respects_a_persons_move(void **state)
{
	struct world *w = world(state, 3);
	struct event failed = {.kind = EVENT_STEP_FAILED, .node = 3};

	create(w, at_home(1, FAILBACK_IMMEDIATE));
	run_on(w, 1, 0);
	ask(w, EVENT_VM_MOVE, 1, 2);
	moves(w, 1);
	pass(w, 60 * MINUTE_MS);
	assert_int_equal(vm(w, 1)->state, VM_ONLINE);
	assert_int_equal(vm(w, 1)->owner, 2);

	node_dies(w, 2);
	up(w, 1);
	assert_int_equal(vm(w, 1)->owner, 3);
	node_dies(w, 3);
	up(w, 1);
	returns(w, 3, true);
	pass(w, FAILBACK_STABLE_MS + 1000);
	assert_int_equal(vm(w, 1)->state, VM_MOVING);
	uuid_of(1, failed.vm);
	failed.task = vm(w, 1)->task;
	assert_int_equal(feed(w, &failed), ERR_NONE);
	assert_int_equal(vm(w, 1)->state, VM_ONLINE);
	pass(w, MOVE_AGAIN_MS - 1000);
	assert_int_equal(vm(w, 1)->state, VM_ONLINE);
	pass(w, 2000);
	assert_int_equal(vm(w, 1)->state, VM_MOVING);
}

static void the_policy_is_edited_while_the_vm_runs(void **state)
{
	struct world *w = world(state, 3);
	struct event edit = {.kind = EVENT_VM_EDIT};

	create(w, definition(1, 64));
	run_on(w, 1, 1);
	edit.def = vm(w, 1)->def;
	edit.def.priority = PRIORITY_HIGH;
	edit.def.offline_action = OFFLINE_TURN_OFF;
	edit.def.policy.start_order = 3;
	assert_int_equal(feed(w, &edit), ERR_NONE);
	assert_int_equal(vm(w, 1)->def.policy.start_order, 3);
	assert_int_equal(vm(w, 1)->state, VM_ONLINE);
	edit.def.memory_mib = 128;
	assert_int_equal(feed(w, &edit), ERR_UNFIT);
	assert_non_null(strstr(w->outcome->text, "its machine is pinned"));
	assert_int_equal(vm(w, 1)->def.memory_mib, 64);
}

/* No automatic start means none: neither after its node's death nor after its own. */
static void priority_none_is_never_started_by_itself(void **state)
{
	struct world *w = world(state, 3);

	for (uint32_t i = 1; i <= 2; i++) {
		struct vm_def def = definition(i, 64);
		def.priority = PRIORITY_NONE;
		create(w, def);
		run_on(w, i, 3);
	}
	dies(w, 1);
	node_dies(w, 3);
	assert_int_equal(vm(w, 1)->want, WANT_OFF);
	assert_int_equal(vm(w, 2)->want, WANT_OFF);
	assert_reason(w, 2, "its priority is none");
}

/* Its budget on one node used up, the other one full: it waits for room there, and the pause ends that as well. */
static void used_up_here_and_full_there_waits_for_either(void **state)
{
	struct world *w = world(state, 2);

	create(w, definition(1, 512));
	create(w, definition(2, 2048));
	run_on(w, 2, 2);
	run_on(w, 1, 1);
	dies(w, 1);
	up(w, 1);
	dies(w, 1);
	assert_int_equal(vm(w, 1)->state, VM_OFF);
	assert_reason(w, 1, "its restarts on n1 are used up; n2 has 0 MiB free, vm1 needs 512");
	pass(w, 61 * MINUTE_MS);
	assert_int_equal(vm(w, 1)->state, VM_STARTING);
	assert_int_equal(vm(w, 1)->owner, 1);
}

static void finds_no_room(struct world *w, uint32_t number)
{
	struct event event = {.kind = EVENT_GONE, .node = vm(w, number)->owner, .epoch = vm(w, number)->epoch, .code = ERR_NO_ROOM};

	uuid_of(number, event.vm);
	strcpy(event.text, "this node has 12 MiB of memory left");
	assert_int_equal(vm(w, number)->state, VM_STARTING);
	assert_int_equal(feed(w, &event), ERR_NONE);
}

/* Where a copy that left is still ending there is no memory yet, though nothing is booked: no guest died of that. */
static void a_start_without_memory_is_no_death(void **state)
{
	struct world *w = world(state, 3);
	uint64_t pause_ms = ROOM_AGAIN_MS;

	create(w, definition(1, 512));
	create(w, definition(2, 2048));
	run_on(w, 1, 1);
	run_on(w, 2, 3);
	node_dies(w, 1);
	assert_int_equal(vm(w, 1)->owner, 2);
	for (int i = 0; i < 8; i++) {
		finds_no_room(w, 1);
		assert_int_equal(vm(w, 1)->state, VM_OFF);
		assert_int_equal(vm(w, 1)->want, WANT_ON);
		assert_int_equal(vm(w, 1)->deaths, 0);
		assert_reason(w, 1, "n2 had less memory free");
		pass(w, pause_ms - 20);
		assert_int_equal(vm(w, 1)->state, VM_OFF);
		pass(w, 40);
		assert_int_equal(vm(w, 1)->state, VM_STARTING);
		if (pause_ms < (uint64_t)ROOM_AGAIN_MS << ROOM_AGAIN_SHIFT_MAX)
			pause_ms *= 2;
	}
	/* And at once where there is another node. */
	assert_int_equal(ask(w, EVENT_VM_STOP, 2, 0), ERR_NONE);
	dies(w, 2);
	finds_no_room(w, 1);
	assert_int_equal(vm(w, 1)->state, VM_STARTING);
	assert_int_equal(vm(w, 1)->owner, 3);
	up(w, 1);
	assert_int_equal(vm(w, 1)->no_room_count, 0);
}

/* Who asked waits for the answer: he gets it, and it is not started behind his back. */
static void an_asked_start_without_memory_is_told(void **state)
{
	struct world *w = world(state, 2);

	create(w, definition(1, 512));
	assert_int_equal(ask(w, EVENT_VM_START, 1, 1), ERR_NONE);
	finds_no_room(w, 1);
	assert_int_equal(vm(w, 1)->state, VM_OFF);
	assert_int_equal(vm(w, 1)->want, WANT_OFF);
	assert_int_equal(w->cluster->tasks[0].code, ERR_NO_ROOM);
}

/* A restore finds none either: its state is not left to a person for that. */
static void a_restore_without_memory_is_tried_again(void **state)
{
	struct world *w = world(state, 1);
	struct event event = {.kind = EVENT_SEALED, .node = 1};

	create(w, definition(1, 512));
	run_on(w, 1, 1);
	assert_int_equal(ask(w, EVENT_VM_SAVE, 1, 0), ERR_NONE);
	uuid_of(1, event.vm);
	event.task = vm(w, 1)->task;
	event.epoch = vm(w, 1)->epoch;
	assert_int_equal(feed(w, &event), ERR_NONE);
	assert_int_equal(ask(w, EVENT_VM_START, 1, 0), ERR_NONE);
	event.kind = EVENT_STEP_FAILED;
	event.task = vm(w, 1)->task;
	event.code = ERR_NO_ROOM;
	assert_int_equal(feed(w, &event), ERR_NONE);
	assert_int_equal(vm(w, 1)->state, VM_SAVED);
	assert_int_equal(vm(w, 1)->want, WANT_ON);
	assert_int_equal(vm(w, 1)->saved.status, SAVED_SEALED);
	pass(w, ROOM_AGAIN_MS + 20);
	assert_int_equal(vm(w, 1)->state, VM_RESTORING);
	/* Any other failure is left to a person, as before. */
	event.task = vm(w, 1)->task;
	event.code = ERR_CORRUPT;
	assert_int_equal(feed(w, &event), ERR_NONE);
	assert_int_equal(vm(w, 1)->want, WANT_SAVED);
}

/* What waits for room can be told not to start, by either word. */
static void what_waits_for_room_can_be_told_not_to(void **state)
{
	static const enum event_kind words[] = {EVENT_VM_STOP, EVENT_VM_SHUTDOWN};
	struct world *w = world(state, 2);

	create(w, definition(1, 2048));
	for (uint32_t i = 2; i <= 3; i++) {
		create(w, definition(i, 512));
		run_on(w, i, 2);
	}
	run_on(w, 1, 1);
	node_dies(w, 1);
	assert_int_equal(vm(w, 1)->wait, WAIT_ROOM);
	assert_int_equal(ask(w, words[0], 1, 0), ERR_NONE);
	assert_int_equal(vm(w, 1)->state, VM_OFF);
	assert_int_equal(vm(w, 1)->want, WANT_OFF);
	assert_int_equal(vm(w, 1)->wait, WAIT_NONE);
	assert_reason(w, 1, "not started by itself any more: asked by root");
	assert_int_equal(ask(w, words[1], 1, 0), ERR_UNFIT); /* there is nothing left to stop */
	returns(w, 1, true);
	assert_int_equal(vm(w, 1)->state, VM_OFF);
}

/* Each node that could take it, and why the others cannot. */
static void each_node_is_explained(void **state)
{
	struct world *w = world(state, 3);
	static struct core_plan plan;
	char text[REASON_BYTES];

	create(w, definition(1, 1500));
	create(w, definition(2, 1024));
	run_on(w, 1, 2);
	assert_true(core_place_explain(w->cluster, &plan, 1, 1, text));
	assert_string_equal(text, "n1 has 2048 MiB free");
	assert_false(core_place_explain(w->cluster, &plan, 1, 2, text));
	assert_string_equal(text, "n2 has 548 MiB free, vm2 needs 1024");
	plan.counted = plan.labelled = false;
}

/* The same events give the same cluster, to the last byte; also after a snapshot was taken over in the middle. */
static void a_copy_decides_the_same(void **state)
{
	struct world *w = world(state, 3);
	struct cluster *copy = calloc(1, sizeof(*copy));

	for (uint32_t i = 1; i <= 9; i++) {
		struct vm_def def = definition(i, 256);
		def.policy.start_order = i % 3;
		create(w, def);
		run_on(w, i, i % 3 + 1);
	}
	leaves(w, 3);
	cluster_copy(copy, w->cluster);
	struct event event = {.kind = EVENT_NODE_CONFIRM_OFF, .node = 1, .target = 3, .now_ms = w->now_ms + 10};
	strcpy(event.text, "n3");
	strcpy(event.by, "root");
	strcpy(event.boot_id, "boot-1-0");
	core_step(copy, &event, w->outcome);
	core_step(w->cluster, &event, w->outcome);
	assert_true(schema_equal(&cluster_schema, copy, w->cluster));
	free(copy);
}

static enum err_code storage(struct world *w, enum event_kind kind, uint32_t number, uint32_t node)
{
	struct event event = {.kind = kind, .node = node, .epoch = vm(w, number)->epoch};

	uuid_of(number, event.vm);
	strcpy(event.text, "input/output error");
	return feed(w, &event);
}

/* Its owner does not reach the disks, n2 does: the order to end it is given, and its QEMU does not die. */
static void hangs_for_good(struct world *w, uint32_t number)
{
	assert_int_equal(storage(w, EVENT_STORAGE_LOST, number, 1), ERR_NONE);
	pass(w, STORAGE_ASK_MS);
	assert_int_equal(vm(w, number)->storage_asked, 2);
	assert_int_equal(storage(w, EVENT_STORAGE_OK, number, 2), ERR_NONE);
	pass(w, STORAGE_CONFIRM_MS + 100);
	assert_true(core_duty(w->cluster, number - 1, 1).at_once);
	pass(w, STORAGE_KILL_MS + 100);
	assert_int_equal(vm(w, number)->owner, 1);
}

/* Fencing would take the healthy one along: a person moves it away first. */
static void a_node_stays_for_a_guest_that_is_well(void **state)
{
	struct world *w = world(state, 3);
	struct event device = {.kind = EVENT_FENCE_SET, .fence = {.node = 1, .level = 1, .limit_ms = 10000}};

	strcpy(device.fence.name, "ipmi-n1");
	strcpy(device.fence.agent, "fence_ipmilan");
	assert_int_equal(feed(w, &device), ERR_NONE);
	for (uint32_t i = 1; i <= 2; i++) {
		create(w, definition(i, 256));
		run_on(w, i, 1);
	}
	hangs_for_good(w, 1);
	assert_false(core_must_leave(w->cluster, 1));
	assert_non_null(strstr(vm(w, 1)->reason, "vm2 runs well there"));
	assert_int_equal(ask(w, EVENT_VM_MOVE, 2, 3), ERR_NONE);
	moves(w, 2);
	assert_true(core_must_leave(w->cluster, 1));
}

/* Leaving would only make the VM blocked: nothing could prove the node's end. */
static void a_node_stays_where_nothing_proves_its_end(void **state)
{
	struct world *w = world(state, 3);

	create(w, definition(1, 256));
	run_on(w, 1, 1);
	hangs_for_good(w, 1);
	assert_false(core_must_leave(w->cluster, 1));
	assert_non_null(strstr(vm(w, 1)->reason, "reboot n1"));
}

/* What was said of another epoch, by a node that nobody asked, or after the end was ordered, ends nothing and saves nothing. */
static void late_words_about_disks_change_nothing(void **state)
{
	struct world *w = world(state, 3);

	create(w, definition(1, 256));
	run_on(w, 1, 1);
	assert_int_equal(storage(w, EVENT_STORAGE_OK, 1, 2), ERR_PROTOCOL);
	assert_int_equal(storage(w, EVENT_STORAGE_OK, 1, 1), ERR_PROTOCOL);
	hangs_for_good(w, 1);
	assert_int_equal(storage(w, EVENT_STORAGE_OK, 1, 1), ERR_PROTOCOL);
	dies(w, 1);
	assert_int_equal(vm(w, 1)->state, VM_STARTING);
	assert_int_not_equal(vm(w, 1)->owner, 1);
	assert_int_equal(vm(w, 1)->deaths, 0);
}

/* Nobody wants it started by itself elsewhere, so it is not ended. */
static void priority_none_waits_for_its_disks(void **state)
{
	struct world *w = world(state, 3);
	struct vm_def def = definition(1, 256);

	def.priority = PRIORITY_NONE;
	create(w, def);
	run_on(w, 1, 1);
	assert_int_equal(storage(w, EVENT_STORAGE_LOST, 1, 1), ERR_NONE);
	pass(w, 60 * MINUTE_MS);
	assert_int_equal(vm(w, 1)->storage_asked, 0);
	assert_int_equal(vm(w, 1)->state, VM_ONLINE);
}

/* B17: who decides is the policy of now, and a panic uses the same budget as a death. */
static void a_panic_is_a_death_unless_its_policy_says_otherwise(void **state)
{
	struct world *w = world(state, 2);
	struct vm_def def;

	create(w, definition(1, 64));
	run_on(w, 1, 1);
	panics(w, 1);
	assert_int_equal(vm(w, 1)->owner, 1);
	assert_int_equal(vm(w, 1)->epoch, 2);
	assert_non_null(strstr(vm(w, 1)->reason, "the guest panicked on n1"));
	up(w, 1);
	dies(w, 1);
	assert_int_equal(vm(w, 1)->owner, 2); /* one restart was all that n1 had */
	up(w, 1);

	def = vm(w, 1)->def;
	def.policy.on_panic = ON_PANIC_STOP;
	struct event edit = {.kind = EVENT_VM_EDIT, .def = def};
	strcpy(edit.vm, def.uuid);
	assert_int_equal(feed(w, &edit), ERR_NONE);
	panics(w, 1);
	assert_int_equal(vm(w, 1)->state, VM_OFF);
	assert_int_equal(vm(w, 1)->want, WANT_OFF);
	assert_non_null(strstr(vm(w, 1)->reason, "on_panic says stop"));
}

static void a_panicked_guest_is_kept_as_long_as_its_policy_says_so(void **state)
{
	struct world *w = world(state, 2);
	struct vm_def def = definition(1, 64);

	def.policy.on_panic = ON_PANIC_PAUSE;
	create(w, def);
	run_on(w, 1, 1);
	assert_false(core_duty(w->cluster, (uint32_t)(vm(w, 1) - w->cluster->vms), 1).end_panicked);
	struct event edit = {.kind = EVENT_VM_EDIT, .def = vm(w, 1)->def};
	edit.def.policy.on_panic = ON_PANIC_RESTART;
	strcpy(edit.vm, edit.def.uuid);
	assert_int_equal(feed(w, &edit), ERR_NONE);
	assert_true(core_duty(w->cluster, (uint32_t)(vm(w, 1) - w->cluster->vms), 1).end_panicked);
}

/* B17: what the policy says now, and only while the guest is to run. */
static void a_heartbeat_is_asked_for_while_the_guest_is_to_run(void **state)
{
	struct world *w = world(state, 2);
	struct vm_def def = definition(1, 64);
	struct err err;

	vm_def_pin(&def);
	def.policy.heartbeat_s = 30;
	assert_int_equal(vm_def_check(&def, &err), -1);
	assert_non_null(strstr(err.text, "--guest-agent virtio"));
	def.guest_agent = GUEST_AGENT_VIRTIO;
	assert_int_equal(vm_def_check(&def, &err), 0);
	create(w, def);
	run_on(w, 1, 1);
	uint32_t slot = (uint32_t)(vm(w, 1) - w->cluster->vms);
	assert_int_equal(core_duty(w->cluster, slot, 1).heartbeat_s, 30);
	def = vm(w, 1)->def;
	struct event edit = {.kind = EVENT_VM_EDIT, .def = def};
	edit.def.policy.heartbeat_s = 60;
	strcpy(edit.vm, def.uuid);
	assert_int_equal(feed(w, &edit), ERR_NONE);
	assert_int_equal(core_duty(w->cluster, slot, 1).heartbeat_s, 60);
	struct event off = {.kind = EVENT_VM_SHUTDOWN};
	strcpy(off.vm, def.uuid);
	assert_int_equal(feed(w, &off), ERR_NONE);
	assert_int_equal(core_duty(w->cluster, slot, 1).kind, DUTY_SHUTDOWN);
	assert_int_equal(core_duty(w->cluster, slot, 1).heartbeat_s, 0);
}

static void a_heartbeat_has_bounds(void **state)
{
	struct vm_policy policy = {0};
	struct err err;

	(void)state;
	for (uint32_t s = 0; s <= 4000; s++) {
		policy.heartbeat_s = s;
		assert_int_equal(vm_policy_check(&policy, &err) == 0, !s || (s >= 10 && s <= 3600));
	}
}

int main(void)
{
#define T(test) cmocka_unit_test_teardown(test, teardown)
	const struct CMUnitTest tests[] = {
		T(room_goes_by_priority_and_the_rest_waits),
		T(room_returns_with_a_node_or_an_edit),
		T(a_vm_has_no_more_vcpus_than_its_node),
		T(owners_are_preferred_in_order_and_possible_ones_alone),
		T(anti_affinity_is_kept_or_said),
		T(starts_are_bounded_and_by_priority),
		T(the_next_start_order_waits_until_the_lower_one_is_up),
		T(a_start_order_does_not_wait_for_what_has_no_room),
		T(a_vm_that_kills_its_nodes_ends_failed),
		T(of_several_suspects_one_is_tried_at_a_time),
		T(nodes_that_go_together_are_not_held_against_vms),
		T(a_flapping_node_is_quarantined_and_drained),
		T(a_person_lifts_a_quarantine),
		T(only_a_minority_is_quarantined),
		T(a_daemon_that_restarts_is_not_quarantined),
		T(failback_waits_until_home_is_stable),
		T(failback_respects_a_persons_move),
		T(the_policy_is_edited_while_the_vm_runs),
		T(priority_none_is_never_started_by_itself),
		T(used_up_here_and_full_there_waits_for_either),
		T(a_start_without_memory_is_no_death),
		T(an_asked_start_without_memory_is_told),
		T(a_restore_without_memory_is_tried_again),
		T(what_waits_for_room_can_be_told_not_to),
		T(each_node_is_explained),
		T(a_node_stays_for_a_guest_that_is_well),
		T(a_node_stays_where_nothing_proves_its_end),
		T(late_words_about_disks_change_nothing),
		T(priority_none_waits_for_its_disks),
		T(a_copy_decides_the_same),
		T(a_panic_is_a_death_unless_its_policy_says_otherwise),
		T(a_panicked_guest_is_kept_as_long_as_its_policy_says_so),
		T(a_heartbeat_is_asked_for_while_the_guest_is_to_run),
		cmocka_unit_test(a_heartbeat_has_bounds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
