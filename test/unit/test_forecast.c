/* SPDX-License-Identifier: Apache-2.0
 * The forecast is the core's own decision: it must be what happens, and must leave the state alone. */
#include "support/core_world.h"

#include "core/forecast.h"

/* The question's own, beside the world: large, and all zero before the first. */
static struct forecast_work *work;
static struct forecast *result;

/* Each node has a fence device. */
static struct core_world *world(void **state, uint32_t nodes, uint32_t memory_mib)
{
	struct core_world *w = core_world_new(state, nodes, memory_mib, 0);
	char name[16];

	for (uint32_t node = 1; node <= nodes; node++) {
		snprintf(name, sizeof(name), "ipmi-n%u", node);
		world_device(w, name, node, 1);
	}
	work = calloc(1, sizeof(*work));
	result = calloc(1, sizeof(*result));
	assert_true(work && result);
	return w;
}

static int teardown(void **state)
{
	free(work);
	free(result);
	return core_world_free(state);
}

/* Runs on `node` afterwards. */
#define RUN(node, ...) world_run(w, world_create(w, (struct vm_def){__VA_ARGS__}), node)

static const struct forecast_vm *of(struct core_world *w, const char *name)
{
	for (uint32_t i = 0; i < result->count; i++)
		if (!strcmp(w->cluster->vms[result->vms[i].vm].def.name, name))
			return &result->vms[i];
	fail_msg("no %s in the forecast", name);
	return NULL;
}

static void forecast(struct core_world *w, uint64_t failed)
{
	uint64_t digest = w->cluster->digest, index = w->cluster->index;

	core_forecast(w->cluster, failed, false, work, result);
	assert_int_equal(digest, w->cluster->digest);
	assert_int_equal(index, w->cluster->index);
}

/* The real thing: n3 dies, is fenced, and each start succeeds. Returns the order of the starts, by slot. */
static void let_n3_die(struct core_world *w, uint32_t order[])
{
	uint32_t count = 0, begun[64];

	world_view(w, 3);
	const struct fencing *fence = &w->cluster->nodes[2].fence;
	assert_int_equal(FEED(w, .kind = EVENT_FENCED, .node = fence->by, .target = 3, .task = fence->id,
				 .epoch = fence->began_index, .proof = PROOF_FENCED, .was_on = true),
		ERR_NONE);
	for (uint32_t at = 0;;) {
		for (uint32_t i = 0; i < w->outcome->change_count; i++)
			if (w->outcome->changes[i].to_state == VM_STARTING) {
				order[w->outcome->changes[i].vm] = count + 1;
				begun[count++] = w->outcome->changes[i].vm;
			}
		if (at == count)
			return;
		world_up(w, begun[at++] + 1);
	}
}

/* What else would a forecast be worth? */
static void what_was_forecast_happens(void **state)
{
	struct core_world *w = world(state, 3, 4096);
	uint32_t order[64] = {0};

	RUN(1, .memory_mib = 2048);
	RUN(2, .memory_mib = 1024, .policy = {.anti_affinity = "db"});
	for (uint32_t i = 0; i < 10; i++)
		RUN(3, .memory_mib = 128 + 64 * (i % 3), .priority = (enum vm_priority)(i % PRIORITY_COUNT),
			.policy = {.possible = i == 4 ? 6 : 0, .start_order = i % 4});
	RUN(3, .memory_mib = 256, .name = "apart", .policy = {.anti_affinity = "db", .anti_affinity_hard = true});
	forecast(w, 4);
	assert_int_equal(result->count, 11);
	let_n3_die(w, order);
	for (uint32_t i = 0; i < result->count; i++) {
		const struct forecast_vm *entry = &result->vms[i];
		const struct vm *vm = &w->cluster->vms[entry->vm];
		assert_int_equal(entry->to, vm->owner);
		assert_int_equal(entry->order, order[entry->vm]);
		assert_int_equal(entry->end, vm->state == VM_ONLINE ? FORECAST_RUNS : FORECAST_OFF);
	}
	assert_int_equal(of(w, "apart")->to, 1);
}

static void who_has_no_room_is_told_with_a_fact_for_each_node(void **state)
{
	struct core_world *w = world(state, 3, 2048);

	RUN(1, .memory_mib = 1024);
	RUN(2, .memory_mib = 1536);
	RUN(3, .memory_mib = 1025, .name = "web");
	RUN(3, .memory_mib = 512, .name = "db", .priority = PRIORITY_HIGH);
	forecast(w, 4);
	assert_int_equal(result->down, 1);
	assert_int_equal(of(w, "web")->end, FORECAST_WAITS);
	assert_int_equal(of(w, "web")->limit, FORECAST_LIMIT_ROOM);
	assert_non_null(strstr(of(w, "web")->text, "n1 has 512 MiB free, web needs 1025; n2 has 512 MiB free"));
	assert_int_equal(of(w, "db")->end, FORECAST_RUNS);
	assert_int_equal(of(w, "db")->to, 1);
}

/* The chain that 'why' tells must hold the fact for which it is not where one would expect it. */
static void a_start_tells_which_nodes_could_not_take_it(void **state)
{
	struct core_world *w = world(state, 3, 2048);
	uint32_t order[64] = {0};

	RUN(2, .memory_mib = 1536);
	RUN(3, .memory_mib = 1024, .name = "web");
	forecast(w, 4);
	assert_string_equal(of(w, "web")->text,
		"starting on n1: n3 is dead: fenced by n1: ipmi-n3; n2 has 512 MiB free, web needs 1024");
	let_n3_die(w, order);
	assert_int_equal(of(w, "web")->to, cluster_vm_find(w->cluster, "web")->owner);
}

/* Room is everywhere, and a rule forbids it. */
static void a_rule_is_told_as_a_rule(void **state)
{
	struct core_world *w = world(state, 3, 4096);
	struct forecast_survival survival;

	RUN(3, .memory_mib = 512, .name = "web", .policy = {.possible = 4});
	forecast(w, 4);
	assert_int_equal(of(w, "web")->end, FORECAST_WAITS);
	assert_int_equal(of(w, "web")->limit, FORECAST_LIMIT_RULES);
	core_survival(w->cluster, 2, work, result, &survival);
	assert_int_equal(survival.nodes, 0);
	assert_true(survival.exact);
	assert_int_equal(survival.limit, FORECAST_LIMIT_RULES);
	assert_int_equal(survival.failed, 4);
	assert_non_null(strstr(survival.text, "n1 is no possible owner of web"));
}

static void without_proof_it_stays_blocked(void **state)
{
	struct core_world *w = world(state, 3, 4096);
	struct event event = {.kind = EVENT_FENCE_REMOVE};
	struct forecast_survival survival;

	RUN(3, .memory_mib = 512, .name = "web");
	strcpy(event.fence.name, "ipmi-n3");
	assert_int_equal(world_feed(w, &event), ERR_NONE);
	forecast(w, 4);
	assert_int_equal(result->unproven, 4);
	assert_int_equal(of(w, "web")->end, FORECAST_BLOCKED);
	assert_int_equal(of(w, "web")->to, 1); /* after a person's word */
	assert_non_null(strstr(result->proof[2], "no fence device"));
	core_survival(w->cluster, 2, work, result, &survival);
	assert_int_equal(survival.nodes, 0);
	assert_int_equal(survival.limit, FORECAST_LIMIT_PROOF);
}

/* The last one that is here is asked what its own death would do. */
static void where_no_node_is_left_nothing_runs(void **state)
{
	struct core_world *w = world(state, 3, 4096);

	RUN(1, .name = "web", .memory_mib = 512);
	forecast(w, w->cluster->members);
	assert_int_equal(of(w, "web")->end, FORECAST_WAITS);
	assert_int_equal(of(w, "web")->to, 0);
	assert_string_equal(of(w, "web")->text, "no node is left");
	assert_int_equal(result->down, 1);
	assert_int_equal(result->limit, FORECAST_LIMIT_QUORUM);
	assert_string_equal(result->proof[0], "no node is left that could prove it");
}

/* A watchdog is proof as well. */
static void a_watchdog_proves_it(void **state)
{
	struct core_world *w = world(state, 3, 4096);
	struct event remove = {.kind = EVENT_FENCE_REMOVE};
	struct event facts = {.kind = EVENT_NODE_REPORT, .node = 3};

	RUN(3, .memory_mib = 512, .name = "web");
	strcpy(remove.fence.name, "ipmi-n3");
	assert_int_equal(world_feed(w, &remove), ERR_NONE);
	facts.facts = w->cluster->nodes[2].facts;
	facts.facts.watchdog_ms = 5000;
	facts.facts.token_ms = 1000;
	assert_int_equal(world_feed(w, &facts), ERR_NONE);
	forecast(w, 4);
	assert_int_equal(result->unproven, 0);
	assert_int_equal(of(w, "web")->end, FORECAST_RUNS);
	assert_non_null(strstr(result->proof[2], "watchdog"));
}

static void quorum_is_a_limit_like_others(void **state)
{
	struct core_world *w = world(state, 5, 4096);
	struct forecast_survival survival;

	for (uint32_t node = 1; node <= 5; node++)
		RUN(node, .memory_mib = 1024);
	core_survival(w->cluster, 3, work, result, &survival);
	assert_int_equal(survival.nodes, 2);
	assert_true(survival.exact);
	assert_int_equal(survival.limit, FORECAST_LIMIT_QUORUM);
	/* Two more on each: one node's three fit, two nodes' do not. */
	for (uint32_t node = 1; node <= 5; node++)
		RUN(node, .memory_mib = 1600);
	core_survival(w->cluster, 3, work, result, &survival);
	assert_int_equal(survival.nodes, 0);
	assert_int_equal(survival.limit, FORECAST_LIMIT_ROOM);
}

/* A start that waits for others costs time, and the forecast says how much. */
static void start_delays_are_counted(void **state)
{
	struct core_world *w = world(state, 3, 4096);

	RUN(3, .memory_mib = 512, .name = "db", .policy = {.start_order = 1, .start_delay_s = 30});
	RUN(3, .memory_mib = 512, .name = "web", .policy = {.start_order = 2});
	forecast(w, 4);
	assert_int_equal(of(w, "db")->order, 1);
	assert_int_equal(of(w, "db")->after_ms, 0);
	assert_int_equal(of(w, "web")->order, 2);
	assert_int_equal(of(w, "web")->end, FORECAST_RUNS);
	assert_int_equal(of(w, "web")->after_ms, 30000);
}

/* Priority none is no failure of the cluster's. */
static void what_is_not_started_by_itself_is_not_missed(void **state)
{
	struct core_world *w = world(state, 3, 4096);

	RUN(3, .memory_mib = 512, .name = "lab", .priority = PRIORITY_NONE);
	forecast(w, 4);
	assert_int_equal(of(w, "lab")->end, FORECAST_OFF);
	assert_int_equal(result->down, 0);
}

static void sets_of_nodes_are_tried_within_bounds(void **state)
{
	struct core_world *w = world(state, 64, 65536);
	struct forecast_survival survival;

	for (uint32_t i = 0; i < 200; i++)
		RUN(1 + i % 64, .memory_mib = 512);
	core_survival(w->cluster, 33, work, result, &survival);
	assert_true(survival.nodes >= 1);
	assert_false(survival.exact);
	assert_int_equal(survival.limit, FORECAST_LIMIT_NONE);
}

int main(void)
{
#define T(name) cmocka_unit_test_teardown(name, teardown)
	static const struct CMUnitTest tests[] = {
		T(what_was_forecast_happens),
		T(who_has_no_room_is_told_with_a_fact_for_each_node),
		T(a_start_tells_which_nodes_could_not_take_it),
		T(a_rule_is_told_as_a_rule),
		T(without_proof_it_stays_blocked),
		T(where_no_node_is_left_nothing_runs),
		T(a_watchdog_proves_it),
		T(quorum_is_a_limit_like_others),
		T(start_delays_are_counted),
		T(what_is_not_started_by_itself_is_not_missed),
		T(sets_of_nodes_are_tried_within_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
