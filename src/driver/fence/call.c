/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/fence/call.h"

#include "base/process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>

enum { READ_BYTES = 64 << 10, READS_AT_ONCE = 4, READS_AT_END = 32 };

/* What is kept of one of its two pipes. */
struct capture {
	struct fence_call *call;
	int fd;
	struct loop_io *io;
	char *kept;
	size_t keep;
	size_t size;
	bool cut;
};

/*  RUNNING ──limit──▶ ENDING ──grace──▶ KILLED (told; waits only to be reaped)
 *     └────────dead─────┴──dead──▶ told and freed   */
enum call_state { CALL_RUNNING, CALL_ENDING, CALL_KILLED };

struct fence_call {
	struct fence_calls *calls;
	struct fence_call *next;
	enum call_state state;
	struct process process;
	struct loop_io *death;
	struct loop_timer *timer;
	struct capture out;
	struct capture err;
	const struct fence_input *input;
	fence_call_fn *fn; /* NULL once told or cancelled */
	void *ctx;
};

static void capture_close(struct capture *capture)
{
	loop_io_cancel(capture->call->calls->loop, STEAL(capture->io));
	if (capture->fd >= 0)
		close(STEAL_FD(capture->fd));
}

/* Takes what is there, at most `reads` portions: whoever prints without end must not keep the loop. */
static void capture_read(struct capture *capture, int reads)
{
	char bytes[READ_BYTES];

	while (capture->fd >= 0 && reads--) {
		ssize_t n = read(capture->fd, bytes, sizeof(bytes));
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			capture_close(capture);
			return;
		}
		size_t room = capture->keep - capture->size;
		size_t taken = (size_t)n < room ? (size_t)n : room;
		memcpy(capture->kept + capture->size, bytes, taken);
		capture->size += taken;
		capture->cut |= taken < (size_t)n;
	}
}

static void on_readable(void *ctx, uint32_t epoll_events)
{
	(void)epoll_events;
	capture_read(ctx, READS_AT_ONCE);
}

/* The end of the pipe for the child, or -1. */
static int capture_open(struct capture *capture, struct fence_call *call, size_t keep, struct err *err)
{
	int fds[2];

	*capture = (struct capture){.call = call, .fd = -1, .keep = keep, .kept = malloc(keep)};
	assert(capture->kept);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_errno(err, errno, "pipe");
	capture->fd = fds[0];
	if (fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0) {
		close(fds[1]);
		return err_errno(err, errno, "pipe");
	}
	return fds[1];
}

/* Agents log "2026-11-24 04:17:22,533 ERROR: Connection timed out": the time is ours to tell. */
static void skip_time(const char **line, size_t *size)
{
	static const char form[] = "0000-00-00 00:00:00,000 ";
	size_t length = sizeof(form) - 1;

	if (*size < length)
		return;
	for (size_t i = 0; i < length; i++)
		if (form[i] == '0' ? (*line)[i] < '0' || (*line)[i] > '9' : (*line)[i] != form[i])
			return;
	*line += length;
	*size -= length;
}

/* The last line that says something. Where the output was cut its last line is half: it could hold half a secret. */
static bool last_line(const struct fence_call *call, const struct capture *capture, char line[static FENCE_LINE_BYTES])
{
	size_t end = capture->size;

	while (capture->cut && end && capture->kept[end - 1] != '\n')
		end--;
	while (end) {
		const char *before = memrchr(capture->kept, '\n', end - 1);
		size_t begin = before ? (size_t)(before - capture->kept) + 1 : 0;
		const char *text = capture->kept + begin;
		size_t size = end - begin;
		while (size && strchr("\n\r\t ", text[size - 1]) && text[size - 1])
			size--;
		skip_time(&text, &size);
		if (size) {
			fence_input_redact(call->input, text, size, line, FENCE_LINE_BYTES);
			return true;
		}
		end = begin;
	}
	return false;
}

static void call_free(struct fence_call *call)
{
	struct fence_calls *calls = call->calls;

	for (struct fence_call **at = &calls->first; *at; at = &(*at)->next)
		if (*at == call) {
			*at = call->next;
			calls->count--;
			break;
		}
	loop_timer_cancel(calls->loop, call->timer);
	loop_io_cancel(calls->loop, call->death);
	capture_close(&call->out);
	capture_close(&call->err);
	free(call->out.kept);
	free(call->err.kept);
	if (call->process.pidfd >= 0)
		close(call->process.pidfd);
	free(call);
}

static void tell(struct fence_call *call, int status, const char *how)
{
	struct fence_call_end end = {.timed_out = call->state != CALL_RUNNING, .status = status};
	fence_call_fn *fn = call->fn;

	call->fn = NULL;
	capture_close(&call->out);
	capture_close(&call->err);
	if (!fn)
		return;
	snprintf(end.how, sizeof(end.how), "%s", how);
	end.out = call->out.kept;
	end.out_size = call->out.size;
	end.out_cut = call->out.cut;
	if (!last_line(call, &call->err, end.line))
		last_line(call, &call->out, end.line);
	fn(call->ctx, &end);
}

static void on_death(void *ctx, uint32_t epoll_events)
{
	struct fence_call *call = ctx;
	char how[80];
	int status;

	(void)epoll_events;
	/* Before it is reaped: until then nobody else can have its number, and with it the group's. */
	process_signal_group(&call->process, SIGKILL);
	if (!process_ended(&call->process, &status, how))
		return;
	capture_read(&call->out, READS_AT_END);
	capture_read(&call->err, READS_AT_END);
	tell(call, status, how);
	call_free(call);
}

static void on_time(void *ctx)
{
	struct fence_call *call = ctx;

	call->timer = NULL;
	if (call->state == CALL_RUNNING) {
		call->state = CALL_ENDING;
		process_signal_group(&call->process, SIGTERM);
		call->timer = loop_timer_set(call->calls->loop, FENCE_CALL_GRACE_MS, on_time, call);
		return;
	}
	call->state = CALL_KILLED;
	process_signal_group(&call->process, SIGKILL);
	tell(call, -1, "killed at its time limit");
}

static int call_start(struct fence_call *call, const char *agent, int in, int out, int err_fd, struct err *err)
{
	const char *argv[] = {agent, NULL};
	struct spawn spawn = {
		.binary = agent,
		.argv = argv,
		.lock_fd = -1,
		.bound = true,
		.search = true,
		.fd_count = 3,
		.fds = {{in, 0}, {out, 1}, {err_fd, 2}},
	};

	return process_spawn(&spawn, &call->process, err);
}

struct fence_call *fence_call_new(struct fence_calls *calls, const char *agent, const char *action,
	const struct fence_input *input, size_t out_keep, uint64_t limit_ms, fence_call_fn *fn, void *ctx,
	struct err *err)
{
	if (calls->count >= FENCE_CALLS_MAX) {
		err_set(err, ERR_BUSY, "%u fence agents run already, or were killed and do not die", calls->count);
		return NULL;
	}
	struct fence_call *call = calloc(1, sizeof(*call));
	assert(call);
	*call = (struct fence_call){.calls = calls, .input = input, .fn = fn, .ctx = ctx, .process.pidfd = -1};
	CLEANUP_FD int out = capture_open(&call->out, call, out_keep, err);
	CLEANUP_FD int err_fd = capture_open(&call->err, call, FENCE_CALL_KEEP, err);
	CLEANUP_FD int in = out < 0 || err_fd < 0 ? -1 : fence_input_open(input, action, err);
	if (in < 0 || call_start(call, agent, in, out, err_fd, err) < 0) {
		call_free(call);
		return NULL;
	}
	call->next = calls->first;
	calls->first = call;
	calls->count++;
	call->out.io = loop_io_watch(calls->loop, call->out.fd, EPOLLIN, on_readable, &call->out);
	call->err.io = loop_io_watch(calls->loop, call->err.fd, EPOLLIN, on_readable, &call->err);
	call->death = loop_io_watch(calls->loop, call->process.pidfd, EPOLLIN, on_death, call);
	call->timer = loop_timer_set(calls->loop, limit_ms, on_time, call);
	return call;
}

void fence_call_cancel(struct fence_call *call)
{
	if (!call)
		return;
	call->fn = NULL;
	call->state = CALL_KILLED;
	loop_timer_cancel(call->calls->loop, STEAL(call->timer));
	capture_close(&call->out);
	capture_close(&call->err);
	process_signal_group(&call->process, SIGKILL);
}

void fence_calls_free(struct fence_calls *calls)
{
	char how[80];

	while (calls->first) {
		struct fence_call *call = calls->first;
		process_signal_group(&call->process, SIGKILL);
		process_dead(&call->process, how); /* reaps it where that goes without waiting */
		call_free(call);
	}
}
