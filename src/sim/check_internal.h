/* SPDX-License-Identifier: Apache-2.0
 * What the checkers remember of a run. Only check_*.c. */
#pragma once

#include "sim/check.h"

#define GUEST_OFF "the guest turned itself off" /* how machines say so */

struct check_def {
	struct vm_def def;
	uint64_t index; /* acknowledged; 0: refused, or not known */
};

/* One VM, as those who asked for things must find it. */
struct check_vm {
	char uuid[UUID_BYTES];
	uint32_t slot; /* where a cluster had it last: the same in all, as they have one history; looked up anew if not */
	uint64_t created_index; /* acknowledged; 0: not */
	bool delete_asked;
	uint64_t deleted_index;
	bool discard_asked; /* somebody asked to throw its saved state away: a forced start, or a delete */
	uint64_t discard_since_us;
	struct check_def *defs; /* every definition that was ever submitted */
	uint32_t def_count;
	uint64_t edited_index; /* of the newest acknowledged create or edit */
	uint64_t complete_task; /* of the newest state that lay complete on the storage */
	uint64_t sealed_task;	/* SEALED in some node's committed cluster … */
	uint64_t given_up_task; /* … and then CONSUMED, or rightly DISCARDED */
	bool discarded_seen;
	bool falsely_dead; /* a copy was said to be dead by somebody who is to be believed, and was not: what comes of it is no
			      violation */
	bool must_run; /* it was started, the task is done, and nobody has asked for anything else since */
	uint32_t off_asked, off_answered; /* requests after which it may be off */
	bool off_since;			  /* one came after the last start that was asked for */
	uint32_t deaths;
	bool followed; /* checks_failover_begin */
	/* check_calm.c: should run, has this epoch and this owner, and does not run, since */
	uint64_t calm_us, calm_epoch;
	uint32_t calm_owner;
	uint64_t began_us[NODES_MAX + 1]; /* by node: when a copy executed there first … */
	uint64_t ended_us[NODES_MAX + 1]; /* … and stopped last; UINT64_MAX while one executes */
};

struct check_ack {
	uint64_t at_us;
	uint64_t index_max; /* of this and all before */
};

struct check_point {
	uint64_t digest;
	uint64_t bytes_hash; /* of the whole cluster; 0: not looked at yet */
	uint64_t part_hash;  /* the same of some of its VMs */
	uint32_t node;	     /* that was there first */
};

struct check_line {
	uint64_t index;
	uint64_t hash; /* of the text */
};

struct checks {
	struct check_vm *vms; /* config.vms_max */
	uint32_t vm_count;
	uint32_t *table; /* the same, by their uuid: number + 1; 0: free */
	uint32_t table_size; /* a power of two */
	struct check_ack *acks;
	uint32_t ack_count, ack_capacity;
	struct check_point *points; /* by index */
	uint64_t point_capacity;
	uint64_t history_index; /* of the newest line that was traced, and whose line it was */
	uint32_t executing, boots; /* copies that execute now; cold starts */
	uint64_t forced; /* nodes that an administrator had fenced in spite of the limit */
	bool two_histories; /* of two nodes that each may go on alone one took the other for dead, as it had been told, and
			       was told wrongly; or nodes were made a quorum while others live: both may have gone on */
	bool forked; /* and did: two nodes committed different things at one index, and neither store was given up since */
	bool apart; /* … and have not all met since: what one history does with VMs the other does not know */
	uint64_t history_teller; /* node and start of its daemon */
	struct check_line *lines; /* all of them, as who was first has said them */
	uint32_t line_count, line_capacity;
	uint64_t *tasks_us; /* since when */
	uint64_t tasks_index; /* the newest at which they were looked at */
	uint64_t *tasks; /* by place in the cluster: the task that was seen under way last */
	uint64_t calm_us, calm_members, calm_formed_us; /* check_calm.c: calm since, in the same view */
	uint8_t *encoded;
	size_t encoded_capacity;
};

/* check_fence.c: what must run. */
void check_run_asked(struct sim *sim, uint32_t node, const struct event *event);
void check_run_answered(struct sim *sim, const struct event *event, const struct engine_reply *reply);
const char *check_run_end(struct sim *sim, const struct cluster *cluster);

/* check_log.c: which saved states the log needs, as of this event. */
void check_saved(struct sim *sim, const struct cluster *cluster);

struct check_vm *check_vm(struct sim *sim, const char *uuid); /* made when new */
/* As this cluster has it; NULL: it does not. */
const struct vm *check_there(const struct cluster *cluster, struct check_vm *vm);
/* A cluster with more VMs is looked at in parts; as many at a time. */
enum { CHECK_VMS_AT_A_TIME = 64 };
/* check_calm.c. B9: it flapped, and takes nothing while another of the members is there that did not. */
bool check_quarantined(const struct sim *sim, const struct cluster *cluster, uint64_t members, uint32_t node);
/* One of the members may start it: room, restarts, disks, quarantine, and no other suspect there (B18). */
bool check_has_place(struct sim *sim, const struct cluster *cluster, const struct vm *vm, uint64_t members);
/* check_log.c: I4, of one VM and of all. */
void check_known(struct sim *sim, const struct sim_node *node, const struct cluster *cluster, struct check_vm *vm);
void check_all_known(struct sim *sim, const struct sim_node *node, const struct cluster *cluster);
