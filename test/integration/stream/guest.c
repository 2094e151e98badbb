/* SPDX-License-Identifier: Apache-2.0
 * The only program of a guest that knows whether its memory is intact: /init of an initramfs, no kernel modules needed.
 *
 * Kernel command line: fill=MiB (written once) hot=MiB (written all the time) threads=N pace=writes a second (0: as fast
 * as possible). Each page carries its number, how often it was written and a checksum; how often it should have been
 * written is kept in another page, so that one lost page is seen. Each thread looks before it writes. On the serial
 * line: a line a second "tick ...", and on "check" everything is looked at once: "check ok N pages" or "BAD ...". */
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, THREADS_MAX = 8 };

struct page {
	uint64_t index, count, sum, words[WORDS - 3];
};

static struct page *fill, *hot;
static uint32_t *expected;
static size_t fill_pages, hot_pages;
static unsigned threads = 1;
static unsigned long pace;
static atomic_ulong writes;
static atomic_bool bad, hold;
static atomic_uint held;

static uint64_t next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static uint64_t sum(const struct page *page)
{
	uint64_t s = page->index * 31 + page->count;
	for (size_t i = 0; i < WORDS - 3; i++)
		s = (s ^ page->words[i]) * UINT64_C(0x9e3779b97f4a7c15);
	return s;
}

static void make(struct page *page, uint64_t index)
{
	uint64_t x = index * 2654435761u + 88172645463325252u;
	page->index = index;
	page->count = 0;
	for (size_t i = 0; i < WORDS - 3; i++)
		page->words[i] = next(&x);
	page->sum = sum(page);
}

static void say(const char *format, ...)
{
	char line[256];
	va_list args;
	va_start(args, format);
	int size = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (write(1, line, (size_t)size) < 0)
		_exit(1);
}

static int look(const struct page *page, uint64_t index, uint64_t count)
{
	if (page->index == index && page->count == count && page->sum == sum(page))
		return 0;
	say("BAD page %" PRIu64 ": index %" PRIu64 ", count %" PRIu64 " of %" PRIu64 ", sum %s\n", index, page->index,
		page->count, count, page->sum == sum(page) ? "holds" : "broken");
	bad = 1;
	return -1;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *dirty(void *arg)
{
	size_t me = (size_t)arg, from = hot_pages * me / threads, count = hot_pages * (me + 1) / threads - from;
	uint64_t x = me + 12345;
	unsigned long done = 0;
	double began = now();
	for (;;) {
		if (hold) {
			held++;
			while (hold)
				usleep(1000);
			held--;
		}
		size_t i = from + next(&x) % count;
		struct page *page = &hot[i];
		look(page, i, expected[i]);
		page->words[next(&x) % (WORDS - 3)] = x;
		page->count++;
		page->sum = sum(page);
		expected[i]++;
		writes++;
		if (pace && ++done % 16 == 0 && (double)done * threads / (double)pace > now() - began)
			usleep(1000);
	}
	return NULL;
}

static void check(void)
{
	size_t ok = 0;
	hold = 1;
	while (hot_pages && held < threads)
		usleep(1000);
	for (size_t i = 0; i < fill_pages; i++)
		ok += !look(&fill[i], i, 0);
	for (size_t i = 0; i < hot_pages; i++)
		ok += !look(&hot[i], i, expected[i]);
	say("check %s %zu pages\n", bad ? "BAD" : "ok", ok);
	hold = 0;
}

static size_t parameter(const char *line, const char *name)
{
	const char *at = strstr(line, name);
	return at ? strtoul(at + strlen(name), NULL, 10) : 0;
}

static void *memory(size_t bytes)
{
	return bytes ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) : NULL;
}

static void *ticks(void *arg)
{
	(void)arg;
	for (unsigned long n = 0, last = 0;; n++) {
		unsigned long seen = writes;
		say("tick %lu writes %lu %s\n", n, seen - last, bad ? "BAD" : "ok");
		last = seen;
		usleep(200000);
	}
	return NULL;
}

int main(void)
{
	char line[1024] = "";
	pthread_t thread;
	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	int fd = open("/proc/cmdline", O_RDONLY);
	if (fd < 0 || read(fd, line, sizeof(line) - 1) <= 0)
		return 1;
	fill_pages = parameter(line, "fill=") << 8;
	hot_pages = parameter(line, "hot=") << 8;
	threads = (unsigned)parameter(line, "threads=");
	threads = threads && threads <= THREADS_MAX ? threads : 1;
	pace = parameter(line, "pace=");
	fill = memory(fill_pages * PAGE);
	hot = memory(hot_pages * PAGE);
	expected = memory(hot_pages * sizeof(*expected) + 1);
	for (size_t i = 0; i < fill_pages; i++)
		make(&fill[i], i);
	for (size_t i = 0; i < hot_pages; i++)
		make(&hot[i], i);
	say("ready %zu pages\n", fill_pages + hot_pages);
	for (size_t i = 0; hot_pages && i < threads; i++)
		pthread_create(&thread, NULL, dirty, (void *)i);
	pthread_create(&thread, NULL, ticks, NULL);
	while (fgets(line, sizeof(line), stdin))
		if (!strncmp(line, "check", 5))
			check();
	for (;;)
		pause();
}
