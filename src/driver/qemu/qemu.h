/* SPDX-License-Identifier: Apache-2.0
 * port/hypervisor.h by QEMU: one detached, unprivileged QEMU a VM, and watari-stream beside it while its state is saved
 * or loaded.
 *
 * Promises: as the port. Guests do not notice the daemon: it may be killed at any instruction and started again, and finds
 * every process of its own by the locks that they hold (process.h). What it cannot prove dead it does not call gone.
 * Must never: end a guest without kill(); wait for storage, QEMU or a helper on the loop; keep a guest stopped that may
 * run, or let one run that stopped by itself (a panic, an error of its storage) because a copy went wrong.
 *
 * Users: uid_base runs watari-stream and owns the saved states, so it is the same on every node of a cluster. VMs get
 * uid_base + 1 … uid_base + uid_count - 1, one each, as long as they exist on a node. uid_base 0: nobody changes user.
 *
 * Files, <run>/vm/<uuid>/ of one VM on this node (0711, the daemon's; all sockets 0600 but those for people's consoles):
 *	instance.json	what the daemon knows of it (record.h)
 *	qemu.lock	held by QEMU as long as it lives; its pid
 *	qmp.sock	QEMU's monitor, the daemon's alone
 *	serial.sock	the serial console: a byte stream, one client at a time
 *	stream.sock	watari-stream's control channel
 *	guest/vnc.sock	the screen (RFB); guest/ belongs to the VM's user
 * <log>/vm/<uuid>.log is QEMU's own output, <uuid>.serial.log the serial console's; both are cut when they outgrow
 * QEMU_LOG_MAX while the daemon runs, the older part is kept as .1.
 * <state>/<uuid>/<task>/ holds a saved state (0700, the stream's user's). */
#pragma once

#include "base/worker.h"
#include "port/hypervisor.h"
#include "port/loop.h"

enum {
	QEMU_LOG_MAX = 1 << 20,
	QEMU_UID_COUNT = 65536, /* default of uid_count */
};

struct qemu_config {
	const char *cluster_uuid;
	const char *node_name;
	const char *qemu_binary;   /* absolute; NULL: /usr/bin/qemu-system-x86_64 */
	const char *stream_binary; /* absolute: watari-stream */
	const char *run_dir;	   /* /run/watari; must be this node's alone */
	const char *state_dir;	   /* on shared storage, the same on every node */
	const char *log_dir;
	uint32_t uid_base;
	uint32_t uid_count;	     /* 0: QEMU_UID_COUNT */
	uint32_t memory_mib;	     /* what VMs may use together; 0: this host's memory less the reserve */
	uint32_t memory_reserve_mib; /* for the host itself; 0: 1 GiB or a tenth, the larger */
	uint32_t vcpus;		     /* what VMs may use together; 0: this host's CPUs */
	bool no_kvm;		     /* TCG even where KVM works: for tests */
	struct worker *worker; /* for files, and kept longer than this; NULL: it has one of its own */
	/* A line for the log; may be NULL. */
	void (*log)(void *ctx, const char *line);
	void *log_ctx;
};

/* Takes a copy of config. Blocks for a moment (asks QEMU for its version, looks at the run directory) and finds the
 * instances of an earlier run; what they are doing comes as events from the loop. NULL with err: the configuration does
 * not work, the text says what to do. */
struct hypervisor *qemu_new(const struct qemu_config *config, struct loop *loop, const struct hv_callbacks *callbacks,
	struct err *err);

/* Lets everything run on. Takes NULL. */
void qemu_free(struct hypervisor *hypervisor);
