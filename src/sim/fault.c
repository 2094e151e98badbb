/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/fault.h"
#include "model/names.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "sim/node.h"
#include "sim/random.h"

enum { FLAP_SIDE = 100 };

NAMES_FUNCTION(fault_kind_name, FAULT_KINDS)

static void mend_run(void *ctx);

/* Away for a while, there for a while, and so on; false: that was all. */
static bool flap_again(struct mend *mend)
{
	struct sim *sim = mend->faults->sim;
	bool away = mend->again % 2;

	sim_trace(sim, "# %s's network %s", sim->nodes[mend->node].name, away ? "goes" : "comes");
	net_set_side(sim->net, mend->node, away ? FLAP_SIDE + mend->node : 0);
	if (!mend->again)
		return false;
	mend->again--;
	mend->item = timeline_after(sim->timeline, prng_between(&mend->faults->dice, 50, 4000) * 1000, mend_run, mend);
	return true;
}

/* The same of the witness; an even number of times more: there. */
static bool witness_again(struct mend *mend)
{
	struct sim *sim = mend->faults->sim;
	bool away = mend->again % 2;

	sim_trace(sim, "# the witness %s", away ? "goes" : "is there");
	if (away)
		net_witness_up(sim->net, false);
	else
		net_witness_mend(sim->net);
	if (!mend->again)
		return false;
	mend->again--;
	mend->item = timeline_after(sim->timeline, prng_between(&mend->faults->dice, 50, 8000) * 1000, mend_run, mend);
	return true;
}

static void mend_run(void *ctx)
{
	struct mend *mend = ctx;
	struct sim *sim = mend->faults->sim;
	struct sim_node *node = &sim->nodes[mend->node];

	switch (mend->kind) {
	case FAULT_POWER:
	case FAULT_POWER_ALL:
	case FAULT_DISK_LIE:
		sim_power_on(sim, mend->node);
		break;
	case FAULT_COROSYNC:
	case FAULT_RING_LOST:
		sim_corosync_start(sim, mend->node);
		break;
	case FAULT_PARTITION:
		sim_trace(sim, "# the network is whole");
		for (uint32_t id = 1; id <= sim->config.node_count; id++)
			net_set_side(sim->net, id, 0);
		break;
	case FAULT_LINK:
		sim_trace(sim, "# all links work");
		net_links_mend(sim->net);
		break;
	case FAULT_FLAP:
		if (flap_again(mend))
			return;
		break;
	case FAULT_WITNESS:
		if (witness_again(mend))
			return;
		break;
	case FAULT_DEVICE:
	case FAULT_DEVICE_LIES:
		sim_trace(sim, "# all devices work");
		outlets_mend(sim->outlets);
		break;
	case FAULT_DISK_HANG:
		sim_trace(sim, "# %s's disk answers again", node->name);
		disk_hang(node->disk, false);
		break;
	case FAULT_DISK_FAIL:
		sim_trace(sim, "# %s's disk works again", node->name);
		disk_fail_writes(node->disk, false);
		break;
	case FAULT_HOLD:
		sim_trace(sim, "# %s's machine goes on", node->name);
		machine_hold(node->machine, false);
		break;
	case FAULT_STORAGE:
		sim_storage(sim, mend->node, STORAGE_OK);
		break;
	case FAULT_KILL:
	case FAULT_PAUSE:
	case FAULT_BUSY:
	case FAULT_HOSTILE:
	case FAULT_DISK_DAMAGE:
	case FAULT_QEMU:
	case FAULT_GUEST:
	case FAULT_PANIC:
	case FAULT_SILENCE:
	case FAULT_STEP:
	case FAULT_STATE:
	case FAULT_CLOCK:
		assert(!"mends itself");
	}
	mend->node = 0;
}

/* NULL: too much is broken already. */
static struct mend *mend_later(struct faults *faults, enum fault_kind kind, uint32_t node, uint64_t delay_ms)
{
	for (uint32_t i = 0; i < MENDS_MAX; i++) {
		struct mend *mend = &faults->mends[i];
		if (mend->node)
			continue;
		*mend = (struct mend){.faults = faults, .kind = kind, .node = node};
		mend->item = timeline_after(faults->sim->timeline, delay_ms * 1000, mend_run, mend);
		return mend;
	}
	return NULL;
}

enum { BUSY_MAX_MS = 40000 * 200 / 1000 };

static uint64_t some_ms(struct faults *faults)
{
	static const uint32_t longest[] = {200, 1500, 5000, 15000, 40000};

	return prng_between(&faults->dice, 10, longest[prng_below(&faults->dice, ARRAY_SIZE(longest))]);
}

static void power(struct faults *faults, uint32_t node)
{
	if (faults->sim->nodes[node].powered && mend_later(faults, FAULT_POWER, node, some_ms(faults)))
		sim_power_off(faults->sim, node);
}

static void power_all(struct faults *faults)
{
	uint32_t spared = prng_below(&faults->dice, 2 * faults->sim->config.node_count);

	for (uint32_t id = 1; id <= faults->sim->config.node_count; id++)
		if (id != spared)
			power(faults, id);
}

static void corosync(struct faults *faults, uint32_t node, bool forgets)
{
	struct sim *sim = faults->sim;
	bool all = forgets && prng_chance(&faults->dice, 500);

	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		if ((all || id == node) && net_node_is_up(sim->net, id) &&
			mend_later(faults, FAULT_COROSYNC, id, some_ms(faults)))
			sim_corosync_kill(sim, id, forgets);
}

static void partition(struct faults *faults)
{
	struct sim *sim = faults->sim;
	uint32_t parts = prng_chance(&faults->dice, 800) ? 2 : 3;

	if (!mend_later(faults, FAULT_PARTITION, 1, some_ms(faults)))
		return;
	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		uint32_t side = prng_below(&faults->dice, parts);
		net_set_side(sim->net, id, side);
		sim_trace(sim, "# n%u is in part %u of the network", id, side);
	}
}

static void link_cut(struct faults *faults, uint32_t node)
{
	struct sim *sim = faults->sim;
	uint32_t other = 1 + prng_below(&faults->dice, sim->config.node_count);

	if (other == node || !mend_later(faults, FAULT_LINK, 1, some_ms(faults)))
		return;
	sim_trace(sim, "# n%u and n%u do not reach each other", node, other);
	net_set_link(sim->net, node, other, false);
}

static void flap(struct faults *faults, uint32_t node)
{
	if (mend_later(faults, FAULT_FLAP, node, 10))
		for (uint32_t i = 0; i < MENDS_MAX; i++)
			if (faults->mends[i].node == node && faults->mends[i].kind == FAULT_FLAP)
				faults->mends[i].again = 1 + 2 * prng_below(&faults->dice, 4);
}

/* Also such as are there again before anybody has noticed. */
static void witness_lost(struct faults *faults, uint32_t node)
{
	struct sim *sim = faults->sim;
	struct mend *mend = mend_later(faults, FAULT_WITNESS, node, some_ms(faults));

	if (!mend)
		return;
	if (prng_chance(&faults->dice, 500)) {
		sim_trace(sim, "# n%u does not reach the witness", node);
		net_witness_link(sim->net, node, false);
		return;
	}
	sim_trace(sim, "# the witness is lost");
	net_witness_up(sim->net, false);
	if (prng_chance(&faults->dice, 300))
		mend->again = 2 * prng_below(&faults->dice, 4);
}

static void clock_jumps(struct faults *faults, uint32_t node)
{
	static const int64_t jumps[] = {-3600000, 3600000, -30000, 30000, 2000, INT64_C(2366841600000)};

	sim_clock_jump(faults->sim, node, jumps[prng_below(&faults->dice, ARRAY_SIZE(jumps))]);
}

static void device_fault(struct faults *faults, enum fault_kind kind, uint32_t node)
{
	static const enum device_fault honest[] = {DEVICE_HANG, DEVICE_FAIL, DEVICE_IDLE, DEVICE_LATE, DEVICE_TWICE};
	struct sim *sim = faults->sim;
	struct prng *dice = &faults->dice;
	enum device_fault fault = honest[prng_below(dice, ARRAY_SIZE(honest))];
	char name[NAME_BYTES];

	if (!mend_later(faults, kind, node, some_ms(faults)))
		return;
	random_device_name(name, node, 1 + prng_below(dice, 2));
	if (kind == FAULT_DEVICE_LIES) {
		uint32_t other = 1 + prng_below(dice, sim->config.node_count);
		fault = prng_chance(dice, 500) ? DEVICE_LIE : DEVICE_BLIND;
		if (prng_chance(dice, 400) && other != node) {
			sim_trace(sim, "# %s is wired to n%u", name, other);
			outlets_wire(sim->outlets, name, other);
			return;
		}
	} else if (prng_chance(dice, 200)) {
		uint32_t by = 1 + prng_below(dice, sim->config.node_count);
		sim_trace(sim, "# n%u does not reach %s", by, name);
		outlets_cut(sim->outlets, name, by, true);
		return;
	}
	sim_trace(sim, "# %s: %s", name, device_fault_name((int)fault));
	outlets_fault(sim->outlets, name, fault, (uint32_t)prng_between(dice, 100, 12000));
}

static void hostile(struct faults *faults)
{
	static uint8_t bytes[GROUP_MESSAGE_MAX];
	struct sim *sim = faults->sim;
	struct prng *dice = &faults->dice;
	const uint8_t *recent;
	size_t size;
	uint32_t from = net_recent(sim->net, prng_below(dice, NET_RECENT_MAX), &recent, &size);
	uint32_t way = prng_below(dice, 4);

	if (!from)
		return;
	memcpy(bytes, recent, size);
	if (way == 0) {
		size = 1 + prng_below(dice, (uint32_t)size);
	} else if (way == 1) { /* another cluster's */
		uint8_t *uuid = memmem(bytes, size, SIM_CLUSTER_UUID, UUID_BYTES - 1);
		if (!uuid)
			return;
		uuid[UUID_BYTES - 2] ^= 1;
	} else if (way == 2) { /* noise */
		size = 1 + prng_below(dice, 2000);
		for (size_t i = 0; i < size; i++)
			bytes[i] = (uint8_t)prng_u64(dice);
	}
	sim_trace(sim, "# a hostile message from n%u: %s", from,
		(const char *[]){"cut short", "of another cluster", "noise", "repeated"}[way]);
	net_inject(sim->net, from, bytes, size);
}

/* A store that is lost is only replaced while the others have a quorum without it (sim_wipe_store); so one at a time,
 * and never of two, where the other may not know all that was lost. */
static bool may_spoil(struct faults *faults, uint32_t node)
{
	struct sim *sim = faults->sim;

	faults->spoiled &= ~sim_synced(sim, 1);
	if (sim->config.node_count == 2 || (faults->spoiled & ~node_bit(node)))
		return false;
	faults->spoiled |= node_bit(node);
	return true;
}

static void disk_fault(struct faults *faults, enum fault_kind kind, uint32_t id)
{
	struct sim *sim = faults->sim;
	struct sim_node *node = &sim->nodes[id];

	switch (kind) {
	case FAULT_DISK_HANG:
		if (mend_later(faults, kind, id, some_ms(faults))) {
			sim_trace(sim, "# %s's disk does not answer", node->name);
			disk_hang(node->disk, true);
		}
		break;
	case FAULT_DISK_FAIL:
		if (mend_later(faults, kind, id, some_ms(faults))) {
			sim_trace(sim, "# %s's disk fails", node->name);
			disk_fail_writes(node->disk, true);
		}
		break;
	case FAULT_DISK_DAMAGE:
		if (may_spoil(faults, id)) {
			sim_trace(sim, "# %s's store is damaged", node->name);
			disk_damage(node->disk);
			sim_daemon_kill(sim, id, 500);
		}
		break;
	default:
		if (node->powered && may_spoil(faults, id) && mend_later(faults, FAULT_DISK_LIE, id, some_ms(faults))) {
			sim_trace(sim, "# %s's disk lies", node->name);
			disk_lie(node->disk, true);
			sim_power_off(sim, id);
			disk_lie(node->disk, false);
		}
	}
}

static void machine_fault(struct faults *faults, enum fault_kind kind, uint32_t id)
{
	static const enum hv_state steps[] = {HV_STARTING, HV_PREPARING, HV_COPYING, HV_SEALED, HV_LOADING};
	struct sim *sim = faults->sim;
	struct sim_node *node = &sim->nodes[id];
	const char *vm = machine_vm(node->machine, prng_below(&faults->dice, 3));
	enum hv_state step = steps[prng_below(&faults->dice, ARRAY_SIZE(steps))];

	if (kind == FAULT_QEMU && vm) {
		sim_trace(sim, "# kill a QEMU on %s (%s)", node->name, vm);
		machine_kill_qemu(node->machine, vm);
	} else if (kind == FAULT_GUEST && vm) {
		machine_guest_poweroff(node->machine, vm);
	} else if (kind == FAULT_PANIC && vm) {
		machine_guest_panic(node->machine, vm);
	} else if (kind == FAULT_SILENCE && vm) {
		machine_qemu_silent(node->machine, vm, prng_chance(&faults->dice, 700));
	} else if (kind == FAULT_STEP) {
		sim_trace(sim, "# the next step of kind %u on %s fails", (unsigned)step, node->name);
		machine_fail_next(node->machine, step);
	} else if (kind == FAULT_HOLD && mend_later(faults, kind, id, some_ms(faults))) {
		sim_trace(sim, "# %s's machine holds", node->name);
		machine_hold(node->machine, true);
	}
}

static void storage_lost(struct faults *faults, uint32_t node)
{
	struct sim *sim = faults->sim;
	bool all = prng_chance(&faults->dice, 300);
	enum machine_storage how = prng_chance(&faults->dice, 300) ? STORAGE_HANG : STORAGE_ERROR;
	/* Often long enough for something to come of it (core/timing.h). */
	uint64_t ms = prng_chance(&faults->dice, 500) ? prng_between(&faults->dice, 10000, 60000) : some_ms(faults);

	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		if ((all || id == node) && mend_later(faults, FAULT_STORAGE, id, ms))
			sim_storage(sim, id, how);
}

static void state_rots(struct faults *faults)
{
	uint32_t n = prng_below(&faults->dice, 3);

	for (const struct world_state *state = world_states(faults->sim->world); state; state = state->next) {
		if (!state->complete || n--)
			continue;
		sim_trace(faults->sim, "# state %llu of %s rots", (unsigned long long)state->task, state->guest->name);
		world_state(faults->sim->world, state->guest->vm, state->task)->corrupt = true;
		return;
	}
}

/* What the cluster has to cope with, well within its bounds: the loss of nodes, of guests, and of trust. */
enum {
	FAULTS_TO_BEAR = 1u << FAULT_POWER | 1u << FAULT_POWER_ALL | 1u << FAULT_COROSYNC | 1u << FAULT_RING_LOST |
			 1u << FAULT_PARTITION | 1u << FAULT_QEMU | 1u << FAULT_GUEST | 1u << FAULT_HOSTILE |
			 1u << FAULT_STATE | 1u << FAULT_CLOCK | 1u << FAULT_WITNESS
};

static void throw(struct faults *faults, enum fault_kind kind, uint32_t node)
{
	struct sim *sim = faults->sim;

	faults->thrown |= !(FAULTS_TO_BEAR & 1u << kind);
	switch (kind) {
	case FAULT_POWER:
		power(faults, node);
		break;
	case FAULT_POWER_ALL:
		power_all(faults);
		break;
	case FAULT_KILL:
		sim_daemon_kill(sim, node, some_ms(faults));
		break;
	case FAULT_PAUSE:
		sim_daemon_pause(sim, node, prng_chance(&faults->dice, 300) ? 30000 : some_ms(faults));
		break;
	case FAULT_COROSYNC:
	case FAULT_RING_LOST:
		corosync(faults, node, kind == FAULT_RING_LOST);
		break;
	case FAULT_PARTITION:
		partition(faults);
		break;
	case FAULT_BUSY:
		net_busy(sim->net, node, some_ms(faults) * 200);
		faults->busy_until_ms = sim_now_ms(sim) + BUSY_MAX_MS;
		break;
	case FAULT_HOSTILE:
		hostile(faults);
		break;
	case FAULT_DISK_HANG:
	case FAULT_DISK_FAIL:
	case FAULT_DISK_DAMAGE:
	case FAULT_DISK_LIE:
		disk_fault(faults, kind, node);
		break;
	case FAULT_QEMU:
	case FAULT_GUEST:
	case FAULT_PANIC:
	case FAULT_SILENCE:
	case FAULT_STEP:
	case FAULT_HOLD:
		machine_fault(faults, kind, node);
		break;
	case FAULT_STATE:
		state_rots(faults);
		break;
	case FAULT_LINK:
		link_cut(faults, node);
		break;
	case FAULT_FLAP:
		flap(faults, node);
		break;
	case FAULT_CLOCK:
		clock_jumps(faults, node);
		break;
	case FAULT_DEVICE:
	case FAULT_DEVICE_LIES:
		device_fault(faults, kind, node);
		break;
	case FAULT_STORAGE:
		storage_lost(faults, node);
		break;
	case FAULT_WITNESS:
		witness_lost(faults, node);
		break;
	}
}

void fault_throw(struct faults *faults)
{
	uint32_t count = (uint32_t)__builtin_popcount(faults->kinds);

	if (!count)
		return;
	uint32_t n = prng_below(&faults->dice, count);
	uint32_t node = 1 + prng_below(&faults->dice, faults->sim->config.node_count);
	for (int kind = 0; kind < FAULT_KIND_COUNT; kind++)
		if (faults->kinds & 1u << kind && !n--)
			throw(faults, (enum fault_kind)kind, node);
}

static bool comes_back(const struct faults *faults, uint32_t node)
{
	for (uint32_t i = 0; i < MENDS_MAX; i++)
		if (faults->mends[i].node == node &&
			(faults->mends[i].kind == FAULT_POWER || faults->mends[i].kind == FAULT_DISK_LIE))
			return true;
	return false;
}

/* An administrator looks after stores that were refused, and switches nodes on again that were fenced. */
static void healer(void *ctx)
{
	struct faults *faults = ctx;

	for (uint32_t id = 1; id <= faults->sim->config.node_count; id++)
		if (!faults->sim->nodes[id].powered && !comes_back(faults, id) && prng_chance(&faults->dice, 400))
			sim_power_on(faults->sim, id);

	for (uint32_t id = 1; id <= faults->sim->config.node_count; id++)
		if (faults->sim->nodes[id].refused)
			sim_wipe_store(faults->sim, id);
	faults->healer = timeline_after(faults->sim->timeline, 5000000, healer, faults);
}

void faults_init(struct faults *faults, struct sim *sim, uint64_t seed)
{
	*faults = (struct faults){.sim = sim};
	prng_seed(&faults->dice, seed);
	/* Some runs know a few kinds of faults, some most; one in sixteen none. */
	uint32_t permille = (const uint32_t[]){100, 200, 400, 700}[prng_below(&faults->dice, 4)];
	for (int kind = 0; kind < FAULT_KIND_COUNT; kind++)
		if ((kind != FAULT_WITNESS || sim->config.witness) && prng_chance(&faults->dice, permille))
			faults->kinds |= 1u << kind;
	if (prng_chance(&faults->dice, 700)) /* what comes of a lie is not judged: most runs know none */
		faults->kinds &= ~(1u << FAULT_DEVICE_LIES);
	if (prng_chance(&faults->dice, 62))
		faults->kinds = 0;
	faults->healer = timeline_after(sim->timeline, 5000000, healer, faults);
}

bool faults_disturb(struct faults *faults)
{
	bool disturb = faults->thrown || sim_now_ms(faults->sim) < faults->busy_until_ms;

	faults->thrown = false;
	for (uint32_t i = 0; i < MENDS_MAX; i++)
		disturb |= faults->mends[i].node && !(FAULTS_TO_BEAR & 1u << faults->mends[i].kind);
	return disturb;
}

static void forget(struct faults *faults, uint32_t kinds)
{
	for (uint32_t i = 0; i < MENDS_MAX; i++) {
		struct mend *mend = &faults->mends[i];
		if (!mend->node || !(kinds & 1u << mend->kind))
			continue;
		timeline_cancel(faults->sim->timeline, mend->item);
		mend->node = 0;
	}
	timeline_cancel(faults->sim->timeline, faults->healer);
	faults->healer = NULL;
}

void faults_rest(struct faults *faults)
{
	sim_trace(faults->sim, "# nobody comes, nothing else breaks");
	forget(faults, FAULTS_TO_BEAR);
}

void faults_end(struct faults *faults)
{
	forget(faults, UINT32_MAX);
}
