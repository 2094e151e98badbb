/* SPDX-License-Identifier: Apache-2.0
 * Threads that read pages of the `ram` file and compare their sums, for a server that must never wait for a disk.
 *
 * Two classes, so that a page the guest waits for never stands behind pages it does not: urgent fetches have their own
 * threads. A page that cannot be read, or whose sum does not hold, is read again, with pauses: what is handed back is
 * right or is not handed back. How long depends on what hangs on it: while nothing is lost yet a few tries, then the
 * reader fails; once it is told to be patient, because a guest already runs on these pages, for ever. While any thread
 * is in that state, or in one read for longer than READER_SLOW_MS, reading counts as stalled; the callback tells the
 * changes. Must never: hand over a page that does not match its sum. */
#pragma once

#include "stream/state.h"

#include <pthread.h>

enum {
	READER_FETCH_PAGES = 64,
	READER_URGENT_SLOTS = 64,
	READER_BACKGROUND_SLOTS = 4,
	READER_SLOTS = READER_URGENT_SLOTS + READER_BACKGROUND_SLOTS,
	READER_URGENT_THREADS = 3,
	READER_BACKGROUND_THREADS = 2,
	READER_THREADS = READER_URGENT_THREADS + READER_BACKGROUND_THREADS,
	READER_SLOW_MS = 5000,
	READER_RETRY_MS_MIN = 50,
	READER_TRIES_CORRUPT = 4, /* about 0.4 s: a page that stays wrong is wrong */
	READER_TRIES_OTHER = 10,  /* about 9 s: storage may come back */
	READER_RETRY_MS_MAX = 2000,
};

enum fetch_state {
	FETCH_IDLE,
	FETCH_WANTED,
	FETCH_BUSY,
	FETCH_READY,
};

/* Filled by the server while IDLE, then only read by it once READY. */
struct fetch {
	enum fetch_state state;
	uint32_t count;
	uint64_t index[READER_FETCH_PAGES];
	uint8_t *bytes;	   /* count pages */
	uint64_t ticket;   /* the order in which they were asked for */
	uint64_t asked_ns; /* urgent: when QEMU asked */
};

struct page_reader {
	const struct state *state;
	int wake_fd;				   /* eventfd: something is READY */
	void (*stall)(void *ctx, const char *why); /* NULL: over. On any thread */
	void *stall_ctx;
	_Atomic uint64_t retries;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool ending;
	bool patient;
	bool failed;
	struct err failure;
	uint64_t next_ticket;
	struct fetch fetches[READER_SLOTS]; /* urgent ones first */
	unsigned stalled;		    /* threads that are */
	struct reader_thread {
		struct page_reader *reader;
		pthread_t thread;
		bool started;
		bool urgent;
		bool counted;	  /* among the stalled */
		uint64_t busy_ns; /* since when in a read; 0: not */
		int fd;
	} threads[READER_THREADS];
};

int page_reader_init(struct page_reader *reader, const struct state *state, int wake_fd,
	void (*stall)(void *ctx, const char *why), void *stall_ctx, struct err *err);
/* Waits for reads under way; retries end. */
void page_reader_fini(struct page_reader *reader);

/* An IDLE slot of the class, or NULL. */
struct fetch *page_reader_slot(struct page_reader *reader, bool urgent);
void page_reader_want(struct page_reader *reader, struct fetch *fetch);
/* The READY fetch of the class that was wanted first, or NULL; its slot is to be released. */
struct fetch *page_reader_ready(struct page_reader *reader, bool urgent);
void page_reader_release(struct page_reader *reader, struct fetch *fetch);

/* -1 with the reason when a thread gave up. wake_fd becomes readable then. */
int page_reader_failure(struct page_reader *reader, struct err *err);
/* From now on no thread gives up. -1 when one has already. */
int page_reader_be_patient(struct page_reader *reader, struct err *err);

/* To be called now and then: finds reads that hang. */
void page_reader_watch(struct page_reader *reader);
