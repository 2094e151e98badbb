/* SPDX-License-Identifier: Apache-2.0
 * The record of long work: what was asked, how it ended, which fact decided. Decisions never rest on it. */
#include "core/internal.h"

#include <string.h>

/* The oldest finished record makes room; with every record under way the task runs unrecorded. */
static struct task *task_slot(struct cluster *cluster)
{
	struct task *oldest = NULL;

	if (cluster->task_count < TASKS_MAX)
		return &cluster->tasks[cluster->task_count++];
	for (uint32_t i = 0; i < TASKS_MAX; i++) {
		struct task *task = &cluster->tasks[i];
		if (task->state != TASK_RUNNING && (!oldest || task->id < oldest->id))
			oldest = task;
	}
	return oldest;
}

/* One event may begin tasks for many VMs (a node joined, and they are restored): the pair is unique. */
static struct task *task_of(struct cluster *cluster, uint64_t id, const struct vm *vm)
{
	for (uint32_t i = 0; i < cluster->task_count && id; i++)
		if (cluster->tasks[i].id == id && !strcmp(cluster->tasks[i].vm_uuid, vm->def.uuid))
			return &cluster->tasks[i];
	return NULL;
}

uint64_t task_begin(struct step *step, struct vm *vm, enum task_kind kind, uint32_t target)
{
	struct cluster *cluster = step->cluster;
	struct task *task = task_slot(cluster);

	vm->task = cluster->index;
	vm->cancelled = false;
	step->out->task = cluster->index;
	cluster->task_serial++;
	if (!task)
		return vm->task;
	*task = (struct task){
		.id = cluster->index,
		.kind = kind,
		.state = TASK_RUNNING,
		.source = vm->owner,
		.target = target,
		.dry_run = step->event->dry_run,
		.started_ms = cluster->now_ms,
	};
	memcpy(task->vm, vm->def.name, sizeof(task->vm));
	memcpy(task->vm_uuid, vm->def.uuid, sizeof(task->vm_uuid));
	if (step->automatic)
		strcpy(task->by, "watari");
	else
		memcpy(task->by, step->event->by, sizeof(task->by));
	return vm->task;
}

void task_target(struct step *step, const struct vm *vm, uint32_t target)
{
	struct task *task = task_of(step->cluster, vm->task, vm);

	if (task)
		task->target = target;
}

void task_trouble(struct step *step, const struct vm *vm, enum err_code code)
{
	struct task *task = task_of(step->cluster, vm->task, vm);

	if (task)
		task->code = code;
}

void task_end(struct step *step, struct vm *vm, enum task_state state, const char *format, ...)
{
	struct task *task = task_of(step->cluster, vm->task, vm);
	va_list args;

	vm->task = 0;
	vm->cancelled = false;
	vm->dry_run = false;
	if (!task)
		return;
	task->state = state;
	if (state != TASK_FAILED)
		task->code = state == TASK_CANCELLED ? ERR_CANCELLED : ERR_NONE;
	task->finished_ms = step->cluster->now_ms;
	va_start(args, format);
	char text[REASON_BYTES];
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	reason_set(task->text, "%s", text);
}

void task_figures(struct step *step, const struct vm *vm, uint64_t id, const struct move_figures *figures)
{
	struct task *task = task_of(step->cluster, id, vm);
	uint64_t from[sizeof(*figures) / sizeof(uint64_t)];
	uint64_t to[ARRAY_SIZE(from)];

	if (!task)
		return;
	/* All fields are uint64_t; each node fills in those that it measured. */
	_Static_assert(sizeof(from) == sizeof(*figures), "only 64-bit figures");
	memcpy(from, figures, sizeof(from));
	memcpy(to, &task->figures, sizeof(to));
	for (size_t i = 0; i < ARRAY_SIZE(from); i++)
		if (from[i])
			to[i] = from[i];
	memcpy(&task->figures, to, sizeof(to));
}
