/* SPDX-License-Identifier: Apache-2.0
 * repair: how fast the repair pass compares a stopped guest's memory with what was copied, and what bounds it.
 *
 * A memfd of random pages stands for the guest. In one run, alternating: the product's own repair_compare with 1 and 2
 * threads, and as the limit a loop that only reads the same mapping, and memcpy out of it. Prints GB/s (10^9) of memory
 * passed over, best and median of the rounds; --json prints one object. Also the cost that the warming takes out of the
 * stop: the first pass over a mapping whose page tables are empty. */
#include "stream/file.h"
#include "stream/repair.h"
#include "stream/sums.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

enum { ROUNDS_MAX = 15, THREADS = 2, STRIDE = 1 << 20 };

struct job {
	const uint8_t *memory;
	size_t from, to;
	bool copies;
	uint64_t sink;
	pthread_t thread;
};

struct rates {
	double values[ROUNDS_MAX];
	unsigned count;
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(struct rates *rates)
{
	qsort(rates->values, rates->count, sizeof(double), by_value);
	return rates->values[rates->count / 2];
}

static double best(struct rates *rates)
{
	qsort(rates->values, rates->count, sizeof(double), by_value);
	return rates->values[rates->count - 1];
}

static void note(struct rates *rates, uint64_t bytes, uint64_t ns)
{
	rates->values[rates->count++] = (double)bytes / (double)ns;
}

static void *pass(void *arg)
{
	struct job *job = arg;
	static _Thread_local uint8_t buffer[STRIDE];
	uint64_t sink[8] = {0};

	for (size_t at = job->from; at < job->to; at += STRIDE) {
		if (job->copies) {
			memcpy(buffer, job->memory + at, STRIDE);
			sink[0] += buffer[at / STRIDE % STRIDE];
			continue;
		}
		for (size_t word = 0; word < STRIDE; word += 64)
			for (size_t k = 0; k < 8; k++) {
				uint64_t value;
				memcpy(&value, job->memory + at + word + k * 8, 8);
				sink[k] ^= value;
			}
	}
	for (size_t k = 0; k < 8; k++)
		job->sink += sink[k];
	return NULL;
}

/* Nanoseconds of `threads` threads that read or copy all of it. */
static uint64_t limit(const uint8_t *memory, size_t bytes, unsigned threads, bool copies)
{
	struct job jobs[THREADS];
	uint64_t began = clock_mono_ns();

	for (unsigned i = 0; i < threads; i++) {
		jobs[i] = (struct job){.memory = memory, .copies = copies};
		jobs[i].from = bytes / threads / STRIDE * STRIDE * i;
		jobs[i].to = i + 1 == threads ? bytes : bytes / threads / STRIDE * STRIDE * (i + 1);
		if (i && pthread_create(&jobs[i].thread, NULL, pass, &jobs[i]))
			exit(71);
	}
	pass(&jobs[0]);
	for (unsigned i = 1; i < threads; i++)
		pthread_join(jobs[i].thread, NULL);
	return clock_mono_ns() - began;
}

static int guest_make(size_t bytes, struct sums *sums, struct err *err)
{
	int fd = memfd_create("bench", MFD_CLOEXEC);
	uint64_t x = 88172645463325252u;

	if (fd < 0 || ftruncate(fd, (off_t)bytes))
		return err_errno(err, errno, "memory of %zu MiB", bytes >> 20);
	uint64_t *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (words == MAP_FAILED)
		return err_errno(err, errno, "memory of %zu MiB", bytes >> 20);
	for (size_t i = 0; i < bytes / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		words[i] = x;
	}
	for (size_t page = 0; page < bytes / PAGE_BYTES; page++)
		sums_set(sums, page, page_sum((const uint8_t *)words + page * PAGE_BYTES));
	munmap(words, bytes);
	return fd;
}

struct figures {
	struct rates compare[THREADS], read[THREADS], copy[THREADS], cold;
};

static int compare(int fd, const struct sums *sums, unsigned threads, bool warm, uint64_t *ns, struct err *err)
{
	static const atomic_bool stop;
	struct repair repair;
	uint64_t different, summed;

	if (repair_init(&repair, fd, sums->pages, threads, err))
		return -1;
	if (warm)
		repair_warm(&repair, &stop);
	uint64_t began = clock_mono_ns();
	int result = repair_compare(&repair, sums->mirror.bytes, &stop, &different, &summed, err);
	*ns = clock_mono_ns() - began;
	repair_fini(&repair);
	if (!result && different)
		return err_set(err, ERR_CORRUPT, "%llu pages differ that do not", (unsigned long long)different);
	return result;
}

static int round_run(int fd, const struct sums *sums, struct figures *figures, struct err *err)
{
	size_t bytes = sums->pages * PAGE_BYTES;
	uint64_t ns;
	void *memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);

	if (memory == MAP_FAILED || madvise(memory, bytes, MADV_POPULATE_READ))
		return err_errno(err, errno, "mapping");
	for (unsigned threads = 1; threads <= THREADS; threads++) {
		if (compare(fd, sums, threads, true, &ns, err))
			return -1;
		note(&figures->compare[threads - 1], bytes, ns);
		note(&figures->read[threads - 1], bytes, limit(memory, bytes, threads, false));
		note(&figures->copy[threads - 1], bytes, limit(memory, bytes, threads, true));
	}
	munmap(memory, bytes);
	if (compare(fd, sums, THREADS, false, &ns, err))
		return -1;
	note(&figures->cold, bytes, ns);
	return 0;
}

static void print_text(struct figures *figures, size_t mib, unsigned rounds)
{
	printf("comparing %zu MiB with its sums, best and median of %u rounds, GB/s\n\n", mib, rounds);
	printf("threads    compare       only read     memcpy        compare 3 GiB\n");
	for (unsigned i = 0; i < THREADS; i++)
		printf("%u          %4.1f  %4.1f    %4.1f  %4.1f    %4.1f  %4.1f    %.0f ms\n", i + 1,
			best(&figures->compare[i]), median(&figures->compare[i]), best(&figures->read[i]),
			median(&figures->read[i]), best(&figures->copy[i]), median(&figures->copy[i]),
			3 * 1073.741824 / median(&figures->compare[i]));
	printf("%d, cold    %4.1f  %4.1f    page tables empty: what the warming during the copy spares\n", THREADS,
		best(&figures->cold), median(&figures->cold));
}

static void print_json(struct figures *figures, size_t mib, unsigned rounds)
{
	printf("{\"mib\": %zu, \"rounds\": %u", mib, rounds);
	for (unsigned i = 0; i < THREADS; i++)
		printf(", \"compare_%ut_gb_s\": %.2f, \"read_%ut_gb_s\": %.2f, \"memcpy_%ut_gb_s\": %.2f", i + 1,
			median(&figures->compare[i]), i + 1, median(&figures->read[i]), i + 1,
			median(&figures->copy[i]));
	printf(", \"compare_cold_gb_s\": %.2f, \"compare_3g_ms\": %.0f}\n", median(&figures->cold),
		3 * 1073.741824 / median(&figures->compare[THREADS - 1]));
}

int main(int argc, char **argv)
{
	bool json = false;
	size_t mib = 3072;
	unsigned rounds = 9;
	struct sums sums;
	struct err err;
	static struct figures figures;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--json")) {
			json = true;
		} else if (!strcmp(argv[i], "--quick")) {
			mib = 1024;
			rounds = 5;
		} else {
			fprintf(stderr, "usage: bench-repair [--quick] [--json]\n  --quick  1 GiB and 5 rounds instead "
					"of 3 GiB and 9\n");
			return 64;
		}
	}
	size_t bytes = mib << 20;
	int fd = -1;
	if (sums_init(&sums, -1, bytes / PAGE_BYTES, &err) || (fd = guest_make(bytes, &sums, &err)) < 0)
		goto failed;
	for (unsigned i = 0; i < rounds; i++)
		if (round_run(fd, &sums, &figures, &err))
			goto failed;
	(json ? print_json : print_text)(&figures, mib, rounds);
	return 0;
failed:
	fprintf(stderr, "bench-repair: %s\n", err.text);
	return err_info(err.code)->exit_status;
}
