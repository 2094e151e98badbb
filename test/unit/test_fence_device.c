/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "model/fence.h"

static struct fence_device example(void)
{
	struct fence_device device = {.name = "ipmi-n3", .node = 3, .agent = "fence_ipmilan", .option_count = 3};

	fence_device_default(&device);
	strcpy(device.options[0].name, "ip");
	strcpy(device.options[0].value, "192.0.2.7");
	strcpy(device.options[1].name, "username");
	strcpy(device.options[1].value, "");
	strcpy(device.options[2].name, "password");
	strcpy(device.options[2].value, "/etc/watari/secret/ipmi-n3");
	device.options[2].secret = true;
	return device;
}

static void a_plain_device_is_fit(void **state)
{
	struct fence_device device = example();
	struct err err;

	(void)state;
	assert_int_equal(fence_device_check(&device, &err), 0);
	assert_int_equal(device.level, 1);
	assert_int_equal(device.limit_ms, FENCE_LIMIT_MS_DEFAULT);
}

static void it_survives_both_its_forms(void **state)
{
	struct fence_device device = example(), copy;
	uint8_t bytes[1024];
	struct err err;

	(void)state;
	size_t size = schema_encode(&fence_device_schema, &device, bytes, sizeof(bytes));
	assert_true(size < sizeof(bytes));
	assert_int_equal(schema_decode(&fence_device_schema, bytes, size, &copy, &err), 0);
	assert_true(schema_equal(&fence_device_schema, &device, &copy));
	CLEANUP_JSON json_t *json = json_from_record(&fence_device_schema, &device, JSON_SKIP_ZERO);
	assert_int_equal(json_to_record(&fence_device_schema, json, 0, &copy, &err), 0);
	assert_true(schema_equal(&fence_device_schema, &device, &copy));
}

/* Each row breaks one rule of a fit device, and the refusal names it. */
static void what_breaks_a_rule_is_refused_by_name(void **state)
{
	static const struct {
		const char *json; /* laid over the fit device */
		const char *says;
	} rows[] = {
		{"{\"name\": \"../x\"}", "name '../x'"},
		{"{\"name\": \"\"}", "name ''"},
		{"{\"node\": 0}", "node id 0"},
		{"{\"node\": 65}", "node id 65"},
		{"{\"agent\": \"/bin/sh\"}", "agent '/bin/sh'"},
		{"{\"agent\": \"fence_\"}", "agent 'fence_'"},
		{"{\"agent\": \"fence_/../sh\"}", "agent"},
		{"{\"agent\": \"fence_ipmilan -o on\"}", "agent"},
		{"{\"level\": 5}", "level 5"},
		{"{\"limit_ms\": 999}", "limit 999"},
		{"{\"limit_ms\": 120001}", "limit 120001"},
		{"{\"delay_ms\": 60001}", "delay 60001"},
		{"{\"options\": [{\"name\": \"\"}]}", "option ''"},
		{"{\"options\": [{\"name\": \"i=p\"}]}", "option 'i=p'"},
		{"{\"options\": [{\"name\": \"#ip\"}]}", "option '#ip'"},
		{"{\"options\": [{\"name\": \"action\", \"value\": \"on\"}]}", "watari says itself"},
		{"{\"options\": [{\"name\": \"nodename\"}]}", "node's name"},
		{"{\"options\": [{\"name\": \"debug-file\", \"value\": \"/tmp/x\"}]}", "debug file"},
		{"{\"options\": [{\"name\": \"password_script\", \"value\": \"/tmp/x\"}]}", "run as root"},
		{"{\"options\": [{\"name\": \"ipmitool-path\", \"value\": \"/tmp/x\"}]}", "run as root"},
		{"{\"options\": [{\"name\": \"power_wait\"}, {\"name\": \"power-wait\"}]}", "twice"},
		{"{\"options\": [{\"name\": \"ip\", \"value\": \" a\"}]}", "blanks"},
		{"{\"options\": [{\"name\": \"passwd\", \"value\": \"hunter2\"}]}", "is a secret"},
		{"{\"options\": [{\"name\": \"snmp-priv-passwd\", \"value\": \"hunter2\"}]}", "is a secret"},
		{"{\"options\": [{\"name\": \"community\", \"value\": \"private\"}]}", "is a secret"},
		{"{\"options\": [{\"name\": \"password\", \"value\": \"hunter2\", \"secret\": true}]}",
			"absolute path"},
		{"{\"options\": [{\"name\": \"password\", \"value\": \"/a/../b\", \"secret\": true}]}",
			"absolute path"},
	};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fence_device device = example();
		CLEANUP_JSON json_t *json = json_parse(rows[i].json, strlen(rows[i].json), &err);
		assert_int_equal(json_to_record(&fence_device_schema, json, JSON_KEEP_DEFAULT, &device, &err), 0);
		assert_int_equal(fence_device_check(&device, &err), -1);
		assert_int_equal(err.code, ERR_INVALID);
		assert_null(strstr(err.text, "hunter2"));
		if (!strstr(err.text, rows[i].says))
			fail_msg("%s: '%s' does not say '%s'", rows[i].json, err.text, rows[i].says);
	}
}

/* A line break would be a line more to the agent: action=on after our action=off. And the refusal must not repeat it.
 */
static void a_value_cannot_hold_a_second_line(void **state)
{
	struct fence_device device = example();
	struct err err;

	(void)state;
	strcpy(device.options[0].value, "192.0.2.7\naction=on");
	assert_int_equal(fence_device_check(&device, &err), -1);
	assert_non_null(strstr(err.text, "line breaks"));
	assert_null(strchr(err.text, '\n'));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_plain_device_is_fit),
		cmocka_unit_test(it_survives_both_its_forms),
		cmocka_unit_test(what_breaks_a_rule_is_refused_by_name),
		cmocka_unit_test(a_value_cannot_hold_a_second_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
