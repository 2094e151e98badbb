/* SPDX-License-Identifier: Apache-2.0
 * Other clusters of ours in the same corosync: two of them given one network and one key.
 *
 * The process group bears the cluster's uuid, so that they neither hear nor see each other; whoever waits for members
 * that never come is to be told why. Must never: decide anything; what it finds is for words alone. */
#pragma once

#include "model/limits.h"

#include <corosync/cpg.h>
#include <stdbool.h>

/* The uuid of a process group of ours other than `group_name`; false, and *uuid untouched, where there is none, or
 * corosync does not say. Asks corosync, and waits for its answer. */
bool strangers_find(cpg_handle_t cpg, const char *group_name, char uuid[UUID_BYTES]);

/* From a group's name, which is not terminated; false for any other program's. */
bool strangers_parse(const char *name, size_t length, const char *group_name, char uuid[UUID_BYTES]);
