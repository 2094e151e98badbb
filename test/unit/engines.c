/* SPDX-License-Identifier: Apache-2.0 */
#include "engines.h"

struct loop_timer {
	uint64_t due;
	loop_timer_fn *fn;
	void *ctx;
	struct loop_timer *next;
};

static uint64_t now_ms(struct loop *loop)
{
	return ((struct machine *)loop)->all->now;
}

static uint64_t wall_ms(struct loop *loop)
{
	return WALL_MS + now_ms(loop) + (uint64_t)((struct machine *)loop)->skew_ms;
}

static struct loop_timer *timer_set(struct loop *loop, uint64_t delay, loop_timer_fn *fn, void *ctx)
{
	struct machine *m = (struct machine *)loop;
	struct loop_timer *timer = calloc(1, sizeof(*timer));

	*timer = (struct loop_timer){.due = m->all->now + delay, .fn = fn, .ctx = ctx, .next = m->timers};
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
	struct engines *w = FROM(group, group)->all;
	int slot = w->tail++ % QUEUE_MAX;

	(void)err;
	w->queue[slot].from = group->node;
	w->queue[slot].bytes = malloc(size);
	memcpy(w->queue[slot].bytes, bytes, size);
	w->queue[slot].size = size;
	return 0;
}

void engines_tell_view(struct engines *w)
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

void machine_tell(struct machine *m, enum hv_event_kind kind, uint64_t epoch, uint64_t task)
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
	machine_tell(m, HV_EVENT_STARTED, epoch, 0);
}

static void hv_standby(struct hypervisor *hv, const struct vm_def *def, uint64_t task)
{
	struct machine *m = FROM(hv, hv);

	(void)def;
	m->web = (struct hv_info){.state = HV_STANDBY, .task = task};
	machine_tell(m, HV_EVENT_PREPARED, 0, task);
}

static void hv_copy(struct hypervisor *hv, const struct vm_def *def, uint64_t task, uint64_t epoch)
{
	struct machine *m = FROM(hv, hv);

	(void)def;
	m->web.state = HV_SEALED;
	m->web.task = task;
	machine_tell(m, HV_EVENT_SEALED, epoch, task);
}

static void hv_load(struct hypervisor *hv, const struct vm_def *def, uint64_t task, const struct hv_saved *saved)
{
	struct machine *m = FROM(hv, hv);

	(void)def, (void)saved;
	m->web.state = HV_LOADED;
	m->web.filling = true;
	machine_tell(m, HV_EVENT_LOADED, 0, task);
}

static void hv_run(struct hypervisor *hv, const char *vm, uint64_t task, uint64_t epoch)
{
	struct machine *m = FROM(hv, hv);

	(void)vm;
	m->runs++;
	m->web = (struct hv_info){.state = HV_RUNNING, .epoch = epoch, .filling = true};
	machine_tell(m, HV_EVENT_RESUMED, epoch, task);
}

static void hv_kill(struct hypervisor *hv, const char *vm)
{
	struct machine *m = FROM(hv, hv);
	uint64_t epoch = m->web.epoch;

	(void)vm;
	m->kills++;
	m->web = (struct hv_info){.state = HV_ABSENT};
	machine_tell(m, HV_EVENT_GONE, epoch, 0);
}

static void hv_shutdown(struct hypervisor *hv, const char *vm)
{
	hv_kill(hv, vm);
}

static void hv_purge(struct hypervisor *hv, const char *vm, uint64_t keep, uint64_t below)
{
	(void)hv, (void)vm, (void)keep, (void)below;
}

static const struct loop_ops loop_ops = {
	.now_ms = now_ms, .wall_ms = wall_ms, .timer_set = timer_set, .timer_cancel = timer_cancel};
static const struct group_ops group_ops = {.send = send_message, .leave = leave, .join = join, .force = leave};
static const struct hypervisor_ops hv_ops = {.inspect = hv_inspect,
	.each = hv_each,
	.facts = hv_facts,
	.start = hv_start,
	.standby = hv_standby,
	.copy = hv_copy,
	.load = hv_load,
	.run = hv_run,
	.shutdown = hv_shutdown,
	.kill = hv_kill,
	.purge = hv_purge};

void engines_run_ms(struct engines *w, uint64_t ms)
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

void engines_cut(struct engines *w, uint32_t id, bool away)
{
	struct group_view lost = {.quorate = false, .members = node_bit(id), .expected_votes = NODES};
	struct group_callbacks callbacks = engine_group_callbacks(w->machines[id].engine);

	w->machines[id].in_group = !away;
	engines_tell_view(w);
	if (away)
		callbacks.view(callbacks.ctx, &lost);
}

static void boot(struct machine *m)
{
	struct engine_config config = {.incarnation = m->group.node};
	struct engine_ports ports = {
		.loop = &m->loop, .group = &m->group, .store = &m->store.store, .hypervisor = &m->hv};
	struct err err;

	strcpy(config.cluster_uuid, UUID);
	snprintf(config.node_name, sizeof(config.node_name), "n%u", m->group.node);
	snprintf(config.boot_id, sizeof(config.boot_id), "boot-%u", m->group.node);
	m->engine = engine_new(&config);
	forgetful_store_init(&m->store, m->engine);
	assert_int_equal(engine_start(m->engine, &ports, &err), 0);
}

void engines_boot_empty(struct machine *m, int64_t skew_ms)
{
	m->in_group = false;
	engine_free(m->engine);
	while (m->timers)
		timer_cancel(&m->loop, m->timers);
	m->skew_ms = skew_ms;
	boot(m);
}

int engines_setup(void **state)
{
	struct engines *w = calloc(1, sizeof(*w));

	for (uint32_t id = 1; id <= NODES; id++) {
		struct machine *m = &w->machines[id];
		m->all = w;
		m->loop.ops = &loop_ops;
		m->group = (struct group){.ops = &group_ops, .node = id};
		m->hv.ops = &hv_ops;
		boot(m);
	}
	engines_tell_view(w);
	engines_run_ms(w, 3000);
	*state = w;
	return 0;
}

int engines_teardown(void **state)
{
	struct engines *w = *state;

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
