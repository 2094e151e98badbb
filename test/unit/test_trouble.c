/* SPDX-License-Identifier: Apache-2.0
 * A guest in trouble on a node that is well, as traces on the core: its disks are not reached, it panics, it does not
 * answer. Each test is a promise of docs/failover.md. */
#include "support/core_world.h"

#include "core/timing.h"

static enum err_code storage(struct core_world *w, enum event_kind kind, uint32_t number, uint32_t node)
{
	struct event event = {.kind = kind, .node = node, .epoch = world_vm(w, number)->epoch};

	world_uuid(number, event.vm);
	strcpy(event.text, "input/output error");
	return world_feed(w, &event);
}

/* Its owner does not reach the disks, n2 does: the order to end it is given, and its QEMU does not die. */
static void hangs_for_good(struct core_world *w, uint32_t number)
{
	assert_int_equal(storage(w, EVENT_STORAGE_LOST, number, 1), ERR_NONE);
	world_pass(w, STORAGE_ASK_MS);
	assert_int_equal(world_vm(w, number)->storage_asked, 2);
	assert_int_equal(storage(w, EVENT_STORAGE_OK, number, 2), ERR_NONE);
	world_pass(w, STORAGE_CONFIRM_MS + 100);
	assert_true(core_duty(w->cluster, number - 1, 1).at_once);
	world_pass(w, STORAGE_KILL_MS + 100);
	assert_int_equal(world_vm(w, number)->owner, 1);
}

/* Fencing would take the healthy one along: a person moves it away first. */
static void a_node_stays_for_a_guest_that_is_well(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);

	world_device(w, "ipmi-n1", 1, 1);
	for (uint32_t i = 1; i <= 2; i++) {
		world_create(w, world_def(i, 256));
		world_run(w, i, 1);
	}
	hangs_for_good(w, 1);
	assert_false(core_must_leave(w->cluster, 1));
	assert_non_null(strstr(world_vm(w, 1)->reason, "vm2 runs well there"));
	assert_int_equal(world_ask(w, EVENT_VM_MOVE, 2, 3), ERR_NONE);
	world_moves(w, 2);
	assert_true(core_must_leave(w->cluster, 1));
}

/* Leaving would only make the VM blocked: nothing could prove the node's end. */
static void a_node_stays_where_nothing_proves_its_end(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);

	world_create(w, world_def(1, 256));
	world_run(w, 1, 1);
	hangs_for_good(w, 1);
	assert_false(core_must_leave(w->cluster, 1));
	assert_non_null(strstr(world_vm(w, 1)->reason, "reboot n1"));
}

/* What was said of another epoch, by a node that nobody asked, or after the end was ordered, ends nothing and saves
 * nothing. */
static void late_words_about_disks_change_nothing(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);

	world_create(w, world_def(1, 256));
	world_run(w, 1, 1);
	assert_int_equal(storage(w, EVENT_STORAGE_OK, 1, 2), ERR_PROTOCOL);
	assert_int_equal(storage(w, EVENT_STORAGE_OK, 1, 1), ERR_PROTOCOL);
	hangs_for_good(w, 1);
	assert_int_equal(storage(w, EVENT_STORAGE_OK, 1, 1), ERR_PROTOCOL);
	world_dies(w, 1);
	assert_int_equal(world_vm(w, 1)->state, VM_STARTING);
	assert_int_not_equal(world_vm(w, 1)->owner, 1);
	assert_int_equal(world_vm(w, 1)->deaths, 0);
}

/* Nobody wants it started by itself elsewhere, so it is not ended. */
static void priority_none_waits_for_its_disks(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);
	struct vm_def def = world_def(1, 256);

	def.priority = PRIORITY_NONE;
	world_create(w, def);
	world_run(w, 1, 1);
	assert_int_equal(storage(w, EVENT_STORAGE_LOST, 1, 1), ERR_NONE);
	world_pass(w, 60 * MINUTE_MS);
	assert_int_equal(world_vm(w, 1)->storage_asked, 0);
	assert_int_equal(world_vm(w, 1)->state, VM_ONLINE);
}

/* B17: who decides is the policy of now, and a panic uses the same budget as a death. */
static void a_panic_is_a_death_unless_its_policy_says_otherwise(void **state)
{
	struct core_world *w = core_world_new(state, 2, 2048, 0);
	struct vm_def def;

	world_create(w, world_def(1, 64));
	world_run(w, 1, 1);
	world_panics(w, 1);
	assert_int_equal(world_vm(w, 1)->owner, 1);
	assert_int_equal(world_vm(w, 1)->epoch, 2);
	assert_non_null(strstr(world_vm(w, 1)->reason, "the guest panicked on n1"));
	world_up(w, 1);
	world_dies(w, 1);
	assert_int_equal(world_vm(w, 1)->owner, 2); /* one restart was all that n1 had */
	world_up(w, 1);

	def = world_vm(w, 1)->def;
	def.policy.on_panic = ON_PANIC_STOP;
	struct event edit = {.kind = EVENT_VM_EDIT, .def = def};
	strcpy(edit.vm, def.uuid);
	assert_int_equal(world_feed(w, &edit), ERR_NONE);
	world_panics(w, 1);
	assert_int_equal(world_vm(w, 1)->state, VM_OFF);
	assert_int_equal(world_vm(w, 1)->want, WANT_OFF);
	assert_non_null(strstr(world_vm(w, 1)->reason, "on_panic says stop"));
}

static void a_panicked_guest_is_kept_as_long_as_its_policy_says_so(void **state)
{
	struct core_world *w = core_world_new(state, 2, 2048, 0);
	struct vm_def def = world_def(1, 64);

	def.policy.on_panic = ON_PANIC_PAUSE;
	world_create(w, def);
	world_run(w, 1, 1);
	assert_false(core_duty(w->cluster, (uint32_t)(world_vm(w, 1) - w->cluster->vms), 1).end_panicked);
	struct event edit = {.kind = EVENT_VM_EDIT, .def = world_vm(w, 1)->def};
	edit.def.policy.on_panic = ON_PANIC_RESTART;
	strcpy(edit.vm, edit.def.uuid);
	assert_int_equal(world_feed(w, &edit), ERR_NONE);
	assert_true(core_duty(w->cluster, (uint32_t)(world_vm(w, 1) - w->cluster->vms), 1).end_panicked);
}

/* B17: what the policy says now, and only while the guest is to run. */
static void a_heartbeat_is_asked_for_while_the_guest_is_to_run(void **state)
{
	struct core_world *w = core_world_new(state, 2, 2048, 0);
	struct vm_def def = world_def(1, 64);
	struct err err;

	vm_def_pin(&def);
	def.policy.heartbeat_s = 30;
	assert_int_equal(vm_def_check(&def, &err), -1);
	assert_non_null(strstr(err.text, "--guest-agent virtio"));
	def.guest_agent = GUEST_AGENT_VIRTIO;
	assert_int_equal(vm_def_check(&def, &err), 0);
	world_create(w, def);
	world_run(w, 1, 1);
	uint32_t slot = (uint32_t)(world_vm(w, 1) - w->cluster->vms);
	assert_int_equal(core_duty(w->cluster, slot, 1).heartbeat_s, 30);
	def = world_vm(w, 1)->def;
	struct event edit = {.kind = EVENT_VM_EDIT, .def = def};
	edit.def.policy.heartbeat_s = 60;
	strcpy(edit.vm, def.uuid);
	assert_int_equal(world_feed(w, &edit), ERR_NONE);
	assert_int_equal(core_duty(w->cluster, slot, 1).heartbeat_s, 60);
	struct event off = {.kind = EVENT_VM_SHUTDOWN};
	strcpy(off.vm, def.uuid);
	assert_int_equal(world_feed(w, &off), ERR_NONE);
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
#define T(test) cmocka_unit_test_teardown(test, core_world_free)
	const struct CMUnitTest tests[] = {
		T(a_node_stays_for_a_guest_that_is_well),
		T(a_node_stays_where_nothing_proves_its_end),
		T(late_words_about_disks_change_nothing),
		T(priority_none_waits_for_its_disks),
		T(a_panic_is_a_death_unless_its_policy_says_otherwise),
		T(a_panicked_guest_is_kept_as_long_as_its_policy_says_so),
		T(a_heartbeat_is_asked_for_while_the_guest_is_to_run),
		cmocka_unit_test(a_heartbeat_has_bounds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
