/* SPDX-License-Identifier: Apache-2.0
 * The lab's guest: a witness that can tell *restored* from *rebooted*, and says when a byte of it went bad.
 *
 * It holds a nonce (made at boot) and a counter in RAM alone, and shows them on its screen, on its serial line, by UDP
 * echo and over HTTP. It fills memory with random data whose checksums were taken once, and under load keeps rewriting
 * pages and disk blocks whose right contents it can compute, so that a page or a block that is one write too old is an
 * error as much as a flipped bit. It must never keep any of this on a disk, or derive it from anything but this boot.
 */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096U
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))

/* watari.NAME=VALUE on the kernel's command line. */
struct options {
	unsigned fill_mib;    /* random data with checksums; default 256, 0 none */
	unsigned load_mib;    /* region that the memory load rewrites; default 64 */
	unsigned disk_mib;    /* part of /dev/vda that the disk load rewrites; default 16 */
	int power_ignore;     /* watari.power=ignore: the power button does nothing */
	char writer[16];      /* watari.writer=vda: the disk that the writer's log is on; default none */
	unsigned writer_rate; /* records/s; default 20 */
	char load_mode[64];   /* watari.load=mem,disk or none */
};

/* Read by every thread, written by the one named. */
struct witness {
	struct options options;
	uint8_t nonce[16];
	char nonce_hex[33];
	_Atomic uint64_t counter; /* + 1 each 10 ms: ticker */
	_Atomic int fill_ready;	  /* memory.c */
	_Atomic uint64_t fill_checksum;
	_Atomic uint64_t fill_phys; /* physical address of its middle page, for whoever wants to damage it */
	_Atomic int checksum_ok;    /* the last check: 1, 0, or -1 for none yet */
	_Atomic int memory_on;	    /* loads, switched by /set */
	_Atomic int disk_on;
	_Atomic unsigned memory_rate; /* pages/s, 0 as fast as it goes */
	_Atomic unsigned disk_rate;   /* blocks/s */
	_Atomic uint64_t memory_written, memory_errors;
	_Atomic uint64_t disk_written, disk_errors, disk_io_errors;
	_Atomic uint64_t writer_number, writer_strangers, writer_strange_number, writer_io_errors;
	_Atomic uint64_t udp_answers, tcp_connections, tcp_lines;
};

extern struct witness witness;

/* What one look at everything found. */
struct verdict {
	uint64_t checksum;	     /* over the filled region, now */
	uint64_t pages, pages_bad;   /* filled region */
	uint64_t first_bad;	     /* page number, when pages_bad */
	uint64_t load_bad, disk_bad; /* pages and blocks that are not what was last written */
	uint64_t took_ms;
};

uint64_t now_ns(void);
uint64_t random_u64(void);

/* Deterministic contents of page INDEX in its SEQ-th version; check returns 1 when it is exactly that. */
void pattern_write(uint64_t *page, uint64_t index, uint64_t seq);
int pattern_check(const uint64_t *page, uint64_t index, uint64_t seq);

void memory_start(void);
void memory_verify(struct verdict *verdict);
void disk_start(void);
void disk_verify(struct verdict *verdict);
void writer_start(void);
void net_start(void);
void panic_machine(void);
void agent_start(void);
void agent_stop(void); /* it reads on and answers no more, as one that hangs */

/* REALTIME goes before everything: the echo answers for the machine, not for its scheduler. LOAD comes behind
 * everything, the kernel's own network work included. */
enum urgency { LOAD, NORMAL, REALTIME };
void spawn_thread(void *(*run)(void *), void *arg, enum urgency urgency);
