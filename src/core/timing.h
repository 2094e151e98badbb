/* SPDX-License-Identifier: Apache-2.0
 * Every time limit of the core, in one place.
 *
 * A move that goes wrong as late as it can: asked at 0 s, the target's checks hang until PREPARE_LIMIT (60 s): the guest
 * runs on at the source, nothing had stopped. Or: sealed at t, the target's load hangs until t + LOAD_LIMIT (30 s): the
 * guest, stopped since t, runs on at the source right after. So LOAD_LIMIT is the longest outage that a failed load costs. */
#pragma once

#include <stdint.h>

enum {
	PREPARE_LIMIT_MS = 60 * 1000,
	COPY_LIMIT_MS = 3600 * 1000, /* the driver bounds the copy by progress; this is the last resort */
	LOAD_LIMIT_MS = 30 * 1000,
	RESTORE_LIMIT_MS = 30 * 60 * 1000, /* load of a cold state: every page is verified first, nobody waits in the dark */
	SHUTDOWN_LIMIT_MS = 180 * 1000,
	FENCE_RETRY_MS = 5 * 1000, /* doubled with each round in which every device failed, up to 2^SHIFT_MAX times */
	FENCE_RETRY_SHIFT_MAX = 3,
	FENCE_SPLIT_DELAY_MS = 3 * 1000, /* head start of the half that has more to lose */
	FENCES_PERIOD_MS = 3600 * 1000,
	FENCES_MAX = 5, /* of one node within the period; then a person decides */
	DEATHS_PERIOD_MS = 15 * 60 * 1000,
	DEATHS_MAX = 3, /* restarts within the period; the next death is FAILED */
};

/* Counted by a member from the moment it knows that the node left: how long until the node's watchdog has certainly fired.
 * The node feeds for as long as it believes itself to be in the view; it may learn later than the others that it is not,
 * by as much as detection takes (2.2 x the token: docs/decisions and design section 4). Then the watchdog's whole time,
 * and a margin for the clocks' drift and the machine's last breath.
 *   token 1 s, watchdog 5 s: cut at 0; the others know at 1.2 ... 2.3 s; the node's last feed is at 2.3 s at the latest; it
 *   is dead at 7.3 s; the others wait until 1.2 + 8.2 = 9.4 s at the earliest. */
enum { WATCHDOG_MARGIN_MS = 1000 };
static inline uint64_t timing_watchdog_proof_ms(uint32_t token_ms, uint32_t watchdog_ms)
{
	return (uint64_t)token_ms * 22 / 10 + watchdog_ms + WATCHDOG_MARGIN_MS;
}

_Static_assert(LOAD_LIMIT_MS < PREPARE_LIMIT_MS, "a stopped guest must not wait longer than a running one");
