/* SPDX-License-Identifier: Apache-2.0
 * port/hypervisor.h without QEMU: a machine whose VMs are states and timers, with the truth about them in a world.
 *
 * The machine outlives the daemon: instances go on when it is killed, and the next one finds them. Each step takes a
 * while and may fail, as the dice say: a start, a standby, a copy (before or after the guest was stopped), a load.
 *
 * Promises: as the port. Must never: let a guest run but by start or run. */
#pragma once

#include "base/prng.h"
#include "driver/fake/loop_fake.h"
#include "driver/fake/timeline.h"
#include "driver/fake/world.h"
#include "port/hypervisor.h"

struct machine;
struct hypervisor_fake;

struct machine_config {
	uint32_t node;
	uint32_t memory_mib;
	uint32_t step_ms;	   /* typical time of a step; a copy takes up to ten times that */
	uint32_t fail_permille;	   /* of starts, standbys, copies and loads, each */
	uint32_t broken_permille;  /* copies and loads that end when the daemon does */
	uint32_t deaf_permille;	   /* guests that do not hear their power button */
	bool postcopy;
	bool exact; /* no dice about times: a step takes step_ms, a copy four times that (scenarios) */
};

struct machine *machine_new(struct timeline *timeline, struct prng *prng, struct world *world,
	const struct machine_config *config);
void machine_free(struct machine *machine);

/* The node loses its power: all instances die at once, and nobody is told. After the daemon's end. */
void machine_power_loss(struct machine *machine);
void machine_set_fail_permille(struct machine *machine, uint32_t fail_permille);
/* The next step of this kind fails: HV_STARTING, HV_PREPARING, HV_COPYING (before the stop), HV_SEALED (a copy, after
 * the stop) or HV_LOADING. */
void machine_fail_next(struct machine *machine, enum hv_state step);
/* Before its first daemon: unlike the other machines. 0: memory as configured, 8 CPUs. bridge: there is a br0. */
void machine_refit(struct machine *machine, uint32_t memory_mib, uint32_t vcpus, bool bridge);
/* Before its first daemon: this guest was started by one of before, and runs. */
void machine_has_run(struct machine *machine, const struct vm_def *def, uint64_t epoch);
/* Steps that are under way or begin now do not end until it is false. */
void machine_hold(struct machine *machine, bool holds);

/* The disks of all its VMs are not reached, or are again: guests that run are stopped, and go on by themselves, some time after
 * it is mended; starts and copies fail. hang: what is killed does not die before it is mended. */
enum machine_storage { STORAGE_OK, STORAGE_ERROR, STORAGE_HANG };
void machine_storage(struct machine *machine, enum machine_storage storage);

/* Faults of one VM; false when it has no instance here in which that can happen. */
bool machine_kill_qemu(struct machine *machine, const char *vm);
bool machine_guest_poweroff(struct machine *machine, const char *vm);
/* Its kernel stops and says so: stopped as it is, also by a run, until it is ended. */
bool machine_guest_panic(struct machine *machine, const char *vm);
/* QEMU hangs, or goes on: its guest does not run meanwhile. After SILENCE_MS the driver kills it, where there is one. */
enum { MACHINE_SILENCE_MS = 30 * 1000 };
bool machine_qemu_silent(struct machine *machine, const char *vm, bool silent);
/* The guest's agent answers no more, or again; the guest itself runs. Only where its machine has a channel to one. */
bool machine_agent_silent(struct machine *machine, const char *vm, bool silent);

bool machine_executes(const struct machine *machine, const char *vm);
enum hv_state machine_state(const struct machine *machine, const char *vm);
/* The n-th instance on this machine, for the dice of the faults; NULL behind the last. */
const char *machine_vm(const struct machine *machine, uint32_t n);

struct hypervisor_fake *hypervisor_fake_new(struct machine *machine, struct loop_fake *loop,
	const struct hv_callbacks *callbacks);
void hypervisor_fake_free(struct hypervisor_fake *fake); /* the daemon's end; takes NULL */
struct hypervisor *hypervisor_fake_port(struct hypervisor_fake *fake);
