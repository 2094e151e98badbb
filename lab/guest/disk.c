/* SPDX-License-Identifier: Apache-2.0
 * The disk load: blocks of /dev/vda whose right contents are known by (block, version), versions in RAM alone. */
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define DISK_INDEX (1ULL << 62) /* so that no block looks like a page of the memory load */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int fd = -1;
static uint64_t *block_seq; /* 0: not yet written in this boot */
static size_t blocks;
static uint64_t *buffer;

static int disk_open(void)
{
	off_t size;

	if (fd >= 0)
		return 0;
	/* Past the page cache: what is read back was on the disk. */
	fd = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		return -1;
	size = lseek(fd, 0, SEEK_END);
	blocks = (size_t)witness.options.disk_mib * 256;
	if ((off_t)(blocks * PAGE_BYTES) > size)
		blocks = (size_t)size / PAGE_BYTES;
	block_seq = calloc(blocks + 1, sizeof(*block_seq));
	if (posix_memalign((void **)&buffer, PAGE_BYTES, PAGE_BYTES) || !block_seq)
		abort();
	return 0;
}

/* 1 right, 0 wrong; a failed read counts by itself and says 1: the data may still be there. */
static int block_check(size_t block)
{
	if (pread(fd, buffer, PAGE_BYTES, (off_t)(block * PAGE_BYTES)) != (ssize_t)PAGE_BYTES) {
		atomic_fetch_add(&witness.disk_io_errors, 1);
		return 1;
	}
	return pattern_check(buffer, block | DISK_INDEX, block_seq[block]);
}

static void disk_one(void)
{
	size_t block = (size_t)(random_u64() % blocks);

	if (block_seq[block] && !block_check(block))
		atomic_fetch_add(&witness.disk_errors, 1);
	pattern_write(buffer, block | DISK_INDEX, block_seq[block] + 1);
	if (pwrite(fd, buffer, PAGE_BYTES, (off_t)(block * PAGE_BYTES)) != (ssize_t)PAGE_BYTES) {
		/* Old, new or torn: nothing can be said about it any more. */
		block_seq[block] = 0;
		atomic_fetch_add(&witness.disk_io_errors, 1);
		return;
	}
	block_seq[block]++;
	if (atomic_fetch_add(&witness.disk_written, 1) % 32 == 31 && fdatasync(fd) < 0)
		atomic_fetch_add(&witness.disk_io_errors, 1);
}

static void *run(void *arg)
{
	const struct timespec idle = {.tv_nsec = 100000000};

	for (;; (void)arg) {
		unsigned rate = atomic_load(&witness.disk_rate);

		if (!atomic_load(&witness.disk_on)) {
			nanosleep(&idle, NULL);
			continue;
		}
		pthread_mutex_lock(&lock);
		if (disk_open() == 0 && blocks)
			disk_one();
		else
			atomic_store(&witness.disk_on, 0);
		pthread_mutex_unlock(&lock);
		if (rate) {
			struct timespec pause = {.tv_sec = rate == 1, .tv_nsec = rate == 1 ? 0 : 1000000000L / rate};

			nanosleep(&pause, NULL);
		}
	}
	return NULL;
}

void disk_start(void)
{
	spawn_thread(run, NULL, LOAD);
}

void disk_verify(struct verdict *verdict)
{
	pthread_mutex_lock(&lock);
	for (size_t block = 0; fd >= 0 && block < blocks; block++)
		if (block_seq[block] && !block_check(block))
			verdict->disk_bad++;
	pthread_mutex_unlock(&lock);
}
