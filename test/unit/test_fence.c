/* SPDX-License-Identifier: Apache-2.0
 * Fence agents of every kind of bad behaviour, as programs, against the driver that runs them. */
#include "fence_world.h"

#include <poll.h>
#include <sys/pidfd.h>

static void expect_dead(pid_t pid)
{
	CLEANUP_FD int fd = pidfd_open(pid, 0);
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	assert_true(pid > 1);
	if (fd >= 0) /* else it is gone already */
		assert_int_equal(poll(&poll_fd, 1, PATIENCE_MS), 1);
}

/* The sequence that a proof needs: asked, switched, asked again. */
static void off_is_proven_by_the_status_behind_it(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "good");
	char line[128];

	answer_expect(world_answer(world, &order), FENCE_RESULT_OFF, "status read back: off");
	assert_true(world->answers[0].was_on);
	assert_string_equal(world_content(world, "calls"), "status\noff\nstatus\n");
	snprintf(line, sizeof(line), "action=status\nnodename=n3\nmode=good\ndir=%s\n", world->dir);
	assert_string_equal(world_content(world, "saw"), line);
}

/* Switching off what is off may fail on some devices, and takes time that a VM waits. */
static void off_already_is_proof_at_once(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "good");

	world_write(world, "power", "off\n", 0644);
	answer_expect(world_answer(world, &order), FENCE_RESULT_OFF, "status: off already");
	assert_false(world->answers[0].was_on);
	assert_string_equal(world_content(world, "calls"), "status\n");
}

static void on_is_the_same_the_other_way_round(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_ON, "good");

	world_write(world, "power", "off\n", 0644);
	answer_expect(world_answer(world, &order), FENCE_RESULT_ON, "status read back: on");
	assert_string_equal(world_content(world, "power"), "on\n");
}

static void status_asks_and_changes_nothing(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_STATUS, "good");

	answer_expect(world_answer(world, &order), FENCE_RESULT_ON, "status: on");
	assert_string_equal(world_content(world, "calls"), "status\n");
	world_write(world, "power", "off\n", 0644);
	order.id++;
	fencer_run(world->fencer, &order);
	answer_expect(world_wait(world, 2), FENCE_RESULT_OFF, "status: off");
}

/* Only 0 and 2 mean something: an agent's own trouble must not be read as off. */
static void any_other_exit_status_is_a_failure(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_STATUS, "odd");

	answer_expect(world_answer(world, &order), FENCE_RESULT_FAILED, "status: exit status 3");
}

/* Exit 0 without doing anything: the most dangerous agent of all. */
static void an_agent_that_lies_proves_nothing(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "liar");

	order.device.limit_ms = 2000;
	answer_expect(world_answer(world, &order), FENCE_RESULT_FAILED, "status read back: still on");
	assert_non_null(strstr(world->answers[0].text, "timed out after 2 s"));
}

static void a_slow_power_supply_is_waited_for(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "polls");

	order.device.limit_ms = 60000;
	/* The agent says off, the device says on three times more. */
	answer_expect(world_answer(world, &order), FENCE_RESULT_OFF, "status read back: off");
	assert_string_equal(world_content(world, "calls"), "status\noff\nstatus\nstatus\nstatus\nstatus\n");
}

/* Wrong password, no such plug: nobody should wait out the limit before the next device is tried. */
static void a_refusal_fails_at_once_with_the_agents_words(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "refuse");

	order.device.limit_ms = FENCE_LIMIT_MS_MAX;
	answer_expect(world_answer(world, &order), FENCE_RESULT_FAILED,
		"off: exit status 1: ERROR: not now; status read back: still on");
	assert_string_equal(world_content(world, "calls"), "status\noff\nstatus\n");
}

/* The other way round: a failure that came true. */
static void off_is_believed_to_the_status_and_not_to_the_exit(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "blind");

	answer_expect(world_answer(world, &order), FENCE_RESULT_OFF, "status read back: off (off: exit status 1)");
}

static void an_agent_that_hangs_is_ended_at_its_limit(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "hang");

	order.device.limit_ms = 3000;
	answer_expect(world_answer(world, &order), FENCE_RESULT_FAILED,
		"timed out after 3 s: off does not end; status does not end");
}

static void an_agent_deaf_to_sigterm_is_killed(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_STATUS, "deaf");

	order.device.limit_ms = 1000;
	answer_expect(world_answer(world, &order), FENCE_RESULT_FAILED, "status does not end");
	expect_dead(atoi(world_content(world, "pid")));
}

static void a_status_that_hangs_at_first_leaves_time_to_act(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "slow-first");

	order.device.limit_ms = 6000;
	answer_expect(world_answer(world, &order), FENCE_RESULT_OFF, "status read back: off");
}

static void an_off_that_hangs_after_its_work_is_still_proven(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "hang-after-off");

	order.device.limit_ms = 5000;
	answer_expect(world_answer(world, &order), FENCE_RESULT_OFF, "status read back: off (off does not end)");
}

static void a_crash_is_a_failure_with_its_signal(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "crash");

	answer_expect(world_answer(world, &order), FENCE_RESULT_FAILED, "signal 11 (Segmentation fault)");
}

/* 400 kB of random bytes: the answer is one line of text all the same (take() looks). */
static void garbage_is_not_repeated(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "garbage");

	answer_expect(world_answer(world, &order), FENCE_RESULT_FAILED, "off: exit status 1");
}

/* A gigabyte at each call: read and dropped, and the agent's word still counts. */
static void a_flood_neither_blocks_nor_grows(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_STATUS, "flood");
	char line[256];
	long peak_kib = 0;

	order.device.limit_ms = FENCE_LIMIT_MS_MAX;
	answer_expect(world_answer(world, &order), FENCE_RESULT_ON, "status: on");
	CLEANUP_FILE FILE *file = fopen("/proc/self/status", "r");
	while (fgets(line, sizeof(line), file))
		sscanf(line, "VmHWM: %ld", &peak_kib);
	assert_in_range(peak_kib, 1, 512 * 1024); /* far from 1 GiB, with room for sanitizers */
}

/* A child that keeps the pipes open must not keep the order, nor live on. */
static void what_an_agent_started_ends_with_it(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "grandchild");

	answer_expect(world_answer(world, &order), FENCE_RESULT_OFF, "status read back: off");
	expect_dead(atoi(world_content(world, "pid")));
}

struct waiting {
	struct world *world;
	char path[128];
};

static void until_it_exists(void *ctx)
{
	struct waiting *waiting = ctx;

	if (access(waiting->path, F_OK) < 0)
		loop_timer_set(waiting->world->loop, 20, until_it_exists, waiting);
	else
		loop_sd_exit(waiting->world->loop, 0);
}

static void a_cancelled_order_ends_its_agent_and_is_not_answered(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_STATUS, "hang");
	struct waiting waiting = {.world = world};
	struct err err;
	int status;

	order.device.limit_ms = FENCE_LIMIT_MS_MAX;
	fencer_run(world->fencer, &order);
	world_path(world, "pid", waiting.path);
	loop_timer_set(world->loop, 0, until_it_exists, &waiting);
	assert_int_equal(loop_sd_run(world->loop, &status, &err), 0);
	pid_t pid = atoi(world_content(world, "pid"));
	fencer_cancel(world->fencer, order.id);
	expect_dead(pid);
	/* The same id may be used again, and only the new order is answered. */
	strcpy(order.device.options[0].value, "good");
	answer_expect(world_answer(world, &order), FENCE_RESULT_ON, "status: on");
}

static void an_order_under_way_is_not_begun_again(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "good");

	fencer_run(world->fencer, &order);
	fencer_run(world->fencer, &order);
	world_wait(world, 1);
	order.id = 8;
	order.action = FENCE_STATUS;
	fencer_run(world->fencer, &order);
	assert_int_equal(world_wait(world, 2)->id, 8);
	assert_string_equal(world_content(world, "calls"), "status\noff\nstatus\nstatus\n");
}

/* Questions have places of their own: an administrator who asks much must not keep a fence from running. */
static void orders_are_bounded_and_questions_do_not_count(void **state)
{
	struct world *world = *state;
	struct fence_order hanging = world_order(world, FENCE_STATUS, "hang");
	struct fence_order off = world_order(world, FENCE_OFF, "good");

	hanging.device.limit_ms = FENCE_LIMIT_MS_MAX;
	for (hanging.id = 100; hanging.id < 100 + FENCE_QUESTIONS_MAX + 1; hanging.id++)
		fencer_run(world->fencer, &hanging);
	const struct answer *refused = world_wait(world, 1);
	assert_int_equal(refused->id, 100 + FENCE_QUESTIONS_MAX);
	answer_expect(refused, FENCE_RESULT_FAILED, "4 fence questions are under way already");
	for (off.id = 1; off.id <= FENCE_ORDERS_MAX; off.id++)
		fencer_run(world->fencer, &off);
	world_wait(world, 1 + FENCE_ORDERS_MAX);
	for (uint32_t i = 1; i <= FENCE_ORDERS_MAX; i++)
		answer_expect(&world->answers[i], FENCE_RESULT_OFF, "off");
}

static void the_delay_comes_before_the_limit(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "good");
	uint64_t begin = loop_now_ms(world->loop);

	order.delay_ms = 1500;
	order.device.limit_ms = 20000;
	answer_expect(world_answer(world, &order), FENCE_RESULT_OFF, "status read back: off");
	assert_true(loop_now_ms(world->loop) - begin >= 1500);
}

static void an_agent_that_is_missing_or_unfit_is_named(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "good");

	strcpy(order.device.agent, "fence_missing");
	answer_expect(world_answer(world, &order), FENCE_RESULT_FAILED, "/fence_missing'");
	world_write(world, "fence_plain", "#!/bin/sh\n", 0644);
	strcpy(order.device.agent, "fence_plain");
	fencer_run(world->fencer, &order);
	answer_expect(world_wait(world, 2), FENCE_RESULT_FAILED, "/fence_plain' is not an executable file");
	world_write(world, "fence_open", "#!/bin/sh\nexit 2\n", 0757);
	strcpy(order.device.agent, "fence_open");
	fencer_run(world->fencer, &order);
	answer_expect(world_wait(world, 3), FENCE_RESULT_FAILED, "others than root can write");
	world_write(world, "fence_nothing", "#!/nowhere/interpreter\n", 0755);
	strcpy(order.device.agent, "fence_nothing");
	fencer_run(world->fencer, &order);
	answer_expect(world_wait(world, 4), FENCE_RESULT_FAILED, "off: exit status 127: watari: cannot start");
}

/* The daemon may end at any time: its agents end with it, and nobody is called. */
static void what_runs_ends_with_the_fencer(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_OFF, "hang");
	struct waiting waiting = {.world = world};
	struct err err;
	int status;

	order.device.limit_ms = FENCE_LIMIT_MS_MAX;
	fencer_run(world->fencer, &order);
	world_path(world, "pid", waiting.path);
	loop_timer_set(world->loop, 0, until_it_exists, &waiting);
	assert_int_equal(loop_sd_run(world->loop, &status, &err), 0);
	fencer_agents_free(STEAL(world->fencer));
	expect_dead(atoi(world_content(world, "pid")));
	assert_int_equal(world->count, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)
int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(off_is_proven_by_the_status_behind_it),
		TEST(off_already_is_proof_at_once),
		TEST(on_is_the_same_the_other_way_round),
		TEST(status_asks_and_changes_nothing),
		TEST(any_other_exit_status_is_a_failure),
		TEST(an_agent_that_lies_proves_nothing),
		TEST(a_slow_power_supply_is_waited_for),
		TEST(a_refusal_fails_at_once_with_the_agents_words),
		TEST(off_is_believed_to_the_status_and_not_to_the_exit),
		TEST(an_agent_that_hangs_is_ended_at_its_limit),
		TEST(an_agent_deaf_to_sigterm_is_killed),
		TEST(a_status_that_hangs_at_first_leaves_time_to_act),
		TEST(an_off_that_hangs_after_its_work_is_still_proven),
		TEST(a_crash_is_a_failure_with_its_signal),
		TEST(garbage_is_not_repeated),
		TEST(a_flood_neither_blocks_nor_grows),
		TEST(what_an_agent_started_ends_with_it),
		TEST(a_cancelled_order_ends_its_agent_and_is_not_answered),
		TEST(an_order_under_way_is_not_begun_again),
		TEST(orders_are_bounded_and_questions_do_not_count),
		TEST(the_delay_comes_before_the_limit),
		TEST(an_agent_that_is_missing_or_unfit_is_named),
		TEST(what_runs_ends_with_the_fencer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
