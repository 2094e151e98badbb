/* SPDX-License-Identifier: Apache-2.0
 * The caller's end of the API (api.h): one connection, blocking, for command-line programs.
 *
 * Promises: an answer is matched to its call by id; events that come in between go to on_event; a time limit holds; an
 * error from the daemon comes back with its own code, message and hint.
 * Must never: trust the daemon's line sizes beyond API_REPLY_MAX. */
#pragma once

#include "base/json.h"

enum { API_REPLY_MAX = 16 << 20, API_HINT_BYTES = 512 };

struct api_client {
	int fd; /* -1: not connected */
	uint64_t last_id;
	char *in;
	size_t in_size, in_capacity;
	char hint[API_HINT_BYTES]; /* of the last error, or empty */
	void (*on_event)(void *ctx, const json_t *event);
	void *ctx;
};

/* ERR_UNAVAILABLE where no daemon answers, ERR_DENIED where the socket is not for this user. */
int api_client_open(struct api_client *client, const char *socket_path, struct err *err);
void api_client_close(struct api_client *client);

/* Takes args (NULL: none). On success *result is a new reference. timeout_ms 0: no limit. ERR_UNAVAILABLE: the
 * connection broke; whether the call was done is then unknown. */
int api_client_call(struct api_client *client, const char *call, json_t *args, uint64_t timeout_ms, json_t **result,
	struct err *err);

/* Waits for events only. Returns 0 when the time is up. */
int api_client_listen(struct api_client *client, uint64_t timeout_ms, struct err *err);
