/* SPDX-License-Identifier: Apache-2.0
 * Fence devices: define, look at, and find out which machine one really switches. And a person's word about a node. */
#include "cmd/cli.h"
#include "model/limits.h"

#include <string.h>
#include <time.h>

enum {
	STEP_MS = 500,
	LEAVE_MS = 120000,  /* corosync's slowest configuration needs 95 s to miss a node */
	SETTLE_MS = 15000,  /* after it left: time for another one to be missed, too */
	DEVICE_MS = 150000, /* the longest limit of a device, and its delay */
};

static json_t *device_args(const struct cli *cli)
{
	return json_pack("{s:s}", "device", cli->operands[0]);
}

/* A call that waits for a fence agent. */
static int slow_call(struct cli *cli, const char *call, json_t *args, json_t **result)
{
	CLEANUP_JSON json_t *ours = args;
	CLEANUP_JSON json_t *first = NULL;

	if (cli->client.fd < 0 && cli_call(cli, "fence.list", NULL, &first) < 0)
		return -1;
	if (api_client_call(&cli->client, call, STEAL(ours), DEVICE_MS, result, &cli->err) < 0) {
		snprintf(cli->hint, sizeof(cli->hint), "%s", cli->client.hint);
		return -1;
	}
	return 0;
}

/* "5s", "2m" into milliseconds of the device's member. */
static int set_ms(struct cli *cli, json_t *device, const char *option, const char *member)
{
	const char *text = cli_option(cli, option);
	uint64_t ms;

	if (!text)
		return 0;
	if (units_parse_seconds(text, &ms, &cli->err) < 0)
		return err_prefix(&cli->err, "--%s", option);
	json_object_set_new(device, member, json_integer((json_int_t)ms));
	return 0;
}

static bool is_option(const json_t *option, const char *name, size_t length)
{
	const char *its = member_text(option, "name");

	return strlen(its) == length && !memcmp(its, name, length);
}

static bool remove_option(json_t *options, const char *name, size_t length)
{
	for (size_t i = 0; i < json_array_size(options); i++)
		if (is_option(json_array_get(options, i), name, length)) {
			json_array_remove(options, i);
			return true;
		}
	return false;
}

static int add_option(struct cli *cli, json_t *options, const struct given *given)
{
	bool secret = !strcmp(given->opt->name, "secret");
	const char *equals = strchr(given->value, '=');

	if (!equals || equals == given->value)
		return err_set(&cli->err, ERR_USAGE, "--%s %s: NAME=%s expected", given->opt->name, given->value,
			secret ? "FILE" : "VALUE");
	size_t length = (size_t)(equals - given->value);
	remove_option(options, given->value, length);
	json_array_append_new(options,
		json_pack("{s:s%, s:s, s:b}", "name", given->value, length, "value", equals + 1, "secret", secret));
	return 0;
}

static int apply_options(struct cli *cli, json_t *device)
{
	json_t *options = json_object_get(device, "options");

	if (!options) {
		options = json_array();
		json_object_set_new(device, "options", options);
	}
	for (size_t i = 0; i < cli->given_count; i++) {
		const struct given *given = &cli->given[i];
		if (!strcmp(given->opt->name, "remove") && !remove_option(options, given->value, strlen(given->value)))
			return err_set(&cli->err, ERR_NOT_FOUND, "the device has no option '%s'", given->value);
		if ((!strcmp(given->opt->name, "option") || !strcmp(given->opt->name, "secret")) &&
			add_option(cli, options, given) < 0)
			return -1;
	}
	return 0;
}

static int apply(struct cli *cli, json_t *device)
{
	const char *node = cli_option(cli, "node"), *agent = cli_option(cli, "agent");
	const char *level = cli_option(cli, "level");
	uint64_t number;

	if (node)
		json_object_set_new(device, "node", json_string(node));
	if (agent)
		json_object_set_new(device, "agent", json_string(agent));
	if (level) {
		if (units_parse_number(level, &number, &cli->err) < 0)
			return err_prefix(&cli->err, "--level");
		json_object_set_new(device, "level", json_integer((json_int_t)number));
	}
	if (set_ms(cli, device, "limit", "limit_ms") < 0 || set_ms(cli, device, "delay", "delay_ms") < 0)
		return -1;
	return apply_options(cli, device);
}

static int submit(struct cli *cli, json_t *device, bool create)
{
	const char *name = cli->operands[0];
	char done[256];

	snprintf(done, sizeof(done), "fence device %.63s is set; prove what it switches: watari fence test %.63s", name,
		name);
	json_t *args =
		json_pack("{s:O, s:b, s:b}", "device", device, "create", create, "no_check", cli_flag(cli, "no-check"));
	return cli_change(cli, "fence.set", NULL, args, done);
}

int run_fence_add(struct cli *cli)
{
	CLEANUP_JSON json_t *device = json_pack("{s:s}", "name", cli->operands[0]);

	if (!cli_option(cli, "node") || !cli_option(cli, "agent"))
		return err_set(&cli->err, ERR_USAGE, "watari fence add needs --node and --agent");
	return apply(cli, device) < 0 ? -1 : submit(cli, device, true);
}

int run_fence_set(struct cli *cli)
{
	CLEANUP_JSON json_t *device = NULL;

	if (cli_call(cli, "fence.show", device_args(cli), &device) < 0)
		return -1;
	return apply(cli, device) < 0 ? -1 : submit(cli, device, false);
}

int run_fence_remove(struct cli *cli)
{
	char done[128];

	snprintf(done, sizeof(done), "fence device %.63s is removed", cli->operands[0]);
	return cli_change(cli, "fence.remove", NULL, device_args(cli), done);
}

int run_fence_list(struct cli *cli)
{
	static const char *const columns[] = {"DEVICE", "NODE", ">LEVEL", "AGENT", ">LIMIT", ">DELAY", "STATE", NULL};
	CLEANUP_JSON json_t *result = NULL;
	const json_t *device;
	size_t i;

	if (cli_call(cli, "fence.list", NULL, &result) < 0)
		return -1;
	if (cli->json) {
		print_json(result);
		return 0;
	}
	if (!json_array_size(json_object_get(result, "devices"))) {
		printf("No fence devices: a VM of a lost node is started elsewhere only after its watchdog's time, or "
		       "when\n"
		       "somebody confirms that the node is off. 'watari fence add --help' shows how to define one.\n");
		return 0;
	}
	struct table *table = table_new(cli, columns);
	json_array_foreach(json_object_get(result, "devices"), i, device)
	{
		char level[UNITS_BYTES], limit[UNITS_BYTES], delay[UNITS_BYTES];
		bool bad = json_is_true(json_object_get(device, "distrusted"));
		snprintf(level, sizeof(level), "%llu", (unsigned long long)member_number(device, "level"));
		units_span_us(limit, member_number(device, "limit_ms") * 1000);
		units_span_us(delay, member_number(device, "delay_ms") * 1000);
		const char *cells[] = {member_text(device, "name"), member_text(device, "node"), level,
			member_text(device, "agent"), limit, member_number(device, "delay_ms") ? delay : "-",
			bad ? "distrusted" : "used"};
		table_row(table, cells);
	}
	table_print_free(table);
	return 0;
}

int print_fenced_by(struct cli *cli, const char *node)
{
	CLEANUP_JSON json_t *result = NULL;
	const json_t *device;
	uint64_t last = 0;
	size_t i;

	if (cli_call(cli, "fence.list", NULL, &result) < 0)
		return -1;
	printf("fenced by ");
	for (uint64_t level = 1; level <= FENCE_LEVELS_MAX; level++) {
		json_array_foreach(json_object_get(result, "devices"), i, device)
		{
			if (strcmp(member_text(device, "node"), node) != 0 || member_number(device, "level") != level)
				continue;
			printf("%s%s%s", !last ? "" : last == level ? " and " : ", then ", member_text(device, "name"),
				json_is_true(json_object_get(device, "distrusted")) ? " (distrusted: not used)" : "");
			last = level;
		}
	}
	printf("%s\n", last ? "" : "no device: 'watari fence add'");
	return 0;
}

int run_fence_show(struct cli *cli)
{
	CLEANUP_JSON json_t *device = NULL;
	char span[UNITS_BYTES];
	const json_t *option;
	size_t i;

	if (cli_call(cli, "fence.show", device_args(cli), &device) < 0)
		return -1;
	if (cli->json) {
		print_json(device);
		return 0;
	}
	printf("device    %s, switches %s\n", member_text(device, "name"), member_text(device, "node"));
	if (json_is_true(json_object_get(device, "distrusted")))
		printf("          NOT USED: it said off about a node that was seen running on; look where it is "
		       "wired,\n"
		       "          then 'watari fence test %s --off' or 'watari fence set %s'\n",
			member_text(device, "name"), member_text(device, "name"));
	printf("agent     %s\n", member_text(device, "agent"));
	printf("level     %llu\n", (unsigned long long)member_number(device, "level"));
	printf("limit     %s\n", units_span_us(span, member_number(device, "limit_ms") * 1000));
	if (member_number(device, "delay_ms"))
		printf("delay     %s\n", units_span_us(span, member_number(device, "delay_ms") * 1000));
	json_array_foreach(json_object_get(device, "options"), i, option) printf("%-9s %s=%s%s\n", i ? "" : "options",
		member_text(option, "name"), json_string_value(json_object_get(option, "value")),
		json_is_true(json_object_get(option, "secret")) ? "  (a file on every node)" : "");
	return 0;
}

/* "password=FILE" stands for an option whose value is in a file. */
static void option_table(const struct cli *cli, const json_t *options, bool given)
{
	static const char *const all[] = {"OPTION", "DEFAULT", "MEANING", NULL};
	static const char *const set[] = {"OPTION", "VALUE", "MEANING", NULL};
	struct table *table = table_new(cli, given ? set : all);
	const json_t *option;
	size_t i;

	json_array_foreach(options, i, option)
	{
		char name[80];
		const char *value = json_string_value(json_object_get(option, "value"));
		if (given && !value)
			continue;
		snprintf(name, sizeof(name), "%s%s%s", member_text(option, "name"),
			!given && json_is_true(json_object_get(option, "secret")) ? "=FILE (--secret)" : "",
			!given && json_is_true(json_object_get(option, "required")) ? " *" : "");
		const char *cells[] = {name, given ? value : json_string_value(json_object_get(option, "default")),
			json_string_value(json_object_get(option, "about"))};
		table_row(table, cells);
	}
	table_print_free(table);
}

int run_fence_agent(struct cli *cli)
{
	CLEANUP_JSON json_t *result = NULL;

	if (slow_call(cli, "fence.agent", json_pack("{s:s}", "agent", cli->operands[0]), &result) < 0)
		return -1;
	if (cli->json) {
		print_json(result);
		return 0;
	}
	printf("%s: %s. Its options (*: needed):\n", cli->operands[0], member_text(result, "about"));
	option_table(cli, json_object_get(result, "options"), false);
	return 0;
}

int run_fence_check(struct cli *cli)
{
	CLEANUP_JSON json_t *result = NULL;

	if (slow_call(cli, "fence.check", device_args(cli), &result) < 0)
		return -1;
	if (cli->json) {
		print_json(result);
		return 0;
	}
	printf("%s: its options fit the agent: %s\n", cli->operands[0], member_text(result, "text"));
	option_table(cli, json_object_get(result, "options"), true);
	return 0;
}

int run_fence_status(struct cli *cli)
{
	CLEANUP_JSON json_t *result = NULL;

	if (slow_call(cli, "fence.status", device_args(cli), &result) < 0)
		return -1;
	if (cli->json)
		print_json(result);
	else
		printf("%s: %s\n", cli->operands[0], member_text(result, "text"));
	return 0;
}

/* ---- the test */

struct test {
	struct cli *cli;
	json_t *device;
	const char *node;
};

PRINTF_LIKE(2, 3) static void tell(const struct test *test, const char *format, ...)
{
	va_list args;

	if (test->cli->json || test->cli->quiet)
		return;
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

/* What the device switches is not what it should. */
PRINTF_LIKE(2, 3) static int miswired(const struct test *test, const char *format, ...)
{
	struct cli *cli = test->cli;
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(cli->hint, sizeof(cli->hint),
		"look where it is wired, and which outlet or controller its options name ('watari fence check %s'); until that is mended "
		"'watari fence remove %s' keeps it from being used",
		cli->operands[0], cli->operands[0]);
	return err_set(&cli->err, ERR_UNFIT, "%s", text);
}

/* The state of the node, and in others the first other node that is not online. */
static int look(const struct test *test, char state[static 32], char other[static 64])
{
	CLEANUP_JSON json_t *result = NULL;
	const json_t *node;
	size_t i;

	if (cli_call(test->cli, "node.list", NULL, &result) < 0)
		return -1;
	state[0] = other[0] = 0;
	json_array_foreach(json_object_get(result, "nodes"), i, node)
	{
		if (!strcmp(member_text(node, "name"), test->node))
			snprintf(state, 32, "%s", member_text(node, "state"));
		else if (strcmp(member_text(node, "state"), "online") != 0 && !other[0])
			snprintf(other, 64, "%s", member_text(node, "name"));
	}
	return 0;
}

/* Power and membership must agree before anything is switched. */
static int compare_status(const struct test *test, char state[static 32])
{
	CLEANUP_JSON json_t *result = NULL;
	struct cli *cli = test->cli;
	char other[64];

	if (slow_call(cli, "fence.status", device_args(cli), &result) < 0 || look(test, state, other) < 0)
		return -1;
	const char *power = member_text(result, "power");
	if (!strcmp(state, "online") && strcmp(power, "on") != 0)
		return miswired(
			test, "%s says %s, but %s is online: it switches another machine", cli->operands[0], power, test->node);
	tell(test, "%s says %s, and %s is %s", cli->operands[0], power, test->node, state);
	return 0;
}

/* Until the node has left and the others have been watched for a while. */
static int watch_leave(const struct test *test)
{
	const struct timespec step = {.tv_nsec = STEP_MS * 1000000};
	struct cli *cli = test->cli;
	char state[32], other[64];
	int settled_ms = 0;

	for (int waited_ms = 0; settled_ms < SETTLE_MS; waited_ms += STEP_MS) {
		if (look(test, state, other) < 0)
			return -1;
		if (other[0])
			return miswired(test, "%s left, not only %s: %s switches the wrong machine, or more than one", other,
				test->node, cli->operands[0]);
		if (strcmp(state, "online") != 0)
			settled_ms += STEP_MS;
		else if (waited_ms >= LEAVE_MS)
			return miswired(
				test, "%s says off, but %s is still online: it switches another machine", cli->operands[0], test->node);
		nanosleep(&step, NULL);
	}
	tell(test, "%s left the membership, and no other node did", test->node);
	return 0;
}

static int switch_on(const struct test *test)
{
	CLEANUP_JSON json_t *result = NULL;

	if (slow_call(test->cli, "fence.on", device_args(test->cli), &result) < 0)
		return -1;
	tell(test, "%s is switched on again: %s", test->node, member_text(result, "text"));
	return 0;
}

/* What was proven is trusted again. */
static int trust(const struct test *test)
{
	CLEANUP_JSON json_t *result = NULL;

	if (!json_is_true(json_object_get(test->device, "distrusted")))
		return 0;
	json_t *args = json_pack("{s:O, s:b}", "device", test->device, "no_check", 1);
	return cli_call(test->cli, "fence.set", args, &result);
}

static int test_off(const struct test *test)
{
	CLEANUP_JSON json_t *result = NULL;
	struct cli *cli = test->cli;
	json_t *args = json_pack("{s:s, s:s}", "device", cli->operands[0], "confirm", cli_option(cli, "yes"));

	if (slow_call(cli, "fence.off", args, &result) < 0)
		return -1;
	tell(test, "%s: %s", cli->operands[0], member_text(result, "text"));
	int failed = watch_leave(test);
	struct err why = cli->err;
	char hint[sizeof(cli->hint)];
	memcpy(hint, cli->hint, sizeof(hint));
	/* Whatever was seen, the power comes back; what was seen first is what is reported. */
	int dark = switch_on(test);
	if (failed) {
		cli->err = why;
		memcpy(cli->hint, hint, sizeof(hint));
		return -1;
	}
	return dark || trust(test) < 0 ? -1 : 0;
}

/* Whether the daemon would switch it off. */
static int try_off(const struct test *test)
{
	CLEANUP_JSON json_t *result = NULL;
	json_t *args = json_pack("{s:s, s:s, s:b}", "device", test->cli->operands[0], "confirm", test->node, "dry_run", 1);

	if (cli_call(test->cli, "fence.off", args, &result) < 0)
		return -1;
	if (test->cli->json)
		print_json(result);
	else
		printf("dry run: it would be done: %s would be switched off, and on again when it has left\n", test->node);
	return 0;
}

int run_fence_test(struct cli *cli)
{
	CLEANUP_JSON json_t *device = NULL;
	struct test test = {.cli = cli};
	bool off = cli_flag(cli, "off");
	char state[32];

	if (cli_call(cli, "fence.show", device_args(cli), &device) < 0)
		return -1;
	test.device = device;
	test.node = member_text(device, "node");
	if (off && !cli_option(cli, "yes") && !cli_flag(cli, "dry-run")) {
		snprintf(cli->hint, sizeof(cli->hint), "move its VMs away, then say --off --yes %s", test.node);
		return err_set(
			&cli->err, ERR_NEEDS_FORCE, "%s will lose its power: that needs its name typed", test.node);
	}
	if (compare_status(&test, state) < 0)
		return -1;
	if (off && cli_flag(cli, "dry-run"))
		return try_off(&test);
	if (off && test_off(&test) < 0)
		return -1;
	if (cli->json) {
		CLEANUP_JSON json_t *result =
			json_pack("{s:s, s:s, s:b}", "device", cli->operands[0], "node", test.node, "proven", off);
		print_json(result);
	} else if (off) {
		printf("proven: %s switches %s\n", cli->operands[0], test.node);
	} else {
		printf("not proven: any machine that runs says on; --off --yes %s proves it by pulling the cord\n",
			test.node);
	}
	return 0;
}

/* ---- a person about a node */

int run_node_confirm_off(struct cli *cli)
{
	const char *node = cli->operands[0], *typed = cli_option(cli, "yes");
	char done[160];

	if (!typed && cli_flag(cli, "dry-run"))
		typed = node; /* nothing is said by it */
	if (!typed) {
		snprintf(cli->hint, sizeof(cli->hint),
			"look at the machine; when it has no power, say --yes %.63s. If it runs on, its VMs will run "
			"twice and "
			"their disks be destroyed",
			node);
		return err_set(&cli->err, ERR_NEEDS_FORCE, "saying that %s is off needs its name typed", node);
	}
	snprintf(done, sizeof(done), "%.63s counts as off; its VMs are started elsewhere: watari vm list", node);
	return cli_change(cli, "node.confirm_off", NULL, json_pack("{s:s, s:s}", "node", node, "confirm", typed), done);
}

int run_node_resume(struct cli *cli)
{
	const char *node = cli->operands[0];
	char done[160];

	snprintf(done, sizeof(done), "nothing is counted against %.63s any more: where it is online it may have VMs", node);
	return cli_change(cli, "node.resume", NULL, json_pack("{s:s}", "node", node), done);
}

int run_node_fence(struct cli *cli)
{
	const char *node = cli->operands[0];
	char done[160];

	snprintf(done, sizeof(done), "%.63s is being fenced: watari log --follow", node);
	return cli_change(
		cli, "node.fence", NULL, json_pack("{s:s, s:b}", "node", node, "force", cli_flag(cli, "force")), done);
}
