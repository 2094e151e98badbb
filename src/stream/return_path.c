/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/return_path.h"

#include <string.h>

enum {
	MESSAGE_SHUT = 1,
	MESSAGE_PONG = 2,
	MESSAGE_PAGES_OF_BLOCK = 3,
	MESSAGE_PAGES = 4,
};

static int bad(struct err *err, unsigned type, unsigned length)
{
	return err_set(err, ERR_PROTOCOL, "QEMU sent message %u with %u bytes on the return path", type, length);
}

static int pages_of_block(const struct return_sink *sink, const uint8_t *data, unsigned length, struct err *err)
{
	char name[STREAM_NAME_BYTES];

	if (length < 13 || length != 13U + data[12])
		return bad(err, MESSAGE_PAGES_OF_BLOCK, length);
	memcpy(name, data + 13, data[12]);
	name[data[12]] = 0;
	return sink->pages(sink->ctx, name, be64_at(data), be32_at(data + 8), err);
}

static int message(const struct return_sink *sink, unsigned type, const uint8_t *data, unsigned length, struct err *err)
{
	switch (type) {
	case MESSAGE_SHUT:
		return length == 4 ? sink->shut(sink->ctx, be32_at(data), err) : bad(err, type, length);
	case MESSAGE_PONG:
		return length == 4 ? sink->pong(sink->ctx, be32_at(data), err) : bad(err, type, length);
	case MESSAGE_PAGES_OF_BLOCK:
		return pages_of_block(sink, data, length, err);
	case MESSAGE_PAGES:
		return length == 12 ? sink->pages(sink->ctx, NULL, be64_at(data), be32_at(data + 8), err)
				    : bad(err, type, length);
	default:
		return bad(err, type, length);
	}
}

ssize_t return_parse(const struct return_sink *sink, const uint8_t *bytes, size_t size, struct err *err)
{
	size_t done = 0;

	while (size - done >= 4) {
		unsigned type = be16_at(bytes + done);
		unsigned length = be16_at(bytes + done + 2);
		if (length > RETURN_MESSAGE_MAX - 4)
			return bad(err, type, length);
		if (size - done < 4 + length)
			break;
		if (message(sink, type, bytes + done + 4, length, err))
			return -1;
		done += 4 + length;
	}
	return (ssize_t)done;
}
