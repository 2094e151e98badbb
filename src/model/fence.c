/* SPDX-License-Identifier: Apache-2.0 */
#include "model/fence.h"
#include "model/vm.h"

#include <string.h>

static const struct field option_fields[] = {
	SCHEMA_TEXT(1, fence_option, name),
	SCHEMA_TEXT(2, fence_option, value),
	SCHEMA_BOOL(3, fence_option, secret),
};
SCHEMA_DEFINE(fence_option_schema, fence_option, option_fields);

static const struct field device_fields[] = {
	SCHEMA_TEXT(1, fence_device, name),
	SCHEMA_U32(2, fence_device, node),
	SCHEMA_TEXT(3, fence_device, agent),
	SCHEMA_U32(4, fence_device, level),
	SCHEMA_U32(5, fence_device, limit_ms),
	SCHEMA_U32(6, fence_device, delay_ms),
	SCHEMA_LIST(7, fence_device, options, option_count, &fence_option_schema),
	SCHEMA_BOOL(8, fence_device, distrusted),
};
SCHEMA_DEFINE(fence_device_schema, fence_device, device_fields);

void fence_device_default(struct fence_device *device)
{
	if (!device->level)
		device->level = 1;
	if (!device->limit_ms)
		device->limit_ms = FENCE_LIMIT_MS_DEFAULT;
}

static bool only_of(const char *text, const char *extra)
{
	for (; *text; text++)
		if (!((*text >= 'a' && *text <= 'z') || (*text >= '0' && *text <= '9') || strchr(extra, *text)))
			return false;
	return true;
}

static bool agent_ok(const char *agent)
{
	return !strncmp(agent, "fence_", 6) && agent[6] && only_of(agent, "_");
}

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), tail = strlen(end);

	return length >= tail && !strcmp(text + length - tail, end);
}

bool fence_option_same(const char *a, const char *b)
{
	for (; *a && *b; a++, b++)
		if ((*a == '-' ? '_' : *a) != (*b == '-' ? '_' : *b))
			return false;
	return *a == *b;
}

static void plain_name(const char *name, char plain[static 32])
{
	size_t i;

	for (i = 0; i < 31 && name[i]; i++)
		plain[i] = name[i] == '-' ? '_' : name[i];
	plain[i] = 0;
}

const char *fence_option_taken(const char *name)
{
	static const struct {
		const char *name;
		const char *why;
	} names[] = {
		{"action", "watari says itself what the agent is to do"},
		{"option", "an old name of action, and watari says that itself"},
		{"nodename", "watari gives the node's name itself"},
		{"delay", "the device has a delay of its own"},
		{"debug", "a debug file would hold the secrets"},
		{"debug_file", "a debug file would hold the secrets"},
		{"logfile", "it writes to any file as root"},
		{"ssh_options", "it can name a program, which would run as root"},
		{"help", "it is not a setting"},
		{"version", "it is not a setting"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i].name, name))
			return names[i].why;
	return ends_with(name, "_script") || ends_with(name, "_path") ? "it names a program, which would run as root"
								      : NULL;
}

/* The names that the stock agents give to what must not be known. */
bool fence_option_is_secret(const char *name)
{
	static const char *const names[] = {
		"secret_key", "apikey", "token", "community", "hexadecimal_kg", "key", "tlskey", "application_key"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i], name))
			return true;
	return strstr(name, "passw") != NULL;
}

/* Absolute and without detours, so that what is compared with the node's directory of secrets is what is opened. */
static bool secret_path_ok(const char *path)
{
	return path[0] == '/' && !strstr(path, "/.") && !strstr(path, "//") && !ends_with(path, "/");
}

static int option_check(const struct fence_device *device, uint32_t index, struct err *err)
{
	const struct fence_option *option = &device->options[index];
	size_t length = strlen(option->value);
	char name[32];

	if (option->name[0] < 'a' || option->name[0] > 'z' || !only_of(option->name, "_-"))
		return err_set(err, ERR_INVALID, "option '%s': 1 to 31 of a-z, 0-9, '_', '-', the first a letter",
			option->name);
	plain_name(option->name, name);
	const char *why = fence_option_taken(name);
	if (why)
		return err_set(err, ERR_INVALID, "option %s cannot be given: %s", option->name, why);
	if (!option->secret && fence_option_is_secret(name))
		return err_set(err, ERR_INVALID,
			"option %s is a secret, and would be kept in the log: put it in a file and give the file's "
			"path",
			option->name);
	for (uint32_t i = 0; i < index; i++) {
		if (fence_option_same(option->name, device->options[i].name))
			return err_set(err, ERR_INVALID, "option %s is given twice", option->name);
	}
	/* A line break in a value would be another line to the agent: another option, or another action. */
	if (!schema_text_ok(option->value, length))
		return err_set(err, ERR_INVALID,
			"option %s: control characters, line breaks and invalid UTF-8 are not allowed", option->name);
	if (length && (option->value[0] == ' ' || option->value[length - 1] == ' '))
		return err_set(
			err, ERR_INVALID, "option %s: agents cut off blanks at the ends of a value", option->name);
	if (option->secret && !secret_path_ok(option->value))
		return err_set(err, ERR_INVALID,
			"option %s: a secret is given as the absolute path of a file, without '//' and parts that "
			"begin with '.'",
			option->name);
	return 0;
}

int fence_device_check(const struct fence_device *device, struct err *err)
{
	if (!name_ok(device->name))
		return err_set(err, ERR_INVALID,
			"name '%s': 1 to 63 of a-z, A-Z, 0-9, '.', '_', '-', the first a letter or digit",
			device->name);
	if (device->node < 1 || device->node > NODES_MAX)
		return err_set(err, ERR_INVALID, "fence device %s: node id %u, allowed are 1 to %d", device->name,
			device->node, NODES_MAX);
	if (!agent_ok(device->agent))
		return err_set(err, ERR_INVALID,
			"agent '%s': the file name of a fence agent, fence_ and then a-z, 0-9 or '_', without a "
			"directory",
			device->agent);
	if (device->level < 1 || device->level > FENCE_LEVELS_MAX)
		return err_set(err, ERR_INVALID, "level %u: allowed are 1 to %d", device->level, FENCE_LEVELS_MAX);
	if (device->limit_ms < FENCE_LIMIT_MS_MIN || device->limit_ms > FENCE_LIMIT_MS_MAX)
		return err_set(err, ERR_INVALID, "limit %u ms: allowed are %d to %d s", device->limit_ms,
			FENCE_LIMIT_MS_MIN / 1000, FENCE_LIMIT_MS_MAX / 1000);
	if (device->delay_ms > FENCE_DELAY_MS_MAX)
		return err_set(
			err, ERR_INVALID, "delay %u ms: at most %d s is allowed", device->delay_ms,
			FENCE_DELAY_MS_MAX / 1000);
	for (uint32_t i = 0; i < device->option_count; i++)
		if (option_check(device, i, err) < 0)
			return err_prefix(err, "fence device %s", device->name);
	return 0;
}
