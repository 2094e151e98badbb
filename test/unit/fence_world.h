/* SPDX-License-Identifier: Apache-2.0
 * What the tests of the fence agents' driver share: a directory with one agent (fence_fake.sh, which does what its
 * option "mode" says) and its node's power, the driver, and what it answered.
 *
 * Promises: an answer that does not come within PATIENCE_MS fails the test, and each is a text as the port says. */
#pragma once

#include "driver/fence/fencer_agents.h"
#include "driver/linux/loop_sd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
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

struct world {
	char dir[64];
	struct loop *loop;
	struct fencer *fencer;
	uint32_t wanted;
	uint32_t count;
	struct fence_agent_about about; /* of the last check */
	struct answer answers[ANSWERS_MAX];
};

/* For cmocka. */
int world_setup(void **state);
int world_teardown(void **state);

/* A file in the directory. */
void world_path(const struct world *world, const char *name, char path[static 128]);
void world_write(const struct world *world, const char *name, const char *text, mode_t mode);
/* What the file holds, until the next call; empty where it does not exist. */
const char *world_content(const struct world *world, const char *name);

/* An order about n3 to the agent in this mode, with defaults. */
struct fence_order world_order(const struct world *world, enum fence_action action, const char *mode);
void option_add(struct fence_device *device, const char *name, const char *value);
/* The value is in that file of the directory. */
void world_secret(const struct world *world, struct fence_device *device, const char *name, const char *file);

/* Runs the loop until there are so many answers; the last of them. */
const struct answer *world_wait(struct world *world, uint32_t count);
/* The first answer: that to this order, which is given. */
const struct answer *world_answer(struct world *world, const struct fence_order *order);
void answer_expect(const struct answer *answer, enum fence_result result, const char *says);
