/* SPDX-License-Identifier: Apache-2.0
 * What a person may ask for, as traces on the core: what is refused, and with which fact. */
#include "support/core_world.h"

static struct vm *web(struct core_world *w)
{
	return world_vm(w, 1);
}

static struct core_world *with_web(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);
	struct vm_def def = world_def(1, 512);

	strcpy(def.name, "web");
	world_create(w, def);
	return w;
}

/* A12: the second of two moves is told which task is under way. */
static void of_two_moves_one_is_accepted(void **state)
{
	struct core_world *w = with_web(state);

	world_run(w, 1, 1);
	assert_int_equal(world_ask(w, EVENT_VM_MOVE, 1, 2), ERR_NONE);
	uint64_t task = w->outcome->task;
	assert_int_equal(world_ask(w, EVENT_VM_MOVE, 1, 3), ERR_BUSY);
	char number[32];
	snprintf(number, sizeof(number), "task %llu", (unsigned long long)task);
	assert_non_null(strstr(w->outcome->text, number));
	assert_int_equal(web(w)->target, 2);
}

/* A13: refused before anything stops, with the fact. */
static void an_unfit_target_is_refused_with_the_fact(void **state)
{
	struct core_world *w = with_web(state);
	struct event facts = {.kind = EVENT_NODE_REPORT, .node = 3};

	world_run(w, 1, 1);
	assert_int_equal(world_ask(w, EVENT_VM_MOVE, 1, 1), ERR_INVALID);
	assert_int_equal(world_ask(w, EVENT_VM_MOVE, 1, 9), ERR_NOT_FOUND);
	facts.facts = w->cluster->nodes[2].facts;
	facts.facts.memory_mib = 256;
	world_feed(w, &facts);
	assert_int_equal(world_ask(w, EVENT_VM_MOVE, 1, 3), ERR_UNFIT);
	assert_string_equal(w->outcome->text, "n3 has 256 MiB free, web needs 512");
	facts.facts.memory_mib = 2048;
	facts.facts.bridge_count = 0;
	world_feed(w, &facts);
	assert_int_equal(world_ask(w, EVENT_VM_MOVE, 1, 3), ERR_UNFIT);
	assert_non_null(strstr(w->outcome->text, "no bridge br0"));
	world_view(w, 3);
	assert_int_equal(world_ask(w, EVENT_VM_MOVE, 1, 3), ERR_UNFIT);
	assert_string_equal(w->outcome->text, "n3 is lost");
	assert_int_equal(web(w)->state, VM_ONLINE);
}

/* Two edit the same definition: the second is told, whatever the order in which the cluster takes them. */
static void an_edit_of_what_is_not_there_any_more_is_refused(void **state)
{
	struct core_world *w = with_web(state);
	struct event first = {.kind = EVENT_VM_EDIT, .def = web(w)->def, .was_digest = vm_def_digest(&web(w)->def)};
	struct event second = first;

	first.def.memory_mib = 1024;
	second.def.vcpus = 2;
	assert_int_equal(world_feed(w, &first), ERR_NONE);
	assert_int_equal(world_feed(w, &second), ERR_BUSY);
	assert_int_equal(web(w)->def.memory_mib, 1024);
	second.was_digest = 0; /* did not look */
	assert_int_equal(world_feed(w, &second), ERR_NONE);
}

static void the_policy_is_edited_while_the_vm_runs(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);
	struct event edit = {.kind = EVENT_VM_EDIT};

	world_create(w, world_def(1, 64));
	world_run(w, 1, 1);
	edit.def = world_vm(w, 1)->def;
	edit.def.priority = PRIORITY_HIGH;
	edit.def.offline_action = OFFLINE_TURN_OFF;
	edit.def.policy.start_order = 3;
	assert_int_equal(world_feed(w, &edit), ERR_NONE);
	assert_int_equal(world_vm(w, 1)->def.policy.start_order, 3);
	assert_int_equal(world_vm(w, 1)->state, VM_ONLINE);
	edit.def.memory_mib = 128;
	assert_int_equal(world_feed(w, &edit), ERR_UNFIT);
	assert_non_null(strstr(w->outcome->text, "its machine is pinned"));
	assert_int_equal(world_vm(w, 1)->def.memory_mib, 64);
}

/* One disk, one writer. */
static void a_disk_in_use_is_refused(void **state)
{
	struct core_world *w = with_web(state);
	struct event create = {.kind = EVENT_VM_CREATE};

	strcpy(create.def.uuid, "00000000-0000-4000-8000-000000000002");
	strcpy(create.def.name, "db");
	create.def.memory_mib = 64;
	create.def.disk_count = 1;
	strcpy(create.def.disks[0].path, "/srv/a.img");
	vm_def_pin(&create.def);
	assert_int_equal(world_feed(w, &create), ERR_NONE);
	strcpy(create.def.uuid, "00000000-0000-4000-8000-000000000003");
	strcpy(create.def.name, "db2");
	assert_int_equal(world_feed(w, &create), ERR_EXISTS);
	assert_string_equal(w->outcome->text, "disk disk0: '/srv/a.img' is in use by db: give it one of its own");
	strcpy(create.def.name, "db");
	strcpy(create.def.disks[0].path, "/srv/b.img");
	assert_int_equal(world_feed(w, &create), ERR_EXISTS);
}

int main(void)
{
#define T(test) cmocka_unit_test_teardown(test, core_world_free)
	const struct CMUnitTest tests[] = {
		T(of_two_moves_one_is_accepted),
		T(an_unfit_target_is_refused_with_the_fact),
		T(an_edit_of_what_is_not_there_any_more_is_refused),
		T(the_policy_is_edited_while_the_vm_runs),
		T(a_disk_in_use_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
