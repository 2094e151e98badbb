/* SPDX-License-Identifier: Apache-2.0
 * The forecast is the core's own decision: it must be what happens, and must leave the state alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/forecast.h"

struct world {
	struct cluster *cluster;
	struct core_outcome *outcome;
	struct forecast_work *work;
	struct forecast *forecast;
	uint64_t now_ms;
	uint32_t vms;
};

static enum err_code feed(struct world *w, struct event event)
{
	event.now_ms = w->now_ms += 10;
	if (!event.node)
		event.node = 1;
	strcpy(event.by, "root");
	snprintf(event.boot_id, sizeof(event.boot_id), "boot-%u", event.node);
	core_step(w->cluster, &event, w->outcome);
	return w->outcome->code;
}
#define FEED(...) feed(w, (struct event){__VA_ARGS__})

static void join(struct world *w, uint32_t node, uint32_t memory_mib)
{
	struct event event = {.kind = EVENT_NODE_REPORT, .node = node};

	snprintf(event.facts.name, sizeof(event.facts.name), "n%u", node);
	snprintf(event.facts.boot_id, sizeof(event.facts.boot_id), "boot-%u", node);
	event.facts.memory_mib = memory_mib;
	event.facts.vcpus = 4;
	strcpy(event.facts.accel, "tcg");
	assert_int_equal(feed(w, event), ERR_NONE);
}

static void device(struct world *w, uint32_t node)
{
	struct event event = {.kind = EVENT_FENCE_SET};

	event.fence.node = node;
	event.fence.level = 1;
	snprintf(event.fence.name, sizeof(event.fence.name), "ipmi-n%u", node);
	strcpy(event.fence.agent, "fence_ipmilan");
	event.fence.limit_ms = FENCE_LIMIT_MS_DEFAULT;
	assert_int_equal(feed(w, event), ERR_NONE);
}

static struct world *world(void **state, uint32_t nodes, uint32_t memory_mib)
{
	struct world *w = calloc(1, sizeof(*w));

	w->cluster = calloc(1, sizeof(*w->cluster));
	w->outcome = calloc(1, sizeof(*w->outcome));
	w->work = calloc(1, sizeof(*w->work));
	w->forecast = calloc(1, sizeof(*w->forecast));
	w->now_ms = UINT64_C(1764000000000);
	core_init(w->cluster, "00000000-0000-4000-8000-0000000000aa");
	uint64_t all = nodes == 64 ? UINT64_MAX : (UINT64_C(1) << nodes) - 1;
	if (FEED(.kind = EVENT_VIEW, .members = all))
		fail_msg("%s", w->outcome->text);
	for (uint32_t node = 1; node <= nodes; node++) {
		join(w, node, memory_mib);
		device(w, node);
	}
	*state = w;
	return w;
}

static int teardown(void **state)
{
	struct world *w = *state;

	free(w->cluster);
	free(w->outcome);
	free(w->work);
	free(w->forecast);
	free(w);
	return 0;
}

static void uuid_of(uint32_t number, char uuid[UUID_BYTES])
{
	snprintf(uuid, UUID_BYTES, "00000000-0000-4000-8000-%012u", number);
}

static void started(struct world *w, const struct vm *vm)
{
	struct event event = {.kind = EVENT_STARTED, .node = vm->owner, .epoch = vm->epoch};

	strcpy(event.vm, vm->def.uuid);
	assert_int_equal(feed(w, event), ERR_NONE);
}

/* Runs on `node` afterwards. */
static void run_vm(struct world *w, struct vm_def def, uint32_t node)
{
	struct event create = {.kind = EVENT_VM_CREATE}, start = {.kind = EVENT_VM_START, .target = node};

	uuid_of(++w->vms, def.uuid);
	if (!def.name[0])
		snprintf(def.name, sizeof(def.name), "vm%u", w->vms);
	strcpy(def.kernel, "/boot/vmlinuz");
	vm_def_pin(&def);
	create.def = def;
	assert_int_equal(feed(w, create), ERR_NONE);
	strcpy(start.vm, def.uuid);
	assert_int_equal(feed(w, start), ERR_NONE);
	started(w, cluster_vm_find(w->cluster, def.uuid));
}
#define RUN(node, ...) run_vm(w, (struct vm_def){__VA_ARGS__}, node)

static const struct forecast_vm *of(struct world *w, const char *name)
{
	for (uint32_t i = 0; i < w->forecast->count; i++)
		if (!strcmp(w->cluster->vms[w->forecast->vms[i].vm].def.name, name))
			return &w->forecast->vms[i];
	fail_msg("no %s in the forecast", name);
	return NULL;
}

static void forecast(struct world *w, uint64_t failed)
{
	uint64_t digest = w->cluster->digest, index = w->cluster->index;

	core_forecast(w->cluster, failed, false, w->work, w->forecast);
	assert_int_equal(digest, w->cluster->digest);
	assert_int_equal(index, w->cluster->index);
}

/* The real thing: n3 dies, is fenced, and each start succeeds. Returns the order of the starts, by slot. */
static void let_n3_die(struct world *w, uint32_t order[])
{
	uint32_t count = 0, begun[64];

	assert_int_equal(FEED(.kind = EVENT_VIEW, .members = 3), ERR_NONE);
	const struct fencing *fence = &w->cluster->nodes[2].fence;
	assert_int_equal(FEED(.kind = EVENT_FENCED, .node = fence->by, .target = 3, .task = fence->id,
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
		started(w, &w->cluster->vms[begun[at++]]);
	}
}

/* What else would a forecast be worth? */
static void what_was_forecast_happens(void **state)
{
	struct world *w = world(state, 3, 4096);
	uint32_t order[64] = {0};

	RUN(1, .memory_mib = 2048);
	RUN(2, .memory_mib = 1024, .policy = {.anti_affinity = "db"});
	for (uint32_t i = 0; i < 10; i++)
		RUN(3, .memory_mib = 128 + 64 * (i % 3), .priority = (enum vm_priority)(i % PRIORITY_COUNT),
			.policy = {.possible = i == 4 ? 6 : 0, .start_order = i % 4});
	RUN(3, .memory_mib = 256, .name = "apart", .policy = {.anti_affinity = "db", .anti_affinity_hard = true});
	forecast(w, 4);
	assert_int_equal(w->forecast->count, 11);
	let_n3_die(w, order);
	for (uint32_t i = 0; i < w->forecast->count; i++) {
		const struct forecast_vm *entry = &w->forecast->vms[i];
		const struct vm *vm = &w->cluster->vms[entry->vm];
		assert_int_equal(entry->to, vm->owner);
		assert_int_equal(entry->order, order[entry->vm]);
		assert_int_equal(entry->end, vm->state == VM_ONLINE ? FORECAST_RUNS : FORECAST_OFF);
	}
	assert_int_equal(of(w, "apart")->to, 1);
}

static void who_has_no_room_is_told_with_a_fact_for_each_node(void **state)
{
	struct world *w = world(state, 3, 2048);

	RUN(1, .memory_mib = 1024);
	RUN(2, .memory_mib = 1536);
	RUN(3, .memory_mib = 1025, .name = "web");
	RUN(3, .memory_mib = 512, .name = "db", .priority = PRIORITY_HIGH);
	forecast(w, 4);
	assert_int_equal(w->forecast->down, 1);
	assert_int_equal(of(w, "web")->end, FORECAST_WAITS);
	assert_int_equal(of(w, "web")->limit, FORECAST_LIMIT_ROOM);
	assert_non_null(strstr(of(w, "web")->text, "n1 has 512 MiB free, web needs 1025; n2 has 512 MiB free"));
	assert_int_equal(of(w, "db")->end, FORECAST_RUNS);
	assert_int_equal(of(w, "db")->to, 1);
}

/* The chain that 'why' tells must hold the fact for which it is not where one would expect it. */
static void a_start_tells_which_nodes_could_not_take_it(void **state)
{
	struct world *w = world(state, 3, 2048);
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
	struct world *w = world(state, 3, 4096);
	struct forecast_survival survival;

	RUN(3, .memory_mib = 512, .name = "web", .policy = {.possible = 4});
	forecast(w, 4);
	assert_int_equal(of(w, "web")->end, FORECAST_WAITS);
	assert_int_equal(of(w, "web")->limit, FORECAST_LIMIT_RULES);
	core_survival(w->cluster, 2, w->work, w->forecast, &survival);
	assert_int_equal(survival.nodes, 0);
	assert_true(survival.exact);
	assert_int_equal(survival.limit, FORECAST_LIMIT_RULES);
	assert_int_equal(survival.failed, 4);
	assert_non_null(strstr(survival.text, "n1 is no possible owner of web"));
}

static void without_proof_it_stays_blocked(void **state)
{
	struct world *w = world(state, 3, 4096);
	struct event event = {.kind = EVENT_FENCE_REMOVE};
	struct forecast_survival survival;

	RUN(3, .memory_mib = 512, .name = "web");
	strcpy(event.fence.name, "ipmi-n3");
	assert_int_equal(feed(w, event), ERR_NONE);
	forecast(w, 4);
	assert_int_equal(w->forecast->unproven, 4);
	assert_int_equal(of(w, "web")->end, FORECAST_BLOCKED);
	assert_int_equal(of(w, "web")->to, 1); /* after a person's word */
	assert_non_null(strstr(w->forecast->proof[2], "no fence device"));
	core_survival(w->cluster, 2, w->work, w->forecast, &survival);
	assert_int_equal(survival.nodes, 0);
	assert_int_equal(survival.limit, FORECAST_LIMIT_PROOF);
}

/* A watchdog is proof as well. */
static void a_watchdog_proves_it(void **state)
{
	struct world *w = world(state, 3, 4096);
	struct event remove = {.kind = EVENT_FENCE_REMOVE};
	struct event facts = {.kind = EVENT_NODE_REPORT, .node = 3};

	RUN(3, .memory_mib = 512, .name = "web");
	strcpy(remove.fence.name, "ipmi-n3");
	assert_int_equal(feed(w, remove), ERR_NONE);
	facts.facts = w->cluster->nodes[2].facts;
	facts.facts.watchdog_ms = 5000;
	facts.facts.token_ms = 1000;
	assert_int_equal(feed(w, facts), ERR_NONE);
	forecast(w, 4);
	assert_int_equal(w->forecast->unproven, 0);
	assert_int_equal(of(w, "web")->end, FORECAST_RUNS);
	assert_non_null(strstr(w->forecast->proof[2], "watchdog"));
}

static void quorum_is_a_limit_like_others(void **state)
{
	struct world *w = world(state, 5, 4096);
	struct forecast_survival survival;

	for (uint32_t node = 1; node <= 5; node++)
		RUN(node, .memory_mib = 1024);
	core_survival(w->cluster, 3, w->work, w->forecast, &survival);
	assert_int_equal(survival.nodes, 2);
	assert_true(survival.exact);
	assert_int_equal(survival.limit, FORECAST_LIMIT_QUORUM);
	/* Two more on each: one node's three fit, two nodes' do not. */
	for (uint32_t node = 1; node <= 5; node++)
		RUN(node, .memory_mib = 1600);
	core_survival(w->cluster, 3, w->work, w->forecast, &survival);
	assert_int_equal(survival.nodes, 0);
	assert_int_equal(survival.limit, FORECAST_LIMIT_ROOM);
}

/* A start that waits for others costs time, and the forecast says how much. */
static void start_delays_are_counted(void **state)
{
	struct world *w = world(state, 3, 4096);

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
	struct world *w = world(state, 3, 4096);

	RUN(3, .memory_mib = 512, .name = "lab", .priority = PRIORITY_NONE);
	forecast(w, 4);
	assert_int_equal(of(w, "lab")->end, FORECAST_OFF);
	assert_int_equal(w->forecast->down, 0);
}

static void sets_of_nodes_are_tried_within_bounds(void **state)
{
	struct world *w = world(state, 64, 65536);
	struct forecast_survival survival;

	for (uint32_t i = 0; i < 200; i++)
		RUN(1 + i % 64, .memory_mib = 512);
	core_survival(w->cluster, 33, w->work, w->forecast, &survival);
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
		T(a_watchdog_proves_it),
		T(quorum_is_a_limit_like_others),
		T(start_delays_are_counted),
		T(what_is_not_started_by_itself_is_not_missed),
		T(sets_of_nodes_are_tried_within_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
