/* SPDX-License-Identifier: Apache-2.0
 * The command line: one table of verbs (cli_verbs.c) from which come parsing, help, man pages and completion.
 *
 * The CLI knows the API alone: what may be done, and every rule about a VM, is the daemon's to say. Here are only
 * words, units and tables.
 * Must never: start a shell, or put anything of the command line into a file's name unchecked. */
#pragma once

#include "api/client.h"

enum complete { COMPLETE_NONE, COMPLETE_VM, COMPLETE_NODE, COMPLETE_NODES, COMPLETE_TASK, COMPLETE_DEVICE, COMPLETE_AGENT, COMPLETE_FILE, COMPLETE_WHY };

struct opt {
	const char *name;  /* without the dashes */
	char letter;	   /* short form, or 0 */
	const char *value; /* what the help calls it; NULL: a flag */
	const char *help;
	const char *choices; /* "table json", or NULL */
	enum complete complete;
	bool many; /* may be given more than once */
};

struct operand {
	const char *name; /* "VM" */
	bool optional;
	enum complete complete;
};

enum {
	VERB_OPTS_MAX = 32,
	VERB_OPERANDS_MAX = 2,
	VERB_EXAMPLES_MAX = 6,
	GIVEN_MAX = 64,
};

struct cli;

struct verb {
	const char *noun; /* NULL: "watari status" */
	const char *name;
	struct operand operands[VERB_OPERANDS_MAX];
	bool changes;  /* takes --dry-run */
	bool has_task; /* takes --wait, --no-wait */
	struct opt opts[VERB_OPTS_MAX];
	int (*run)(struct cli *cli);
	const char *summary; /* one line, no full stop */
	const char *text;    /* more, for --help and the man page; or NULL */
	const char *examples[VERB_EXAMPLES_MAX];
};

struct noun {
	const char *name;
	const char *summary;
	const char *text;
};

extern const struct verb cli_verbs[];
extern const size_t cli_verb_count;
extern const struct noun cli_nouns[];
extern const size_t cli_noun_count;
extern const struct opt cli_global_opts[], cli_change_opts[], cli_task_opts[]; /* end with a NULL name */

struct given {
	const struct opt *opt;
	const char *value;
};

struct cli {
	const struct verb *verb;
	struct given given[GIVEN_MAX];
	size_t given_count;
	const char *operands[VERB_OPERANDS_MAX];
	bool help;
	bool json;
	bool color;    /* on stdout */
	bool progress; /* a terminal on stderr, and not --quiet */
	bool quiet;
	struct api_client client;
	struct err err;
	char hint[API_HINT_BYTES];
};

/* cli_args.c */
/* Fills *cli from the words after the program's name. ERR_USAGE with a hint. */
int cli_parse(struct cli *cli, int count, char *const *words);
/* The last value of an option, or NULL. A flag's value is "". */
const char *cli_option(const struct cli *cli, const char *name);
static inline bool cli_flag(const struct cli *cli, const char *name)
{
	return cli_option(cli, name) != NULL;
}
/* An option of this verb, its long name without dashes. */
const struct opt *cli_find_opt(const struct verb *verb, const char *name, size_t length);
/* Calls fn for each option that the verb takes, own ones first. */
void cli_each_opt(const struct verb *verb, void (*fn)(void *ctx, const struct opt *opt), void *ctx);
const struct verb *cli_find_verb(const char *noun, const char *name);
bool cli_is_noun(const char *word);

/* cli_units.c: text to values and back. Errors name the rule. */
int units_parse_mib(const char *text, uint64_t *mib, struct err *err); /* 512M, 2G, 1T; a bare number is MiB */
int units_parse_number(const char *text, uint64_t *number, struct err *err);
int units_parse_seconds(const char *text, uint64_t *ms, struct err *err);		 /* 90, 90s, 5m, 2h, 1d */
int units_parse_since(const char *text, uint64_t now_ms, uint64_t *ms, struct err *err); /* also a date */
int units_parse_disk(const char *text, json_t **disk, struct err *err);			 /* PATH[,format=…,…] */
int units_parse_network(const char *text, json_t **nic, struct err *err); /* BRIDGE[,mac=…,model=…] */
enum { UNITS_BYTES = 32 };
const char *units_bytes(char out[UNITS_BYTES], uint64_t bytes); /* 1.5 GiB */
const char *units_mib(char out[UNITS_BYTES], uint64_t mib);
const char *units_span_us(char out[UNITS_BYTES], uint64_t us);			 /* 0.4 ms, 48 ms, 2.31 s, 3 min 20 s */
const char *units_ago(char out[UNITS_BYTES], uint64_t then_ms, uint64_t now_ms); /* 3 min ago */
const char *units_time(char out[UNITS_BYTES], uint64_t ms);			 /* 2024-05-01 12:00:00, local time */
uint64_t units_now_ms(void);

/* cli_help.c */
void help_program(FILE *out);
void help_noun(FILE *out, const char *noun);
void help_verb(FILE *out, const struct verb *verb);
void help_man(FILE *out, const struct noun *noun); /* scdoc */
int cli_complete(int count, char *const *words);

/* cli_print.c */
struct table;
/* Columns are "NAME" or ">SIZE" (to the right), the last is NULL. */
struct table *table_new(const struct cli *cli, const char *const *columns);
/* As many texts as columns; NULL is empty. The first word of a state chooses its colour. */
void table_row(struct table *table, const char *const *cells);
void table_print_free(struct table *table);
void print_json(const json_t *json);
/* "name" or "-": a member of an object as text for people; out is the place for numbers. */
const char *member_text(const json_t *object, const char *key);
uint64_t member_number(const json_t *object, const char *key);
const char *color_of(const struct cli *cli, const char *state);
const char *color_end(const struct cli *cli);
/* A line for each node: whether it could take a VM, and why (not). Takes NULL. */
void print_placement(const json_t *placement);
void print_task_result(const struct cli *cli, const json_t *task);

/* cli_change.c */
/* Connects if need be. Takes args. Fills cli->err and cli->hint. */
int cli_call(struct cli *cli, const char *call, json_t *args, json_t **result);
/* Makes a change: adds dry_run, waits for its task as the options say, prints how it ended. done: the sentence for a
 * change without a task ("VM web is defined"). Takes args. */
int cli_change(struct cli *cli, const char *call, const char *vm, json_t *args, const char *done);
/* Waits for a task with progress on stderr; the connection may break and come back. A new reference in *task. */
int cli_wait(struct cli *cli, uint64_t id, const char *vm, json_t **task);
int cli_task_outcome(struct cli *cli, const json_t *task);

/* The verbs. */
int run_status(struct cli *cli);
int run_watch(struct cli *cli);
int run_log(struct cli *cli);
int run_why(struct cli *cli);
int run_forecast(struct cli *cli);
int run_api_list(struct cli *cli);
int run_force_quorum(struct cli *cli);
int run_node_list(struct cli *cli);
int run_node_show(struct cli *cli);
int run_node_confirm_off(struct cli *cli);
int run_node_fence(struct cli *cli);
int run_node_resume(struct cli *cli);
/* "fenced by power-n3, then pdu-a and pdu-b": level after level, and within one all of them. */
int print_fenced_by(struct cli *cli, const char *node);
int run_fence_list(struct cli *cli);
int run_fence_show(struct cli *cli);
int run_fence_add(struct cli *cli);
int run_fence_set(struct cli *cli);
int run_fence_remove(struct cli *cli);
int run_fence_agent(struct cli *cli);
int run_fence_check(struct cli *cli);
int run_fence_status(struct cli *cli);
int run_fence_test(struct cli *cli);
int run_vm_list(struct cli *cli);
int run_vm_show(struct cli *cli);
int run_vm_create(struct cli *cli);
int run_vm_edit(struct cli *cli);
int run_vm_delete(struct cli *cli);
int run_vm_start(struct cli *cli);
int run_vm_shutdown(struct cli *cli);
int run_vm_stop(struct cli *cli);
int run_vm_save(struct cli *cli);
int run_vm_move(struct cli *cli);
int run_vm_cancel(struct cli *cli);
int run_vm_console(struct cli *cli);
int run_task_list(struct cli *cli);
int run_task_show(struct cli *cli);
int run_task_wait(struct cli *cli);
