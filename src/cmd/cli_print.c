/* SPDX-License-Identifier: Apache-2.0
 * What goes to stdout: tables by libsmartcols, JSON as the daemon sent it, and the account of a task. */
#include "cmd/cli.h"

#include <assert.h>
#include <libsmartcols.h>
#include <string.h>

struct table {
	struct libscols_table *scols;
	const struct cli *cli;
	size_t columns;
	int state_column; /* the one called STATE, or -1 */
};

const char *color_of(const struct cli *cli, const char *state)
{
	static const struct {
		const char *state;
		const char *color;
	} colors[] = {
		{"online", "\033[32m"},
		{"done", "\033[32m"},
		{"yes", "\033[32m"},
		{"lost", "\033[31m"},
		{"dead", "\033[31m"},
		{"distrusted", "\033[31m"},
		{"blocked", "\033[31m"},
		{"failed", "\033[31m"},
		{"NO", "\033[31m"},
		{"cancelled", "\033[33m"},
		{"moving", "\033[36m"},
		{"saving", "\033[36m"},
		{"restoring", "\033[36m"},
		{"starting", "\033[36m"},
		{"stopping", "\033[36m"},
		{"running", "\033[36m"},
		{"joining", "\033[36m"},
		{"saved", "\033[34m"},
	};
	size_t length = strcspn(state, " ");

	for (size_t i = 0; cli->color && i < ARRAY_SIZE(colors); i++)
		if (strlen(colors[i].state) == length && !memcmp(colors[i].state, state, length))
			return colors[i].color;
	return "";
}

const char *color_end(const struct cli *cli)
{
	return cli->color ? "\033[0m" : "";
}

struct table *table_new(const struct cli *cli, const char *const *columns)
{
	struct table *table = calloc(1, sizeof(*table));

	assert(table);
	table->scols = scols_new_table();
	assert(table->scols);
	table->cli = cli;
	table->state_column = -1;
	scols_table_enable_colors(table->scols, cli->color);
	for (; columns[table->columns]; table->columns++) {
		const char *name = columns[table->columns];
		bool right = name[0] == '>';
		scols_table_new_column(table->scols, name + right, 0, right ? SCOLS_FL_RIGHT : 0);
		if (!strcmp(name, "STATE"))
			table->state_column = (int)table->columns;
	}
	return table;
}

void table_row(struct table *table, const char *const *cells)
{
	struct libscols_line *line = scols_table_new_line(table->scols, NULL);

	assert(line);
	for (size_t i = 0; i < table->columns; i++) {
		scols_line_set_data(line, i, cells[i] ? cells[i] : "");
		if ((int)i == table->state_column && cells[i] && color_of(table->cli, cells[i])[0])
			scols_cell_set_color(scols_line_get_cell(line, i), color_of(table->cli, cells[i]));
	}
}

void table_print_free(struct table *table)
{
	fflush(stdout);
	scols_print_table(table->scols);
	scols_unref_table(table->scols);
	free(table);
}

void print_json(const json_t *json)
{
	json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	putchar('\n');
}

const char *member_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text && *text ? text : "-";
}

uint64_t member_number(const json_t *object, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(object, key));

	return value < 0 ? 0 : (uint64_t)value;
}

static void print_span(const json_t *spans, const char *key, const char *label, const char *note)
{
	char span[UNITS_BYTES];

	if (json_object_get(spans, key))
		printf("  %-14s %10s%s%s\n", label, units_span_us(span, member_number(spans, key)), *note ? "   " : "",
			note);
}

/* The phases of design §6 in their order; those inside the blackout are indented. A save ends before its end, a restore
 * begins after its begin: neither has one. */
static void print_phases(const json_t *task)
{
	const json_t *spans = json_object_get(task, "spans_us");
	const json_t *figures = json_object_get(task, "figures");
	int in = json_object_get(spans, "blackout") ? 0 : 2; /* where the labels begin */
	char note[160], a[UNITS_BYTES], b[UNITS_BYTES], c[UNITS_BYTES];

	if (!figures)
		return;
	print_span(spans, "prepare", "prepare", "the target proved that it fits, QEMU stands by");
	snprintf(note, sizeof(note), "the guest runs; %llu passes",
		(unsigned long long)member_number(figures, "passes"));
	print_span(spans, "copy", "copy", note);
	print_span(spans, "blackout", "blackout", "the guest did not run:");
	print_span(spans, "tail", &"  tail"[in], "the rest of the memory and the devices");
	snprintf(note, sizeof(note), "%llu pages", (unsigned long long)member_number(figures, "repaired_pages"));
	print_span(spans, "repair", &"  repair"[in], note);
	print_span(spans, "seal", &"  seal"[in], "made durable");
	print_span(spans, "hand_over", &"  hand over"[in], "committed, the target takes it");
	print_span(spans, "load", &"  load"[in], "the devices, and where to read the memory");
	print_span(spans, "resume", &"  resume"[in], "committed, the guest runs");
	print_span(spans, "fill", "fill", "the last page was in; the guest ran meanwhile");
	if (member_number(figures, "ram_bytes"))
		printf("  %-14s %10s   memory, %s devices; RAM in use %s; written %.2f x\n", "written",
			units_bytes(a, member_number(figures, "ram_bytes")),
			units_bytes(b, member_number(figures, "device_bytes")),
			units_bytes(c, member_number(figures, "used_bytes")),
			json_real_value(json_object_get(figures, "write_amplification")));
}

/* "task 42: move of web, n1 -> n2: done in 2.31 s" */
void print_task_result(const struct cli *cli, const json_t *task)
{
	const char *state = member_text(task, "state");
	const char *source = member_text(task, "source"), *target = member_text(task, "target");
	uint64_t started = member_number(task, "started_ms"), finished = member_number(task, "finished_ms");
	char span[UNITS_BYTES], where[160] = "";

	if (*source != '-' && *target != '-')
		snprintf(where, sizeof(where), ", %s -> %s", source, target);
	else if (*target != '-' || *source != '-')
		snprintf(where, sizeof(where), ", %s", *target != '-' ? target : source);
	printf("task %llu: %s of %s%s%s: %s%s%s", (unsigned long long)member_number(task, "id"),
		member_text(task, "kind"), member_text(task, "vm"), where,
		json_is_true(json_object_get(task, "dry_run")) ? " (dry run)" : "", color_of(cli, state), state,
		color_end(cli));
	if (finished >= started && started)
		printf(" in %s", units_span_us(span, (finished - started) * 1000));
	putchar('\n');
	if (json_string_length(json_object_get(task, "text")))
		printf("  %s\n", member_text(task, "text"));
	print_phases(task);
}
