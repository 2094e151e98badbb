/* SPDX-License-Identifier: Apache-2.0
 * Duties against what runs: for each VM, look at the machine, and do the one next thing that brings it nearer to what
 * the core says. Level-triggered: nothing here depends on having seen an event, so a restart of the daemon, a lost
 * report and a repeated one all come to the same end. A report is sent until the log shows it. */
#include "engine/internal.h"

#include <assert.h>
#include <string.h>

struct look {
	struct engine *engine;
	uint32_t vm;
	const struct vm *record;
	struct local *local;
	struct duty duty;
	struct hv_info info;
};

static struct local *local_of(struct engine *engine, uint32_t vm)
{
	struct local *local = &engine->locals[vm];
	const char *uuid = engine->cluster->vms[vm].def.uuid;

	if (uuid[0] && strcmp(local->uuid, uuid) != 0) {
		bool dirty = local->dirty;
		memset(local, 0, sizeof(*local));
		local->dirty = dirty;
		memcpy(local->uuid, uuid, sizeof(local->uuid));
	}
	return local;
}

void reconcile_dirty(struct engine *engine, uint32_t vm)
{
	engine->locals[vm].dirty = true;
}

static void report(const struct look *look, struct event *event)
{
	struct engine *engine = look->engine;
	struct local *local = look->local;
	uint64_t now = loop_now_ms(engine->ports.loop);
	bool same = local->report_kind == event->kind && local->report_epoch == event->epoch &&
		    local->report_task == event->task && local->report_term == engine->term;

	if (same && now < local->report_ms + REPORT_AGAIN_MS)
		return;
	local->report_kind = event->kind;
	local->report_epoch = event->epoch;
	local->report_task = event->task;
	local->report_term = engine->term;
	local->report_ms = now;
	memcpy(event->vm, look->record->def.uuid, sizeof(event->vm));
	event->figures = local->figures;
	sync_send_event(engine, event);
}

static void report_simple(const struct look *look, enum event_kind kind)
{
	struct event event = {.kind = kind, .epoch = look->duty.epoch, .task = look->duty.task};

	event.filling = look->info.filling; /* the machine knows it also after a restart of the daemon */
	report(look, &event);
}

/* The copy of this epoch is not there any more, or never came to be. */
static void report_gone(const struct look *look, enum gone_cause otherwise)
{
	const struct local *local = look->local;
	struct event event = {.kind = EVENT_GONE, .epoch = look->duty.epoch, .cause = otherwise};
	const char *text = "no such process was found";

	if (local->gone_epoch == look->duty.epoch) {
		event.cause = local->gone_cause;
		text = local->gone_text;
	} else if (local->failed_epoch == look->duty.epoch && !local->failed_task) {
		text = local->failed_text;
	}
	if (local->failed_epoch == look->duty.epoch && !local->failed_task)
		event.code = local->failed_code;
	snprintf(event.text, sizeof(event.text), "%s", text);
	report(look, &event);
}

static void report_failed(const struct look *look, enum err_code code, const char *text)
{
	struct event event = {
		.kind = EVENT_STEP_FAILED, .epoch = look->duty.epoch, .task = look->duty.task, .code = code};

	snprintf(event.text, sizeof(event.text), "%s", text);
	report(look, &event);
}

/* The step of this task was tried here and did not work: it is not tried again under the same task. */
static bool has_failed(const struct look *look)
{
	return look->duty.task && look->local->failed_task == look->duty.task &&
	       look->local->failed_phase == look->record->phase;
}

static void end_copy(const struct look *look)
{
	if (look->info.state != HV_ABSENT && look->info.state != HV_STOPPING)
		look->engine->ports.hypervisor->ops->kill(look->engine->ports.hypervisor, look->record->def.uuid);
}

static void do_start(const struct look *look)
{
	struct hypervisor *hv = look->engine->ports.hypervisor;

	if (look->info.state == HV_RUNNING && look->info.epoch == look->duty.epoch)
		report_simple(look, EVENT_STARTED);
	else if (look->info.state == HV_STARTING && look->info.epoch == look->duty.epoch)
		return;
	else if (look->info.state != HV_ABSENT)
		end_copy(look);
	else if (look->local->failed_epoch == look->duty.epoch || look->local->gone_epoch == look->duty.epoch)
		report_gone(look, GONE_DIED);
	else
		hv->ops->start(hv, &look->record->def, look->duty.epoch);
}

/* What the log says of the disks of a guest that runs here, against what the machine says. */
static void report_storage(const struct look *look)
{
	bool lost = look->info.storage_lost;
	struct event event = {
		.kind = lost ? EVENT_STORAGE_LOST : EVENT_STORAGE_OK, .epoch = look->duty.epoch, .code = ERR_IO};

	if (!lost)
		event.code = ERR_NONE;
	else
		snprintf(event.text, sizeof(event.text), "%s", look->info.storage_text);
	report(look, &event);
}

/* The disks of a VM that may be started here, if this node reaches them. */
static void do_probe(const struct look *look)
{
	struct hypervisor *hv = look->engine->ports.hypervisor;
	struct local *local = look->local;
	uint64_t epoch = look->duty.probe_epoch;
	struct event event = {.kind = EVENT_STORAGE_OK, .epoch = epoch};

	if (local->probe_epoch != epoch) {
		local->probe_epoch = epoch;
		local->probed = false;
		hv->ops->probe(hv, &look->record->def);
	}
	if (!local->probed)
		return;
	if (local->probe_code != ERR_NONE) {
		event.kind = EVENT_STORAGE_LOST;
		event.code = local->probe_code;
		snprintf(event.text, sizeof(event.text), "%s", local->probe_text);
	}
	report(look, &event);
}

/* The policy may be edited while the guest runs, and a daemon that was restarted knows nothing of it. */
static void set_heartbeat(const struct look *look)
{
	struct hypervisor *hv = look->engine->ports.hypervisor;

	if (hv->ops->heartbeat && look->info.state == HV_RUNNING && look->info.epoch == look->duty.epoch &&
		look->info.heartbeat_s != look->duty.heartbeat_s)
		hv->ops->heartbeat(hv, look->record->def.uuid, look->duty.heartbeat_s);
}

static void do_run(const struct look *look)
{
	struct hypervisor *hv = look->engine->ports.hypervisor;
	const struct duty *duty = &look->duty;
	/* RESUME lets run what was loaded for the task under way (a restore loads under another task than the one that
	 * wrote the state); RETURN what was being copied. */
	uint64_t task = duty->task ? duty->task : duty->state_task;
	bool resumed = look->local->resumed_epoch == duty->epoch && look->local->resumed_task == task;

	set_heartbeat(look);
	switch (look->info.state) {
	case HV_ABSENT:
		report_gone(look, GONE_DIED);
		return;
	case HV_RUNNING:
		if (look->info.epoch != duty->epoch)
			end_copy(look);
		else if (duty->report_resumed && !resumed)
			hv->ops->run(hv, look->record->def.uuid, task, duty->epoch);
		else if (duty->report_resumed)
			report_simple(look, EVENT_RESUMED);
		else if (look->info.panicked && duty->end_panicked)
			end_copy(look);
		else if (duty->filling && !look->info.filling)
			report_simple(look, EVENT_FILLED);
		else if (look->record->state == VM_ONLINE && duty->storage_lost != look->info.storage_lost)
			report_storage(look);
		return;
	case HV_COPYING:
	case HV_SEALED:
		if (look->info.epoch != duty->epoch)
			end_copy(look);
		else
			hv->ops->run(hv, look->record->def.uuid, task, duty->epoch);
		return;
	case HV_LOADED:
		if (look->info.task != task)
			end_copy(look);
		else
			hv->ops->run(hv, look->record->def.uuid, task, duty->epoch);
		return;
	case HV_PREPARING:
	case HV_STANDBY:
	case HV_LOADING:
		end_copy(look);
		return;
	case HV_STARTING:
	case HV_STOPPING:
		return;
	}
}

/* Sealed: without its copy the source is no place to go back to. A VM that is blocked is held, too: not a word of it. */
static void do_hold(const struct look *look)
{
	if (look->record->phase != MOVE_LOAD && look->record->phase != MOVE_BACK)
		return;
	if (look->info.state == HV_ABSENT)
		report_gone(look, GONE_DIED);
	else if (look->duty.report_held && look->info.state != HV_STOPPING && look->info.epoch == look->duty.epoch)
		report_simple(look, EVENT_HELD);
}

static void do_shutdown(const struct look *look)
{
	struct hypervisor *hv = look->engine->ports.hypervisor;

	set_heartbeat(look); /* to none: its agent ends before it does */
	if (look->info.state == HV_ABSENT)
		report_gone(look, GONE_GUEST_SHUTDOWN);
	else if (look->info.state == HV_RUNNING && look->info.panicked)
		end_copy(look); /* it hears no power button any more */
	else if (look->info.state == HV_RUNNING && look->info.epoch == look->duty.epoch && !look->info.shutdown_asked)
		hv->ops->shutdown(hv, look->record->def.uuid);
}

static void do_stop(const struct look *look)
{
	struct hypervisor *hv = look->engine->ports.hypervisor;

	if (look->info.state == HV_ABSENT)
		report_gone(look, GONE_STOPPED);
	else if (look->duty.at_once && hv->ops->destroy)
		hv->ops->destroy(hv, look->record->def.uuid);
	else
		end_copy(look);
}

static void do_standby(const struct look *look)
{
	struct hypervisor *hv = look->engine->ports.hypervisor;

	if (look->info.state == HV_STANDBY && look->info.task == look->duty.task) {
		if (look->record->phase == MOVE_PREPARE)
			report_simple(look, EVENT_PREPARED);
		return;
	}
	if (look->info.state == HV_PREPARING && look->info.task == look->duty.task)
		return;
	if (look->info.state != HV_ABSENT)
		end_copy(look);
	else if (look->duty.task && look->local->failed_task == look->duty.task)
		report_failed(look, look->local->failed_code, look->local->failed_text);
	else
		hv->ops->standby(hv, &look->record->def, look->duty.task);
}

static void do_copy(const struct look *look)
{
	struct hypervisor *hv = look->engine->ports.hypervisor;

	if (look->info.state == HV_ABSENT) {
		report_gone(look, GONE_DIED);
	} else if (has_failed(look)) {
		report_failed(look, look->local->failed_code, look->local->failed_text);
	} else if (look->info.failed_code && look->info.task == look->duty.task) {
		report_failed(look, look->info.failed_code, look->info.failed_text);
	} else if (look->info.state == HV_SEALED && look->info.task == look->duty.task) {
		report_simple(look, EVENT_SEALED);
	} else if (look->info.state == HV_RUNNING && look->info.epoch == look->duty.epoch) {
		if (!look->info.filling)
			hv->ops->copy(hv, &look->record->def, look->duty.task, look->duty.epoch);
	} else if (look->info.state != HV_STOPPING && look->info.state != HV_STARTING &&
		   !(look->info.state == HV_COPYING && look->info.task == look->duty.task)) {
		report_failed(look, ERR_UNFIT, "the copy on the source is not in a state that can be saved");
	}
}

static void do_load(const struct look *look)
{
	struct hypervisor *hv = look->engine->ports.hypervisor;
	struct hv_saved saved = {.task = look->duty.state_task,
		.epoch = look->duty.state_epoch,
		.verify_all = look->record->state == VM_RESTORING};

	if (look->info.state == HV_LOADED && look->info.task == look->duty.task)
		report_simple(look, EVENT_LOADED);
	else if (has_failed(look))
		report_failed(look, look->local->failed_code, look->local->failed_text);
	else if (look->info.state == HV_STANDBY && look->info.task == look->duty.task)
		hv->ops->load(hv, &look->record->def, look->duty.task, &saved);
	else if (look->info.state == HV_LOADING && look->info.task == look->duty.task)
		return;
	else if (look->info.state == HV_ABSENT && look->local->failed_task == look->duty.task)
		report_failed(look, look->local->failed_code, look->local->failed_text);
	else if (look->info.state == HV_ABSENT)
		report_failed(look, ERR_UNAVAILABLE, "the QEMU that stood by is gone");
	else
		end_copy(look);
}

static void look_at(struct engine *engine, uint32_t vm)
{
	struct look look = {.engine = engine, .vm = vm, .record = &engine->cluster->vms[vm]};

	if (!look.record->def.uuid[0])
		return;
	look.local = local_of(engine, vm);
	look.duty = core_duty(engine->cluster, vm, engine->ports.group->node);
	engine->ports.hypervisor->ops->inspect(engine->ports.hypervisor, look.record->def.uuid, &look.info);
	switch (look.duty.kind) {
	case DUTY_NONE:
		end_copy(&look);
		if (look.duty.probe)
			do_probe(&look);
		else
			look.local->probe_epoch = 0;
		return;
	case DUTY_HOLD:
		do_hold(&look);
		return;
	case DUTY_START:
		do_start(&look);
		return;
	case DUTY_RUN:
		do_run(&look);
		return;
	case DUTY_SHUTDOWN:
		do_shutdown(&look);
		return;
	case DUTY_STOP:
		do_stop(&look);
		return;
	case DUTY_STANDBY:
		do_standby(&look);
		return;
	case DUTY_COPY:
		do_copy(&look);
		return;
	case DUTY_LOAD:
		do_load(&look);
		return;
	}
}

void reconcile_run(struct engine *engine)
{
	if (!engine_acts(engine))
		return;
	for (uint32_t i = 0; i < engine->cluster->vm_count; i++) {
		if (!engine->locals[i].dirty)
			continue;
		engine->locals[i].dirty = false;
		look_at(engine, i);
		sweep_vm(engine, i);
	}
	sweep_deleted(engine);
}

/* The node's own facts, until the log shows them. */
static void report_facts(struct engine *engine)
{
	const struct node *node = cluster_node(engine->cluster, engine->ports.group->node);
	uint64_t now = loop_now_ms(engine->ports.loop);
	struct event *event;
	struct err err;

	if (engine->sync != SYNC_DONE || (engine->facts_sent_ms && now < engine->facts_sent_ms + REPORT_AGAIN_MS) ||
		copies_of_dropped(engine))
		return;
	engine->facts_sent_ms = now;
	struct node_facts facts = {.protocol = MESSAGE_PROTOCOL};
	if (engine->ports.hypervisor->ops->facts(engine->ports.hypervisor, &facts, &err) < 0) {
		engine_trace(engine, "facts: %s", err.text);
		return;
	}
	memcpy(facts.name, engine->config.node_name, sizeof(facts.name));
	memcpy(facts.boot_id, engine->config.boot_id, sizeof(facts.boot_id));
	selffence_facts(engine, &facts);
	if (node->state == NODE_ONLINE && schema_equal(&node_facts_schema, &facts, &node->facts))
		return;
	event = calloc(1, sizeof(*event));
	assert(event);
	event->kind = EVENT_NODE_REPORT;
	event->facts = facts;
	sync_send_event(engine, event);
	free(event);
}

static void on_tick(void *ctx)
{
	struct engine *engine = ctx;
	struct event event = {.kind = EVENT_TICK};

	engine->tick_timer = NULL;
	if (core_deadline_ms(engine->cluster) > engine_cluster_ms(engine))
		reconcile_tick(engine); /* it was drawn ahead when the timer was set */
	else if (engine->sync == SYNC_DONE && engine_lowest(engine) == engine->ports.group->node)
		sync_send_event(engine, &event);
}

/* The lowest member tells the time when something is due (design §3). A tick that gets lost is sent by the next look. */
void reconcile_tick(struct engine *engine)
{
	uint64_t due = core_deadline_ms(engine->cluster);
	uint64_t now = engine_cluster_ms(engine);

	loop_timer_cancel(engine->ports.loop, engine->tick_timer);
	engine->tick_timer = NULL;
	if (due && engine->sync == SYNC_DONE && engine_lowest(engine) == engine->ports.group->node)
		engine->tick_timer = loop_timer_set(engine->ports.loop, due > now ? due - now : 0, on_tick, engine);
}

static bool has_duty(struct duty duty)
{
	return duty.kind != DUTY_NONE || duty.probe;
}

bool reconcile_is_stuck(struct engine *engine)
{
	uint32_t self = engine->ports.group->node;
	struct hv_info info;

	for (uint32_t i = 0; engine->stuck && i < engine->cluster->vm_count; i++) {
		const struct vm *vm = &engine->cluster->vms[i];
		if (!vm->def.uuid[0] || vm->owner != self || !vm->storage_end_ms)
			continue;
		engine->ports.hypervisor->ops->inspect(engine->ports.hypervisor, vm->def.uuid, &info);
		if (info.state != HV_ABSENT)
			return true;
	}
	engine->stuck = false;
	return false;
}

static void look_again(void *ctx)
{
	struct engine *engine = ctx;

	engine->look_timer = NULL;
	sync_look(engine);
	if (engine->sync == SYNC_DONE) {
		report_facts(engine);
		service_send_pending(engine); /* what met a full queue */
		log_ack(engine);
		if (!engine->tick_timer)
			reconcile_tick(engine);
	}
	if (engine_acts(engine)) {
		fence_look(engine);
		copies_end_unknown(engine);
		if (core_must_leave(engine->cluster, engine->ports.group->node)) {
			/* Where the others had no quorum without it, it is back as if it had not been away; its QEMU may be
			 * dead since, which is to be told. */
			engine->stuck = true;
			if (reconcile_is_stuck(engine))
				sync_leave(engine, "a QEMU here does not die, its storage hangs: this node is to be switched off");
		}
		for (uint32_t i = 0; i < engine->cluster->vm_count; i++)
			if (has_duty(core_duty(engine->cluster, i, engine->ports.group->node)))
				engine->locals[i].dirty = true;
		reconcile_run(engine);
	}
	reconcile_look_again(engine);
}

void reconcile_look_again(struct engine *engine)
{
	engine->look_timer = loop_timer_set(engine->ports.loop, LOOK_MS, look_again, engine);
}

void reconcile_look_soon(struct engine *engine)
{
	loop_timer_cancel(engine->ports.loop, engine->look_timer);
	engine->look_timer = loop_timer_set(engine->ports.loop, 0, look_again, engine);
}

void reconcile_fini(struct engine *engine)
{
	loop_timer_cancel(engine->ports.loop, engine->tick_timer);
	loop_timer_cancel(engine->ports.loop, engine->look_timer);
}

static void keep_failure(struct engine *engine, uint32_t vm, struct local *local, const struct hv_event *event)
{
	local->failed_task = event->task;
	local->failed_epoch = event->task ? 0 : event->epoch;
	local->failed_phase = engine->cluster->vms[vm].phase;
	local->failed_code = event->err.code;
	snprintf(local->failed_text, sizeof(local->failed_text), "%.200s", event->err.text);
}

void reconcile_on_hypervisor(void *ctx, const struct hv_event *event)
{
	struct engine *engine = ctx;
	const struct vm *record = engine_vm(engine, event->vm);

	if (event->kind == HV_EVENT_PROGRESS) {
		service_gossip(engine, event);
		return;
	}
	engine_trace(engine, "hypervisor: %s event %d task %llu epoch %llu %s", event->vm, (int)event->kind,
		(unsigned long long)event->task, (unsigned long long)event->epoch,
		event->kind == HV_EVENT_FAILED || event->kind == HV_EVENT_GONE ? event->err.text : "");
	if (!record)
		return;
	uint32_t vm = (uint32_t)(record - engine->cluster->vms);
	struct local *local = local_of(engine, vm);
	local->figures = event->figures;
	switch (event->kind) {
	case HV_EVENT_STARTED:
	case HV_EVENT_PREPARED:
	case HV_EVENT_SEALED:
	case HV_EVENT_LOADED:
	case HV_EVENT_FILLED:
	case HV_EVENT_PANICKED:
	case HV_EVENT_PROGRESS:
	case HV_EVENT_STORAGE:
		break;
	case HV_EVENT_PROBED:
		local->probed = true;
		local->probe_code = event->err.code;
		snprintf(local->probe_text, sizeof(local->probe_text), "%.200s", event->err.text);
		break;
	case HV_EVENT_RESUMED:
		local->resumed_epoch = event->epoch;
		local->resumed_task = event->task;
		break;
	case HV_EVENT_FAILED:
		keep_failure(engine, vm, local, event);
		break;
	case HV_EVENT_GONE:
		local->gone_epoch = event->epoch;
		local->gone_cause = event->cause == GONE_DIED && engine->selffence.killing ? GONE_SELF_FENCED : event->cause;
		snprintf(local->gone_text, sizeof(local->gone_text), "%.200s",
			event->err.text[0] ? event->err.text : gone_cause_name((int)event->cause));
		break;
	}
	reconcile_dirty(engine, vm);
	reconcile_run(engine);
}
