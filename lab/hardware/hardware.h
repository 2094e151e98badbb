/* SPDX-License-Identifier: Apache-2.0
 * What a lab's nodes have for hardware: the outlet that a node is plugged into, the controller (BMC) that switches the
 * outlet on the cluster's behalf, and a watchdog. One process per lab, outside the nodes, as real hardware is: no node
 * can stop, starve or cut it.
 *
 *   RUN/hw/control.sock       for watari-lab
 *   RUN/hw/NODE/bmc.sock      for the fence agent in NODE: a door to the controllers of all nodes
 *   RUN/hw/NODE/watchdog.sock NODE's own watchdog (in a lab that has them)
 *   RUN/hw/log                what happened: MILLISECONDS NODE EVENT..., CLOCK_REALTIME
 *
 * All speak lines; docs/lab.md has the words. Promises: "off" is answered when every process of the node is gone, and
 * not before; a watchdog fires within a few ms of its time, however long ago its connection was closed. It ends by
 * itself when the lab's switch does. Must never: take a lock, or wait for anything but its own poll. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum {
	NODES_MAX = 8,
	NAME_MAX_BYTES = 8,
	LINE_BYTES = 120,
	WATCHDOG_MS_MIN = 100,
	WATCHDOG_MS_MAX = 600000,
};

/* What is wrong with a node's controller. The fence agent in docs/lab.md acts each of them out. */
#define BMC_FAULTS(X)                                                                                                  \
	X(BMC_OK, "ok")                                                                                                \
	X(BMC_GONE, "gone")		/* cannot be reached */                                                        \
	X(BMC_HANG, "hang")		/* the agent never ends */                                                     \
	X(BMC_LIE, "lie")		/* reports success and does nothing; its status is true */                     \
	X(BMC_LIE_STATUS, "lie-status") /* the same, and its status says what was asked for last */                    \
	X(BMC_WRONG, "wrong")		/* wired to another node */                                                    \
	X(BMC_GARBAGE, "garbage")	/* the agent prints bytes, does nothing and exits with 77 */                   \
	X(BMC_HUGE, "huge")		/* the agent prints 1 GiB, then does it */                                     \
	X(BMC_CRASH, "crash")		/* the agent is killed by a signal, having done nothing */                     \
	X(BMC_SLOW, "slow")		/* does it, and answers, that much later; also for an agent that was killed */

enum bmc_fault {
#define X(constant, name) constant,
	BMC_FAULTS(X)
#undef X
};

struct watchdog {
	uint32_t timeout_ms; /* 0: not armed */
	uint64_t fed_ms;     /* monotonic */
	bool is_dead;	     /* never fires */
	bool has_run_out;
};

struct node {
	char name[NAME_MAX_BYTES];
	int pidfd; /* of its keeper; -1: not known to be on */
	enum bmc_fault fault;
	uint32_t slow_ms;
	int wired_to;	  /* index */
	bool claims_off;  /* what BMC_LIE_STATUS says */
	bool path_is_cut; /* this node reaches no controller */
	struct watchdog watchdog;
};

struct hardware {
	const char *run_dir; /* of the lab */
	const char *tool;    /* watari-lab, for "on" */
	struct node nodes[NODES_MAX];
	int nodes_count;
	FILE *log;
};

uint64_t monotonic_ms(void);
int node_find(const struct hardware *hw, const char *name); /* -1: none */
const char *bmc_fault_name(enum bmc_fault fault);

/* One line of the log. */
void note(struct hardware *hw, const struct node *node, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* --- power.c --- */

/* Whether the node has a first process that lives; looks for it when none is known. */
bool power_is_on(struct hardware *hw, struct node *node);
/* Pulls the cord; power_is_on says when it is out. `why` is for the log. */
void power_cut(struct hardware *hw, struct node *node, const char *why);
/* Begins to boot it, by watari-lab. Returns -1 when that cannot even begin. */
int power_restore(struct hardware *hw, struct node *node, const char *why);
/* The keeper whose pidfd has become readable is gone. */
void power_lost(struct hardware *hw, struct node *node);
/* A keeper's pidfd by the name of its machine, -1 when there is none. */
int power_keeper(const char *run_dir, const char *machine);

/* --- watchdog.c --- */

/* Answers one line from the node; an empty answer is none. */
void watchdog_line(struct hardware *hw, struct node *node, const char *line, char answer[LINE_BYTES]);
/* Milliseconds until it runs out, UINT64_MAX for never. */
uint64_t watchdog_due_in_ms(const struct watchdog *watchdog, uint64_t now_ms);
/* Fires it when it is due. */
void watchdog_check(struct hardware *hw, struct node *node, uint64_t now_ms);
/* For `watari-lab watchdog`. */
void watchdog_describe(const struct watchdog *watchdog, char answer[LINE_BYTES]);
/* As a machine that lost its power: not armed. What is broken stays broken. */
void watchdog_reset(struct watchdog *watchdog);
