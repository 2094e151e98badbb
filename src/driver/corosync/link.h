/* SPDX-License-Identifier: Apache-2.0
 * The thread that talks to corosync: connects, reads, sends, and connects again.
 *
 * What it has to say goes into `out`, in order, and is read on the loop. Each connection has a generation; when the
 * loop gives up on one (it left the group, or corosync hangs) it raises the number, and what the old one still says
 * counts no more.
 * Promises: the news of one generation in the order in which corosync gave it. Must never: call anything of the loop's. */
#pragma once

#include "driver/corosync/corosync.h"

#include <pthread.h>
#include <stdatomic.h>

enum item_kind { ITEM_VIEW, ITEM_MESSAGE, ITEM_DOWN };

/* From the thread to the loop. */
struct item {
	struct item *next;
	enum item_kind kind;
	uint64_t generation;
	uint64_t view_number; /* VIEW: counts the views of this generation */
	uint32_t from;
	struct group_view view;
	struct err err;
	size_t size;
	uint8_t bytes[];
};

/* From the loop to the thread. */
struct outgoing {
	struct outgoing *next;
	uint64_t generation;
	uint64_t view_number; /* in which it was sent; in a later one it is not sent any more */
	size_t size;
	uint8_t bytes[];
};

struct link_shared {
	pthread_mutex_t lock;
	int wake_fd; /* eventfd: the thread has something to do */
	int out_fd;  /* eventfd: the loop has */
	bool wanted; /* be in the group */
	bool ending;
	bool force; /* quorum, with the nodes that are here; the thread takes it back when it has asked */
	uint64_t generation;
	struct outgoing *send_first;
	struct outgoing *send_last;
	size_t send_count; /* also of those that the thread has taken and corosync has not */
	size_t send_bytes;
	struct item *out_first;
	struct item *out_last;
	size_t out_bytes;
	struct corosync_counters counters;
	_Atomic uint32_t token_ms;	/* the real one, read each second; 0: not known yet */
	_Atomic uint32_t patience_ms; /* for so long a corosync that says nothing may be waiting for the witness */
	_Atomic uint64_t busy_since_ms; /* by link_now_ms: the thread is in a call of corosync; 0: it is not */
};

struct link_config {
	char group_name[128];
	uint32_t node;
	struct link_shared *shared;
};

/* The thread: runs until shared->ending. Takes a struct link_config. */
void *link_main(void *config);

uint64_t link_now_ms(void); /* CLOCK_MONOTONIC */
