/* SPDX-License-Identifier: Apache-2.0
 * port/fencer.h by fence agents (ClusterLabs' FenceAgentAPI.md): options on stdin, exit status read, status read back.
 *
 * An agent is a file in one directory that the node's configuration names; it must belong to root and be writable by
 * nobody else. Its status says 0 for on, 2 for off; everything else is a failure.
 * Promises: all of port/fencer.h. The agents end with the daemon. Must never: run a file that somebody else than root could
 * have written; put an option, secret or not, into an argument list. */
#pragma once

#include "port/fencer.h"
#include "port/loop.h"

struct fencer_agents_config {
	char agents_dir[PATH_BYTES];  /* /usr/sbin */
	char secrets_dir[PATH_BYTES]; /* /etc/watari/secret */
};

struct fencer *fencer_agents_new(
	struct loop *loop, const struct fencer_agents_config *config, const struct fencer_callbacks *callbacks);

/* Ends what runs; nobody is called. Takes NULL. */
void fencer_agents_free(struct fencer *fencer);
