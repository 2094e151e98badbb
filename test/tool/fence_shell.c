/* SPDX-License-Identifier: Apache-2.0
 * The driver of fence agents under a test's hand: orders as JSON lines on stdin, answers as JSON lines on stdout.
 * Ends at the end of its input. usage: fence-shell AGENTS_DIR SECRETS_DIR */
#include "driver/fence/fencer_agents.h"
#include "line_shell.h"

#include <string.h>

struct shell {
	struct loop *loop;
	struct fencer *fencer;
	struct line_shell lines;
};

static void on_done(void *ctx, uint64_t id, enum fence_result result, bool was_on, const char *text)
{
	(void)ctx;
	line_shell_say(json_pack("{s:I, s:s, s:b, s:s}", "id", (json_int_t)id, "result", fence_result_name((int)result),
		"was_on", (int)was_on, "text", text));
}

static void on_checked(
	void *ctx, uint64_t id, const struct err *err, const char *text, const struct fence_agent_about *about)
{
	(void)ctx;
	json_t *told = json_object();

	for (uint32_t i = 0; about && i < about->option_count; i++)
		json_object_set_new(told, about->options[i].name, json_string(about->options[i].about));
	line_shell_say(json_pack("{s:I, s:s, s:s, s:o}", "id", (json_int_t)id, "result",
		err ? err_info(err->code)->name : "fits", "text", err ? err->text : text, "told", told));
}

static void on_line(void *ctx, const char *line, size_t size)
{
	struct shell *shell = ctx;
	static const char *const actions[] = {[FENCE_OFF] = "off", [FENCE_ON] = "on", [FENCE_STATUS] = "status"};
	struct fence_order order = {.node_name = "n3"};
	const char *action = "";
	struct err err;

	CLEANUP_JSON json_t *call = json_parse(line, size, &err);
	if (!call || json_get_text(call, "action", "", &action, &err) < 0 ||
		json_to_record(&fence_device_schema, json_object_get(call, "device"), 0, &order.device, &err) < 0) {
		line_shell_say(json_pack("{s:s, s:s}", "result", "refused", "text", err.text));
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
	line_shell_begin(&shell.lines, shell.loop, on_line, &shell);
	loop_sd_run(shell.loop, &status, &err);
	fencer_agents_free(shell.fencer);
	loop_sd_free(shell.loop);
	return status;
}
