/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "model/event.h"

static struct event example(void)
{
	struct event event = {.kind = EVENT_VM_CREATE, .node = 3, .members = UINT64_MAX, .force = true};

	strcpy(event.by, "root");
	strcpy(event.def.name, "web");
	event.def.memory_mib = 512;
	event.def.disk_count = 2;
	strcpy(event.def.disks[1].path, "/srv/b.img");
	return event;
}

/* The first disk is all zero: it still counts. */
static void what_is_written_is_read_again(void **state)
{
	struct event event = example();
	struct event copy;
	uint8_t bytes[1024];
	struct err err;

	(void)state;
	size_t size = schema_encode(&event_schema, &event, bytes, sizeof(bytes));
	assert_true(size < sizeof(bytes));
	assert_int_equal(schema_encode(&event_schema, &event, NULL, 0), size);
	assert_int_equal(schema_decode(&event_schema, bytes, size, &copy, &err), 0);
	assert_true(schema_equal(&event_schema, &event, &copy));
	assert_int_equal(copy.def.disk_count, 2);
	assert_true(copy.members == UINT64_MAX);
}

/* A torn message is refused at whatever byte it was cut, unless what is left is whole. */
static void a_message_cut_anywhere_is_whole_or_refused(void **state)
{
	struct event event = example();
	struct event copy;
	uint8_t bytes[1024];
	struct err err;
	size_t whole = 0;

	(void)state;
	size_t size = schema_encode(&event_schema, &event, bytes, sizeof(bytes));
	for (size_t cut = 0; cut < size; cut++) {
		uint8_t *exact = malloc(cut ? cut : 1); /* so that a sanitizer sees a read behind the end */
		memcpy(exact, bytes, cut);
		if (schema_decode(&event_schema, exact, cut, &copy, &err) == 0)
			whole++;
		else
			assert_int_equal(copy.node, 0);
		free(exact);
	}
	assert_true(whole < 10);
}

/* Version N reads what version N + 1 adds. */
static void an_unknown_field_is_skipped(void **state)
{
	static const uint8_t bytes[] = {0x7f, 0xff, 0, 0, 0, 2, 9, 9, 0, 2, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5};
	struct event event;
	struct err err;

	(void)state;
	assert_int_equal(schema_decode(&event_schema, bytes, sizeof(bytes), &event, &err), 0);
	assert_int_equal(event.node, 5);
}

static void hostile_values_are_refused(void **state)
{
	static const struct {
		const char *what;
		uint8_t bytes[32];
		size_t size;
	} rows[] = {
		{"unknown kind", {0, 1, 0, 0, 0, 4, 0, 0, 0, 200}, 10},
		{"enum of the wrong length", {0, 1, 0, 0, 0, 1, 1}, 7},
		{"u32 out of range", {0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0}, 14},
		{"length beyond the end", {0, 2, 0xff, 0xff, 0xff, 0xff, 0}, 7},
		{"control character", {0, 7, 0, 0, 0, 1, '\n'}, 7},
		{"NUL inside a text", {0, 7, 0, 0, 0, 2, 'a', 0}, 8},
		{"overlong UTF-8", {0, 7, 0, 0, 0, 2, 0xc0, 0xaf}, 8},
		{"surrogate", {0, 7, 0, 0, 0, 3, 0xed, 0xa0, 0x80}, 9},
	};
	struct event event;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (schema_decode(&event_schema, rows[i].bytes, rows[i].size, &event, &err) == 0)
			fail_msg("accepted: %s", rows[i].what);
		assert_int_equal(err.code, ERR_PROTOCOL);
	}
}

static void json_says_where_it_is_wrong(void **state)
{
	static const struct {
		const char *text;
		const char *complaint;
	} rows[] = {
		{"{\"memory_mib\": -1}", "memory_mib: a whole number from 0 to 4294967295"},
		{"{\"memory_mib\": 1.5}", "memory_mib: a whole number from 0 to 4294967295"},
		{"{\"memory_mib\": \"512\"}", "memory_mib: a whole number from 0 to 4294967295"},
		{"{\"priority\": \"urgent\"}", "priority: one of medium, high, low, none"},
		{"{\"disks\": [{}, {\"path\": 7}]}", "disks[1]: path: text expected"},
		{"{\"disks\": {}}", "disks: a list expected"},
		{"{\"colour\": \"red\"}", "unknown key 'colour'"},
		{"{\"name\": \"a\\nb\"}", "name: control characters are not allowed"},
		{"[]", "an object expected"},
	};
	struct vm_def def;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		CLEANUP_JSON json_t *json = json_parse(rows[i].text, strlen(rows[i].text), &err);
		assert_non_null(json);
		assert_int_equal(json_to_record(&vm_def_schema, json, 0, &def, &err), -1);
		assert_string_equal(err.text, rows[i].complaint);
	}
}

static void json_is_bounded_before_it_is_parsed(void **state)
{
	static const char *const refused[] = {
		"", "{", "nonsense", "7", "{\"a\": NaN}", "{\"a\": 1, \"a\": 2}", "{\"a\": 18446744073709551617}"};
	struct err err;
	size_t deep = 1000000;
	char *nested = malloc(deep);

	(void)state;
	memset(nested, '[', deep);
	assert_null(json_parse(nested, deep, &err));
	assert_string_equal(err.text, "JSON nested deeper than 16");
	memset(nested, ' ', deep);
	assert_null(json_parse(nested, JSON_BYTES_MAX + 1, &err));
	free(nested);
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		assert_null(json_parse(refused[i], strlen(refused[i]), &err));
}

static void a_definition_survives_json(void **state)
{
	struct vm_def def = {.memory_mib = 512, .vcpus = 2, .priority = PRIORITY_HIGH, .disk_count = 1, .nic_count = 1};
	struct vm_def copy;
	struct err err;

	(void)state;
	strcpy(def.name, "web");
	strcpy(def.uuid, "00000000-0000-4000-8000-000000000001");
	strcpy(def.disks[0].path, "/srv/w\u00e9b.img");
	strcpy(def.nics[0].bridge, "br0");
	strcpy(def.nics[0].mac, "52:54:00:00:00:01");
	vm_def_pin(&def);
	assert_int_equal(vm_def_check(&def, &err), 0);
	CLEANUP_JSON json_t *json = json_from_record(&vm_def_schema, &def, 0);
	assert_int_equal(json_to_record(&vm_def_schema, json, 0, &copy, &err), 0);
	assert_true(schema_equal(&vm_def_schema, &def, &copy));
}

static void bad_definitions_are_refused_with_the_rule(void **state)
{
	static const struct {
		const char *name;
		uint32_t memory_mib, vcpus;
		const char *disk;
	} rows[] = {
		{"../etc", 512, 1, "/a"}, {"-rf", 512, 1, "/a"}, {"a;b", 512, 1, "/a"}, {"", 512, 1, "/a"},
		{"a b", 512, 1, "/a"}, {"w\u0435b", 512, 1, "/a"} /* Cyrillic e */, {"web", 0, 1, "/a"},
		{"web", 512, 1000000000, "/a"}, {"web", UINT32_MAX, 1, "/a"}, {"web", 512, 1, "a"},
		{"web", 512, 1, "/a/../b"}, {"web", 512, 1, "/a/.."}, {"web", 512, 1, ""},
	};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct vm_def def = {.memory_mib = rows[i].memory_mib, .vcpus = rows[i].vcpus, .disk_count = 1};
		strcpy(def.uuid, "00000000-0000-4000-8000-000000000001");
		strcpy(def.name, rows[i].name);
		strcpy(def.disks[0].path, rows[i].disk);
		vm_def_pin(&def);
		if (vm_def_check(&def, &err) == 0)
			fail_msg("row %zu was accepted", i);
		assert_int_equal(err.code, ERR_INVALID);
	}
}

/* What an administrator may ask to happen by itself; each refusal names the rule. */
static void bad_policies_are_refused_with_the_rule(void **state)
{
	static const struct {
		struct vm_policy policy;
		const char *rule;
	} rows[] = {
		{{.preferred_count = 1, .preferred = {{65}}}, "there is no node with id 65"},
		{{.preferred_count = 2, .preferred = {{2}, {2}}}, "each node once"},
		{{.preferred_count = 1, .preferred = {{3}}, .possible = 3}, "must be a possible one"},
		{{.restart_max = 101}, "at most 100"},
		{{.restart_period_s = 9}, "allowed are 10 to"},
		{{.retry_after_s = UINT32_MAX}, "at most"},
		{{.failback = FAILBACK_IMMEDIATE}, "needs a preferred owner"},
		{{.preferred_count = 1, .preferred = {{1}}, .failback = FAILBACK_WINDOW}, "two different hours"},
		{{.preferred_count = 1, .preferred = {{1}}, .failback = FAILBACK_WINDOW, .failback_to_hour = 24}, "0 to 23"},
		{{.anti_affinity = "a b"}, "a label has"},
		{{.anti_affinity_hard = true}, "needs a label"},
		{{.start_order = 10000}, "start_order"},
		{{.start_delay_s = 3601}, "start_delay_s"},
	};
	struct vm_policy policy = {.preferred_count = 1, .preferred = {{1}}, .failback = FAILBACK_WINDOW,
		.failback_from_hour = 22, .failback_to_hour = 4};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (vm_policy_check(&rows[i].policy, &err) == 0 || !strstr(err.text, rows[i].rule))
			fail_msg("row %zu: %s", i, err.text);
	}
	assert_int_equal(vm_policy_check(&policy, &err), 0);
	assert_true(vm_policy_window(&policy, 23) && vm_policy_window(&policy, 3));
	assert_false(vm_policy_window(&policy, 4) || vm_policy_window(&policy, 21));
	vm_policy_pin(&policy);
	assert_int_equal(policy.restart_max, 1);
	policy = (struct vm_policy){.restart_period_s = 60};
	vm_policy_pin(&policy); /* none at all, on purpose */
	assert_int_equal(policy.restart_max + policy.retry_after_s, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read_again),
		cmocka_unit_test(a_message_cut_anywhere_is_whole_or_refused),
		cmocka_unit_test(an_unknown_field_is_skipped),
		cmocka_unit_test(hostile_values_are_refused),
		cmocka_unit_test(json_says_where_it_is_wrong),
		cmocka_unit_test(json_is_bounded_before_it_is_parsed),
		cmocka_unit_test(a_definition_survives_json),
		cmocka_unit_test(bad_definitions_are_refused_with_the_rule),
		cmocka_unit_test(bad_policies_are_refused_with_the_rule),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
