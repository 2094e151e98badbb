/* SPDX-License-Identifier: Apache-2.0
 * The writer's log: one record after the other on a disk, so that whoever reads the disk can tell that it had one
 * writer at a time. Before each record the one before it is read back, and the place of the new one: a second copy of
 * this guest, restored or booted, finds or leaves a record that cannot be there, and says so in each record after it.
 *
 * A record is 512 bytes, little endian, the log a ring of them; record number N lies in place N modulo the ring's size.
 * test/integration/writer.py reads and judges it. */
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RECORD_BYTES 512U
#define MAGIC "WATARIW1"

struct record {
	char magic[8];
	uint8_t nonce[16];
	uint64_t number;      /* in the log, from 1 */
	uint64_t count;	      /* of this boot, from 1 */
	uint64_t realtime_ns; /* the guest's own clocks: no two copies agree in them, which is what they are for */
	uint64_t monotonic_ns;
	uint64_t strangers;	 /* records found, in this boot, that this guest did not write or did not expect */
	uint64_t strange_number; /* where the last of them was */
	uint32_t before_crc;	 /* of the record before, as it is on the disk */
	uint8_t unused[RECORD_BYTES - 76 - 4];
	uint32_t crc; /* of all before it */
} __attribute__((packed));
_Static_assert(sizeof(struct record) == RECORD_BYTES, "a record is a sector");

static int fd;
static uint64_t places;
static off_t begin_bytes;
static struct record *last;  /* the newest that this guest knows, as it must be on the disk */
static struct record *found; /* scratch */
static struct record *fresh;

static uint32_t crc32_of(const void *data, size_t bytes)
{
	const uint8_t *at = data;
	uint32_t crc = ~0U;

	for (size_t i = 0; i < bytes; i++) {
		crc ^= at[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (0xedb88320U & -(crc & 1));
	}
	return ~crc;
}

static int is_record(const struct record *record)
{
	return !memcmp(record->magic, MAGIC, 8) && record->crc == crc32_of(record, RECORD_BYTES - 4);
}

static int place_read(uint64_t number, struct record *record)
{
	return pread(fd, record, RECORD_BYTES, begin_bytes + (off_t)(number % places * RECORD_BYTES)) ==
	       (ssize_t)RECORD_BYTES;
}

/* The newest record: numbers go up by one from place to place, until the ring's seam. */
static int find_newest(void)
{
	uint64_t low = 0, high = places; /* the seam is behind `low` and not behind `high` */
	uint64_t first;

	if (!place_read(0, found))
		return -1;
	if (!is_record(found)) {
		/* Record 0 is never written, so that in the first round place 0 is empty and the log begins at 1. */
		first = 0;
	} else {
		first = found->number;
	}
	while (high - low > 1) {
		uint64_t middle = low + (high - low) / 2;

		if (!place_read(middle, found))
			return -1;
		if (is_record(found) && found->number == first + middle)
			low = middle;
		else
			high = middle;
	}
	if (!place_read(low, found))
		return -1;
	memcpy(last, found, RECORD_BYTES);
	if (!is_record(last)) {
		memset(last, 0, RECORD_BYTES);
		last->number = first + low;
	}
	return 0;
}

static int writer_open(void)
{
	char path[64];
	off_t bytes;

	snprintf(path, sizeof(path), "/dev/%s", witness.options.writer);
	fd = open(path, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
	if (fd < 0 || (bytes = lseek(fd, 0, SEEK_END)) < 0)
		return -1;
	/* The disk load has the beginning of its disk. */
	begin_bytes = strcmp(witness.options.writer, "vda") ? 0 : (off_t)witness.options.disk_mib << 20;
	if (bytes - begin_bytes < (off_t)(8 * RECORD_BYTES)) {
		errno = ENOSPC;
		return -1;
	}
	places = (uint64_t)(bytes - begin_bytes) / RECORD_BYTES;
	void *memory;
	if (posix_memalign(&memory, PAGE_BYTES, PAGE_BYTES))
		abort();
	last = memory;
	found = last + 1;
	fresh = last + 2;
	return find_newest();
}

static void meet_stranger(uint64_t number)
{
	atomic_fetch_add(&witness.writer_strangers, 1);
	atomic_store(&witness.writer_strange_number, number);
}

/* Reads what lies where it will write and before it. Returns -1 when the disk does not answer. */
static int look_around(void)
{
	uint64_t next = last->number + 1;

	if (!place_read(last->number, found))
		return -1;
	if (is_record(last) && memcmp(found, last, RECORD_BYTES) != 0)
		meet_stranger(last->number);
	if (!place_read(next, found))
		return -1;
	/* Nothing, a record of one round ago, or this very one by a write that was said to have failed. */
	if (is_record(found) && found->number + places != next && memcmp(found, fresh, RECORD_BYTES) != 0)
		meet_stranger(next);
	return 0;
}

static void make(uint64_t count)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	memset(fresh, 0, RECORD_BYTES);
	memcpy(fresh->magic, MAGIC, 8);
	memcpy(fresh->nonce, witness.nonce, 16);
	fresh->number = last->number + 1;
	fresh->count = count;
	fresh->realtime_ns = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
	fresh->monotonic_ns = now_ns();
	fresh->strangers = atomic_load(&witness.writer_strangers);
	fresh->strange_number = atomic_load(&witness.writer_strange_number);
	fresh->before_crc = last->crc;
	fresh->crc = crc32_of(fresh, RECORD_BYTES - 4);
}

static int put(void)
{
	return pwrite(fd, fresh, RECORD_BYTES, begin_bytes + (off_t)(fresh->number % places * RECORD_BYTES)) ==
			       (ssize_t)RECORD_BYTES
		       ? 0
		       : -1;
}

static void *run(void *arg)
{
	unsigned rate = witness.options.writer_rate;
	const struct timespec pause = {.tv_sec = rate == 1, .tv_nsec = rate == 1 ? 0 : 1000000000L / rate};
	uint64_t count = 0;

	if (writer_open() < 0) {
		fprintf(stderr, "watch: writer on %s: %s\n", witness.options.writer, strerror(errno));
		return arg;
	}
	memset(fresh, 0, RECORD_BYTES);
	for (;; nanosleep(&pause, NULL)) {
		/* A write that failed is done again with the same bytes: the first may have arrived all the same. */
		bool is_again = fresh->number == last->number + 1;

		if (look_around() < 0) {
			atomic_fetch_add(&witness.writer_io_errors, 1);
			continue;
		}
		if (!is_again)
			make(++count);
		if (put() < 0) {
			atomic_fetch_add(&witness.writer_io_errors, 1);
			continue;
		}
		memcpy(last, fresh, RECORD_BYTES);
		atomic_store(&witness.writer_number, last->number);
	}
}

void writer_start(void)
{
	if (witness.options.writer[0])
		spawn_thread(run, NULL, NORMAL);
}
