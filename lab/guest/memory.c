/* SPDX-License-Identifier: Apache-2.0 */
#include "watch.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t fill_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t *fill;	    /* the region */
static uint64_t *fill_sums; /* one a page, taken at boot: names the page that went bad */
static size_t fill_pages;

static pthread_mutex_t load_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t *load;
static uint64_t *load_seq; /* the version that each page must be at: a stale page is as bad as a broken one */
static size_t load_pages;

static void *map_pages(size_t pages)
{
	void *at = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		perror("mmap");
		abort();
	}
	return at;
}

static inline uint64_t mix(uint64_t hash, uint64_t word)
{
	/* Every step is a bijection of the hash, so that one wrong word can never cancel out; the rotation keeps top
	 * bits from staying on top. Cheap when each instruction is emulated. */
	hash = (hash ^ word) * 0x9e3779b97f4a7c15U;
	return hash << 27 | hash >> 37;
}

static uint64_t page_sum(const uint64_t *page)
{
	uint64_t hash = PAGE_BYTES;

	for (size_t i = 0; i < PAGE_WORDS; i++)
		hash = mix(hash, page[i]);
	return hash;
}

static inline uint64_t xorshift(uint64_t x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ x << 17;
}

static uint64_t pattern_seed(uint64_t index, uint64_t seq)
{
	uint64_t seed = mix(mix(mix(1, *(uint64_t *)(void *)witness.nonce), index), seq);

	return seed ? seed : 1;
}

void pattern_write(uint64_t *page, uint64_t index, uint64_t seq)
{
	uint64_t x = pattern_seed(index, seq);

	for (size_t i = 0; i < PAGE_WORDS; i++)
		page[i] = x = xorshift(x);
}

int pattern_check(const uint64_t *page, uint64_t index, uint64_t seq)
{
	uint64_t x = pattern_seed(index, seq);
	uint64_t differs = 0;

	for (size_t i = 0; i < PAGE_WORDS; i++)
		differs |= page[i] ^ (x = xorshift(x));
	return !differs;
}

/* Documentation/admin-guide/mm/pagemap.rst: bits 0-54 are the frame's number. The region stays where it is: nothing in
 * this guest swaps or migrates pages, and a test that relied on a page that moved would merely not see its damage. */
static uint64_t physical(const void *at)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (pread(fd, &entry, 8, (off_t)((uintptr_t)at / PAGE_BYTES * 8)) != 8)
		entry = 0;
	close(fd);
	return (entry & ((1ULL << 55) - 1)) * PAGE_BYTES;
}

static void fill_all(void)
{
	uint64_t hash = 0;
	uint64_t x = random_u64() | 1;

	fill_pages = (size_t)witness.options.fill_mib * 256;
	fill = map_pages(fill_pages + 1);
	fill_sums = map_pages(fill_pages / PAGE_WORDS + 1);
	for (size_t page = 0; page < fill_pages; page++) {
		uint64_t *at = fill + page * PAGE_WORDS;

		for (size_t i = 0; i < PAGE_WORDS; i++)
			at[i] = x = xorshift(x);
		fill_sums[page] = page_sum(at);
		hash = mix(hash, fill_sums[page]);
	}
	atomic_store(&witness.fill_checksum, hash);
	atomic_store(&witness.fill_phys, fill_pages ? physical(fill + fill_pages / 2 * PAGE_WORDS) : 0);
	atomic_store(&witness.fill_ready, 1);
}

static void load_prepare(void)
{
	load_pages = (size_t)witness.options.load_mib * 256;
	load = map_pages(load_pages + 1);
	load_seq = map_pages(load_pages / PAGE_WORDS + 1);
	for (size_t page = 0; page < load_pages; page++)
		pattern_write(load + page * PAGE_WORDS, page, load_seq[page] = 1);
}

/* One page: is it what was written last? Then write the next version. */
static void load_one(void)
{
	size_t page = (size_t)(random_u64() % load_pages);
	uint64_t *at = load + page * PAGE_WORDS;

	if (!pattern_check(at, page, load_seq[page]))
		atomic_fetch_add(&witness.memory_errors, 1);
	pattern_write(at, page, ++load_seq[page]);
	atomic_fetch_add(&witness.memory_written, 1);
}

static void *run_load(void *arg)
{
	const struct timespec batch = {.tv_nsec = 10000000};
	uint64_t owed = 0; /* hundredths of a page */

	for (;; (void)arg) {
		unsigned rate = atomic_load(&witness.memory_rate);

		if (!atomic_load(&witness.memory_on) || !witness.options.load_mib) {
			nanosleep(&batch, NULL);
			continue;
		}
		pthread_mutex_lock(&load_lock);
		if (!load)
			load_prepare();
		owed = rate ? owed + rate : 6400;
		for (; owed >= 100; owed -= 100)
			load_one();
		pthread_mutex_unlock(&load_lock);
		if (rate)
			nanosleep(&batch, NULL);
	}
	return NULL;
}

static void *run_fill(void *arg)
{
	pthread_mutex_lock(&fill_lock);
	fill_all();
	pthread_mutex_unlock(&fill_lock);
	/* Only now, so that the time until the fill is ready does not depend on the load. */
	return run_load(arg);
}

void memory_start(void)
{
	spawn_thread(run_fill, NULL, LOAD);
}

void memory_verify(struct verdict *verdict)
{
	pthread_mutex_lock(&fill_lock);
	verdict->pages = fill_pages;
	for (size_t page = 0; page < fill_pages; page++) {
		uint64_t sum = page_sum(fill + page * PAGE_WORDS);

		verdict->checksum = mix(verdict->checksum, sum);
		if (sum != fill_sums[page] && !verdict->pages_bad++)
			verdict->first_bad = page;
	}
	pthread_mutex_unlock(&fill_lock);

	pthread_mutex_lock(&load_lock);
	for (size_t page = 0; load && page < load_pages; page++)
		if (!pattern_check(load + page * PAGE_WORDS, page, load_seq[page]))
			verdict->load_bad++;
	pthread_mutex_unlock(&load_lock);
}
