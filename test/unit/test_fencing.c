/* SPDX-License-Identifier: Apache-2.0
 * From suspect to dead, on the core alone: each test is a promise of design §7 and of faults.md, section B. */
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
};

static enum err_code feed(struct world *w, struct event event)
{
	static struct event e;

	e = event;
	e.now_ms = w->now_ms += 10;
	if (!e.node)
		e.node = (uint32_t)__builtin_ctzll(w->cluster->members) + 1;
	if (!e.by[0])
		strcpy(e.by, "root");
	if (!e.boot_id[0])
		snprintf(e.boot_id, sizeof(e.boot_id), "boot-%u", e.node);
	core_step(w->cluster, &e, w->outcome);
	return w->outcome->code;
}

/* ring: nodes whose corosync is seen, beside the members. */
static void view(struct world *w, uint64_t members, uint64_t ring)
{
	struct event event = {.kind = EVENT_VIEW, .members = members, .ring = members | ring};

	event.node = (uint32_t)__builtin_ctzll(members) + 1;
	assert_int_equal(feed(w, event), ERR_NONE);
}

static void join(struct world *w, uint32_t node, const char *boot, uint32_t watchdog_ms)
{
	struct event event = {.kind = EVENT_NODE_REPORT, .node = node};

	snprintf(event.facts.name, sizeof(event.facts.name), "n%u", node);
	strcpy(event.facts.boot_id, boot);
	event.facts.memory_mib = 4096;
	event.facts.vcpus = 8;
	event.facts.watchdog_ms = watchdog_ms;
	event.facts.token_ms = 1000;
	strcpy(event.facts.accel, "tcg");
	assert_int_equal(feed(w, event), ERR_NONE);
}

static const struct node *node(struct world *w, uint32_t id)
{
	return cluster_node(w->cluster, id);
}

static const struct vm *vm(struct world *w, const char *name)
{
	const struct vm *found = cluster_vm_find(w->cluster, name);

	assert_non_null(found);
	return found;
}

static void run_vm(struct world *w, const char *name, uint32_t on, enum vm_priority priority)
{
	static uint32_t serial;
	struct event event = {.kind = EVENT_VM_CREATE};

	snprintf(event.def.uuid, sizeof(event.def.uuid), "00000000-0000-4000-8000-%012u", ++serial);
	snprintf(event.def.name, sizeof(event.def.name), "%s", name);
	event.def.memory_mib = 1024;
	strcpy(event.def.kernel, "/boot/vmlinuz");
	event.def.priority = priority;
	vm_def_pin(&event.def);
	assert_int_equal(feed(w, event), ERR_NONE);
	struct event start = {.kind = EVENT_VM_START, .target = on};
	strcpy(start.vm, event.def.uuid);
	assert_int_equal(feed(w, start), ERR_NONE);
	struct event started = {.kind = EVENT_STARTED, .node = on, .epoch = vm(w, name)->epoch};
	strcpy(started.vm, event.def.uuid);
	strcpy(started.boot_id, node(w, on)->facts.boot_id);
	assert_int_equal(feed(w, started), ERR_NONE);
}

static void device(struct world *w, const char *name, uint32_t of, uint32_t level)
{
	struct event event = {.kind = EVENT_FENCE_SET};

	strcpy(event.fence.name, name);
	strcpy(event.fence.agent, "fence_test");
	event.fence.node = of;
	event.fence.level = level;
	fence_device_default(&event.fence);
	assert_int_equal(feed(w, event), ERR_NONE);
}

/* The executor's answer to the order about `target` that is under way. */
static enum err_code answer(struct world *w, uint32_t target, bool off, bool was_on)
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
	return feed(w, event);
}

static void cluster_of(struct world *w, uint32_t nodes, uint32_t watchdog_ms)
{
	char boot[UUID_BYTES];

	w->cluster = calloc(1, sizeof(*w->cluster));
	w->outcome = calloc(1, sizeof(*w->outcome));
	assert_non_null(w->cluster);
	assert_non_null(w->outcome);
	w->now_ms = 1000000;
	core_init(w->cluster, "11111111-1111-4111-8111-111111111111");
	view(w, (UINT64_C(1) << nodes) - 1, 0);
	for (uint32_t id = 1; id <= nodes; id++) {
		snprintf(boot, sizeof(boot), "boot-%u", id);
		join(w, id, boot, watchdog_ms);
	}
}

static void fini(struct world *w)
{
	free(w->cluster);
	free(w->outcome);
}

/* B1: silence is no proof; the devices' word is. */
static void failover_waits_for_a_confirmed_fence(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 3, 0);
	run_vm(&w, "web", 3, PRIORITY_MEDIUM);
	device(&w, "ipmi-n3", 3, 1);
	view(&w, 0x3, 0);
	assert_int_equal(vm(&w, "web")->state, VM_BLOCKED);
	assert_int_equal(node(&w, 3)->fence.phase, FENCE_RUN);
	struct fence_duty duty = core_fence_duty(w.cluster, 3, 1);
	assert_true(duty.run && duty.level == 1);
	assert_false(core_fence_duty(w.cluster, 3, 2).run);
	assert_int_equal(answer(&w, 3, true, true), ERR_NONE);
	assert_int_equal(node(&w, 3)->state, NODE_DEAD);
	assert_int_equal(vm(&w, "web")->state, VM_STARTING);
	assert_true(vm(&w, "web")->owner == 1 || vm(&w, "web")->owner == 2);
	assert_int_equal(vm(&w, "web")->epoch, 2);
	fini(&w);
}

/* B12: the next level, then all again with a pause that grows: no dead end, no storm. */
static void a_failed_fence_goes_to_the_next_level_and_round(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 3, 0);
	run_vm(&w, "web", 3, PRIORITY_MEDIUM);
	device(&w, "ipmi-n3", 3, 1);
	device(&w, "pdu-n3", 3, 2);
	view(&w, 0x3, 0);
	assert_int_equal(answer(&w, 3, false, false), ERR_NONE);
	assert_int_equal(node(&w, 3)->fence.level, 2);
	assert_int_equal(answer(&w, 3, false, false), ERR_NONE);
	assert_int_equal(node(&w, 3)->fence.phase, FENCE_RETRY);
	assert_int_equal(core_deadline_ms(w.cluster), w.now_ms + FENCE_RETRY_MS);
	w.now_ms += FENCE_RETRY_MS;
	feed(&w, (struct event){.kind = EVENT_TICK});
	assert_int_equal(node(&w, 3)->fence.phase, FENCE_RUN);
	assert_int_equal(node(&w, 3)->fence.by, 2); /* another member's turn: its way to the device may be better */
	assert_int_equal(vm(&w, "web")->state, VM_BLOCKED);
	fini(&w);
}

/* A late answer about an old incarnation changes nothing (design §7). */
static void a_late_answer_changes_nothing(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 3, 0);
	run_vm(&w, "web", 3, PRIORITY_MEDIUM);
	device(&w, "ipmi-n3", 3, 1);
	view(&w, 0x3, 0);
	struct event old = {.kind = EVENT_FENCED,
		.node = 1,
		.target = 3,
		.task = node(&w, 3)->fence.id,
		.epoch = node(&w, 3)->fence.began_index,
		.proof = PROOF_FENCED};
	view(&w, 0x7, 0);
	join(&w, 3, "boot-3", 0);
	assert_int_equal(vm(&w, "web")->state, VM_ONLINE);
	assert_int_equal(feed(&w, old), ERR_PROTOCOL);
	view(&w, 0x3, 0);
	assert_int_equal(feed(&w, old), ERR_PROTOCOL);
	assert_int_equal(vm(&w, "web")->state, VM_BLOCKED);
	fini(&w);
}

/* The member that works on it dies too: another one goes on, and the first one's answer is late. */
static void another_member_goes_on_with_the_fence(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 5, 0);
	run_vm(&w, "web", 5, PRIORITY_MEDIUM);
	device(&w, "ipmi-n5", 5, 1);
	view(&w, 0xf, 0);
	assert_int_equal(node(&w, 5)->fence.by, 1);
	view(&w, 0xe, 0);
	assert_int_equal(node(&w, 5)->fence.by, 2);
	fini(&w);
}

/* I7: with two of five off by our hand the third one is not touched. */
static void a_fence_never_takes_a_majority(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 5, 0);
	for (uint32_t id = 3; id <= 5; id++) {
		char name[8];
		snprintf(name, sizeof(name), "vm%u", id);
		run_vm(&w, name, id, PRIORITY_MEDIUM);
		snprintf(name, sizeof(name), "ipmi%u", id);
		device(&w, name, id, 1);
	}
	view(&w, 0xf, 0);
	answer(&w, 5, true, true);
	view(&w, 0x7, 0);
	answer(&w, 4, true, true);
	view(&w, 0x3, 0); /* whoever says that this is quorate: an expected_votes set by hand */
	assert_int_equal(node(&w, 3)->fence.phase, FENCE_HELD);
	assert_int_equal(vm(&w, "vm3")->state, VM_BLOCKED);
	fini(&w);
}

/* B13: n2 goes while n3's device is switched: it may be n2's. Nothing of n3 starts before n2 is seen to have had power.
 */
static void a_device_wired_to_another_node_is_doubted(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 5, 0);
	run_vm(&w, "web", 3, PRIORITY_MEDIUM);
	device(&w, "ipmi-n3", 3, 1);
	device(&w, "ipmi-n2", 2, 1);
	view(&w, 0x1b, 0); /* n3 */
	view(&w, 0x19, 0); /* n2 */
	assert_int_equal(node(&w, 3)->fence.doubt, 2);
	assert_int_equal(answer(&w, 3, true, true), ERR_NONE);
	assert_int_equal(vm(&w, "web")->state, VM_BLOCKED);
	assert_int_equal(node(&w, 2)->fence.phase, FENCE_RUN);
	assert_int_equal(answer(&w, 2, true, false), ERR_NONE); /* off already: by the device of n3? */
	assert_int_equal(vm(&w, "web")->state, VM_BLOCKED);
	assert_non_null(strstr(node(&w, 3)->reason, "wired"));
	struct event confirm = {.kind = EVENT_NODE_CONFIRM_OFF, .target = 3};
	strcpy(confirm.text, "n3");
	assert_int_equal(feed(&w, confirm), ERR_NONE);
	assert_int_equal(vm(&w, "web")->state, VM_STARTING);
	fini(&w);
}

/* n3 is off by what its device says, and n2, which left meanwhile, may be the one that it switched. */
static void doubt_n3(struct world *w, uint32_t watchdog_ms)
{
	cluster_of(w, 5, watchdog_ms);
	run_vm(w, "web", 3, PRIORITY_MEDIUM);
	device(w, "ipmi-n3", 3, 1);
	device(w, "ipmi-n2", 2, 1);
	view(w, 0x1b, 0);
	view(w, 0x19, 0);
	assert_int_equal(answer(w, 3, true, true), ERR_NONE);
	assert_int_equal(answer(w, 2, true, false), ERR_NONE);
	assert_int_equal(node(w, 3)->fence.phase, FENCE_HELD);
	assert_int_equal(node(w, 3)->fence.doubt, 2);
}

/* Never stuck in silence: n2, back after a reboot, runs; so a device that it reads off is not its own. */
static void a_doubt_ends_by_what_the_other_reads_when_it_is_back(void **state)
{
	struct world w;

	(void)state;
	doubt_n3(&w, 0);
	uint32_t fences = node(&w, 3)->fences;
	view(&w, 0x1b, 0);
	struct fence_duty duty = core_fence_duty(w.cluster, 3, 2);
	assert_true(duty.run);
	assert_true(duty.look); /* nothing is switched: it could be n2 once more */
	assert_false(core_fence_duty(w.cluster, 3, 1).run); /* any other's reading could be older than n2's end */
	join(&w, 2, "boot-2-again", 0);
	assert_int_equal(vm(&w, "web")->state, VM_BLOCKED);
	struct event off = {.kind = EVENT_FENCED, .node = 2, .target = 3, .task = duty.id, .epoch = duty.order, .proof = PROOF_FENCED};
	assert_int_equal(feed(&w, off), ERR_NONE);
	assert_int_equal(node(&w, 3)->state, NODE_DEAD);
	assert_int_equal(node(&w, 3)->fences, fences);
	assert_non_null(strstr(node(&w, 3)->reason, "still so while n2 runs"));
	assert_int_equal(vm(&w, "web")->state, VM_STARTING);
	fini(&w);
}

/* It reads on: wired to it, or switched on by somebody. Nothing starts, nothing is switched, and it is asked again, also
 * after it was away once more. */
static void a_doubt_stays_while_the_device_says_on(void **state)
{
	struct world w;

	(void)state;
	doubt_n3(&w, 0);
	view(&w, 0x1b, 0);
	join(&w, 2, "boot-2-again", 0);
	struct fence_duty first = core_fence_duty(w.cluster, 3, 2);
	assert_int_equal(answer(&w, 3, false, false), ERR_NONE);
	assert_int_equal(node(&w, 3)->fence.phase, FENCE_RETRY);
	assert_int_equal(vm(&w, "web")->state, VM_BLOCKED);
	assert_non_null(strstr(node(&w, 3)->reason, "confirm-off"));
	w.now_ms += FENCE_RETRY_MS;
	feed(&w, (struct event){.kind = EVENT_TICK});
	struct fence_duty second = core_fence_duty(w.cluster, 3, 2);
	assert_true(second.look && second.order > first.order);
	view(&w, 0x19, 0); /* n2 leaves while it asks */
	assert_int_equal(node(&w, 3)->fence.phase, FENCE_HELD);
	struct event late = {.kind = EVENT_FENCED, .node = 1, .target = 3, .task = second.id, .epoch = second.order, .proof = PROOF_FENCED};
	assert_int_equal(feed(&w, late), ERR_PROTOCOL);
	view(&w, 0x1b, 0);
	assert_true(core_fence_duty(w.cluster, 3, 2).look);
	assert_int_equal(vm(&w, "web")->state, VM_BLOCKED);
	/* The cable is mended, and a person has it switched: in earnest this time. */
	assert_int_equal(answer(&w, 3, false, false), ERR_NONE);
	assert_int_equal(feed(&w, (struct event){.kind = EVENT_NODE_FENCE, .target = 3}), ERR_NONE);
	assert_int_equal(node(&w, 3)->fence.phase, FENCE_RUN);
	assert_false(node(&w, 3)->fence.look);
	fini(&w);
}

/* Which machine was switched need not be known where the lost one has a watchdog. */
static void a_watchdogs_time_ends_a_doubt(void **state)
{
	struct world w;

	(void)state;
	doubt_n3(&w, 5000);
	assert_int_equal(core_fence_duty(w.cluster, 3, 1).await_ms, timing_watchdog_proof_ms(1000, 5000));
	struct event over = {.kind = EVENT_FENCED, .node = 1, .target = 3, .task = node(&w, 3)->fence.id, .proof = PROOF_WATCHDOG};
	assert_int_equal(feed(&w, over), ERR_NONE);
	assert_int_equal(vm(&w, "web")->state, VM_STARTING);
	fini(&w);
}

/* The same, but n2 had power when its own device was asked: n3's device did not take it. */
static void a_doubt_ends_when_the_other_had_power(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 5, 0);
	run_vm(&w, "web", 3, PRIORITY_MEDIUM);
	device(&w, "ipmi-n3", 3, 1);
	device(&w, "ipmi-n2", 2, 1);
	view(&w, 0x1b, 0);
	view(&w, 0x19, 0);
	answer(&w, 3, true, true);
	answer(&w, 2, true, true);
	assert_int_equal(vm(&w, "web")->state, VM_STARTING);
	fini(&w);
}

/* The proof was false: the node is back in the same boot. Its device is not believed again. */
static void a_device_that_lied_is_not_used_again(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 3, 0);
	run_vm(&w, "web", 3, PRIORITY_MEDIUM);
	device(&w, "ipmi-n3", 3, 1);
	view(&w, 0x3, 0);
	answer(&w, 3, true, true);
	view(&w, 0x7, 0);
	join(&w, 3, "boot-3", 0);
	assert_true(w.cluster->fence_devices[0].distrusted);
	assert_non_null(strstr(node(&w, 3)->reason, "ALARM"));
	assert_int_equal(core_duty(w.cluster, 0, 3).kind, DUTY_NONE);
	fini(&w);
}

/* B24: the override wants the name typed, and is refused while the node is seen alive anywhere. */
static void the_override_is_refused_while_the_node_is_seen(void **state)
{
	struct world w;
	struct event confirm = {.kind = EVENT_NODE_CONFIRM_OFF, .target = 3, .text = "n3"};

	(void)state;
	cluster_of(&w, 3, 0);
	run_vm(&w, "web", 3, PRIORITY_MEDIUM);
	assert_int_equal(feed(&w, confirm), ERR_UNFIT); /* a member */
	view(&w, 0x3, 0x4);
	assert_int_equal(node(&w, 3)->fence.phase, FENCE_GRACE);
	assert_int_equal(feed(&w, confirm), ERR_UNFIT); /* its corosync answers */
	view(&w, 0x3, 0);
	strcpy(confirm.text, "n2");
	assert_int_equal(feed(&w, confirm), ERR_INVALID);
	strcpy(confirm.text, "n3");
	assert_int_equal(feed(&w, confirm), ERR_NONE);
	assert_int_equal(vm(&w, "web")->state, VM_STARTING);
	assert_non_null(strstr(vm(&w, "web")->reason, "confirmed off by root"));
	fini(&w);
}

/* B3: no device answers, but the node has a watchdog: its time is proof, and only when no part of it is seen. */
static void a_watchdogs_time_is_proof(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 3, 5000);
	run_vm(&w, "web", 3, PRIORITY_MEDIUM);
	view(&w, 0x3, 0x4);
	assert_int_equal(core_fence_duty(w.cluster, 3, 1).await_ms, 0);
	view(&w, 0x3, 0);
	assert_int_equal(core_fence_duty(w.cluster, 3, 2).await_ms, timing_watchdog_proof_ms(1000, 5000));
	struct event fenced = {
		.kind = EVENT_FENCED, .node = 2, .target = 3, .task = node(&w, 3)->fence.id, .proof = PROOF_WATCHDOG};
	assert_int_equal(feed(&w, fenced), ERR_NONE);
	assert_int_equal(vm(&w, "web")->state, VM_STARTING);
	fini(&w);
}

/* B6: the other half of two may have kept its quorum, and then it feeds its watchdog for ever. */
static void between_two_halves_a_watchdog_is_no_proof(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 2, 5000);
	run_vm(&w, "web", 2, PRIORITY_MEDIUM);
	view(&w, 0x1, 0);
	assert_int_equal(core_fence_duty(w.cluster, 2, 1).await_ms, 0);
	struct event fenced = {
		.kind = EVENT_FENCED, .node = 1, .target = 2, .task = node(&w, 2)->fence.id, .proof = PROOF_WATCHDOG};
	assert_int_equal(feed(&w, fenced), ERR_PROTOCOL);
	assert_int_equal(vm(&w, "web")->state, VM_BLOCKED);
	fini(&w);
}

/* Users hate nodes that reset for no proper reason: a node without a VM is left alone. */
static void a_node_without_a_vm_is_not_fenced(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 3, 0);
	device(&w, "ipmi-n3", 3, 1);
	view(&w, 0x3, 0);
	assert_int_equal(node(&w, 3)->fence.phase, FENCE_IDLE);
	assert_false(core_fence_duty(w.cluster, 3, 1).run);
	fini(&w);
}

/* B6: of two halves the one with less to lose waits; nothing is acknowledged before the other one is proven off. */
static void the_half_with_less_to_lose_waits(void **state)
{
	struct world w;
	struct event create = {.kind = EVENT_VM_CREATE};

	(void)state;
	cluster_of(&w, 2, 0);
	run_vm(&w, "web", 2, PRIORITY_HIGH);
	run_vm(&w, "db", 1, PRIORITY_LOW);
	device(&w, "ipmi-n1", 1, 1);
	device(&w, "ipmi-n2", 2, 1);
	view(&w, 0x1, 0);
	assert_int_equal(core_fence_duty(w.cluster, 2, 1).delay_ms, FENCE_SPLIT_DELAY_MS);
	assert_int_equal(feed(&w, create), ERR_NO_QUORUM);
	answer(&w, 2, true, true);
	assert_int_equal(vm(&w, "web")->state, VM_STARTING);
	assert_int_equal(feed(&w, create), ERR_INVALID); /* about the empty definition, not about the other half */
	fini(&w);
}

/* VMs start by priority; none: not without a person. Who has no room waits with the reason. */
static void vms_of_a_dead_node_start_by_priority(void **state)
{
	struct world w;
	char name[8];

	(void)state;
	cluster_of(&w, 2, 0);
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "n1-%d", i);
		run_vm(&w, name, 1, PRIORITY_MEDIUM);
	}
	run_vm(&w, "low", 2, PRIORITY_LOW);
	run_vm(&w, "high", 2, PRIORITY_HIGH);
	run_vm(&w, "none", 2, PRIORITY_NONE);
	device(&w, "ipmi-n2", 2, 1);
	view(&w, 0x1, 0);
	answer(&w, 2, true, true);
	assert_int_equal(vm(&w, "high")->state, VM_STARTING);
	assert_int_equal(vm(&w, "low")->state, VM_OFF);
	assert_int_equal(vm(&w, "low")->want, WANT_ON);
	assert_non_null(strstr(vm(&w, "low")->reason, "0 MiB free, low needs 1024"));
	assert_int_equal(vm(&w, "none")->want, WANT_OFF);
	fini(&w);
}

/* n3 leaves and is found in that state; then it boots. */
static void lose_n3(struct world *w, bool was_on, int boot)
{
	char text[UUID_BYTES];

	view(w, 0x3, 0);
	if (node(w, 3)->fence.phase == FENCE_RUN)
		answer(w, 3, true, was_on);
	snprintf(text, sizeof(text), "00000000-0000-4000-9000-%012d", 300 + boot);
	view(w, 0x7, 0);
	join(w, 3, text, 0);
}

/* B4, B9: who loses power again and again was not fenced; who was, five times in an hour, waits for a person, who may
 * say that the reason is mended. */
static void only_what_was_switched_counts_as_a_fence(void **state)
{
	struct event resume = {.kind = EVENT_NODE_RESUME, .target = 3};
	struct world w;
	char name[8];

	(void)state;
	cluster_of(&w, 3, 0);
	device(&w, "ipmi-n3", 3, 1);
	for (int i = 0; i < 2 * FENCES_MAX; i++) {
		snprintf(name, sizeof(name), "vm%d", i);
		run_vm(&w, name, 3, PRIORITY_NONE);
		lose_n3(&w, i >= FENCES_MAX, i);
		assert_int_equal(node(&w, 3)->fences, i < FENCES_MAX ? 0 : i - FENCES_MAX + 1);
		w.cluster->nodes[2].quarantine_ms = 0; /* not what this is about */
	}
	run_vm(&w, "last", 3, PRIORITY_MEDIUM);
	view(&w, 0x3, 0);
	assert_int_equal(node(&w, 3)->fence.phase, FENCE_HELD);
	assert_int_equal(feed(&w, resume), ERR_NONE);
	assert_int_equal(node(&w, 3)->fence.phase, FENCE_RUN);
	assert_int_equal(answer(&w, 3, true, true), ERR_NONE);
	assert_int_equal(vm(&w, "last")->state, VM_STARTING);
	fini(&w);
}

/* B4: what says off later, or after another order, may have been switched by the one before. */
static void found_off_is_what_the_first_look_saw(void **state)
{
	struct world w;

	(void)state;
	cluster_of(&w, 3, 0);
	run_vm(&w, "web", 3, PRIORITY_MEDIUM);
	device(&w, "ipmi-n3", 3, 1);
	device(&w, "pdu-n3", 3, 2);
	view(&w, 0x3, 0);
	assert_int_equal(answer(&w, 3, false, true), ERR_NONE);
	assert_int_equal(answer(&w, 3, true, false), ERR_NONE);
	assert_int_equal(node(&w, 3)->state, NODE_DEAD);
	assert_false(node(&w, 3)->fence.found_off);
	fini(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(failover_waits_for_a_confirmed_fence),
		cmocka_unit_test(a_failed_fence_goes_to_the_next_level_and_round),
		cmocka_unit_test(a_late_answer_changes_nothing),
		cmocka_unit_test(another_member_goes_on_with_the_fence),
		cmocka_unit_test(a_fence_never_takes_a_majority),
		cmocka_unit_test(a_device_wired_to_another_node_is_doubted),
		cmocka_unit_test(a_doubt_ends_when_the_other_had_power),
		cmocka_unit_test(a_doubt_ends_by_what_the_other_reads_when_it_is_back),
		cmocka_unit_test(a_doubt_stays_while_the_device_says_on),
		cmocka_unit_test(a_watchdogs_time_ends_a_doubt),
		cmocka_unit_test(a_device_that_lied_is_not_used_again),
		cmocka_unit_test(the_override_is_refused_while_the_node_is_seen),
		cmocka_unit_test(a_watchdogs_time_is_proof),
		cmocka_unit_test(between_two_halves_a_watchdog_is_no_proof),
		cmocka_unit_test(a_node_without_a_vm_is_not_fenced),
		cmocka_unit_test(the_half_with_less_to_lose_waits),
		cmocka_unit_test(vms_of_a_dead_node_start_by_priority),
		cmocka_unit_test(only_what_was_switched_counts_as_a_fence),
		cmocka_unit_test(found_off_is_what_the_first_look_saw),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
