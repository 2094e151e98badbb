/* SPDX-License-Identifier: Apache-2.0
 * `watari forecast`: what would become of the VMs. */
#include "cmd/cli.h"

#include <string.h>

static void print_nodes(const json_t *names)
{
	const json_t *name;
	size_t i;

	json_array_foreach(names, i, name)
		printf("%s%s", !i ? "" : i + 1 == json_array_size(names) ? " and " : ", ", json_string_value(name));
}

static void print_case(const struct cli *cli, const json_t *view)
{
	static const char *const columns[] = {">ORDER", "VM", "FROM", "TO", ">AFTER", "FACT", NULL};
	const json_t *failed = json_object_get(view, "failed"), *vms = json_object_get(view, "vms"), *vm, *proof;
	unsigned long long left_out = member_number(view, "left_out");
	unsigned long long count = member_number(view, "count"), runs = member_number(view, "runs");
	const char *node;
	size_t i;

	printf("\nIf ");
	print_nodes(failed);
	printf(" died%s", json_is_true(json_object_get(view, "quorate")) ? ":" : ": no quorum, so nothing would be started. With it:");
	printf(" %llu VM%s, %llu run%s elsewhere%s", count, count == 1 ? "" : "s", runs, runs == 1 ? "s" : "",
		member_number(view, "down") ? "" : "\n");
	if (member_number(view, "down"))
		printf(", %s%llu would be down%s\n", color_of(cli, "failed"),
			(unsigned long long)member_number(view, "down"), color_end(cli));
	json_object_foreach((json_t *)(uintptr_t)json_object_get(view, "proofs"), node, proof)
		printf("  %s: %s\n", node, json_string_value(proof));
	if (!json_array_size(vms))
		return;
	struct table *table = table_new(cli, columns);
	json_array_foreach(vms, i, vm)
	{
		char order[UNITS_BYTES] = "-", after[UNITS_BYTES] = "";
		const char *end = member_text(vm, "end");
		bool starts = !strcmp(end, "runs") || !strcmp(end, "blocked");
		if (starts && member_number(vm, "order"))
			snprintf(order, sizeof(order), "%llu", (unsigned long long)member_number(vm, "order"));
		if (member_number(vm, "after_ms"))
			units_span_us(after, member_number(vm, "after_ms") * 1000);
		const char *cells[] = {order, member_text(vm, "vm"), member_text(vm, "from"),
			!strcmp(end, "runs") ? member_text(vm, "to") : end, after, member_text(vm, "text")};
		table_row(table, cells);
	}
	table_print_free(table);
	if (left_out)
		printf("  and %llu more: --fail %s shows them\n", left_out, json_string_value(json_array_get(failed, 0)));
}

static void print_survival(const struct cli *cli, const json_t *result)
{
	const json_t *survives = json_object_get(result, "survives"), *failed = json_object_get(survives, "failed");
	unsigned long long nodes = member_number(survives, "nodes");
	bool exact = json_is_true(json_object_get(survives, "exact"));

	printf("survives  %s%s%llu%s of %llu nodes may die at once, any of them, and every VM that should run does\n",
		color_of(cli, nodes ? "online" : "failed"), exact ? "" : "at least ", nodes, color_end(cli),
		(unsigned long long)member_number(result, "members"));
	printf("limit     %s: ", exact ? member_text(survives, "limit") : "not known");
	if (json_array_size(failed)) {
		printf("without ");
		print_nodes(failed);
		printf(", ");
	}
	printf("%s\n", member_text(survives, "text"));
}

int run_forecast(struct cli *cli)
{
	CLEANUP_JSON json_t *result = NULL;
	const json_t *view;
	size_t i;

	if (cli_call(cli, "forecast", json_pack("{s:s*}", "fail", cli_option(cli, "fail")), &result) < 0)
		return -1;
	if (cli->json) {
		print_json(result);
		return 0;
	}
	print_survival(cli, result);
	json_array_foreach(json_object_get(result, "cases"), i, view) print_case(cli, view);
	return 0;
}
