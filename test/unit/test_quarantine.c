/* SPDX-License-Identifier: Apache-2.0
 * Who is held to blame, as traces on the core: VMs that kill their nodes, and nodes that come and go. Each test is a
 * promise of docs/failover.md. */
#include "support/core_world.h"

#include "core/timing.h"

/* B18: the second node in a row, and it is not started by itself any more; who only stood beside it goes on. */
static void a_vm_that_kills_its_nodes_ends_failed(void **state)
{
	struct core_world *w = core_world_new(state, 5, 2048, 0);

	world_create(w, world_def(1, 512));
	world_create(w, world_def(2, 64));
	world_run(w, 2, 1);
	world_pass(w, 20 * MINUTE_MS);
	world_run(w, 1, 1);
	world_pass(w, MINUTE_MS);
	world_node_dies(w, 1);
	uint32_t second = world_vm(w, 1)->owner;
	world_up(w, 1);
	if (world_vm(w, 2)->state == VM_STARTING)
		world_up(w, 2);
	world_pass(w, MINUTE_MS);
	world_node_dies(w, second);
	assert_int_equal(world_vm(w, 1)->state, VM_FAILED);
	world_assert_reason(w, 1, "died within 5 min of its start there, one after the other");
	assert_true(world_vm(w, 2)->state == VM_STARTING || world_vm(w, 2)->state == VM_ONLINE);
	world_pass(w, 24 * 60 * MINUTE_MS);
	assert_int_equal(world_vm(w, 1)->state, VM_FAILED);
	world_run(w, 1, 0); /* a person may */
}

/* Victims that were started together with the culprit cannot be told from it: one at a time, until it shows. */
static void of_several_suspects_one_is_tried_at_a_time(void **state)
{
	struct core_world *w = core_world_new(state, 5, 2048, 0);

	for (uint32_t i = 1; i <= 3; i++) {
		struct vm_def def = world_def(i, 64);
		def.policy =
			(struct vm_policy){.preferred_count = 4, .preferred = {{1}, {2}, {3}, {4}}, .possible = 15};
		world_create(w, def);
		world_run(w, i, 0);
	}
	world_node_dies(w, 1);
	for (uint32_t i = 1; i <= 3; i++)
		world_up(w, i);
	world_node_dies(w, 2);
	/* Two nodes are possible: two suspects start, the third one waits. */
	assert_int_equal(world_vm(w, 1)->state, VM_STARTING);
	assert_int_equal(world_vm(w, 1)->owner, 3);
	assert_int_equal(world_vm(w, 2)->state, VM_STARTING);
	assert_int_equal(world_vm(w, 2)->owner, 4);
	assert_int_equal(world_vm(w, 3)->state, VM_OFF);
	world_assert_reason(w, 3, "another suspect on probation");
	world_up(w, 1);
	world_up(w, 2);
	world_pass(w, MINUTE_MS);
	world_node_dies(w, 3);
	assert_int_equal(world_vm(w, 1)->state, VM_FAILED);
	world_pass(w, 5 * MINUTE_MS);
	assert_int_equal(world_vm(w, 2)->killed, 0);
	assert_int_equal(world_vm(w, 3)->state, VM_STARTING);
}

/* A rack without power is no guest's deed. */
static void nodes_that_go_together_are_not_held_against_vms(void **state)
{
	struct core_world *w = core_world_new(state, 7, 2048, 0);

	world_create(w, world_def(1, 64));
	world_run(w, 1, 1);
	world_leaves(w, 2);
	world_node_dies(w, 1);
	world_up(w, 1);
	world_leaves(w, world_vm(w, 1)->owner == 3 ? 4 : 3);
	world_node_dies(w, world_vm(w, 1)->owner);
	assert_int_equal(world_vm(w, 1)->state, VM_STARTING);
	assert_int_equal(world_vm(w, 1)->killed, 0);
}

/* B9. */
static void a_flapping_node_is_quarantined_and_drained(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);
	uint32_t moving = 0;

	for (uint32_t i = 1; i <= 4; i++) {
		world_create(w, world_def(i, 64));
		world_run(w, i, 3);
	}
	for (int flap = 0; flap < 3; flap++) {
		world_leaves(w, 3);
		world_pass(w, MINUTE_MS);
		world_returns(w, 3, false);
		assert_int_equal(w->cluster->nodes[2].quarantine_ms != 0, flap == 2);
	}
	assert_non_null(strstr(w->cluster->nodes[2].reason, "it left 3 times within 60 min"));
	for (uint32_t i = 1; i <= 4; i++)
		moving += world_vm(w, i)->state == VM_MOVING;
	assert_int_equal(moving, MOVES_MAX);
	assert_string_equal(cluster_task_find(w->cluster, world_vm(w, 1)->task)->by, "watari");
	for (uint32_t i = 1; i <= 4; i++) {
		world_moves(w, i);
		assert_int_not_equal(world_vm(w, i)->owner, 3);
	}
	assert_int_equal(world_ask(w, EVENT_VM_MOVE, 1, 3), ERR_UNFIT);
	assert_string_equal(w->outcome->text, "n3 is quarantined for flapping");
	world_pass(w, 59 * MINUTE_MS);
	assert_true(w->cluster->nodes[2].quarantine_ms != 0);
	world_pass(w, 2 * MINUTE_MS);
	assert_int_equal(w->cluster->nodes[2].quarantine_ms, 0);
}

static void a_person_lifts_a_quarantine(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);

	assert_int_equal(FEED(w, .kind = EVENT_NODE_RESUME, .target = 3), ERR_UNFIT);
	assert_int_equal(FEED(w, .kind = EVENT_NODE_RESUME, .target = 9), ERR_NOT_FOUND);
	for (int flap = 0; flap < 3; flap++) {
		world_leaves(w, 3);
		world_returns(w, 3, true);
	}
	assert_int_equal(FEED(w, .kind = EVENT_NODE_RESUME, .target = 3), ERR_NONE);
	assert_int_equal(w->cluster->nodes[2].quarantine_ms, 0);
	/* It starts with a clean sheet. */
	world_leaves(w, 3);
	world_returns(w, 3, true);
	assert_int_equal(w->cluster->nodes[2].quarantine_ms, 0);
}

/* When every node flaps it is the network: most of them go on. */
static void only_a_minority_is_quarantined(void **state)
{
	struct core_world *w = core_world_new(state, 5, 2048, 0);

	for (int flap = 0; flap < 3; flap++) {
		for (uint32_t node = 2; node <= 5; node++) {
			world_leaves(w, node);
			world_returns(w, node, true);
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
	struct core_world *w = core_world_new(state, 3, 2048, 0);

	for (int restart = 0; restart < 5; restart++) {
		world_ring(w, 3, 7);
		world_returns(w, 3, false);
	}
	assert_int_equal(w->cluster->nodes[2].quarantine_ms, 0);
}

int main(void)
{
#define T(test) cmocka_unit_test_teardown(test, core_world_free)
	const struct CMUnitTest tests[] = {
		T(a_vm_that_kills_its_nodes_ends_failed),
		T(of_several_suspects_one_is_tried_at_a_time),
		T(nodes_that_go_together_are_not_held_against_vms),
		T(a_flapping_node_is_quarantined_and_drained),
		T(a_person_lifts_a_quarantine),
		T(only_a_minority_is_quarantined),
		T(a_daemon_that_restarts_is_not_quarantined),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
