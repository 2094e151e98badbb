/* SPDX-License-Identifier: Apache-2.0
 * The files that a VM is made of: its disks, kernel and initrd, opened and judged before QEMU sees them.
 *
 * QEMU gets descriptors, not paths: it needs no right on the file system, and an image's header cannot make it open
 * another file. Everything here may block on dead storage: for a job's process only.
 * Must never: follow an image's own reference to another file (backing files are refused, not opened). */
#pragma once

#include "model/vm.h"

struct media_disk {
	int fd;
	bool block_device;
	bool direct; /* O_DIRECT works on this file */
	uint64_t bytes;
};

struct media {
	struct media_disk disks[VM_DISKS_MAX]; /* as in the definition */
	int kernel_fd; /* -1, or a copy in memory that any user may read */
	int initrd_fd;
};

/* All descriptors -1. */
void media_init(struct media *media);
void media_fini(struct media *media);

/* running_elsewhere: the VM's guest may hold the image's lock on this machine (a standby), so it is not looked at.
 * The error names the disk, the fact and what to do; what was opened before it stays in *media, for media_fini. */
int media_open(const struct vm_def *def, bool running_elsewhere, struct media *media, struct err *err);

/* What the first bytes of a qcow2 image say, hostile: 0 if QEMU may open it by itself alone. */
int media_check_qcow2(const uint8_t *header, size_t size, struct err *err);
