/* SPDX-License-Identifier: Apache-2.0 */
#include "gate.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SLOW_MAX_MS = 60000, SETTLE_MS = 10000, LOOK_MS = 50 };

enum mode { MODE_OK, MODE_READONLY, MODE_ERROR, MODE_HANG, MODE_STUCK, MODE_FULL, MODE_SLOW, MODE_COUNT };
static const char *const mode_names[] = {"ok", "readonly", "error", "hang", "stuck", "full", "slow"};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* the mode, or under_way to 0 */
	enum mode mode;
	unsigned slow_ms, under_way;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static int refusal(enum need need)
{
	if (gate.mode == MODE_ERROR)
		return EIO;
	if (gate.mode == MODE_READONLY && need != LOOK)
		return EROFS;
	return gate.mode == MODE_FULL && need == GROW ? ENOSPC : 0;
}

/* With the lock held, which it gives back meanwhile. False: the one who waits is being ended. */
static bool wait_while_it_hangs(bool (*is_ended)(void *ctx), void *ctx)
{
	struct timespec until;

	while (gate.mode == MODE_HANG || gate.mode == MODE_STUCK) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += LOOK_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		pthread_cond_timedwait(&gate.changed, &gate.lock, &until);
		if (gate.mode == MODE_HANG && is_ended(ctx))
			return false;
	}
	return true;
}

int gate_enter(enum need need, bool (*is_ended)(void *ctx), void *ctx)
{
	pthread_mutex_lock(&gate.lock);
	bool go_on = wait_while_it_hangs(is_ended, ctx);
	if (go_on && gate.mode == MODE_SLOW) {
		struct timespec pause = {.tv_sec = gate.slow_ms / 1000, .tv_nsec = gate.slow_ms % 1000 * 1000000L};
		pthread_mutex_unlock(&gate.lock);
		nanosleep(&pause, NULL);
		pthread_mutex_lock(&gate.lock);
		go_on = wait_while_it_hangs(is_ended, ctx);
	}
	int error = go_on ? refusal(need) : EINTR;
	gate.under_way += !error;
	pthread_mutex_unlock(&gate.lock);
	return error;
}

void gate_leave(void)
{
	pthread_mutex_lock(&gate.lock);
	if (!--gate.under_way)
		pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.lock);
}

static bool gate_set(const char *word)
{
	struct timespec until;
	unsigned slow_ms = 0;
	char end;
	int mode;

	for (mode = 0; mode < MODE_SLOW && strcmp(word, mode_names[mode]) != 0; mode++)
		;
	if (mode == MODE_SLOW && (sscanf(word, "slow:%u%c", &slow_ms, &end) != 1 || slow_ms > SLOW_MAX_MS))
		return false;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += SETTLE_MS / 1000;
	pthread_mutex_lock(&gate.lock);
	gate.mode = (enum mode)mode;
	gate.slow_ms = slow_ms;
	pthread_cond_broadcast(&gate.changed);
	while (gate.mode != MODE_OK && gate.mode != MODE_SLOW && gate.under_way)
		if (pthread_cond_timedwait(&gate.changed, &gate.lock, &until))
			break;
	bool settled = !gate.under_way || mode == MODE_OK || mode == MODE_SLOW;
	pthread_mutex_unlock(&gate.lock);
	return settled;
}

void *gate_take_orders(void *ctx)
{
	int listener = *(int *)ctx;

	for (;;) {
		char word[32] = "", text[64] = "no\n";
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : recv(fd, word, sizeof(word) - 1, 0);
		if (n >= 0 && (!word[0] || gate_set(word))) {
			pthread_mutex_lock(&gate.lock);
			if (gate.mode == MODE_SLOW)
				snprintf(text, sizeof(text), "slow:%u\n", gate.slow_ms);
			else
				snprintf(text, sizeof(text), "%s\n", mode_names[gate.mode]);
			pthread_mutex_unlock(&gate.lock);
		}
		if (fd >= 0 && send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
			perror("storagefs: answer");
		close(fd);
	}
	return NULL;
}
