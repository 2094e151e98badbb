/* SPDX-License-Identifier: Apache-2.0
 * One question each few ms, answers taken as they come. The guest's answer is the question, its nonce (16 bytes), its
 * counter and its uptime (be64 each). */
#include "probe.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SAMPLES_MAX 8000000U /* 11 hours at 5 ms; more is refused, not wrapped */

struct udp {
	const struct probe_options *options;
	int fd;
	struct udp_run run;
};

struct question {
	char magic[8];
	uint64_t seq_be;
	uint64_t run_be; /* tells an answer to an earlier probe's question from ours */
};

struct answer {
	struct question question;
	uint8_t nonce[16];
	uint64_t counter_be, uptime_be;
};

static void *grow(void *array, uint32_t *capacity, size_t size)
{
	*capacity = *capacity ? *capacity * 2 : 1024;
	array = realloc(array, *capacity * size);
	assert(array);
	return array;
}

static uint64_t run_id(void)
{
	return (uint64_t)getpid();
}

static int tick(void *context, int64_t late_ns)
{
	struct udp *udp = context;
	struct udp_run *run = &udp->run;
	struct question question = {"watari?", htobe64(run->count), htobe64(run_id())};

	if (run->count == SAMPLES_MAX)
		return 1;
	if (run->count == run->capacity)
		run->samples = grow(run->samples, &run->capacity, sizeof(*run->samples));
	if (late_ns > run->max_late_ns)
		run->max_late_ns = late_ns;
	run->samples[run->count++] = (struct sample){.sent_ns = mono_ns()};
	/* No route, no neighbour, a refused port: all of them are "no answer", and counted apart. */
	if (send(udp->fd, &question, sizeof(question), MSG_DONTWAIT) < 0)
		run->send_errors++;
	return 0;
}

static void note_gap(struct udp *udp, uint32_t seq, int64_t now, int rebooted)
{
	struct udp_run *run = &udp->run;
	struct gap gap = {.begin_ns = run->last_answer_ns, .end_ns = now, .rebooted = rebooted};

	if (now - run->last_answer_ns > run->longest_ns)
		run->longest_ns = now - run->last_answer_ns;
	if (now - run->last_answer_ns < udp->options->gap_ms * NS_PER_MS && !rebooted)
		return;
	if (seq > run->last_seq) {
		gap.send_gap_ns = run->samples[seq].sent_ns - run->samples[run->last_seq].sent_ns;
		gap.lost = seq - run->last_seq - 1;
	}
	if (run->gap_count == run->gap_capacity)
		run->gaps = grow(run->gaps, &run->gap_capacity, sizeof(*run->gaps));
	run->gaps[run->gap_count++] = gap;
}

static void note_nonce(struct udp_run *run, const uint8_t *nonce)
{
	memcpy(run->nonce, nonce, 16);
	for (size_t i = 0; i < 16; i++)
		snprintf(run->last_nonce + 2 * i, 3, "%02x", nonce[i]);
}

static void take(struct udp *udp, const struct answer *answer, int64_t now)
{
	struct udp_run *run = &udp->run;
	uint64_t seq = be64toh(answer->question.seq_be);
	uint64_t counter = be64toh(answer->counter_be);
	int rebooted = 0;

	if (memcmp(answer->question.magic, "watari?", 8) || be64toh(answer->question.run_be) != run_id() ||
		seq >= run->count)
		return;
	struct sample *sample = &run->samples[seq];
	if (sample->received_ns) {
		/* One question, two answers: two guests. */
		run->duplicates++;
		return;
	}
	if (!run->last_answer_ns) {
		note_nonce(run, answer->nonce);
		memcpy(run->first_nonce, run->last_nonce, sizeof(run->first_nonce));
		fprintf(stderr, "probe: first answer, nonce %s\n", run->first_nonce);
	} else if (memcmp(run->nonce, answer->nonce, 16)) {
		rebooted = 1;
		run->nonce_changes++;
		note_nonce(run, answer->nonce);
	} else if (counter < run->last_counter && seq > run->last_seq) {
		run->counter_back++;
	}
	if (run->last_answer_ns)
		note_gap(udp, (uint32_t)seq, now, rebooted);
	sample->received_ns = now;
	sample->counter = counter;
	run->answered++;
	run->last_answer_ns = now;
	run->last_seq = (uint32_t)seq;
	run->last_counter = counter;
}

static int readable(void *context)
{
	struct udp *udp = context;
	struct answer answer;
	ssize_t len;

	/* An error queued on the socket (unreachable) is read here and means nothing more than silence. */
	while ((len = recv(udp->fd, &answer, sizeof(answer), MSG_DONTWAIT)) >= 0 || (errno != EAGAIN && errno != EINTR))
		if (len == (ssize_t)sizeof(answer))
			take(udp, &answer, mono_ns());
	return 0;
}

/* Silence up to the end counts as a gap too: a guest that never came back is the longest of all. */
static void note_last_gap(struct udp *udp)
{
	struct udp_run *run = &udp->run;

	if (!run->last_answer_ns || !run->count || run->last_seq == run->count - 1)
		return;
	note_gap(udp, run->count - 1, run->samples[run->count - 1].sent_ns, 0);
}

int probe_udp(const struct probe_options *options)
{
	struct udp udp = {.options = options, .run.began = machine_time()};
	const struct loop_calls calls = {tick, readable, &udp};

	udp.fd = probe_connect(options, SOCK_DGRAM, 7);
	if (udp.fd < 0)
		return 2;
	probe_loop(options, udp.fd, &calls);
	note_last_gap(&udp);
	report_udp(&udp.run, options, stdout);
	close(udp.fd);
	free(udp.run.samples);
	free(udp.run.gaps);
	return udp.run.answered ? 0 : 1;
}
