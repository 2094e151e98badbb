/* SPDX-License-Identifier: Apache-2.0
 * Every time limit of the core, in one place.
 *
 * A move that goes wrong as late as it can: asked at 0 s, the target's checks hang until PREPARE_LIMIT (60 s): the guest
 * runs on at the source, nothing had stopped. Or: sealed at t, the target's load hangs until t + LOAD_LIMIT (30 s): the
 * guest, stopped since t, runs on at the source right after. So LOAD_LIMIT is the longest outage that a failed load costs. */
#pragma once

enum {
	PREPARE_LIMIT_MS = 60 * 1000,
	COPY_LIMIT_MS = 3600 * 1000, /* the driver bounds the copy by progress; this is the last resort */
	LOAD_LIMIT_MS = 30 * 1000,
	RESTORE_LIMIT_MS = 30 * 60 * 1000, /* load of a cold state: every page is verified first, nobody waits in the dark */
	SHUTDOWN_LIMIT_MS = 180 * 1000,
	DEATHS_PERIOD_MS = 15 * 60 * 1000,
	DEATHS_MAX = 3, /* restarts within the period; the next death is FAILED */
};

_Static_assert(LOAD_LIMIT_MS < PREPARE_LIMIT_MS, "a stopped guest must not wait longer than a running one");
