/* SPDX-License-Identifier: Apache-2.0
 * The engine: turns what the ports tell into events, gets them committed, feeds them to the core, and makes this
 * machine agree with the core's duties. The only place where the core meets the ports.
 *
 * Its parts:
 *	sync.c, transfer.c, fork.c	a view comes to one history; half.c: two nodes that were cut apart
 *	log.c				order and commit (design §4); history.c: the audit trail
 *	reconcile.c, copies.c		duties against what runs, and what may not run here; sweep.c: against what lies on the storage
 *	fence.c, ask.c			fence devices: as the core orders, and as a person asks
 *	lease.c, selffence.c		that this node is not lost to the others, and its end if it is
 *	service.c, forecast.c		requests, watchers, what would happen
 * It runs unchanged in the daemon and in the simulator.
 *
 * Promises: acts on committed events only, and only while its view is quorate and synced; loses no report (a lost one
 * is derived again from duty and machine); any message from a peer is survived.
 * Must never: wait. Everything is a callback on the loop. */
#pragma once

#include "engine/service.h"
#include "port/fencer.h"
#include "port/group.h"
#include "port/hypervisor.h"
#include "port/loop.h"
#include "port/store.h"
#include "port/watchdog.h"

struct engine_config {
	char cluster_uuid[UUID_BYTES]; /* all members carry the same, or their messages are refused */
	char node_name[NAME_BYTES];
	char boot_id[UUID_BYTES];
	uint64_t incarnation;	     /* differs at each start of the daemon: start time in µs */
	uint32_t snapshot_every;     /* events between snapshots; 0: the default, 1000 */
	uint64_t disk_limit_ms;	     /* a flush that takes longer: leave the view; 0: the default, 5000 */
	uint32_t watchdog_ms;	     /* what the watchdog is armed with; 0: the default, 5000 */
	bool quorum_loss_stop;	     /* guests are killed some seconds after the node is out of sync, also without one */
	/* A line for the trace (simulator, debug log); may be NULL. */
	void (*trace)(void *ctx, const char *line);
	void *trace_ctx;
	/* The store failed or was found damaged: the daemon must end and say so. */
	void (*fatal)(void *ctx, const struct err *err);
};

struct engine_ports {
	struct loop *loop;
	struct group *group;
	struct store *store;
	struct hypervisor *hypervisor;
	struct watchdog *watchdog; /* NULL: this node has none */
	struct fencer *fencer; /* NULL: this node switches nobody off */
};

/* Takes a copy of config. The callbacks of the ports are to be given to the drivers when they are made. */
struct engine *engine_new(const struct engine_config *config);
struct group_callbacks engine_group_callbacks(struct engine *engine);
struct store_callbacks engine_store_callbacks(struct engine *engine);
struct hv_callbacks engine_hypervisor_callbacks(struct engine *engine);
struct fencer_callbacks engine_fencer_callbacks(struct engine *engine);

/* Loads the store and joins the group. ERR_CORRUPT and such: the store is refused, the reason is for a person. */
int engine_start(struct engine *engine, const struct engine_ports *ports, struct err *err);

/* The daemon is to end, and its guests are to run on: the cluster is told so (facts.leaving, watchdog_ms 0), the watchdog
 * is disarmed, the group is left, then left() is called, on the loop. Out of sync with guests nobody can be told: where a
 * watchdog is armed left() comes only when the guests were ended as they must be (selffence.c), else at once. */
void engine_leave(struct engine *engine, void (*left)(void *ctx), void *ctx);

/* Another watchdog, or another time: takes the place of the old one as soon as the cluster knows. NULL: none. The old one
 * must stay until engine_watchdog() gives the new one. */
void engine_set_watchdog(struct engine *engine, struct watchdog *watchdog, uint32_t timeout_ms);
const struct watchdog *engine_watchdog(const struct engine *engine);

/* When hypervisor, store and group call it no more; the fencer and the loop must still be there, for what it has under way is
 * cancelled. Never ends a guest; an armed watchdog goes on. Takes NULL. */
void engine_free(struct engine *engine);

/* For the checkers: what this node has committed, and whether it acts. */
uint64_t engine_committed(const struct engine *engine);
