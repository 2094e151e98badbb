/* SPDX-License-Identifier: Apache-2.0
 * watarid.conf: what is taken, and that whatever is wrong is refused whole, with its line and its rule (fault C4). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "cmd/daemon_config.h"

#define UUID "00000000-0000-4000-8000-0000000000aa"
#define WHOLE "[cluster]\nuuid=" UUID "\n[node]\nname=n1\n[paths]\nstate=/srv/watari/state\n[qemu]\nuid_base=200000\n"

static int parse(const char *text, size_t size, struct daemon_config *config, struct err *err)
{
	err->text[0] = '\0';
	return daemon_config_parse("f", text, size, config, err);
}

static void a_short_file_gets_the_defaults(void **state)
{
	struct daemon_config config;
	struct err err;

	(void)state;
	assert_int_equal(parse(WHOLE, strlen(WHOLE), &config, &err), 0);
	assert_string_equal(config.cluster_uuid, UUID);
	assert_string_equal(config.node_name, "n1");
	assert_string_equal(config.run_dir, "/run/watari");
	assert_string_equal(config.api_socket, "/run/watari/api.sock");
	assert_string_equal(config.store_dir, "/var/lib/watari");
	assert_int_equal(config.uid_base, 200000);
	assert_int_equal(config.api_group, (gid_t)-1);
	assert_false(config.no_kvm);
}

static void every_key_is_taken(void **state)
{
	static const char text[] =
		"; comment\n[cluster]\nuuid = " UUID "\n[node]\nname=n1\n[paths]\nstore=/a\nrun=/b\nstate=/c\n"
		"log=/d\n[qemu]\nbinary=/e\nstream_helper=/f\nuid_base=5\nuid_count=6\nreserve_memory=2G\n"
		"memory=512M\nvcpus=7\naccel=tcg\n[api]\ngroup=root\nsocket=/g\n[log]\nlevel=debug\n[fence]\n"
		"agents=/h\nsecrets=/i\n";
	struct daemon_config config;
	struct err err;

	(void)state;
	assert_int_equal(parse(text, strlen(text), &config, &err), 0);
	assert_string_equal(config.stream_helper, "/f");
	assert_string_equal(config.api_socket, "/g");
	assert_int_equal(config.reserve_memory_mib, 2048);
	assert_int_equal(config.memory_mib, 512);
	assert_int_equal(config.vcpus, 7);
	assert_true(config.no_kvm);
	assert_int_equal(config.api_group, 0);
	assert_int_equal(config.log_level, LOG_LEVEL_DEBUG);
	assert_string_equal(config.fence_agents, "/h");
	assert_string_equal(config.fence_secrets, "/i");
}

/* Behind a whole file, so that the bad line is the ninth. */
static void a_bad_line_is_refused_with_its_number(void **state)
{
	static const struct {
		const char *line;
		const char *says;
	} bad[] = {
		{"[nodes]\n", "f:9: unknown section [nodes]"},
		{"[qemu]\nspeed=9\n", "f:10: unknown key 'speed' in section [qemu]"},
		{"[qemu]\nuid_base=1\n", "f:10: [qemu] uid_base is given twice"},
		{"vcpus=-1\n", "f:9: vcpus=-1: a whole number from 0 to 65536"},
		{"vcpus=1e3\n", "f:9: vcpus=1e3: a whole number"},
		{"vcpus=99999999999999999999\n", "f:9: vcpus=99999999999999999999: a whole number"},
		{"reserve_memory=1\n", "f:9: reserve_memory=1: a size such as 512M or 4G"},
		{"reserve_memory=9999999999G\n", "f:9: reserve_memory=9999999999G: a size"},
		{"binary=qemu\n", "f:9: binary=qemu: an absolute path"},
		{"binary=/usr/../qemu\n", "f:9: binary=/usr/../qemu: an absolute path"},
		{"accel=xen\n", "f:9: accel=xen: auto (KVM where it works) or tcg"},
		{"[api]\ngroup=no-such-group-here\n", "f:10: group=no-such-group-here: there is no such group"},
		{"[log]\nlevel=loud\n", "f:10: level=loud: one of error"},
		{"[node]\nname=../n1\n", "f:10: [node] name is given twice"},
		{"what is this\n", "f:9: neither a [section] nor key=value"},
		{"[qemu\n", "f:9: '[' without ']'"},
		{" vcpus=1\n", "f:9: a line that begins with a blank"},
		{"vcpus=1\x01\n", "f:9: control characters"},
		{"binary=/\xff\n", "f:9: control characters and invalid UTF-8"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct daemon_config config = {.vcpus = 4242};
		struct err err;
		char text[512];
		snprintf(text, sizeof(text), "%s%s", WHOLE, bad[i].line);
		if (parse(text, strlen(text), &config, &err) != -1 ||
			strncmp(err.text, bad[i].says, strlen(bad[i].says)) != 0)
			fail_msg("'%s' gave '%s', not '%s'", bad[i].line, err.text, bad[i].says);
		assert_int_equal(config.vcpus, 4242); /* untouched */
	}
}

static void bad_names_overlong_lines_and_nul_are_refused(void **state)
{
	static const char *const names[] = {"../n1", "-n1", "n 1", "n1;reboot", "", "n\xc3\xa4"};
	struct daemon_config config;
	struct err err;
	char text[1024];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(text, sizeof(text), "[cluster]\nuuid=" UUID "\n[node]\nname=%s\n", names[i]);
		assert_int_equal(parse(text, strlen(text), &config, &err), -1);
		assert_int_equal(strncmp(err.text, "f:4: ", 5), 0);
	}
	int used = snprintf(text, sizeof(text), "%sbinary=/", WHOLE);
	memset(text + used, 'x', 400);
	text[used + 400] = '\0';
	assert_int_equal(parse(text, strlen(text), &config, &err), -1);
	assert_non_null(strstr(err.text, "f:9: a line of"));
	assert_int_equal(parse("[node]\0\n", 8, &config, &err), -1);
	assert_non_null(strstr(err.text, "NUL"));
}

static void what_is_missing_is_named(void **state)
{
	struct daemon_config config;
	struct err err;

	(void)state;
	assert_int_equal(parse("", 0, &config, &err), -1);
	assert_string_equal(err.text, "f: [cluster] uuid= is missing");
	assert_int_equal(parse(WHOLE, strlen(WHOLE) - strlen("uid_base=200000\n"), &config, &err), -1);
	assert_string_equal(err.text, "f: [qemu] uid_base= is missing");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_short_file_gets_the_defaults),
		cmocka_unit_test(every_key_is_taken),
		cmocka_unit_test(a_bad_line_is_refused_with_its_number),
		cmocka_unit_test(bad_names_overlong_lines_and_nul_are_refused),
		cmocka_unit_test(what_is_missing_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
