/* SPDX-License-Identifier: Apache-2.0
 * What happens by itself and when, as traces on the core: the order of starts, failback, and what is left alone. Each
 * test is a promise of docs/failover.md. */
#include "support/core_world.h"

#include "core/timing.h"

/* A storm of starts would make each of them slow: so many at a time, the important ones first, none forgotten. */
static void starts_are_bounded_and_by_priority(void **state)
{
	struct core_world *w = core_world_new(state, 2, 2048, 0);
	uint32_t starting = 0, count = 12;

	for (uint32_t i = 1; i <= count; i++) {
		struct vm_def def = world_def(i, 64);
		def.priority = i > 8 ? PRIORITY_HIGH : PRIORITY_LOW;
		world_create(w, def);
		world_run(w, i, 2);
	}
	world_node_dies(w, 2);
	for (uint32_t i = 1; i <= count; i++)
		starting += world_vm(w, i)->state == VM_STARTING;
	assert_int_equal(starting, STARTS_MAX);
	for (uint32_t i = 9; i <= 12; i++)
		assert_int_equal(world_vm(w, i)->state, VM_STARTING);
	assert_int_equal(world_vm(w, 1)->wait, WAIT_TURN);
	world_up(w, 9);
	assert_int_equal(world_vm(w, 1)->state, VM_STARTING);
	assert_int_equal(world_vm(w, 2)->state, VM_OFF);
	/* A start that hangs keeps the others waiting for a minute, not for ever. */
	world_pass(w, START_SLOT_MS + 1000);
	for (uint32_t i = 2; i <= 5; i++)
		assert_int_equal(world_vm(w, i)->state, VM_STARTING);
}

static void the_next_start_order_waits_until_the_lower_one_is_up(void **state)
{
	struct core_world *w = core_world_new(state, 2, 2048, 0);

	for (uint32_t i = 1; i <= 4; i++) {
		struct vm_def def = world_def(i, 64);
		def.policy.start_order = i == 4 ? 0 : i;
		def.policy.start_delay_s = i == 1 ? 30 : 0;
		def.priority = i == 3 ? PRIORITY_HIGH : PRIORITY_MEDIUM;
		world_create(w, def);
		world_run(w, i, 2);
	}
	world_pass(w, MINUTE_MS);
	world_node_dies(w, 2);
	assert_int_equal(world_vm(w, 1)->state, VM_STARTING);
	assert_int_equal(world_vm(w, 2)->wait, WAIT_ORDER);
	assert_int_equal(world_vm(w, 3)->wait, WAIT_ORDER);
	assert_int_equal(world_vm(w, 4)->state, VM_STARTING); /* in no order: waits for none */
	world_up(w, 1);
	assert_int_equal(world_vm(w, 2)->state, VM_OFF);
	world_pass(w, 29 * 1000);
	assert_int_equal(world_vm(w, 2)->state, VM_OFF);
	world_pass(w, 2 * 1000);
	assert_int_equal(world_vm(w, 2)->state, VM_STARTING);
	assert_int_equal(world_vm(w, 3)->state, VM_OFF);
	world_up(w, 2);
	assert_int_equal(world_vm(w, 3)->state, VM_STARTING);
}

/* One that waits for room holds nobody back. */
static void a_start_order_does_not_wait_for_what_has_no_room(void **state)
{
	struct core_world *w = core_world_new(state, 2, 2048, 0);
	struct vm_def big = world_def(1, 2048), small = world_def(2, 64), filler = world_def(3, 1024);

	big.policy.start_order = 1;
	small.policy.start_order = 2;
	world_create(w, big);
	world_create(w, small);
	world_create(w, filler);
	world_run(w, 3, 1);
	world_run(w, 1, 2);
	assert_int_equal(world_ask(w, EVENT_VM_START, 2, 1), ERR_NONE);
	world_up(w, 2);
	world_node_dies(w, 2);
	assert_int_equal(world_vm(w, 1)->wait, WAIT_ROOM);
	world_dies(w, 2);
	assert_int_equal(world_vm(w, 2)->state, VM_STARTING);
}

static struct vm_def at_home(uint32_t number, enum failback failback)
{
	struct vm_def def = world_def(number, 64);

	def.policy = (struct vm_policy){.preferred_count = 1, .preferred = {{3}}, .failback = failback};
	def.policy.failback_from_hour = 22;
	def.policy.failback_to_hour = 4;
	return def;
}

static void failback_waits_until_home_is_stable(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);

	world_create(w, at_home(1, FAILBACK_IMMEDIATE));
	world_create(w, at_home(2, FAILBACK_NEVER));
	world_create(w, at_home(3, FAILBACK_WINDOW));
	for (uint32_t i = 1; i <= 3; i++)
		world_run(w, i, 0);
	world_pass(w, 10 * MINUTE_MS);
	world_node_dies(w, 3);
	for (uint32_t i = 1; i <= 3; i++)
		world_up(w, i);
	world_pass(w, 10 * MINUTE_MS);
	world_returns(w, 3, true);
	world_pass(w, FAILBACK_STABLE_MS - 2000);
	assert_int_equal(world_vm(w, 1)->state, VM_ONLINE);
	world_pass(w, 4000);
	assert_int_equal(world_vm(w, 1)->state, VM_MOVING);
	world_assert_reason(w, 1, "back to n3: n3 is a more preferred owner");
	world_moves(w, 1);
	assert_int_equal(world_vm(w, 1)->owner, 3);
	/* It is a little after 16:00 UTC; the window opens at 22:00. */
	uint64_t opens_ms = CORE_WORLD_BEGIN_MS + 6 * 60 * MINUTE_MS;
	world_pass(w, opens_ms - w->now_ms - 1000);
	assert_int_equal(world_vm(w, 3)->state, VM_ONLINE);
	world_pass(w, 2000);
	assert_int_equal(world_vm(w, 3)->state, VM_MOVING);
	assert_int_equal(world_vm(w, 2)->state, VM_ONLINE);
	assert_int_not_equal(world_vm(w, 2)->owner, 3);
}

/* Where a person moved it, it stays; and a move that fails is not tried again at once. */
static void failback_respects_a_persons_move(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);
	struct event failed = {.kind = EVENT_STEP_FAILED, .node = 3};

	world_create(w, at_home(1, FAILBACK_IMMEDIATE));
	world_run(w, 1, 0);
	world_ask(w, EVENT_VM_MOVE, 1, 2);
	world_moves(w, 1);
	world_pass(w, 60 * MINUTE_MS);
	assert_int_equal(world_vm(w, 1)->state, VM_ONLINE);
	assert_int_equal(world_vm(w, 1)->owner, 2);

	world_node_dies(w, 2);
	world_up(w, 1);
	assert_int_equal(world_vm(w, 1)->owner, 3);
	world_node_dies(w, 3);
	world_up(w, 1);
	world_returns(w, 3, true);
	world_pass(w, FAILBACK_STABLE_MS + 1000);
	assert_int_equal(world_vm(w, 1)->state, VM_MOVING);
	world_uuid(1, failed.vm);
	failed.task = world_vm(w, 1)->task;
	assert_int_equal(world_feed(w, &failed), ERR_NONE);
	assert_int_equal(world_vm(w, 1)->state, VM_ONLINE);
	world_pass(w, MOVE_AGAIN_MS - 1000);
	assert_int_equal(world_vm(w, 1)->state, VM_ONLINE);
	world_pass(w, 2000);
	assert_int_equal(world_vm(w, 1)->state, VM_MOVING);
}

/* No automatic start means none: neither after its node's death nor after its own. */
static void priority_none_is_never_started_by_itself(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);

	for (uint32_t i = 1; i <= 2; i++) {
		struct vm_def def = world_def(i, 64);
		def.priority = PRIORITY_NONE;
		world_create(w, def);
		world_run(w, i, 3);
	}
	world_dies(w, 1);
	world_node_dies(w, 3);
	assert_int_equal(world_vm(w, 1)->want, WANT_OFF);
	assert_int_equal(world_vm(w, 2)->want, WANT_OFF);
	world_assert_reason(w, 2, "its priority is none");
}

/* The same events give the same cluster, to the last byte; also after a snapshot was taken over in the middle. */
static void a_copy_decides_the_same(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);
	struct cluster *copy = calloc(1, sizeof(*copy));

	for (uint32_t i = 1; i <= 9; i++) {
		struct vm_def def = world_def(i, 256);
		def.policy.start_order = i % 3;
		world_create(w, def);
		world_run(w, i, i % 3 + 1);
	}
	world_leaves(w, 3);
	cluster_copy(copy, w->cluster);
	struct event event = {.kind = EVENT_NODE_CONFIRM_OFF, .node = 1, .target = 3, .now_ms = w->now_ms + 10};
	strcpy(event.text, "n3");
	strcpy(event.by, "root");
	strcpy(event.boot_id, w->cluster->nodes[0].facts.boot_id);
	core_step(copy, &event, w->outcome);
	core_step(w->cluster, &event, w->outcome);
	assert_true(schema_equal(&cluster_schema, copy, w->cluster));
	free(copy);
}

int main(void)
{
#define T(test) cmocka_unit_test_teardown(test, core_world_free)
	const struct CMUnitTest tests[] = {
		T(starts_are_bounded_and_by_priority),
		T(the_next_start_order_waits_until_the_lower_one_is_up),
		T(a_start_order_does_not_wait_for_what_has_no_room),
		T(failback_waits_until_home_is_stable),
		T(failback_respects_a_persons_move),
		T(priority_none_is_never_started_by_itself),
		T(a_copy_decides_the_same),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
