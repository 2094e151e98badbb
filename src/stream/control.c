/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/control.h"
#include "stream/file.h"
#include "stream/protocol.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

enum {
	MILESTONES_MAX = 8,
	OUT_BYTES_MAX = 4 * STREAM_LINE_MAX, /* a client with more unread is dropped */
};

struct control {
	const struct control_ops *ops;
	int listen_fd;
	int wake_fd;
	int signal_fd;

	int client; /* -1: none */
	char *in;
	size_t in_size;
	char *out;
	size_t out_size;
	uint64_t idle_ms, ended_ms, progress_ms;
	bool started;
	bool quit;
	char *last_progress;

	pthread_mutex_t lock; /* of what follows: posted by other threads */
	json_t *milestones[MILESTONES_MAX];
	size_t milestone_count;
	size_t told; /* to the present client */
	enum control_end end;
};

static uint64_t now_ms(void)
{
	return clock_mono_ns() / 1000000;
}

struct control *control_new(int listen_fd, const struct control_ops *ops, struct err *err)
{
	struct control *control = calloc(1, sizeof(*control));
	sigset_t set;

	if (!control) {
		err_errno(err, ENOMEM, "control channel");
		return NULL;
	}
	control->ops = ops;
	control->listen_fd = listen_fd;
	control->client = -1;
	control->idle_ms = now_ms();
	pthread_mutex_init(&control->lock, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	/* Before any other thread exists, so that all inherit it. */
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	control->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	control->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	control->in = malloc(STREAM_LINE_MAX);
	control->out = malloc(OUT_BYTES_MAX);
	if (control->wake_fd < 0 || control->signal_fd < 0 || !control->in || !control->out) {
		err_errno(err, errno, "control channel");
		control_free(control);
		return NULL;
	}
	return control;
}

void control_free(struct control *control)
{
	if (!control)
		return;
	for (size_t i = 0; i < control->milestone_count; i++)
		json_decref(control->milestones[i]);
	cleanup_fd_(&control->client);
	cleanup_fd_(&control->wake_fd);
	cleanup_fd_(&control->signal_fd);
	pthread_mutex_destroy(&control->lock);
	free(control->last_progress);
	free(control->in);
	free(control->out);
	free(control);
}

void control_post(struct control *control, const char *event, json_t *members, enum control_end end)
{
	json_t *milestone = members ? members : json_object();
	uint64_t one = 1;

	json_object_set_new(milestone, "event", json_string(event));
	json_object_set_new(milestone, "at_ns", json_integer((json_int_t)clock_real_ns()));
	pthread_mutex_lock(&control->lock);
	for (size_t i = 0; i < control->milestone_count; i++) {
		if (strcmp(json_string_value(json_object_get(control->milestones[i], "event")), event))
			continue;
		json_decref(control->milestones[i]);
		memmove(&control->milestones[i], &control->milestones[i + 1],
			(control->milestone_count - i - 1) * sizeof(control->milestones[0]));
		control->milestone_count--;
		if (control->told > i)
			control->told--;
		break;
	}
	assert(control->milestone_count < MILESTONES_MAX);
	control->milestones[control->milestone_count++] = milestone;
	if (end != CONTROL_GOES_ON)
		control->end = end;
	pthread_mutex_unlock(&control->lock);
	/* Cannot fail but by overflow, and then the reader is awake anyway. */
	ssize_t woken = write(control->wake_fd, &one, sizeof(one));
	(void)woken;
}

void control_post_failure(struct control *control, const struct err *why, json_t *members)
{
	json_t *failure = members ? members : json_object();

	json_object_set_new(failure, "code", json_string(err_info(why->code)->name));
	json_object_set_new(failure, "text", json_string(why->text));
	control_post(control, "failed", failure, CONTROL_FAILED);
}

static void client_drop(struct control *control)
{
	if (control->client >= 0)
		close(control->client);
	control->client = -1;
	control->idle_ms = now_ms();
	control->in_size = 0;
	control->out_size = 0;
}

static void client_flush(struct control *control)
{
	while (control->client >= 0 && control->out_size) {
		ssize_t sent = send(control->client, control->out, control->out_size, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && errno == EAGAIN)
			return;
		if (sent <= 0) {
			client_drop(control);
			return;
		}
		control->out_size -= (size_t)sent;
		memmove(control->out, control->out + sent, control->out_size);
	}
}

/* Takes over line. */
static void client_tell(struct control *control, json_t *line)
{
	CLEANUP_FREE char *text = json_dumps(line, JSON_COMPACT);

	json_decref(line);
	if (!text || control->client < 0)
		return;
	size_t size = strlen(text);
	text[size++] = '\n'; /* where the NUL was */
	if (size > OUT_BYTES_MAX - control->out_size) {
		client_drop(control);
		return;
	}
	memcpy(control->out + control->out_size, text, size);
	control->out_size += size;
	client_flush(control);
}

static enum control_end end_of(struct control *control)
{
	pthread_mutex_lock(&control->lock);
	enum control_end end = control->end;
	pthread_mutex_unlock(&control->lock);
	return end;
}

static const char *state_name(struct control *control)
{
	switch (end_of(control)) {
	case CONTROL_DONE:
		return "done";
	case CONTROL_FAILED:
		return "failed";
	case CONTROL_GOES_ON:
		break;
	}
	return control->started ? "working" : "waiting";
}

static void tell_hello(struct control *control)
{
	json_t *hello = json_object();

	json_object_set_new(hello, "event", json_string("hello"));
	json_object_set_new(hello, "protocol", json_integer(STREAM_PROTOCOL));
	json_object_set_new(hello, "verb", json_string(control->ops->verb));
	json_object_set_new(hello, "pid", json_integer(getpid()));
	json_object_set_new(hello, "state", json_string(state_name(control)));
	client_tell(control, hello);
}

/* What the client has not heard yet. replay: it happened before the client came. */
static void tell_milestones(struct control *control, bool replay)
{
	pthread_mutex_lock(&control->lock);
	while (control->client >= 0 && control->told < control->milestone_count) {
		json_t *milestone = json_copy(control->milestones[control->told++]);
		if (replay)
			json_object_set_new(milestone, "replay", json_true());
		client_tell(control, milestone);
	}
	pthread_mutex_unlock(&control->lock);
}

/* only_changes: nothing new, nothing said. */
static void tell_progress(struct control *control, bool only_changes)
{
	json_t *progress = control->started ? control->ops->progress(control->ops->ctx) : NULL;

	if (!progress)
		return;
	json_object_set_new(progress, "event", json_string("progress"));
	char *text = json_dumps(progress, JSON_COMPACT);
	bool same = text && control->last_progress && !strcmp(text, control->last_progress);
	free(control->last_progress);
	control->last_progress = text;
	if (same && only_changes)
		json_decref(progress);
	else
		client_tell(control, progress);
	control->progress_ms = now_ms();
}

static void tell_refusal(struct control *control, const char *command, const struct err *why)
{
	json_t *refused = json_object();

	json_object_set_new(refused, "event", json_string("refused"));
	json_object_set_new(refused, "cmd", json_string(command));
	json_object_set_new(refused, "code", json_string(err_info(why->code)->name));
	json_object_set_new(refused, "text", json_string(why->text));
	client_tell(control, refused);
}

static int command_start(struct control *control, const json_t *line, struct err *err)
{
	if (control->started)
		return err_set(err, ERR_BUSY, "started already");
	/* Whatever start posts, the order of lines stays: milestones are told by the loop, later. */
	if (control->ops->start(control->ops->ctx, line, err))
		return -1;
	control->started = true;
	return 0;
}

static int command_cancel(struct control *control, struct err *err)
{
	if (!control->started) {
		struct err why;
		control->started = true;
		err_set(&why, ERR_CANCELLED, "cancelled before it was started");
		control_post_failure(control, &why, NULL);
		return 0;
	}
	if (end_of(control) == CONTROL_GOES_ON)
		return control->ops->cancel(control->ops->ctx, err);
	/* Too late: the last milestone says how it ended. */
	pthread_mutex_lock(&control->lock);
	control->told = control->milestone_count - 1;
	pthread_mutex_unlock(&control->lock);
	tell_milestones(control, true);
	return 0;
}

static int command_status(struct control *control)
{
	if (control->started)
		tell_progress(control, false);
	else
		tell_hello(control);
	return 0;
}

static int command_quit(struct control *control, struct err *err)
{
	if (control->started && end_of(control) == CONTROL_GOES_ON)
		return err_set(err, ERR_BUSY, "the work is not over");
	control->quit = true;
	return 0;
}

static int command_do(struct control *control, const char *name, const json_t *line, struct err *err)
{
	const struct control_ops *ops = control->ops;

	if (!strcmp(name, "start"))
		return command_start(control, line, err);
	if (!strcmp(name, "cancel"))
		return command_cancel(control, err);
	if (!strcmp(name, "status"))
		return command_status(control);
	if (!strcmp(name, "quit"))
		return command_quit(control, err);
	if (!strcmp(name, "ready") && ops->ready && !control->started)
		return ops->ready(ops->ctx, line, err);
	if (!strcmp(name, "give-up") && ops->give_up)
		return ops->give_up(ops->ctx, err);
	if (!strcmp(name, "trim") && ops->trim)
		return ops->trim(ops->ctx, err);
	return err_set(err, ERR_INVALID, "no such command");
}

static void line_take(struct control *control, const char *text, size_t size)
{
	struct err err = {0};
	const char *name = "";

	CLEANUP_JSON json_t *line = json_parse_bounded(text, size, STREAM_LINE_MAX, &err);
	if (!line || json_get_text(line, "cmd", "", &name, &err) || command_do(control, name, line, &err))
		tell_refusal(control, name, &err);
}

static void client_read(struct control *control)
{
	ssize_t got =
		recv(control->client, control->in + control->in_size, STREAM_LINE_MAX - control->in_size, MSG_DONTWAIT);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		client_drop(control);
		return;
	}
	control->in_size += (size_t)got;
	while (control->client >= 0) {
		char *end = memchr(control->in, '\n', control->in_size);
		if (!end)
			break;
		size_t line = (size_t)(end - control->in);
		line_take(control, control->in, line);
		if (control->client < 0)
			return;
		control->in_size -= line + 1;
		memmove(control->in, end + 1, control->in_size);
	}
	if (control->in_size == STREAM_LINE_MAX)
		client_drop(control);
}

static void client_accept(struct control *control)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);
	int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) || (peer.uid != 0 && peer.uid != getuid())) {
		close(fd);
		return;
	}
	client_drop(control);
	control->client = fd;
	control->told = 0;
	tell_hello(control);
	tell_milestones(control, true);
	tell_progress(control, false);
}

/* Milliseconds until something is due; progress is only worth it while somebody listens. */
static int wait_of(struct control *control)
{
	bool ended = end_of(control) != CONTROL_GOES_ON;
	uint64_t now = now_ms();
	uint64_t due = now + STREAM_LINGER_MS;

	if (ended)
		due = control->ended_ms + STREAM_LINGER_MS;
	else if (!control->started && control->client < 0)
		due = control->idle_ms + STREAM_START_WAIT_MS;
	if (!ended && control->started && control->client >= 0)
		due = control->progress_ms + STREAM_PROGRESS_MS;
	return due > now ? (int)(due - now) : 0;
}

static void times_up(struct control *control)
{
	bool ended = end_of(control) != CONTROL_GOES_ON;
	uint64_t now = now_ms();

	if (ended && !control->ended_ms)
		control->ended_ms = now;
	if (ended && now >= control->ended_ms + STREAM_LINGER_MS)
		control->quit = true;
	if (!control->started && control->client < 0 && now >= control->idle_ms + STREAM_START_WAIT_MS)
		control->quit = true;
	if (!ended && control->started && control->client >= 0 && now >= control->progress_ms + STREAM_PROGRESS_MS)
		tell_progress(control, true);
}

int control_run(struct control *control)
{
	while (!control->quit) {
		struct pollfd fds[] = {
			{.fd = control->wake_fd, .events = POLLIN},
			{.fd = control->signal_fd, .events = POLLIN},
			{.fd = control->listen_fd, .events = POLLIN},
			{.fd = control->client, .events = (short)(POLLIN | (control->out_size ? POLLOUT : 0))},
		};
		uint64_t count;
		struct signalfd_siginfo signal_info;

		times_up(control);
		if (control->quit)
			break;
		if (poll(fds, ARRAY_SIZE(fds), wait_of(control)) < 0)
			continue;
		if (fds[0].revents && read(control->wake_fd, &count, sizeof(count)) > 0)
			tell_milestones(control, false);
		if (fds[1].revents && read(control->signal_fd, &signal_info, sizeof(signal_info)) > 0) {
			/* A refusal stands: a guest that waits for pages is worth more than a quick exit. */
			struct err ignored;
			command_cancel(control, &ignored);
			control->quit = end_of(control) != CONTROL_GOES_ON;
		}
		if (fds[3].revents & POLLOUT)
			client_flush(control);
		if (control->client >= 0 && fds[3].revents & (POLLIN | POLLHUP | POLLERR))
			client_read(control);
		if (fds[2].revents)
			client_accept(control);
	}
	client_flush(control);
	return end_of(control) == CONTROL_DONE ? 0 : 1;
}
