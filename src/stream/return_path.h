/* SPDX-License-Identifier: Apache-2.0
 * What QEMU says back while it takes a state (MIG_RP_MSG_* in QEMU's migration/migration.h): be16 type, be16 length,
 * data.
 *
 * A push parser like stream_parse: it consumes whole messages and believes none of them; whether a block or an address
 * exists is the caller's to check. Must never: allocate, or keep a pointer into what it was fed. */
#pragma once

#include "base/err.h"
#include "stream/stream_parse.h"

enum { RETURN_MESSAGE_MAX = 4 + 8 + 4 + 1 + 255 };

struct return_sink {
	void *ctx;
	/* name: as text, NULL when it is the block of the request before. */
	int (*pages)(void *ctx, const char *name, uint64_t start, uint32_t size, struct err *err);
	int (*pong)(void *ctx, uint32_t value, struct err *err);
	/* The final word; status 0: QEMU is content. */
	int (*shut)(void *ctx, uint32_t status, struct err *err);
};

/* The count of bytes consumed, or -1 with ERR_PROTOCOL or what the sink said. */
ssize_t return_parse(const struct return_sink *sink, const uint8_t *bytes, size_t size, struct err *err);
