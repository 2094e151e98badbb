/* SPDX-License-Identifier: Apache-2.0
 * The words of one line of a script. Only script*.c. */
#pragma once

#include "sim/scenario.h"

enum { WORDS_MAX = 24 };

struct words {
	struct scenario *scenario;
	int count;
	char *at[WORDS_MAX];
	struct err *err;
};

/* The id of a node that is named so, or 0 with err. Takes NULL. */
uint32_t script_node(const struct words *words, const char *word);
/* "via n3" among the words: 3. Absent: the default. */
uint32_t script_node_after(const struct words *words, const char *word, uint32_t absent);
/* "level 2" among the words: 2. */
uint32_t script_number_after(const struct words *words, const char *word, uint32_t absent);
bool script_has(const struct words *words, const char *word);
/* Asks the node after "via" (n1), and keeps the answer for "expect reply". */
int script_ask(const struct words *words, const struct event *event);

/* The definition in the cluster file, or NULL with err. Takes NULL. */
struct vm_def *script_vm_of(const struct words *words, const char *word);
/* "priority high possible n1,n2 …" into a definition: what `vm` lines of a cluster file and `vm create` and `vm edit` may
 * say behind the rest. Words from `first` on; -1 with err. */
int script_vm_words(const struct words *words, int first, struct vm_def *def);
int script_vm(const struct words *words);

/* script_node.c: power-off nX, kill nX MS, disk-hang nX … */
bool script_node_knows(const char *name);
int script_node_do(const struct words *words);

/* script_many.c: what holds of all VMs together. */
int script_expect_running(const struct words *words);
int script_expect_boots(const struct words *words);
int script_expect_by_priority(const struct words *words);
bool script_all_run(const struct scenario *scenario, const char *number);

/* script_fence.c: fence …, node …, watchdog …, link …, witness …, clock …; expect node, power, device, node-reason. */
int script_fence(const struct words *words);
int script_node_verb(const struct words *words);
int script_watchdog(const struct words *words);
int script_link(const struct words *words);
int script_witness(const struct words *words);
int script_clock(const struct words *words);
int script_hostile(const struct words *words);
int script_newer(const struct words *words);
int script_expect_node(const struct words *words);
int script_expect_node_reason(const struct words *words);
int script_expect_power(const struct words *words);
int script_expect_device(const struct words *words);
