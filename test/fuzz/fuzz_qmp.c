/* SPDX-License-Identifier: Apache-2.0
 * QEMU's side of the monitor is hostile: whatever it sends, the client answers every command once and ends or goes on. */
#include "driver/linux/loop_sd.h"
#include "driver/qemu/qmp.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static struct loop *loop;
static int answered;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void on_ready(void *ctx)
{
	(void)ctx;
}

static void on_event(void *ctx, const char *name, const json_t *data, uint64_t at_us)
{
	(void)ctx;
	(void)at_us;
	assert(name && json_is_object(data));
}

static void on_closed(void *ctx, const struct err *err)
{
	(void)ctx;
	assert(err->code);
	loop_sd_exit(loop, 0);
}

static void on_reply(void *ctx, const json_t *result, const struct err *err)
{
	(void)ctx;
	assert(!result == !!err);
	answered++;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const char start[] = "{\"QMP\":{}}\n{\"id\":4,\"return\":{}}\n";
	struct err err;
	int ends[2], status;

	if (!loop)
		loop = loop_sd_new(&err);
	if (size > 60000 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return 0;
	answered = 0;
	struct qmp *qmp = qmp_new(loop, ends[0],
		&(struct qmp_callbacks){.ready = on_ready, .event = on_event, .closed = on_closed});
	for (int i = 0; i < 3; i++)
		qmp_send(qmp, "query-status", NULL, -1, 60000, on_reply, NULL);
	/* Half of the inputs begin after a good greeting. */
	if (size && bytes[0] & 1 && write(ends[1], start, strlen(start)) < 0)
		abort();
	if (size && write(ends[1], bytes, size) < 0)
		abort();
	close(ends[1]);
	loop_sd_run(loop, &status, &err);
	assert(answered == 3);
	qmp_free(qmp);
	return 0;
}
