/* SPDX-License-Identifier: Apache-2.0
 * Self-fencing, on the whole engine and simulated machines: who is ended by its watchdog, who ends its guests itself,
 * and who must not be touched. The simulator's checkers look on in each (two copies, a start without proof). Token 1 s,
 * watchdog 5 s, the loss of a node is seen after 2.2 s, unless a test says otherwise. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/timing.h"
#include "sim/sim.h"

enum { START_MS = 6000, WATCHDOG_MS = 5000 };

static void no_reply(void *ctx, const struct engine_reply *reply)
{
	(void)ctx;
	(void)reply;
}

static void ask(struct sim *sim, struct event event, uint32_t vm)
{
	strcpy(event.by, "root");
	strcpy(event.vm, sim->vms[vm].def.uuid);
	event.def = sim->vms[vm].def;
	assert_true(sim_request(sim, 1, &event, no_reply, NULL));
	sim_run_ms(sim, 1000);
}

static struct sim_config config_of(uint32_t nodes)
{
	return (struct sim_config){.node_count = nodes,
		.exact = true,
		.step_ms = 100,
		.net_delay_us = 1000,
		.disk_us = 2000,
		.memory_mib = 8192,
		.postcopy = true,
		.lost_min_ms = 2200,
		.lost_max_ms = 2200,
		.snapshot_every = 1000};
}

/* A cluster with one guest, web, on n1. */
static struct sim *start_with(const struct sim_config *config, uint32_t watchdog_ms)
{
	struct sim *sim = sim_new(config);
	uint32_t vm = sim_define_vm(sim, "web", 1024);

	for (uint32_t id = 1; id <= config->node_count; id++)
		sim_watchdog(sim, id, watchdog_ms);
	for (uint32_t id = 1; id <= config->node_count; id++)
		sim_power_on(sim, id);
	sim_run_ms(sim, START_MS);
	ask(sim, (struct event){.kind = EVENT_VM_CREATE}, vm);
	ask(sim, (struct event){.kind = EVENT_VM_START, .target = 1}, vm);
	assert_true(machine_executes(sim->nodes[1].machine, sim->vms[0].def.uuid));
	return sim;
}

static struct sim *start(const struct sim_config *config)
{
	return start_with(config, WATCHDOG_MS);
}

static bool runs_on(const struct sim *sim, uint32_t node)
{
	return machine_executes(sim->nodes[node].machine, sim->vms[0].def.uuid);
}

static uint64_t boots(const struct sim *sim)
{
	return world_find(sim->world, sim->vms[0].def.uuid)->boots;
}

static bool is_armed(const struct sim *sim, uint32_t node)
{
	return watchdog_fake_runs(sim->nodes[node].watchdog);
}

static const struct node_facts *facts(const struct sim *sim, uint32_t node)
{
	return &cluster_node(sim_newest(sim), node)->facts;
}

static void finish(struct sim *sim)
{
	if (sim->violation[0])
		fail_msg("%s", sim->violation);
	sim_free(sim);
}

/* Milliseconds until the guest runs on another node than n1. */
static uint64_t time_to_takeover(struct sim *sim, uint64_t limit_ms)
{
	uint64_t from = sim_now_ms(sim);

	for (uint64_t t = 0; t < limit_ms; t += 10) {
		for (uint32_t node = 2; node <= sim->config.node_count; node++)
			if (runs_on(sim, node))
				return sim_now_ms(sim) - from;
		sim_run_ms(sim, 10);
	}
	return UINT64_MAX;
}

/* Others rely on what a node says of its watchdog, so it is said only when the timer runs. */
static void a_node_in_sync_arms_and_says_so(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	for (uint32_t node = 1; node <= 3; node++) {
		assert_true(is_armed(sim, node));
		assert_int_equal(facts(sim, node)->watchdog_ms, WATCHDOG_MS);
		assert_int_equal(facts(sim, node)->token_ms, 1000);
		assert_non_null(strstr(facts(sim, node)->watchdog, "/dev/watchdog0"));
	}
	sim_run_ms(sim, 600 * 1000);
	assert_int_equal(boots(sim), 1);
	assert_int_equal(sim->nodes[1].boots, 1);
	assert_int_equal(watchdog_fake_arms(sim->nodes[1].watchdog), 1);
	finish(sim);
}

/* B1, B3: the promise of 12 s from the cord to the guest elsewhere, without any fence device. */
static void a_power_cord_is_answered_by_the_watchdogs_proof(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	sim->nodes[1].kept_down = true;
	sim_power_off(sim, 1);
	uint64_t took = time_to_takeover(sim, 30000);
	assert_in_range(took, TIMING_PROOF_MS(1000, WATCHDOG_MS), WATCHDOG_TAKEOVER_MS);
	finish(sim);
}

/* B5: a node that is cut off ends its guests itself, in time, and is not reset. */
static void a_node_that_is_cut_off_ends_its_guests_and_lives(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	net_set_side(sim->net, 1, 1);
	sim_run_ms(sim, 2200); /* short of the kill: a transient does no harm */
	assert_true(runs_on(sim, 1));
	sim_run_ms(sim, 5000);
	assert_false(runs_on(sim, 1));
	assert_true(time_to_takeover(sim, 30000) < WATCHDOG_TAKEOVER_MS - 7200);
	sim_run_ms(sim, 60000);
	assert_int_equal(sim->nodes[1].boots, 1);
	assert_false(is_armed(sim, 1));
	net_set_side(sim->net, 1, 0);
	sim_run_ms(sim, 10000);
	assert_true(is_armed(sim, 1)); /* back in sync */
	assert_false(runs_on(sim, 1));
	assert_int_equal(boots(sim), 2);
	finish(sim);
}

/* B2: a daemon that is stopped, or never gets the CPU, does not feed; nothing else does either. */
static void a_hung_daemon_ends_its_machine(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	sim_daemon_pause(sim, 1, 0);
	uint64_t fed_ms = watchdog_fake_fed_us(sim->nodes[1].watchdog) / 1000;
	sim_run_until_ms(sim, fed_ms + WATCHDOG_MS - 1);
	assert_true(sim->nodes[1].powered);
	sim_run_ms(sim, 2);
	assert_false(sim->nodes[1].powered);
	assert_true(time_to_takeover(sim, 30000) != UINT64_MAX);
	finish(sim);
}

/* A pause that the watchdog outlives harms nobody: what the others have answered meanwhile is read before anything is
 * ended. */
static void a_short_stop_of_the_daemon_harms_nobody(void **state)
{
	(void)state;
	for (uint64_t pause_ms = 500; pause_ms <= 4500; pause_ms += 500) {
		struct sim_config config = config_of(3);
		struct sim *sim = start(&config);
		sim_daemon_pause(sim, 1, pause_ms);
		sim_run_ms(sim, 20000);
		assert_int_equal(boots(sim), 1);
		assert_int_equal(sim->nodes[1].boots, 1);
		assert_true(runs_on(sim, 1) && is_armed(sim, 1));
		finish(sim);
	}
}

/* C6: the daemon is killed and started again: the guest runs on, the time of the first daemon's watchdog too. */
static void a_killed_daemon_that_comes_back_in_time_harms_nobody(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	sim_daemon_kill(sim, 1, 1500);
	sim_run_ms(sim, 1400);
	assert_true(is_armed(sim, 1));
	sim_run_ms(sim, 30000);
	assert_int_equal(boots(sim), 1);
	assert_int_equal(sim->nodes[1].boots, 1);
	assert_int_equal(watchdog_fake_arms(sim->nodes[1].watchdog), 2);
	finish(sim);
}

static void a_killed_daemon_that_stays_away_ends_its_machine(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	sim->nodes[1].kept_down = true;
	sim_daemon_kill(sim, 1, 0);
	sim_run_ms(sim, WATCHDOG_MS + 1);
	assert_false(sim->nodes[1].powered);
	assert_true(time_to_takeover(sim, 30000) != UINT64_MAX);
	finish(sim);
}

/* Opening a watchdog starts its time anew: a daemon that is not in sync leaves it alone, so that the node is dead when
 * the others believe it. */
static void a_daemon_out_of_sync_never_opens_the_watchdog(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	net_set_side(sim->net, 1, 1);
	sim_run_ms(sim, 1000);
	sim_daemon_kill(sim, 1, 500);
	uint64_t fed_ms = watchdog_fake_fed_us(sim->nodes[1].watchdog) / 1000;
	sim_run_until_ms(sim, fed_ms + WATCHDOG_MS - 1);
	assert_true(sim->nodes[1].engine && sim->nodes[1].powered);
	sim_run_ms(sim, 2);
	assert_false(sim->nodes[1].powered);
	assert_int_equal(watchdog_fake_arms(sim->nodes[1].watchdog), 1);
	assert_true(time_to_takeover(sim, 30000) != UINT64_MAX);
	finish(sim);
}

/* C6: a stop in order, or an upgrade: the cluster is told first, and the guest is left alone for as long as it takes.
 */
static void an_orderly_stop_tells_disarms_and_touches_nothing(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	sim_daemon_stop(sim, 1, 60000);
	sim_run_ms(sim, 1000);
	assert_null(sim->nodes[1].engine);
	assert_false(is_armed(sim, 1));
	assert_int_equal(facts(sim, 1)->watchdog_ms, 0);
	assert_true(facts(sim, 1)->leaving);
	sim_run_ms(sim, 55000);
	assert_true(runs_on(sim, 1));
	sim_run_ms(sim, 10000);
	assert_true(is_armed(sim, 1) && runs_on(sim, 1));
	assert_int_equal(facts(sim, 1)->watchdog_ms, WATCHDOG_MS);
	assert_false(facts(sim, 1)->leaving);
	assert_int_equal(boots(sim), 1);
	assert_int_equal(sim->nodes[1].boots, 1);
	finish(sim);
}

/* Nobody can be told: the others count on the end of its guests, so they end before the daemon may. */
static void an_orderly_stop_of_a_node_that_is_cut_off_ends_its_guests(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	net_set_side(sim->net, 1, 1);
	sim_run_ms(sim, 3000);
	sim->nodes[1].kept_down = true;
	sim_daemon_stop(sim, 1, 0);
	sim_run_ms(sim, 1000);
	assert_true(sim->nodes[1].engine && is_armed(sim, 1));
	sim_run_ms(sim, 4000);
	assert_null(sim->nodes[1].engine);
	assert_false(runs_on(sim, 1) || is_armed(sim, 1));
	assert_int_equal(sim->nodes[1].boots, 1);
	assert_true(time_to_takeover(sim, 30000) != UINT64_MAX);
	finish(sim);
}

/* "Nodes that reset for no proper reason": the loss of one node ends nothing on the others. */
static void the_loss_of_another_node_ends_nothing(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	sim->nodes[3].kept_down = true;
	sim_power_off(sim, 3);
	sim_run_ms(sim, 30000);
	assert_true(runs_on(sim, 1) && is_armed(sim, 1) && is_armed(sim, 2));
	assert_int_equal(boots(sim), 1);
	assert_int_equal(sim->nodes[1].boots, 1);
	assert_int_equal(sim->nodes[2].boots, 1);
	assert_int_equal(watchdog_fake_arms(sim->nodes[1].watchdog), 1);
	finish(sim);
}

/* Without a watchdog nobody counts on anything: guests run on, unless the policy says stop. */
static void without_a_watchdog_the_policy_decides(void **state)
{
	(void)state;
	for (int stop = 0; stop < 2; stop++) {
		struct sim_config config = config_of(3);
		config.quorum_loss_stop = stop;
		struct sim *sim = start_with(&config, 0);
		assert_int_equal(facts(sim, 1)->watchdog_ms, 0);
		net_set_side(sim->net, 1, 1);
		sim_run_ms(sim, 2200 + timing_quorum_loss_ms(1000) - 500);
		assert_true(runs_on(sim, 1));
		sim_run_ms(sim, 2000);
		assert_int_equal(runs_on(sim, 1), !stop);
		sim_run_ms(sim, 60000);
		assert_int_equal(time_to_takeover(sim, 10), UINT64_MAX); /* no proof */
		finish(sim);
	}
}

/* B22: a watchdog that proves nothing is not armed, and the cluster is told why. */
static void a_watchdog_that_proves_nothing_is_not_armed(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim;

	(void)state;
	sim = start_with(&config, 4000);
	assert_false(is_armed(sim, 1));
	assert_int_equal(facts(sim, 1)->watchdog_ms, 0);
	assert_non_null(strstr(facts(sim, 1)->watchdog, "too short for a token of 1000 ms"));
	finish(sim);

	config = config_of(2);
	config.two_node = true;
	sim = start(&config);
	assert_false(is_armed(sim, 1));
	assert_int_equal(facts(sim, 1)->watchdog_ms, 0);
	assert_non_null(strstr(facts(sim, 1)->watchdog, "two_node"));
	finish(sim);
}

static void a_watchdog_that_is_lost_is_told_at_once(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	watchdog_fake_break(sim->nodes[2].watchdog, true);
	sim_run_ms(sim, 1000);
	assert_int_equal(facts(sim, 2)->watchdog_ms, 0);
	assert_non_null(strstr(facts(sim, 2)->watchdog, "no such device"));
	watchdog_fake_break(sim->nodes[2].watchdog, false);
	sim_run_ms(sim, 5000);
	assert_false(sim->nodes[2].powered); /* what had been armed went on */
	sim_power_on(sim, 2);
	sim_run_ms(sim, 10000);
	assert_int_equal(facts(sim, 2)->watchdog_ms, WATCHDOG_MS);
	finish(sim);
}

/* A network that stalls for less than the watchdog's time, as switches do, ends nothing. */
static void a_short_stall_of_the_network_ends_nothing(void **state)
{
	struct sim_config config = config_of(3);
	struct sim *sim = start(&config);

	(void)state;
	/* Twice: a third time within the hour is flapping, and the node is drained (core/quarantine.c). */
	for (int i = 0; i < 2; i++) {
		net_set_side(sim->net, 1, 1);
		sim_run_ms(sim, 2500);
		net_set_side(sim->net, 1, 0);
		sim_run_ms(sim, 15000);
	}
	assert_true(runs_on(sim, 1) && is_armed(sim, 1));
	assert_int_equal(boots(sim), 1);
	assert_int_equal(sim->nodes[1].boots, 1);
	finish(sim);
}

/* corosync's own formula; the watchdog that fits must always leave time to feed again after the loss of another node,
 * and time to kill before it fires. */
static void times_fit_together_from_2_to_64_nodes(void **state)
{
	static const uint32_t tokens[][2] = {{1000, 0}, {1000, 650}, {3000, 650}, {3000, 0}, {500, 0}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(tokens); i++)
		for (uint32_t nodes = 2; nodes <= 64; nodes++) {
			uint32_t token = tokens[i][0] + (nodes - 2) * tokens[i][1];
			uint64_t needed = timing_watchdog_needed_ms(token);
			assert_true(needed > timing_detect_ms(token));
			assert_true(needed - timing_kill_ms((uint32_t)needed) >=
				    timing_detect_ms(token) + WATCHDOG_SYNC_MS);
			assert_true(timing_kill_ms((uint32_t)needed) >= WATCHDOG_KILL_MIN_MS);
			assert_true(timing_watchdog_proof_ms(token, (uint32_t)needed) >
				    timing_lease_ms(token) + needed); /* not before it has fired */
			assert_true(timing_lease_period_ms(token) * 2 < timing_lease_ms(token));
			assert_true(needed <= WATCHDOG_MAX_MS);
		}
	assert_int_equal(timing_detect_ms(3000), 6600);	  /* design section 4: 6.7 s at 2 nodes by default */
	assert_int_equal(timing_detect_ms(43300), 95260); /* 95 s at 64 */
	assert_true(timing_watchdog_needed_ms(1000) <= WATCHDOG_DEFAULT_MS);
	assert_true(timing_watchdog_needed_ms(3000) > WATCHDOG_DEFAULT_MS); /* said, and not armed */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(times_fit_together_from_2_to_64_nodes),
		cmocka_unit_test(a_node_in_sync_arms_and_says_so),
		cmocka_unit_test(a_power_cord_is_answered_by_the_watchdogs_proof),
		cmocka_unit_test(a_node_that_is_cut_off_ends_its_guests_and_lives),
		cmocka_unit_test(a_hung_daemon_ends_its_machine),
		cmocka_unit_test(a_short_stop_of_the_daemon_harms_nobody),
		cmocka_unit_test(a_killed_daemon_that_comes_back_in_time_harms_nobody),
		cmocka_unit_test(a_killed_daemon_that_stays_away_ends_its_machine),
		cmocka_unit_test(a_daemon_out_of_sync_never_opens_the_watchdog),
		cmocka_unit_test(an_orderly_stop_tells_disarms_and_touches_nothing),
		cmocka_unit_test(an_orderly_stop_of_a_node_that_is_cut_off_ends_its_guests),
		cmocka_unit_test(the_loss_of_another_node_ends_nothing),
		cmocka_unit_test(a_short_stall_of_the_network_ends_nothing),
		cmocka_unit_test(without_a_watchdog_the_policy_decides),
		cmocka_unit_test(a_watchdog_that_proves_nothing_is_not_armed),
		cmocka_unit_test(a_watchdog_that_is_lost_is_told_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
