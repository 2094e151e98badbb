/* SPDX-License-Identifier: Apache-2.0
 * What a VM's administrator wants to happen by itself: where it may run, how often it is restarted, when it goes back.
 * Part of the definition, and the part that may change while the VM runs. The rules that follow from it are in
 * core/policy.c and core/place.c; docs/failover.md explains them to users.
 *
 * Promises: plain data; a policy that is all zero is a valid one (definitions of before have it), with the defaults.
 * Must never: change what machine is built. */
#pragma once

#include "base/schema.h"
#include "model/limits.h"

#define FAILBACKS(X)                                                                                                   \
	X(FAILBACK_NEVER, "never")                                                                                     \
	X(FAILBACK_IMMEDIATE, "immediate")                                                                             \
	X(FAILBACK_WINDOW, "window")

/* What comes of a guest whose kernel has panicked: QEMU has stopped it, and tells. */
#define ON_PANICS(X)                                                                                                   \
	X(ON_PANIC_RESTART, "restart") /* a death like any other: within the budget, here, then elsewhere */           \
	X(ON_PANIC_STOP, "stop")       /* off, until somebody starts it */                                              \
	X(ON_PANIC_PAUSE, "pause")     /* stays as it is, to be looked at */

enum on_panic { ON_PANIC_RESTART, ON_PANIC_STOP, ON_PANIC_PAUSE, ON_PANIC_COUNT };

enum failback { FAILBACK_NEVER, FAILBACK_IMMEDIATE, FAILBACK_WINDOW, FAILBACK_COUNT };

enum {
	OWNERS_PREFERRED_MAX = 8,
	/* As Windows clusters have it. */
	RESTART_MAX_DEFAULT = 1,
	RESTART_PERIOD_S_DEFAULT = 15 * 60,
	RETRY_AFTER_S_DEFAULT = 60 * 60,

	RESTART_MAX_LIMIT = 100,
	RESTART_PERIOD_S_MIN = 10,
	POLICY_SECONDS_MAX = 7 * 24 * 3600,
	START_DELAY_S_MAX = 3600,
	START_ORDER_MAX = 9999,
	HEARTBEAT_S_MIN = 10,
	HEARTBEAT_S_MAX = 3600,
};

struct vm_owner {
	uint32_t node;
};

struct vm_policy {
	uint32_t preferred_count;
	struct vm_owner preferred[OWNERS_PREFERRED_MAX]; /* the first one that can take it, in this order */
	uint64_t possible;				 /* bits id - 1: it runs nowhere else; 0: on all nodes */
	char anti_affinity[NAME_BYTES];			 /* VMs with the same label keep apart; empty: none */
	bool anti_affinity_hard;			 /* rather not at all than beside another one */
	/* Deaths of the guest: restart_max restarts on one node within the period, then another node; with all tried,
	 * again after retry_after_s (0: never). With a period of 0 the three defaults hold. */
	uint32_t restart_max;
	uint32_t restart_period_s;
	uint32_t retry_after_s;
	enum failback failback;	     /* to a preferred owner that is back */
	uint32_t failback_from_hour; /* WINDOW: hours of the cluster's time, UTC; from 22 to 4 is 22:00 to 03:59 */
	uint32_t failback_to_hour;
	uint32_t start_order; /* 1 is first; a VM waits for those with a lower one. 0: waits for none, none waits for it
			       */
	uint32_t start_delay_s; /* after it runs: how much longer those with a higher order wait */
	enum on_panic on_panic; /* needs the definition's panic device, without which nobody knows */
	/* A guest whose agent has answered and then answers no more for this long is ended, a death; 0: not asked. Needs the
	 * definition's guest_agent. */
	uint32_t heartbeat_s;
};

extern const struct schema vm_policy_schema;

const char *failback_name(int failback);
const char *on_panic_name(int on_panic);

/* Fills the restart budget where it is left open. Never touches what is set. */
void vm_policy_pin(struct vm_policy *policy);

/* 0, or -1 with ERR_INVALID and the rule that is broken. Whether the nodes exist is the caller's to know. */
int vm_policy_check(const struct vm_policy *policy, struct err *err);

/* Whether the window is open in this hour (0 to 23, UTC). */
bool vm_policy_window(const struct vm_policy *policy, uint32_t hour);
