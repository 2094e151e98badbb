/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/preload.h"
#include "sim/script.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static FILE *open_in(const char *dir, const char *name, const char *mode, struct err *err)
{
	char path[PATH_BYTES * 2];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *file = fopen(path, mode);
	if (!file)
		err_errno(err, errno, "%s", path);
	return file;
}

/* Lines that an engine says of itself begin with "n1| "; every node says most of them. The history has them once. */
static bool is_engines_own(const char *line)
{
	const char *bar = strchr(line, '|');

	return line[0] == 'n' && bar && bar[1] == ' ' && strspn(line + 1, "0123456789") == (size_t)(bar - line - 1);
}

/* vm1 … of a preload. */
static bool names_a_vm(const char *line)
{
	for (const char *at = strstr(line, "vm"); at; at = strstr(at + 1, "vm"))
		if ((at == line || at[-1] == ' ') && at[2] >= '1' && at[2] <= '9')
			return true;
	return false;
}

static void keep_line(void *ctx, uint64_t now_us, const char *line)
{
	struct scenario *scenario = ctx;
	char whole[1200];
	size_t size = (size_t)snprintf(whole, sizeof(whole), "[%6" PRIu64 "] %s\n", now_us / 1000, line);

	if (scenario->print)
		fputs(whole, stdout);
	if (is_engines_own(line) || scenario->ended || (scenario->brief && names_a_vm(line)))
		return;
	while (scenario->trace_size + size + 1 > scenario->trace_capacity) {
		scenario->trace_capacity = scenario->trace_capacity ? 2 * scenario->trace_capacity : 16384;
		scenario->trace = realloc(scenario->trace, scenario->trace_capacity);
		assert(scenario->trace);
	}
	memcpy(scenario->trace + scenario->trace_size, whole, size + 1);
	scenario->trace_size += size;
}

struct plan {
	struct sim_config config;
	struct {
		char name[NAME_BYTES];
		uint32_t memory_mib;
		char rest[256]; /* script_vm_words */
	} vms[64];
	uint32_t vm_count;
	struct {
		uint32_t memory_mib, vcpus; /* 0: as every node */
		bool no_bridge, newer;
	} nodes[NODES_MAX + 1];
	uint32_t fences;      /* each node has so many devices: ipmi-nX of level 1, pdu-nX of level 2 */
	uint32_t watchdog_ms; /* of each node */
	bool brief;
	uint32_t preload, preload_mib; /* VMs that run since before: vm1 … */
};

/* "node n3 memory 2048", "node n3 vcpus 2", "node n3 no-bridge", "node n3 newer": unlike the others. */
static int plan_node(struct plan *plan, const char *line, struct err *err)
{
	uint32_t id = 0, number = 0;
	char what[32];

	if (sscanf(line, "node n%u %31s %u", &id, what, &number) < 2 || id < 1 || id > NODES_MAX)
		return err_set(err, ERR_INVALID, "node nX memory MIB, node nX vcpus N, node nX no-bridge or node nX newer");
	if (!strcmp(what, "memory") && number)
		plan->nodes[id].memory_mib = number;
	else if (!strcmp(what, "vcpus") && number)
		plan->nodes[id].vcpus = number;
	else if (!strcmp(what, "no-bridge"))
		plan->nodes[id].no_bridge = true;
	else if (!strcmp(what, "newer"))
		plan->nodes[id].newer = true;
	else
		return err_set(err, ERR_INVALID, "'%s' of a node is not understood", what);
	return 0;
}

static int plan_vm(struct plan *plan, const char *line, struct err *err)
{
	int used = 0;

	if (plan->vm_count == ARRAY_SIZE(plan->vms) ||
		sscanf(line, "vm %63s %u%n", plan->vms[plan->vm_count].name, &plan->vms[plan->vm_count].memory_mib,
			&used) != 2)
		return err_set(err, ERR_INVALID, "vm NAME MIB [WORD…], %zu at most", ARRAY_SIZE(plan->vms));
	snprintf(plan->vms[plan->vm_count++].rest, sizeof(plan->vms[0].rest), "%s", line + used);
	return 0;
}

/* "nodes 3", "two_node", "witness", "vm web 1024 [WORD…]" (script_vm.c), "fences 2", "watchdog 5000", or any number of sim_config. */
static int plan_line(struct plan *plan, char *line, struct err *err)
{
	const struct {
		const char *name;
		uint32_t *value;
	} numbers[] = {
		{"nodes", &plan->config.node_count},
		{"step_ms", &plan->config.step_ms},
		{"delay_us", &plan->config.net_delay_us},
		{"disk_us", &plan->config.disk_us},
		{"memory_mib", &plan->config.memory_mib},
		{"snapshot_every", &plan->config.snapshot_every},
		{"deaf_permille", &plan->config.deaf_permille},
		{"broken_permille", &plan->config.broken_permille},
		{"lost_min_ms", &plan->config.lost_min_ms},
		{"lost_max_ms", &plan->config.lost_max_ms},
		{"late_permille", &plan->config.net_late_permille},
		{"torn_permille", &plan->config.net_torn_permille},
		{"fences", &plan->fences},
		{"watchdog", &plan->watchdog_ms},
		{"preload", &plan->preload},
		{"preload_mib", &plan->preload_mib},
	};
	const struct {
		const char *name;
		bool *flag;
		bool value;
	} flags[] = {
		{"two_node", &plan->config.two_node, true},
		{"witness", &plan->config.witness, true},
		{"brief", &plan->brief, true},
		{"eager", &plan->config.postcopy, false},
	};
	char word[32], name[NAME_BYTES];
	uint32_t number = 0;
	int words = sscanf(line, "%31s %63s %u", word, name, &number);

	if (words < 1 || word[0] == '#')
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		if (!strcmp(word, flags[i].name) && words == 1) {
			*flags[i].flag = flags[i].value;
			return 0;
		}
	}
	if (!strcmp(word, "vm"))
		return plan_vm(plan, line, err);
	if (!strcmp(word, "node"))
		return plan_node(plan, line, err);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		if (!strcmp(word, numbers[i].name) && sscanf(line, "%*s %u", numbers[i].value) == 1)
			return 0;
	return err_set(err, ERR_INVALID, "'%s' is not understood", word);
}

static int plan_read(const char *dir, struct plan *plan, struct err *err)
{
	char line[256];
	int number = 0;

	CLEANUP_FILE FILE *file = open_in(dir, "cluster", "re", err);
	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		number++;
		if (plan_line(plan, line, err) < 0)
			return err_prefix(err, "%s/cluster:%d", dir, number);
	}
	if (plan->preload > VMS_MAX - ARRAY_SIZE(plan->vms))
		return err_set(err, ERR_INVALID, "%s/cluster: preload: up to %zu", dir, VMS_MAX - ARRAY_SIZE(plan->vms));
	plan->config.vms_max = plan->preload + SIM_VMS_DEFAULT;
	if (plan->config.node_count < 1 || plan->config.node_count > NODES_MAX)
		return err_set(err, ERR_INVALID, "%s/cluster: nodes: 1 to %d", dir, NODES_MAX);
	return 0;
}

static int compare(const struct scenario *scenario, struct err *err)
{
	char expected[1200];
	const char *at = scenario->trace;
	int number = 0;

	CLEANUP_FILE FILE *file = open_in(scenario->dir, "expected", "re", err);
	if (!file)
		return -1;
	while (fgets(expected, sizeof(expected), file)) {
		size_t size = strcspn(at, "\n") + (*at ? 1 : 0);
		number++;
		if (strlen(expected) != size || memcmp(expected, at, size) != 0)
			return err_set(err, ERR_INVALID, "%s/expected:%d: '%.*s', but it came to '%.*s'", scenario->dir,
				number, (int)strcspn(expected, "\n"), expected, size ? (int)size - 1 : 0, at);
		at += size;
	}
	if (*at)
		return err_set(err, ERR_INVALID, "%s/expected:%d: ends, but there came '%.*s'", scenario->dir, number,
			(int)strcspn(at, "\n"), at);
	return 0;
}

static int write_expected(const struct scenario *scenario, struct err *err)
{
	CLEANUP_FILE FILE *file = open_in(scenario->dir, "expected", "we", err);

	if (!file)
		return -1;
	fwrite(scenario->trace, 1, scenario->trace_size, file);
	if (fflush(file))
		return err_errno(err, errno, "%s/expected", scenario->dir);
	return 0;
}

static void device_of(struct fence_device *device, uint32_t node, uint32_t level)
{
	char name[NAME_BYTES];

	snprintf(name, sizeof(name), "%s-n%u", level == 1 ? "ipmi" : "pdu", node);
	sim_fence_device(device, name, node);
	device->level = level;
	device->limit_ms = 5000;
}

static void define_fences(struct sim *sim, uint32_t levels)
{
	for (uint32_t id = 1; id <= sim->config.node_count; id++) {
		for (uint32_t level = 1; level <= levels; level++) {
			struct event event = {.kind = EVENT_FENCE_SET, .by = "root"};
			device_of(&event.fence, id, level);
			sim_request(sim, 1, &event, NULL, NULL);
		}
	}
}

static void preload(struct sim *sim, const struct plan *plan)
{
	static struct fence_device devices[FENCE_DEVICES_MAX];
	struct sim_preload preload = {.vms = plan->preload, .memory_mib = plan->preload_mib, .devices = devices};

	for (uint32_t id = 1; id <= sim->config.node_count; id++)
		for (uint32_t level = 1; level <= plan->fences && preload.device_count < FENCE_DEVICES_MAX; level++)
			device_of(&devices[preload.device_count++], id, level);
	sim_preload(sim, &preload);
}

static int define_vms(struct scenario *scenario, const struct plan *plan, struct err *err)
{
	for (uint32_t i = 0; i < plan->vm_count; i++) {
		struct words words = {.scenario = scenario, .err = err};
		char rest[sizeof(plan->vms[0].rest)], *save = NULL;
		uint32_t vm = sim_define_vm(scenario->sim, plan->vms[i].name, plan->vms[i].memory_mib);

		strcpy(rest, plan->vms[i].rest);
		for (char *w = strtok_r(rest, " \t\n", &save); w && words.count < WORDS_MAX;
			w = strtok_r(NULL, " \t\n", &save))
			words.at[words.count++] = w;
		if (script_vm_words(&words, 0, &scenario->sim->vms[vm].def) < 0)
			return err_prefix(err, "%s/cluster: vm %s", scenario->dir, plan->vms[i].name);
	}
	return 0;
}

static int play(struct scenario *scenario, const struct plan *plan, struct err *err)
{
	struct sim *sim = scenario->sim = sim_new(&plan->config);

	if (!plan->preload && define_vms(scenario, plan, err) < 0)
		return -1;
	for (uint32_t id = 1; id <= plan->config.node_count; id++) {
		machine_refit(sim->nodes[id].machine, plan->nodes[id].memory_mib, plan->nodes[id].vcpus,
			!plan->nodes[id].no_bridge);
		sim_watchdog(sim, id, plan->watchdog_ms);
		sim->nodes[id].newer.on = plan->nodes[id].newer;
		sim_power_on(sim, id);
	}
	if (plan->preload)
		preload(sim, plan);
	/* The first place in the table of VMs is the preload's. */
	if (plan->preload && define_vms(scenario, plan, err) < 0)
		return -1;
	sim_run_ms(sim, 2500);
	if (!plan->preload)
		define_fences(sim, plan->fences);
	sim_run_ms(sim, 500);
	scenario->began_us = timeline_now_us(sim->timeline);
	/* How a cluster comes up is in the trace of one scenario; the others begin when it is up. */
	if (!strstr(scenario->dir, "cluster-comes-up"))
		scenario->trace_size = 0;

	CLEANUP_FILE FILE *script = open_in(scenario->dir, "script", "re", err);
	if (!script)
		return -1;
	if (script_run(scenario, script, err) < 0)
		return err_prefix(err, "%s/script", scenario->dir);
	scenario->ended = true;
	sim_settle(sim);
	if (sim->violation[0])
		return err_set(err, ERR_INVALID, "%s: [%6" PRIu64 "] %s", scenario->dir, sim->violation_us / 1000,
			sim->violation);
	return 0;
}

int scenario_run(const char *dir, bool update, bool print, struct err *err)
{
	struct scenario scenario = {.dir = dir, .print = print};
	struct plan plan = {.config = {.exact = true, .step_ms = 100, .net_delay_us = 1000, .disk_us = 2000,
				    .memory_mib = 8192, .postcopy = true, .lost_max_ms = 300, .fence_step_ms = 100, .snapshot_every = 1000,
				    .trace = keep_line, .trace_ctx = &scenario}};

	CLEANUP_FILE FILE *readme = open_in(dir, "README", "re", err);
	if (!readme || plan_read(dir, &plan, err) < 0)
		return -1;
	scenario.brief = plan.brief;
	int result = play(&scenario, &plan, err);
	if (!result)
		result = update ? write_expected(&scenario, err) : compare(&scenario, err);
	sim_free(scenario.sim);
	free(scenario.trace);
	return result;
}
