/* SPDX-License-Identifier: Apache-2.0
 * The verbs that only look. */
#include "cmd/cli_vm.h"

#include <stdlib.h>
#include <string.h>

static const char *number_text(char out[UNITS_BYTES], uint64_t number)
{
	snprintf(out, UNITS_BYTES, "%llu", (unsigned long long)number);
	return out;
}

/* The log still says that it is there; this node does not see it. */
static bool is_away(const json_t *node)
{
	const char *state = member_text(node, "state");

	return json_is_false(json_object_get(node, "seen")) && strcmp(state, "lost") != 0 && strcmp(state, "dead") != 0;
}

static bool is_quarantined(const json_t *node)
{
	return json_is_true(json_object_get(node, "quarantined"));
}

static void node_table(const struct cli *cli, const json_t *nodes)
{
	static const char *const columns[] = {
		"NODE", "STATE", ">VMS", ">MEMORY", ">USED", ">CPUS", "ACCEL", "QEMU", "SINCE", "REASON", NULL};
	struct table *table = table_new(cli, columns);
	uint64_t now_ms = units_now_ms();
	const json_t *node;
	size_t i;

	json_array_foreach(nodes, i, node)
	{
		char name[80], vms[UNITS_BYTES], memory[UNITS_BYTES], used[UNITS_BYTES], cpus[UNITS_BYTES],
			since[UNITS_BYTES], state[64];
		snprintf(name, sizeof(name), "%s%s", member_text(node, "name"),
			json_is_true(json_object_get(node, "local")) ? " *" : "");
		snprintf(state, sizeof(state), "%s%s", member_text(node, "state"),
			is_away(node) ? " (not seen)" : is_quarantined(node) ? " (quarantined)" : "");
		const char *cells[] = {name, state, number_text(vms, member_number(node, "vms")),
			units_mib(memory, member_number(node, "memory_mib")),
			units_mib(used, member_number(node, "memory_used_mib")),
			number_text(cpus, member_number(node, "vcpus")), member_text(node, "accel"),
			member_text(node, "qemu_version"), units_ago(since, member_number(node, "since_ms"), now_ms),
			json_string_value(json_object_get(node, "reason"))};
		table_row(table, cells);
	}
	table_print_free(table);
}

/* "moving copy 47 %", "online (filling)" */
static const char *vm_state_text(const json_t *vm, char out[96])
{
	const char *phase = member_text(vm, "phase"), *state = member_text(vm, "state");
	bool waits = !strcmp(member_text(vm, "want"), "on") && (!strcmp(state, "off") || !strcmp(state, "saved"));
	const json_t *progress = json_object_get(vm, "progress");

	snprintf(out, 96, "%s%s%s%s", state, waits ? " (waits)" : "", strcmp(phase, "idle") != 0 ? " " : "",
		strcmp(phase, "idle") != 0 ? phase : "");
	size_t used = strlen(out);
	if (json_is_true(json_object_get(vm, "filling")))
		snprintf(out + used, 96 - used, " (filling)");
	else if (progress && strcmp(phase, "idle") != 0)
		snprintf(out + used, 96 - used, " %llu %%", (unsigned long long)member_number(progress, "percent"));
	return out;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(member_text(*(json_t *const *)a, "name"), member_text(*(json_t *const *)b, "name"));
}

static void vm_table(const struct cli *cli, const json_t *vms)
{
	static const char *const columns[] = {"VM", "STATE", "NODE", ">MEMORY", ">CPUS", "SINCE", "REASON", NULL};
	size_t count = json_array_size(vms);
	CLEANUP_FREE json_t **sorted = calloc(count + 1, sizeof(*sorted));
	struct table *table = table_new(cli, columns);
	uint64_t now_ms = units_now_ms();

	for (size_t i = 0; sorted && i < count; i++)
		sorted[i] = json_array_get(vms, i);
	if (sorted)
		qsort(sorted, count, sizeof(*sorted), by_name);
	for (size_t i = 0; sorted && i < count; i++) {
		const json_t *vm = sorted[i];
		char state[96], where[160], memory[UNITS_BYTES], cpus[UNITS_BYTES], since[UNITS_BYTES];
		bool goes = json_is_string(json_object_get(vm, "target")) && member_number(vm, "task");
		snprintf(where, sizeof(where), "%s%s%s", member_text(vm, "node"), goes ? " -> " : "",
			goes ? member_text(vm, "target") : "");
		const char *cells[] = {member_text(vm, "name"), vm_state_text(vm, state), where,
			units_mib(memory, member_number(vm, "memory_mib")),
			number_text(cpus, member_number(vm, "vcpus")),
			units_ago(since, member_number(vm, "since_ms"), now_ms),
			json_string_value(json_object_get(vm, json_object_get(vm, "note") ? "note" : "reason"))};
		table_row(table, cells);
	}
	table_print_free(table);
}

static void task_table(const struct cli *cli, const json_t *tasks)
{
	static const char *const columns[] = {
		">TASK", "KIND", "VM", "STATE", "FROM", "TO", "BEGUN", ">TOOK", ">BLACKOUT", "BY", "RESULT", NULL};
	struct table *table = table_new(cli, columns);
	const json_t *task;
	size_t i;

	json_array_foreach(tasks, i, task)
	{
		char id[UNITS_BYTES], begun[UNITS_BYTES], took[UNITS_BYTES] = "", blackout[UNITS_BYTES] = "", kind[48];
		uint64_t started = member_number(task, "started_ms"), finished = member_number(task, "finished_ms");
		uint64_t out_us = member_number(json_object_get(task, "spans_us"), "blackout");
		if (finished >= started && started)
			units_span_us(took, (finished - started) * 1000);
		if (out_us)
			units_span_us(blackout, out_us);
		snprintf(kind, sizeof(kind), "%s%s", member_text(task, "kind"),
			json_is_true(json_object_get(task, "dry_run")) ? " (dry)" : "");
		const char *cells[] = {number_text(id, member_number(task, "id")), kind, member_text(task, "vm"),
			member_text(task, "state"), member_text(task, "source"), member_text(task, "target"),
			units_time(begun, started), took, blackout, member_text(task, "by"),
			json_string_value(json_object_get(task, "text"))};
		table_row(table, cells);
	}
	table_print_free(table);
}

/* All pages of vm.list in one array. */
static int all_vms(struct cli *cli, json_t **vms)
{
	CLEANUP_JSON json_t *all = json_array();
	uint64_t after = 0;

	for (;;) {
		CLEANUP_JSON json_t *page = NULL;
		if (cli_call(cli, "vm.list", json_pack("{s:I}", "after", (json_int_t)after), &page) < 0)
			return -1;
		json_array_extend(all, json_object_get(page, "vms"));
		if (!json_object_get(page, "next"))
			break;
		after = member_number(page, "next");
	}
	*vms = STEAL(all);
	return 0;
}

static void print_health(const struct cli *cli, const json_t *status)
{
	bool synced = json_is_true(json_object_get(status, "synced"));
	bool quorate = json_is_true(json_object_get(status, "quorate"));
	const char *quorum = quorate ? "yes" : "NO", *acts = synced ? "yes" : "NO";

	printf("cluster  %s\n", member_text(status, "cluster_uuid"));
	printf("quorum   %s%s%s, %llu of %llu nodes online\n", color_of(cli, quorum), quorum, color_end(cli),
		(unsigned long long)member_number(status, "nodes_online"),
		(unsigned long long)member_number(status, "nodes"));
	printf("in sync  %s%s%s, %s knows the log to entry %llu\n", color_of(cli, acts), acts, color_end(cli),
		member_text(status, "node"), (unsigned long long)member_number(status, "index"));
	if (json_string_length(json_object_get(status, "reason")))
		printf("         %s\n", member_text(status, "reason"));
	if (json_string_length(json_object_get(status, "hint")))
		printf("         %s\n", member_text(status, "hint"));
	printf("watchdog %s%s\n", member_number(status, "watchdog_ms") ? "armed: " : "none: ",
		member_text(status, "watchdog"));
}

int run_status(struct cli *cli)
{
	CLEANUP_JSON json_t *status = NULL;
	CLEANUP_JSON json_t *nodes = NULL;
	CLEANUP_JSON json_t *vms = NULL;
	CLEANUP_JSON json_t *tasks = NULL;

	if (cli_call(cli, "cluster.status", NULL, &status) < 0 || cli_call(cli, "node.list", NULL, &nodes) < 0 ||
		all_vms(cli, &vms) < 0 || cli_call(cli, "task.list", json_pack("{s:b}", "running", 1), &tasks) < 0)
		return -1;
	if (cli->json) {
		json_object_set(status, "node_list", json_object_get(nodes, "nodes"));
		json_object_set(status, "vm_list", vms);
		json_object_set(status, "running_tasks", json_object_get(tasks, "tasks"));
		print_json(status);
		return 0;
	}
	print_health(cli, status);
	putchar('\n');
	node_table(cli, json_object_get(nodes, "nodes"));
	putchar('\n');
	if (json_array_size(vms))
		vm_table(cli, vms);
	else
		printf("No VMs yet: 'watari vm create --help' shows how to define one.\n");
	if (json_array_size(json_object_get(tasks, "tasks"))) {
		putchar('\n');
		task_table(cli, json_object_get(tasks, "tasks"));
	}
	return 0;
}

int run_node_list(struct cli *cli)
{
	CLEANUP_JSON json_t *nodes = NULL;

	if (cli_call(cli, "node.list", NULL, &nodes) < 0)
		return -1;
	if (cli->json)
		print_json(nodes);
	else
		node_table(cli, json_object_get(nodes, "nodes"));
	return 0;
}

int run_node_show(struct cli *cli)
{
	CLEANUP_JSON json_t *node = NULL;
	char a[UNITS_BYTES], b[UNITS_BYTES], since[UNITS_BYTES];
	const json_t *bridge, *name;
	size_t i;

	if (cli_call(cli, "node.show", json_pack("{s:s}", "node", cli->operands[0]), &node) < 0)
		return -1;
	if (cli->json) {
		print_json(node);
		return 0;
	}
	const char *state = member_text(node, "state");
	printf("node      %s (id %llu)%s\n", member_text(node, "name"), (unsigned long long)member_number(node, "id"),
		json_is_true(json_object_get(node, "local")) ? ", this one" : "");
	printf("state     %s%s%s since %s\n", color_of(cli, state), state, color_end(cli),
		units_time(since, member_number(node, "since_ms")));
	if (json_string_length(json_object_get(node, "reason")))
		printf("          %s\n", member_text(node, "reason"));
	if (is_away(node))
		printf("          not seen now: that is what was known of it when this node last had quorum\n");
	if (!strcmp(state, "lost") || !strcmp(state, "dead"))
		printf("          what follows is what it told while it was there\n");
	if (is_quarantined(node))
		printf("          quarantined until %s: no VM is placed there; 'watari node resume %s' ends it\n",
			units_time(since, member_number(node, "quarantine_ms")), member_text(node, "name"));
	if (member_number(node, "fences"))
		printf("fenced    %llu time%s since %s\n", (unsigned long long)member_number(node, "fences"),
			member_number(node, "fences") == 1 ? "" : "s", units_time(since, member_number(node, "fences_since_ms")));
	printf("VMs       %llu\n", (unsigned long long)member_number(node, "vms"));
	json_array_foreach(json_object_get(node, "storage_lost"), i, name) printf(
		"storage   the disks of %s were not reached: mend the path, then it may run here again\n",
		json_string_value(name));
	printf("memory    %s for VMs, %s given out\n", units_mib(a, member_number(node, "memory_mib")),
		units_mib(b, member_number(node, "memory_used_mib")));
	printf("CPUs      %llu\n", (unsigned long long)member_number(node, "vcpus"));
	printf("QEMU      %s, %s\n", member_text(node, "qemu_version"), member_text(node, "accel"));
	printf("restore   %s\n", json_is_true(json_object_get(node, "postcopy"))
					 ? "on demand (post-copy)"
					 : "whole memory first: sysctl vm.unprivileged_userfaultfd is not 1");
	printf("watchdog  %s%s\n", member_number(node, "watchdog_ms") ? "armed: " : "none: ",
		member_text(node, "watchdog"));
	printf("bridges  ");
	json_array_foreach(json_object_get(node, "bridges"), i, bridge) printf(" %s", json_string_value(bridge));
	printf("\nboot id   %s\n", member_text(node, "boot_id"));
	if (print_fenced_by(cli, member_text(node, "name")) < 0)
		return -1;
	const json_t *fencing = json_object_get(node, "fencing");
	if (json_is_object(fencing))
		printf("fencing   %s, proof: %s: %s\n", member_text(fencing, "phase"), member_text(fencing, "proof"),
			member_text(fencing, "text"));
	return 0;
}

int run_vm_list(struct cli *cli)
{
	CLEANUP_JSON json_t *vms = NULL;
	const char *state = cli_option(cli, "state"), *node = cli_option(cli, "node");

	if (all_vms(cli, &vms) < 0)
		return -1;
	for (size_t i = json_array_size(vms); i > 0; i--) {
		const json_t *vm = json_array_get(vms, i - 1);
		if ((state && strcmp(state, member_text(vm, "state")) != 0) ||
			(node && strcmp(node, member_text(vm, "node")) != 0))
			json_array_remove(vms, i - 1);
	}
	if (cli->json) {
		CLEANUP_JSON json_t *object = json_pack("{s:O}", "vms", vms);
		print_json(object);
	} else {
		vm_table(cli, vms);
	}
	return 0;
}

static void print_saved(const json_t *saved)
{
	char when[UNITS_BYTES];

	if (saved)
		printf("saved     %s by %s at %s (task %llu)\n", member_text(saved, "status"),
			member_text(saved, "sealed_by"), units_time(when, member_number(saved, "sealed_ms")),
			(unsigned long long)member_number(saved, "task"));
}

static void print_devices(const json_t *definition)
{
	const json_t *device;
	size_t i;

	json_array_foreach(json_object_get(definition, "disks"), i, device) printf("%-9s %s, %s, %s%s\n",
		member_text(device, "id"), member_text(device, "path"), member_text(device, "format"),
		member_text(device, "bus"), json_is_true(json_object_get(device, "read_only")) ? ", read-only" : "");
	json_array_foreach(json_object_get(definition, "nics"), i, device)
		printf("%-9s %s, %s, %s\n", member_text(device, "id"), member_text(device, "bridge"),
			member_text(device, "mac"), member_text(device, "model"));
	if (json_object_get(definition, "kernel"))
		printf("kernel    %s\ninitrd    %s\nappend    %s\n", member_text(definition, "kernel"),
			member_text(definition, "initrd"), member_text(definition, "append"));
}

static void print_storage(const json_t *storage)
{
	const json_t *node;
	size_t i;

	json_array_foreach(json_object_get(storage, "not_reached_by"), i, node)
		printf("storage   its disks were not reached by %s: mend its path to them ('watari node show %s')\n",
			json_string_value(node), json_string_value(node));
}

void print_placement(const json_t *placement)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(placement, i, entry) printf("%-9s %s: %s\n", i ? "" : "could run",
		json_is_true(json_object_get(entry, "fits")) ? "yes" : "no", member_text(entry, "text"));
}

static void print_vm(const struct cli *cli, const json_t *vm)
{
	const json_t *definition = json_object_get(vm, "definition");
	char state[96], memory[UNITS_BYTES], since[UNITS_BYTES];

	vm_state_text(vm, state);
	printf("VM        %s (%s)\n", member_text(vm, "name"), member_text(vm, "uuid"));
	printf("state     %s%s%s since %s, wanted %s\n", color_of(cli, state), state, color_end(cli),
		units_time(since, member_number(vm, "since_ms")), member_text(vm, "want"));
	if (json_string_length(json_object_get(vm, "reason")))
		printf("          %s\n", member_text(vm, "reason"));
	if (json_object_get(vm, "note"))
		printf("note      %s\n", member_text(vm, "note"));
	printf("node      %s\n", member_text(vm, "node"));
	print_storage(json_object_get(vm, "storage"));
	if (member_number(vm, "task"))
		printf("task      %llu, to %s\n", (unsigned long long)member_number(vm, "task"),
			member_text(vm, "target"));
	printf("epoch     %llu\n", (unsigned long long)member_number(vm, "epoch"));
	print_saved(json_object_get(vm, "saved"));
	printf("memory    %s\n", units_mib(memory, member_number(vm, "memory_mib")));
	printf("CPUs      %llu, %s\n", (unsigned long long)member_number(vm, "vcpus"), member_text(definition, "cpu"));
	printf("machine   %s\n", member_text(definition, "machine"));
	printf("priority  %s; when its node is shut down: %s\n", member_text(definition, "priority"),
		member_text(definition, "offline_action"));
	policy_print(definition);
	print_placement(json_object_get(vm, "placement"));
	print_devices(definition);
}

int run_vm_show(struct cli *cli)
{
	CLEANUP_JSON json_t *vm = NULL;

	if (cli_call(cli, "vm.show", json_pack("{s:s}", "vm", cli->operands[0]), &vm) < 0)
		return -1;
	if (cli_flag(cli, "definition"))
		print_json(json_object_get(vm, "definition"));
	else if (cli->json)
		print_json(vm);
	else
		print_vm(cli, vm);
	return 0;
}

int run_task_list(struct cli *cli)
{
	CLEANUP_JSON json_t *tasks = NULL;
	json_t *args = json_pack("{s:b, s:s*}", "running", cli_flag(cli, "running"), "vm", cli_option(cli, "vm"));

	if (cli_call(cli, "task.list", args, &tasks) < 0)
		return -1;
	if (cli->json)
		print_json(tasks);
	else
		task_table(cli, json_object_get(tasks, "tasks"));
	return 0;
}

static int task_number(struct cli *cli, uint64_t *id)
{
	return units_parse_number(cli->operands[0], id, &cli->err) < 0 ? err_prefix(&cli->err, "TASK") : 0;
}

int run_task_show(struct cli *cli)
{
	CLEANUP_JSON json_t *task = NULL;
	uint64_t id;

	if (task_number(cli, &id) < 0 ||
		cli_call(cli, "task.show", json_pack("{s:I, s:s*}", "task", (json_int_t)id, "vm", cli_option(cli, "vm")), &task) < 0)
		return -1;
	if (cli->json)
		print_json(task);
	else
		print_task_result(cli, task);
	return 0;
}

int run_task_wait(struct cli *cli)
{
	CLEANUP_JSON json_t *task = NULL;
	CLEANUP_JSON json_t *subscribed = NULL;
	CLEANUP_JSON json_t *end = NULL;
	uint64_t id;

	if (task_number(cli, &id) < 0 ||
		cli_call(cli, "task.show", json_pack("{s:I, s:s*}", "task", (json_int_t)id, "vm", cli_option(cli, "vm")), &task) < 0)
		return -1;
	const char *vm = member_text(task, "vm");
	/* Where the VM is gone there is no news of it; the task has ended then. */
	if (cli_call(cli, "subscribe", json_pack("{s:s}", "vm", vm), &subscribed) < 0 && cli->err.code != ERR_NOT_FOUND)
		return -1;
	if (cli_wait(cli, id, vm, &end) < 0)
		return -1;
	if (cli->json)
		print_json(end);
	else if (!cli_task_outcome(cli, end))
		print_task_result(cli, end);
	return cli_task_outcome(cli, end);
}

int run_api_list(struct cli *cli)
{
	static const char *const columns[] = {"CALL", "ARGUMENT", "TYPE", "HELP", NULL};
	CLEANUP_JSON json_t *result = NULL;
	const json_t *call, *arg;
	size_t i, j;

	if (cli_call(cli, "api.list", NULL, &result) < 0)
		return -1;
	if (cli->json) {
		print_json(result);
		return 0;
	}
	struct table *table = table_new(cli, columns);
	json_array_foreach(json_object_get(result, "calls"), i, call)
	{
		const char *head[] = {member_text(call, "call"), "", "", member_text(call, "help")};
		table_row(table, head);
		json_array_foreach(json_object_get(call, "args"), j, arg)
		{
			char type[32];
			snprintf(type, sizeof(type), "%s%s", member_text(arg, "type"),
				json_is_true(json_object_get(arg, "required")) ? " *" : "");
			const char *cells[] = {"", member_text(arg, "name"), type, member_text(arg, "help")};
			table_row(table, cells);
		}
	}
	table_print_free(table);
	return 0;
}

static void print_log_line(const struct cli *cli, const json_t *line)
{
	char when[UNITS_BYTES];

	if (cli->json)
		json_dumpf(line, stdout, JSON_COMPACT);
	else
		printf("%s  %-6llu %-8s %s", units_time(when, member_number(line, "now_ms")),
			(unsigned long long)member_number(line, "index"), member_text(line, "node"),
			member_text(line, "text"));
	putchar('\n');
	fflush(stdout);
}

static void on_news(void *ctx, const json_t *event)
{
	const struct cli *cli = ctx;
	const char *kind = member_text(event, "kind");
	const json_t *vm = json_object_get(event, "vm"), *node = json_object_get(event, "node");
	const json_t *progress = json_object_get(event, "progress"), *status = json_object_get(event, "status");
	const json_t *line = json_object_get(event, "line");
	char when[UNITS_BYTES], state[96], bytes[UNITS_BYTES];

	if (cli->json && cli->verb->run == run_watch) {
		json_dumpf(event, stdout, JSON_COMPACT);
		putchar('\n');
		fflush(stdout);
		return;
	}
	if (line) {
		print_log_line(cli, line);
		return;
	}
	if (!strcmp(kind, "task") || cli->verb->run == run_log)
		return; /* the log's lines say the same in words */
	printf("%s  ", units_time(when, units_now_ms()));
	if (vm)
		printf("%-8s %s is %s on %s", "vm", member_text(vm, "name"), vm_state_text(vm, state),
			member_text(vm, "node"));
	else if (node)
		printf("%-8s %s is %s", "node", member_text(node, "name"), member_text(node, "state"));
	else if (progress)
		printf("%-8s %s %s %llu %% %s %s", "progress", member_text(progress, "vm"),
			member_text(progress, "phase"), (unsigned long long)member_number(progress, "percent"),
			units_bytes(bytes, member_number(json_object_get(progress, "figures"), "ram_bytes")),
			json_string_value(json_object_get(progress, "note")));
	else if (status)
		printf("%-8s quorum %s, in sync %s %s", "status",
			json_is_true(json_object_get(status, "quorate")) ? "yes" : "NO",
			json_is_true(json_object_get(status, "synced")) ? "yes" : "NO",
			json_string_value(json_object_get(status, "reason")));
	putchar('\n');
	fflush(stdout);
}

static int follow(struct cli *cli, json_t *args)
{
	CLEANUP_JSON json_t *subscribed = NULL;

	cli->client.on_event = on_news;
	cli->client.ctx = cli;
	if (cli_call(cli, "subscribe", args, &subscribed) < 0)
		return -1;
	int result = api_client_listen(&cli->client, 0, &cli->err);
	snprintf(cli->hint, sizeof(cli->hint), "%s", cli->client.hint);
	return result;
}

int run_watch(struct cli *cli)
{
	return follow(cli, json_pack("{s:s*, s:b, s:b}", "vm", cli_option(cli, "vm"), "progress", 1, "log", 1));
}

int run_log(struct cli *cli)
{
	CLEANUP_JSON json_t *result = NULL;
	CLEANUP_JSON json_t *args = json_object();
	const char *since = cli_option(cli, "since"), *lines = cli_option(cli, "lines"), *vm = cli_option(cli, "vm");
	const char *node = cli_option(cli, "node");
	uint64_t since_ms = 0, count = since ? 1000 : 50;
	const json_t *line;
	size_t i;

	if (since && units_parse_since(since, units_now_ms(), &since_ms, &cli->err) < 0)
		return err_prefix(&cli->err, "--since");
	if (lines && units_parse_number(lines, &count, &cli->err) < 0)
		return err_prefix(&cli->err, "--lines");
	json_object_set_new(args, "since_ms", json_integer((json_int_t)since_ms));
	json_object_set_new(args, "count", json_integer((json_int_t)count));
	if (vm)
		json_object_set_new(args, "vm", json_string(vm));
	if (node)
		json_object_set_new(args, "node", json_string(node));
	if (cli_call(cli, "log.list", STEAL(args), &result) < 0)
		return -1;
	if (cli->json && !cli_flag(cli, "follow")) {
		print_json(result);
		return 0;
	}
	json_array_foreach(json_object_get(result, "lines"), i, line) print_log_line(cli, line);
	if (!cli_flag(cli, "follow"))
		return 0;
	return follow(
		cli, json_pack("{s:s*, s:s*, s:b, s:b}", "vm", vm, "node", node, "progress", 0, "log", 1));
}
