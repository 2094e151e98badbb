/* SPDX-License-Identifier: Apache-2.0
 * Writes main memory's pages to their own offsets in the `ram` file, behind a bounded queue, so that whoever reads from
 * QEMU's pipe waits for the disk only when RAM_BATCHES MiB are waiting already.
 *
 * Two threads of its own: one sums and writes pages, one makes the kernel write them back early and holds the first one
 * up while more than RAM_WINDOW_BYTES are not on disk yet, so that an fsync at the end has little left to do.
 * Promises: pages reach the file in the order in which they came; a page that becomes zero is zero in the file; the
 * first failure ends everything and is told to the next call.
 * Must never: hold more than its batches in memory; make the file larger than the memory. */
#pragma once

#include "base/err.h"
#include "stream/sums.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
	RAM_BATCHES = 24,
	RAM_BATCH_BYTES = 1 << 20,
	RAM_BATCH_HEADROOM = 8 << 10, /* in front, for what the batch before could not finish */
	RAM_REGION_BITS = 21,	      /* unit of early write-back: 2 MiB */
};
#define RAM_WINDOW_BYTES (UINT64_C(32) << 20)
#define RAM_SYNC_BYTES (UINT64_C(4) << 20)

struct ram_op {
	uint64_t index;
	uint32_t zero_count; /* pages from index on are zero; 0: one page of bytes */
	uint32_t at;	     /* where in the batch its bytes lie */
};

struct ram_batch {
	struct ram_batch *next;
	uint8_t *bytes; /* RAM_BATCH_HEADROOM + RAM_BATCH_BYTES */
	struct ram_op *ops;
	size_t op_count;
};

/* What an onlooker may read at any time. */
struct ram_counters {
	_Atomic uint64_t pages;		  /* sent by QEMU, zero ones too */
	_Atomic uint64_t zero_pages;	  /* of them */
	_Atomic uint64_t written_bytes;	  /* handed to the file system */
	_Atomic uint64_t pass;		  /* from 1; 0: nothing yet */
	_Atomic uint64_t pass_pages;	  /* of this pass so far */
	_Atomic uint64_t last_pass_pages; /* of the one before it */
	_Atomic uint64_t last_pass_ns;	  /* how long that one took */
	_Atomic uint64_t backlog_bytes;	  /* batches waiting, in bytes of pages */
};

struct ram_writer {
	int fd; /* borrowed */
	bool early_sync;
	struct sums sums;
	struct ram_counters counters;
	uint64_t last_index;
	uint64_t pass_began_ns;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct ram_batch batches[RAM_BATCHES];
	struct ram_batch *free;
	struct ram_batch *queue, **queue_end;
	bool busy;   /* a batch is being written */
	bool ending; /* no more batches will come */
	bool hurry;  /* the guest stands still: do not wait for write-back */
	bool failed;
	struct err err;
	uint64_t *regions;     /* one bit a region with pages not yet on their way to the disk */
	uint64_t *regions_now; /* the syncer's */
	size_t region_words;
	uint64_t unsynced_bytes, syncing_bytes;
	pthread_t writer, syncer;
	bool writing, syncing; /* the thread is to be joined */
};

int ram_writer_init(
	struct ram_writer *writer, int ram_fd, int sums_fd, uint64_t pages, bool early_sync, struct err *err);
/* Ends the threads, whatever waits is dropped. */
void ram_writer_fini(struct ram_writer *writer);

/* An empty batch, waiting for one if need be; NULL when writing failed. Filled by the caller, then submitted. */
struct ram_batch *ram_writer_batch(struct ram_writer *writer, struct err *err);
void ram_writer_submit(struct ram_writer *writer, struct ram_batch *batch);
/* Nothing waits to be written: a batch that is not full may as well go. */
bool ram_writer_is_idle(struct ram_writer *writer);

void ram_batch_page(struct ram_batch *batch, uint64_t index, const uint8_t *page);
void ram_batch_zero(struct ram_batch *batch, uint64_t index);

/* The guest stands still: from now on speed counts, not the size of the window. */
void ram_writer_hurry(struct ram_writer *writer);
/* Waits until all is handed to the file system, and ends the writing. The sums are the caller's from then on. */
int ram_writer_drain(struct ram_writer *writer, struct err *err);
/* After the drain: waits for the write-back that is under way, then makes the ram file durable. May run beside reads of
 * the sums, not beside ram_writer_put. */
int ram_writer_sync(struct ram_writer *writer, struct err *err);

/* One page by the caller itself, after the drain (the repair pass). */
int ram_writer_put(struct ram_writer *writer, uint64_t index, const uint8_t *page, uint64_t sum, struct err *err);
