/* SPDX-License-Identifier: Apache-2.0
 * I8: every change has a reason, in the VM and in the history, which is the same everywhere
 * and as long as the cluster is old. And a task that says "done" has done it, in the world. */
#include "sim/check_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

void checks_vm_changed(struct sim *sim, struct sim_node *node, uint32_t number)
{
	const struct cluster *cluster = engine_cluster(node->engine);

	if (number >= cluster->vm_count) {
		sim_violation(sim, "n%u says that VM number %u changed, of %u", node->id, number, cluster->vm_count);
		return;
	}
	const struct vm *vm = &cluster->vms[number];
	if (!vm->def.uuid[0] || number >= sim->config.vms_max)
		return;
	if (sim->checks->vm_count > CHECK_VMS_AT_A_TIME && !sim->checks->two_histories)
		check_known(sim, node, cluster, check_vm(sim, vm->def.uuid));
	bool changed = node->seen_states[number] != (uint8_t)vm->state;
	node->seen_states[number] = (uint8_t)vm->state;
	if (changed && !vm->reason[0])
		sim_violation(sim, "I8: n%u: %s is %s without a reason", node->id, vm->def.name, vm_state_name((int)vm->state));
	if (vm->state == VM_ONLINE && !vm->owner)
		sim_violation(sim, "n%u: %s is online and nobody owns it", node->id, vm->def.name);
}

static void line_add(struct checks *checks, const struct engine_history *line)
{
	if (checks->line_count == checks->line_capacity) {
		checks->line_capacity = checks->line_capacity ? 2 * checks->line_capacity : 256;
		checks->lines = realloc(checks->lines, checks->line_capacity * sizeof(*checks->lines));
		assert(checks->lines);
	}
	checks->lines[checks->line_count++] =
		(struct check_line){.index = line->index, .hash = hash64(line->text, strlen(line->text), 1)};
}

struct trail_check {
	const struct checks *checks;
	uint32_t left; /* lines that are still to come */
	uint64_t wrong; /* index; 0: none */
};

static bool on_trail(void *ctx, const struct engine_history *line)
{
	struct trail_check *check = ctx;
	const struct check_line *said = check->left ? &check->checks->lines[check->left - 1] : NULL;

	if (!said || said->index != line->index || said->hash != hash64(line->text, strlen(line->text), 1)) {
		check->wrong = line->index;
		return false;
	}
	check->left--;
	return true;
}

struct trail_fold {
	uint64_t hash;
	bool told; /* that a history was dropped */
};

static bool on_fold(void *ctx, const struct engine_history *line)
{
	struct trail_fold *fold = ctx;

	fold->hash = hash64(line->text, strlen(line->text), fold->hash ^ line->index);
	fold->told |= strstr(line->text, "went on by itself") != NULL;
	return true;
}

/* There were two histories. There is one now, the same on every node; and where both had gone on, it says so. */
static void check_joined_trail(struct sim *sim, struct sim_node *node)
{
	struct trail_fold first = {0}, own = {0};
	struct err err;

	if (engine_history_back(sim->nodes[1].engine, UINT64_MAX, on_fold, &first, &err) < 0 ||
		engine_history_back(node->engine, UINT64_MAX, on_fold, &own, &err) < 0)
		sim_violation(sim, "n%u's history cannot be read: %s", node->id, err.text);
	else if (own.hash != first.hash)
		sim_violation(sim, "I8: n%u's history is not that of n1, after they met", node->id);
	else if (sim->checks->forked && !own.told)
		sim_violation(sim, "I8: two nodes went on by themselves, and n%u's history does not say so", node->id);
}

void checks_wiped(struct sim *sim)
{
	sim->checks->forked = false; /* perhaps the one that was dropped; an administrator has seen to it */
}

void check_trail(struct sim *sim, struct sim_node *node)
{
	struct trail_check check = {.checks = sim->checks, .left = sim->checks->line_count};
	struct err err;

	if (sim->checks->two_histories) {
		check_joined_trail(sim, node);
		return;
	}
	if (engine_history_back(node->engine, UINT64_MAX, on_trail, &check, &err) < 0)
		sim_violation(sim, "n%u's history cannot be read: %s", node->id, err.text);
	else if (check.wrong)
		sim_violation(sim, "I8: n%u's history says of %" PRIu64 " what nobody said then", node->id, check.wrong);
	else if (check.left)
		sim_violation(sim, "I8: n%u's history lacks what was said of %" PRIu64, node->id,
			sim->checks->lines[check.left - 1].index);
}

void checks_history(struct sim *sim, struct sim_node *node, const struct engine_history *line)
{
	if (!line->text[0])
		sim_violation(sim, "I8: n%u: a line of history (%s, index %" PRIu64 ") says nothing", node->id,
			event_kind_name((int)line->kind), line->index);
	uint64_t teller = (uint64_t)node->id << 32 | node->incarnations;
	if (line->index < sim->checks->history_index ||
		(line->index == sim->checks->history_index && sim->checks->history_teller != teller))
		return;
	/* The event alone, also where more are committed at once: the next one may say that the source's copy is gone, which
	 * this one could not know. */
	if (line->kind == EVENT_HELD && line->index > sim->checks->history_index)
		check_saved(sim, engine_cluster(node->engine));
	line_add(sim->checks, line);
	sim->checks->history_index = line->index;
	sim->checks->history_teller = teller;
	sim_trace(sim, "%" PRIu64 ": %s", line->index, line->text);
}

/* A copy of the VM that runs, or ran, on the target out of that state. */
static bool was_resumed(const struct sim *sim, const struct task *task, bool any_state)
{
	for (const struct world_copy *copy = world_copies_of(sim->world, task->vm_uuid); copy; copy = copy->next_of_guest)
		if (copy->node == task->target && copy->state_task &&
			(any_state || copy->state_task == task->id))
			return true;
	return false;
}

static bool has_run_since(const struct sim *sim, const struct task *task, uint64_t since_us)
{
	for (const struct world_copy *copy = world_copies_of(sim->world, task->vm_uuid); copy; copy = copy->next_of_guest)
		if (copy->began_us >= since_us)
			return true;
	return false;
}

static void check_done(struct sim *sim, const struct sim_node *node, const struct task *task, uint64_t since_us)
{
	struct check_vm *vm = check_vm(sim, task->vm_uuid);
	const struct world_copy *copy = world_executing(sim->world, task->vm_uuid);

	switch (task->kind) {
	case TASK_MOVE:
		if (!task->dry_run && !was_resumed(sim, task, false))
			sim_violation(sim, "n%u says that %s was moved to n%u (task %" PRIu64
				"), but it was never resumed there", node->id, task->vm, task->target, task->id);
		break;
	case TASK_RESTORE:
		if (!was_resumed(sim, task, true))
			sim_violation(sim, "n%u says that %s was restored on n%u (task %" PRIu64
				"), but it was never resumed there", node->id, task->vm, task->target, task->id);
		vm->must_run = copy && vm->off_asked == vm->off_answered && !vm->off_since;
		break;
	case TASK_START:
		if (!has_run_since(sim, task, since_us))
			sim_violation(sim, "n%u says that %s was started (task %" PRIu64 "), but it never ran", node->id,
				task->vm, task->id);
		vm->must_run = copy && vm->off_asked == vm->off_answered && !vm->off_since;
		break;
	case TASK_SAVE:
		if (vm->complete_task < task->id)
			sim_violation(sim, "n%u says that %s was saved (task %" PRIu64 "), but its state was never sealed",
				node->id, task->vm, task->id);
		/* fall through */
	case TASK_SHUTDOWN:
	case TASK_STOP:
		if (copy && !vm->falsely_dead) /* else a device had lied about its node, and what comes of that is not judged */
			sim_violation(sim, "n%u says that %s does not run any more (task %" PRIu64
				"), but it executes on n%u", node->id, task->vm, task->id, copy->node);
		break;
	}
}

/* One event may begin tasks for several VMs. */
static const struct task *task_of(const struct cluster *cluster, uint64_t id, const char *vm)
{
	for (uint32_t i = 0; i < cluster->task_count; i++)
		if (cluster->tasks[i].id == id && !strcmp(cluster->tasks[i].vm_uuid, vm))
			return &cluster->tasks[i];
	return NULL;
}

void checks_tasks(struct sim *sim, const struct sim_node *node, const struct cluster *cluster)
{
	/* A node that is behind may stop where the others, which took several events at a time, did not. */
	if (cluster->index < sim->checks->tasks_index && !sim->checks->two_histories)
		return;
	sim->checks->tasks_index = cluster->index;
	for (uint32_t i = 0; i < cluster->vm_count && i < sim->config.vms_max; i++) {
		uint64_t id = sim->checks->tasks[i];
		if (id == cluster->vms[i].task)
			continue;
		uint64_t since_us = sim->checks->tasks_us[i];
		sim->checks->tasks[i] = cluster->vms[i].task;
		sim->checks->tasks_us[i] = timeline_now_us(sim->timeline);
		const struct task *task = id ? task_of(cluster, id, cluster->vms[i].def.uuid) : NULL;
		if (!task)
			continue;
		if (task->state == TASK_RUNNING)
			sim_violation(sim, "n%u: %s has no task any more, but task %" PRIu64 " (%s) says that it runs",
				node->id, task->vm, id, task_kind_name((int)task->kind));
		else if (task->state == TASK_DONE)
			check_done(sim, node, task, since_us);
		else if (task->kind == TASK_START && task->state == TASK_FAILED)
			check_vm(sim, task->vm_uuid)->must_run = false; /* who asked for it knows, and decides */
		if (task->state != TASK_RUNNING && task->state != TASK_DONE && !task->text[0])
			sim_violation(sim, "I8: n%u: task %" PRIu64 " (%s %s) is %s without a reason", node->id, id,
				task_kind_name((int)task->kind), task->vm, task_state_name((int)task->state));
	}
}
