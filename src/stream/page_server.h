/* SPDX-License-Identifier: Apache-2.0
 * Plays a state towards a waiting QEMU over one socket, and answers its requests for pages.
 *
 *	post-copy	header, open return path, advise | ram's sections from `device` | discard of the whole main block |
 *			packaged {listen, the devices, ping, run} | pages: requested ones first, then the rest by
 *			push_order | ram's end, end of file | ... QEMU's final word
 *	eager		header, open return path | ram's sections from `device` | all pages | ram's end, the tail
 *
 * The order, and why each piece is needed, is QEMU's docs/devel/migration/postcopy.rst and migration/savevm.c (7.2).
 * The discard before listen is not optional there: without one QEMU's state machine falls back and deadlocks. The ping
 * is answered when all of the package before it was loaded. Zero pages are not sent but on request: QEMU's memory is
 * empty after the discard (or new), and what is still missing when it ends is zero. A page is sent at most once: QEMU
 * takes a second copy for an error.
 *
 * One thread does all of it and never waits but in poll: what the socket holds ahead of a requested page is bounded by
 * its send buffer (SERVER_SEND_BUFFER) and one part of SERVER_PART_PAGES; what is not in the page cache is read by
 * page_reader's threads.
 * Must never: send a page that was not compared with its sum; end before every page that is not zero was sent. */
#pragma once

#include "stream/latency.h"
#include "stream/page_reader.h"
#include "stream/protocol.h"

enum {
	SERVER_PART_PAGES = 32,
	SERVER_SEND_BUFFER = 256 << 10,
	SERVER_COLD_FETCHES = 32,
	/* While the devices are loaded, in the first moments after it, and for a moment after each request the guest's
	 * steps hang on single pages: only pages that are likely to be next are pushed then. In all no longer than TOTAL. */
	SERVER_HOLD_LOADED_NS = 100000000,
	SERVER_HOLD_ASKED_NS = 4000000,
	SERVER_HOLD_WARM_NS = 60000000, /* after the load; neighbours of hot pages: mostly not what its first steps need */
	SERVER_HOLD_TOTAL_NS = 1000000000,
	SERVER_NOTE_NS = 1000000000, /* how long after the load a page that is asked for is noted as hot */
	SERVER_REQUESTS_MAX = 4096,
	SERVER_PING = 0x57415441,
};

enum server_phase {
	SERVER_SENDING, /* what comes before the pages */
	SERVER_FILLING,
	SERVER_FINISHING, /* all sent; the final word is awaited */
	SERVER_FILLED,
};
const char *server_phase_name(enum server_phase phase);

struct server_counters {
	_Atomic uint64_t sent_pages; /* not zero */
	_Atomic uint64_t sent_bytes;
	_Atomic uint64_t requests;
	_Atomic int phase;
	_Atomic bool loaded;
	_Atomic bool stalled;
	struct latency latency; /* asked by QEMU to handed to the socket */
};

/* On the server's thread, but stalled on any. */
struct server_events {
	void *ctx;
	void (*whole)(void *ctx); /* the sums hold too: only now can `loaded` follow */
	void (*loaded)(void *ctx);
	void (*settled)(void *ctx); /* the guest had its first moments: from here on the mass of the memory is sent */
	void (*stalled)(void *ctx, const char *why); /* NULL: over */
};

struct page_server;

/* socket stays the caller's. A state that has no sums yet (state_load_devices) gets them while QEMU is already busy with
 * what comes before the pages; until they hold no page is sent and nothing counts as loaded. */
struct page_server *page_server_new(
	struct state *state, int socket, bool eager, const struct server_events *events, struct err *err);
/* Not while page_server_run is under way. Waits for reads, which may hang: a process that ends need not call it. */
void page_server_free(struct page_server *server);

/* Returns 0 when QEMU has said its final word. */
int page_server_run(struct page_server *server, struct err *err);
/* From any thread: page_server_run returns ERR_CANCELLED soon. */
void page_server_stop(struct page_server *server);
const struct server_counters *page_server_counters(const struct page_server *server);
/* After page_server_run: what the next load should send first. */
void page_server_hot(struct page_server *server, struct hot *hot);
uint64_t page_server_retries(const struct page_server *server);
