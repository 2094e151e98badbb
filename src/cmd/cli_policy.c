/* SPDX-License-Identifier: Apache-2.0
 * A VM's policy between the command line and its definition. The rules are the daemon's to say; only that a budget which
 * is named in part leaves the rest at its defaults has to be known here, since a definition that has any has all of it. */
#include "cmd/cli_vm.h"
#include "model/policy.h"

#include <string.h>

static json_t *policy_of(json_t *definition)
{
	if (!json_is_object(json_object_get(definition, "policy")))
		json_object_set_new(definition, "policy", json_object());
	return json_object_get(definition, "policy");
}

/* "n1,n2"; the word that stands for no rule at all empties the list. */
static int apply_nodes(struct cli *cli, json_t *definition, const char *key, const char *no_rule)
{
	const char *text = cli_option(cli, key);

	if (!text)
		return 0;
	json_t *names = json_array();
	json_object_set_new(policy_of(definition), key, names);
	if (!strcmp(text, no_rule))
		return 0;
	for (;;) {
		size_t length = strcspn(text, ",");
		if (!length)
			return err_set(&cli->err, ERR_USAGE, "--%s: names of nodes with commas between, or '%s'", key, no_rule);
		json_array_append_new(names, json_stringn(text, length));
		if (!text[length])
			return 0;
		text += length + 1;
	}
}

static int apply_anti_affinity(struct cli *cli, json_t *definition)
{
	const char *text = cli_option(cli, "anti-affinity");

	if (!text)
		return 0;
	json_t *policy = policy_of(definition);
	size_t length = strcspn(text, ":");
	const char *kind = text[length] ? text + length + 1 : "soft";
	bool none = !strcmp(text, "none");
	if (strcmp(kind, "soft") != 0 && strcmp(kind, "hard") != 0)
		return err_set(&cli->err, ERR_USAGE, "--anti-affinity '%.64s': LABEL, LABEL:soft or LABEL:hard", text);
	json_object_set_new(policy, "anti_affinity", none ? json_string("") : json_stringn(text, length));
	json_object_set_new(policy, "anti_affinity_hard", json_boolean(!none && !strcmp(kind, "hard")));
	return 0;
}

static void set_default(json_t *policy, const char *key, json_int_t value)
{
	if (!json_object_get(policy, key))
		json_object_set_new(policy, key, json_integer(value));
}

static void restart_defaults(json_t *policy)
{
	if (member_number(policy, "restart_period_s"))
		return; /* what is absent beside it is 0 */
	set_default(policy, "restart_max", RESTART_MAX_DEFAULT);
	set_default(policy, "retry_after_s", RETRY_AFTER_S_DEFAULT);
	json_object_set_new(policy, "restart_period_s", json_integer(RESTART_PERIOD_S_DEFAULT));
}

static int apply_numbers(struct cli *cli, json_t *definition)
{
	static const struct {
		const char *option, *key;
		bool span, restart;
	} rules[] = {
		{"restart-max", "restart_max", false, true},
		{"restart-period", "restart_period_s", true, true},
		{"retry-after", "retry_after_s", true, true},
		{"start-order", "start_order", false, false},
		{"start-delay", "start_delay_s", true, false},
		{"heartbeat", "heartbeat_s", true, false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
		const char *text = cli_option(cli, rules[i].option);
		uint64_t number;
		if (!text)
			continue;
		if ((rules[i].span ? units_parse_seconds : units_parse_number)(text, &number, &cli->err) < 0)
			return err_prefix(&cli->err, "--%s", rules[i].option);
		if (rules[i].span && number % 1000)
			return err_set(&cli->err, ERR_INVALID, "--%s '%.32s': whole seconds", rules[i].option, text);
		/* In a definition 0 stands for one that says nothing of restarts, and all the defaults would come back. */
		if (!strcmp(rules[i].key, "restart_period_s") && !number)
			return err_set(&cli->err, ERR_INVALID, "--%s '%.32s': at least %d s; --restart-max 0 allows no restart",
				rules[i].option, text, RESTART_PERIOD_S_MIN);
		if (rules[i].restart)
			restart_defaults(policy_of(definition));
		json_object_set_new(policy_of(definition), rules[i].key,
			json_integer((json_int_t)(rules[i].span ? number / 1000 : number)));
	}
	return 0;
}

static int apply_failback(struct cli *cli, json_t *definition)
{
	const char *text = cli_option(cli, "failback");
	unsigned from = 0, to = 0;
	int used = 0;

	if (!text)
		return 0;
	json_t *policy = policy_of(definition);
	bool now = !strcmp(text, "now") || !strcmp(text, "immediate");
	/* One or two digits each: what else sscanf would take, it may not. */
	const char *dash = strchr(text, '-');
	bool window = dash && dash > text && dash[1] != '-' && strspn(text, "0123456789-") == strlen(text) &&
		      sscanf(text, "%2u-%2u%n", &from, &to, &used) == 2 && !text[used];
	if (!now && !window && strcmp(text, "never") != 0)
		return err_set(&cli->err, ERR_USAGE,
			"--failback '%.64s': never, now, or two hours of the day in UTC such as 22-4", text);
	json_object_set_new(policy, "failback", json_string(now ? "immediate" : window ? "window" : "never"));
	json_object_set_new(policy, "failback_from_hour", json_integer(window ? from : 0));
	json_object_set_new(policy, "failback_to_hour", json_integer(window ? to : 0));
	return 0;
}

int policy_apply(struct cli *cli, json_t *definition)
{
	const char *on_panic = cli_option(cli, "on-panic"), *agent = cli_option(cli, "guest-agent");

	if (on_panic)
		json_object_set_new(policy_of(definition), "on_panic", json_string(on_panic));
	if (agent)
		json_object_set_new(definition, "guest_agent", json_string(agent));
	if (apply_nodes(cli, definition, "preferred", "none") < 0 ||
		apply_nodes(cli, definition, "possible", "all") < 0 || apply_anti_affinity(cli, definition) < 0 ||
		apply_numbers(cli, definition) < 0)
		return -1;
	return apply_failback(cli, definition);
}

static void print_names(const json_t *names, const char *none)
{
	const json_t *name;
	size_t i;

	json_array_foreach(names, i, name) printf("%s%s", i ? ", " : "", json_string_value(name));
	if (!json_array_size(names))
		printf("%s", none);
}

static const char *span_text(char out[UNITS_BYTES], uint64_t seconds)
{
	if (seconds && !(seconds % 3600))
		snprintf(out, UNITS_BYTES, "%llu h", (unsigned long long)seconds / 3600);
	else if (seconds && !(seconds % 60))
		snprintf(out, UNITS_BYTES, "%llu min", (unsigned long long)seconds / 60);
	else
		snprintf(out, UNITS_BYTES, "%llu s", (unsigned long long)seconds);
	return out;
}

static void print_failback(const json_t *policy)
{
	const char *failback = member_text(policy, "failback");

	if (!strcmp(failback, "window"))
		printf("failback  between %llu:00 and %llu:00 UTC\n",
			(unsigned long long)member_number(policy, "failback_from_hour"),
			(unsigned long long)member_number(policy, "failback_to_hour"));
	else
		printf("failback  %s\n", !strcmp(failback, "immediate") ? "now: as soon as a preferred owner is back"
								      : "never");
}

/* What is left out is the first of its values. */
static void print_on_panic(const json_t *definition, const json_t *policy)
{
	const char *action = json_string_value(json_object_get(policy, "on_panic"));

	printf("panic     %s%s\n", action ? action : "restart",
		!strcmp(member_text(definition, "panic_device"), "isa") ? "" : ", were it told: its machine has no panic device");
}

static void print_heartbeat(const json_t *definition, const json_t *policy)
{
	uint64_t seconds = member_number(policy, "heartbeat_s");
	char text[UNITS_BYTES];

	if (seconds)
		printf("heartbeat restarted when its guest agent, once heard, has not answered for %s\n", span_text(text, seconds));
	else if (!strcmp(member_text(definition, "guest_agent"), "virtio"))
		printf("heartbeat none: its guest agent is not asked\n");
}

void policy_print(const json_t *definition)
{
	const json_t *policy = json_object_get(definition, "policy");
	const char *label = json_string_value(json_object_get(policy, "anti_affinity"));
	uint64_t retry_s = member_number(policy, "retry_after_s"), order = member_number(policy, "start_order");
	char a[UNITS_BYTES];

	printf("owners    preferred: ");
	print_names(json_object_get(policy, "preferred"), "none");
	printf("; possible: ");
	print_names(json_object_get(policy, "possible"), "all");
	printf("\n");
	if (label && label[0])
		printf("apart     from VMs of anti-affinity '%s' (%s)\n", label,
			json_is_true(json_object_get(policy, "anti_affinity_hard")) ? "hard" : "soft");
	printf("restarts  %llu within %s on one node, then another; ",
		(unsigned long long)member_number(policy, "restart_max"),
		span_text(a, member_number(policy, "restart_period_s")));
	if (retry_s)
		printf("all nodes tried: failed, and again after %s\n", span_text(a, retry_s));
	else
		printf("all nodes tried: failed, until somebody starts it\n");
	print_failback(policy);
	print_on_panic(definition, policy);
	print_heartbeat(definition, policy);
	if (!order && member_number(policy, "start_delay_s"))
		printf("start     a delay of %s counts only with a start order\n", span_text(a, member_number(policy, "start_delay_s")));
	if (order)
		printf("start     order %llu; those after it wait %s longer\n", (unsigned long long)order,
			span_text(a, member_number(policy, "start_delay_s")));
}
