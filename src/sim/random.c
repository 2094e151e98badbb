/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/random.h"
#include "sim/check.h"
#include "sim/drill.h"
#include "sim/fault.h"
#include "sim/preload.h"

#include <stdio.h>
#include <string.h>

enum { START_ALL_MS = 20 * 1000, REST_MS = 50 * 1000, CALM_US = 250 * 1000 };

struct random_run {
	struct sim *sim;
	struct prng dice;
	struct faults faults;
	uint32_t vms; /* to have at a time */
	uint32_t request_ms, fault_ms; /* typical times between two */
	struct drill_config fences;
	uint64_t end_ms;
	struct timeline_item *calm;
};

static uint32_t pick(struct prng *dice, const uint32_t *values, uint32_t count)
{
	return values[prng_below(dice, count)];
}
#define PICK(dice, ...) pick(dice, (const uint32_t[]){__VA_ARGS__}, ARRAY_SIZE(((const uint32_t[]){__VA_ARGS__})))

static void configure(struct sim_config *config, struct prng *dice, const struct random_options *options)
{
	config->node_count = options->nodes ? options->nodes : PICK(dice, 2, 2, 3, 3, 3, 3, 3, 4, 4, 5, 5, 7);
	config->two_node = config->node_count == 2 && prng_chance(dice, 500);
	config->witness = options->witness;
	config->two_node &= !config->witness;
	config->step_ms = PICK(dice, 5, 50, 200, 200, 1000, 5000);
	config->net_delay_us = PICK(dice, 200, 1000, 1000, 10000);
	config->net_slow_permille = PICK(dice, 0, 20, 100);
	config->net_late_permille = PICK(dice, 0, 500, 1000);
	config->net_torn_permille = PICK(dice, 0, 500, 1000);
	config->net_steps_permille = PICK(dice, 0, 300);
	config->lost_max_ms = PICK(dice, 400, 2500, 2500);
	if (config->net_delay_us >= 10000) /* a token of 180 ms would never come round there */
		config->lost_max_ms = 2500;
	config->disk_us = PICK(dice, 300, 2000, 2000, 30000);
	config->disk_slow_permille = PICK(dice, 1, 50);
	config->fail_permille = PICK(dice, 0, 0, 20, 150);
	config->broken_permille = PICK(dice, 0, 500, 1000);
	config->deaf_permille = PICK(dice, 0, 200);
	config->postcopy = prng_chance(dice, 700);
	config->snapshot_every = PICK(dice, 5, 30, 30, 1000);
	config->skew_max_ms = PICK(dice, 0, 50, 120000);
	config->memory_mib = PICK(dice, 2048, 8192, 65536);
	config->fence_step_ms = PICK(dice, 20, 100, 800);
	config->vms_max = options->vms + SIM_VMS_DEFAULT;
	/* Half as much again as they need, so that nodes can be lost. */
	if (options->vms)
		config->memory_mib = (options->vms / config->node_count + 1) * 900;
	config->trace = options->trace;
	config->trace_ctx = options->trace_ctx;
}

void random_device_name(char name[NAME_BYTES], uint32_t node, uint32_t level)
{
	snprintf(name, NAME_BYTES, "%s-n%u", level == 1 ? "ipmi" : "pdu", node);
}

static void configure_fences(struct random_run *run)
{
	struct sim *sim = run->sim;
	struct drill_config *fences = &run->fences;

	fences->levels = PICK(&run->dice, 0, 1, 1, 1, 2);
	fences->limit_ms = PICK(&run->dice, 3000, 6000);
	fences->watchdog_ms = PICK(&run->dice, 0, 0, 3000, 8000);
	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		fences->devices |= prng_chance(&run->dice, 900) ? node_bit(id) : 0;
		sim_watchdog(sim, id, prng_chance(&run->dice, 800) ? fences->watchdog_ms : 0);
	}
}

/* What the dice made, as the administrators of an old cluster had made it before. */
static void preload(struct random_run *run, uint32_t vms)
{
	static struct fence_device devices[FENCE_DEVICES_MAX];
	const struct drill_config *fences = &run->fences;
	struct sim_preload preload = {.vms = vms, .devices = devices};

	for (uint32_t id = 1; id <= run->sim->config.node_count; id++)
		for (uint32_t level = 1; level <= fences->levels && (fences->devices & node_bit(id)); level++)
			drill_device(fences, &devices[preload.device_count++], id, level);
	sim_preload(run->sim, &preload);
}

/* One of the VMs that were ever created. */
static const struct vm_def *any_vm(struct random_run *run)
{
	struct sim *sim = run->sim;

	return sim->vm_count ? &sim->vms[prng_below(&run->dice, sim->vm_count)].def : NULL;
}

static uint32_t any_node(struct random_run *run)
{
	return 1 + prng_below(&run->dice, run->sim->config.node_count);
}

static void ask(struct random_run *run, enum event_kind kind, const struct vm_def *def, uint32_t target, bool flag)
{
	struct event event = {.kind = kind, .target = target};

	strcpy(event.by, "root");
	strcpy(event.vm, def->uuid);
	event.force = kind == EVENT_VM_START && flag;
	event.dry_run = kind == EVENT_VM_MOVE && flag;
	if (kind == EVENT_VM_CREATE || kind == EVENT_VM_EDIT)
		event.def = *def;
	sim_request(run->sim, any_node(run), &event, NULL, NULL);
}

static void ask_create(struct random_run *run)
{
	char name[NAME_BYTES];
	uint32_t memory = PICK(&run->dice, 64, 512, 1024);

	if (run->sim->vm_count >= run->vms)
		return;
	snprintf(name, sizeof(name), "vm%u", run->sim->vm_count + 1);
	uint32_t number = sim_define_vm(run->sim, name, memory);
	ask(run, EVENT_VM_CREATE, &run->sim->vms[number].def, 0, false);
}

static void ask_edit(struct random_run *run, const struct vm_def *def)
{
	struct vm_def edited = *def;

	edited.memory_mib = PICK(&run->dice, 64, 128, 256, 512);
	edited.vcpus = 1 + prng_below(&run->dice, 4);
	ask(run, EVENT_VM_EDIT, &edited, 0, false);
}

/* About nodes: a device is set or removed, a lost node is fenced by hand, or was looked at and is off. */
static void ask_about_nodes(struct random_run *run)
{
	struct sim *sim = run->sim;
	uint32_t node = any_node(run), throw = prng_below(&run->dice, 10);
	struct event event = {.target = node, .by = "root"};

	if (throw < 4 && run->fences.levels) {
		event.kind = throw ? EVENT_FENCE_SET : EVENT_FENCE_REMOVE;
		drill_device(&run->fences, &event.fence, node, 1 + prng_below(&run->dice, run->fences.levels));
	} else if (throw < 7) {
		event.kind = EVENT_NODE_FENCE;
		event.force = prng_chance(&run->dice, 100);
	} else if (!sim->nodes[node].powered) {
		event.kind = EVENT_NODE_CONFIRM_OFF;
		strcpy(event.text, sim->nodes[node].name);
	} else {
		return;
	}
	sim_request(sim, any_node(run), &event, NULL, NULL);
}

static void ask_something(struct random_run *run)
{
	const struct vm_def *def = any_vm(run);
	uint32_t target = prng_chance(&run->dice, 400) ? any_node(run) : 0;
	uint32_t throw = prng_below(&run->dice, 100);

	if (prng_chance(&run->dice, 40)) {
		ask_about_nodes(run);
		return;
	}
	if (!def || run->sim->vm_count < run->vms / 2 || throw < 5)
		ask_create(run);
	else if (throw < 30)
		ask(run, EVENT_VM_START, def, target, prng_chance(&run->dice, 50));
	else if (throw < 68)
		ask(run, EVENT_VM_MOVE, def, any_node(run), prng_chance(&run->dice, 80));
	else if (throw < 78)
		ask(run, EVENT_VM_SAVE, def, 0, false);
	else if (throw < 84)
		ask(run, EVENT_VM_SHUTDOWN, def, 0, false);
	else if (throw < 88)
		ask(run, EVENT_VM_STOP, def, 0, false);
	else if (throw < 93)
		ask(run, EVENT_VM_CANCEL, def, 0, false);
	else if (throw < 97)
		ask_edit(run, def);
	else
		ask(run, EVENT_VM_DELETE, def, 0, false);
}

static void on_request(void *ctx)
{
	struct random_run *run = ctx;

	if (sim_now_ms(run->sim) >= run->end_ms)
		return;
	ask_something(run);
	timeline_after(run->sim->timeline, prng_between(&run->dice, 0, 2 * run->request_ms) * 1000, on_request, run);
}

/* Until the drill, which has a judge of its own. */
static void on_calm(void *ctx)
{
	struct random_run *run = ctx;

	checks_calm(run->sim, faults_disturb(&run->faults));
	run->calm = timeline_after(run->sim->timeline, CALM_US, on_calm, run);
}

static void on_fault(void *ctx)
{
	struct random_run *run = ctx;

	if (sim_now_ms(run->sim) >= run->end_ms)
		return;
	fault_throw(&run->faults);
	timeline_after(run->sim->timeline, prng_between(&run->dice, 0, 2 * run->fault_ms) * 1000, on_fault, run);
}

/* Everything is to run; then a node is lost, beside what the faults have left behind, and nobody comes. */
static void rest(struct random_run *run)
{
	struct sim *sim = run->sim;
	uint32_t lost = any_node(run);

	faults_rest(&run->faults);
	for (uint32_t i = 0; i < sim->vm_count; i++)
		if (sim->vm_count <= SIM_VMS_DEFAULT || !world_executing(sim->world, sim->vms[i].def.uuid))
			ask(run, EVENT_VM_START, &sim->vms[i].def, 0, false);
	sim_run_ms(sim, START_ALL_MS);
	if (sim->config.node_count > 2 && prng_chance(&run->dice, 700))
		sim_power_off(sim, lost);
	sim_run_ms(sim, REST_MS);
}

void random_run(uint64_t seed, const struct random_options *options, struct random_result *result)
{
	struct sim_config config = {.seed = seed};
	struct random_run run = {0};

	prng_seed(&run.dice, seed ^ UINT64_C(0x7761746172690000));
	configure(&config, &run.dice, options);
	struct sim *sim = run.sim = sim_new(&config);
	faults_init(&run.faults, sim, prng_u64(&run.dice));
	run.vms = options->vms + 1 + prng_below(&run.dice, 6);
	run.request_ms = PICK(&run.dice, 300, 1000, 3000);
	run.fault_ms = PICK(&run.dice, 500, 2000, 5000, 20000);
	run.end_ms = options->duration_ms ? options->duration_ms : PICK(&run.dice, 20000, 40000, 80000);
	sim_trace(sim, "seed %llu: %u nodes%s, %u VMs, faults %x; messages %u us, slow %u permille, losses seen in %u ms, disks %u us",
		(unsigned long long)seed, config.node_count, config.two_node ? " (two_node)" : config.witness ? " and a witness" : "", run.vms, run.faults.kinds,
		config.net_delay_us, config.net_slow_permille, config.lost_max_ms, config.disk_us);

	configure_fences(&run);
	for (uint32_t id = 1; id <= config.node_count; id++)
		sim_power_on(sim, id);
	if (options->vms)
		preload(&run, options->vms);
	sim_run_ms(sim, 4000);
	if (!options->vms)
		drill_define(sim, &run.fences);
	timeline_after(sim->timeline, 0, on_request, &run);
	timeline_after(sim->timeline, 0, on_fault, &run);
	on_calm(&run);
	sim_run_until_ms(sim, run.end_ms);
	if (prng_chance(&run.dice, 500)) {
		rest(&run);
	}
	faults_end(&run.faults);
	sim_settle(sim);
	timeline_cancel(sim->timeline, run.calm);
	if (prng_chance(&run.dice, 500))
		drill_run(sim, &run.fences, &run.dice);

	memcpy(result->violation, sim->violation, sizeof(result->violation));
	result->at_us = sim->violation_us;
	result->steps = timeline_steps(sim->timeline);
	result->requests = sim->requests;
	const struct cluster *newest = sim_newest(sim);
	result->index = newest ? newest->index : 0;
	result->virtual_ms = sim_now_ms(sim);
	sim_free(sim);
}
