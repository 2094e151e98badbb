/* SPDX-License-Identifier: Apache-2.0
 * What an agent is told: its options as key=value lines, with the secrets read in from their files.
 *
 * A secret file lies in the one directory that the node's configuration names, belongs to root (or to whom the daemon
 * runs as) and can be read by nobody else; the value is its first line. So who may define a device cannot have the
 * daemon send any other file to an address of his choice. Promises: each line is one option. Must never: outlive the
 * order; appear anywhere but on an agent's stdin. */
#pragma once

#include "base/err.h"
#include "model/fence.h"

enum {
	FENCE_SECRET_BYTES = 256, /* with NUL */
	FENCE_INPUT_BYTES = FENCE_OPTIONS_MAX * (32 + 2 + FENCE_SECRET_BYTES) + 2 * NAME_BYTES,
};

struct fence_input {
	char lines[FENCE_INPUT_BYTES];
	size_t size;
	uint32_t secret_count;
	char secrets[FENCE_OPTIONS_MAX][FENCE_SECRET_BYTES]; /* to keep them out of what is reported */
};

/* The device is checked (fence_device_check). ERR_DENIED, ERR_NOT_FOUND and so on name the file, never its content. */
int fence_input_fill(struct fence_input *input, const struct fence_device *device, const char *node_name,
	const char *secrets_dir, struct err *err);

/* Overwrites what it held. */
void fence_input_clear(struct fence_input *input);

/* A descriptor, open for reading, of "action=ACTION" and the lines; or -1. */
int fence_input_open(const struct fence_input *input, const char *action, struct err *err);

/* Copies bytes that came from an agent: each secret in them becomes ***, what is not printable ASCII becomes '?', and
 * what does not fit is left out. */
void fence_input_redact(const struct fence_input *input, const char *bytes, size_t size, char *to, size_t capacity);
