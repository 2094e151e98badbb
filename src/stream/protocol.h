/* SPDX-License-Identifier: Apache-2.0
 * How the daemon speaks to watari-stream: the helper that writes a guest's state into a directory (save), plays it
 * towards a waiting QEMU (load), or only looks whether it is whole (check). One process a task and side.
 *
 * Promises: it opens no path but the fixed names below, inside the directory it was given (and /proc/self/autogroup);
 * it lives on when the daemon dies, and tells a new daemon everything that happened so far; `sealed` is said only when
 * every byte is durable; `loaded` only when QEMU has said that it took the device state; `filled` only when QEMU has said that it has all.
 * Must never: send a page that does not match its checksum; delete or change a state that it loads.
 *
 * Descriptors, inherited (all others are closed at the start; stderr takes one last line if it dies):
 *
 *	fd	save				load				check
 *	0	read end of the pipe that	connected unix stream socket	/dev/null
 *		QEMU migrates into		of QEMU's migrate-incoming
 *	3	listening unix stream socket (in the daemon's run directory, 0600): the control channel
 *	4	the state directory, empty	the state directory		the state directory
 *	5	the guest's memfd, read-only
 *		(only with "repair": true)
 *
 * Start it detached (setsid, or a scope of its own), as the user that shall own the files, and where possible with a
 * higher priority (setpriority STREAM_NICE before the user is changed): what it does while the guest
 * stands still, and the answers to a guest that waits for a page, then go ahead of other work on a busy host. Threads
 * that copy or push while the guest runs step back to 0 by themselves. Between sessions their weight counts
 * (base/weight.h): give it STREAM_NICE when the guest stands still; the load gives it back when the guest runs. The
 * pipe of a save is enlarged to 1 MiB by the helper itself; close the daemon's own copy of its read end, or QEMU never
 * notices a dead helper.
 *
 * Control channel: lines of JSON, one object each, at most STREAM_LINE_MAX bytes. One client at a time; a new one
 * replaces the old one. Each client first gets `hello`, then every milestone so far again (marked "replay": true) and
 * the newest `progress`, then what follows. A client that does not read is dropped, never waited for. Peers with
 * another uid than the helper's or root's are refused. A helper that waits for its `start` exits when it had no client
 * for 60 s, nothing done.
 *
 * Commands (member "cmd"):
 *	{"cmd": "start", ...}	once; see below. A second one is refused
 *	{"cmd": "ready", "ram_bytes": N}
 *				load, before `start`: takes the memory that the load will need, so that it need not be taken
 *				while the guest stands still. Worth it for a helper that stands by; never needed
 *	{"cmd": "status"}	answered with a `progress` line at once (before the start: with `hello`)
 *	{"cmd": "cancel"}	save: ends with `failed` (code "cancelled"), files removed, unless it is sealed already,
 *				when the answer is `sealed` again. load: the same until `loaded`; later refused, see give-up
 *	{"cmd": "give-up"}	load: closes the connection to QEMU whatever is missing. The guest, if it ran, then
 *				waits for ever for its missing pages: only before QEMU is killed. Ends with `failed`
 *	{"cmd": "trim"}		save, after `sealed`: gives back the room that was reserved and not used (the state is
 *				kept for long). Answered with `trimmed`. Not needed for a state that is loaded at once
 *	{"cmd": "quit"}		after the last milestone: exit now. Without it the helper stays an hour, then exits
 * A command that cannot be taken is answered with {"event": "refused", "cmd": ..., "code": ..., "text": ...}.
 *
 * start of save:
 *	facts		object, required, at most STREAM_FACTS_MAX bytes: goes into the manifest as it is
 *	block		text: QEMU's name of the main memory block; absent: the largest block of the stream
 *	ram_bytes	number, required: the main block must have this length
 *	used_bytes	number: memory in use as far as known; checked against the room that is free where it cannot be
 *			reserved (default: ram_bytes)
 *	repair		bool: fd 5 is the guest's memory; compare it with what was copied after the stream's end (TCG)
 *	hot		array of page numbers: `filled` of the load before, if this guest was loaded; goes into the manifest
 *	early_sync	bool: also fdatasync while copying (default false: write-back is only begun early)
 * start of load:
 *	mode		"postcopy" | "eager", required
 *	ram_bytes	number, required: the memory of the QEMU that waits; the state must have as much
 *	verify		"served" (default): each page before it is sent | "all": every page before anything is sent
 *	expect		object: each member must be in the manifest's facts with an equal value, else code "unfit"
 * start of check:
 *	verify		as above ("served": manifest, sizes, device and sums only); ram_bytes, expect: as above
 *
 * Events (member "event"). Milestones, in their order; each has "at_ns" (CLOCK_REALTIME) and is replayed:
 *	save	`copying`	room is reserved, the stream is being read: now tell QEMU to migrate
 *		`streamed`	the stream is complete, so the guest is stopped (bytes, passes)
 *		`sealed`	manifest durable; "figures": struct stream_figures by name, "facts"
 *	load	`validated`	the state is whole as far as asked; "facts", "ram_bytes", "used_bytes", "device_bytes"
 *		`loaded`	QEMU has loaded the device state. Post-copy: it was told to run as well, which with -S
 *				turns its status from inmigrate to paused in its main loop. `cont` is right from here on: in
 *				inmigrate QEMU notes it and starts the guest by itself. "filling": true in post-copy
 *		`stalled`	a page cannot be read; "text" says why; reading is tried again: before `loaded` a few
 *				times (a wrong sum 0.4 s, other errors 9 s), then `failed`; after it for ever
 *		`resumed`	reading works again
 *		`filled`	QEMU has every page and said its final word: the state is not needed any more; "figures",
 *				"hot" (page numbers: to be handed to the start of the next save)
 *	check	`checked`	as validated
 *	all	`failed`	"code" (struct err's), "text"; save: files are removed ("removed": true), QEMU sees a
 *				broken pipe, the guest runs on. "after_loaded": true: the guest lacks pages, the state must
 *				be kept
 *	save	`trimmed`	"bytes" given back
 * Not a milestone:
 *		`hello`		"protocol", "verb", "pid", "state": waiting | working | done | failed
 *		`progress`	at most 5 a second. save: "bytes" (stream), "pages", "zero_pages", "pass", "pass_pages",
 *				"last_pass_pages", "dirty_pages_per_s" (as seen by pass length), "ram_bytes" (written),
 *				"backlog_bytes" (read, not yet written). load: "phase" (validating | sending | filling |
 *				finishing), "pages", "pages_total", "requests", "request_us_avg", "request_us_max",
 *				"stalled"
 *
 * What a driver must keep in mind:
 * - After `streamed`, and until `sealed` or `failed`, the guest must stay stopped: with repair its memory is being
 *   read. To let it run after all, send cancel and wait for `failed` or `sealed` first; a sealed state is then void.
 * - `failed` with code "corrupt" or "unfit" before `loaded`: nothing that counts was sent; QEMU's standby is used up.
 * - A dead helper: before `sealed` its files are litter (no manifest); while filling the guest waits for pages; start
 *   QEMU anew from the same state only where the log says that the guest never ran. */
#pragma once

#define STREAM_STATE_RAM "ram"
#define STREAM_STATE_DEVICE "device"
#define STREAM_STATE_SUMS "sums"
#define STREAM_STATE_MANIFEST "manifest"

enum {
	STREAM_PROTOCOL = 1,
	STREAM_NICE = -10,
	STREAM_FD_QEMU = 0,
	STREAM_FD_CONTROL = 3,
	STREAM_FD_DIRECTORY = 4,
	STREAM_FD_MEMORY = 5,

	STREAM_LINE_MAX = 256 << 10,
	STREAM_FACTS_MAX = 128 << 10,
	STREAM_START_WAIT_MS = 60000,
	STREAM_LINGER_MS = 3600000,
	STREAM_PROGRESS_MS = 200,
};

/* Members of "figures". Times: *_ns CLOCK_REALTIME, 0 where it did not happen; *_us durations. */
#define STREAM_SAVE_FIGURES(X)                                                                                         \
	X(started_ns)  /* the first byte of the stream */                                                              \
	X(streamed_ns) /* the last byte */                                                                             \
	X(written_ns)  /* the last page handed to the file system */                                                   \
	X(repaired_ns) /* repair pass done; = written_ns without one */                                                \
	X(synced_ns)   /* ram, device and sums durable */                                                              \
	X(sealed_ns)   /* manifest durable */                                                                          \
	X(stream_bytes)                                                                                                \
	X(ram_bytes)  /* written to the ram file over the whole save */                                                \
	X(used_bytes) /* memory that is not zero */                                                                    \
	X(device_bytes)                                                                                                \
	X(sums_bytes)                                                                                                  \
	X(passes)                                                                                                      \
	X(tail_pages)	/* of the last pass */                                                                         \
	X(hashed_bytes) /* by the repair pass */                                                                       \
	X(hash_us)                                                                                                     \
	X(repaired_pages)                                                                                              \
	X(fsync_us)                                                                                                    \
	X(manifest_us)

#define STREAM_LOAD_FIGURES(X)                                                                                         \
	X(started_ns)                                                                                                  \
	X(validated_ns)                                                                                                \
	X(loaded_ns)                                                                                                   \
	X(filled_ns)                                                                                                   \
	X(used_bytes)                                                                                                  \
	X(sent_bytes)                                                                                                  \
	X(sent_pages)                                                                                                  \
	X(requests)	   /* pages QEMU asked for */                                                                  \
	X(requests_served) /* of them not already on their way */                                                      \
	X(request_us_avg)  /* asked → handed to the socket */                                                        \
	X(request_us_p99)                                                                                              \
	X(request_us_max)                                                                                              \
	X(read_retries)
