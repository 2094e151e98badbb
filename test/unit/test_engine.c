/* SPDX-License-Identifier: Apache-2.0
 * Engines that talk through a perfect group: what sync, commit and reconciliation come to when nothing goes wrong, and
 * when a member comes late or goes away. The simulator is where everything goes wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "support/forgetful_store.h"

enum { NODES = 3, QUEUE_MAX = 4096, WALL_MS = 1000000 };
#define UUID "00000000-0000-4000-8000-0000000000aa"
#define WEB "00000000-0000-4000-8000-000000000001"

struct loop_timer {
	uint64_t due;
	loop_timer_fn *fn;
	void *ctx;
	struct loop_timer *next;
};

struct machine {
	struct loop loop;
	struct group group;
	struct forgetful_store store;
	struct hypervisor hv;
	struct world *world;
	struct engine *engine;
	struct loop_timer *timers;
	struct hv_info web;
	int starts, runs, kills;
	int64_t skew_ms; /* of its wall clock */
	bool in_group;
};

struct world {
	uint64_t now;
	uint64_t ring;
	struct machine machines[NODES + 1]; /* by node id */
	struct {
		uint32_t from;
		uint8_t *bytes;
		size_t size;
	} queue[QUEUE_MAX];
	int head, tail;
};

static uint64_t now_ms(struct loop *loop)
{
	return ((struct machine *)loop)->world->now;
}

static uint64_t wall_ms(struct loop *loop)
{
	return WALL_MS + now_ms(loop) + (uint64_t)((struct machine *)loop)->skew_ms;
}

static struct loop_timer *timer_set(struct loop *loop, uint64_t delay, loop_timer_fn *fn, void *ctx)
{
	struct machine *m = (struct machine *)loop;
	struct loop_timer *timer = calloc(1, sizeof(*timer));

	*timer = (struct loop_timer){.due = m->world->now + delay, .fn = fn, .ctx = ctx, .next = m->timers};
	m->timers = timer;
	return timer;
}

static void timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	struct machine *m = (struct machine *)loop;

	for (struct loop_timer **at = &m->timers; *at; at = &(*at)->next) {
		if (*at == timer) {
			*at = timer->next;
			free(timer);
			return;
		}
	}
}

#define FROM(ptr, member) ((struct machine *)(void *)((char *)(ptr)-offsetof(struct machine, member)))

static int send_message(struct group *group, const uint8_t *bytes, size_t size, struct err *err)
{
	struct world *w = FROM(group, group)->world;
	int slot = w->tail++ % QUEUE_MAX;

	(void)err;
	w->queue[slot].from = group->node;
	w->queue[slot].bytes = malloc(size);
	memcpy(w->queue[slot].bytes, bytes, size);
	w->queue[slot].size = size;
	return 0;
}

static void tell_view(struct world *w)
{
	struct group_view view = {.ring_seq = w->ring += 4, .expected_votes = NODES};

	for (uint32_t id = 1; id <= NODES; id++)
		if (w->machines[id].in_group)
			view.members |= node_bit(id);
	view.quorate = __builtin_popcountll(view.members) > NODES / 2;
	/* What was on its way belongs to the view before, and is lost. */
	for (; w->head < w->tail; w->head++)
		free(w->queue[w->head % QUEUE_MAX].bytes);
	for (uint32_t id = 1; id <= NODES; id++) {
		struct group_callbacks callbacks = engine_group_callbacks(w->machines[id].engine);
		if (w->machines[id].in_group)
			callbacks.view(callbacks.ctx, &view);
	}
}

static void join(struct group *group)
{
	FROM(group, group)->in_group = true;
}

static void leave(struct group *group)
{
	FROM(group, group)->in_group = false;
}

static void hv_tell(struct machine *m, enum hv_event_kind kind, uint64_t epoch, uint64_t task)
{
	struct hv_callbacks callbacks = engine_hypervisor_callbacks(m->engine);
	struct hv_event event = {.kind = kind, .vm = WEB, .epoch = epoch, .task = task, .filling = true};

	callbacks.event(callbacks.ctx, &event);
}

static void hv_inspect(struct hypervisor *hv, const char *vm, struct hv_info *info)
{
	*info = strcmp(vm, WEB) ? (struct hv_info){.state = HV_ABSENT} : FROM(hv, hv)->web;
}

static void hv_each(struct hypervisor *hv, void (*fn)(void *, const char *, const struct hv_info *), void *ctx)
{
	if (FROM(hv, hv)->web.state != HV_ABSENT)
		fn(ctx, WEB, &FROM(hv, hv)->web);
}

static int hv_facts(struct hypervisor *hv, struct node_facts *facts, struct err *err)
{
	(void)hv, (void)err;
	facts->memory_mib = 1024;
	return 0;
}

static void hv_start(struct hypervisor *hv, const struct vm_def *def, uint64_t epoch)
{
	struct machine *m = FROM(hv, hv);

	(void)def;
	m->starts++;
	m->web = (struct hv_info){.state = HV_RUNNING, .epoch = epoch};
	hv_tell(m, HV_EVENT_STARTED, epoch, 0);
}

static void hv_standby(struct hypervisor *hv, const struct vm_def *def, uint64_t task)
{
	struct machine *m = FROM(hv, hv);

	(void)def;
	m->web = (struct hv_info){.state = HV_STANDBY, .task = task};
	hv_tell(m, HV_EVENT_PREPARED, 0, task);
}

static void hv_copy(struct hypervisor *hv, const struct vm_def *def, uint64_t task, uint64_t epoch)
{
	struct machine *m = FROM(hv, hv);

	(void)def;
	m->web.state = HV_SEALED;
	m->web.task = task;
	hv_tell(m, HV_EVENT_SEALED, epoch, task);
}

static void hv_load(struct hypervisor *hv, const struct vm_def *def, uint64_t task, const struct hv_saved *saved)
{
	struct machine *m = FROM(hv, hv);

	(void)def, (void)saved;
	m->web.state = HV_LOADED;
	m->web.filling = true;
	hv_tell(m, HV_EVENT_LOADED, 0, task);
}

static void hv_run(struct hypervisor *hv, const char *vm, uint64_t task, uint64_t epoch)
{
	struct machine *m = FROM(hv, hv);

	(void)vm;
	m->runs++;
	m->web = (struct hv_info){.state = HV_RUNNING, .epoch = epoch, .filling = true};
	hv_tell(m, HV_EVENT_RESUMED, epoch, task);
}

static void hv_kill(struct hypervisor *hv, const char *vm)
{
	struct machine *m = FROM(hv, hv);
	uint64_t epoch = m->web.epoch;

	(void)vm;
	m->kills++;
	m->web = (struct hv_info){.state = HV_ABSENT};
	hv_tell(m, HV_EVENT_GONE, epoch, 0);
}

static void hv_shutdown(struct hypervisor *hv, const char *vm)
{
	hv_kill(hv, vm);
}

static void hv_purge(struct hypervisor *hv, const char *vm, uint64_t keep, uint64_t below)
{
	(void)hv, (void)vm, (void)keep, (void)below;
}

static const struct loop_ops loop_ops = {.now_ms = now_ms, .wall_ms = wall_ms, .timer_set = timer_set, .timer_cancel = timer_cancel};
static const struct group_ops group_ops = {.send = send_message, .leave = leave, .join = join, .force = leave};
static const struct hypervisor_ops hv_ops = {.inspect = hv_inspect, .each = hv_each, .facts = hv_facts, .start = hv_start,
	.standby = hv_standby, .copy = hv_copy, .load = hv_load, .run = hv_run, .shutdown = hv_shutdown, .kill = hv_kill,
	.purge = hv_purge};

/* Delivers everything, then lets timers run, for this long. */
static void run_ms(struct world *w, uint64_t ms)
{
	for (uint64_t end = w->now + ms; w->now < end; w->now++) {
		for (; w->head < w->tail; w->head++) {
			int slot = w->head % QUEUE_MAX;
			for (uint32_t id = 1; id <= NODES; id++) {
				struct group_callbacks callbacks = engine_group_callbacks(w->machines[id].engine);
				if (w->machines[id].in_group)
					callbacks.deliver(callbacks.ctx, w->queue[slot].from, w->queue[slot].bytes,
						w->queue[slot].size);
			}
			free(w->queue[slot].bytes);
		}
		for (uint32_t id = 1; id <= NODES; id++) {
			struct machine *m = &w->machines[id];
			for (struct loop_timer **at = &m->timers; *at;) {
				struct loop_timer *timer = *at;
				if (timer->due > w->now) {
					at = &timer->next;
					continue;
				}
				*at = timer->next;
				timer->fn(timer->ctx);
				free(timer);
				at = &m->timers;
			}
		}
	}
}

static void cut(struct world *w, uint32_t id, bool away)
{
	struct group_view lost = {.quorate = false, .members = node_bit(id), .expected_votes = NODES};
	struct group_callbacks callbacks = engine_group_callbacks(w->machines[id].engine);

	w->machines[id].in_group = !away;
	tell_view(w);
	if (away)
		callbacks.view(callbacks.ctx, &lost);
}

static void boot(struct machine *m)
{
	struct engine_config config = {.incarnation = m->group.node};
	struct engine_ports ports = {.loop = &m->loop, .group = &m->group, .store = &m->store.store, .hypervisor = &m->hv};
	struct err err;

	strcpy(config.cluster_uuid, UUID);
	snprintf(config.node_name, sizeof(config.node_name), "n%u", m->group.node);
	snprintf(config.boot_id, sizeof(config.boot_id), "boot-%u", m->group.node);
	m->engine = engine_new(&config);
	forgetful_store_init(&m->store, m->engine);
	assert_int_equal(engine_start(m->engine, &ports, &err), 0);
}

/* Again, with a store that has nothing, and a wall clock that is ahead. */
static void boot_empty(struct machine *m, int64_t skew_ms)
{
	m->in_group = false;
	engine_free(m->engine);
	while (m->timers)
		timer_cancel(&m->loop, m->timers);
	m->skew_ms = skew_ms;
	boot(m);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	for (uint32_t id = 1; id <= NODES; id++) {
		struct machine *m = &w->machines[id];
		m->world = w;
		m->loop.ops = &loop_ops;
		m->group = (struct group){.ops = &group_ops, .node = id};
		m->hv.ops = &hv_ops;
		boot(m);
	}
	tell_view(w);
	run_ms(w, 3000);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	for (uint32_t id = 1; id <= NODES; id++) {
		engine_free(w->machines[id].engine);
		while (w->machines[id].timers)
			timer_cancel(&w->machines[id].loop, w->machines[id].timers);
	}
	for (; w->head < w->tail; w->head++)
		free(w->queue[w->head % QUEUE_MAX].bytes);
	free(w);
	return 0;
}

static bool acts(struct world *w, uint32_t id)
{
	struct engine_status status;

	engine_get_status(w->machines[id].engine, &status);
	return status.synced && cluster_node(engine_cluster(w->machines[id].engine), id)->state == NODE_ONLINE;
}

static void all_equal(struct world *w)
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

static enum err_code ask(struct world *w, uint32_t id, struct event event)
{
	replies = 0;
	if (!event.vm[0])
		strcpy(event.vm, WEB);
	strcpy(event.by, "root");
	engine_submit(w->machines[id].engine, &event, on_reply, w);
	run_ms(w, 50);
	assert_int_equal(replies, 1);
	return last_reply.code;
}

static void create_web(struct world *w)
{
	struct event create = {.kind = EVENT_VM_CREATE};

	strcpy(create.def.uuid, WEB);
	strcpy(create.def.name, "web");
	strcpy(create.def.kernel, "/boot/vmlinuz");
	create.def.memory_mib = 512;
	vm_def_pin(&create.def);
	assert_int_equal(ask(w, 3, create), ERR_NONE);
}

static const struct vm *web(struct world *w, uint32_t id)
{
	return cluster_vm_find(engine_cluster(w->machines[id].engine), "web");
}

static void three_nodes_come_to_one_history(void **state)
{
	struct world *w = *state;

	for (uint32_t id = 1; id <= NODES; id++)
		assert_true(acts(w, id));
	all_equal(w);
	assert_true(engine_cluster(w->machines[1].engine)->index >= 4);
}

static void a_vm_starts_and_moves(void **state)
{
	struct world *w = *state;

	create_web(w);
	assert_int_equal(ask(w, 2, (struct event){.kind = EVENT_VM_START, .target = 1}), ERR_NONE);
	assert_int_equal(web(w, 3)->state, VM_ONLINE);
	assert_int_equal(ask(w, 3, (struct event){.kind = EVENT_VM_MOVE, .target = 2}), ERR_NONE);
	run_ms(w, 100);
	assert_int_equal(web(w, 1)->state, VM_ONLINE);
	assert_int_equal(web(w, 1)->owner, 2);
	assert_int_equal(w->machines[1].web.state, HV_ABSENT);
	assert_int_equal(w->machines[2].web.state, HV_RUNNING);
	assert_int_equal(w->machines[2].runs, 1);
	assert_int_equal(w->machines[1].starts + w->machines[2].starts, 1);
	assert_true(web(w, 1)->filling);
	w->machines[2].web.filling = false;
	hv_tell(&w->machines[2], HV_EVENT_FILLED, 2, 0);
	run_ms(w, 50);
	assert_false(web(w, 1)->filling);
	all_equal(w);
}

/* The state was written under one task and is loaded under another: a guest whose memory was saved must not boot. */
static void a_saved_vm_goes_on_from_its_state(void **state)
{
	struct world *w = *state;

	create_web(w);
	assert_int_equal(ask(w, 2, (struct event){.kind = EVENT_VM_START, .target = 1}), ERR_NONE);
	assert_int_equal(ask(w, 2, (struct event){.kind = EVENT_VM_SAVE}), ERR_NONE);
	run_ms(w, 100);
	assert_int_equal(web(w, 1)->state, VM_SAVED);
	assert_int_equal(ask(w, 2, (struct event){.kind = EVENT_VM_START, .target = 3}), ERR_NONE);
	run_ms(w, 100);
	assert_int_equal(web(w, 1)->state, VM_ONLINE);
	assert_int_equal(web(w, 1)->owner, 3);
	assert_int_equal(w->machines[3].runs, 1);
	assert_int_equal(w->machines[1].starts + w->machines[2].starts + w->machines[3].starts, 1);
	all_equal(w);
}

/* A member that was away takes the state of the others, and finds its copy unowned. */
static void a_member_that_was_away_catches_up(void **state)
{
	struct world *w = *state;

	create_web(w);
	ask(w, 1, (struct event){.kind = EVENT_VM_START, .target = 3});
	assert_int_equal(web(w, 1)->state, VM_ONLINE);
	cut(w, 3, true);
	run_ms(w, ENGINE_GRACE_MS);
	assert_int_equal(web(w, 1)->state, VM_BLOCKED);
	assert_int_equal(web(w, 3)->state, VM_ONLINE); /* what it knew last */
	assert_int_equal(ask(w, 3, (struct event){.kind = EVENT_VM_STOP}), ERR_NO_QUORUM);
	cut(w, 3, false);
	run_ms(w, 5000);
	assert_int_equal(web(w, 1)->state, VM_ONLINE);
	assert_int_equal(w->machines[3].web.state, HV_RUNNING);
	assert_int_equal(w->machines[3].starts, 1);
	all_equal(w);
}

/* A request that was on its way when the view changed is sent again, and counts once. */
static void a_request_survives_a_view_change(void **state)
{
	struct world *w = *state;
	struct event create = {.kind = EVENT_VM_CREATE};

	strcpy(create.def.uuid, WEB);
	strcpy(create.def.name, "web");
	strcpy(create.def.kernel, "/boot/vmlinuz");
	create.def.memory_mib = 512;
	vm_def_pin(&create.def);
	replies = 0;
	engine_submit(w->machines[2].engine, &create, on_reply, w);
	tell_view(w);
	run_ms(w, 3000);
	assert_int_equal(replies, 1);
	assert_int_equal(last_reply.code, ERR_NONE);
	assert_non_null(web(w, 1));
	all_equal(w);
}

/* While a node joins nobody has quorum for a moment; whoever asks just then does not want to hear of it. */
static void a_request_waits_for_a_short_loss_of_quorum(void **state)
{
	struct world *w = *state;
	struct event start = {.kind = EVENT_VM_START, .target = 1, .vm = WEB, .by = "root"};

	create_web(w);
	cut(w, 3, true);
	replies = 0;
	engine_submit(w->machines[3].engine, &start, on_reply, w);
	run_ms(w, ENGINE_GRACE_MS - 1000);
	assert_int_equal(replies, 0);
	cut(w, 3, false);
	run_ms(w, 3000);
	assert_int_equal(replies, 1);
	assert_int_equal(last_reply.code, ERR_NONE);
	assert_int_equal(web(w, 1)->state, VM_ONLINE);
	run_ms(w, ENGINE_REPLY_MS);
	assert_int_equal(replies, 1);
	all_equal(w);
}

/* Bounded by how long the node has been out, not by each request; and what was refused is not done later. */
static void a_request_is_refused_when_quorum_stays_lost(void **state)
{
	struct world *w = *state;
	struct event start = {.kind = EVENT_VM_START, .target = 1, .vm = WEB, .by = "root"};

	create_web(w);
	cut(w, 3, true);
	run_ms(w, 1000);
	replies = 0;
	engine_submit(w->machines[3].engine, &start, on_reply, w);
	run_ms(w, ENGINE_GRACE_MS - 1001);
	assert_int_equal(replies, 0);
	run_ms(w, 2);
	assert_int_equal(replies, 1);
	assert_int_equal(last_reply.code, ERR_NO_QUORUM);
	assert_string_equal(last_reply.text, "this node cannot change the cluster: no quorum");
	engine_submit(w->machines[3].engine, &start, on_reply, w);
	assert_int_equal(replies, 2);
	cut(w, 3, false);
	run_ms(w, 5000);
	assert_int_equal(replies, 2);
	assert_int_equal(web(w, 1)->state, VM_OFF);
	all_equal(w);
}

/* QEMU dies; nobody tells the log but the node that saw it. */
static void a_copy_that_died_is_started_again_once(void **state)
{
	struct world *w = *state;

	create_web(w);
	ask(w, 1, (struct event){.kind = EVENT_VM_START, .target = 1});
	w->machines[1].web.state = HV_ABSENT;
	hv_tell(&w->machines[1], HV_EVENT_GONE, 1, 0);
	run_ms(w, 5000);
	assert_int_equal(web(w, 2)->state, VM_ONLINE);
	assert_int_equal(web(w, 2)->epoch, 2);
	assert_int_equal(w->machines[1].starts, 2);
	all_equal(w);
}

/* The others have synced already, and do not know that one of them was told of the view again and waits. */
static void a_member_that_nobody_syncs_with_joins_anew(void **state)
{
	struct world *w = *state;
	struct group_callbacks callbacks = engine_group_callbacks(w->machines[3].engine);
	struct group_view again = {.ring_seq = w->ring, .quorate = true, .expected_votes = NODES, .members = 7};

	create_web(w);
	callbacks.view(callbacks.ctx, &again);
	run_ms(w, 14000);
	assert_false(acts(w, 3));
	assert_true(w->machines[3].in_group);
	run_ms(w, 2500);
	assert_false(w->machines[3].in_group);
	tell_view(w);
	run_ms(w, 4000);
	assert_true(w->machines[3].in_group);
	tell_view(w);
	run_ms(w, 3000);
	assert_true(acts(w, 1) && acts(w, 3));
	all_equal(w);
}

/* Limits are judged by the stamps of whoever speaks: with clocks that are apart they may not be off by more than a
 * twentieth, also right after a quiet hour. */
static void clocks_that_are_apart_make_no_leap(void **state)
{
	struct world *w = *state;
	const struct cluster *cluster = engine_cluster(w->machines[1].engine);

	create_web(w);
	w->machines[2].skew_ms = 19400;
	w->machines[3].skew_ms = -40000;
	for (int i = 0; i < 40; i++) {
		uint64_t before = w->now, stamp_ms = cluster->now_ms;
		run_ms(w, (uint64_t)(i == 30 ? 3600 * 1000 : i % 2 ? 200 : 25000));
		ask(w, 1 + (uint32_t)(i / 2 % 3), (struct event){.kind = EVENT_VM_STOP});
		uint64_t passed = w->now - before, told = cluster->now_ms - stamp_ms;
		assert_in_range(told, passed - 60, passed + passed / 20 + 60);
	}
	all_equal(w);
}

/* It is the lowest, and so the one that tells the time: not that of the last event, which may be long ago. */
static void a_member_that_is_back_is_told_the_time(void **state)
{
	struct world *w = *state;
	struct machine *m = &w->machines[1];

	create_web(w);
	run_ms(w, 600 * 1000);
	boot_empty(m, 3600 * 1000);
	m->in_group = true;
	tell_view(w);
	run_ms(w, 3000);
	assert_true(acts(w, 1));
	assert_in_range(engine_cluster(m->engine)->now_ms, WALL_MS + w->now - 3000, WALL_MS + w->now);
	all_equal(w);
}

/* Its clock says 2100, its store is new, and somebody asks it for something before it is in sync: its request may not
 * carry that time into the cluster, where every limit would be over at once. */
static void what_a_new_member_is_asked_early_brings_no_time_along(void **state)
{
	struct world *w = *state;
	struct machine *m = &w->machines[3];
	struct event stop = {.kind = EVENT_VM_STOP, .vm = WEB};

	create_web(w);
	boot_empty(m, INT64_C(2366841600000));
	replies = 0;
	engine_submit(m->engine, &stop, on_reply, w);
	m->in_group = true;
	tell_view(w);
	run_ms(w, 3000);
	assert_true(acts(w, 3));
	assert_int_equal(replies, 1);
	assert_int_not_equal(last_reply.code, ERR_TIMEOUT); /* so it is in the log */
	assert_in_range(engine_cluster(w->machines[1].engine)->now_ms, WALL_MS + w->now - 3000, WALL_MS + w->now);
	all_equal(w);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
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
