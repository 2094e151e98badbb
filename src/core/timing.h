/* SPDX-License-Identifier: Apache-2.0
 * Every time limit of the core, in one place.
 *
 * A move that goes wrong as late as it can: asked at 0 s, the target's checks hang until PREPARE_LIMIT (60 s): the guest
 * runs on at the source, nothing had stopped. Or: sealed at t, the target's load hangs until t + LOAD_LIMIT (30 s): the
 * guest, stopped since t, runs on at the source right after. So LOAD_LIMIT is the longest outage that a failed load costs.
 *
 * Promises: what must be longer than what else is asserted at the end, when this is compiled. Must never: be configured: all
 * nodes decide by the same numbers. What differs (token, watchdog) is told in facts and comes in as an argument. */
#pragma once

#include <stdint.h>

enum {
	PREPARE_LIMIT_MS = 60 * 1000,
	COPY_LIMIT_MS = 3600 * 1000, /* the driver bounds the copy by progress; this is the last resort */
	WAIT_LIMIT_MS = 30 * 60 * 1000, /* for the pages of the move before; the target stands by meanwhile, and the guest runs */
	LOAD_LIMIT_MS = 30 * 1000,
	BACK_LIMIT_MS = 10 * 1000, /* for a look at a process; the guest is stopped, and its saved state can be had */
	RESTORE_LIMIT_MS = 30 * 60 * 1000, /* load of a cold state: every page is verified first, nobody waits in the dark */
	SHUTDOWN_LIMIT_MS = 180 * 1000,
	FENCE_RETRY_MS = 5 * 1000, /* doubled with each round in which every device failed, up to 2^SHIFT_MAX times */
	FENCE_RETRY_SHIFT_MAX = 3,
	FENCE_SPLIT_DELAY_MS = 3 * 1000, /* head start of the half that has more to lose */
	FENCES_PERIOD_MS = 3600 * 1000,
	FENCE_RECALL_MS = 10 * 1000, /* of a fencing whose node came back: a switch that was sent is through by then */
	FENCES_MAX = 5, /* of one node within the period; then a person decides */

	STARTS_MAX = 4, /* under way on one node at a time: what a host's disks and CPUs take without slowing each other */
	START_SLOT_MS = 60 * 1000, /* a start that takes longer keeps no other one waiting */
	MOVES_MAX = 2, /* by themselves, from or to one node at a time */
	MOVE_AGAIN_MS = 5 * 60 * 1000, /* after one that failed */
	FAILBACK_STABLE_MS = 5 * 60 * 1000, /* a preferred owner is back for so long before VMs go home */
	FLAPS_MAX = 3, /* left the ring so often ... */
	FLAP_PERIOD_MS = 3600 * 1000, /* ... within this: quarantined */
	QUARANTINE_MS = 3600 * 1000,

	STORAGE_ASK_MS = 3 * 1000,	/* see below */
	STORAGE_GRACE_MS = 10 * 1000,
	STORAGE_ANSWER_MS = 10 * 1000,
	STORAGE_CONFIRM_MS = 8 * 1000,
	STORAGE_AGAIN_MS = 30 * 1000,
	STORAGE_FORGET_MS = 10 * 60 * 1000,
	STORAGE_KILL_MS = 15 * 1000,
	ROOM_AGAIN_MS = 1000, /* a node had no memory free: doubled each time, up to 2^SHIFT_MAX times */
	ROOM_AGAIN_SHIFT_MAX = 4,
	KILLS_MAX = 2, /* nodes that died soon after a VM's start, one after the other: see quarantine.c */
	KILL_WINDOW_MS = 5 * 60 * 1000,
};

/* A guest whose disks cannot be reached where it runs (core/storage.c). On one node:
 *     0.0 s   a write fails, QEMU pauses the guest, its node says so
 *     3.0 s   n2 is asked whether it reaches them (ASK): a path that comes back at once disturbs nobody
 *     3.1 s   it does
 *     11.1 s  the owner has had its time to see the end of a fault that ended for all (CONFIRM), and has not said so; the guest
 *             was away for as long as it is let (GRACE): its QEMU is killed. The node tries a paused guest every 2 s, and
 *             knows that it runs 2 s later
 *     11.2 s  it is proven dead, and starts on n2
 * On all nodes for two minutes: n2 says no, n3 says no; from 3.1 s on nobody is left to ask, and everybody is asked anew every
 * 30 s (AGAIN). Back at 120 s: n2, asked at 123 s, says yes; the owner had its guest run on at 122 s, and said so. Nothing
 * happens. A storage that hangs can hold QEMU in the kernel, deaf to SIGKILL: 15 s (KILL) after it was to end, its node leaves the
 * cluster, where that can be proven off; then as any lost node. A node that hangs says nothing: after ANSWER it counts as one that says no. A node that did not reach a VM's disks is
 * not tried with it again for 10 min (FORGET), so that no VM goes round faster than that. */
enum { STORAGE_LOOK_MS = 2000 }; /* of the driver, at a paused guest */

/* How corosync loses a node. The token is lost after `token` (T) without it; those who still hear each other agree after
 * `consensus`, 1.2 T, that it is gone: 2.2 T from the cord to the new view (measured: 2.3 s at T = 1 s). T is the real
 * one, runtime.config.totem.token: token + (nodes - 2) x token_coefficient.
 *
 *   nodes  token, coefficient   T        view without the node after
 *   2..64  1000, 0              1.0 s    2.2 s      what watari's own configuration says
 *   2      3000, 650            3.0 s    6.6 s      corosync's defaults
 *   8      3000, 650            6.9 s    15.2 s
 *   64     3000, 650            43.3 s   95.3 s */
#define TIMING_DETECT_MS(token_ms) ((uint64_t)(token_ms) * 22 / 10)

/* Self-fencing (docs/self-fencing.md). A node feeds its watchdog only while it holds a lease: as many members as a commit
 * needs have answered, within this view, something that it sent at most LEASE ago. Whoever commits a view without the node
 * must have one of them with him, and that one answered before. So the node's last feed is at most LEASE after the moment
 * at which the others can first know that they lost it.
 *
 * T = 1 s, watchdog W = 5 s, a node with guests cut off at 0:
 *     0.0 s   the last answer that it got was to something sent at -0.5 … 0.0 s
 *     2.2 s   its lease ends, and with it the feeding (LEASE). About now both sides get their views
 *     5.95 s  it kills its guests (W - WATCHDOG_KILL after the last feed), unless it is back in sync before
 *     7.2 s   they are gone, and the watchdog is disarmed; else it fires (W after the last feed)
 *     10.4 s  the others, who began to count at 2.2 s, take it for dead (PROOF), and start its guests
 * The same node, when another one dies at 0: its lease ends at 1.7 … 2.2 s, at 2.2 s comes the view without the dead one,
 * at 2.3 s, or at load a second later (WATCHDOG_SYNC), it is in sync and feeds on: 1.6 s without feeding at worst, of the 3.75 s
 * after which it would kill its guests. */
enum {
	WATCHDOG_DEFAULT_MS = 5000,
	WATCHDOG_MIN_MS = 2000,
	WATCHDOG_MAX_MS = 255 * 1000,
	WATCHDOG_SYNC_MS = 1000,     /* from a new view until a busy node is in sync with it */
	WATCHDOG_KILL_MIN_MS = 1000, /* from SIGKILL until the guests are proven gone; large ones take longer to fall apart */
	WATCHDOG_MARGIN_MS = 1000,   /* clocks that drift, a feed that was on its way, the machine's last breath */
	WATCHDOG_START_MS = 1500,    /* from the proof until QEMU runs elsewhere */
	WATCHDOG_TAKEOVER_MS = 12 * 1000, /* what is promised: from the cord to QEMU elsewhere, by watchdog alone */
	LEASE_PERIOD_MIN_MS = 50,
	LEASE_PERIOD_MAX_MS = 1000,
};
#define TIMING_KILL_MS(watchdog_ms)                                                                                    \
	((uint64_t)(watchdog_ms) / 4 > WATCHDOG_KILL_MIN_MS ? (uint64_t)(watchdog_ms) / 4                              \
							    : (uint64_t)WATCHDOG_KILL_MIN_MS)
#define TIMING_PROOF_MS(token_ms, watchdog_ms) (TIMING_DETECT_MS(token_ms) + (watchdog_ms) + WATCHDOG_MARGIN_MS)

static inline uint64_t timing_detect_ms(uint32_t token_ms)
{
	return TIMING_DETECT_MS(token_ms);
}

static inline uint64_t timing_lease_ms(uint32_t token_ms)
{
	return TIMING_DETECT_MS(token_ms);
}

/* Between two questions, and two feeds. */
static inline uint64_t timing_lease_period_ms(uint32_t token_ms)
{
	uint64_t period = token_ms / 4;

	if (period < LEASE_PERIOD_MIN_MS)
		return LEASE_PERIOD_MIN_MS;
	return period > LEASE_PERIOD_MAX_MS ? LEASE_PERIOD_MAX_MS : period;
}

/* So long before the watchdog would fire the guests are killed. */
static inline uint64_t timing_kill_ms(uint32_t watchdog_ms)
{
	return TIMING_KILL_MS(watchdog_ms);
}

/* The shortest watchdog for this token: also a daemon that is killed while a ring is being made, and started again, must
 * be in sync and feed before the guests would have to be killed (2.2 T + SYNC + KILL). */
static inline uint64_t timing_watchdog_needed_ms(uint32_t token_ms)
{
	uint64_t calm = TIMING_DETECT_MS(token_ms) + WATCHDOG_SYNC_MS;
	uint64_t quarter = (calm * 4 + 2) / 3;

	return quarter > calm + WATCHDOG_KILL_MIN_MS ? quarter : calm + WATCHDOG_KILL_MIN_MS;
}

/* quorum_loss=stop without a watchdog: guests are killed when the node has been out of sync for so long. */
static inline uint64_t timing_quorum_loss_ms(uint32_t token_ms)
{
	return TIMING_DETECT_MS(token_ms) + 3000;
}

/* Counted by a member from when it has applied the view without the node, on its monotonic clock: how long until the
 * node's guests are certainly dead. The node's last feed is at most LEASE later than that moment; then its watchdog's
 * whole time, and a margin. It ends at once when the node is in a view again. */
static inline uint64_t timing_watchdog_proof_ms(uint32_t token_ms, uint32_t watchdog_ms)
{
	return TIMING_PROOF_MS(token_ms, watchdog_ms);
}

_Static_assert(TIMING_DETECT_MS(1000) + TIMING_PROOF_MS(1000, WATCHDOG_DEFAULT_MS) + WATCHDOG_START_MS <= WATCHDOG_TAKEOVER_MS,
	"the promise of the default configuration");
_Static_assert(TIMING_DETECT_MS(1000) + WATCHDOG_SYNC_MS < WATCHDOG_DEFAULT_MS - TIMING_KILL_MS(WATCHDOG_DEFAULT_MS),
	"a healthy node feeds again, after the loss of another one, before it would kill its guests");
_Static_assert(TIMING_KILL_MS(WATCHDOG_MIN_MS) < WATCHDOG_MIN_MS, "there is time between the last feed and the kill");

_Static_assert(STORAGE_CONFIRM_MS >= 3 * STORAGE_LOOK_MS, "a guest that runs on again is known to, before it would be ended");
_Static_assert(KILL_WINDOW_MS <= FAILBACK_STABLE_MS, "nothing goes home to a node whose fate is open");
_Static_assert(BACK_LIMIT_MS < LOAD_LIMIT_MS, "a look is shorter than a load");
_Static_assert(LOAD_LIMIT_MS < PREPARE_LIMIT_MS, "a stopped guest must not wait longer than a running one");
