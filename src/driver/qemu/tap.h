/* SPDX-License-Identifier: Apache-2.0
 * Network: bridges of this host, and a tap device on one of them for a VM.
 *
 * A tap belongs to the descriptor: it disappears with the last process that holds it, so nothing is ever left behind.
 * Must never: change a bridge, but for the tap that is put on it. */
#pragma once

#include "model/cluster.h"

/* ERR_UNFIT when there is no bridge of this name here. */
int tap_check_bridge(const char *bridge, struct err *err);

/* A new tap, up and on the bridge. Returns its descriptor, the caller's, or -1. vnet_hdr: for virtio-net. */
int tap_open(const char *bridge, bool vnet_hdr, struct err *err);

/* The bridges of this host, in order of their names; what does not fit is left out. */
void tap_bridges(struct node_facts *facts);
