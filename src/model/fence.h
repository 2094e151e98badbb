/* SPDX-License-Identifier: Apache-2.0
 * A fence device: what turns one node off, so that silence becomes proof (design §7). Part of the replicated state.
 *
 * A device is a fence agent of the ClusterLabs project (the protocol: FenceAgentAPI.md there) and the options that it
 * is given. Devices of one node are tried level by level; within a level all must succeed (a server with two power
 * supplies has two devices on level 1). Promises: plain data; fence_device_check refuses whatever could break the
 * agent's key=value lines, override what watari itself says to the agent, or make the agent run a program of the
 * caller's choice as root. Must never: hold a secret. A secret option holds the path of a file that every node has for
 * itself. */
#pragma once

#include "base/schema.h"
#include "model/limits.h"

struct fence_option {
	char name[32];	 /* as the agent's metadata calls it: ip, username, plug */
	char value[192]; /* what the agent gets, or where it lies */
	bool secret;	 /* value is the absolute path of a file that only root can read; its first line is the value */
};

struct fence_device {
	char name[NAME_BYTES]; /* unique; empty: the slot is free */
	uint32_t node;	       /* id of the node that it switches */
	char agent[64];	       /* a file name, fence_…, looked up in each node's own agent directory */
	uint32_t level;	       /* 1 … FENCE_LEVELS_MAX, lower ones first */
	uint32_t limit_ms;     /* for the whole of one attempt: status, off, status until it says off */
	uint32_t delay_ms;     /* before the attempt: gives this device's node a head start in a race of two halves */
	uint32_t option_count;
	struct fence_option options[FENCE_OPTIONS_MAX];
	bool distrusted; /* it said off about a node that was seen running on: not used until it is set again */
};

/* What an agent says of one of its options (its metadata), in printable ASCII for a person. Never part of the state. */
struct fence_option_about {
	char name[32];
	char about[112];
	char standard[48]; /* what holds where it is not given; empty: nothing, or it is not told */
	bool required;
	bool secret; /* watari takes it from a file alone */
};

enum { FENCE_ABOUT_MAX = 128 };
struct fence_agent_about {
	char about[128];
	uint32_t option_count;
	struct fence_option_about options[FENCE_ABOUT_MAX]; /* those that a device may have */
};

extern const struct schema fence_option_schema;
extern const struct schema fence_device_schema;

/* Fills level and limit_ms where they are 0. */
void fence_device_default(struct fence_device *device);

/* 0, or -1 with ERR_INVALID and the rule that is broken. Checks the device alone: whether the node exists and the name
 * is free is the core's to say, whether the options fit the agent is the fencer's (its metadata lies on the nodes). */
int fence_device_check(const struct fence_device *device, struct err *err);

/* Why a device must not have an option of this name ("_" for "-"), or NULL. */
const char *fence_option_taken(const char *name);
/* Agents take "-" and "_" for each other. */
bool fence_option_same(const char *a, const char *b);
/* By its name: never in plain text. */
bool fence_option_is_secret(const char *name);
