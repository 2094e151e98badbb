/* SPDX-License-Identifier: Apache-2.0
 * I1: at most one copy of a guest executes. I2: none begins without proof that no other can. I3: no memory is resumed
 * twice or against other disks; and none that could be resumed is thrown away.
 *
 * The proof of I2 is a matter of knowledge: a node that begins a guest must have heard, through some chain of messages,
 * from each node where the guest executed before, about a time after it had stopped there. Being right by luck is not
 * enough, so this asks what the node could know (net_knows_us), not only what is so. */
#include "sim/check_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct check_vm *check_vm(struct sim *sim, const char *uuid)
{
	struct checks *checks = sim->checks;
	uint64_t place = world_hash(uuid);
	uint32_t *number;

	while (*(number = &checks->table[place++ % checks->table_size]))
		if (!strcmp(checks->vms[*number - 1].uuid, uuid))
			return &checks->vms[*number - 1];
	assert(checks->vm_count < sim->config.vms_max);
	struct check_vm *vm = &checks->vms[checks->vm_count++];
	*number = checks->vm_count;
	strcpy(vm->uuid, uuid);
	return vm;
}

const struct vm *check_there(const struct cluster *cluster, struct check_vm *vm)
{
	const struct vm *there = &cluster->vms[vm->slot];

	if (vm->slot < cluster->vm_count && !strcmp(there->def.uuid, vm->uuid))
		return there;
	there = cluster_vm_find(cluster, vm->uuid);
	if (there)
		vm->slot = (uint32_t)(there - cluster->vms);
	return there;
}

static const char *const begin_names[] = {
	[WORLD_BOOT] = "boots",
	[WORLD_RESUME] = "is resumed",
	[WORLD_GO_ON] = "goes on",
};

static void check_one_copy(struct sim *sim, const struct world_copy *copy)
{
	for (const struct world_copy *other = copy->guest->copies; other; other = other->next_of_guest)
		if (other != copy && other->executes)
			sim_violation(sim, "I1: two copies of %s: it executes on n%u (epoch %" PRIu64 ") and begins on n%u "
				"(epoch %" PRIu64 ")",
				copy->guest->name, other->node, other->epoch, copy->node, copy->epoch);
}

/* A node feeds only for so long after somebody has heard of it whom the others must have with them when they lose it:
 * what the newest is that can be known of it, and that time, and the watchdog's, make a proof without a word. */
static bool watchdog_has_ended(const struct sim *sim, uint32_t by, uint32_t node)
{
	uint64_t lease_us = sim->config.lost_max_ms * UINT64_C(1000);
	uint64_t watchdog_us = sim->nodes[node].watchdog_ms * UINT64_C(1000);

	return watchdog_us &&
	       timeline_now_us(sim->timeline) > net_knows_us(sim->net, by, node) + lease_us + watchdog_us;
}

static void check_proof(struct sim *sim, const struct world_copy *copy)
{
	const struct check_vm *vm = check_vm(sim, copy->guest->vm);

	for (uint32_t node = 1; node <= sim->config.node_count; node++) {
		if (node == copy->node || !vm->began_us[node])
			continue;
		if (net_knows_us(sim->net, copy->node, node) < vm->ended_us[node] &&
			!watchdog_has_ended(sim, copy->node, node))
			sim_violation(sim, "I2: %s begins on n%u, which cannot know that its copy on n%u has stopped (at "
				"%" PRIu64 " ms; the newest it heard from there is of %" PRIu64 " ms)",
				copy->guest->name, copy->node, node, vm->ended_us[node] / 1000,
				net_knows_us(sim->net, copy->node, node) / 1000);
	}
}

/* A state that holds the guest's only memory. */
static bool is_precious(struct sim *sim, const struct world_state *state)
{
	const struct check_vm *vm = check_vm(sim, state->guest->vm);

	return state->complete && !state->corrupt && !state->resumes && !state->failed_loads &&
	       !vm->falsely_dead && vm->sealed_task == state->task && vm->given_up_task != state->task && !vm->discard_asked && !vm->delete_asked;
}

static void check_memory(struct sim *sim, const struct world_copy *copy, enum world_begin how, bool fits)
{
	const struct world_guest *guest = copy->guest;

	if (how == WORLD_RESUME) {
		if (copy->state->resumes > 1)
			sim_violation(sim, "I3: the state %" PRIu64 " of %s is resumed for the %uth time, on n%u",
				copy->state_task, guest->name, copy->state->resumes, copy->node);
		if (!copy->state->complete)
			sim_violation(sim, "I3: the state %" PRIu64 " of %s is resumed on n%u, and it is not complete",
				copy->state_task, guest->name, copy->node);
	}
	if (!fits)
		sim_violation(sim, "I3: %s %s on n%u with a memory that is older than its disks", guest->name,
			begin_names[how], copy->node);
	if (how != WORLD_BOOT)
		return;
	for (const struct world_state *state = world_states(sim->world); state; state = state->next)
		if (state->guest == guest && is_precious(sim, state) &&
			state->disk_generation + 1 == guest->disk_generation)
			sim_violation(sim, "I3: %s boots on n%u, though its state %" PRIu64 " was there to be resumed",
				guest->name, copy->node, state->task);
}

static void on_begins(void *ctx, struct world_copy *copy, enum world_begin how, bool fits)
{
	struct sim *sim = ctx;
	struct check_vm *vm = check_vm(sim, copy->guest->vm);

	if (sim_traces(sim))
		sim_trace(sim, "n%u: %s %s (boot %" PRIu64 ", epoch %" PRIu64 "%s)", copy->node, copy->guest->name,
			begin_names[how], copy->boot, copy->epoch, copy->filling ? ", pages on demand" : "");
	if (!vm->falsely_dead && !sim->checks->apart) {
		check_one_copy(sim, copy);
		check_proof(sim, copy);
		check_memory(sim, copy, how, fits);
	}
	memcpy(copy->boot_id, sim->nodes[copy->node].boot_id, sizeof(copy->boot_id));
	sim->checks->executing++;
	sim->checks->boots += how == WORLD_BOOT;
	if (copy->epoch == 0)
		sim_violation(sim, "%s begins on n%u under no epoch", copy->guest->name, copy->node);
	vm->began_us[copy->node] = timeline_now_us(sim->timeline) + 1;
	vm->ended_us[copy->node] = UINT64_MAX;
}

static void on_stops(void *ctx, const struct world_copy *copy, const char *why)
{
	struct sim *sim = ctx;

	sim_trace(sim, "n%u: %s stops: %s", copy->node, copy->guest->name, why);
	struct check_vm *vm = check_vm(sim, copy->guest->vm);
	vm->ended_us[copy->node] = timeline_now_us(sim->timeline);
	sim->checks->executing--;
	vm->deaths += !strcmp(why, "QEMU was killed");
	if (!strcmp(why, GUEST_OFF))
		vm->must_run = false;
}

static void on_sealed(void *ctx, const struct world_state *state)
{
	struct sim *sim = ctx;

	check_vm(sim, state->guest->vm)->complete_task = state->task;
	sim_trace(sim, "n%u: state %" PRIu64 " of %s is complete", state->node, state->task, state->guest->name);
}

static void on_deleted(void *ctx, const struct world_state *state, const struct world_copy *reader)
{
	struct sim *sim = ctx;

	sim_trace(sim, "state %" PRIu64 " of %s is deleted", state->task, state->guest->name);
	/* Its node may be said to be off by a device that lies. */
	if (reader && !check_vm(sim, state->guest->vm)->falsely_dead)
		sim_violation(sim, "A18: the state %" PRIu64 " of %s is deleted while n%u still reads its pages", state->task,
			state->guest->name, reader->node);
	if (is_precious(sim, state) && state->disk_generation == state->guest->disk_generation)
		sim_violation(sim, "I3: the state %" PRIu64 " of %s is deleted, and it was the guest's only memory",
			state->task, state->guest->name);
}

uint32_t checks_executing(const struct sim *sim)
{
	return sim->checks->executing;
}

uint32_t checks_boots(const struct sim *sim)
{
	return sim->checks->boots;
}

struct world_observer checks_world_observer(struct sim *sim)
{
	return (struct world_observer){.ctx = sim, .begins = on_begins, .stops = on_stops, .sealed = on_sealed,
		.deleted = on_deleted};
}

struct checks *checks_new(struct sim *sim)
{
	struct checks *checks = calloc(1, sizeof(*checks));
	uint32_t vms_max = sim->config.vms_max;

	assert(checks);
	for (checks->table_size = 64; checks->table_size < 2 * vms_max; checks->table_size *= 2)
		;
	checks->vms = calloc(vms_max, sizeof(*checks->vms));
	checks->table = calloc(checks->table_size, sizeof(*checks->table));
	checks->tasks = calloc(vms_max, sizeof(*checks->tasks));
	checks->tasks_us = calloc(vms_max, sizeof(*checks->tasks_us));
	assert(checks->vms && checks->table && checks->tasks && checks->tasks_us);
	return checks;
}

void checks_free(struct checks *checks)
{
	if (!checks)
		return;
	for (uint32_t i = 0; i < checks->vm_count; i++)
		free(checks->vms[i].defs);
	free(checks->vms);
	free(checks->table);
	free(checks->tasks);
	free(checks->tasks_us);
	free(checks->acks);
	free(checks->points);
	free(checks->lines);
	free(checks->encoded);
	free(checks);
}
