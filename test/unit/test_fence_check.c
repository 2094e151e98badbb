/* SPDX-License-Identifier: Apache-2.0
 * What a fence agent is given and what it says of itself: secrets that reach it and nobody else, and options that are held against
 * its metadata. */
#include "fence_world.h"

#include <unistd.h>

/* On stdin and nowhere else: not in argv or environment, and not in what an agent blurts out. */
static void a_secret_reaches_the_agent_and_nobody_else(void **state)
{
	struct world *world = *state;
	struct fence_order order = world_order(world, FENCE_STATUS, "tell");

	world_write(world, "ipmi-n3", "hunter2 = sesame\nsecond line\n", 0600);
	world_secret(world, &order.device, "password", "ipmi-n3");
	answer_expect(world_answer(world, &order), FENCE_RESULT_FAILED, "status: exit status 1: login with '***' refused");
	assert_non_null(strstr(world_content(world, "saw"), "\npassword=hunter2 = sesame\n"));
	assert_null(strstr(world_content(world, "process"), "hunter2"));
	assert_null(strstr(world_content(world, "saw"), "second line"));
	assert_non_null(strstr(world_content(world, "process"), "fence_fake"));
	/* The three that were given; the shell keeps its script open under a number above. */
	assert_null(strstr(world_content(world, "fds"), "\n3\n"));
	assert_non_null(strstr(world_content(world, "fds"), "0\n1\n"));
}

static void a_secret_file_that_is_not_safe_is_refused(void **state)
{
	static const struct {
		const char *file;
		const char *text;
		mode_t mode;
		const char *says;
	} rows[] = {
		{"open", "hunter2\n", 0644, "closed to all others"},
		{"group", "hunter2\n", 0640, "closed to all others"},
		{"empty", "\nhunter2\n", 0600, "1 to 255 bytes"},
		{"control", "hun\tter2\n", 0600, "control characters"},
		{"gone", NULL, 0, "gone"},
	};
	struct world *world = *state;
	char path[128];

	for (uint32_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fence_order order = world_order(world, FENCE_OFF, "good");
		if (rows[i].text)
			world_write(world, rows[i].file, rows[i].text, rows[i].mode);
		world_secret(world, &order.device, "password", rows[i].file);
		fencer_run(world->fencer, &order);
		answer_expect(world_wait(world, i + 1), FENCE_RESULT_FAILED, rows[i].says);
		assert_null(strstr(world->answers[i].text, "hunter2"));
	}
	struct fence_order order = world_order(world, FENCE_OFF, "good");
	option_add(&order.device, "password", "/etc/shadow");
	order.device.options[2].secret = true;
	fencer_run(world->fencer, &order);
	answer_expect(world_wait(world, 6), FENCE_RESULT_FAILED, "only files in");
	world_path(world, "link", path);
	assert_int_equal(symlink("/etc/shadow", path), 0);
	strcpy(order.device.options[2].value, path);
	fencer_run(world->fencer, &order);
	answer_expect(world_wait(world, 7), FENCE_RESULT_FAILED, "link");
	assert_string_equal(world_content(world, "calls"), "");
}

static const char metadata[] =
	"<?xml version='1.0'?><resource-agent name='fence_fake' shortdesc='A fake'><parameters>"
	"<parameter name='action' required='1'><content type='string'/></parameter>"
	"<parameter name='mode' required='1'><content type='string'/></parameter>"
	"<parameter name='dir'><content type='string'/></parameter>"
	"<parameter name='plug' required='1' obsoletes='port'><content type='string'/></parameter>"
	"<parameter name='port' required='1'><content type='string'/></parameter>"
	"<parameter name='power_wait'><content type='second' default='0'/><shortdesc>Wait X seconds\nafter "
	"caf\xc3\xa9</shortdesc></parameter>"
	"<parameter name='login' deprecated='1'><content type='string'/></parameter>"
	"<parameter name='ipmitool_path'><content type='string' default='/bin/ipmitool'/></parameter>"
	"<parameter name='passwd'><content type='string'/><shortdesc>Login password</shortdesc></parameter>"
	"<parameter name='lanplus'><content type='boolean'/></parameter>"
	"<parameter name='auth'><content type='select'><option value='md5'/><option "
	"value='none'/></content></parameter>"
	"</parameters><actions><action name='on'/><action name='off'/><action "
	"name='status'/></actions></resource-agent>";

static const struct answer *checked(struct world *world, const char *name, const char *value)
{
	struct fence_order order = world_order(world, FENCE_STATUS, "good");

	if (name)
		option_add(&order.device, name, value);
	fencer_check(world->fencer, world->count + 1, &order.device);
	const struct answer *answer = world_wait(world, world->count + 1);
	assert_true(answer->checked);
	return answer;
}

static void expect_checked(const struct answer *answer, enum err_code code, const char *says)
{
	if (answer->code != code || !strstr(answer->text, says))
		fail_msg("got %d '%s', wanted %d '%s'", (int)answer->code, answer->text, (int)code, says);
}

static void a_check_holds_the_options_against_the_metadata(void **state)
{
	struct world *world = *state;

	world_write(world, "metadata", metadata, 0644);
	expect_checked(checked(world, "plug", "3"), ERR_NONE, "A fake");
	expect_checked(checked(world, "port", "3"), ERR_NONE, "A fake"); /* the older name of the same */
	expect_checked(checked(world, NULL, NULL), ERR_INVALID, "fence_fake needs the option 'plug'");
	expect_checked(checked(world, "plugg", "3"), ERR_INVALID, "fence_fake has no option 'plugg'");
	expect_checked(checked(world, "lanplus", "maybe"), ERR_INVALID, "option lanplus: 1 or 0");
	expect_checked(checked(world, "power-wait", "long"), ERR_INVALID, "option power-wait: a number");
	expect_checked(checked(world, "auth", "md6"), ERR_INVALID, "option auth: one of md5, none");
}

static const struct fence_option_about *told(const struct world *world, const char *name)
{
	for (uint32_t i = 0; i < world->about.option_count; i++)
		if (!strcmp(world->about.options[i].name, name))
			return &world->about.options[i];
	return NULL;
}

/* What an administrator may set, and what it means: also where what he has set so far does not fit. */
static void a_check_tells_the_options_in_the_agents_own_words(void **state)
{
	struct world *world = *state;

	world_write(world, "metadata", metadata, 0644);
	expect_checked(checked(world, NULL, NULL), ERR_INVALID, "needs the option 'plug'");
	assert_string_equal(world->about.about, "A fake");
	assert_true(told(world, "plug")->required && !told(world, "plug")->secret);
	assert_string_equal(told(world, "power_wait")->about, "Wait X seconds after caf??");
	assert_string_equal(told(world, "power_wait")->standard, "0");
	assert_true(told(world, "passwd")->secret);
	/* An older name, and what watari says itself or refuses. */
	assert_null(told(world, "login"));
	assert_null(told(world, "action"));
	assert_null(told(world, "ipmitool_path"));
}

static void a_check_explains_an_agent_that_cannot_be_used(void **state)
{
	static const struct {
		const char *metadata;
		const char *says;
	} rows[] = {
		{"", "fence_fake: metadata: not XML"},
		{"<resource-agent>", "fence_fake: metadata: not XML: line 1"},
		{"<pacemaker/>", "not a <resource-agent>"},
		{"<resource-agent/>", "no action 'off'"},
		{"<resource-agent><actions><action name='off'/></actions></resource-agent>", "no action 'status'"},
		{"<!DOCTYPE r [<!ENTITY a 'b'>]><resource-agent shortdesc='&a;'/>", "a document type"},
	};
	struct world *world = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		world_write(world, "metadata", rows[i].metadata, 0644);
		const struct answer *answer = checked(world, NULL, NULL);
		assert_int_not_equal(answer->code, ERR_NONE);
		if (!strstr(answer->text, rows[i].says))
			fail_msg("'%s' does not say '%s'", answer->text, rows[i].says);
	}
	char path[128];
	world_path(world, "metadata", path);
	assert_int_equal(unlink(path), 0);
	expect_checked(checked(world, NULL, NULL), ERR_UNFIT, "metadata: exit status 1: no metadata");
	assert_int_equal(symlink("/dev/zero", path), 0);
	struct fence_order order = world_order(world, FENCE_STATUS, "good");
	order.device.limit_ms = 2000;
	fencer_check(world->fencer, 99, &order.device);
	expect_checked(world_wait(world, world->count + 1), ERR_UNFIT, "metadata does not end");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)
int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(a_secret_reaches_the_agent_and_nobody_else),
		TEST(a_secret_file_that_is_not_safe_is_refused),
		TEST(a_check_holds_the_options_against_the_metadata),
		TEST(a_check_tells_the_options_in_the_agents_own_words),
		TEST(a_check_explains_an_agent_that_cannot_be_used),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
