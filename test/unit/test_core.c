/* SPDX-License-Identifier: Apache-2.0
 * Traces on the core: each test is a promise, told as events in and state out. The core asserts its own invariants after
 * each step; these tests say what must come of it. */
#include "support/core_world.h"

#include "core/timing.h"

/* Of the one VM. */
static struct vm *web(struct core_world *w)
{
	return world_vm(w, 1);
}

/* Each event of these tests is about web, unless it says otherwise. */
static enum err_code feed(struct core_world *w, struct event event)
{
	if (!event.vm[0])
		world_uuid(1, event.vm);
	return world_feed(w, &event);
}

static int setup(void **state)
{
	struct core_world *w = core_world_new(state, 3, 2048, 0);
	struct vm_def def = world_def(1, 512);

	strcpy(def.name, "web");
	world_create(w, def);
	return 0;
}

static uint64_t ask_move(struct core_world *w, uint32_t to)
{
	assert_int_equal(feed(w, (struct event){.kind = EVENT_VM_MOVE, .target = to}), ERR_NONE);
	return w->outcome->task;
}

/* Drives a move that was asked to the end of `phase`. */
static void drive(struct core_world *w, uint64_t task, uint32_t from, uint32_t to, enum move_phase phase)
{
	uint64_t epoch = web(w)->epoch;

	assert_int_equal(feed(w, (struct event){.kind = EVENT_PREPARED, .node = to, .task = task}), ERR_NONE);
	if (phase == MOVE_PREPARE)
		return;
	assert_int_equal(feed(w, (struct event){.kind = EVENT_SEALED, .node = from, .task = task, .epoch = epoch}), 0);
	if (phase == MOVE_COPY)
		return;
	assert_int_equal(feed(w, (struct event){.kind = EVENT_LOADED, .node = to, .task = task, .filling = true}), 0);
	if (phase == MOVE_LOAD)
		return;
	assert_int_equal(feed(w, (struct event){.kind = EVENT_RESUMED, .node = to, .task = task, .epoch = epoch + 1}), 0);
}

static enum duty_kind duty(struct core_world *w, uint32_t node)
{
	return core_duty(w->cluster, 0, node).kind;
}

static enum task_state task_state(struct core_world *w, uint64_t task)
{
	const struct task *found = cluster_task_find(w->cluster, task);

	assert_non_null(found);
	return found->state;
}

/* The whole road, and that nobody but the owner ever has a duty that lets the guest run. */
static void a_move_hands_the_guest_over_once(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	assert_int_equal(duty(w, 1), DUTY_RUN);
	assert_int_equal(duty(w, 2), DUTY_STANDBY);
	drive(w, task, 1, 2, MOVE_PREPARE);
	assert_int_equal(duty(w, 1), DUTY_COPY);
	feed(w, (struct event){.kind = EVENT_SEALED, .node = 1, .task = task, .epoch = 1});
	assert_int_equal(duty(w, 1), DUTY_HOLD);
	assert_int_equal(duty(w, 2), DUTY_LOAD);
	feed(w, (struct event){.kind = EVENT_LOADED, .node = 2, .task = task, .filling = true});
	assert_int_equal(duty(w, 1), DUTY_NONE);
	assert_int_equal(duty(w, 2), DUTY_RUN);
	assert_int_equal(web(w)->epoch, 2);
	assert_int_equal(web(w)->saved.status, SAVED_CONSUMED);
	feed(w, (struct event){.kind = EVENT_RESUMED, .node = 2, .task = task, .epoch = 2});
	assert_int_equal(web(w)->state, VM_ONLINE);
	assert_int_equal(task_state(w, task), TASK_DONE);
	assert_int_equal(core_state_kept(w->cluster, 0), task);
	feed(w, (struct event){.kind = EVENT_FILLED, .node = 2, .epoch = 2});
	assert_int_equal(core_state_kept(w->cluster, 0), 0);
}

/* A1: the source's daemon goes away during the copy; its guest may still run, so nobody else gets it. */
static void a_source_lost_while_copying_blocks(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	drive(w, task, 1, 2, MOVE_PREPARE);
	world_view(w, 6);
	assert_int_equal(web(w)->state, VM_BLOCKED);
	assert_int_equal(task_state(w, task), TASK_FAILED);
	assert_int_equal(duty(w, 2), DUTY_NONE);
	assert_int_equal(duty(w, 3), DUTY_NONE);
	assert_int_equal(feed(w, (struct event){.kind = EVENT_VM_START, .node = 2, .target = 2}), ERR_UNFIT);
	world_view(w, 7);
	world_join(w, 1);
	assert_int_equal(web(w)->state, VM_ONLINE);
	assert_int_equal(duty(w, 1), DUTY_RUN);
	assert_int_equal(web(w)->epoch, 1);
}

/* A4: sealed is proof. The source may lose power; the guest keeps its memory. */
static void a_source_lost_after_the_seal_does_not_stop_the_move(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	drive(w, task, 1, 2, MOVE_COPY);
	world_view(w, 6);
	assert_int_equal(duty(w, 2), DUTY_LOAD);
	feed(w, (struct event){.kind = EVENT_LOADED, .node = 2, .task = task});
	feed(w, (struct event){.kind = EVENT_RESUMED, .node = 2, .task = task, .epoch = 2});
	assert_int_equal(web(w)->state, VM_ONLINE);
	assert_int_equal(web(w)->owner, 2);
	/* The old source comes back with its paused copy: there is nothing for it to run. */
	world_view(w, 7);
	world_join(w, 1);
	assert_int_equal(duty(w, 1), DUTY_NONE);
}

/* A5, A14: the target fails while loading; the source still has its paused copy. */
static void a_target_lost_while_loading_leads_back_to_the_source(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	drive(w, task, 1, 2, MOVE_COPY);
	world_view(w, 5);
	assert_int_equal(web(w)->phase, MOVE_BACK);
	assert_int_equal(web(w)->saved.status, SAVED_SEALED);
	assert_int_equal(duty(w, 1), DUTY_HOLD);
	assert_true(core_duty(w->cluster, 0, 1).report_held);
	assert_int_equal(feed(w, (struct event){.kind = EVENT_HELD, .node = 1, .task = task, .epoch = 1}), ERR_NONE);
	assert_int_equal(web(w)->phase, MOVE_RETURN);
	assert_int_equal(web(w)->saved.status, SAVED_DISCARDED);
	assert_int_equal(duty(w, 1), DUTY_RUN);
	/* The target may have loaded it by now: too late. */
	world_view(w, 7);
	world_join(w, 2);
	assert_int_equal(feed(w, (struct event){.kind = EVENT_LOADED, .node = 2, .task = task}), ERR_PROTOCOL);
	feed(w, (struct event){.kind = EVENT_RESUMED, .node = 1, .task = task, .epoch = 1});
	assert_int_equal(web(w)->state, VM_ONLINE);
	assert_int_equal(web(w)->owner, 1);
	assert_int_equal(task_state(w, task), TASK_FAILED);
}

/* The source has rebooted and is a member again, but its facts are not here: what it had sealed is lost there, so a cancel
 * keeps the state. */
static void nobody_returns_to_a_copy_of_the_boot_before(void **state)
{
	struct core_world *w = *state;
	struct event event = {.kind = EVENT_VIEW, .node = 1, .members = 7, .boot_count = 2};

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	drive(w, task, 1, 2, MOVE_COPY);
	event.boots[0] = (struct member_boot){.node = 1, .boot_id = "another-boot-1"};
	event.boots[1].node = 2;
	strcpy(event.boots[1].boot_id, w->cluster->nodes[1].facts.boot_id);
	assert_int_equal(feed(w, event), ERR_NONE);
	assert_int_equal(web(w)->state, VM_RESTORING);
	assert_int_equal(duty(w, 2), DUTY_LOAD);
	assert_int_equal(w->cluster->nodes[0].state, NODE_JOINING);
	assert_int_equal(w->cluster->nodes[1].state, NODE_ONLINE);
	assert_int_equal(feed(w, (struct event){.kind = EVENT_VM_CANCEL, .node = 2}), ERR_NONE);
	assert_int_equal(web(w)->state, VM_SAVED);
	assert_int_equal(web(w)->saved.status, SAVED_SEALED);
}

/* Pages that never come in hold a move up, and its target's memory, for a bounded time. */
static void a_move_does_not_wait_for_pages_for_ever(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	drive(w, ask_move(w, 2), 1, 2, MOVE_RESUME);
	uint64_t task = ask_move(w, 3);
	assert_int_equal(feed(w, (struct event){.kind = EVENT_PREPARED, .node = 3, .task = task}), ERR_NONE);
	assert_int_equal(web(w)->phase, MOVE_WAIT);
	assert_int_equal(core_deadline_ms(w->cluster), w->now_ms + WAIT_LIMIT_MS);
	w->now_ms += WAIT_LIMIT_MS;
	feed(w, (struct event){.kind = EVENT_TICK});
	assert_int_equal(web(w)->state, VM_ONLINE);
	assert_int_equal(web(w)->owner, 2);
	assert_true(web(w)->filling);
	assert_int_equal(duty(w, 3), DUTY_NONE);
	assert_int_equal(task_state(w, task), TASK_FAILED);
	assert_non_null(strstr(cluster_task_find(w->cluster, task)->text, "n2 has not read all pages"));
}

/* A5: source and target are gone; the third takes the same state. */
static void with_source_and_target_gone_a_third_node_restores(void **state)
{
	struct core_world *w = *state;

	world_view(w, 15);
	world_join(w, 4);
	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	drive(w, task, 1, 2, MOVE_COPY);
	world_view(w, 12);
	assert_int_equal(web(w)->state, VM_RESTORING);
	assert_int_equal(web(w)->owner, 0);
	uint32_t target = web(w)->target;
	assert_true(target == 3 || target == 4);
	assert_int_equal(duty(w, target), DUTY_STANDBY);
}

/* A6: consumed, then the target dies: the state is never used again. */
static void a_consumed_state_is_never_used_again(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	drive(w, task, 1, 2, MOVE_LOAD);
	world_view(w, 5);
	assert_int_equal(web(w)->state, VM_BLOCKED);
	assert_int_equal(duty(w, 1), DUTY_NONE);
	world_view(w, 7);
	world_reboots(w, 2);
	world_join(w, 2);
	assert_int_equal(web(w)->state, VM_STARTING);
	assert_int_equal(web(w)->epoch, 3);
	struct duty start = core_duty(w->cluster, 0, web(w)->owner);
	assert_int_equal(start.kind, DUTY_START);
	assert_int_equal(core_state_kept(w->cluster, 0), 0);
}

/* The target consumed the state, its daemon restarted before it let the guest run: the loaded guest runs, no reboot. */
static void a_target_that_returns_after_consuming_lets_the_guest_run(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	drive(w, task, 1, 2, MOVE_LOAD);
	world_view(w, 5);
	world_view(w, 7);
	world_join(w, 2);
	struct duty run = core_duty(w->cluster, 0, 2);
	assert_int_equal(run.kind, DUTY_RUN);
	assert_int_equal(run.state_task, task);
	assert_int_equal(run.epoch, 2);
	feed(w, (struct event){.kind = EVENT_RESUMED, .node = 2, .epoch = 2});
	assert_int_equal(web(w)->state, VM_ONLINE);
}

/* A8: a call that is replayed, or a directory that is copied back, finds the log. */
static void a_saved_state_is_restored_once(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	feed(w, (struct event){.kind = EVENT_VM_SAVE});
	uint64_t task = w->outcome->task;
	feed(w, (struct event){.kind = EVENT_SEALED, .node = 1, .task = task, .epoch = 1});
	assert_int_equal(web(w)->state, VM_SAVED);
	assert_int_equal(web(w)->owner, 0);
	assert_int_equal(duty(w, 1), DUTY_NONE);
	assert_int_equal(core_state_kept(w->cluster, 0), task);
	feed(w, (struct event){.kind = EVENT_VM_START, .target = 3});
	uint64_t restore = w->outcome->task;
	feed(w, (struct event){.kind = EVENT_PREPARED, .node = 3, .task = restore});
	struct duty load = core_duty(w->cluster, 0, 3);
	assert_int_equal(load.kind, DUTY_LOAD);
	assert_int_equal(load.state_task, task);
	assert_int_equal(load.state_epoch, 1);
	feed(w, (struct event){.kind = EVENT_LOADED, .node = 3, .task = restore});
	assert_int_equal(feed(w, (struct event){.kind = EVENT_LOADED, .node = 3, .task = restore}), ERR_PROTOCOL);
	feed(w, (struct event){.kind = EVENT_RESUMED, .node = 3, .epoch = 2});
	assert_int_equal(web(w)->owner, 3);
	assert_int_equal(feed(w, (struct event){.kind = EVENT_VM_START, .target = 1}), ERR_UNFIT);
}

/* No dead ends: a restore that fails goes to the next node, and at last the state is kept and the reason said. */
static void a_restore_that_fails_everywhere_keeps_the_state(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	feed(w, (struct event){.kind = EVENT_VM_SAVE});
	feed(w, (struct event){.kind = EVENT_SEALED, .node = 1, .task = w->outcome->task, .epoch = 1});
	feed(w, (struct event){.kind = EVENT_VM_START, .target = 1});
	uint64_t task = w->outcome->task;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(web(w)->state, VM_RESTORING);
		struct event failed = {
			.kind = EVENT_STEP_FAILED, .node = web(w)->target, .task = task, .code = ERR_CORRUPT};
		strcpy(failed.text, "page 7 does not hold what its checksum says");
		assert_int_equal(feed(w, failed), ERR_NONE);
	}
	assert_int_equal(web(w)->state, VM_SAVED);
	assert_int_equal(web(w)->saved.status, SAVED_SEALED);
	assert_non_null(strstr(web(w)->reason, "page 7"));
	assert_int_equal(task_state(w, task), TASK_FAILED);
	assert_int_equal(cluster_task_find(w->cluster, task)->code, ERR_CORRUPT);
}

/* The source's copy is gone by the time that the load is given up: its saved state is the guest's only memory, and is
 * neither thrown away nor left lying. */
static void a_state_is_kept_until_the_source_has_its_copy(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	drive(w, task, 1, 2, MOVE_COPY);
	assert_int_equal(feed(w, (struct event){.kind = EVENT_VM_CANCEL}), ERR_NONE);
	assert_int_equal(web(w)->phase, MOVE_BACK);
	assert_int_equal(duty(w, 2), DUTY_NONE);
	/* From another epoch, or from somebody else, it says nothing. */
	assert_int_equal(feed(w, (struct event){.kind = EVENT_HELD, .node = 1, .task = task, .epoch = 2}), ERR_PROTOCOL);
	assert_int_equal(feed(w, (struct event){.kind = EVENT_HELD, .node = 2, .task = task, .epoch = 1}), ERR_PROTOCOL);
	assert_int_equal(feed(w, (struct event){.kind = EVENT_GONE, .node = 1, .epoch = 1}), ERR_NONE);
	assert_int_equal(web(w)->state, VM_RESTORING);
	assert_int_equal(web(w)->saved.status, SAVED_SEALED);
	assert_int_equal(task_state(w, task), TASK_CANCELLED);
	assert_int_equal(duty(w, web(w)->target), DUTY_STANDBY);
}

/* A source that does not answer is not waited for: sealed is proof that nothing runs there. */
static void a_source_that_says_nothing_of_its_copy_is_left_out(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	drive(w, task, 1, 2, MOVE_COPY);
	struct event failed = {.kind = EVENT_STEP_FAILED, .node = 2, .task = task, .code = ERR_UNFIT};
	assert_int_equal(feed(w, failed), ERR_NONE);
	assert_int_equal(web(w)->phase, MOVE_BACK);
	w->now_ms += BACK_LIMIT_MS;
	feed(w, (struct event){.kind = EVENT_TICK});
	assert_int_equal(web(w)->state, VM_RESTORING);
	assert_int_not_equal(web(w)->target, 2);
	assert_int_equal(duty(w, 1), web(w)->target == 1 ? DUTY_STANDBY : DUTY_NONE);
	assert_int_equal(task_state(w, task), TASK_FAILED);
	assert_int_equal(feed(w, (struct event){.kind = EVENT_HELD, .node = 1, .task = task, .epoch = 1}), ERR_PROTOCOL);
}

/* Cancelling before the seal leaves the guest running; the task ends when it is seen to. */
static void a_cancelled_move_ends_when_the_guest_runs_on(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	drive(w, task, 1, 2, MOVE_PREPARE);
	assert_int_equal(feed(w, (struct event){.kind = EVENT_VM_CANCEL}), ERR_NONE);
	assert_int_equal(web(w)->phase, MOVE_RETURN);
	assert_int_equal(task_state(w, task), TASK_RUNNING);
	/* The copy had finished just then: it does not count any more. */
	assert_int_equal(feed(w, (struct event){.kind = EVENT_SEALED, .node = 1, .task = task, .epoch = 1}), ERR_PROTOCOL);
	feed(w, (struct event){.kind = EVENT_RESUMED, .node = 1, .task = task, .epoch = 1});
	assert_int_equal(task_state(w, task), TASK_CANCELLED);
	assert_int_equal(web(w)->state, VM_ONLINE);
}

/* A19: a move that is asked while pages still come in waits for them. */
static void a_move_waits_until_all_pages_are_in(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	drive(w, ask_move(w, 2), 1, 2, MOVE_RESUME);
	assert_true(web(w)->filling);
	uint64_t task = ask_move(w, 3);
	feed(w, (struct event){.kind = EVENT_PREPARED, .node = 3, .task = task});
	assert_int_equal(web(w)->phase, MOVE_WAIT);
	assert_int_equal(duty(w, 2), DUTY_RUN);
	feed(w, (struct event){.kind = EVENT_FILLED, .node = 2, .epoch = 2});
	assert_int_equal(duty(w, 2), DUTY_COPY);
}

/* A16: the guest powers off in the middle: that is what happened, and nothing brings it back. */
static void a_guest_that_powers_off_during_a_move_stays_off(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	drive(w, task, 1, 2, MOVE_PREPARE);
	feed(w, (struct event){.kind = EVENT_GONE, .node = 1, .epoch = 1, .cause = GONE_GUEST_SHUTDOWN});
	assert_int_equal(web(w)->state, VM_OFF);
	assert_int_equal(web(w)->want, WANT_OFF);
	assert_int_equal(duty(w, 2), DUTY_NONE);
	assert_int_equal(task_state(w, task), TASK_FAILED);
}

/* B17, B18: QEMU's death is seen by its node; restarted within the budget, then failed. */
static void a_guest_that_keeps_dying_ends_failed(void **state)
{
	struct core_world *w = *state;
	uint64_t tried = 0;

	world_run(w, 1, 1);
	/* Once again on the same node, then the next one; three nodes, two deaths on each. */
	for (int death = 0; death < 6; death++) {
		uint32_t node = web(w)->owner;
		assert_int_equal((tried & node_bit(node)) != 0, death % 2);
		tried |= node_bit(node);
		feed(w, (struct event){.kind = EVENT_STARTED, .node = node, .epoch = web(w)->epoch});
		feed(w, (struct event){.kind = EVENT_GONE, .node = node, .epoch = web(w)->epoch, .cause = GONE_DIED});
	}
	assert_int_equal(tried, 7);
	assert_int_equal(web(w)->state, VM_FAILED);
	assert_non_null(strstr(web(w)->reason, "restarts used up on every node"));
	/* No dead end: after an hour it is tried again. */
	assert_true(core_deadline_ms(w->cluster) > w->now_ms);
	w->now_ms = core_deadline_ms(w->cluster);
	feed(w, (struct event){.kind = EVENT_TICK});
	assert_int_equal(web(w)->state, VM_STARTING);
}

/* A report about an old epoch or boot changes nothing. */
static void late_reports_change_nothing(void **state)
{
	struct core_world *w = *state;
	struct event gone = {.kind = EVENT_GONE, .node = 1, .epoch = 1};

	world_run(w, 1, 1);
	drive(w, ask_move(w, 2), 1, 2, MOVE_RESUME);
	assert_int_equal(feed(w, gone), ERR_PROTOCOL);
	gone.node = 2;
	assert_int_equal(feed(w, gone), ERR_PROTOCOL);
	gone.epoch = 2;
	strcpy(gone.boot_id, "older-boot");
	assert_int_equal(feed(w, gone), ERR_PROTOCOL);
	assert_int_equal(web(w)->state, VM_ONLINE);
	assert_int_equal(web(w)->owner, 2);
}

/* Time limits are events too: a target that hangs in its checks costs nothing. */
static void a_target_that_hangs_is_given_up(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	uint64_t task = ask_move(w, 2);
	uint64_t due = core_deadline_ms(w->cluster);
	assert_true(due > w->now_ms);
	w->now_ms = due - 10;
	feed(w, (struct event){.kind = EVENT_TICK});
	assert_int_equal(web(w)->state, VM_ONLINE);
	assert_int_equal(task_state(w, task), TASK_FAILED);
	assert_int_equal(core_deadline_ms(w->cluster), 0);
}

/* A dry run asks the target for its proof, and moves nothing. */
static void a_dry_run_ends_with_the_proof(void **state)
{
	struct core_world *w = *state;

	world_run(w, 1, 1);
	feed(w, (struct event){.kind = EVENT_VM_MOVE, .target = 2, .dry_run = true});
	uint64_t task = w->outcome->task;
	feed(w, (struct event){.kind = EVENT_PREPARED, .node = 2, .task = task});
	assert_int_equal(web(w)->state, VM_ONLINE);
	assert_int_equal(web(w)->owner, 1);
	assert_int_equal(task_state(w, task), TASK_DONE);
	assert_int_equal(duty(w, 2), DUTY_NONE);
}

/* The snapshot is the state: what a joining node takes is equal to what the others have. */
static void a_snapshot_holds_everything(void **state)
{
	struct core_world *w = *state;
	struct cluster *copy = calloc(1, sizeof(*copy));
	struct err err;

	world_run(w, 1, 1);
	drive(w, ask_move(w, 2), 1, 2, MOVE_COPY);
	size_t size = schema_encode(&cluster_schema, w->cluster, NULL, 0);
	uint8_t *bytes = malloc(size);
	assert_int_equal(schema_encode(&cluster_schema, w->cluster, bytes, size), size);
	assert_int_equal(schema_decode_zeroed(&cluster_schema, bytes, size, copy, &err), 0);
	assert_true(schema_equal(&cluster_schema, w->cluster, copy));
	assert_int_equal(copy->digest, w->cluster->digest);
	free(bytes);
	free(copy);
}

/* From a member whose memory is broken. A limit added to it would wrap, and be over for ever. */
static void a_time_that_no_clock_says_is_passed_over(void **state)
{
	struct core_world *w = *state;
	uint64_t before = w->now_ms;

	w->now_ms = UINT64_MAX - 20;
	feed(w, (struct event){.kind = EVENT_TICK});
	assert_int_equal(w->cluster->now_ms, before);
	w->now_ms = before;
	feed(w, (struct event){.kind = EVENT_TICK});
	assert_int_equal(w->cluster->now_ms, w->now_ms);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, core_world_free)
	const struct CMUnitTest tests[] = {
		T(a_move_hands_the_guest_over_once),
		T(a_source_lost_while_copying_blocks),
		T(a_source_lost_after_the_seal_does_not_stop_the_move),
		T(a_target_lost_while_loading_leads_back_to_the_source),
		T(nobody_returns_to_a_copy_of_the_boot_before),
		T(a_move_does_not_wait_for_pages_for_ever),
		T(with_source_and_target_gone_a_third_node_restores),
		T(a_consumed_state_is_never_used_again),
		T(a_target_that_returns_after_consuming_lets_the_guest_run),
		T(a_saved_state_is_restored_once),
		T(a_restore_that_fails_everywhere_keeps_the_state),
		T(a_state_is_kept_until_the_source_has_its_copy),
		T(a_source_that_says_nothing_of_its_copy_is_left_out),
		T(a_cancelled_move_ends_when_the_guest_runs_on),
		T(a_move_waits_until_all_pages_are_in),
		T(a_guest_that_powers_off_during_a_move_stays_off),
		T(a_guest_that_keeps_dying_ends_failed),
		T(late_reports_change_nothing),
		T(a_target_that_hangs_is_given_up),
		T(a_dry_run_ends_with_the_proof),
		T(a_snapshot_holds_everything),
		T(a_time_that_no_clock_says_is_passed_over),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
