/* SPDX-License-Identifier: Apache-2.0
 * Asking for a change and seeing it through: the call, the progress, the end, also across a restart of the daemon. */
#include "cmd/cli.h"

#include <assert.h>
#include <signal.h>
#include <string.h>
#include <time.h>

enum { CALL_MS = 30000, RECONNECT_MS = 60000, RECONNECT_STEP_MS = 250, BAR_CELLS = 24 };

/* What has been shown of a task so far. */
struct progress {
	const struct cli *cli;
	uint64_t task; /* 0: not known yet */
	char phase[32];
	uint64_t percent;
	char note[224];
	bool line_open; /* a line without its end stands on the terminal */
};

static int keep_hint(struct cli *cli)
{
	snprintf(cli->hint, sizeof(cli->hint), "%s", cli->client.hint);
	return -1;
}

static int connect_daemon(struct cli *cli)
{
	const char *path = cli_option(cli, "socket");

	if (!path)
		path = getenv("WATARI_SOCKET");
	if (!path || !*path)
		path = "/run/watari/api.sock";
	return api_client_open(&cli->client, path, &cli->err) < 0 ? keep_hint(cli) : 0;
}

int cli_call(struct cli *cli, const char *call, json_t *args, json_t **result)
{
	CLEANUP_JSON json_t *ours = args;

	if (cli->client.fd < 0 && connect_daemon(cli) < 0)
		return -1;
	return api_client_call(&cli->client, call, STEAL(ours), CALL_MS, result, &cli->err) < 0 ? keep_hint(cli) : 0;
}

static void show_bar(struct progress *progress, const char *vm, const char *written)
{
	char bar[BAR_CELLS + 1];
	size_t full = (size_t)(progress->percent * BAR_CELLS / 100);

	memset(bar, ' ', BAR_CELLS);
	memset(bar, '=', full);
	bar[BAR_CELLS] = '\0';
	fprintf(stderr, "\r\033[K%s: %-9s [%s] %3llu %%%s%s%s%s", vm, progress->phase, bar,
		(unsigned long long)progress->percent, written ? "  " : "", written ? written : "",
		progress->note[0] ? "  " : "", progress->note);
	progress->line_open = true;
}

static void show_line(const char *vm, const struct progress *progress, const char *written)
{
	fprintf(stderr, "%s: %s", vm, progress->phase);
	if (progress->percent)
		fprintf(stderr, " %llu %%", (unsigned long long)progress->percent);
	if (written)
		fprintf(stderr, ", %s written", written);
	fprintf(stderr, "%s%s\n", progress->note[0] ? ": " : "", progress->note);
}

static void show(struct progress *progress, const json_t *view, const char *phase, uint64_t percent)
{
	const json_t *figures = json_object_get(view, "figures");
	const char *note = json_string_value(json_object_get(view, "note"));
	bool new_phase = strcmp(phase, progress->phase) != 0;
	bool new_note = note && strcmp(note, progress->note) != 0;
	bool step = percent / 10 != progress->percent / 10;
	char bytes[UNITS_BYTES];

	if (progress->cli->quiet)
		return;
	if (percent > 100)
		percent = 100;
	snprintf(progress->phase, sizeof(progress->phase), "%s", phase);
	snprintf(progress->note, sizeof(progress->note), "%s", note ? note : "");
	progress->percent = percent;
	const char *written =
		member_number(figures, "ram_bytes") ? units_bytes(bytes, member_number(figures, "ram_bytes")) : NULL;
	if (progress->cli->progress)
		show_bar(progress, member_text(view, json_object_get(view, "vm") ? "vm" : "name"), written);
	else if (new_phase || new_note || step)
		show_line(member_text(view, json_object_get(view, "vm") ? "vm" : "name"), progress, written);
}

static void on_event(void *ctx, const json_t *event)
{
	struct progress *progress = ctx;
	const json_t *vm = json_object_get(event, "vm");
	const json_t *news = json_object_get(event, "progress");

	if (vm) {
		const char *phase = member_text(vm, "phase");
		show(progress, vm, !strcmp(phase, "idle") ? member_text(vm, "state") : phase, 0);
	} else if (news && (!progress->task || member_number(news, "task") == progress->task)) {
		const char *phase = member_text(news, "phase");
		show(progress, news, *phase == '-' || !strcmp(phase, "idle") ? "filling" : phase,
			member_number(news, "percent"));
	}
}

static void progress_end(struct progress *progress)
{
	if (progress->line_open)
		fputs("\r\033[K", stderr);
	progress->line_open = false;
}

/* A signal handler can reach nothing else. */
static char farewell[160];

static void interrupted(int signal_number)
{
	(void)!write(STDERR_FILENO, farewell, strlen(farewell));
	_exit(128 + signal_number);
}

static void arm_farewell(uint64_t task, const char *vm)
{
	struct sigaction action = {.sa_handler = interrupted};

	snprintf(farewell, sizeof(farewell),
		"\ntask %llu goes on; 'watari task wait %llu' waits again, 'watari vm cancel %.64s'\n",
		(unsigned long long)task, (unsigned long long)task, vm);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static void subscribe(struct cli *cli, const char *vm)
{
	CLEANUP_JSON json_t *result = NULL;
	struct err ignored;

	/* Without news the wait works all the same. */
	if (vm)
		api_client_call(&cli->client, "subscribe", json_pack("{s:s}", "vm", vm), CALL_MS, &result, &ignored);
}

static bool reconnect(struct cli *cli, uint64_t task)
{
	struct timespec step = {.tv_nsec = RECONNECT_STEP_MS * 1000000};

	if (!cli->quiet)
		fprintf(stderr, "the connection to watarid broke; task %llu goes on, connecting again\n",
			(unsigned long long)task);
	for (int waited_ms = 0; waited_ms < RECONNECT_MS; waited_ms += RECONNECT_STEP_MS) {
		nanosleep(&step, NULL);
		if (!connect_daemon(cli))
			return true;
	}
	return false;
}

/* The time that is left of limit_ms since began_ms; 0 in *left only where there is no limit. */
static bool time_left(uint64_t limit_ms, uint64_t began_ms, uint64_t *left)
{
	uint64_t spent = units_now_ms() - began_ms;

	*left = limit_ms ? limit_ms - spent : 0;
	return !limit_ms || spent < limit_ms;
}

static int wait_call(struct cli *cli, uint64_t id, const char *vm, uint64_t left_ms, json_t **task)
{
	json_t *args = json_pack("{s:I, s:s*, s:I}", "task", (json_int_t)id, "vm", vm, "timeout_ms", (json_int_t)left_ms);

	/* The daemon keeps the limit; ours is for a daemon that is stopped. */
	return api_client_call(&cli->client, "task.wait", args, left_ms ? left_ms + 2000 : 0, task, &cli->err) < 0
		       ? keep_hint(cli)
		       : 0;
}

int cli_wait(struct cli *cli, uint64_t id, const char *vm, json_t **task)
{
	struct progress progress = {.cli = cli, .task = id};
	uint64_t limit_ms = 0, left_ms, began_ms = units_now_ms();
	const char *timeout = cli_option(cli, "timeout");
	int result = -1;

	if (timeout && units_parse_seconds(timeout, &limit_ms, &cli->err) < 0)
		return err_prefix(&cli->err, "--timeout");
	arm_farewell(id, vm ? vm : "VM");
	cli->client.on_event = on_event;
	cli->client.ctx = &progress;
	while (time_left(limit_ms, began_ms, &left_ms)) {
		result = wait_call(cli, id, vm, left_ms, task);
		if (result == 0 || cli->err.code != ERR_UNAVAILABLE)
			break;
		progress_end(&progress);
		if (!reconnect(cli, id))
			break;
		subscribe(cli, vm);
		err_set(&cli->err, ERR_TIMEOUT, "task %llu is still under way", (unsigned long long)id);
	}
	progress_end(&progress);
	cli->client.on_event = NULL;
	return result;
}

int cli_task_outcome(struct cli *cli, const json_t *task)
{
	const char *state = member_text(task, "state");

	if (!strcmp(state, "done") || !strcmp(state, "running"))
		return 0;
	const char *code = json_string_value(json_object_get(task, "code"));
	const char *hint = json_string_value(json_object_get(task, "hint"));
	snprintf(cli->hint, sizeof(cli->hint), "%s", hint ? hint : "");
	return err_set(&cli->err, code ? err_from_name(code) : ERR_CANCELLED, "%s of %s %s: %s", member_text(task, "kind"), member_text(task, "vm"),
		state, member_text(task, "text"));
}

static void print_taken(const struct cli *cli, const json_t *result, const char *done)
{
	if (cli->json)
		print_json(result);
	else if (json_is_true(json_object_get(result, "dry_run")))
		printf("dry run: it would be done%s%s\n", json_object_get(result, "text") ? ": " : "",
			json_object_get(result, "text") ? member_text(result, "text") : "");
	else if (json_object_get(result, "task"))
		printf("task %llu\n", (unsigned long long)member_number(result, "task"));
	else
		printf("%s\n", done);
}

/* What it would mean here and now, or why it is refused: before a name is asked for, that is what a person has to know. */
static int force_means(struct cli *cli, char node[static 64], json_t **means)
{
	CLEANUP_JSON json_t *status = NULL;

	if (cli_call(cli, "cluster.status", NULL, &status) < 0)
		return -1;
	snprintf(node, 64, "%s", member_text(status, "node"));
	return cli_call(cli, "cluster.force_quorum", json_pack("{s:s, s:b}", "confirm", node, "dry_run", 1), means);
}

int run_force_quorum(struct cli *cli)
{
	CLEANUP_JSON json_t *means = NULL;
	const char *typed = cli_option(cli, "yes");
	char node[64];

	if (typed)
		return cli_change(cli, "cluster.force_quorum", NULL, json_pack("{s:s}", "confirm", typed),
			"Quorum is forced; 'watari status' shows what is blocked until its node is proven off");
	if (force_means(cli, node, &means) < 0)
		return -1;
	if (cli_flag(cli, "dry-run")) {
		print_taken(cli, means, "");
		return 0;
	}
	snprintf(cli->hint, sizeof(cli->hint),
		"'watari cluster force-quorum --help' says all that you risk; then --yes %s, on this node alone", node);
	return err_set(&cli->err, ERR_NEEDS_FORCE, "forcing quorum needs this node's name typed: %s",
		member_text(means, "text"));
}

int cli_change(struct cli *cli, const char *call, const char *vm, json_t *args, const char *done)
{
	CLEANUP_JSON json_t *ours = args;
	CLEANUP_JSON json_t *result = NULL;
	CLEANUP_JSON json_t *task = NULL;
	struct progress before = {.cli = cli};
	bool wait = cli->verb->has_task && !cli_flag(cli, "no-wait");

	if (cli_flag(cli, "dry-run"))
		json_object_set_new(ours, "dry_run", json_true());
	if (cli->client.fd < 0 && connect_daemon(cli) < 0)
		return -1;
	cli->client.on_event = on_event;
	cli->client.ctx = &before;
	if (wait)
		subscribe(cli, vm);
	int failed = cli_call(cli, call, STEAL(ours), &result);
	progress_end(&before);
	cli->client.on_event = NULL;
	if (failed)
		return -1;
	if (!wait || !json_object_get(result, "task")) {
		print_taken(cli, result, done);
		return 0;
	}
	if (cli_wait(cli, member_number(result, "task"), vm, &task) < 0)
		return -1;
	if (cli->json)
		print_json(task);
	else if (!cli_task_outcome(cli, task))
		print_task_result(cli, task);
	return cli_task_outcome(cli, task);
}
