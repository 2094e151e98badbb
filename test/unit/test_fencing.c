/* SPDX-License-Identifier: Apache-2.0
 * From suspect to dead, on the core alone: each test is a promise of design §7 and of faults.md, section B. */
#include "support/core_world.h"

#include "core/timing.h"

enum { MEMORY_MIB = 4096 };

static const struct node *node(struct core_world *w, uint32_t id)
{
	return cluster_node(w->cluster, id);
}

static const struct vm *vm(struct core_world *w, const char *name)
{
	const struct vm *found = cluster_vm_find(w->cluster, name);

	assert_non_null(found);
	return found;
}

static void run_vm(struct core_world *w, const char *name, uint32_t on, enum vm_priority priority)
{
	struct vm_def def = {.memory_mib = 1024, .priority = priority};

	snprintf(def.name, sizeof(def.name), "%s", name);
	world_run(w, world_create(w, def), on);
}

/* The executor's answer to the order about `target` that is under way. */
static enum err_code answer(struct core_world *w, uint32_t target, bool off, bool was_on)
{
	const struct fencing *fence = &node(w, target)->fence;
	struct event event = {.kind = off ? EVENT_FENCED : EVENT_FENCE_FAILED,
		.node = fence->by,
		.target = target,
		.task = fence->id,
		.epoch = fence->began_index,
		.was_on = was_on,
		.proof = off ? PROOF_FENCED : PROOF_NONE};

	strcpy(event.text, off ? "ipmi: status read back: off" : "ipmi: timed out");
	return world_feed(w, &event);
}

/* B1: silence is no proof; the devices' word is. */
static void failover_waits_for_a_confirmed_fence(void **state)
{
	struct core_world *w = core_world_new(state, 3, MEMORY_MIB, 0);

	run_vm(w, "web", 3, PRIORITY_MEDIUM);
	world_device(w, "ipmi-n3", 3, 1);
	world_view(w, 0x3);
	assert_int_equal(vm(w, "web")->state, VM_BLOCKED);
	assert_int_equal(node(w, 3)->fence.phase, FENCE_RUN);
	struct fence_duty duty = core_fence_duty(w->cluster, 3, 1);
	assert_true(duty.run && duty.level == 1);
	assert_false(core_fence_duty(w->cluster, 3, 2).run);
	assert_int_equal(answer(w, 3, true, true), ERR_NONE);
	assert_int_equal(node(w, 3)->state, NODE_DEAD);
	assert_int_equal(vm(w, "web")->state, VM_STARTING);
	assert_true(vm(w, "web")->owner == 1 || vm(w, "web")->owner == 2);
	assert_int_equal(vm(w, "web")->epoch, 2);
}

/* B12: the next level, then all again with a pause that grows: no dead end, no storm. */
static void a_failed_fence_goes_to_the_next_level_and_round(void **state)
{
	struct core_world *w = core_world_new(state, 3, MEMORY_MIB, 0);

	run_vm(w, "web", 3, PRIORITY_MEDIUM);
	world_device(w, "ipmi-n3", 3, 1);
	world_device(w, "pdu-n3", 3, 2);
	world_view(w, 0x3);
	assert_int_equal(answer(w, 3, false, false), ERR_NONE);
	assert_int_equal(node(w, 3)->fence.level, 2);
	assert_int_equal(answer(w, 3, false, false), ERR_NONE);
	assert_int_equal(node(w, 3)->fence.phase, FENCE_RETRY);
	assert_int_equal(core_deadline_ms(w->cluster), w->now_ms + FENCE_RETRY_MS);
	w->now_ms += FENCE_RETRY_MS;
	FEED(w, .kind = EVENT_TICK);
	assert_int_equal(node(w, 3)->fence.phase, FENCE_RUN);
	assert_int_equal(node(w, 3)->fence.by, 2); /* another member's turn: its way to the device may be better */
	assert_int_equal(vm(w, "web")->state, VM_BLOCKED);
}

/* A late answer about an old incarnation changes nothing (design §7). */
static void a_late_answer_changes_nothing(void **state)
{
	struct core_world *w = core_world_new(state, 3, MEMORY_MIB, 0);

	run_vm(w, "web", 3, PRIORITY_MEDIUM);
	world_device(w, "ipmi-n3", 3, 1);
	world_view(w, 0x3);
	struct event old = {.kind = EVENT_FENCED,
		.node = 1,
		.target = 3,
		.task = node(w, 3)->fence.id,
		.epoch = node(w, 3)->fence.began_index,
		.proof = PROOF_FENCED};
	world_view(w, 0x7);
	world_join(w, 3);
	assert_int_equal(vm(w, "web")->state, VM_ONLINE);
	assert_int_equal(world_feed(w, &old), ERR_PROTOCOL);
	world_view(w, 0x3);
	assert_int_equal(world_feed(w, &old), ERR_PROTOCOL);
	assert_int_equal(vm(w, "web")->state, VM_BLOCKED);
}

/* The member that works on it dies too: another one goes on, and the first one's answer is late. */
static void another_member_goes_on_with_the_fence(void **state)
{
	struct core_world *w = core_world_new(state, 5, MEMORY_MIB, 0);

	run_vm(w, "web", 5, PRIORITY_MEDIUM);
	world_device(w, "ipmi-n5", 5, 1);
	world_view(w, 0xf);
	assert_int_equal(node(w, 5)->fence.by, 1);
	world_view(w, 0xe);
	assert_int_equal(node(w, 5)->fence.by, 2);
}

/* I7: with two of five off by our hand the third one is not touched. */
static void a_fence_never_takes_a_majority(void **state)
{
	struct core_world *w = core_world_new(state, 5, MEMORY_MIB, 0);

	for (uint32_t id = 3; id <= 5; id++) {
		char name[8];
		snprintf(name, sizeof(name), "vm%u", id);
		run_vm(w, name, id, PRIORITY_MEDIUM);
		snprintf(name, sizeof(name), "ipmi%u", id);
		world_device(w, name, id, 1);
	}
	world_view(w, 0xf);
	answer(w, 5, true, true);
	world_view(w, 0x7);
	answer(w, 4, true, true);
	world_view(w, 0x3); /* whoever says that this is quorate: an expected_votes set by hand */
	assert_int_equal(node(w, 3)->fence.phase, FENCE_HELD);
	assert_int_equal(vm(w, "vm3")->state, VM_BLOCKED);
}

/* B13: n2 goes while n3's device is switched: it may be n2's. Nothing of n3 starts before n2 is seen to have had power.
 */
static void a_device_wired_to_another_node_is_doubted(void **state)
{
	struct core_world *w = core_world_new(state, 5, MEMORY_MIB, 0);

	run_vm(w, "web", 3, PRIORITY_MEDIUM);
	world_device(w, "ipmi-n3", 3, 1);
	world_device(w, "ipmi-n2", 2, 1);
	world_view(w, 0x1b); /* n3 */
	world_view(w, 0x19); /* n2 */
	assert_int_equal(node(w, 3)->fence.doubt, 2);
	assert_int_equal(answer(w, 3, true, true), ERR_NONE);
	assert_int_equal(vm(w, "web")->state, VM_BLOCKED);
	assert_int_equal(node(w, 2)->fence.phase, FENCE_RUN);
	assert_int_equal(answer(w, 2, true, false), ERR_NONE); /* off already: by the device of n3? */
	assert_int_equal(vm(w, "web")->state, VM_BLOCKED);
	assert_non_null(strstr(node(w, 3)->reason, "wired"));
	struct event confirm = {.kind = EVENT_NODE_CONFIRM_OFF, .target = 3};
	strcpy(confirm.text, "n3");
	assert_int_equal(world_feed(w, &confirm), ERR_NONE);
	assert_int_equal(vm(w, "web")->state, VM_STARTING);
}

/* n3 is off by what its device says, and n2, which left meanwhile, may be the one that it switched. */
static struct core_world *doubt_n3(void **state, uint32_t watchdog_ms)
{
	struct core_world *w = core_world_new(state, 5, MEMORY_MIB, watchdog_ms);

	run_vm(w, "web", 3, PRIORITY_MEDIUM);
	world_device(w, "ipmi-n3", 3, 1);
	world_device(w, "ipmi-n2", 2, 1);
	world_view(w, 0x1b);
	world_view(w, 0x19);
	assert_int_equal(answer(w, 3, true, true), ERR_NONE);
	assert_int_equal(answer(w, 2, true, false), ERR_NONE);
	assert_int_equal(node(w, 3)->fence.phase, FENCE_HELD);
	assert_int_equal(node(w, 3)->fence.doubt, 2);
	return w;
}

/* Never stuck in silence: n2, back after a reboot, runs; so a device that it reads off is not its own. */
static void a_doubt_ends_by_what_the_other_reads_when_it_is_back(void **state)
{
	struct core_world *w = doubt_n3(state, 0);
	uint32_t fences = node(w, 3)->fences;

	world_view(w, 0x1b);
	struct fence_duty duty = core_fence_duty(w->cluster, 3, 2);
	assert_true(duty.run);
	assert_true(duty.look); /* nothing is switched: it could be n2 once more */
	assert_false(core_fence_duty(w->cluster, 3, 1).run); /* any other's reading could be older than n2's end */
	world_reboots(w, 2);
	world_join(w, 2);
	assert_int_equal(vm(w, "web")->state, VM_BLOCKED);
	struct event off = {.kind = EVENT_FENCED, .node = 2, .target = 3, .task = duty.id, .epoch = duty.order, .proof = PROOF_FENCED};
	assert_int_equal(world_feed(w, &off), ERR_NONE);
	assert_int_equal(node(w, 3)->state, NODE_DEAD);
	assert_int_equal(node(w, 3)->fences, fences);
	assert_non_null(strstr(node(w, 3)->reason, "still so while n2 runs"));
	assert_int_equal(vm(w, "web")->state, VM_STARTING);
}

/* It reads on: wired to it, or switched on by somebody. Nothing starts, nothing is switched, and it is asked again, also
 * after it was away once more. */
static void a_doubt_stays_while_the_device_says_on(void **state)
{
	struct core_world *w = doubt_n3(state, 0);

	world_view(w, 0x1b);
	world_reboots(w, 2);
	world_join(w, 2);
	struct fence_duty first = core_fence_duty(w->cluster, 3, 2);
	assert_int_equal(answer(w, 3, false, false), ERR_NONE);
	assert_int_equal(node(w, 3)->fence.phase, FENCE_RETRY);
	assert_int_equal(vm(w, "web")->state, VM_BLOCKED);
	assert_non_null(strstr(node(w, 3)->reason, "confirm-off"));
	w->now_ms += FENCE_RETRY_MS;
	FEED(w, .kind = EVENT_TICK);
	struct fence_duty second = core_fence_duty(w->cluster, 3, 2);
	assert_true(second.look && second.order > first.order);
	world_view(w, 0x19); /* n2 leaves while it asks */
	assert_int_equal(node(w, 3)->fence.phase, FENCE_HELD);
	struct event late = {.kind = EVENT_FENCED, .node = 1, .target = 3, .task = second.id, .epoch = second.order, .proof = PROOF_FENCED};
	assert_int_equal(world_feed(w, &late), ERR_PROTOCOL);
	world_view(w, 0x1b);
	assert_true(core_fence_duty(w->cluster, 3, 2).look);
	assert_int_equal(vm(w, "web")->state, VM_BLOCKED);
	/* The cable is mended, and a person has it switched: in earnest this time. */
	assert_int_equal(answer(w, 3, false, false), ERR_NONE);
	assert_int_equal(FEED(w, .kind = EVENT_NODE_FENCE, .target = 3), ERR_NONE);
	assert_int_equal(node(w, 3)->fence.phase, FENCE_RUN);
	assert_false(node(w, 3)->fence.look);
}

/* Which machine was switched need not be known where the lost one has a watchdog. */
static void a_watchdogs_time_ends_a_doubt(void **state)
{
	struct core_world *w = doubt_n3(state, 5000);

	assert_int_equal(core_fence_duty(w->cluster, 3, 1).await_ms, timing_watchdog_proof_ms(1000, 5000));
	struct event over = {.kind = EVENT_FENCED, .node = 1, .target = 3, .task = node(w, 3)->fence.id, .proof = PROOF_WATCHDOG};
	assert_int_equal(world_feed(w, &over), ERR_NONE);
	assert_int_equal(vm(w, "web")->state, VM_STARTING);
}

/* The same, but n2 had power when its own device was asked: n3's device did not take it. */
static void a_doubt_ends_when_the_other_had_power(void **state)
{
	struct core_world *w = core_world_new(state, 5, MEMORY_MIB, 0);

	run_vm(w, "web", 3, PRIORITY_MEDIUM);
	world_device(w, "ipmi-n3", 3, 1);
	world_device(w, "ipmi-n2", 2, 1);
	world_view(w, 0x1b);
	world_view(w, 0x19);
	answer(w, 3, true, true);
	answer(w, 2, true, true);
	assert_int_equal(vm(w, "web")->state, VM_STARTING);
}

/* The proof was false: the node is back in the same boot. Its device is not believed again. */
static void a_device_that_lied_is_not_used_again(void **state)
{
	struct core_world *w = core_world_new(state, 3, MEMORY_MIB, 0);

	run_vm(w, "web", 3, PRIORITY_MEDIUM);
	world_device(w, "ipmi-n3", 3, 1);
	world_view(w, 0x3);
	answer(w, 3, true, true);
	world_view(w, 0x7);
	world_join(w, 3);
	assert_true(w->cluster->fence_devices[0].distrusted);
	assert_non_null(strstr(node(w, 3)->reason, "ALARM"));
	assert_int_equal(core_duty(w->cluster, 0, 3).kind, DUTY_NONE);
}

/* B24: the override wants the name typed, and is refused while the node is seen alive anywhere. */
static void the_override_is_refused_while_the_node_is_seen(void **state)
{
	struct core_world *w = core_world_new(state, 3, MEMORY_MIB, 0);
	struct event confirm = {.kind = EVENT_NODE_CONFIRM_OFF, .target = 3, .text = "n3"};

	run_vm(w, "web", 3, PRIORITY_MEDIUM);
	assert_int_equal(world_feed(w, &confirm), ERR_UNFIT); /* a member */
	world_ring(w, 0x3, 0x4);
	assert_int_equal(node(w, 3)->fence.phase, FENCE_GRACE);
	assert_int_equal(world_feed(w, &confirm), ERR_UNFIT); /* its corosync answers */
	world_view(w, 0x3);
	strcpy(confirm.text, "n2");
	assert_int_equal(world_feed(w, &confirm), ERR_INVALID);
	strcpy(confirm.text, "n3");
	assert_int_equal(world_feed(w, &confirm), ERR_NONE);
	assert_int_equal(vm(w, "web")->state, VM_STARTING);
	assert_non_null(strstr(vm(w, "web")->reason, "confirmed off by root"));
}

/* B3: no device answers, but the node has a watchdog: its time is proof, and only when no part of it is seen. */
static void a_watchdogs_time_is_proof(void **state)
{
	struct core_world *w = core_world_new(state, 3, MEMORY_MIB, 5000);

	run_vm(w, "web", 3, PRIORITY_MEDIUM);
	world_ring(w, 0x3, 0x4);
	assert_int_equal(core_fence_duty(w->cluster, 3, 1).await_ms, 0);
	world_view(w, 0x3);
	assert_int_equal(core_fence_duty(w->cluster, 3, 2).await_ms, timing_watchdog_proof_ms(1000, 5000));
	struct event fenced = {
		.kind = EVENT_FENCED, .node = 2, .target = 3, .task = node(w, 3)->fence.id, .proof = PROOF_WATCHDOG};
	assert_int_equal(world_feed(w, &fenced), ERR_NONE);
	assert_int_equal(vm(w, "web")->state, VM_STARTING);
}

/* B6: the other half of two may have kept its quorum, and then it feeds its watchdog for ever. */
static void between_two_halves_a_watchdog_is_no_proof(void **state)
{
	struct core_world *w = core_world_new(state, 2, MEMORY_MIB, 5000);

	run_vm(w, "web", 2, PRIORITY_MEDIUM);
	world_view(w, 0x1);
	assert_int_equal(core_fence_duty(w->cluster, 2, 1).await_ms, 0);
	struct event fenced = {
		.kind = EVENT_FENCED, .node = 1, .target = 2, .task = node(w, 2)->fence.id, .proof = PROOF_WATCHDOG};
	assert_int_equal(world_feed(w, &fenced), ERR_PROTOCOL);
	assert_int_equal(vm(w, "web")->state, VM_BLOCKED);
}

/* Users hate nodes that reset for no proper reason: a node without a VM is left alone. */
static void a_node_without_a_vm_is_not_fenced(void **state)
{
	struct core_world *w = core_world_new(state, 3, MEMORY_MIB, 0);

	world_device(w, "ipmi-n3", 3, 1);
	world_view(w, 0x3);
	assert_int_equal(node(w, 3)->fence.phase, FENCE_IDLE);
	assert_false(core_fence_duty(w->cluster, 3, 1).run);
}

/* B6: of two halves the one with less to lose waits; nothing is acknowledged before the other one is proven off. */
static void the_half_with_less_to_lose_waits(void **state)
{
	struct core_world *w = core_world_new(state, 2, MEMORY_MIB, 0);
	struct event create = {.kind = EVENT_VM_CREATE};

	run_vm(w, "web", 2, PRIORITY_HIGH);
	run_vm(w, "db", 1, PRIORITY_LOW);
	world_device(w, "ipmi-n1", 1, 1);
	world_device(w, "ipmi-n2", 2, 1);
	world_view(w, 0x1);
	assert_int_equal(core_fence_duty(w->cluster, 2, 1).delay_ms, FENCE_SPLIT_DELAY_MS);
	assert_int_equal(world_feed(w, &create), ERR_NO_QUORUM);
	answer(w, 2, true, true);
	assert_int_equal(vm(w, "web")->state, VM_STARTING);
	assert_int_equal(world_feed(w, &create), ERR_INVALID); /* about the empty definition, not about the other half */
}

/* VMs start by priority; none: not without a person. Who has no room waits with the reason. */
static void vms_of_a_dead_node_start_by_priority(void **state)
{
	struct core_world *w = core_world_new(state, 2, MEMORY_MIB, 0);
	char name[8];

	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "n1-%d", i);
		run_vm(w, name, 1, PRIORITY_MEDIUM);
	}
	run_vm(w, "low", 2, PRIORITY_LOW);
	run_vm(w, "high", 2, PRIORITY_HIGH);
	run_vm(w, "none", 2, PRIORITY_NONE);
	world_device(w, "ipmi-n2", 2, 1);
	world_view(w, 0x1);
	answer(w, 2, true, true);
	assert_int_equal(vm(w, "high")->state, VM_STARTING);
	assert_int_equal(vm(w, "low")->state, VM_OFF);
	assert_int_equal(vm(w, "low")->want, WANT_ON);
	assert_non_null(strstr(vm(w, "low")->reason, "0 MiB free, low needs 1024"));
	assert_int_equal(vm(w, "none")->want, WANT_OFF);
}

/* n3 leaves and is found in that state; then it boots. */
static void lose_n3(struct core_world *w, bool was_on)
{
	world_view(w, 0x3);
	if (node(w, 3)->fence.phase == FENCE_RUN)
		answer(w, 3, true, was_on);
	world_returns(w, 3, true);
}

/* B4, B9: who loses power again and again was not fenced; who was, five times in an hour, waits for a person, who may
 * say that the reason is mended. */
static void only_what_was_switched_counts_as_a_fence(void **state)
{
	struct core_world *w = core_world_new(state, 3, MEMORY_MIB, 0);
	struct event resume = {.kind = EVENT_NODE_RESUME, .target = 3};
	char name[8];

	world_device(w, "ipmi-n3", 3, 1);
	for (int i = 0; i < 2 * FENCES_MAX; i++) {
		snprintf(name, sizeof(name), "vm%d", i);
		run_vm(w, name, 3, PRIORITY_NONE);
		lose_n3(w, i >= FENCES_MAX);
		assert_int_equal(node(w, 3)->fences, i < FENCES_MAX ? 0 : i - FENCES_MAX + 1);
		w->cluster->nodes[2].quarantine_ms = 0; /* not what this is about */
	}
	run_vm(w, "last", 3, PRIORITY_MEDIUM);
	world_view(w, 0x3);
	assert_int_equal(node(w, 3)->fence.phase, FENCE_HELD);
	assert_int_equal(world_feed(w, &resume), ERR_NONE);
	assert_int_equal(node(w, 3)->fence.phase, FENCE_RUN);
	assert_int_equal(answer(w, 3, true, true), ERR_NONE);
	assert_int_equal(vm(w, "last")->state, VM_STARTING);
}

/* B4: what says off later, or after another order, may have been switched by the one before. */
static void found_off_is_what_the_first_look_saw(void **state)
{
	struct core_world *w = core_world_new(state, 3, MEMORY_MIB, 0);

	run_vm(w, "web", 3, PRIORITY_MEDIUM);
	world_device(w, "ipmi-n3", 3, 1);
	world_device(w, "pdu-n3", 3, 2);
	world_view(w, 0x3);
	assert_int_equal(answer(w, 3, false, true), ERR_NONE);
	assert_int_equal(answer(w, 3, true, false), ERR_NONE);
	assert_int_equal(node(w, 3)->state, NODE_DEAD);
	assert_false(node(w, 3)->fence.found_off);
}

int main(void)
{
#define T(name) cmocka_unit_test_teardown(name, core_world_free)
	const struct CMUnitTest tests[] = {
		T(failover_waits_for_a_confirmed_fence),
		T(a_failed_fence_goes_to_the_next_level_and_round),
		T(a_late_answer_changes_nothing),
		T(another_member_goes_on_with_the_fence),
		T(a_fence_never_takes_a_majority),
		T(a_device_wired_to_another_node_is_doubted),
		T(a_doubt_ends_when_the_other_had_power),
		T(a_doubt_ends_by_what_the_other_reads_when_it_is_back),
		T(a_doubt_stays_while_the_device_says_on),
		T(a_watchdogs_time_ends_a_doubt),
		T(a_device_that_lied_is_not_used_again),
		T(the_override_is_refused_while_the_node_is_seen),
		T(a_watchdogs_time_is_proof),
		T(between_two_halves_a_watchdog_is_no_proof),
		T(a_node_without_a_vm_is_not_fenced),
		T(the_half_with_less_to_lose_waits),
		T(vms_of_a_dead_node_start_by_priority),
		T(only_what_was_switched_counts_as_a_fence),
		T(found_off_is_what_the_first_look_saw),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
