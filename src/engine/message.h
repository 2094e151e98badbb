/* SPDX-License-Identifier: Apache-2.0
 * What watarids say to each other, over the group's total order: a header by schema table, then bytes.
 *
 * Hostile until parsed: message_parse takes any bytes. Every message carries the cluster's uuid and the protocol's
 * version; unknown header fields are skipped, so that versions N and N+1 can talk. What must not be skipped, the sender says by
 * `needs`: whoever does not know that protocol leaves the view (decision 0031).
 * Promises: what message_parse has taken is within the bytes that came. Must never: be answered when it was not taken. */
#pragma once

#include "model/event.h"

enum { MESSAGE_PROTOCOL = 1, MESSAGE_CHUNK_BYTES = 128 * 1024 };

#define MESSAGE_KINDS(X)                                                                                               \
	X(MESSAGE_NONE, "none")                                                                                        \
	X(MESSAGE_BEGIN, "begin")	 /* lowest member: a sync begins, under this nonce */                           \
	X(MESSAGE_STATE, "state")	 /* what I have: term, index, applied, digest … */                              \
	X(MESSAGE_SNAPSHOT, "snapshot")	 /* best member: a piece of its applied state */                               \
	X(MESSAGE_ENTRY, "entry")	 /* best member: an entry behind its applied state */                          \
	X(MESSAGE_END, "end")		 /* best member: that was all */                                               \
	X(MESSAGE_EVENT, "event")	 /* an event, to be appended by all */                                         \
	X(MESSAGE_ACK, "ack")		 /* durable here up to index, and the pledge of the term */                                                \
	X(MESSAGE_PROGRESS, "progress") /* volatile */                                                                 \
	X(MESSAGE_TRAIL, "trail")	/* best member: a piece of its history, for those who take its state */          \
	X(MESSAGE_LEASE, "lease")	/* volatile: a question, and answers to those of others (lease.c) */
enum message_kind { MESSAGE_KINDS(CLUSTER_CONSTANT) };
enum { MESSAGE_KIND_COUNT = MESSAGE_KINDS(CLUSTER_COUNT) };
const char *message_kind_name(int kind);

struct message {
	enum message_kind kind;
	uint32_t protocol; /* that the sender's program speaks */
	uint32_t needs;	   /* that a receiver must speak, or it would take part in something else; 0: any */
	char cluster_uuid[UUID_BYTES];
	uint64_t nonce;	   /* of the sync */
	uint64_t term;	   /* EVENT, ACK: the view's term. ENTRY: the entry's. STATE: of the last entry */
	uint64_t index;	   /* EVENT: unused. ACK, ENTRY, STATE, END: of the log. SNAPSHOT: applied */
	uint64_t applied;  /* STATE */
	uint64_t digest;   /* STATE, SNAPSHOT: of the applied state */
	uint64_t offset;   /* SNAPSHOT, TRAIL: of this piece */
	uint64_t total;	   /* SNAPSHOT, TRAIL: bytes in all */
	uint64_t pledged;  /* STATE: the youngest term that it has taken part in */
	uint64_t trail;	   /* STATE: of the newest event whose history it has */
	char boot_id[UUID_BYTES]; /* STATE: of its node */
	uint64_t committed; /* STATE: up to here it has acted on its log, or may have; 0: an older program, which has on applied */
	uint64_t lost_above, lost_to; /* STATE: it has dropped what it had committed there, and the log does not say so yet */
	uint64_t now_ms; /* STATE: the cluster's time by its clock; 0: it has none yet */
	uint32_t view_count;
	struct view_mark views[VIEWS_MAX]; /* STATE: the newest in its log, committed or not */
	uint64_t payload_size;
};

/* Writes header and payload to out; returns the whole size, which the caller compares with capacity. */
size_t message_write(const struct message *message, const void *payload, uint8_t *out, size_t capacity);

/* *payload points into bytes. ERR_PROTOCOL says what is wrong; the sender is ignored then, never answered. */
int message_parse(const uint8_t *bytes, size_t size, struct message *message, const uint8_t **payload, struct err *err);

/* Big-endian. */
void message_put32(uint8_t *to, uint32_t value);
uint32_t message_get32(const uint8_t *from);
