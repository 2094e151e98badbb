/* SPDX-License-Identifier: Apache-2.0
 * A simulated cluster: nodes with power, disks, machines, corosync and the product's own engine, on virtual time.
 *
 * Promises: one thread; the same configuration (with its seed) and the same calls give the same run, to the last byte
 * of its trace. What the checkers (check.h) see wrong is kept as the run's violation, and the run goes on to its end
 * or is given up by the caller.
 * Must never: tell an engine anything but through its ports and its service calls. */
#pragma once

#include "base/prng.h"
#include "driver/fake/fencer_fake.h"
#include "driver/fake/group_fake.h"
#include "driver/fake/hypervisor_fake.h"
#include "driver/fake/store_fake.h"
#include "driver/fake/watchdog_fake.h"
#include "engine/engine.h"
#include "sim/newer.h"

enum { SIM_VMS_DEFAULT = 64 };

struct sim_config {
	uint64_t seed;
	uint32_t node_count;
	bool two_node;
	bool witness;
	bool exact; /* no dice: times are as configured (scenarios) */
	uint32_t step_ms;
	uint32_t net_delay_us;
	uint32_t net_slow_permille, net_late_permille, net_torn_permille, net_steps_permille;
	uint32_t lost_min_ms; /* 0: 300 */
	uint32_t lost_max_ms; /* until the loss of a node is seen */
	uint32_t disk_us, disk_slow_permille;
	uint32_t fail_permille, broken_permille, deaf_permille; /* of machines (hypervisor_fake.h) */
	bool postcopy;
	uint32_t snapshot_every;
	uint32_t skew_max_ms; /* wall clocks differ by up to this */
	uint32_t memory_mib;  /* of each node */
	uint32_t vms_max;     /* that are ever defined; 0: SIM_VMS_DEFAULT */
	uint32_t fence_step_ms; /* how long a fence device takes to answer one question */
	bool quorum_loss_stop;
	/* Each line of the trace, without its end; NULL: none is made. */
	void (*trace)(void *ctx, uint64_t now_us, const char *line);
	void *trace_ctx;
};

struct sim;

enum sim_power { SIM_OFF, SIM_ON };

struct sim_node {
	struct sim *sim;
	uint32_t id;
	char name[NAME_BYTES];
	bool powered;
	uint64_t boots;
	char boot_id[UUID_BYTES];
	int64_t skew_ms;
	uint64_t incarnations; /* daemons started */
	struct disk *disk;
	struct machine *machine;
	struct watchdog_fake *watchdog;
	struct timeline_item *restart;	/* the daemon's, by its service manager */
	struct timeline_item *corosync; /* its start */
	struct timeline_item *go_on;	/* of a paused daemon */
	struct timeline_item *ending;	/* of a daemon whose store failed */
	uint32_t watchdog_ms;		/* 0: there is none */
	bool fenced;			/* off, because a device was told to switch it off */
	bool refused;			/* the store was refused at the last start of the daemon */
	bool kept_down;			/* the daemon is not to be started again by itself */
	/* The daemon; engine NULL: not running. */
	struct loop_fake *loop;
	struct group_fake *group;
	struct newer newer; /* between it and the engine */
	struct store_fake *store;
	struct hypervisor_fake *hypervisor;
	struct fencer_fake *fencer;
	struct engine *engine;
	struct engine_watcher watcher;
	bool paused;
	bool leaving;
	uint64_t stop_restart_ms; /* of the daemon that is leaving */
	/* What the checkers saw last. */
	uint64_t seen_index;
	bool seen_synced;
	uint64_t seen_view_us;
	uint8_t *seen_states; /* by VM index: state */
	uint32_t seen_vms;    /* check_log.c: whose turn is next to be looked at */
};

struct sim_vm {
	struct vm_def def;
	bool asked; /* a create was submitted */
};

struct checks;

struct sim {
	struct sim_config config;
	struct timeline *timeline;
	struct prng net_dice, disk_dice, machine_dice, fence_dice, dice;
	struct net *net;
	struct world *world;
	struct outlets *outlets;
	struct sim_node nodes[NODES_MAX + 1]; /* by id */
	struct sim_vm *vms; /* config.vms_max */
	uint32_t vm_count;
	struct checks *checks;
	uint64_t requests; /* submitted */
	struct request *pending;
	char violation[1024]; /* the first; empty: none */
	uint64_t violation_us;
};

struct sim *sim_new(const struct sim_config *config);
void sim_free(struct sim *sim); /* takes NULL */

void sim_run_ms(struct sim *sim, uint64_t duration_ms); /* ends early at a violation */
void sim_run_until_ms(struct sim *sim, uint64_t at_ms);
/* One of two nodes may go on without the other. */
bool sim_one_goes_on(const struct sim *sim);
uint32_t sim_token_ms(const struct sim *sim); /* corosync's, from lost_max_ms: 2.2 times the token */
bool sim_step(struct sim *sim); /* one thing; false: nothing will ever happen again */
uint64_t sim_now_ms(const struct sim *sim);
void sim_trace(struct sim *sim, const char *format, ...) PRINTF_LIKE(2, 3);
/* The first one counts. */
void sim_violation(struct sim *sim, const char *format, ...) PRINTF_LIKE(2, 3);
bool sim_traces(const struct sim *sim);

/* Nodes. Calls that change nothing (off, when it is off) are allowed. */
void sim_power_on(struct sim *sim, uint32_t node);
void sim_power_off(struct sim *sim, uint32_t node);
void sim_daemon_start(struct sim *sim, uint32_t node);
/* In order: the cluster is told first (engine_leave). restart_ms as of sim_daemon_kill, from when it has ended. */
void sim_daemon_stop(struct sim *sim, uint32_t node, uint64_t restart_ms);
void sim_daemon_kill(struct sim *sim, uint32_t node, uint64_t restart_ms); /* restart_ms 0: stays down */
void sim_daemon_pause(struct sim *sim, uint32_t node, uint64_t duration_ms);
void sim_daemon_continue(struct sim *sim, uint32_t node);
void sim_corosync_kill(struct sim *sim, uint32_t node, bool forgets);
void sim_corosync_start(struct sim *sim, uint32_t node);
/* An empty store, as an administrator gives it to a node whose own was refused; only while the others have a synced
 * quorum without it. False: not now. */
bool sim_wipe_store(struct sim *sim, uint32_t node);
void sim_storage(struct sim *sim, uint32_t node, enum machine_storage storage); /* the disks of its VMs */
/* The definition of a device that switches this node, level 1, with the defaults. */
void sim_fence_device(struct fence_device *device, const char *name, uint32_t node);
/* The node has a watchdog, and its daemon is to arm it with this time; 0: it has none. */
void sim_watchdog(struct sim *sim, uint32_t node, uint32_t watchdog_ms);
/* The node's wall clock jumps by so much. */
void sim_clock_jump(struct sim *sim, uint32_t node, int64_t ms);
/* Everything that is broken works again; nodes, daemons and corosyncs are started. */
void sim_heal(struct sim *sim);

bool sim_daemon_answers(const struct sim_node *node); /* runs and is not paused */
/* Nodes that are synced in a view with that many members or more, as bits. */
uint64_t sim_synced(const struct sim *sim, uint32_t members_min);

/* Administrators. The definition of a new VM; its number. */
uint32_t sim_define_vm(struct sim *sim, const char *name, uint32_t memory_mib);
/* Asks this node's engine; the answer goes to the checkers and, when given, to reply. False: the daemon does not answer. */
bool sim_request(struct sim *sim, uint32_t node, const struct event *event, engine_reply_fn *reply, void *ctx);
void sim_requests_drop(struct sim *sim, uint32_t node); /* the daemon is gone */

/* The node (a synced one before others) whose committed cluster is the newest; NULL while no daemon runs. */
const struct cluster *sim_newest(const struct sim *sim);

/* The end of a run: heals, waits, and checks that the cluster is well, within SETTLE_MS. */
void sim_settle(struct sim *sim);
