/* SPDX-License-Identifier: Apache-2.0
 * The words of the command line: units, device options, options and operands, completion's table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "cmd/cli_vm.h"

static void sizes_are_whole_numbers_with_a_unit(void **state)
{
	static const struct {
		const char *text;
		uint64_t mib; /* 0: refused */
	} cases[] = {
		{"512M", 512},
		{"512", 512},
		{"512MiB", 512},
		{"2G", 2048},
		{"2g", 2048},
		{"1T", 1 << 20},
		{"-1", 0},
		{"+1M", 0},
		{" 1M", 0},
		{"1.5G", 0},
		{"", 0},
		{"G", 0},
		{"512K", 0},
		{"512 M", 0},
		{"0x10", 0},
		{"99999999999999999999", 0},
		{"9223372036854775807T", 0},
		{"1e3", 0},
	};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t mib = 0;
		int result = units_parse_mib(cases[i].text, &mib, &err);
		if (mib != cases[i].mib || (result < 0) != !cases[i].mib)
			fail_msg("'%s' gave %d, %llu", cases[i].text, result, (unsigned long long)mib);
		if (result < 0)
			assert_non_null(strstr(err.text, "a whole number with M, G or T"));
	}
	/* Zero is a size; that a VM cannot have it is the daemon's rule. */
	uint64_t zero = 1;
	assert_int_equal(units_parse_mib("0", &zero, &err), 0);
	assert_int_equal(zero, 0);
}

static void spans_and_dates(void **state)
{
	struct err err;
	uint64_t ms;

	(void)state;
	assert_int_equal(units_parse_seconds("90", &ms, &err), 0);
	assert_int_equal(ms, 90000);
	assert_int_equal(units_parse_seconds("5m", &ms, &err), 0);
	assert_int_equal(ms, 300000);
	assert_int_equal(units_parse_seconds("250ms", &ms, &err), 0);
	assert_int_equal(ms, 250);
	assert_int_equal(units_parse_seconds("-1", &ms, &err), -1);
	assert_int_equal(units_parse_seconds("1w", &ms, &err), -1);
	assert_int_equal(units_parse_seconds("9223372036854775807d", &ms, &err), -1);
	assert_int_equal(units_parse_since("10s", 60000, &ms, &err), 0);
	assert_int_equal(ms, 50000);
	assert_int_equal(units_parse_since("1d", 60000, &ms, &err), 0);
	assert_int_equal(ms, 0);
	setenv("TZ", "UTC", 1);
	assert_int_equal(units_parse_since("2024-05-01 12:00", 0, &ms, &err), 0);
	assert_int_equal(ms, 1714564800000);
	assert_int_equal(units_parse_since("2024-05-01", 0, &ms, &err), 0);
	/* 2024-05-01 12:00:30 is now. */
	static const struct {
		const char *text;
		uint64_t ms;
	} cases[] = {
		{"2024-05-01T12:00:00", 1714564800000},
		{"2024-05-01T12:00:00Z", 1714564800000},
		{"2024-05-01T12:00Z", 1714564800000},
		{"10:02", 1714557720000},
		{"10:02:11", 1714557731000},
		{"12:00", 1714564800000},
		{"12:01", 1714478460000}, /* yesterday's */
		{"5 min ago", 1714564530000},
		{"5 minutes ago", 1714564530000},
		{"5min", 1714564530000},
		{"1 hour ago", 1714561230000},
		{"2h ago", 1714557630000},
		{"30s", 1714564800000},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (units_parse_since(cases[i].text, 1714564830000, &ms, &err) < 0 || ms != cases[i].ms)
			fail_msg("'%s' gave %llu", cases[i].text, (unsigned long long)ms);
	}
	static const char *const wrong[] = {"10:61", "25:00", "10:02x", "ago", "5 ago", "5 min later", "-5 min ago", "5 min  ago"};
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		if (!units_parse_since(wrong[i], 1714564830000, &ms, &err))
			fail_msg("'%s' gave %llu", wrong[i], (unsigned long long)ms);
	assert_int_equal(units_parse_since("2024-05-01x", 0, &ms, &err), -1);
	assert_int_equal(units_parse_since("yesterday", 0, &ms, &err), -1);
}

static void a_disk_option_becomes_json(void **state)
{
	static const struct {
		const char *text;
		const char *json; /* or the error's beginning */
	} cases[] = {
		{"/d/a.raw", "{\"format\":\"raw\",\"path\":\"/d/a.raw\"}"},
		{"/d/a.qcow2", "{\"format\":\"qcow2\",\"path\":\"/d/a.qcow2\"}"},
		{"/d/a.qcow2,format=raw", "{\"format\":\"raw\",\"path\":\"/d/a.qcow2\"}"},
		{"/d/a,bus=sata,readonly,id=root",
			"{\"bus\":\"sata\",\"format\":\"raw\",\"id\":\"root\",\"path\":\"/d/a\",\"read_only\":true}"},
		{"", "disk: begins with its path"},
		{",format=raw", "disk: begins with its path"},
		{"/d/a,", "disk: '' is none of format=, bus=, kind=, id=, readonly"},
		{"/d/a,cache=none", "disk: 'cache=none' is none of"},
		{"/d/a,format", "disk: format needs a value"},
		{"/d/a,format=", "disk: format needs a value"},
		{"/d/a,readonly=yes", "disk: readonly takes no value"},
		{"/d/a,bus=sata,bus=virtio", "disk: bus is given twice"},
		{"/d/\xff", "disk: not valid UTF-8"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = {0};
		json_t *disk = NULL;
		int result = units_parse_disk(cases[i].text, &disk, &err);
		CLEANUP_FREE char *text = result ? strdup(err.text) : json_dumps(disk, JSON_COMPACT | JSON_SORT_KEYS);
		json_decref(disk);
		if (strncmp(text, cases[i].json, strlen(cases[i].json)) != 0)
			fail_msg("'%s' gave '%s'", cases[i].text, text);
	}
}

static void a_network_option_becomes_json(void **state)
{
	struct err err;
	json_t *nic = NULL;

	(void)state;
	assert_int_equal(units_parse_network("br0,model=e1000,mac=52:54:00:00:00:01", &nic, &err), 0);
	CLEANUP_FREE char *text = json_dumps(nic, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(text, "{\"bridge\":\"br0\",\"mac\":\"52:54:00:00:00:01\",\"model\":\"e1000\"}");
	json_decref(nic);
	assert_int_equal(units_parse_network("br0,vlan=1", &nic, &err), -1);
	assert_string_equal(err.text, "network: 'vlan=1' is none of mac=, model=, id=");
}

static int parse(struct cli *cli, int count, const char *const *words)
{
	*cli = (struct cli){.client.fd = -1};
	return cli_parse(cli, count, (char *const *)(uintptr_t)words);
}
#define PARSE(cli, ...) parse(cli, ARRAY_SIZE(((const char *[]){__VA_ARGS__})), (const char *[]){__VA_ARGS__})

static void options_stand_anywhere_behind_the_verb(void **state)
{
	struct cli cli;

	(void)state;
	assert_int_equal(PARSE(&cli, "vm", "move", "--to", "n2", "web", "--no-wait", "-ojson"), 0);
	assert_string_equal(cli.operands[0], "web");
	assert_string_equal(cli_option(&cli, "to"), "n2");
	assert_true(cli_flag(&cli, "no-wait"));
	assert_string_equal(cli_option(&cli, "output"), "json");
	assert_null(cli_option(&cli, "wait"));
	assert_int_equal(
		PARSE(&cli, "vm", "create", "web", "-m", "1G", "--disk=/a", "--disk", "/b", "--append=a=b c"), 0);
	assert_int_equal(cli.given_count, 4);
	assert_string_equal(cli_option(&cli, "append"), "a=b c");
	assert_int_equal(PARSE(&cli, "vm", "show", "--", "-web"), 0);
	assert_string_equal(cli.operands[0], "-web");
	/* A value may begin with a dash: it is refused by its own rule, not taken for an option. */
	assert_int_equal(PARSE(&cli, "vm", "create", "web", "--memory", "-512M"), 0);
	assert_string_equal(cli_option(&cli, "memory"), "-512M");
}

static void wrong_words_say_what_is_right(void **state)
{
	static const struct {
		const char *words[5];
		const char *error;
		const char *hint;
	} cases[] = {
		{{"vm", "mvoe"}, "no verb 'mvoe' for 'vm'", "did you mean 'watari vm move'?"},
		{{"stats"}, "no verb and no noun 'stats'", "did you mean 'watari status'?"},
		{{"vm"}, "'watari vm' needs a verb", "'watari vm --help' shows them all"},
		{{"vm", "show"}, "watari vm show needs VM", "'watari vm show --help' shows how it is used"},
		{{"vm", "show", "a", "b"}, "watari vm show: one word too many: 'b'", NULL},
		{{"vm", "list", "--stat", "off"}, "watari vm list takes no option '--stat'", "did you mean '--state'?"},
		{{"vm", "list", "--state", "on"}, "--state 'on': one of off starting", NULL},
		{{"vm", "list", "-o", "xml"}, "--output 'xml': one of table json", NULL},
		{{"vm", "move", "web", "--to"}, "--to needs a value: NODE", NULL},
		{{"vm", "list", "--help=yes"}, "--help takes no value", NULL},
		{{"--to", "n2"}, "'--to' stands before the verb", NULL},
		{{"vm", "list", "-Z"}, "watari vm list takes no option '-Z'", NULL},
		{{"status", "\xff"}, "word 2 of the command line: control characters and invalid UTF-8 are not allowed",
			NULL},
		{{"vm", "show", "a\nb"}, "word 3 of the command line", NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct cli cli;
		int count = 0;
		while (count < 5 && cases[i].words[count])
			count++;
		if (parse(&cli, count, cases[i].words) != -1 ||
			strncmp(cli.err.text, cases[i].error, strlen(cases[i].error)) != 0)
			fail_msg("case %zu gave '%s'", i, cli.err.text);
		if (cases[i].hint)
			assert_string_equal(cli.hint, cases[i].hint);
	}
}

/* Applied to the definition that is there: "{}" for a new VM. */
static void policy_options_become_json(void **state)
{
	static const struct {
		const char *words[6];
		const char *was;
		const char *policy; /* or the error's beginning */
	} cases[] = {
		{{"--preferred", "n1,n2"}, "{}", "{\"preferred\":[\"n1\",\"n2\"]}"},
		{{"--preferred", "none"}, "{\"policy\":{\"preferred\":[\"n1\"]}}", "{\"preferred\":[]}"},
		{{"--preferred", "n1,,n2"}, "{}", "--preferred: names of nodes with commas between, or 'none'"},
		{{"--possible", "n3"}, "{}", "{\"possible\":[\"n3\"]}"},
		{{"--possible", "all"}, "{\"policy\":{\"possible\":[\"n1\"]}}", "{\"possible\":[]}"},
		{{"--anti-affinity", "db"}, "{}", "{\"anti_affinity\":\"db\",\"anti_affinity_hard\":false}"},
		{{"--anti-affinity", "db:hard"}, "{}", "{\"anti_affinity\":\"db\",\"anti_affinity_hard\":true}"},
		{{"--anti-affinity", "none"}, "{\"policy\":{\"anti_affinity\":\"db\",\"anti_affinity_hard\":true}}",
			"{\"anti_affinity\":\"\",\"anti_affinity_hard\":false}"},
		{{"--anti-affinity", "db:firm"}, "{}", "--anti-affinity 'db:firm': LABEL, LABEL:soft or LABEL:hard"},
		/* A budget that is named in part leaves the rest at its defaults, and an explicit zero is no default. */
		{{"--restart-max", "0"}, "{}", "{\"restart_max\":0,\"restart_period_s\":900,\"retry_after_s\":3600}"},
		{{"--restart-period", "2h", "--retry-after", "0"}, "{}",
			"{\"restart_max\":1,\"restart_period_s\":7200,\"retry_after_s\":0}"},
		{{"--restart-max", "3"}, "{\"policy\":{\"restart_period_s\":60}}",
			"{\"restart_max\":3,\"restart_period_s\":60}"},
		{{"--restart-max", "-1"}, "{}", "--restart-max: '-1': a whole number"},
		{{"--restart-period", "250ms"}, "{}", "--restart-period '250ms': whole seconds"},
		{{"--failback", "now"}, "{}",
			"{\"failback\":\"immediate\",\"failback_from_hour\":0,\"failback_to_hour\":0}"},
		{{"--failback", "22-4"}, "{}",
			"{\"failback\":\"window\",\"failback_from_hour\":22,\"failback_to_hour\":4}"},
		{{"--failback", "never"}, "{\"policy\":{\"failback\":\"window\",\"failback_from_hour\":22}}",
			"{\"failback\":\"never\",\"failback_from_hour\":0,\"failback_to_hour\":0}"},
		{{"--failback", "22"}, "{}", "--failback '22': never, now, or two hours of the day in UTC such as 22-4"},
		{{"--failback", "22-4x"}, "{}", "--failback '22-4x'"},
		{{"--failback", "1--4"}, "{}", "--failback '1--4'"},
		{{"--start-order", "2", "--start-delay", "1m"}, "{}", "{\"start_delay_s\":60,\"start_order\":2}"},
		{{"--heartbeat", "30s"}, "{}", "{\"heartbeat_s\":30}"},
		{{"--heartbeat", "0"}, "{\"policy\":{\"heartbeat_s\":30}}", "{\"heartbeat_s\":0}"},
		{{"--on-panic", "pause"}, "{\"policy\":{\"start_order\":2}}", "{\"on_panic\":\"pause\",\"start_order\":2}"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *words[10] = {"vm", "edit", "web"};
		struct cli cli;
		int count = 3;
		for (int w = 0; w < 6 && cases[i].words[w]; w++)
			words[count++] = cases[i].words[w];
		assert_int_equal(parse(&cli, count, words), 0);
		CLEANUP_JSON json_t *definition = json_loads(cases[i].was, 0, NULL);
		CLEANUP_FREE char *text = policy_apply(&cli, definition) < 0
						  ? strdup(cli.err.text)
						  : json_dumps(json_object_get(definition, "policy"),
							    JSON_COMPACT | JSON_SORT_KEYS);
		if (strncmp(text, cases[i].policy, strlen(cases[i].policy)) != 0)
			fail_msg("case %zu gave '%s'", i, text);
	}
}

/* What the help prints must be there for every verb: a table entry that was forgotten shows up here. */
static void every_verb_is_whole(void **state)
{
	(void)state;
	for (size_t i = 0; i < cli_verb_count; i++) {
		const struct verb *verb = &cli_verbs[i];
		assert_non_null(verb->run);
		assert_non_null(verb->summary);
		assert_non_null(verb->examples[0]);
		assert_true(verb->summary[strlen(verb->summary) - 1] != '.');
		assert_true(!verb->noun || cli_is_noun(verb->noun));
		/* Every example parses as what it shows. */
		for (size_t e = 0; e < VERB_EXAMPLES_MAX && verb->examples[e]; e++) {
			CLEANUP_FREE char *copy = strdup(verb->examples[e]);
			char *place = NULL, *words[32];
			int count = 0;
			char *start = strstr(copy, "watari ");
			assert_non_null(start);
			start[strcspn(start, "&>'")] = '\0';
			for (char *word = strtok_r(start, " ", &place); word && count < 32;
				word = strtok_r(NULL, " ", &place))
				words[count++] = word;
			struct cli cli = {.client.fd = -1};
			if (strchr(verb->examples[e], '\''))
				continue;
			if (cli_parse(&cli, count - 1, words + 1) < 0)
				fail_msg("'%s': %s", verb->examples[e], cli.err.text);
			assert_ptr_equal(cli.verb, verb);
		}
		/* Letters and names are each taken once. */
		for (size_t a = 0; a < VERB_OPTS_MAX && verb->opts[a].name; a++) {
			assert_ptr_equal(
				cli_find_opt(verb, verb->opts[a].name, strlen(verb->opts[a].name)), &verb->opts[a]);
			for (const struct opt *opt = cli_global_opts; opt->name; opt++)
				assert_true(!opt->letter || opt->letter != verb->opts[a].letter);
			for (const struct opt *opt = cli_task_opts; verb->has_task && opt->name; opt++)
				assert_true(!opt->letter || opt->letter != verb->opts[a].letter);
			for (size_t b = 0; b < a; b++)
				assert_true(!verb->opts[a].letter || verb->opts[a].letter != verb->opts[b].letter);
		}
	}
}

static void figures_read_well(void **state)
{
	char out[UNITS_BYTES];

	(void)state;
	assert_string_equal(units_bytes(out, 0), "0 B");
	assert_string_equal(units_bytes(out, 1023), "1023 B");
	assert_string_equal(units_bytes(out, 1536), "1.5 KiB");
	assert_string_equal(units_bytes(out, UINT64_MAX), "16384 PiB");
	assert_string_equal(units_mib(out, 512), "512 MiB");
	assert_string_equal(units_mib(out, 4096), "4 GiB");
	assert_string_equal(units_mib(out, 11000), "10.7 GiB");
	assert_string_equal(units_span_us(out, 350), "0.3 ms");
	assert_string_equal(units_span_us(out, 48000), "48 ms");
	assert_string_equal(units_span_us(out, 2310000), "2.31 s");
	assert_string_equal(units_span_us(out, 200000000), "3 min 20 s");
	assert_string_equal(units_ago(out, 1000, 61000), "60 s ago");
	assert_string_equal(units_ago(out, 9000, 1000), "0 s ago"); /* a clock that is behind */
	assert_string_equal(units_ago(out, 0, 1000), "-");
}

static void a_table_has_its_columns(void **state)
{
	static const char *const columns[] = {"VM", "STATE", ">MEMORY", NULL};
	struct cli cli = {.client.fd = -1};
	char text[256] = "";
	char path[] = "/tmp/watari-table-XXXXXX";
	CLEANUP_FD int fd = mkstemp(path);
	int before = dup(STDOUT_FILENO);

	(void)state;
	assert_true(fd >= 0 && before >= 0);
	unlink(path);
	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	struct table *table = table_new(&cli, columns);
	table_row(table, (const char *[]){"web", "online", "512 MiB"});
	table_row(table, (const char *[]){"d\xc3\xa4mon", NULL, "4 GiB"});
	table_print_free(table);
	fflush(stdout);
	dup2(before, STDOUT_FILENO);
	close(before);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	assert_non_null(strstr(text, "VM"));
	assert_non_null(strstr(text, "web"));
	assert_non_null(strstr(text, "online"));
	assert_non_null(strstr(text, "512 MiB"));
	assert_null(strchr(text, '\033')); /* no colour unless asked for */
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_whole_numbers_with_a_unit),
		cmocka_unit_test(spans_and_dates),
		cmocka_unit_test(a_disk_option_becomes_json),
		cmocka_unit_test(a_network_option_becomes_json),
		cmocka_unit_test(options_stand_anywhere_behind_the_verb),
		cmocka_unit_test(wrong_words_say_what_is_right),
		cmocka_unit_test(policy_options_become_json),
		cmocka_unit_test(every_verb_is_whole),
		cmocka_unit_test(figures_read_well),
		cmocka_unit_test(a_table_has_its_columns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
