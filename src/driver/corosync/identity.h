/* SPDX-License-Identifier: Apache-2.0
 * Who corosync's configuration says that we are: read at the start, and again with each new connection.
 * Promises: all of it, or nothing. Must never: be asked on the loop once the daemon runs, since corosync may hang; accept a
 * network between the nodes that is not encrypted. */
#pragma once

#include "base/err.h"
#include "model/limits.h"

#include <stdint.h>

struct corosync_identity {
	uint32_t token_ms; /* the real one; 0: corosync does not say */
	uint32_t node;	/* 1 … NODES_MAX */
	uint32_t nodes; /* in the nodelist */
	char name[NAME_BYTES];
	char cluster_name[NAME_BYTES];
};

/* ERR_UNAVAILABLE where corosync does not run; ERR_INVALID names the line of corosync.conf to change, also where the
 * network between the nodes is not encrypted. */
int corosync_identify(struct corosync_identity *identity, struct err *err);
