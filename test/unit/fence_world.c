/* SPDX-License-Identifier: Apache-2.0 */
#include "fence_world.h"

#include <sys/stat.h>

void world_path(const struct world *world, const char *name, char path[static 128])
{
	snprintf(path, 128, "%s/%s", world->dir, name);
}

void world_write(const struct world *world, const char *name, const char *text, mode_t mode)
{
	char path[128];

	world_path(world, name, path);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
	assert_int_equal(chmod(path, mode), 0);
}

const char *world_content(const struct world *world, const char *name)
{
	static char text[16384];
	char path[128];

	world_path(world, name, path);
	CLEANUP_FILE FILE *file = fopen(path, "r");
	size_t size = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
	text[size] = 0;
	return text;
}

static void take(struct world *world, const struct answer *answer)
{
	assert_true(world->count < ANSWERS_MAX);
	assert_true(schema_text_ok(answer->text, strlen(answer->text)));
	world->answers[world->count++] = *answer;
	if (world->count == world->wanted)
		loop_sd_exit(world->loop, 0);
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

	struct world *world = ctx;

	snprintf(answer.text, sizeof(answer.text), "%s", err ? err->text : text);
	world->about = about ? *about : (struct fence_agent_about){0};
	take(ctx, &answer);
}

static void copy_agent(const struct world *world)
{
	char *text = malloc(1 << 16);
	CLEANUP_FILE FILE *file = fopen(FENCE_FAKE, "r");

	assert_non_null(file);
	text[fread(text, 1, (1 << 16) - 1, file)] = 0;
	world_write(world, "fence_fake", text, 0755);
	free(text);
}

int world_setup(void **state)
{
	struct world *world = calloc(1, sizeof(*world));
	struct fencer_agents_config config;
	struct err err;

	umask(022);
	strcpy(world->dir, "/tmp/watari-fence-XXXXXX");
	assert_non_null(mkdtemp(world->dir));
	copy_agent(world);
	world_write(world, "power", "on\n", 0644);
	snprintf(config.agents_dir, sizeof(config.agents_dir), "%s", world->dir);
	snprintf(config.secrets_dir, sizeof(config.secrets_dir), "%s", world->dir);
	const struct fencer_callbacks callbacks = {.ctx = world, .done = on_done, .checked = on_checked};
	world->loop = loop_sd_new(&err);
	assert_non_null(world->loop);
	world->fencer = fencer_agents_new(world->loop, &config, &callbacks);
	*state = world;
	return 0;
}

int world_teardown(void **state)
{
	struct world *world = *state;
	char command[128];

	fencer_agents_free(world->fencer);
	loop_sd_free(world->loop);
	snprintf(command, sizeof(command), "rm -rf %s", world->dir);
	assert_int_equal(system(command), 0);
	free(world);
	return 0;
}

void option_add(struct fence_device *device, const char *name, const char *value)
{
	struct fence_option *option = &device->options[device->option_count++];

	snprintf(option->name, sizeof(option->name), "%s", name);
	snprintf(option->value, sizeof(option->value), "%s", value);
}

void world_secret(const struct world *world, struct fence_device *device, const char *name, const char *file)
{
	char path[128];

	world_path(world, file, path);
	option_add(device, name, path);
	device->options[device->option_count - 1].secret = true;
}

struct fence_order world_order(const struct world *world, enum fence_action action, const char *mode)
{
	struct fence_order order = {.id = 7, .action = action, .node_name = "n3"};

	strcpy(order.device.name, "fake-n3");
	strcpy(order.device.agent, "fence_fake");
	order.device.node = 3;
	fence_device_default(&order.device);
	option_add(&order.device, "mode", mode);
	option_add(&order.device, "dir", world->dir);
	return order;
}

static void on_impatience(void *ctx)
{
	(void)ctx;
	fail_msg("no answer after %d ms", PATIENCE_MS);
}

const struct answer *world_wait(struct world *world, uint32_t count)
{
	struct err err;
	int status;

	world->wanted = count;
	struct loop_timer *timer = loop_timer_set(world->loop, PATIENCE_MS, on_impatience, NULL);
	if (world->count < count)
		assert_int_equal(loop_sd_run(world->loop, &status, &err), 0);
	loop_timer_cancel(world->loop, timer);
	return &world->answers[count - 1];
}

const struct answer *world_answer(struct world *world, const struct fence_order *order)
{
	fencer_run(world->fencer, order);
	assert_int_equal(world->count, 0); /* never within the call */
	return world_wait(world, 1);
}

void answer_expect(const struct answer *answer, enum fence_result result, const char *says)
{
	if (answer->result != result || !strstr(answer->text, says))
		fail_msg("got %s '%s', wanted %s '%s'", fence_result_name((int)answer->result), answer->text,
			fence_result_name((int)result), says);
}
