/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/lines.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { READ_BYTES = 64 << 10, READS_AT_ONCE = 16 };

struct out {
	struct out *next;
	size_t size, sent;
	int fd;
	char bytes[];
};

struct lines {
	struct loop *loop;
	struct loop_io *io;
	struct loop_timer *close_timer;
	int fd;
	size_t line_max;
	struct lines_callbacks callbacks;
	char *in;
	size_t in_size, in_capacity;
	size_t looked; /* bytes of `in` that are known to hold no end of line */
	struct out *out_first, **out_last;
	size_t out_bytes;
	bool in_callback;
	bool freed;	 /* within a callback: released when it returns */
	bool over;	 /* closed was called, or is about to be */
	struct err over_err;
};

static void on_io(void *ctx, uint32_t events);

struct lines *lines_new(struct loop *loop, int fd, size_t line_max, const struct lines_callbacks *callbacks)
{
	struct lines *lines = calloc(1, sizeof(*lines));

	assert(lines);
	lines->loop = loop;
	lines->fd = fd;
	lines->line_max = line_max;
	lines->callbacks = *callbacks;
	lines->out_last = &lines->out_first;
	lines->io = loop_io_watch(loop, fd, EPOLLIN, on_io, lines);
	return lines;
}

static void out_free(struct out *out)
{
	if (out->fd >= 0)
		close(out->fd);
	free(out);
}

static void release(struct lines *lines)
{
	for (struct out *out = lines->out_first, *next; out; out = next) {
		next = out->next;
		out_free(out);
	}
	loop_timer_cancel(lines->loop, lines->close_timer);
	loop_io_cancel(lines->loop, lines->io);
	close(lines->fd);
	free(lines->in);
	free(lines);
}

void lines_free(struct lines *lines)
{
	if (!lines)
		return;
	if (lines->in_callback)
		lines->freed = true;
	else
		release(lines);
}

/* Calls `closed`, once. Returns false when the object is gone after it. */
static bool tell_closed(struct lines *lines)
{
	lines->in_callback = true;
	lines->callbacks.closed(lines->callbacks.ctx, &lines->over_err);
	lines->in_callback = false;
	if (!lines->freed)
		return true;
	release(lines);
	return false;
}

static void on_close_timer(void *ctx)
{
	struct lines *lines = ctx;

	lines->close_timer = NULL;
	tell_closed(lines);
}

/* From within a call of the owner's: `closed` comes from the loop. */
static void end_later(struct lines *lines)
{
	if (lines->over)
		return;
	lines->over = true;
	loop_io_cancel(lines->loop, lines->io);
	lines->io = NULL;
	lines->close_timer = loop_timer_set(lines->loop, 0, on_close_timer, lines);
}

static ssize_t send_part(int fd, struct out *out)
{
	struct iovec iov = {.iov_base = out->bytes + out->sent, .iov_len = out->size - out->sent};
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (out->fd >= 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &out->fd, sizeof(int));
	}
	return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void flush(struct lines *lines)
{
	while (lines->out_first) {
		struct out *out = lines->out_first;
		ssize_t n = send_part(lines->fd, out);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) {
			err_errno(&lines->over_err, errno, "sending");
			end_later(lines);
			return;
		}
		if (n < 0)
			break;
		if (out->fd >= 0)
			close(STEAL_FD(out->fd));
		out->sent += (size_t)n;
		if (out->sent < out->size)
			continue;
		lines->out_first = out->next;
		if (!lines->out_first)
			lines->out_last = &lines->out_first;
		lines->out_bytes -= out->size;
		out_free(out);
	}
	loop_io_change(lines->loop, lines->io, EPOLLIN | (lines->out_first ? (uint32_t)EPOLLOUT : 0));
}

void lines_send(struct lines *lines, const char *text, size_t size, int pass_fd)
{
	struct out *out = malloc(sizeof(*out) + size + 1);

	assert(out);
	*out = (struct out){.size = size + 1, .fd = pass_fd};
	memcpy(out->bytes, text, size);
	out->bytes[size] = '\n';
	if (lines->over || lines->out_bytes + out->size > LINES_OUT_MAX) {
		out_free(out);
		err_set(&lines->over_err, ERR_UNAVAILABLE, "it does not read what it is sent");
		end_later(lines);
		return;
	}
	*lines->out_last = out;
	lines->out_last = &out->next;
	lines->out_bytes += out->size;
	if (lines->out_first == out)
		flush(lines);
}

/* Hands on every whole line. Returns false when the object is gone. */
static bool deliver(struct lines *lines)
{
	size_t start = 0;
	char *end;

	while (!lines->over && (end = memchr(lines->in + lines->looked, '\n', lines->in_size - lines->looked))) {
		size_t size = (size_t)(end - lines->in) - start;
		char *text = lines->in + start;
		start = lines->looked = (size_t)(end - lines->in) + 1;
		if (size && text[size - 1] == '\r')
			size--;
		text[size] = 0;
		lines->in_callback = true;
		lines->callbacks.line(lines->callbacks.ctx, text, size);
		lines->in_callback = false;
		if (lines->freed) {
			release(lines);
			return false;
		}
	}
	memmove(lines->in, lines->in + start, lines->in_size - start);
	lines->in_size -= start;
	lines->looked = lines->in_size;
	return true;
}

static bool make_room(struct lines *lines)
{
	if (lines->in_size > lines->line_max)
		return false;
	if (lines->in_capacity - lines->in_size < READ_BYTES) {
		lines->in_capacity = 2 * lines->in_capacity + READ_BYTES;
		lines->in = realloc(lines->in, lines->in_capacity);
		assert(lines->in);
	}
	return true;
}

static void end_now(struct lines *lines)
{
	lines->over = true;
	loop_io_cancel(lines->loop, lines->io);
	lines->io = NULL;
	tell_closed(lines);
}

static void on_io(void *ctx, uint32_t events)
{
	struct lines *lines = ctx;

	if (events & EPOLLOUT) {
		flush(lines);
		if (lines->over)
			return;
	}
	/* Bounded, so that one chatty peer does not starve the others. */
	for (int i = 0; i < READS_AT_ONCE && !lines->over; i++) {
		if (!make_room(lines)) {
			err_set(&lines->over_err, ERR_PROTOCOL, "a line of more than %zu bytes", lines->line_max);
			end_now(lines);
			return;
		}
		ssize_t n = recv(lines->fd, lines->in + lines->in_size, READ_BYTES, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			if (n < 0)
				err_errno(&lines->over_err, errno, "receiving");
			else
				err_set(&lines->over_err, ERR_UNAVAILABLE, "the connection was closed");
			end_now(lines);
			return;
		}
		lines->in_size += (size_t)n;
		if (!deliver(lines))
			return;
	}
}
