/* SPDX-License-Identifier: Apache-2.0
 * What a saved state says of the machine that it is of (the manifest's facts), and what a load expects of it. Two states
 * of the same hardware have equal facts; any difference is refused before a byte reaches QEMU.
 * Must never: leave out what a guest could see. */
#pragma once

#include "driver/qemu/instance.h"

/* New references. */
json_t *facts_of_save(const struct instance *instance);
json_t *facts_to_expect(const struct instance *instance, const struct hv_saved *saved);
