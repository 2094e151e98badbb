/* SPDX-License-Identifier: Apache-2.0
 * The QEMU driver under a test's hand: calls of port/hypervisor.h as JSON lines on stdin, its events as JSON lines on
 * stdout. Ends at the end of its input; guests run on. Started with one argument, its configuration as JSON. */
#include "driver/qemu/qemu.h"
#include "line_shell.h"

#include <string.h>

static const char *const event_names[] = {
	[HV_EVENT_STARTED] = "started",
	[HV_EVENT_PREPARED] = "prepared",
	[HV_EVENT_SEALED] = "sealed",
	[HV_EVENT_LOADED] = "loaded",
	[HV_EVENT_RESUMED] = "resumed",
	[HV_EVENT_FILLED] = "filled",
	[HV_EVENT_FAILED] = "failed",
	[HV_EVENT_GONE] = "gone",
	[HV_EVENT_PROGRESS] = "progress",
	[HV_EVENT_PANICKED] = "panicked",
	[HV_EVENT_STORAGE] = "storage",
	[HV_EVENT_PROBED] = "probed",
};

struct shell {
	struct loop *loop;
	struct hypervisor *hv;
	struct line_shell lines;
};

static void on_event(void *ctx, const struct hv_event *event)
{
	json_t *json = json_pack("{s:s, s:s, s:I, s:I, s:b, s:i, s:o}", "event", event_names[event->kind], "vm",
		event->vm, "epoch", (json_int_t)event->epoch, "task", (json_int_t)event->task, "filling",
		(int)event->filling, "percent", (int)event->percent, "figures",
		json_from_record(&move_figures_schema, &event->figures, JSON_SKIP_ZERO));

	(void)ctx;
	if (event->kind == HV_EVENT_GONE)
		json_object_set_new(json, "cause", json_string(gone_cause_name((int)event->cause)));
	if (event->note)
		json_object_set_new(json, "note", json_string(event->note));
	if (event->err.code) {
		json_object_set_new(json, "code", json_string(err_info(event->err.code)->name));
		json_object_set_new(json, "text", json_string(event->err.text));
	}
	line_shell_say(json);
}

static void on_log(void *ctx, const char *line)
{
	(void)ctx;
	fprintf(stderr, "%s\n", line);
}

static json_t *info_json(const char *vm, const struct hv_info *info)
{
	return json_pack("{s:s, s:s, s:I, s:I, s:b, s:b}", "vm", vm, "state", hv_state_name((int)info->state), "epoch",
		(json_int_t)info->epoch, "task", (json_int_t)info->task, "filling", (int)info->filling,
		"shutdown_asked", (int)info->shutdown_asked);
}

static void add_info(void *ctx, const char *vm, const struct hv_info *info)
{
	json_array_append_new(ctx, info_json(vm, info));
}

static uint64_t number(const json_t *call, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(call, key));
}

static void answer(struct shell *shell, const char *name, const json_t *call)
{
	const char *vm = json_string_value(json_object_get(call, "vm"));
	struct node_facts facts = {0};
	struct hv_info info;
	struct err err;

	if (!strcmp(name, "inspect")) {
		shell->hv->ops->inspect(shell->hv, vm, &info);
		line_shell_say(json_pack("{s:s, s:o}", "answer", name, "info", info_json(vm, &info)));
	} else if (!strcmp(name, "each")) {
		json_t *all = json_array();
		shell->hv->ops->each(shell->hv, add_info, all);
		line_shell_say(json_pack("{s:s, s:o}", "answer", name, "all", all));
	} else if (!strcmp(name, "facts")) {
		if (shell->hv->ops->facts(shell->hv, &facts, &err) < 0)
			line_shell_say(json_pack("{s:s, s:s}", "answer", name, "error", err.text));
		else
			line_shell_say(json_pack("{s:s, s:o}", "answer", name, "facts",
				json_from_record(&node_facts_schema, &facts, 0)));
	}
}

static void obey(struct shell *shell, const char *name, const json_t *call)
{
	const char *vm = json_string_value(json_object_get(call, "vm"));
	const struct hypervisor_ops *ops = shell->hv->ops;
	struct hypervisor *hv = shell->hv;
	struct vm_def def = {0};
	struct err err;

	if (json_object_get(call, "def")) {
		if (json_to_record(&vm_def_schema, json_object_get(call, "def"), 0, &def, &err) < 0) {
			line_shell_say(json_pack("{s:s, s:s}", "answer", name, "error", err.text));
			return;
		}
		vm_def_pin(&def);
	}
	if (!strcmp(name, "start"))
		ops->start(hv, &def, number(call, "epoch"));
	else if (!strcmp(name, "standby"))
		ops->standby(hv, &def, number(call, "task"));
	else if (!strcmp(name, "copy"))
		ops->copy(hv, &def, number(call, "task"), number(call, "epoch"));
	else if (!strcmp(name, "load"))
		ops->load(hv, &def, number(call, "task"),
			&(struct hv_saved){.task = number(call, "state_task"),
				.epoch = number(call, "state_epoch"),
				.verify_all = json_is_true(json_object_get(call, "verify_all"))});
	else if (!strcmp(name, "run"))
		ops->run(hv, vm, number(call, "task"), number(call, "epoch"));
	else if (!strcmp(name, "shutdown"))
		ops->shutdown(hv, vm);
	else if (!strcmp(name, "kill"))
		ops->kill(hv, vm);
	else if (!strcmp(name, "heartbeat"))
		ops->heartbeat(hv, vm, (uint32_t)number(call, "seconds"));
	else if (!strcmp(name, "purge"))
		ops->purge(hv, vm, number(call, "keep"), number(call, "below"));
	else
		answer(shell, name, call);
}

static void on_line(void *ctx, const char *text, size_t size)
{
	struct shell *shell = ctx;
	struct err err;
	const char *name;

	CLEANUP_JSON json_t *call = json_parse(text, size, &err);
	if (!call || json_get_text(call, "call", "", &name, &err) < 0)
		line_shell_say(json_pack("{s:s, s:s}", "answer", "", "error", err.text));
	else
		obey(shell, name, call);
}

static const char *text(const json_t *json, const char *key)
{
	return json_string_value(json_object_get(json, key));
}

int main(int argc, char **argv)
{
	static struct shell shell;
	struct err err;
	int status;

	CLEANUP_JSON json_t *json = argc == 2 ? json_parse(argv[1], strlen(argv[1]), &err) : NULL;
	if (!json) {
		fprintf(stderr, "usage: hv-shell '{\"run_dir\": …}'\n");
		return 64;
	}
	struct qemu_config config = {.cluster_uuid = text(json, "cluster_uuid"),
		.node_name = text(json, "node_name"),
		.qemu_binary = text(json, "qemu_binary"),
		.stream_binary = text(json, "stream_binary"),
		.run_dir = text(json, "run_dir"),
		.state_dir = text(json, "state_dir"),
		.log_dir = text(json, "log_dir"),
		.uid_base = (uint32_t)number(json, "uid_base"),
		.memory_mib = (uint32_t)number(json, "memory_mib"),
		.no_kvm = true,
		.log = on_log};
	shell.loop = loop_sd_new(&err);
	if (shell.loop)
		shell.hv = qemu_new(&config, shell.loop, &(struct hv_callbacks){.event = on_event}, &err);
	if (!shell.hv) {
		line_shell_say(json_pack(
			"{s:s, s:s, s:s}", "answer", "new", "error", err.text, "code", err_info(err.code)->name));
		return 1;
	}
	line_shell_begin(&shell.lines, shell.loop, on_line, &shell);
	line_shell_say(json_pack("{s:s}", "answer", "ready"));
	if (loop_sd_run(shell.loop, &status, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	qemu_free(shell.hv);
	loop_sd_free(shell.loop);
	return status;
}
