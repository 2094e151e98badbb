/* SPDX-License-Identifier: Apache-2.0
 * `watari why`: what is, and the lines of the log that led to it. */
#include "cmd/cli.h"

#include <string.h>
#include <time.h>

/* Tenths of a second matter here: who was first. */
static void print_line(const json_t *line)
{
	uint64_t ms = member_number(line, "now_ms");
	time_t seconds = (time_t)(ms / 1000);
	struct tm local;
	char when[32];

	localtime_r(&seconds, &local);
	strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &local);
	printf("  %s.%llu  %s\n", when, (unsigned long long)(ms % 1000 / 100), member_text(line, "text"));
}

static void print_now(const char *kind, const json_t *subject)
{
	const char *state = member_text(subject, "state");

	if (!strcmp(kind, "vm"))
		printf("vm %s is %s%s%s: %s\n", member_text(subject, "name"), state,
			json_is_string(json_object_get(subject, "node")) ? " on " : "",
			json_is_string(json_object_get(subject, "node")) ? member_text(subject, "node") : "",
			member_text(subject, "reason"));
	else
		printf("node %s is %s: %s\n", member_text(subject, "name"), state, member_text(subject, "reason"));
}

static void print_waits(const json_t *waits)
{
	if (!json_is_object(waits))
		return;
	printf("%s does not act now: %s\n", member_text(waits, "node"), member_text(waits, "reason"));
	if (member_text(waits, "hint")[0])
		printf("  %s\n", member_text(waits, "hint"));
	printf("What follows is what it knows of the time before.\n");
}

int run_why(struct cli *cli)
{
	CLEANUP_JSON json_t *result = NULL;
	const char *subject = cli->operands[0];
	const char *slash = strchr(subject, '/');
	const json_t *line;
	const char *kind;
	size_t i;

	if (!strncmp(subject, "vm/", 3) && subject[3]) {
		kind = "vm";
	} else if (!strncmp(subject, "node/", 5) && subject[5]) {
		kind = "node";
	} else {
		snprintf(cli->hint, sizeof(cli->hint), "for example: watari why vm/web, watari why node/n2");
		return err_set(&cli->err, ERR_USAGE, "why: '%.64s' is neither vm/NAME nor node/NAME", subject);
	}
	if (cli_call(cli, "why", json_pack("{s:s}", kind, slash + 1), &result) < 0)
		return -1;
	if (cli->json) {
		print_json(result);
		return 0;
	}
	print_waits(json_object_get(result, "waits"));
	print_now(kind, json_object_get(result, "subject"));
	print_placement(json_object_get(json_object_get(result, "subject"), "placement"));
	json_array_foreach(json_object_get(result, "lines"), i, line) print_line(line);
	if (!json_array_size(json_object_get(result, "lines")))
		printf("  the log does not reach back that far\n");
	return 0;
}
