/* SPDX-License-Identifier: Apache-2.0
 * The API as its clients meet it: three real engines in one process (support/world.h), the API of n1 on a real socket
 * in a directory of its own, and peers that say lines and hear lines.
 *
 * Promises: a peer waits for an answer by running the loop, and a test that gets none fails. Must never: mend what
 * a test gives it to say, since half of them are about what no honest client says. */
#pragma once

#include "api/api.h"
#include "base/json.h"
#include "support/poll_loop.h"
#include "support/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct api_fixture {
	struct loop *loop;
	struct world *world;
	struct api *api;
	char dir[64];
	char path[96]; /* the socket */
	char disk[96]; /* a raw image of 1 MiB */
};

struct peer {
	struct api_fixture *f;
	int fd;
	char *in;
	size_t size, capacity;
	bool eof;
};

/* For cmocka: *state is the fixture, with all nodes online. */
int api_fixture_setup(void **state);
int api_fixture_teardown(void **state);

struct peer *peer_new(struct api_fixture *f); /* connected */
void peer_free(struct peer *peer);
/* Bytes as they are; a peer that is hung up on says the rest to nobody. */
void peer_put(struct peer *peer, const char *bytes, size_t size);
void peer_say(struct peer *peer, const char *line);
/* The next line as JSON, the caller's; NULL at the end of the connection. */
json_t *peer_hear(struct peer *peer);
/* Says a line; the answer with this id, the caller's. What comes in between is skipped. */
json_t *peer_answer(struct peer *peer, const char *line, json_int_t id);
/* Says a line, wants an error of this code whose message holds this text. */
void peer_refused(struct peer *peer, const char *line, const char *code, const char *holds);
/* json[a][b], or "" where that is no text. */
const char *peer_text(const json_t *json, const char *a, const char *b);
/* A VM 'web' of 512 MiB with that disk and a NIC at br0. */
void peer_create_web(struct peer *peer);
