/* SPDX-License-Identifier: Apache-2.0
 * Scenario folders: a cluster, a script of what happens to it, and the trace that must come of it.
 *
 *	README		what is proved, and the row of the list of faults
 *	cluster		how many nodes, which VMs (scenario.c has the words)
 *	script		"at MS COMMAND", "when CONDITION COMMAND", "expect …" (script.c has the words)
 *	expected	the trace up to the script's end; written by --update
 *
 * Times are exact in a scenario: no dice are thrown. The checkers watch as in random runs, and when the script has ended
 * everything is mended and must come to rest.
 *
 * Promises: a failure names the file and the line. Must never: pass with a script that was not run to its end. */
#pragma once

#include "sim/sim.h"

#include <stdio.h>

struct scenario {
	const char *dir;
	struct sim *sim;
	bool print; /* the trace, also what engines say, to stdout */
	char *trace;
	size_t trace_size, trace_capacity;
	bool brief; /* the trace leaves out what befalls single VMs of a preload */
	uint64_t began_us; /* the script */
	bool ended; /* the trace's end is reached */
	struct engine_reply reply; /* the last one */
	bool replied;
};

/* 0: it came out as expected. -1 with err: it did not, or the folder is not in order. */
int scenario_run(const char *dir, bool update, bool print, struct err *err);

/* script.c */
int script_run(struct scenario *scenario, FILE *script, struct err *err);
