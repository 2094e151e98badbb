/* SPDX-License-Identifier: Apache-2.0
 * The words of a scenario's script. Each line waits for its time or its condition, then does one thing:
 *
 *	at MS [COMMAND]				at this time of the run
 *	when VM=STATE[/PHASE] COMMAND		as soon as any node has committed that
 *	when nX=STATE[/FENCE-PHASE] COMMAND	the same of a node
 *	when VM@NODE=STATE COMMAND		as soon as the VM's QEMU on that node is in that state (starting,
 *						running, copying, stopped, sealed, preparing, standby, loading,
 *						loaded, absent)
 *	when running=N COMMAND			as soon as exactly so many guests execute
 *	expect …				now; see expects below
 *	end MS					the trace ends here
 * COMMAND is a row of the table below, or of script_node.c. */
#include "sim/script.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { WAIT_MS = 300 * 1000 };

uint32_t script_node(const struct words *words, const char *word)
{
	uint32_t id = 0;

	if (word && sscanf(word, "n%u", &id) == 1 && id >= 1 && id <= words->scenario->sim->config.node_count)
		return id;
	err_set(words->err, ERR_INVALID, "'%s' is not a node", word ? word : "");
	return 0;
}

struct vm_def *script_vm_of(const struct words *words, const char *word)
{
	struct sim *sim = words->scenario->sim;

	for (uint32_t i = 0; word && i < sim->vm_count; i++)
		if (!strcmp(sim->vms[i].def.name, word))
			return &sim->vms[i].def;
	err_set(words->err, ERR_INVALID, "'%s' is not a VM of the cluster file", word ? word : "");
	return NULL;
}

bool script_has(const struct words *words, const char *word)
{
	for (int i = 0; i < words->count; i++)
		if (!strcmp(words->at[i], word))
			return true;
	return false;
}

uint32_t script_node_after(const struct words *words, const char *word, uint32_t absent)
{
	for (int i = 0; i + 1 < words->count; i++)
		if (!strcmp(words->at[i], word))
			return script_node(words, words->at[i + 1]);
	return absent;
}

uint32_t script_number_after(const struct words *words, const char *word, uint32_t absent)
{
	for (int i = 0; i + 1 < words->count; i++)
		if (!strcmp(words->at[i], word))
			return (uint32_t)strtoul(words->at[i + 1], NULL, 10);
	return absent;
}

static void on_reply(void *ctx, const struct engine_reply *reply)
{
	struct scenario *scenario = ctx;

	scenario->reply = *reply;
	scenario->replied = true;
}

int script_ask(const struct words *words, const struct event *event)
{
	struct event asked = *event;

	strcpy(asked.by, "root");
	words->scenario->replied = false;
	if (!sim_request(words->scenario->sim, script_node_after(words, "via", 1), &asked, on_reply, words->scenario))
		return err_set(words->err, ERR_INVALID, "the daemon that is asked does not run");
	return 0;
}

static const char *const hv_words[] = {
	[HV_ABSENT] = "absent",
	[HV_STARTING] = "starting",
	[HV_RUNNING] = "running",
	[HV_COPYING] = "copying",
	[HV_SEALED] = "sealed",
	[HV_PREPARING] = "preparing",
	[HV_STANDBY] = "standby",
	[HV_LOADING] = "loading",
	[HV_LOADED] = "loaded",
	[HV_STOPPING] = "stopping",
};

/* fail nX STEP: the next step of this kind there. */
static int do_fail(const struct words *words)
{
	uint32_t node = script_node(words, words->count > 1 ? words->at[1] : NULL);

	for (size_t i = 0; node && words->count > 2 && i < ARRAY_SIZE(hv_words); i++) {
		if (strcmp(words->at[2], hv_words[i]) != 0)
			continue;
		sim_trace(words->scenario->sim, "# the next step '%s' on n%u fails", hv_words[i], node);
		machine_fail_next(words->scenario->sim->nodes[node].machine, (enum hv_state)i);
		return 0;
	}
	return err_set(words->err, ERR_INVALID, "fail nX STEP: starting, preparing, copying, sealed or loading");
}

static bool qemu_hangs(struct machine *machine, const char *vm)
{
	return machine_qemu_silent(machine, vm, true);
}

static bool qemu_goes_on(struct machine *machine, const char *vm)
{
	return machine_qemu_silent(machine, vm, false);
}

static bool agent_stops(struct machine *machine, const char *vm)
{
	return machine_agent_silent(machine, vm, true);
}

static bool agent_goes_on(struct machine *machine, const char *vm)
{
	return machine_agent_silent(machine, vm, false);
}

static const struct {
	const char *name;
	bool (*run)(struct machine *machine, const char *vm);
} guest_faults[] = {
	{"qemu-kill", machine_kill_qemu},
	{"qemu-hang", qemu_hangs},
	{"qemu-go-on", qemu_goes_on},
	{"guest-off", machine_guest_poweroff},
	{"guest-panic", machine_guest_panic},
	{"agent-stop", agent_stops},
	{"agent-go-on", agent_goes_on},
};

/* One of guest_faults: NAME nX VM */
static int do_guest(const struct words *words)
{
	uint32_t node = script_node(words, words->count > 1 ? words->at[1] : NULL);
	const struct vm_def *def = node ? script_vm_of(words, words->count > 2 ? words->at[2] : NULL) : NULL;
	struct sim *sim = words->scenario->sim;

	if (!def)
		return -1;
	sim_trace(sim, "# %s n%u %s", words->at[0], node, def->name);
	bool done = false;
	for (size_t i = 0; i < ARRAY_SIZE(guest_faults); i++)
		if (!strcmp(words->at[0], guest_faults[i].name))
			done = guest_faults[i].run(sim->nodes[node].machine, def->uuid);
	return done ? 0 : err_set(words->err, ERR_INVALID, "no such copy of %s on n%u", def->name, node);
}

/* rot VM: its newest complete state. */
static int do_state(const struct words *words)
{
	const struct vm_def *def = script_vm_of(words, words->count > 1 ? words->at[1] : NULL);
	struct sim *sim = words->scenario->sim;

	for (const struct world_state *state = world_states(sim->world); def && state; state = state->next) {
		if (!state->complete || strcmp(state->guest->vm, def->uuid) != 0)
			continue;
		sim_trace(sim, "# the state %" PRIu64 " of %s rots", state->task, def->name);
		world_state(sim->world, def->uuid, state->task)->corrupt = true;
		return 0;
	}
	return err_set(words->err, ERR_INVALID, "no complete state");
}

static const struct {
	const char *name;
	int (*run)(const struct words *words);
} commands[] = {
	{"vm", script_vm},
	{"fail", do_fail},
	{"qemu-kill", do_guest},
	{"guest-off", do_guest},
	{"guest-panic", do_guest},
	{"qemu-hang", do_guest},
	{"qemu-go-on", do_guest},
	{"agent-stop", do_guest},
	{"agent-go-on", do_guest},
	{"rot", do_state},
	{"hostile", script_hostile},
	{"fence", script_fence},
	{"node", script_node_verb},
	{"watchdog", script_watchdog},
	{"link", script_link},
	{"witness", script_witness},
	{"clock", script_clock},
	{"newer", script_newer},
};

static int run_command(const struct words *words)
{
	if (!words->count)
		return err_set(words->err, ERR_INVALID, "no command");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(words->at[0], commands[i].name))
			return commands[i].run(words);
	if (script_node_knows(words->at[0]))
		return script_node_do(words);
	return err_set(words->err, ERR_INVALID, "no command '%s'", words->at[0]);
}

/* Expectations. */

static const struct vm *committed(const struct scenario *scenario, const char *name)
{
	const struct cluster *cluster = sim_newest(scenario->sim);

	return cluster ? cluster_vm_find(cluster, name) : NULL;
}

/* expect vm NAME STATE [nX] */
static int expect_vm(const struct words *words)
{
	const struct vm *vm = words->count > 3 ? committed(words->scenario, words->at[2]) : NULL;

	if (words->count > 3 && !vm && !strcmp(words->at[3], "gone"))
		return 0;
	if (!vm)
		return err_set(words->err, ERR_INVALID, "no such VM");
	if (strcmp(vm_state_name((int)vm->state), words->at[3]) != 0)
		return err_set(words->err, ERR_INVALID, "%s is %s: %s", vm->def.name, vm_state_name((int)vm->state),
			vm->reason);
	if (words->count > 4 && vm->owner != script_node(words, words->at[4]))
		return err_set(words->err, ERR_INVALID, "%s is on n%u", vm->def.name, vm->owner);
	return 0;
}

/* expect guest NAME none | expect guest NAME nX BOOT: the one copy that executes, and how often it was booted so far.
 */
static int expect_guest(const struct words *words)
{
	const struct vm_def *def = words->count > 3 ? script_vm_of(words, words->at[2]) : NULL;
	const struct world_copy *found = NULL;

	if (!def)
		return err_set(words->err, ERR_INVALID, "expect guest NAME none, or nX BOOT");
	for (const struct world_copy *copy = world_copies(words->scenario->sim->world); copy; copy = copy->next)
		if (copy->executes && !strcmp(copy->guest->vm, def->uuid))
			found = copy;
	if (!strcmp(words->at[3], "none"))
		return found ? err_set(words->err, ERR_INVALID, "%s executes on n%u", def->name, found->node) : 0;
	uint64_t boot = words->count > 4 ? strtoull(words->at[4], NULL, 10) : 0;
	if (!found || found->node != script_node(words, words->at[3]) || (boot && found->boot != boot))
		return err_set(words->err, ERR_INVALID, "%s executes on n%u, boot %" PRIu64, def->name,
			found ? found->node : 0, found ? found->boot : 0);
	return 0;
}

/* expect reply CODE: of the last request */
static int expect_reply(const struct words *words)
{
	const struct scenario *scenario = words->scenario;

	if (!scenario->replied)
		return err_set(words->err, ERR_INVALID, "there was no reply yet");
	if (words->count < 3 || strcmp(err_info(scenario->reply.code)->name, words->at[2]) != 0)
		return err_set(words->err, ERR_INVALID, "the reply was %s: %s", err_info(scenario->reply.code)->name,
			scenario->reply.text);
	return 0;
}

/* expect synced [nX…]: exactly these nodes act */
static int expect_synced(const struct words *words)
{
	uint64_t expected = 0, is = sim_synced(words->scenario->sim, 1);

	for (int i = 2; i < words->count; i++)
		expected |= node_bit(script_node(words, words->at[i]));
	if (is != expected)
		return err_set(words->err, ERR_INVALID, "synced are %" PRIx64 " (bits)", is);
	return 0;
}

/* expect states NAME COUNT: on the storage */
static int expect_states(const struct words *words)
{
	const struct vm_def *def = words->count > 3 ? script_vm_of(words, words->at[2]) : NULL;
	uint64_t count = 0;

	if (!def)
		return err_set(words->err, ERR_INVALID, "expect states NAME COUNT");
	for (const struct world_state *state = world_states(words->scenario->sim->world); state; state = state->next)
		count += !strcmp(state->guest->vm, def->uuid);
	if (count != strtoull(words->at[3], NULL, 10))
		return err_set(
			words->err, ERR_INVALID, "%" PRIu64 " states of %s are on the storage", count, def->name);
	return 0;
}

/* expect task NAME KIND STATE: the newest task of the VM */
static int expect_task(const struct words *words)
{
	const struct cluster *cluster = sim_newest(words->scenario->sim);
	const struct task *newest = NULL;

	for (uint32_t i = 0; cluster && words->count > 4 && i < cluster->task_count; i++)
		if (!strcmp(cluster->tasks[i].vm, words->at[2]) && (!newest || cluster->tasks[i].id > newest->id))
			newest = &cluster->tasks[i];
	if (!newest || strcmp(task_kind_name((int)newest->kind), words->at[3]) != 0 ||
		strcmp(task_state_name((int)newest->state), words->at[4]) != 0)
		return err_set(words->err, ERR_INVALID, "the newest task is %s, %s: %s",
			newest ? task_kind_name((int)newest->kind) : "none",
			newest ? task_state_name((int)newest->state) : "", newest ? newest->text : "");
	return 0;
}

/* expect reason NAME WORD…: all of these words are in the VM's reason */
static int expect_reason(const struct words *words)
{
	const struct vm *vm = words->count > 3 ? committed(words->scenario, words->at[2]) : NULL;

	if (!vm)
		return err_set(words->err, ERR_INVALID, "expect reason NAME WORD…");
	for (int i = 3; i < words->count; i++)
		if (!strstr(vm->reason, words->at[i]))
			return err_set(words->err, ERR_INVALID, "the reason is: %s", vm->reason);
	return 0;
}

static const struct {
	const char *name;
	int (*check)(const struct words *words);
} expects[] = {
	{"vm", expect_vm},
	{"guest", expect_guest},
	{"reply", expect_reply},
	{"synced", expect_synced},
	{"states", expect_states},
	{"task", expect_task},
	{"reason", expect_reason},
	{"node", script_expect_node},
	{"node-reason", script_expect_node_reason},
	{"power", script_expect_power},
	{"device", script_expect_device},
	{"running", script_expect_running},
	{"boots", script_expect_boots},
	{"by-priority", script_expect_by_priority},
};

static int run_expect(const struct words *words)
{
	for (size_t i = 0; words->count > 1 && i < ARRAY_SIZE(expects); i++)
		if (!strcmp(words->at[1], expects[i].name))
			return expects[i].check(words);
	return err_set(words->err, ERR_INVALID,
		"expect vm, guest, reply, synced, states, task, reason, node, node-reason, power, device, running, boots or by-priority");
}

/* Conditions. */

static bool holds(const struct scenario *scenario, const char *condition, bool *understood)
{
	char name[NAME_BYTES], state[32], phase[32] = "";
	uint32_t node;

	*understood = true;
	if (!strncmp(condition, "running=", 8))
		return script_all_run(scenario, condition + 8);
	if (sscanf(condition, "%63[^@=]@n%u=%31s", name, &node, state) == 3 && node >= 1 &&
		node <= scenario->sim->config.node_count) {
		const struct sim *sim = scenario->sim;
		for (uint32_t i = 0; i < sim->vm_count; i++) {
			if (strcmp(sim->vms[i].def.name, name) != 0)
				continue;
			enum hv_state is = machine_state(sim->nodes[node].machine, sim->vms[i].def.uuid);
			if (!strcmp(state, "stopped"))
				return is == HV_COPYING &&
				       !machine_executes(sim->nodes[node].machine, sim->vms[i].def.uuid);
			return !strcmp(hv_words[is], state);
		}
	} else if (sscanf(condition, "%63[^@=]=%31[^/]/%31s", name, state, phase) >= 2) {
		const struct cluster *cluster = sim_newest(scenario->sim);
		if (sscanf(name, "n%u", &node) == 1 && node >= 1 && node <= scenario->sim->config.node_count) {
			const struct node *at = cluster ? cluster_node(cluster, node) : NULL;
			return at && !strcmp(node_state_name((int)at->state), state) &&
			       (!phase[0] || !strcmp(fence_phase_name((int)at->fence.phase), phase));
		}
		const struct vm *vm = committed(scenario, name);
		return vm && !strcmp(vm_state_name((int)vm->state), state) &&
		       (!phase[0] || !strcmp(move_phase_name((int)vm->phase), phase));
	}
	*understood = false;
	return false;
}

static int wait_for(const struct words *words)
{
	struct scenario *scenario = words->scenario;
	uint64_t end_ms = sim_now_ms(scenario->sim) + WAIT_MS;
	bool understood;

	while (!holds(scenario, words->at[1], &understood)) {
		if (!understood)
			return err_set(words->err, ERR_INVALID, "condition '%s' is not understood", words->at[1]);
		if (scenario->sim->violation[0] || sim_now_ms(scenario->sim) >= end_ms || !sim_step(scenario->sim))
			return err_set(words->err, ERR_TIMEOUT, "'%s' never came", words->at[1]);
	}
	return 0;
}

static int run_line(struct words *words, bool *ended)
{
	struct sim *sim = words->scenario->sim;
	struct words rest = {.scenario = words->scenario, .count = words->count - 2, .err = words->err};

	for (int i = 0; i < rest.count; i++)
		rest.at[i] = words->at[i + 2];
	if (!strcmp(words->at[0], "expect"))
		return run_expect(words);
	if (words->count < 2)
		return err_set(words->err, ERR_INVALID, "at, when, expect or end");
	if (!strcmp(words->at[0], "when")) {
		if (wait_for(words) < 0)
			return -1;
		return rest.count ? run_command(&rest) : 0;
	}
	uint64_t at_ms = strtoull(words->at[1], NULL, 10);
	if (at_ms < sim_now_ms(sim))
		return err_set(
			words->err, ERR_INVALID, "%s ms has passed: it is %" PRIu64, words->at[1], sim_now_ms(sim));
	sim_run_until_ms(sim, at_ms);
	if (!strcmp(words->at[0], "end")) {
		*ended = true;
		return 0;
	}
	if (!strcmp(words->at[0], "at"))
		return rest.count ? run_command(&rest) : 0;
	return err_set(words->err, ERR_INVALID, "'%s': at, when, expect or end", words->at[0]);
}

int script_run(struct scenario *scenario, FILE *script, struct err *err)
{
	char line[512];
	bool ended = false;

	for (int number = 1; !ended && fgets(line, sizeof(line), script); number++) {
		struct words words = {.scenario = scenario, .err = err};
		char *save = NULL;
		for (char *w = strtok_r(line, " \t\n", &save); w && words.count < WORDS_MAX && w[0] != '#';
			w = strtok_r(NULL, " \t\n", &save))
			words.at[words.count++] = w;
		if (!words.count)
			continue;
		if (run_line(&words, &ended) < 0)
			return err_prefix(err, "%d", number);
		if (scenario->sim->violation[0])
			return err_set(err, ERR_INVALID, "%d: %s", number, scenario->sim->violation);
	}
	return ended ? 0 : err_set(err, ERR_INVALID, "has no 'end MS'");
}
