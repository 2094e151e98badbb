/* SPDX-License-Identifier: Apache-2.0
 * From a VM's definition to QEMU's command line. Pure: no I/O, no clock, the same words for the same definition on every
 * node, or a saved state would not fit.
 *
 * Promises: every text from the definition arrives in QEMU as that text and never as another option (commas are doubled,
 * block devices go as JSON); nothing is found by path but by descriptor; no secret is in the words.
 * Must never: change what the guest sees of a machine type already released. A new device is a new field in vm_def. */
#pragma once

#include "model/vm.h"

enum { ARGV_WORDS_MAX = 160 };

/* The descriptors as QEMU will have them. 0 is /dev/null, 1 and 2 its log. */
enum argv_fd {
	ARGV_FD_QMP = 3,
	ARGV_FD_SERIAL = 4,
	ARGV_FD_SERIAL_LOG = 5,
	ARGV_FD_KERNEL = 6,
	ARGV_FD_INITRD = 7,
	ARGV_FD_DISKS = 8,				     /* … + VM_DISKS_MAX - 1 */
	ARGV_FD_NICS = ARGV_FD_DISKS + VM_DISKS_MAX,	     /* … + VM_NICS_MAX - 1 */
	ARGV_FD_AGENT = ARGV_FD_NICS + VM_NICS_MAX,
	ARGV_FD_END,
};

#define ARGV_AGENT "agent" /* the guest agent's channel, as the monitor knows it */

enum argv_accel { ARGV_TCG, ARGV_KVM };

struct argv_facts {
	enum argv_accel accel;
	bool incoming;	       /* waits for a state; the guest stays stopped until cont */
	const char *binary;
	const char *vnc_path;  /* of a unix socket that QEMU makes */
	bool block_device[VM_DISKS_MAX];
	bool direct[VM_DISKS_MAX];
};

struct argv {
	uint32_t count;
	const char *words[ARGV_WORDS_MAX + 1]; /* ends with NULL */
};

/* def must have passed vm_def_check. */
void argv_build(const struct vm_def *def, const struct argv_facts *facts, struct argv *argv);
void argv_fini(struct argv *argv);
