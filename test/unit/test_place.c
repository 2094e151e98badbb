/* SPDX-License-Identifier: Apache-2.0
 * Where a VM may run, as traces on the core: room, rules, preferred owners, and what it waits for when no node can take
 * it. Each test is a promise of docs/failover.md. */
#include "support/core_world.h"

#include "core/timing.h"

/* B19: the important ones first; the rest waits with each node's fact, and starts when room returns. */
static void room_goes_by_priority_and_the_rest_waits(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);
	struct vm_def low = world_def(1, 1024), high = world_def(3, 1024);

	low.priority = PRIORITY_LOW;
	high.priority = PRIORITY_HIGH;
	world_create(w, low);
	world_create(w, world_def(2, 1024));
	world_create(w, high);
	for (uint32_t filler = 4; filler <= 5; filler++)
		world_create(w, world_def(filler, 1024));
	world_run(w, 1, 3);
	world_run(w, 3, 3);
	world_run(w, 4, 1);
	world_run(w, 5, 2);
	world_run(w, 2, 1);
	world_node_dies(w, 3);
	assert_int_equal(world_vm(w, 3)->state, VM_STARTING);
	assert_int_equal(world_vm(w, 3)->owner, 2);
	assert_int_equal(world_vm(w, 1)->state, VM_OFF);
	assert_int_equal(world_vm(w, 1)->wait, WAIT_ROOM);
	world_assert_reason(w, 1, "n1 has 0 MiB free, vm1 needs 1024; n2 has 0 MiB free, vm1 needs 1024; n3 is dead");
	/* Room returns in every way there is: a VM stops, or a node joins. */
	assert_int_equal(world_ask(w, EVENT_VM_STOP, 5, 0), ERR_NONE);
	world_dies(w, 5);
	assert_int_equal(world_vm(w, 1)->state, VM_STARTING);
	world_assert_reason(w, 1, "there is room now");
}

static void room_returns_with_a_node_or_an_edit(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);

	world_create(w, world_def(1, 2048));
	world_create(w, world_def(2, 2048));
	world_create(w, world_def(3, 2048));
	for (uint32_t i = 1; i <= 3; i++)
		world_run(w, i, i);
	world_node_dies(w, 3);
	assert_int_equal(world_vm(w, 3)->state, VM_OFF);
	world_returns(w, 3, true);
	assert_int_equal(world_vm(w, 3)->state, VM_STARTING);
	world_up(w, 3);
	world_node_dies(w, 3);
	assert_int_equal(world_vm(w, 3)->state, VM_OFF);
	world_ask(w, EVENT_VM_STOP, 2, 0);
	world_dies(w, 2);
	assert_int_equal(world_vm(w, 3)->owner, 2);
}

/* A node that cannot show the VM all its vCPUs does not take it; sums may exceed the node's. */
static void a_vm_has_no_more_vcpus_than_its_node(void **state)
{
	struct core_world *w = core_world_new(state, 2, 2048, 0);
	struct vm_def def = world_def(1, 64);

	def.vcpus = 5;
	world_create(w, def);
	assert_int_equal(world_ask(w, EVENT_VM_START, 1, 2), ERR_UNFIT);
	assert_string_equal(w->outcome->text, "n2 has 4 CPUs, vm1 needs 5");
	for (uint32_t i = 2; i <= 4; i++) {
		struct vm_def other = world_def(i, 64);
		other.vcpus = 4;
		world_create(w, other);
		world_run(w, i, 1);
	}
}

static void owners_are_preferred_in_order_and_possible_ones_alone(void **state)
{
	struct core_world *w = core_world_new(state, 4, 2048, 0);
	struct vm_def def = world_def(1, 1024);

	def.policy = (struct vm_policy){.preferred_count = 2, .preferred = {{3}, {2}}, .possible = 2 | 4};
	world_create(w, def);
	assert_int_equal(world_ask(w, EVENT_VM_START, 1, 1), ERR_UNFIT);
	assert_string_equal(w->outcome->text, "n1 is no possible owner of vm1");
	world_run(w, 1, 0);
	assert_int_equal(world_vm(w, 1)->owner, 3);
	world_node_dies(w, 3);
	assert_int_equal(world_vm(w, 1)->owner, 2);
	assert_true(world_vm(w, 1)->displaced);
	world_up(w, 1);
	world_pass(w, 10 * MINUTE_MS);
	world_node_dies(w, 2);
	assert_int_equal(world_vm(w, 1)->state, VM_OFF);
	world_assert_reason(w, 1, "n1 is no possible owner of vm1; n2 is dead; n3 is dead");
}

/* B20. */
static void anti_affinity_is_kept_or_said(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);

	for (uint32_t i = 1; i <= 4; i++) {
		struct vm_def def = world_def(i, 128);
		strcpy(def.policy.anti_affinity, i <= 2 ? "dc" : "web");
		def.policy.anti_affinity_hard = i <= 2;
		world_create(w, def);
	}
	world_run(w, 1, 0);
	world_run(w, 2, 0);
	world_run(w, 3, 0);
	world_run(w, 4, 0);
	assert_int_not_equal(world_vm(w, 1)->owner, world_vm(w, 2)->owner);
	assert_int_not_equal(world_vm(w, 3)->owner, world_vm(w, 4)->owner);
	assert_int_equal(world_ask(w, EVENT_VM_MOVE, 1, world_vm(w, 2)->owner), ERR_UNFIT);
	/* One node is left: the hard pair is apart even so, the soft one together. */
	uint32_t keep = world_vm(w, 2)->owner;
	for (uint32_t node = 1; node <= 3; node++) {
		if (node == keep)
			continue;
		world_pass(w, 10 * MINUTE_MS);
		world_node_dies(w, node);
	}
	assert_int_equal(world_vm(w, 1)->state, VM_OFF);
	world_assert_reason(w, 1, "has another VM of anti-affinity 'dc'");
	assert_int_equal(world_vm(w, 3)->owner, keep);
	assert_int_equal(world_vm(w, 4)->owner, keep);
	assert_non_null(strstr(world_vm(w, 3)->state == VM_STARTING && strstr(world_vm(w, 3)->reason, "beside")
				       ? world_vm(w, 3)->reason
				       : world_vm(w, 4)->reason,
		"beside another VM of anti-affinity 'web', no other node has room"));
}

/* Its budget on one node used up, the other one full: it waits for room there, and the pause ends that as well. */
static void used_up_here_and_full_there_waits_for_either(void **state)
{
	struct core_world *w = core_world_new(state, 2, 2048, 0);

	world_create(w, world_def(1, 512));
	world_create(w, world_def(2, 2048));
	world_run(w, 2, 2);
	world_run(w, 1, 1);
	world_dies(w, 1);
	world_up(w, 1);
	world_dies(w, 1);
	assert_int_equal(world_vm(w, 1)->state, VM_OFF);
	world_assert_reason(w, 1, "its restarts on n1 are used up; n2 has 0 MiB free, vm1 needs 512");
	world_pass(w, 61 * MINUTE_MS);
	assert_int_equal(world_vm(w, 1)->state, VM_STARTING);
	assert_int_equal(world_vm(w, 1)->owner, 1);
}

/* Where a copy that left is still ending there is no memory yet, though nothing is booked: no guest died of that. */
static void a_start_without_memory_is_no_death(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);
	uint64_t pause_ms = ROOM_AGAIN_MS;

	world_create(w, world_def(1, 512));
	world_create(w, world_def(2, 2048));
	world_run(w, 1, 1);
	world_run(w, 2, 3);
	world_node_dies(w, 1);
	assert_int_equal(world_vm(w, 1)->owner, 2);
	for (int i = 0; i < 8; i++) {
		world_finds_no_room(w, 1);
		assert_int_equal(world_vm(w, 1)->state, VM_OFF);
		assert_int_equal(world_vm(w, 1)->want, WANT_ON);
		assert_int_equal(world_vm(w, 1)->deaths, 0);
		world_assert_reason(w, 1, "n2 had less memory free");
		world_pass(w, pause_ms - 20);
		assert_int_equal(world_vm(w, 1)->state, VM_OFF);
		world_pass(w, 40);
		assert_int_equal(world_vm(w, 1)->state, VM_STARTING);
		if (pause_ms < (uint64_t)ROOM_AGAIN_MS << ROOM_AGAIN_SHIFT_MAX)
			pause_ms *= 2;
	}
	/* And at once where there is another node. */
	assert_int_equal(world_ask(w, EVENT_VM_STOP, 2, 0), ERR_NONE);
	world_dies(w, 2);
	world_finds_no_room(w, 1);
	assert_int_equal(world_vm(w, 1)->state, VM_STARTING);
	assert_int_equal(world_vm(w, 1)->owner, 3);
	world_up(w, 1);
	assert_int_equal(world_vm(w, 1)->no_room_count, 0);
}

/* Who asked waits for the answer: he gets it, and it is not started behind his back. */
static void an_asked_start_without_memory_is_told(void **state)
{
	struct core_world *w = core_world_new(state, 2, 2048, 0);

	world_create(w, world_def(1, 512));
	assert_int_equal(world_ask(w, EVENT_VM_START, 1, 1), ERR_NONE);
	world_finds_no_room(w, 1);
	assert_int_equal(world_vm(w, 1)->state, VM_OFF);
	assert_int_equal(world_vm(w, 1)->want, WANT_OFF);
	assert_int_equal(w->cluster->tasks[0].code, ERR_NO_ROOM);
}

/* A restore finds none either: its state is not left to a person for that. */
static void a_restore_without_memory_is_tried_again(void **state)
{
	struct core_world *w = core_world_new(state, 1, 2048, 0);
	struct event event = {.kind = EVENT_SEALED, .node = 1};

	world_create(w, world_def(1, 512));
	world_run(w, 1, 1);
	assert_int_equal(world_ask(w, EVENT_VM_SAVE, 1, 0), ERR_NONE);
	world_uuid(1, event.vm);
	event.task = world_vm(w, 1)->task;
	event.epoch = world_vm(w, 1)->epoch;
	assert_int_equal(world_feed(w, &event), ERR_NONE);
	assert_int_equal(world_ask(w, EVENT_VM_START, 1, 0), ERR_NONE);
	event.kind = EVENT_STEP_FAILED;
	event.task = world_vm(w, 1)->task;
	event.code = ERR_NO_ROOM;
	assert_int_equal(world_feed(w, &event), ERR_NONE);
	assert_int_equal(world_vm(w, 1)->state, VM_SAVED);
	assert_int_equal(world_vm(w, 1)->want, WANT_ON);
	assert_int_equal(world_vm(w, 1)->saved.status, SAVED_SEALED);
	world_pass(w, ROOM_AGAIN_MS + 20);
	assert_int_equal(world_vm(w, 1)->state, VM_RESTORING);
	/* Any other failure is left to a person, as before. */
	event.task = world_vm(w, 1)->task;
	event.code = ERR_CORRUPT;
	assert_int_equal(world_feed(w, &event), ERR_NONE);
	assert_int_equal(world_vm(w, 1)->want, WANT_SAVED);
}

/* What waits for room can be told not to start, by either word. */
static void what_waits_for_room_can_be_told_not_to(void **state)
{
	static const enum event_kind words[] = {EVENT_VM_STOP, EVENT_VM_SHUTDOWN};
	struct core_world *w = core_world_new(state, 2, 2048, 0);

	world_create(w, world_def(1, 2048));
	for (uint32_t i = 2; i <= 3; i++) {
		world_create(w, world_def(i, 512));
		world_run(w, i, 2);
	}
	world_run(w, 1, 1);
	world_node_dies(w, 1);
	assert_int_equal(world_vm(w, 1)->wait, WAIT_ROOM);
	assert_int_equal(world_ask(w, words[0], 1, 0), ERR_NONE);
	assert_int_equal(world_vm(w, 1)->state, VM_OFF);
	assert_int_equal(world_vm(w, 1)->want, WANT_OFF);
	assert_int_equal(world_vm(w, 1)->wait, WAIT_NONE);
	world_assert_reason(w, 1, "not started by itself any more: asked by root");
	assert_int_equal(world_ask(w, words[1], 1, 0), ERR_UNFIT); /* there is nothing left to stop */
	world_returns(w, 1, true);
	assert_int_equal(world_vm(w, 1)->state, VM_OFF);
}

/* Each node that could take it, and why the others cannot. */
static void each_node_is_explained(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);
	static struct core_plan plan;
	char text[REASON_BYTES];

	world_create(w, world_def(1, 1500));
	world_create(w, world_def(2, 1024));
	world_run(w, 1, 2);
	assert_true(core_place_explain(w->cluster, &plan, 1, 1, text));
	assert_string_equal(text, "n1 has 2048 MiB free");
	assert_false(core_place_explain(w->cluster, &plan, 1, 2, text));
	assert_string_equal(text, "n2 has 548 MiB free, vm2 needs 1024");
	plan.counted = plan.labelled = false;
}

int main(void)
{
#define T(test) cmocka_unit_test_teardown(test, core_world_free)
	const struct CMUnitTest tests[] = {
		T(room_goes_by_priority_and_the_rest_waits),
		T(room_returns_with_a_node_or_an_edit),
		T(a_vm_has_no_more_vcpus_than_its_node),
		T(owners_are_preferred_in_order_and_possible_ones_alone),
		T(anti_affinity_is_kept_or_said),
		T(used_up_here_and_full_there_waits_for_either),
		T(a_start_without_memory_is_no_death),
		T(an_asked_start_without_memory_is_told),
		T(a_restore_without_memory_is_tried_again),
		T(what_waits_for_room_can_be_told_not_to),
		T(each_node_is_explained),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
