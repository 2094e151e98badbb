/* SPDX-License-Identifier: Apache-2.0
 * A simulated machine from within: its instances, the steps that they take, and the news that go to its daemon. Only
 * machine*.c and hypervisor_fake.c.
 *
 *	machine.c		instances, news, the machine's life
 *	machine_step.c		what takes time: starts, copies, loads, ends
 *	machine_fault.c		what befalls guests, QEMUs and disks
 *	hypervisor_fake.c	the port's calls, as the daemon makes them */
#pragma once

#include "driver/fake/hypervisor_fake.h"

struct instance {
	struct machine *machine;
	struct instance *next;
	struct instance *next_alike; /* of the machine's table */
	struct vm_def def;
	enum hv_state state;
	uint64_t epoch;
	uint64_t task;
	bool shutdown_asked;
	bool starved;		     /* RUNNING: stopped, it does not reach its disks */
	bool killed;		     /* and dies as soon as it does */
	bool panicked;		     /* stopped, and stays so */
	bool broken;		     /* COPYING: failed, the guest is stopped and waits for run or kill */
	bool verify_all;
	struct world_copy *copy;     /* NULL before it has executed */
	uint64_t reading;	     /* LOADING, LOADED: task of the state */
	struct move_figures figures;
	struct timeline_item *step; /* the end of the step under way; NULL and state transient: held */
	struct timeline_item *power; /* the guest powers off */
	struct timeline_item *fill;
	struct timeline_item *look; /* at its disks */
	struct timeline_item *silence; /* QEMU hangs; when that is noticed */
	bool agent_silent;
	uint32_t heartbeat_s, heartbeat_looks; /* in a row at an undisturbed guest whose agent is silent */
	struct timeline_item *heartbeat; /* the next look, while the agent is silent */
};

struct purge {
	struct machine *machine;
	char vm[UUID_BYTES];
	uint64_t keep, below;
	struct timeline_item *item;
	struct purge *next;
};

enum { MACHINE_TABLE = 64 };

struct machine {
	struct timeline *timeline;
	struct prng *prng;
	struct world *world;
	struct machine_config config;
	uint32_t vcpus; /* 0: 8 */
	bool no_bridge;
	struct instance *instances;
	struct instance *table[MACHINE_TABLE]; /* the same, by their VM */
	struct purge *purges;
	struct hypervisor_fake *driver;
	struct news *news; /* on their way to the daemon */
	bool holds;
	enum machine_storage storage;
	bool fail_next[HV_STOPPING + 1];
};

struct hypervisor_fake {
	struct hypervisor hv;
	struct machine *machine;
	struct loop_fake *loop;
	struct hv_callbacks callbacks;
};

/* An event on its way: never told within a call. */
struct news {
	struct machine *machine;
	struct hypervisor_fake *to;
	struct hv_event event;
	char vm[UUID_BYTES];
	struct timeline_item *item;
	struct news *next;
};

/* machine.c */
uint64_t machine_now_us(const struct machine *machine); /* of the wall clock */
struct instance *instance_find(const struct machine *machine, const char *vm); /* NULL: there is none */
struct instance *instance_new(struct machine *machine, const struct vm_def *def, enum hv_state state);
void instance_free(struct instance *instance);
/* They come to nothing: the daemon that began them has ended. */
void machine_drop_purges(struct machine *machine);
/* The process is gone, and so is the instance. */
void instance_die(struct instance *instance, enum gone_cause cause, const char *why);
/* Its step did not work. A standby or a load that failed leaves nothing behind; nor does a start. */
void instance_fail(struct instance *instance, enum err_code code, const char *why);
bool instance_is_filling(const struct instance *instance);
struct hv_event instance_event(const struct instance *instance, enum hv_event_kind kind);
struct hv_event machine_failure(uint64_t task, uint64_t epoch, enum err_code code, const char *text);
void machine_tell(struct machine *machine, const char *vm, struct hv_event event);
void machine_tell_after(struct machine *machine, const char *vm, struct hv_event event, uint64_t delay_us);

/* machine_step.c */
uint64_t machine_takes_us(struct machine *machine, uint32_t factor); /* a step of typically step_ms × factor */
void instance_begin_step(struct instance *instance);
void instance_copy_failed(struct instance *instance, const char *why);
void instance_starve(struct instance *instance); /* if it runs and its disks are not reached */
void instance_power_off(void *ctx);		  /* the guest, as it was asked to */
void instance_filled(void *ctx);		  /* all its pages are in */

/* machine_fault.c */
void instance_heartbeat_watch(struct instance *instance); /* from now on, if its agent is silent */
