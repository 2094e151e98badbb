/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/repair.h"
#include "stream/sums.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum {
	STRIDE_PAGES = 2048, /* 8 MiB a turn; a multiple of 64, so that threads share no word of the bit map */
	GROUP_PAGES = 16,
	WARM_PAGES = 1024,
};

int repair_init(struct repair *repair, int fd, uint64_t pages, unsigned threads, struct err *err)
{
	struct stat stat;

	memset(repair, 0, sizeof(*repair));
	if (fstat(fd, &stat))
		return err_errno(err, errno, "the guest's memory");
	if (stat.st_size < 0 || (uint64_t)stat.st_size != pages * PAGE_BYTES)
		return err_set(err, ERR_UNFIT, "the guest's memory has %lld bytes, its main block %" PRIu64,
			(long long)stat.st_size, pages * PAGE_BYTES);
	void *memory = mmap(NULL, pages * PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return err_errno(err, errno, "mapping of the guest's memory");
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	if (!threads)
		threads = processors > 0 ? (unsigned)processors : 1;
	*repair = (struct repair){.fd = fd,
		.pages = pages,
		.memory = memory,
		.warm = calloc(pages / 64 + 1, 8),
		.present = calloc(pages / 64 + 1, 8),
		.differs = calloc(pages / 64 + 1, 8),
		.warm_blocks = UINT64_MAX,
		.threads = threads < REPAIR_THREADS_MAX ? threads : REPAIR_THREADS_MAX};
	if (!repair->warm || !repair->present || !repair->differs) {
		repair_fini(repair);
		return err_errno(err, ENOMEM, "memory for the repair pass");
	}
	return 0;
}

void repair_fini(struct repair *repair)
{
	if (repair->memory)
		munmap((void *)(uintptr_t)repair->memory, repair->pages * PAGE_BYTES);
	free(repair->warm);
	free(repair->present);
	free(repair->differs);
	memset(repair, 0, sizeof(*repair));
}

static bool bit_is_set(const uint64_t *bits, uint64_t page)
{
	return bits[page / 64] >> (page % 64) & 1;
}

static void bits_set(uint64_t *bits, uint64_t from, uint64_t to)
{
	while (from < to) {
		uint64_t run = 64 - from % 64 < to - from ? 64 - from % 64 : to - from;
		bits[from / 64] |= (run == 64 ? ~UINT64_C(0) : (UINT64_C(1) << run) - 1) << (from % 64);
		from += run;
	}
}

/* Which pages the file has. One walk from hole to hole over the whole file: a walk in each stride would go through the
 * same long run of data again for every stride, since SEEK_HOLE cannot be told where to stop. A file without holes,
 * which is what QEMU's own reading makes of it in the first pass, needs no walk at all. */
static int present_fill(struct repair *repair, struct err *err)
{
	struct stat stat;

	if (fstat(repair->fd, &stat))
		return err_errno(err, errno, "the guest's memory");
	if ((uint64_t)stat.st_blocks * 512 >= repair->pages * PAGE_BYTES) {
		bits_set(repair->present, 0, repair->pages);
		return 0;
	}
	memset(repair->present, 0, (repair->pages / 64 + 1) * 8);
	for (uint64_t from = 0, to; from < repair->pages; from = to) {
		off_t data = lseek(repair->fd, (off_t)(from * PAGE_BYTES), SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		off_t hole = data < 0 ? -1 : lseek(repair->fd, data, SEEK_HOLE);
		/* A file that cannot tell is all data. */
		from = data < 0 ? from : (uint64_t)data / PAGE_BYTES;
		to = hole < 0 ? repair->pages : ((uint64_t)hole + PAGE_BYTES - 1) / PAGE_BYTES;
		if (to > repair->pages)
			to = repair->pages;
		bits_set(repair->present, from, to);
	}
	return 0;
}

void repair_warm(struct repair *repair, const atomic_bool *stop)
{
	struct stat stat;
	struct err ignored;

	if (fstat(repair->fd, &stat) || (uint64_t)stat.st_blocks == repair->warm_blocks)
		return;
	if (present_fill(repair, &ignored))
		return;
	for (uint64_t page = 0; page < repair->pages;) {
		uint64_t run = page;
		while (run < repair->pages && run - page < WARM_PAGES && bit_is_set(repair->present, run) &&
			!bit_is_set(repair->warm, run))
			run++;
		if (*stop)
			return;
		/* Where it does not work the pages are faulted in later. */
		if (run > page)
			madvise((void *)(uintptr_t)(repair->memory + page * PAGE_BYTES), (run - page) * PAGE_BYTES,
				MADV_POPULATE_READ);
		bits_set(repair->warm, page, run);
		page = run > page ? run : page + 1;
	}
	repair->warm_blocks = (uint64_t)stat.st_blocks;
}

struct comparison {
	struct repair *repair;
	const uint8_t *sums;
	const atomic_bool *stop;
	_Atomic uint64_t next; /* stride */
	_Atomic uint64_t different;
	_Atomic uint64_t summed_pages;
};

static void note(struct comparison *comparison, uint64_t page)
{
	comparison->repair->differs[page / 64] |= UINT64_C(1) << (page % 64);
	atomic_fetch_add_explicit(&comparison->different, 1, memory_order_relaxed);
}

static void compare_data(struct comparison *comparison, uint64_t from, uint64_t to)
{
	uint64_t now[GROUP_PAGES];

	while (from < to) {
		uint64_t count = to - from < GROUP_PAGES ? to - from : GROUP_PAGES;
		page_sums(comparison->repair->memory + from * PAGE_BYTES, count, now);
		for (uint64_t i = 0; i < count; i++)
			if (now[i] != sums_get(comparison->sums, from + i))
				note(comparison, from + i);
		from += count;
	}
}

static void compare_stride(struct comparison *comparison, uint64_t from, uint64_t end)
{
	const uint64_t *present = comparison->repair->present;
	uint64_t summed = 0;

	while (from < end) {
		uint64_t to = from;
		while (to < end && bit_is_set(present, to))
			to++;
		compare_data(comparison, from, to);
		summed += to - from;
		for (from = to; from < end && !bit_is_set(present, from); from++)
			if (sums_get(comparison->sums, from))
				note(comparison, from);
	}
	atomic_fetch_add_explicit(&comparison->summed_pages, summed, memory_order_relaxed);
}

static void *compare_main(void *arg)
{
	struct comparison *comparison = arg;
	uint64_t pages = comparison->repair->pages;

	while (!*comparison->stop) {
		uint64_t from = atomic_fetch_add(&comparison->next, 1) * STRIDE_PAGES;
		if (from >= pages)
			break;
		compare_stride(comparison, from, from + STRIDE_PAGES < pages ? from + STRIDE_PAGES : pages);
	}
	return NULL;
}

int repair_compare(struct repair *repair, const uint8_t *sums, const atomic_bool *stop, uint64_t *different,
	uint64_t *summed_bytes, struct err *err)
{
	struct comparison comparison = {.repair = repair, .sums = sums, .stop = stop};
	pthread_t threads[REPAIR_THREADS_MAX];
	unsigned started = 0;

	if (present_fill(repair, err))
		return -1;
	memset(repair->differs, 0, (repair->pages / 64 + 1) * 8);
	/* This thread is one of them; fewer than asked for only take longer. */
	while (started + 1 < repair->threads && !pthread_create(&threads[started], NULL, compare_main, &comparison))
		started++;
	compare_main(&comparison);
	for (unsigned i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	if (*stop)
		return err_set(err, ERR_CANCELLED, "cancelled during the repair pass");
	*different = comparison.different;
	*summed_bytes = comparison.summed_pages * PAGE_BYTES;
	return 0;
}
