/* SPDX-License-Identifier: Apache-2.0
 * A node whose program is one version ahead (faults.md B23): this version's engine, and between it and the group what a
 * newer one would add. Everything that it sends says the next protocol, and has a field that nobody here knows, in the
 * header and in events. On demand it sends an event of a kind that only it knows, or says that its protocol is needed.
 * Promises: switched off, it hands everything on as it is. Must never: touch what the engine does with what it hears. */
#pragma once

#include "port/group.h"
#include "engine/engine.h"

struct newer {
	struct group group; /* the engine's */
	struct group *inner;
	struct group_callbacks engine; /* the engine's own */
	bool on;		       /* else nothing is changed */
	bool needs;		       /* what it says from now on is not to be skipped by older programs */
};

/* What the group is to call instead of the engine. */
struct group_callbacks newer_callbacks(struct newer *newer, const struct group_callbacks *engine);
struct group *newer_port(struct newer *newer, struct group *inner);
/* An event of a kind that older programs do not know; a tick to this one. */
void newer_event(struct newer *newer, const struct engine *engine);
