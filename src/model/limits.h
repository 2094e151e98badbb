/* SPDX-License-Identifier: Apache-2.0
 * Fixed capacities (design §3). Arrays in the model have these sizes; nothing grows at run time.
 * Must never: become smaller. What an older version has stored or sends would be refused. */
#pragma once

#include <stdint.h>

enum {
	NODES_MAX = 64, /* corosync node ids are 1 … NODES_MAX here; id - 1 is the index and the bit */
	VMS_MAX = 10000,
	VIEWS_MAX = 32, /* that are remembered, to tell histories apart */
	TASKS_MAX = 256, /* the newest tasks that are remembered */
	DELETED_MAX = 64, /* the newest VMs that were deleted */
	VM_DISKS_MAX = 8,
	VM_NICS_MAX = 4,
	NODE_BRIDGES_MAX = 16,
	FENCE_DEVICES_MAX = 128, /* two for each node */
	FENCE_OPTIONS_MAX = 16,
	FENCE_LEVELS_MAX = 4,

	NAME_BYTES = 64, /* with NUL, as all of these */
	UUID_BYTES = 37,
	PATH_BYTES = 256,
	APPEND_BYTES = 512,
	REASON_BYTES = 224,
	BRIDGE_BYTES = 16, /* IFNAMSIZ */
	MAC_BYTES = 18,
	MODEL_BYTES = 64,

	MEMORY_MIB_MIN = 16,
	MEMORY_MIB_MAX = 4 << 20, /* 4 TiB */
	VCPUS_MAX = 256,
	FENCE_LIMIT_MS_MIN = 1000,
	FENCE_LIMIT_MS_MAX = 120000,
	FENCE_LIMIT_MS_DEFAULT = 20000,
	FENCE_DELAY_MS_MAX = 60000,
};

#define TIME_MS_MAX (UINT64_C(1) << 48) /* the year 10889: no clock says more, and a limit added to it does not wrap */
