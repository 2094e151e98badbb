/* SPDX-License-Identifier: Apache-2.0
 * What would become of the VMs if nodes died now: the result of core/forecast.c.
 * Promises: plain data, about the state from which it was made. Must never: be part of the state, or of a decision. */
#pragma once

#include "model/cluster.h"

#define FORECAST_ENDS(X)                                                                                               \
	X(FORECAST_RUNS, "runs")       /* started, or restored, on another node */                                     \
	X(FORECAST_WAITS, "waits")     /* no node can take it: starts when that changes */                             \
	X(FORECAST_BLOCKED, "blocked") /* nobody can prove that its node is dead: a person's word is needed first */   \
	X(FORECAST_OFF, "off")	       /* its policy does not start it elsewhere, or it was going off */

/* What ends the number of deaths that are survived. */
#define FORECAST_LIMITS(X)                                                                                             \
	X(FORECAST_LIMIT_NONE, "none")                                                                                 \
	X(FORECAST_LIMIT_QUORUM, "quorum")                                                                             \
	X(FORECAST_LIMIT_PROOF, "proof") /* no fence device and no watchdog, or the limit on fencing */                \
	X(FORECAST_LIMIT_ROOM, "room")	 /* memory */                                                                  \
	X(FORECAST_LIMIT_RULES, "rules") /* owners, anti-affinity, quarantine, vCPUs, bridges, accelerator */

enum forecast_end { FORECAST_ENDS(CLUSTER_CONSTANT) };
enum forecast_limit { FORECAST_LIMITS(CLUSTER_CONSTANT) };
const char *forecast_end_name(int end);
const char *forecast_limit_name(int limit);

struct forecast_vm {
	uint32_t vm;   /* index in cluster.vms */
	uint32_t from; /* the node that died */
	uint32_t to;   /* RUNS: where; 0: nowhere */
	uint32_t order; /* of the starts, from 1; 0: not started */
	uint64_t after_ms; /* that start delays alone take before it */
	bool should_run;   /* it ran before, and its policy wants it to go on */
	enum forecast_end end;
	enum forecast_limit limit;
	char text[REASON_BYTES]; /* the fact that decides */
};

struct forecast {
	uint64_t failed;   /* bits id - 1 */
	uint64_t unproven; /* of these: their death is not proven by itself */
	uint32_t down;	   /* VMs that should run and do not */
	enum forecast_limit limit; /* why not, of the first of them */
	char proof[NODES_MAX][REASON_BYTES]; /* by id - 1: how the death is proven, or why it is not */
	uint32_t count;
	struct forecast_vm vms[VMS_MAX]; /* those of the dead nodes */
};

struct forecast_survival {
	uint32_t nodes; /* any so many may die at once */
	bool exact;	/* one more may not; else it was too much to look at */
	enum forecast_limit limit;
	uint64_t failed; /* one more: these, for example */
	char text[REASON_BYTES];
};
