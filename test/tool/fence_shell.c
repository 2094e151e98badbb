/* SPDX-License-Identifier: Apache-2.0
 * The driver of fence agents under a test's hand: orders as JSON lines on stdin, answers as JSON lines on stdout.
 * Ends at the end of its input. usage: fence-shell AGENTS_DIR SECRETS_DIR */
#include "base/json.h"
#include "driver/fence/fencer_agents.h"
#include "driver/linux/loop_sd.h"

#include <string.h>
#include <sys/epoll.h>

struct shell {
	struct loop *loop;
	struct fencer *fencer;
	char in[64 << 10];
	size_t in_size;
};

static void say(json_t *json)
{
	json_dumpf(json, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(json);
}

static void on_done(void *ctx, uint64_t id, enum fence_result result, bool was_on, const char *text)
{
	(void)ctx;
	say(json_pack("{s:I, s:s, s:b, s:s}", "id", (json_int_t)id, "result", fence_result_name((int)result), "was_on",
		(int)was_on, "text", text));
}

static void on_checked(
	void *ctx, uint64_t id, const struct err *err, const char *text, const struct fence_agent_about *about)
{
	(void)ctx;
	json_t *told = json_object();

	for (uint32_t i = 0; about && i < about->option_count; i++)
		json_object_set_new(told, about->options[i].name, json_string(about->options[i].about));
	say(json_pack("{s:I, s:s, s:s, s:o}", "id", (json_int_t)id, "result", err ? err_info(err->code)->name : "fits", "text",
		err ? err->text : text, "told", told));
}

static void on_line(struct shell *shell, const char *line, size_t size)
{
	static const char *const actions[] = {[FENCE_OFF] = "off", [FENCE_ON] = "on", [FENCE_STATUS] = "status"};
	struct fence_order order = {.node_name = "n3"};
	const char *action = "";
	struct err err;

	CLEANUP_JSON json_t *call = json_parse(line, size, &err);
	if (!call || json_get_text(call, "action", "", &action, &err) < 0 ||
		json_to_record(&fence_device_schema, json_object_get(call, "device"), 0, &order.device, &err) < 0) {
		say(json_pack("{s:s, s:s}", "result", "refused", "text", err.text));
		return;
	}
	order.id = (uint64_t)json_integer_value(json_object_get(call, "id"));
	fence_device_default(&order.device);
	if (!strcmp(action, "check"))
		fencer_check(shell->fencer, order.id, &order.device);
	for (size_t i = 0; i < ARRAY_SIZE(actions); i++)
		if (!strcmp(action, actions[i])) {
			order.action = (enum fence_action)i;
			fencer_run(shell->fencer, &order);
		}
}

static void on_input(void *ctx, uint32_t events)
{
	struct shell *shell = ctx;
	ssize_t n = read(STDIN_FILENO, shell->in + shell->in_size, sizeof(shell->in) - shell->in_size);
	char *end;

	(void)events;
	if (n <= 0) {
		loop_sd_exit(shell->loop, 0);
		return;
	}
	shell->in_size += (size_t)n;
	while ((end = memchr(shell->in, '\n', shell->in_size))) {
		size_t size = (size_t)(end - shell->in);
		on_line(shell, shell->in, size);
		shell->in_size -= size + 1;
		memmove(shell->in, end + 1, shell->in_size);
	}
}

int main(int argc, char **argv)
{
	static struct shell shell;
	const struct fencer_callbacks callbacks = {.ctx = &shell, .done = on_done, .checked = on_checked};
	struct fencer_agents_config config = {0};
	struct err err;
	int status = 1;

	if (argc != 3)
		return 64;
	snprintf(config.agents_dir, sizeof(config.agents_dir), "%s", argv[1]);
	snprintf(config.secrets_dir, sizeof(config.secrets_dir), "%s", argv[2]);
	shell.loop = loop_sd_new(&err);
	if (!shell.loop)
		return 1;
	shell.fencer = fencer_agents_new(shell.loop, &config, &callbacks);
	loop_io_watch(shell.loop, STDIN_FILENO, EPOLLIN, on_input, &shell);
	loop_sd_run(shell.loop, &status, &err);
	fencer_agents_free(shell.fencer);
	loop_sd_free(shell.loop);
	return status;
}
