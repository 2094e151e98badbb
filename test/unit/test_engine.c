/* SPDX-License-Identifier: Apache-2.0
 * Engines that talk through a perfect group: what sync, commit and reconciliation come to when nothing goes wrong, and
 * when a member comes late or goes away. The simulator is where everything goes wrong. */
#include "engines.h"

static bool acts(struct engines *w, uint32_t id)
{
	struct engine_status status;

	engine_get_status(w->machines[id].engine, &status);
	return status.synced && cluster_node(engine_cluster(w->machines[id].engine), id)->state == NODE_ONLINE;
}

static void all_equal(struct engines *w)
{
	const struct cluster *first = engine_cluster(w->machines[1].engine);

	for (uint32_t id = 2; id <= NODES; id++) {
		const struct cluster *other = engine_cluster(w->machines[id].engine);
		assert_int_equal(first->index, other->index);
		assert_int_equal(first->digest, other->digest);
		assert_true(schema_equal(&cluster_schema, first, other));
	}
}

static struct engine_reply last_reply;
static int replies;

static void on_reply(void *ctx, const struct engine_reply *reply)
{
	(void)ctx;
	last_reply = *reply;
	replies++;
}

static enum err_code ask(struct engines *w, uint32_t id, struct event event)
{
	replies = 0;
	if (!event.vm[0])
		strcpy(event.vm, WEB);
	strcpy(event.by, "root");
	engine_submit(w->machines[id].engine, &event, on_reply, w);
	engines_run_ms(w, 50);
	assert_int_equal(replies, 1);
	return last_reply.code;
}

static void create_web(struct engines *w)
{
	struct event create = {.kind = EVENT_VM_CREATE};

	strcpy(create.def.uuid, WEB);
	strcpy(create.def.name, "web");
	strcpy(create.def.kernel, "/boot/vmlinuz");
	create.def.memory_mib = 512;
	vm_def_pin(&create.def);
	assert_int_equal(ask(w, 3, create), ERR_NONE);
}

static const struct vm *web(struct engines *w, uint32_t id)
{
	return cluster_vm_find(engine_cluster(w->machines[id].engine), "web");
}

static void three_nodes_come_to_one_history(void **state)
{
	struct engines *w = *state;

	for (uint32_t id = 1; id <= NODES; id++)
		assert_true(acts(w, id));
	all_equal(w);
	assert_true(engine_cluster(w->machines[1].engine)->index >= 4);
}

static void a_vm_starts_and_moves(void **state)
{
	struct engines *w = *state;

	create_web(w);
	assert_int_equal(ask(w, 2, (struct event){.kind = EVENT_VM_START, .target = 1}), ERR_NONE);
	assert_int_equal(web(w, 3)->state, VM_ONLINE);
	assert_int_equal(ask(w, 3, (struct event){.kind = EVENT_VM_MOVE, .target = 2}), ERR_NONE);
	engines_run_ms(w, 100);
	assert_int_equal(web(w, 1)->state, VM_ONLINE);
	assert_int_equal(web(w, 1)->owner, 2);
	assert_int_equal(w->machines[1].web.state, HV_ABSENT);
	assert_int_equal(w->machines[2].web.state, HV_RUNNING);
	assert_int_equal(w->machines[2].runs, 1);
	assert_int_equal(w->machines[1].starts + w->machines[2].starts, 1);
	assert_true(web(w, 1)->filling);
	w->machines[2].web.filling = false;
	machine_tell(&w->machines[2], HV_EVENT_FILLED, 2, 0);
	engines_run_ms(w, 50);
	assert_false(web(w, 1)->filling);
	all_equal(w);
}

/* The state was written under one task and is loaded under another: a guest whose memory was saved must not boot. */
static void a_saved_vm_goes_on_from_its_state(void **state)
{
	struct engines *w = *state;

	create_web(w);
	assert_int_equal(ask(w, 2, (struct event){.kind = EVENT_VM_START, .target = 1}), ERR_NONE);
	assert_int_equal(ask(w, 2, (struct event){.kind = EVENT_VM_SAVE}), ERR_NONE);
	engines_run_ms(w, 100);
	assert_int_equal(web(w, 1)->state, VM_SAVED);
	assert_int_equal(ask(w, 2, (struct event){.kind = EVENT_VM_START, .target = 3}), ERR_NONE);
	engines_run_ms(w, 100);
	assert_int_equal(web(w, 1)->state, VM_ONLINE);
	assert_int_equal(web(w, 1)->owner, 3);
	assert_int_equal(w->machines[3].runs, 1);
	assert_int_equal(w->machines[1].starts + w->machines[2].starts + w->machines[3].starts, 1);
	all_equal(w);
}

/* A member that was away takes the state of the others, and finds its copy unowned. */
static void a_member_that_was_away_catches_up(void **state)
{
	struct engines *w = *state;

	create_web(w);
	ask(w, 1, (struct event){.kind = EVENT_VM_START, .target = 3});
	assert_int_equal(web(w, 1)->state, VM_ONLINE);
	engines_cut(w, 3, true);
	engines_run_ms(w, ENGINE_GRACE_MS);
	assert_int_equal(web(w, 1)->state, VM_BLOCKED);
	assert_int_equal(web(w, 3)->state, VM_ONLINE); /* what it knew last */
	assert_int_equal(ask(w, 3, (struct event){.kind = EVENT_VM_STOP}), ERR_NO_QUORUM);
	engines_cut(w, 3, false);
	engines_run_ms(w, 5000);
	assert_int_equal(web(w, 1)->state, VM_ONLINE);
	assert_int_equal(w->machines[3].web.state, HV_RUNNING);
	assert_int_equal(w->machines[3].starts, 1);
	all_equal(w);
}

/* A request that was on its way when the view changed is sent again, and counts once. */
static void a_request_survives_a_view_change(void **state)
{
	struct engines *w = *state;
	struct event create = {.kind = EVENT_VM_CREATE};

	strcpy(create.def.uuid, WEB);
	strcpy(create.def.name, "web");
	strcpy(create.def.kernel, "/boot/vmlinuz");
	create.def.memory_mib = 512;
	vm_def_pin(&create.def);
	replies = 0;
	engine_submit(w->machines[2].engine, &create, on_reply, w);
	engines_tell_view(w);
	engines_run_ms(w, 3000);
	assert_int_equal(replies, 1);
	assert_int_equal(last_reply.code, ERR_NONE);
	assert_non_null(web(w, 1));
	all_equal(w);
}

/* While a node joins nobody has quorum for a moment; whoever asks just then does not want to hear of it. */
static void a_request_waits_for_a_short_loss_of_quorum(void **state)
{
	struct engines *w = *state;
	struct event start = {.kind = EVENT_VM_START, .target = 1, .vm = WEB, .by = "root"};

	create_web(w);
	engines_cut(w, 3, true);
	replies = 0;
	engine_submit(w->machines[3].engine, &start, on_reply, w);
	engines_run_ms(w, ENGINE_GRACE_MS - 1000);
	assert_int_equal(replies, 0);
	engines_cut(w, 3, false);
	engines_run_ms(w, 3000);
	assert_int_equal(replies, 1);
	assert_int_equal(last_reply.code, ERR_NONE);
	assert_int_equal(web(w, 1)->state, VM_ONLINE);
	engines_run_ms(w, ENGINE_REPLY_MS);
	assert_int_equal(replies, 1);
	all_equal(w);
}

/* Bounded by how long the node has been out, not by each request; and what was refused is not done later. */
static void a_request_is_refused_when_quorum_stays_lost(void **state)
{
	struct engines *w = *state;
	struct event start = {.kind = EVENT_VM_START, .target = 1, .vm = WEB, .by = "root"};

	create_web(w);
	engines_cut(w, 3, true);
	engines_run_ms(w, 1000);
	replies = 0;
	engine_submit(w->machines[3].engine, &start, on_reply, w);
	engines_run_ms(w, ENGINE_GRACE_MS - 1001);
	assert_int_equal(replies, 0);
	engines_run_ms(w, 2);
	assert_int_equal(replies, 1);
	assert_int_equal(last_reply.code, ERR_NO_QUORUM);
	assert_string_equal(last_reply.text, "this node cannot change the cluster: no quorum");
	engine_submit(w->machines[3].engine, &start, on_reply, w);
	assert_int_equal(replies, 2);
	engines_cut(w, 3, false);
	engines_run_ms(w, 5000);
	assert_int_equal(replies, 2);
	assert_int_equal(web(w, 1)->state, VM_OFF);
	all_equal(w);
}

/* QEMU dies; nobody tells the log but the node that saw it. */
static void a_copy_that_died_is_started_again_once(void **state)
{
	struct engines *w = *state;

	create_web(w);
	ask(w, 1, (struct event){.kind = EVENT_VM_START, .target = 1});
	w->machines[1].web.state = HV_ABSENT;
	machine_tell(&w->machines[1], HV_EVENT_GONE, 1, 0);
	engines_run_ms(w, 5000);
	assert_int_equal(web(w, 2)->state, VM_ONLINE);
	assert_int_equal(web(w, 2)->epoch, 2);
	assert_int_equal(w->machines[1].starts, 2);
	all_equal(w);
}

/* The others have synced already, and do not know that one of them was told of the view again and waits. */
static void a_member_that_nobody_syncs_with_joins_anew(void **state)
{
	struct engines *w = *state;
	struct group_callbacks callbacks = engine_group_callbacks(w->machines[3].engine);
	struct group_view again = {.ring_seq = w->ring, .quorate = true, .expected_votes = NODES, .members = 7};

	create_web(w);
	callbacks.view(callbacks.ctx, &again);
	engines_run_ms(w, 14000);
	assert_false(acts(w, 3));
	assert_true(w->machines[3].in_group);
	engines_run_ms(w, 2500);
	assert_false(w->machines[3].in_group);
	engines_tell_view(w);
	engines_run_ms(w, 4000);
	assert_true(w->machines[3].in_group);
	engines_tell_view(w);
	engines_run_ms(w, 3000);
	assert_true(acts(w, 1) && acts(w, 3));
	all_equal(w);
}

/* Limits are judged by the stamps of whoever speaks: with clocks that are apart they may not be off by more than a
 * twentieth, also right after a quiet hour. */
static void clocks_that_are_apart_make_no_leap(void **state)
{
	struct engines *w = *state;
	const struct cluster *cluster = engine_cluster(w->machines[1].engine);

	create_web(w);
	w->machines[2].skew_ms = 19400;
	w->machines[3].skew_ms = -40000;
	for (int i = 0; i < 40; i++) {
		uint64_t before = w->now, stamp_ms = cluster->now_ms;
		engines_run_ms(w, (uint64_t)(i == 30 ? 3600 * 1000 : i % 2 ? 200 : 25000));
		ask(w, 1 + (uint32_t)(i / 2 % 3), (struct event){.kind = EVENT_VM_STOP});
		uint64_t passed = w->now - before, told = cluster->now_ms - stamp_ms;
		assert_in_range(told, passed - 60, passed + passed / 20 + 60);
	}
	all_equal(w);
}

/* It is the lowest, and so the one that tells the time: not that of the last event, which may be long ago. */
static void a_member_that_is_back_is_told_the_time(void **state)
{
	struct engines *w = *state;
	struct machine *m = &w->machines[1];

	create_web(w);
	engines_run_ms(w, 600 * 1000);
	engines_boot_empty(m, 3600 * 1000);
	m->in_group = true;
	engines_tell_view(w);
	engines_run_ms(w, 3000);
	assert_true(acts(w, 1));
	assert_in_range(engine_cluster(m->engine)->now_ms, WALL_MS + w->now - 3000, WALL_MS + w->now);
	all_equal(w);
}

/* Its clock says 2100, its store is new, and somebody asks it for something before it is in sync: its request may not
 * carry that time into the cluster, where every limit would be over at once. */
static void what_a_new_member_is_asked_early_brings_no_time_along(void **state)
{
	struct engines *w = *state;
	struct machine *m = &w->machines[3];
	struct event stop = {.kind = EVENT_VM_STOP, .vm = WEB};

	create_web(w);
	engines_boot_empty(m, INT64_C(2366841600000));
	replies = 0;
	engine_submit(m->engine, &stop, on_reply, w);
	m->in_group = true;
	engines_tell_view(w);
	engines_run_ms(w, 3000);
	assert_true(acts(w, 3));
	assert_int_equal(replies, 1);
	assert_int_not_equal(last_reply.code, ERR_TIMEOUT); /* so it is in the log */
	assert_in_range(engine_cluster(w->machines[1].engine)->now_ms, WALL_MS + w->now - 3000, WALL_MS + w->now);
	all_equal(w);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, engines_setup, engines_teardown)
	const struct CMUnitTest tests[] = {
		T(three_nodes_come_to_one_history),
		T(a_vm_starts_and_moves),
		T(a_saved_vm_goes_on_from_its_state),
		T(a_member_that_was_away_catches_up),
		T(a_request_survives_a_view_change),
		T(a_request_waits_for_a_short_loss_of_quorum),
		T(a_request_is_refused_when_quorum_stays_lost),
		T(a_member_that_nobody_syncs_with_joins_anew),
		T(a_copy_that_died_is_started_again_once),
		T(clocks_that_are_apart_make_no_leap),
		T(a_member_that_is_back_is_told_the_time),
		T(what_a_new_member_is_asked_early_brings_no_time_along),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
