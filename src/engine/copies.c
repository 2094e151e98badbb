/* SPDX-License-Identifier: Apache-2.0
 * Copies on this machine that no VM of the log accounts for, and that may not run on. */
#include "engine/internal.h"

#include <stdio.h>

struct unknown {
	struct engine *engine;
	bool any; /* also such as are ending */
	uint32_t count;
	char uuids[16][UUID_BYTES];
};

static void unknown_add(struct unknown *unknown, const char *vm, const struct hv_info *info)
{
	unknown->any = true;
	if (info->state != HV_STOPPING && unknown->count < ARRAY_SIZE(unknown->uuids))
		snprintf(unknown->uuids[unknown->count++], UUID_BYTES, "%s", vm);
}

static void find_unknown(void *ctx, const char *vm, const struct hv_info *info)
{
	struct unknown *unknown = ctx;

	if (!engine_vm(unknown->engine, vm))
		unknown_add(unknown, vm, info);
}

static void find_dropped(void *ctx, const char *vm, const struct hv_info *info)
{
	struct unknown *unknown = ctx;
	const struct vm *known = engine_vm(unknown->engine, vm);
	uint32_t node = unknown->engine->ports.group->node;

	if (!known || (known->owner != node && known->target != node))
		unknown_add(unknown, vm, info);
}

static bool end_each(struct engine *engine, void (*find)(void *ctx, const char *vm, const struct hv_info *info))
{
	struct hypervisor *hv = engine->ports.hypervisor;
	struct unknown unknown = {.engine = engine};

	hv->ops->each(hv, find, &unknown);
	for (uint32_t i = 0; i < unknown.count; i++)
		hv->ops->kill(hv, unknown.uuids[i]);
	return unknown.any;
}

void copies_end_unknown(struct engine *engine)
{
	end_each(engine, find_unknown);
}

bool copies_of_dropped(struct engine *engine)
{
	return (engine->cluster->droppers & node_bit(engine->ports.group->node)) && end_each(engine, find_dropped);
}
