/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/fake/world.h"

#include "base/hash.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUEST_TABLE = 1024 };

struct world {
	struct timeline *timeline;
	struct world_observer observer;
	struct world_guest *guests[GUEST_TABLE]; /* by their VM */
	struct world_copy *copies; /* also the dead ones: what happened is asked for later */
	struct world_state *states;
};

struct world *world_new(struct timeline *timeline, const struct world_observer *observer)
{
	struct world *world = calloc(1, sizeof(*world));

	assert(world);
	world->timeline = timeline;
	world->observer = *observer;
	return world;
}

void world_free(struct world *world)
{
	if (!world)
		return;
	for (uint32_t i = 0; i < GUEST_TABLE; i++) {
		while (world->guests[i]) {
			struct world_guest *guest = world->guests[i];
			world->guests[i] = guest->next;
			free(guest);
		}
	}
	while (world->copies) {
		struct world_copy *copy = world->copies;
		world->copies = copy->next;
		free(copy);
	}
	while (world->states) {
		struct world_state *state = world->states;
		world->states = state->next;
		free(state);
	}
	free(world);
}

uint64_t world_hash(const char *vm)
{
	return hash64(vm, strlen(vm), 1);
}

const struct world_guest *world_find(const struct world *world, const char *vm)
{
	const struct world_guest *guest = world->guests[world_hash(vm) % GUEST_TABLE];

	while (guest && strcmp(guest->vm, vm) != 0)
		guest = guest->next;
	return guest;
}

struct world_guest *world_guest(struct world *world, const char *vm, const char *name)
{
	struct world_guest *guest = (struct world_guest *)world_find(world, vm);

	if (guest)
		return guest;
	guest = calloc(1, sizeof(*guest));
	assert(guest);
	snprintf(guest->vm, sizeof(guest->vm), "%s", vm);
	snprintf(guest->name, sizeof(guest->name), "%s", name);
	guest->disk_generation = 1;
	struct world_guest **first = &world->guests[world_hash(vm) % GUEST_TABLE];
	guest->next = *first;
	*first = guest;
	return guest;
}

const struct world_copy *world_copies(const struct world *world)
{
	return world->copies;
}

const struct world_copy *world_copies_of(const struct world *world, const char *vm)
{
	const struct world_guest *guest = world_find(world, vm);

	return guest ? guest->copies : NULL;
}

const struct world_copy *world_executing(const struct world *world, const char *vm)
{
	const struct world_copy *copy = world_copies_of(world, vm);

	while (copy && !copy->executes)
		copy = copy->next_of_guest;
	return copy;
}

const struct world_state *world_states(const struct world *world)
{
	return world->states;
}

struct world_state *world_state(struct world *world, const char *vm, uint64_t task)
{
	for (struct world_state *state = world->states; state; state = state->next)
		if (state->task == task && !strcmp(state->guest->vm, vm))
			return state;
	return NULL;
}

static struct world_copy *copy_new(struct world *world, struct world_guest *guest, uint32_t node, uint64_t epoch)
{
	struct world_copy *copy = calloc(1, sizeof(*copy));

	assert(copy);
	*copy = (struct world_copy){
		.guest = guest, .node = node, .epoch = epoch, .next = world->copies, .next_of_guest = guest->copies};
	world->copies = guest->copies = copy;
	return copy;
}

static void execute(struct world *world, struct world_copy *copy, enum world_begin how, bool fits)
{
	copy->executes = true;
	copy->began_us = timeline_now_us(world->timeline);
	copy->disk_generation = ++copy->guest->disk_generation;
	world->observer.begins(world->observer.ctx, copy, how, fits);
}

struct world_copy *world_boot(struct world *world, struct world_guest *guest, uint32_t node, uint64_t epoch)
{
	struct world_copy *copy = copy_new(world, guest, node, epoch);

	copy->boot = ++guest->boots;
	execute(world, copy, WORLD_BOOT, true);
	return copy;
}

struct world_copy *world_resume(struct world *world, struct world_state *state, uint32_t node, uint64_t epoch,
	bool filling)
{
	struct world_copy *copy = copy_new(world, state->guest, node, epoch);

	copy->boot = state->boot;
	copy->state = state;
	copy->state_task = state->task;
	copy->filling = filling;
	state->resumes++;
	execute(world, copy, WORLD_RESUME, state->disk_generation == state->guest->disk_generation);
	return copy;
}

void world_stop(struct world *world, struct world_copy *copy, const char *why)
{
	if (!copy->executes)
		return;
	copy->executes = false;
	copy->stopped_us = timeline_now_us(world->timeline);
	world->observer.stops(world->observer.ctx, copy, why);
}

void world_go_on(struct world *world, struct world_copy *copy, uint64_t epoch)
{
	assert(!copy->executes && !copy->dead);
	copy->epoch = epoch;
	copy->hangs = false;
	execute(world, copy, WORLD_GO_ON, copy->disk_generation == copy->guest->disk_generation);
}

void world_die(struct world *world, struct world_copy *copy, const char *why)
{
	if (!copy || copy->dead)
		return;
	world_stop(world, copy, why);
	copy->dead = true;
	copy->died_us = timeline_now_us(world->timeline);
	copy->filling = false;
}

void world_filled(struct world *world, struct world_copy *copy)
{
	(void)world;
	copy->filling = false;
}

struct world_state *world_state_begin(struct world *world, const struct world_copy *copy, uint64_t task)
{
	struct world_state *state = world_state(world, copy->guest->vm, task);

	if (state)
		world_state_delete(world, state);
	state = calloc(1, sizeof(*state));
	assert(state);
	*state = (struct world_state){.guest = copy->guest, .task = task, .epoch = copy->epoch, .node = copy->node,
		.boot = copy->boot, .next = world->states};
	world->states = state;
	return state;
}

void world_state_seal(struct world *world, struct world_state *state, const struct world_copy *copy)
{
	assert(!copy->executes);
	state->disk_generation = copy->disk_generation;
	state->complete = true;
	world->observer.sealed(world->observer.ctx, state);
}

void world_state_delete(struct world *world, struct world_state *state)
{
	struct world_state **at = &world->states;
	const struct world_copy *reader = NULL;

	for (struct world_copy *copy = world->copies; copy; copy = copy->next) {
		if (copy->state != state)
			continue;
		if (copy->filling)
			reader = copy;
		copy->state = NULL;
	}
	world->observer.deleted(world->observer.ctx, state, reader);
	while (*at != state)
		at = &(*at)->next;
	*at = state->next;
	free(state);
}
