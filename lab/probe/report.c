/* SPDX-License-Identifier: Apache-2.0
 * From samples to the figures. All of it is after the fact, so that the measuring loop stays small. */
#include "probe.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#define WINDOW_NS (100 * NS_PER_MS)
#define BEFORE_NS (5 * NS_PER_S) /* "its normal" is the median of this long before the gap */
#define CALM_WINDOWS 3		 /* back to normal is when this many windows in a row are */

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

struct latency {
	uint32_t answered, sent;
	int64_t p50_ns, p99_ns, max_ns; /* -1: no answer */
};

/* First sample sent at or after t: samples are in order of sending. */
static uint32_t find(const struct udp_run *run, int64_t t)
{
	uint32_t low = 0, high = run->count;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (run->samples[mid].sent_ns < t)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Latency of the questions sent in [begin, end). */
static struct latency latency_of(const struct udp_run *run, int64_t begin, int64_t end)
{
	struct latency latency = {.p50_ns = -1, .p99_ns = -1, .max_ns = -1};
	uint32_t first = find(run, begin), last = find(run, end);
	int64_t *values = malloc((last - first + 1) * sizeof(*values));

	assert(values);
	for (uint32_t i = first; i < last; i++)
		if (run->samples[i].received_ns)
			values[latency.answered++] = run->samples[i].received_ns - run->samples[i].sent_ns;
	latency.sent = last - first;
	if (latency.answered) {
		qsort(values, latency.answered, sizeof(*values), by_value);
		latency.p50_ns = values[latency.answered / 2];
		latency.p99_ns = values[(uint64_t)latency.answered * 99 / 100];
		latency.max_ns = values[latency.answered - 1];
	}
	free(values);
	return latency;
}

/* How long after the gap's end the first of CALM_WINDOWS windows in a row begins whose median is within twice the
 * normal and in which every question was answered; -1 when the run ends first. */
static int64_t back_after(const struct udp_run *run, const struct gap *gap, int64_t normal_ns)
{
	int calm = 0;

	for (int64_t t = gap->end_ns; t + WINDOW_NS <= run->samples[run->count - 1].sent_ns; t += WINDOW_NS) {
		struct latency window = latency_of(run, t, t + WINDOW_NS);
		int is_calm = window.answered && window.answered == window.sent && window.p50_ns <= 2 * normal_ns;

		calm = is_calm ? calm + 1 : 0;
		if (calm == CALM_WINDOWS)
			return t - (CALM_WINDOWS - 1) * WINDOW_NS - gap->end_ns;
	}
	return -1;
}

struct machine_time machine_time(void)
{
	uint64_t v[8] = {0};
	struct machine_time time = {0};
	FILE *stat = fopen("/proc/stat", "re");

	/* user nice system idle iowait irq softirq steal: proc(5) */
	if (stat && fscanf(stat,
			    "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
			    " %" SCNu64,
			    &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7]) == 8) {
		for (size_t i = 0; i < 8; i++)
			time.total += v[i];
		time.idle = v[3] + v[4];
		time.stolen = v[7];
	}
	if (stat)
		fclose(stat);
	return time;
}

/* In percent of all processors' time since began. */
static double share(uint64_t part, uint64_t part_began, uint64_t total)
{
	return total ? 100.0 * (double)(part - part_began) / (double)total : 0.0;
}

static double ms(int64_t ns)
{
	return (double)ns / (double)NS_PER_MS;
}

static void print_ms(FILE *out, const char *name, int64_t ns, const char *after)
{
	if (ns < 0)
		fprintf(out, "\"%s\":null%s", name, after);
	else
		fprintf(out, "\"%s\":%.3f%s", name, ms(ns), after);
}

static void json_gap(const struct udp_run *run, const struct gap *gap, int64_t to_real, FILE *out)
{
	struct latency before = latency_of(run, gap->begin_ns - BEFORE_NS, gap->begin_ns);

	fprintf(out, "{\"begin_ns\":%" PRId64 ",\"end_ns\":%" PRId64 ",\"lost\":%u,\"rebooted\":%s,",
		gap->begin_ns + to_real, gap->end_ns + to_real, gap->lost, gap->rebooted ? "true" : "false");
	print_ms(out, "ms", gap->end_ns - gap->begin_ns, ",");
	print_ms(out, "send_gap_ms", gap->send_gap_ns, ",");
	print_ms(out, "p50_before_ms", before.p50_ns, ",");
	print_ms(out, "normal_again_ms", before.answered ? back_after(run, gap, before.p50_ns) : -1, "}");
}

static void json_windows(const struct udp_run *run, int64_t to_real, FILE *out)
{
	const char *separator = "";

	fputs(",\"windows\":[", out);
	for (int64_t t = run->samples[0].sent_ns; t < run->samples[run->count - 1].sent_ns; t += WINDOW_NS) {
		struct latency window = latency_of(run, t, t + WINDOW_NS);

		fprintf(out, "%s{\"begin_ns\":%" PRId64 ",\"sent\":%u,\"answered\":%u,", separator, t + to_real,
			window.sent, window.answered);
		print_ms(out, "p50_ms", window.p50_ns, ",");
		print_ms(out, "p99_ms", window.p99_ns, ",");
		print_ms(out, "max_ms", window.max_ns, "}");
		separator = ",";
	}
	fputc(']', out);
}

void report_udp(const struct udp_run *run, const struct probe_options *options, FILE *out)
{
	const struct latency all = latency_of(run, INT64_MIN, INT64_MAX);
	const int64_t to_real = real_ns() - mono_ns();
	const struct machine_time now = machine_time();
	const uint64_t total = now.total - run->began.total;
	const double idle = share(now.idle, run->began.idle, total);
	const double stolen = share(now.stolen, run->began.stolen, total);

	if (!options->json && !run->answered) {
		fprintf(out, "sent %u, no answer\n", run->count);
		return;
	}
	if (!options->json) {
		fprintf(out, "sent %u, answered %u, lost %u; latency p50 %.3f ms, p99 %.3f ms, max %.3f ms\n",
			run->count, run->answered, run->count - run->answered, ms(all.p50_ns), ms(all.p99_ns),
			ms(all.max_ns));
		fprintf(out,
			"longest silence %.1f ms (%u silences of %u ms or more; the probe was at most %.1f ms late)\n",
			ms(run->longest_ns), run->gap_count, options->gap_ms, ms(run->max_late_ns));
		fprintf(out, "nonce %s, changed %u times; counter went back %u times; doubled answers %u\n",
			run->last_nonce, run->nonce_changes, run->counter_back, run->duplicates);
		return;
	}
	fprintf(out, "{\"sent\":%u,\"answered\":%u,\"send_errors\":%u,\"duplicates\":%u,\"every_ms\":%u,", run->count,
		run->answered, run->send_errors, run->duplicates, options->every_ms);
	fprintf(out, "\"first_nonce\":\"%s\",\"last_nonce\":\"%s\",\"nonce_changes\":%u,\"counter_back\":%u,",
		run->first_nonce, run->last_nonce, run->nonce_changes, run->counter_back);
	fprintf(out, "\"last_counter\":%" PRIu64 ",", run->last_counter);
	print_ms(out, "blackout_ms", run->answered ? run->longest_ns : -1, ",");
	print_ms(out, "max_late_ms", run->max_late_ns, ",");
	fprintf(out, "\"machine_idle_percent\":%.1f,\"machine_steal_percent\":%.1f,", idle, stolen);
	print_ms(out, "p50_ms", all.p50_ns, ",");
	print_ms(out, "p99_ms", all.p99_ns, ",");
	print_ms(out, "max_ms", all.max_ns, ",\"gaps\":[");
	for (uint32_t i = 0; i < run->gap_count; i++) {
		fputs(i ? "," : "", out);
		json_gap(run, &run->gaps[i], to_real, out);
	}
	fputc(']', out);
	if (options->windows && run->count)
		json_windows(run, to_real, out);
	fputs("}\n", out);
}
