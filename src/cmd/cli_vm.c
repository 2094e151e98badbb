/* SPDX-License-Identifier: Apache-2.0
 * The verbs that change a VM. */
#include "cmd/cli_vm.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

static json_t *vm_args(const struct cli *cli)
{
	return json_pack("{s:s}", "vm", cli->operands[0]);
}

/* Options that are one text in the definition, under another or the same name. */
static const struct {
	const char *option;
	const char *key;
} text_options[] = {
	{"kernel", "kernel"},
	{"initrd", "initrd"},
	{"append", "append"},
	{"machine", "machine"},
	{"cpu", "cpu"},
	{"priority", "priority"},
	{"offline-action", "offline_action"},
	{"name", "name"},
};

static int apply_numbers(struct cli *cli, json_t *definition)
{
	const char *memory = cli_option(cli, "memory"), *vcpus = cli_option(cli, "vcpus");
	uint64_t number;

	if (memory) {
		if (units_parse_mib(memory, &number, &cli->err) < 0)
			return err_prefix(&cli->err, "--memory");
		json_object_set_new(definition, "memory_mib", json_integer((json_int_t)number));
	}
	if (vcpus) {
		if (units_parse_number(vcpus, &number, &cli->err) < 0)
			return err_prefix(&cli->err, "--vcpus");
		json_object_set_new(definition, "vcpus", json_integer((json_int_t)number));
	}
	return 0;
}

/* disk2, where disk0 and disk1 are there: after a removal the count alone would give an id twice. */
static void name_device(const json_t *list, json_t *device, const char *prefix)
{
	char id[32];
	const json_t *other;
	size_t i;

	for (unsigned n = 0; !json_object_get(device, "id"); n++) {
		bool used = false;
		snprintf(id, sizeof(id), "%s%u", prefix, n);
		json_array_foreach(list, i, other) used = used || !strcmp(member_text(other, "id"), id);
		if (!used)
			json_object_set_new(device, "id", json_string(id));
	}
}

static json_t *list_of(json_t *definition, const char *key)
{
	if (!json_is_array(json_object_get(definition, key)))
		json_object_set_new(definition, key, json_array());
	return json_object_get(definition, key);
}

static int apply_device(struct cli *cli, json_t *definition, const struct given *given)
{
	bool disk = !strcmp(given->opt->name, "disk");
	json_t *list = list_of(definition, disk ? "disks" : "nics");
	json_t *device;

	if ((disk ? units_parse_disk : units_parse_network)(given->value, &device, &cli->err) < 0)
		return err_prefix(&cli->err, "--%s", given->opt->name);
	name_device(list, device, disk ? "disk" : "net");
	json_array_append_new(list, device);
	return 0;
}

static bool remove_from(json_t *list, const char *id)
{
	for (size_t i = 0; i < json_array_size(list); i++)
		if (!strcmp(member_text(json_array_get(list, i), "id"), id))
			return !json_array_remove(list, i);
	return false;
}

int definition_apply(struct cli *cli, json_t *definition)
{
	for (size_t i = 0; i < cli->given_count; i++) {
		const struct given *given = &cli->given[i];
		if (strcmp(given->opt->name, "remove") != 0)
			continue;
		if (!remove_from(json_object_get(definition, "disks"), given->value) &&
			!remove_from(json_object_get(definition, "nics"), given->value))
			return err_set(
				&cli->err, ERR_NOT_FOUND, "--remove: no disk and no network '%.64s'", given->value);
	}
	for (size_t i = 0; i < ARRAY_SIZE(text_options); i++) {
		const char *value = cli_option(cli, text_options[i].option);
		if (value)
			json_object_set_new(definition, text_options[i].key, json_string(value));
	}
	for (size_t i = 0; i < cli->given_count; i++) {
		const struct given *given = &cli->given[i];
		if ((!strcmp(given->opt->name, "disk") || !strcmp(given->opt->name, "network")) &&
			apply_device(cli, definition, given) < 0)
			return -1;
	}
	return apply_numbers(cli, definition) < 0 ? -1 : policy_apply(cli, definition);
}

int definition_read(struct cli *cli, const char *path, json_t **definition)
{
	bool is_stdin = !strcmp(path, "-");
	CLEANUP_FILE FILE *opened = is_stdin ? NULL : fopen(path, "re");
	CLEANUP_FREE char *text = malloc(JSON_BYTES_MAX + 1);
	FILE *file = is_stdin ? stdin : opened;

	if (!text)
		return err_set(&cli->err, ERR_SYSTEM, "out of memory");
	if (!file)
		return err_errno(&cli->err, errno, "%s", path);
	size_t size = fread(text, 1, JSON_BYTES_MAX + 1, file);
	if (ferror(file))
		return err_errno(&cli->err, errno, "%s", path);
	*definition = json_parse(text, size, &cli->err);
	if (*definition && !json_is_object(*definition)) {
		json_decref(*definition);
		*definition = NULL;
		err_set(&cli->err, ERR_INVALID, "a definition is an object: { \"name\": … }");
	}
	return *definition ? 0 : err_prefix(&cli->err, "%s", is_stdin ? "stdin" : path);
}

int run_vm_create(struct cli *cli)
{
	CLEANUP_JSON json_t *definition = NULL;
	CLEANUP_JSON json_t *started = NULL;
	const char *file = cli_option(cli, "file");
	char done[256];

	if (file && definition_read(cli, file, &definition) < 0)
		return -1;
	if (!definition)
		definition = json_object();
	if (cli->operands[0])
		json_object_set_new(definition, "name", json_string(cli->operands[0]));
	if (!json_object_get(definition, "name"))
		return err_set(&cli->err, ERR_USAGE, "the VM needs a name: watari vm create NAME …");
	if (definition_apply(cli, definition) < 0)
		return -1;
	if (!json_object_get(definition, "memory_mib"))
		return err_set(&cli->err, ERR_USAGE, "the VM needs memory: --memory 512M");
	CLEANUP_FREE char *name = strdup(member_text(definition, "name"));
	if (!name)
		return err_set(&cli->err, ERR_SYSTEM, "out of memory");
	bool start = cli_flag(cli, "start") && !cli_flag(cli, "dry-run");
	snprintf(done, sizeof(done),
		start ? "VM %.64s is defined" : "VM %.64s is defined; start it: watari vm start %.64s", name, name);
	json_t *args = json_pack("{s:O}", "definition", definition);
	if (!start)
		return cli_change(cli, "vm.create", name, args, done);
	/* One answer, that of the start: two would be no JSON. */
	if (cli_call(cli, "vm.create", args, &started) < 0)
		return -1;
	if (!cli->json)
		printf("%s\n", done);
	cli->verb = cli_find_verb("vm", "start");
	return cli_change(cli, "vm.start", name, json_pack("{s:s}", "vm", name), "");
}

int run_vm_edit(struct cli *cli)
{
	CLEANUP_JSON json_t *vm = NULL;
	CLEANUP_JSON json_t *edited = NULL;
	const char *file = cli_option(cli, "file");
	bool dry = cli_flag(cli, "dry-run");
	char done[128];

	if (cli_call(cli, "vm.show", vm_args(cli), &vm) < 0)
		return -1;
	json_t *was = json_object_get(vm, "definition");
	snprintf(done, sizeof(done), "VM %.64s is changed", member_text(vm, "name"));
	if (!file && cli->given_count ==
			     (size_t)dry + cli_flag(cli, "quiet") + cli_flag(cli, "output") + cli_flag(cli, "socket"))
		return edit_in_editor(cli, member_text(vm, "name"), was, done);
	if (file && definition_read(cli, file, &edited) < 0)
		return -1;
	if (!edited)
		edited = json_deep_copy(was);
	if (definition_apply(cli, edited) < 0)
		return -1;
	return definition_edit(cli, was, edited, done);
}

int definition_edit(struct cli *cli, json_t *was, json_t *edited, const char *done)
{
	const char *vm = cli->operands[0];

	return cli_change(
		cli, "vm.edit", vm, json_pack("{s:s, s:O, s:O}", "vm", vm, "was", was, "definition", edited), done);
}

static bool said_yes(const char *name)
{
	char answer[16] = "";

	fprintf(stderr, "Delete VM %s? Its disks stay, a saved memory is lost. [y/N] ", name);
	return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

int run_vm_delete(struct cli *cli)
{
	const char *vm = cli->operands[0];
	char done[128];

	if (!cli_flag(cli, "yes") && !cli_flag(cli, "dry-run")) {
		if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO)) {
			snprintf(cli->hint, sizeof(cli->hint), "say --yes: there is no terminal to ask on");
			return err_set(&cli->err, ERR_NEEDS_FORCE, "deleting VM '%.64s' needs a confirmation", vm);
		}
		if (!said_yes(vm))
			return err_set(&cli->err, ERR_CANCELLED, "nothing was deleted");
	}
	snprintf(done, sizeof(done), "VM %.64s is deleted", vm);
	json_t *args = vm_args(cli);
	/* A dry run without it tells that it would be needed. */
	if (!cli_flag(cli, "dry-run") || cli_flag(cli, "yes"))
		json_object_set_new(args, "force", json_true());
	return cli_change(cli, "vm.delete", vm, args, done);
}

int run_vm_start(struct cli *cli)
{
	json_t *args = json_pack("{s:s, s:s*}", "vm", cli->operands[0], "node", cli_option(cli, "on"));

	if (cli_flag(cli, "discard-state"))
		json_object_set_new(args, "discard_state", json_true());
	return cli_change(cli, "vm.start", cli->operands[0], args, "it runs already");
}

int run_vm_shutdown(struct cli *cli)
{
	return cli_change(cli, "vm.shutdown", cli->operands[0], vm_args(cli), "it is off already");
}

int run_vm_stop(struct cli *cli)
{
	return cli_change(cli, "vm.stop", cli->operands[0], vm_args(cli), "it is off already");
}

int run_vm_save(struct cli *cli)
{
	return cli_change(cli, "vm.save", cli->operands[0], vm_args(cli), "it is saved already");
}

int run_vm_move(struct cli *cli)
{
	const char *to = cli_option(cli, "to"), *type = cli_option(cli, "type");

	if (!to) {
		snprintf(cli->hint, sizeof(cli->hint), "'watari node list' shows the nodes");
		return err_set(&cli->err, ERR_USAGE, "watari vm move needs --to NODE");
	}
	return cli_change(cli, "vm.move", cli->operands[0],
		json_pack("{s:s, s:s, s:s}", "vm", cli->operands[0], "target", to, "type", type ? type : "quick"),
		"it runs there already");
}

int run_vm_cancel(struct cli *cli)
{
	return cli_change(cli, "vm.cancel", cli->operands[0], vm_args(cli), "asked to stop; the guest runs on");
}
