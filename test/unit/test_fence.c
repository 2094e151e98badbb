/* SPDX-License-Identifier: Apache-2.0
 * Fence agents of every kind of bad behaviour, as programs, against the driver that runs them. */
#include "driver/fence/fencer_agents.h"
#include "driver/linux/loop_sd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <cmocka.h>

enum { ANSWERS_MAX = 16, PATIENCE_MS = 60000 };

struct answer {
	uint64_t id;
	enum fence_result result;
	bool was_on;
	bool checked;
	enum err_code code;
	char text[512];
};

struct test {
	char dir[64];
	struct loop *loop;
	struct fencer *fencer;
	uint32_t wanted;
	uint32_t count;
	struct fence_agent_about about; /* of the last check */
	struct answer answers[ANSWERS_MAX];
};

static void path_in(const struct test *test, const char *name, char path[static 128])
{
	snprintf(path, 128, "%s/%s", test->dir, name);
}

static void write_file(const struct test *test, const char *name, const char *text, mode_t mode)
{
	char path[128];

	path_in(test, name, path);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
	assert_int_equal(chmod(path, mode), 0);
}

/* What the file holds; empty where it does not exist. */
static const char *content(const struct test *test, const char *name)
{
	static char text[16384];
	char path[128];

	path_in(test, name, path);
	CLEANUP_FILE FILE *file = fopen(path, "r");
	size_t size = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
	text[size] = 0;
	return text;
}

static void take(struct test *test, const struct answer *answer)
{
	assert_true(test->count < ANSWERS_MAX);
	assert_true(schema_text_ok(answer->text, strlen(answer->text)));
	test->answers[test->count++] = *answer;
	if (test->count == test->wanted)
		loop_sd_exit(test->loop, 0);
}

static void on_done(void *ctx, uint64_t id, enum fence_result result, bool was_on, const char *text)
{
	struct answer answer = {.id = id, .result = result, .was_on = was_on};

	assert_true(strlen(text) < REASON_BYTES);
	snprintf(answer.text, sizeof(answer.text), "%s", text);
	take(ctx, &answer);
}

static void on_checked(
	void *ctx, uint64_t id, const struct err *err, const char *text, const struct fence_agent_about *about)
{
	struct answer answer = {.id = id, .checked = true, .code = err ? err->code : ERR_NONE};

	struct test *test = ctx;

	snprintf(answer.text, sizeof(answer.text), "%s", err ? err->text : text);
	test->about = about ? *about : (struct fence_agent_about){0};
	take(ctx, &answer);
}

static void copy_agent(const struct test *test)
{
	char *text = malloc(1 << 16);
	CLEANUP_FILE FILE *file = fopen(FENCE_FAKE, "r");

	assert_non_null(file);
	text[fread(text, 1, (1 << 16) - 1, file)] = 0;
	write_file(test, "fence_fake", text, 0755);
	free(text);
}

static int setup(void **state)
{
	struct test *test = calloc(1, sizeof(*test));
	struct fencer_agents_config config;
	struct err err;

	umask(022);
	strcpy(test->dir, "/tmp/watari-fence-XXXXXX");
	assert_non_null(mkdtemp(test->dir));
	copy_agent(test);
	write_file(test, "power", "on\n", 0644);
	snprintf(config.agents_dir, sizeof(config.agents_dir), "%s", test->dir);
	snprintf(config.secrets_dir, sizeof(config.secrets_dir), "%s", test->dir);
	const struct fencer_callbacks callbacks = {.ctx = test, .done = on_done, .checked = on_checked};
	test->loop = loop_sd_new(&err);
	assert_non_null(test->loop);
	test->fencer = fencer_agents_new(test->loop, &config, &callbacks);
	*state = test;
	return 0;
}

static int teardown(void **state)
{
	struct test *test = *state;
	char command[128];

	fencer_agents_free(test->fencer);
	loop_sd_free(test->loop);
	snprintf(command, sizeof(command), "rm -rf %s", test->dir);
	assert_int_equal(system(command), 0);
	free(test);
	return 0;
}

static void add_option(struct fence_device *device, const char *name, const char *value)
{
	struct fence_option *option = &device->options[device->option_count++];

	snprintf(option->name, sizeof(option->name), "%s", name);
	snprintf(option->value, sizeof(option->value), "%s", value);
}

static void add_secret(const struct test *test, struct fence_device *device, const char *name, const char *file)
{
	char path[128];

	path_in(test, file, path);
	add_option(device, name, path);
	device->options[device->option_count - 1].secret = true;
}

static struct fence_order order_of(const struct test *test, enum fence_action action, const char *mode)
{
	struct fence_order order = {.id = 7, .action = action, .node_name = "n3"};

	strcpy(order.device.name, "fake-n3");
	strcpy(order.device.agent, "fence_fake");
	order.device.node = 3;
	fence_device_default(&order.device);
	add_option(&order.device, "mode", mode);
	add_option(&order.device, "dir", test->dir);
	return order;
}

static void on_impatience(void *ctx)
{
	(void)ctx;
	fail_msg("no answer after %d ms", PATIENCE_MS);
}

static const struct answer *wait_for(struct test *test, uint32_t count)
{
	struct err err;
	int status;

	test->wanted = count;
	struct loop_timer *timer = loop_timer_set(test->loop, PATIENCE_MS, on_impatience, NULL);
	if (test->count < count)
		assert_int_equal(loop_sd_run(test->loop, &status, &err), 0);
	loop_timer_cancel(test->loop, timer);
	return &test->answers[count - 1];
}

static const struct answer *answer_to(struct test *test, const struct fence_order *order)
{
	fencer_run(test->fencer, order);
	assert_int_equal(test->count, 0); /* never within the call */
	return wait_for(test, 1);
}

static void expect(const struct answer *answer, enum fence_result result, const char *says)
{
	if (answer->result != result || !strstr(answer->text, says))
		fail_msg("got %s '%s', wanted %s '%s'", fence_result_name((int)answer->result), answer->text,
			fence_result_name((int)result), says);
}

static void expect_dead(pid_t pid)
{
	CLEANUP_FD int fd = pidfd_open(pid, 0);
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	assert_true(pid > 1);
	if (fd >= 0) /* else it is gone already */
		assert_int_equal(poll(&poll_fd, 1, PATIENCE_MS), 1);
}

/* The sequence that a proof needs: asked, switched, asked again. */
static void off_is_proven_by_the_status_behind_it(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "good");
	char line[128];

	expect(answer_to(test, &order), FENCE_RESULT_OFF, "status read back: off");
	assert_true(test->answers[0].was_on);
	assert_string_equal(content(test, "calls"), "status\noff\nstatus\n");
	snprintf(line, sizeof(line), "action=status\nnodename=n3\nmode=good\ndir=%s\n", test->dir);
	assert_string_equal(content(test, "saw"), line);
}

/* Switching off what is off may fail on some devices, and takes time that a VM waits. */
static void off_already_is_proof_at_once(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "good");

	write_file(test, "power", "off\n", 0644);
	expect(answer_to(test, &order), FENCE_RESULT_OFF, "status: off already");
	assert_false(test->answers[0].was_on);
	assert_string_equal(content(test, "calls"), "status\n");
}

static void on_is_the_same_the_other_way_round(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_ON, "good");

	write_file(test, "power", "off\n", 0644);
	expect(answer_to(test, &order), FENCE_RESULT_ON, "status read back: on");
	assert_string_equal(content(test, "power"), "on\n");
}

static void status_asks_and_changes_nothing(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_STATUS, "good");

	expect(answer_to(test, &order), FENCE_RESULT_ON, "status: on");
	assert_string_equal(content(test, "calls"), "status\n");
	write_file(test, "power", "off\n", 0644);
	order.id++;
	fencer_run(test->fencer, &order);
	expect(wait_for(test, 2), FENCE_RESULT_OFF, "status: off");
}

/* Only 0 and 2 mean something: an agent's own trouble must not be read as off. */
static void any_other_exit_status_is_a_failure(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_STATUS, "odd");

	expect(answer_to(test, &order), FENCE_RESULT_FAILED, "status: exit status 3");
}

/* Exit 0 without doing anything: the most dangerous agent of all. */
static void an_agent_that_lies_proves_nothing(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "liar");

	order.device.limit_ms = 2000;
	expect(answer_to(test, &order), FENCE_RESULT_FAILED, "status read back: still on");
	assert_non_null(strstr(test->answers[0].text, "timed out after 2 s"));
}

static void a_slow_power_supply_is_waited_for(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "polls");

	order.device.limit_ms = 60000;
	/* The agent says off, the device says on three times more. */
	expect(answer_to(test, &order), FENCE_RESULT_OFF, "status read back: off");
	assert_string_equal(content(test, "calls"), "status\noff\nstatus\nstatus\nstatus\nstatus\n");
}

/* Wrong password, no such plug: nobody should wait out the limit before the next device is tried. */
static void a_refusal_fails_at_once_with_the_agents_words(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "refuse");

	order.device.limit_ms = FENCE_LIMIT_MS_MAX;
	expect(answer_to(test, &order), FENCE_RESULT_FAILED,
		"off: exit status 1: ERROR: not now; status read back: still on");
	assert_string_equal(content(test, "calls"), "status\noff\nstatus\n");
}

/* The other way round: a failure that came true. */
static void off_is_believed_to_the_status_and_not_to_the_exit(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "blind");

	expect(answer_to(test, &order), FENCE_RESULT_OFF, "status read back: off (off: exit status 1)");
}

static void an_agent_that_hangs_is_ended_at_its_limit(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "hang");

	order.device.limit_ms = 3000;
	expect(answer_to(test, &order), FENCE_RESULT_FAILED,
		"timed out after 3 s: off does not end; status does not end");
}

static void an_agent_deaf_to_sigterm_is_killed(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_STATUS, "deaf");

	order.device.limit_ms = 1000;
	expect(answer_to(test, &order), FENCE_RESULT_FAILED, "status does not end");
	expect_dead(atoi(content(test, "pid")));
}

static void a_status_that_hangs_at_first_leaves_time_to_act(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "slow-first");

	order.device.limit_ms = 6000;
	expect(answer_to(test, &order), FENCE_RESULT_OFF, "status read back: off");
}

static void an_off_that_hangs_after_its_work_is_still_proven(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "hang-after-off");

	order.device.limit_ms = 5000;
	expect(answer_to(test, &order), FENCE_RESULT_OFF, "status read back: off (off does not end)");
}

static void a_crash_is_a_failure_with_its_signal(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "crash");

	expect(answer_to(test, &order), FENCE_RESULT_FAILED, "signal 11 (Segmentation fault)");
}

/* 400 kB of random bytes: the answer is one line of text all the same (take() looks). */
static void garbage_is_not_repeated(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "garbage");

	expect(answer_to(test, &order), FENCE_RESULT_FAILED, "off: exit status 1");
}

/* A gigabyte at each call: read and dropped, and the agent's word still counts. */
static void a_flood_neither_blocks_nor_grows(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_STATUS, "flood");
	char line[256];
	long peak_kib = 0;

	order.device.limit_ms = FENCE_LIMIT_MS_MAX;
	expect(answer_to(test, &order), FENCE_RESULT_ON, "status: on");
	CLEANUP_FILE FILE *file = fopen("/proc/self/status", "r");
	while (fgets(line, sizeof(line), file))
		sscanf(line, "VmHWM: %ld", &peak_kib);
	assert_in_range(peak_kib, 1, 512 * 1024); /* far from 1 GiB, with room for sanitizers */
}

/* A child that keeps the pipes open must not keep the order, nor live on. */
static void what_an_agent_started_ends_with_it(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "grandchild");

	expect(answer_to(test, &order), FENCE_RESULT_OFF, "status read back: off");
	expect_dead(atoi(content(test, "pid")));
}

struct waiting {
	struct test *test;
	char path[128];
};

static void until_it_exists(void *ctx)
{
	struct waiting *waiting = ctx;

	if (access(waiting->path, F_OK) < 0)
		loop_timer_set(waiting->test->loop, 20, until_it_exists, waiting);
	else
		loop_sd_exit(waiting->test->loop, 0);
}

static void a_cancelled_order_ends_its_agent_and_is_not_answered(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_STATUS, "hang");
	struct waiting waiting = {.test = test};
	struct err err;
	int status;

	order.device.limit_ms = FENCE_LIMIT_MS_MAX;
	fencer_run(test->fencer, &order);
	path_in(test, "pid", waiting.path);
	loop_timer_set(test->loop, 0, until_it_exists, &waiting);
	assert_int_equal(loop_sd_run(test->loop, &status, &err), 0);
	pid_t pid = atoi(content(test, "pid"));
	fencer_cancel(test->fencer, order.id);
	expect_dead(pid);
	/* The same id may be used again, and only the new order is answered. */
	strcpy(order.device.options[0].value, "good");
	expect(answer_to(test, &order), FENCE_RESULT_ON, "status: on");
}

static void an_order_under_way_is_not_begun_again(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "good");

	fencer_run(test->fencer, &order);
	fencer_run(test->fencer, &order);
	wait_for(test, 1);
	order.id = 8;
	order.action = FENCE_STATUS;
	fencer_run(test->fencer, &order);
	assert_int_equal(wait_for(test, 2)->id, 8);
	assert_string_equal(content(test, "calls"), "status\noff\nstatus\nstatus\n");
}

/* Questions have places of their own: an administrator who asks much must not keep a fence from running. */
static void orders_are_bounded_and_questions_do_not_count(void **state)
{
	struct test *test = *state;
	struct fence_order hanging = order_of(test, FENCE_STATUS, "hang");
	struct fence_order off = order_of(test, FENCE_OFF, "good");

	hanging.device.limit_ms = FENCE_LIMIT_MS_MAX;
	for (hanging.id = 100; hanging.id < 100 + FENCE_QUESTIONS_MAX + 1; hanging.id++)
		fencer_run(test->fencer, &hanging);
	const struct answer *refused = wait_for(test, 1);
	assert_int_equal(refused->id, 100 + FENCE_QUESTIONS_MAX);
	expect(refused, FENCE_RESULT_FAILED, "4 fence questions are under way already");
	for (off.id = 1; off.id <= FENCE_ORDERS_MAX; off.id++)
		fencer_run(test->fencer, &off);
	wait_for(test, 1 + FENCE_ORDERS_MAX);
	for (uint32_t i = 1; i <= FENCE_ORDERS_MAX; i++)
		expect(&test->answers[i], FENCE_RESULT_OFF, "off");
}

static void the_delay_comes_before_the_limit(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "good");
	uint64_t begin = loop_now_ms(test->loop);

	order.delay_ms = 1500;
	order.device.limit_ms = 20000;
	expect(answer_to(test, &order), FENCE_RESULT_OFF, "status read back: off");
	assert_true(loop_now_ms(test->loop) - begin >= 1500);
}

static void an_agent_that_is_missing_or_unfit_is_named(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "good");

	strcpy(order.device.agent, "fence_missing");
	expect(answer_to(test, &order), FENCE_RESULT_FAILED, "/fence_missing'");
	write_file(test, "fence_plain", "#!/bin/sh\n", 0644);
	strcpy(order.device.agent, "fence_plain");
	fencer_run(test->fencer, &order);
	expect(wait_for(test, 2), FENCE_RESULT_FAILED, "/fence_plain' is not an executable file");
	write_file(test, "fence_open", "#!/bin/sh\nexit 2\n", 0757);
	strcpy(order.device.agent, "fence_open");
	fencer_run(test->fencer, &order);
	expect(wait_for(test, 3), FENCE_RESULT_FAILED, "others than root can write");
	write_file(test, "fence_nothing", "#!/nowhere/interpreter\n", 0755);
	strcpy(order.device.agent, "fence_nothing");
	fencer_run(test->fencer, &order);
	expect(wait_for(test, 4), FENCE_RESULT_FAILED, "off: exit status 127: watari: cannot start");
}

/* On stdin and nowhere else: not in argv or environment, and not in what an agent blurts out. */
static void a_secret_reaches_the_agent_and_nobody_else(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_STATUS, "tell");

	write_file(test, "ipmi-n3", "hunter2 = sesame\nsecond line\n", 0600);
	add_secret(test, &order.device, "password", "ipmi-n3");
	expect(answer_to(test, &order), FENCE_RESULT_FAILED, "status: exit status 1: login with '***' refused");
	assert_non_null(strstr(content(test, "saw"), "\npassword=hunter2 = sesame\n"));
	assert_null(strstr(content(test, "process"), "hunter2"));
	assert_null(strstr(content(test, "saw"), "second line"));
	assert_non_null(strstr(content(test, "process"), "fence_fake"));
	/* The three that were given; the shell keeps its script open under a number above. */
	assert_null(strstr(content(test, "fds"), "\n3\n"));
	assert_non_null(strstr(content(test, "fds"), "0\n1\n"));
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
	struct test *test = *state;
	char path[128];

	for (uint32_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fence_order order = order_of(test, FENCE_OFF, "good");
		if (rows[i].text)
			write_file(test, rows[i].file, rows[i].text, rows[i].mode);
		add_secret(test, &order.device, "password", rows[i].file);
		fencer_run(test->fencer, &order);
		expect(wait_for(test, i + 1), FENCE_RESULT_FAILED, rows[i].says);
		assert_null(strstr(test->answers[i].text, "hunter2"));
	}
	struct fence_order order = order_of(test, FENCE_OFF, "good");
	add_option(&order.device, "password", "/etc/shadow");
	order.device.options[2].secret = true;
	fencer_run(test->fencer, &order);
	expect(wait_for(test, 6), FENCE_RESULT_FAILED, "only files in");
	path_in(test, "link", path);
	assert_int_equal(symlink("/etc/shadow", path), 0);
	strcpy(order.device.options[2].value, path);
	fencer_run(test->fencer, &order);
	expect(wait_for(test, 7), FENCE_RESULT_FAILED, "link");
	assert_string_equal(content(test, "calls"), "");
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

static const struct answer *checked(struct test *test, const char *name, const char *value)
{
	struct fence_order order = order_of(test, FENCE_STATUS, "good");

	if (name)
		add_option(&order.device, name, value);
	fencer_check(test->fencer, test->count + 1, &order.device);
	const struct answer *answer = wait_for(test, test->count + 1);
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
	struct test *test = *state;

	write_file(test, "metadata", metadata, 0644);
	expect_checked(checked(test, "plug", "3"), ERR_NONE, "A fake");
	expect_checked(checked(test, "port", "3"), ERR_NONE, "A fake"); /* the older name of the same */
	expect_checked(checked(test, NULL, NULL), ERR_INVALID, "fence_fake needs the option 'plug'");
	expect_checked(checked(test, "plugg", "3"), ERR_INVALID, "fence_fake has no option 'plugg'");
	expect_checked(checked(test, "lanplus", "maybe"), ERR_INVALID, "option lanplus: 1 or 0");
	expect_checked(checked(test, "power-wait", "long"), ERR_INVALID, "option power-wait: a number");
	expect_checked(checked(test, "auth", "md6"), ERR_INVALID, "option auth: one of md5, none");
}

static const struct fence_option_about *told(const struct test *test, const char *name)
{
	for (uint32_t i = 0; i < test->about.option_count; i++)
		if (!strcmp(test->about.options[i].name, name))
			return &test->about.options[i];
	return NULL;
}

/* What an administrator may set, and what it means: also where what he has set so far does not fit. */
static void a_check_tells_the_options_in_the_agents_own_words(void **state)
{
	struct test *test = *state;

	write_file(test, "metadata", metadata, 0644);
	expect_checked(checked(test, NULL, NULL), ERR_INVALID, "needs the option 'plug'");
	assert_string_equal(test->about.about, "A fake");
	assert_true(told(test, "plug")->required && !told(test, "plug")->secret);
	assert_string_equal(told(test, "power_wait")->about, "Wait X seconds after caf??");
	assert_string_equal(told(test, "power_wait")->standard, "0");
	assert_true(told(test, "passwd")->secret);
	/* An older name, and what watari says itself or refuses. */
	assert_null(told(test, "login"));
	assert_null(told(test, "action"));
	assert_null(told(test, "ipmitool_path"));
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
	struct test *test = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		write_file(test, "metadata", rows[i].metadata, 0644);
		const struct answer *answer = checked(test, NULL, NULL);
		assert_int_not_equal(answer->code, ERR_NONE);
		if (!strstr(answer->text, rows[i].says))
			fail_msg("'%s' does not say '%s'", answer->text, rows[i].says);
	}
	char path[128];
	path_in(test, "metadata", path);
	assert_int_equal(unlink(path), 0);
	expect_checked(checked(test, NULL, NULL), ERR_UNFIT, "metadata: exit status 1: no metadata");
	assert_int_equal(symlink("/dev/zero", path), 0);
	struct fence_order order = order_of(test, FENCE_STATUS, "good");
	order.device.limit_ms = 2000;
	fencer_check(test->fencer, 99, &order.device);
	expect_checked(wait_for(test, test->count + 1), ERR_UNFIT, "metadata does not end");
}

/* The daemon may end at any time: its agents end with it, and nobody is called. */
static void what_runs_ends_with_the_fencer(void **state)
{
	struct test *test = *state;
	struct fence_order order = order_of(test, FENCE_OFF, "hang");
	struct waiting waiting = {.test = test};
	struct err err;
	int status;

	order.device.limit_ms = FENCE_LIMIT_MS_MAX;
	fencer_run(test->fencer, &order);
	path_in(test, "pid", waiting.path);
	loop_timer_set(test->loop, 0, until_it_exists, &waiting);
	assert_int_equal(loop_sd_run(test->loop, &status, &err), 0);
	fencer_agents_free(STEAL(test->fencer));
	expect_dead(atoi(content(test, "pid")));
	assert_int_equal(test->count, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(off_is_proven_by_the_status_behind_it),
		TEST(off_already_is_proof_at_once),
		TEST(on_is_the_same_the_other_way_round),
		TEST(status_asks_and_changes_nothing),
		TEST(any_other_exit_status_is_a_failure),
		TEST(an_agent_that_lies_proves_nothing),
		TEST(a_slow_power_supply_is_waited_for),
		TEST(a_refusal_fails_at_once_with_the_agents_words),
		TEST(off_is_believed_to_the_status_and_not_to_the_exit),
		TEST(an_agent_that_hangs_is_ended_at_its_limit),
		TEST(an_agent_deaf_to_sigterm_is_killed),
		TEST(a_status_that_hangs_at_first_leaves_time_to_act),
		TEST(an_off_that_hangs_after_its_work_is_still_proven),
		TEST(a_crash_is_a_failure_with_its_signal),
		TEST(garbage_is_not_repeated),
		TEST(a_flood_neither_blocks_nor_grows),
		TEST(what_an_agent_started_ends_with_it),
		TEST(a_cancelled_order_ends_its_agent_and_is_not_answered),
		TEST(an_order_under_way_is_not_begun_again),
		TEST(orders_are_bounded_and_questions_do_not_count),
		TEST(the_delay_comes_before_the_limit),
		TEST(an_agent_that_is_missing_or_unfit_is_named),
		TEST(a_secret_reaches_the_agent_and_nobody_else),
		TEST(a_secret_file_that_is_not_safe_is_refused),
		TEST(a_check_holds_the_options_against_the_metadata),
		TEST(a_check_tells_the_options_in_the_agents_own_words),
		TEST(a_check_explains_an_agent_that_cannot_be_used),
		TEST(what_runs_ends_with_the_fencer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
