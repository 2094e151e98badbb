/* SPDX-License-Identifier: Apache-2.0 */
#include "support/world.h"

#include "support/forgetful_store.h"

#include <assert.h>
#include <string.h>

enum { QUEUE_MAX = 4096, GUESTS_MAX = 32, STEP_MS = 40, PAGE_BYTES = 4096 };

struct guest {
	struct machine *machine;
	char uuid[UUID_BYTES];
	struct hv_info info;
	uint64_t memory_bytes;
	enum hv_event_kind due; /* what timer will tell */
	struct loop_timer *timer;
	uint64_t copied_ms;
	struct move_figures figures;
};

struct machine {
	struct group group;
	struct forgetful_store store;
	struct hypervisor hv;
	struct fencer fencer;
	struct world *world;
	struct engine *engine;
	bool in_group, cut, dark;
	char fail_standby[REASON_BYTES];
	struct guest guests[GUESTS_MAX];
};

struct world {
	struct loop *loop;
	uint64_t ring;
	uint64_t copy_ms;
	struct machine machines[WORLD_NODES + 1];
	struct {
		uint32_t from;
		uint8_t *bytes;
		size_t size;
	} queue[QUEUE_MAX];
	unsigned head, tail;
	struct loop_timer *deliver_timer, *view_timer;
	struct fence_job *fence_jobs;
};

#define MACHINE(ptr, member) ((struct machine *)(void *)((char *)(ptr)-offsetof(struct machine, member)))

static uint64_t now_us(struct world *world)
{
	return loop_wall_ms(world->loop) * 1000;
}

/* Group. */

static void deliver(void *ctx)
{
	struct world *world = ctx;

	world->deliver_timer = NULL;
	for (; world->head != world->tail; world->head++) {
		unsigned slot = world->head % QUEUE_MAX;
		uint32_t from = world->queue[slot].from;
		for (uint32_t id = 1; id <= WORLD_NODES; id++) {
			struct machine *m = &world->machines[id];
			struct group_callbacks callbacks = engine_group_callbacks(m->engine);
			if (m->in_group && m->cut == world->machines[from].cut)
				callbacks.deliver(
					callbacks.ctx, from, world->queue[slot].bytes, world->queue[slot].size);
		}
		free(world->queue[slot].bytes);
	}
}

static int send_message(struct group *group, const uint8_t *bytes, size_t size, struct err *err)
{
	struct world *world = MACHINE(group, group)->world;
	unsigned slot = world->tail % QUEUE_MAX;

	if (world->tail - world->head == QUEUE_MAX)
		return err_set(err, ERR_BUSY, "queue full");
	world->tail++;
	world->queue[slot].from = group->node;
	world->queue[slot].bytes = malloc(size ? size : 1);
	world->queue[slot].size = size;
	if (size)
		memcpy(world->queue[slot].bytes, bytes, size);
	if (!world->deliver_timer)
		world->deliver_timer = loop_timer_set(world->loop, 0, deliver, world);
	return 0;
}

static void tell_views(void *ctx)
{
	struct world *world = ctx;

	world->view_timer = NULL;
	world->ring += 4;
	for (; world->head != world->tail; world->head++)
		free(world->queue[world->head % QUEUE_MAX].bytes);
	for (uint32_t id = 1; id <= WORLD_NODES; id++) {
		struct machine *m = &world->machines[id];
		struct group_callbacks callbacks = engine_group_callbacks(m->engine);
		struct group_view view = {.ring_seq = world->ring, .expected_votes = WORLD_NODES};
		for (uint32_t other = 1; other <= WORLD_NODES; other++)
			if (world->machines[other].in_group && (m->cut ? other == id : !world->machines[other].cut))
				view.members |= node_bit(other);
		view.quorate = __builtin_popcountll(view.members) > WORLD_NODES / 2;
		if (m->in_group)
			callbacks.view(callbacks.ctx, &view);
	}
}

static void view_soon(struct world *world)
{
	if (!world->view_timer)
		world->view_timer = loop_timer_set(world->loop, 0, tell_views, world);
}

static void join(struct group *group)
{
	MACHINE(group, group)->in_group = true;
	view_soon(MACHINE(group, group)->world);
}

static void leave(struct group *group)
{
	MACHINE(group, group)->in_group = false;
	view_soon(MACHINE(group, group)->world);
}

/* Hypervisor. */

static struct guest *guest_of(struct machine *m, const char *uuid)
{
	for (int i = 0; i < GUESTS_MAX; i++)
		if (!strcmp(m->guests[i].uuid, uuid))
			return &m->guests[i];
	return NULL;
}

static struct guest *guest_new(struct machine *m, const struct vm_def *def)
{
	struct guest *guest = guest_of(m, def->uuid);

	if (!guest)
		guest = guest_of(m, "");
	assert(guest && "more guests than this world has room for");
	loop_timer_cancel(m->world->loop, guest->timer);
	*guest = (struct guest){.machine = m, .memory_bytes = (uint64_t)def->memory_mib << 20};
	strcpy(guest->uuid, def->uuid);
	return guest;
}

static void tell(struct guest *guest, enum hv_event_kind kind, enum gone_cause cause, const char *text)
{
	struct hv_callbacks callbacks = engine_hypervisor_callbacks(guest->machine->engine);
	struct hv_event event = {
		.kind = kind,
		.vm = guest->uuid,
		.epoch = guest->info.epoch,
		.task = guest->info.task,
		.cause = cause,
		.filling = guest->info.filling,
		.percent = (uint32_t)(guest->copied_ms * 100 / guest->machine->world->copy_ms),
		.figures = guest->figures,
	};
	char uuid[UUID_BYTES];

	if (text)
		err_set(&event.err, ERR_UNFIT, "%s", text);
	strcpy(uuid, guest->uuid);
	event.vm = uuid;
	if (kind == HV_EVENT_GONE || kind == HV_EVENT_FAILED)
		*guest = (struct guest){.machine = guest->machine};
	callbacks.event(callbacks.ctx, &event);
}

static void step(void *ctx);

static void later(struct guest *guest, enum hv_event_kind kind, uint64_t delay_ms)
{
	loop_timer_cancel(guest->machine->world->loop, guest->timer);
	guest->due = kind;
	guest->timer = loop_timer_set(guest->machine->world->loop, delay_ms, step, guest);
}

static void copy_step(struct guest *guest)
{
	struct world *world = guest->machine->world;
	struct move_figures *figures = &guest->figures;

	guest->copied_ms += STEP_MS;
	figures->ram_bytes = guest->memory_bytes * guest->copied_ms / world->copy_ms / 2;
	figures->passes = 1 + guest->copied_ms * 2 / world->copy_ms;
	if (guest->copied_ms < world->copy_ms) {
		tell(guest, HV_EVENT_PROGRESS, 0, NULL);
		later(guest, HV_EVENT_PROGRESS, STEP_MS);
		return;
	}
	figures->stopped_us = now_us(world);
	figures->streamed_us = figures->stopped_us + 2000;
	figures->repaired_us = figures->stopped_us + 12000;
	figures->sealed_us = figures->stopped_us + 15000;
	figures->repaired_pages = 7;
	figures->device_bytes = 900 << 10;
	figures->used_bytes = guest->memory_bytes / 2;
	guest->info.state = HV_SEALED;
	tell(guest, HV_EVENT_SEALED, 0, NULL);
}

static void step(void *ctx)
{
	struct guest *guest = ctx;
	struct machine *m = guest->machine;

	guest->timer = NULL;
	switch (guest->due) {
	case HV_EVENT_STARTED:
		guest->info.state = HV_RUNNING;
		break;
	case HV_EVENT_PREPARED:
		if (m->fail_standby[0]) {
			tell(guest, HV_EVENT_FAILED, 0, m->fail_standby);
			return;
		}
		guest->info.state = HV_STANDBY;
		guest->figures.prepared_us = now_us(m->world);
		break;
	case HV_EVENT_PROGRESS:
		copy_step(guest);
		return;
	case HV_EVENT_LOADED:
		guest->info.state = HV_LOADED;
		guest->info.filling = true;
		guest->figures.loaded_us = now_us(m->world);
		break;
	case HV_EVENT_FILLED:
		guest->info.filling = false;
		guest->figures.filled_us = now_us(m->world);
		break;
	case HV_EVENT_GONE:
		tell(guest, HV_EVENT_GONE, GONE_GUEST_SHUTDOWN, "powered off by the guest");
		return;
	case HV_EVENT_STORAGE:
	case HV_EVENT_PROBED:
	case HV_EVENT_SEALED:
	case HV_EVENT_RESUMED:
	case HV_EVENT_FAILED:
	case HV_EVENT_PANICKED:
		assert(false);
	}
	tell(guest, guest->due, 0, NULL);
}

static void hv_inspect(struct hypervisor *hv, const char *vm, struct hv_info *info)
{
	const struct guest *guest = guest_of(MACHINE(hv, hv), vm);

	*info = guest ? guest->info : (struct hv_info){.state = HV_ABSENT};
}

static void hv_each(struct hypervisor *hv, void (*fn)(void *, const char *, const struct hv_info *), void *ctx)
{
	struct machine *m = MACHINE(hv, hv);

	for (int i = 0; i < GUESTS_MAX; i++)
		if (m->guests[i].uuid[0])
			fn(ctx, m->guests[i].uuid, &m->guests[i].info);
}

static int hv_facts(struct hypervisor *hv, struct node_facts *facts, struct err *err)
{
	(void)hv, (void)err;
	facts->memory_mib = 4096;
	facts->vcpus = 4;
	strcpy(facts->accel, "tcg");
	strcpy(facts->qemu_version, "7.2.0");
	facts->postcopy = true;
	facts->bridge_count = 1;
	strcpy(facts->bridges[0].name, "br0");
	return 0;
}

static void hv_start(struct hypervisor *hv, const struct vm_def *def, uint64_t epoch)
{
	struct guest *guest = guest_new(MACHINE(hv, hv), def);

	guest->info = (struct hv_info){.state = HV_STARTING, .epoch = epoch};
	later(guest, HV_EVENT_STARTED, STEP_MS);
}

static void hv_standby(struct hypervisor *hv, const struct vm_def *def, uint64_t task)
{
	struct guest *guest = guest_new(MACHINE(hv, hv), def);

	guest->info = (struct hv_info){.state = HV_PREPARING, .task = task};
	later(guest, HV_EVENT_PREPARED, STEP_MS);
}

static void hv_copy(struct hypervisor *hv, const struct vm_def *def, uint64_t task, uint64_t epoch)
{
	struct guest *guest = guest_of(MACHINE(hv, hv), def->uuid);

	(void)epoch;
	if (!guest || guest->info.state != HV_RUNNING)
		return;
	guest->info.state = HV_COPYING;
	guest->info.task = task;
	guest->copied_ms = 0;
	guest->figures = (struct move_figures){.copy_us = now_us(guest->machine->world)};
	later(guest, HV_EVENT_PROGRESS, STEP_MS);
}

static void hv_load(struct hypervisor *hv, const struct vm_def *def, uint64_t task, const struct hv_saved *saved)
{
	struct guest *guest = guest_of(MACHINE(hv, hv), def->uuid);

	(void)task, (void)saved;
	if (!guest || guest->info.state != HV_STANDBY)
		return;
	guest->info.state = HV_LOADING;
	guest->figures.loading_us = now_us(guest->machine->world);
	later(guest, HV_EVENT_LOADED, STEP_MS);
}

static void hv_run(struct hypervisor *hv, const char *vm, uint64_t task, uint64_t epoch)
{
	struct guest *guest = guest_of(MACHINE(hv, hv), vm);

	if (!guest)
		return;
	guest->info.state = HV_RUNNING;
	guest->info.epoch = epoch;
	guest->info.task = task;
	guest->figures.resumed_us = now_us(guest->machine->world);
	tell(guest, HV_EVENT_RESUMED, 0, NULL);
	if (guest->info.filling)
		later(guest, HV_EVENT_FILLED, STEP_MS);
}

static void hv_shutdown(struct hypervisor *hv, const char *vm)
{
	struct guest *guest = guest_of(MACHINE(hv, hv), vm);

	if (!guest || guest->info.shutdown_asked)
		return;
	guest->info.shutdown_asked = true;
	later(guest, HV_EVENT_GONE, STEP_MS);
}

static void hv_kill(struct hypervisor *hv, const char *vm)
{
	struct guest *guest = guest_of(MACHINE(hv, hv), vm);

	if (!guest)
		return;
	loop_timer_cancel(guest->machine->world->loop, guest->timer);
	guest->timer = NULL;
	tell(guest, HV_EVENT_GONE, GONE_STOPPED, "ended");
}

static void hv_probe(struct hypervisor *hv, const struct vm_def *def)
{
	/* The disks of this world are everywhere. */
	struct hv_callbacks callbacks = engine_hypervisor_callbacks(MACHINE(hv, hv)->engine);

	callbacks.event(callbacks.ctx, &(struct hv_event){.kind = HV_EVENT_PROBED, .vm = def->uuid});
}

static void hv_purge(struct hypervisor *hv, const char *vm, uint64_t keep, uint64_t below)
{
	(void)hv, (void)vm, (void)keep, (void)below;
}

static const struct group_ops group_ops = {.send = send_message, .leave = leave, .join = join, .force = leave};
static const struct hypervisor_ops hv_ops = {
	.inspect = hv_inspect,
	.each = hv_each,
	.facts = hv_facts,
	.start = hv_start,
	.standby = hv_standby,
	.copy = hv_copy,
	.load = hv_load,
	.run = hv_run,
	.shutdown = hv_shutdown,
	.kill = hv_kill,
	.purge = hv_purge,
	.probe = hv_probe,
};

/* Fence devices. */

struct fence_job {
	struct fence_job *next; /* in world.fence_jobs */
	struct loop_timer *timer;
	struct machine *m;
	struct fence_order order;
	bool check;
};

static void job_unlink(struct fence_job *job)
{
	struct fence_job **at = &job->m->world->fence_jobs;

	while (*at != job)
		at = &(*at)->next;
	*at = job->next;
}

static const struct fence_agent_about agent_about = {.about = "a fence agent", .option_count = 2,
	.options = {{.name = "plug", .about = "Which outlet", .required = true},
		{.name = "password", .about = "What to log in with", .secret = true}}};

static void fence_over(void *ctx)
{
	CLEANUP_FREE struct fence_job *job = ctx;
	struct world *world = job->m->world;
	struct fencer_callbacks callbacks = engine_fencer_callbacks(job->m->engine);
	bool stranger = job->order.device.node > WORLD_NODES;
	bool unfit = stranger || !strcmp(job->order.device.agent, "fence_unfit");
	struct machine *target = &world->machines[stranger ? 0 : job->order.device.node];
	bool was_on = !target->dark;
	struct err err;

	job_unlink(job);
	if (unfit)
		err_set(&err, ERR_NOT_FOUND, "agent 'fence_unfit' is not there");
	if (job->check) {
		callbacks.checked(callbacks.ctx, job->order.id, unfit ? &err : NULL, "a fence agent",
			unfit ? NULL : &agent_about);
		return;
	}
	if (!unfit && job->order.action != FENCE_STATUS && was_on == (job->order.action == FENCE_OFF)) {
		target->dark = was_on;
		world_cut(world, job->order.device.node, was_on);
	}
	callbacks.done(callbacks.ctx, job->order.id,
		unfit          ? FENCE_RESULT_FAILED
		: target->dark ? FENCE_RESULT_OFF
			       : FENCE_RESULT_ON,
		was_on, unfit ? err.text : target->dark ? "status read back: off" : "status read back: on");
}

static void fence_begin(struct fencer *fencer, const struct fence_order *order, bool check)
{
	struct fence_job *job = malloc(sizeof(*job));

	struct world *world = MACHINE(fencer, fencer)->world;

	*job = (struct fence_job){
		.next = world->fence_jobs, .m = MACHINE(fencer, fencer), .order = *order, .check = check};
	world->fence_jobs = job;
	job->timer = loop_timer_set(job->m->world->loop, 0, fence_over, job);
}

static void run_fence(struct fencer *fencer, const struct fence_order *order)
{
	fence_begin(fencer, order, false);
}

static void check_fence(struct fencer *fencer, uint64_t id, const struct fence_device *device)
{
	fence_begin(fencer, &(struct fence_order){.id = id, .device = *device}, true);
}

static void cancel_fence(struct fencer *fencer, uint64_t id)
{
	(void)fencer; /* its answer is late then, and the engine takes no late answers */
	(void)id;
}

static const struct fencer_ops fencer_ops = {.run = run_fence, .cancel = cancel_fence, .check = check_fence};

bool world_has_power(const struct world *world, uint32_t node)
{
	return !world->machines[node].dark;
}

struct world *world_new(struct loop *loop)
{
	struct world *world = calloc(1, sizeof(*world));
	struct err err;

	world->loop = loop;
	world->copy_ms = 400;
	for (uint32_t id = 1; id <= WORLD_NODES; id++) {
		struct machine *m = &world->machines[id];
		struct engine_config config = {.incarnation = loop_wall_ms(loop)};
		strcpy(config.cluster_uuid, "00000000-0000-4000-8000-0000000000aa");
		snprintf(config.node_name, sizeof(config.node_name), "n%u", id);
		snprintf(config.boot_id, sizeof(config.boot_id), "00000000-0000-4000-8000-0000000000b%u", id);
		m->world = world;
		m->group = (struct group){.ops = &group_ops, .node = id};
		m->hv.ops = &hv_ops;
		m->fencer.ops = &fencer_ops;
		m->engine = engine_new(&config);
		forgetful_store_init(&m->store, m->engine);
	}
	for (uint32_t id = 1; id <= WORLD_NODES; id++) {
		struct machine *m = &world->machines[id];
		struct engine_ports ports = {loop, &m->group, &m->store.store, &m->hv, .fencer = &m->fencer};
		if (engine_start(m->engine, &ports, &err) < 0)
			assert(false);
	}
	return world;
}

void world_free(struct world *world)
{
	for (uint32_t id = 1; id <= WORLD_NODES; id++) {
		for (int i = 0; i < GUESTS_MAX; i++)
			loop_timer_cancel(world->loop, world->machines[id].guests[i].timer);
		engine_free(world->machines[id].engine);
	}
	for (; world->head != world->tail; world->head++)
		free(world->queue[world->head % QUEUE_MAX].bytes);
	while (world->fence_jobs) {
		struct fence_job *job = world->fence_jobs;
		world->fence_jobs = job->next;
		loop_timer_cancel(world->loop, job->timer);
		free(job);
	}
	loop_timer_cancel(world->loop, world->deliver_timer);
	loop_timer_cancel(world->loop, world->view_timer);
	free(world);
}

struct engine *world_engine(struct world *world, uint32_t node)
{
	return world->machines[node].engine;
}

void world_cut(struct world *world, uint32_t node, bool away)
{
	world->machines[node].cut = away;
	view_soon(world);
}

void world_fail_standby(struct world *world, uint32_t node, const char *text)
{
	snprintf(world->machines[node].fail_standby, REASON_BYTES, "%s", text ? text : "");
}

void world_set_copy_ms(struct world *world, uint64_t ms)
{
	world->copy_ms = ms;
}
