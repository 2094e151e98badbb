/* SPDX-License-Identifier: Apache-2.0
 * The client that measures: runs in the lab's client namespace and speaks to the lab's guest alone.
 *
 * It promises numbers as a client sees them, each with its own clock's error beside it (max_late_ms: how late the probe
 * itself was). It must never average a gap away, and never call an answer that it did not get. */
#pragma once

#include <stdint.h>
#include <stdio.h>

struct probe_options {
	const char *to;	   /* dotted quad */
	const char *path;  /* http */
	uint16_t port;	   /* 0: the verb's own */
	unsigned every_ms; /* between two questions */
	unsigned seconds;  /* 0: until SIGINT, SIGTERM or the end of a piped stdin */
	unsigned gap_ms;   /* list silences at least this long */
	unsigned stall_s;  /* tcp, http: give up after this long without an answer */
	int json;
	int windows; /* udp: list the latency of each 100 ms too */
};

#define NS_PER_MS 1000000LL
#define NS_PER_S 1000000000LL

int64_t mono_ns(void);
int64_t real_ns(void);
int probe_connect(const struct probe_options *options, int type, uint16_t default_port);

/* The loop of udp and tcp: calls tick at each due time (with how late it is) and readable when the socket has data.
 * Ends when the time is over, when told to, or when a callback returns other than 0, and returns that. */
struct loop_calls {
	int (*tick)(void *context, int64_t late_ns);
	int (*readable)(void *context);
	void *context;
};
int probe_loop(const struct probe_options *options, int fd, const struct loop_calls *calls);

/* Exit statuses: 0 as it should be, 1 what the verb watches for has happened, 2 could not even begin. */
int probe_udp(const struct probe_options *options);
int probe_tcp(const struct probe_options *options);
int probe_http(const struct probe_options *options);

/* Everything one run of `probe udp` saw; the report is made of it alone. */
struct sample {
	int64_t sent_ns;     /* CLOCK_MONOTONIC */
	int64_t received_ns; /* 0: no answer */
	uint64_t counter;
};

/* Of /proc/stat, all processors together: whose time it was while the probe measured. */
struct machine_time {
	uint64_t total, idle, stolen;
};
struct machine_time machine_time(void);

struct udp_run {
	struct machine_time began;
	struct sample *samples; /* by sequence number */
	uint32_t count, capacity;
	uint32_t answered, duplicates, send_errors, nonce_changes, counter_back;
	uint32_t last_seq;	/* of the answer received last */
	int64_t last_answer_ns; /* 0: none yet */
	int64_t max_late_ns;
	uint64_t last_counter;
	uint8_t nonce[16];
	char first_nonce[33], last_nonce[33];
	int64_t longest_ns; /* silence between two answers, or up to the end */
	struct gap *gaps;   /* in order of time */
	uint32_t gap_count, gap_capacity;
};

/* A silence: no answer was received between begin and end. */
struct gap {
	int64_t begin_ns, end_ns; /* receive times around it */
	int64_t send_gap_ns;	  /* between the send times of the answers around it: 0 or less when nothing was lost */
	uint32_t lost;		  /* questions sent meanwhile that were never answered */
	int rebooted;		  /* the nonce after it is another one */
};

void report_udp(const struct udp_run *run, const struct probe_options *options, FILE *out);
