/* SPDX-License-Identifier: Apache-2.0
 * What the tests of the QEMU driver's parts share: an example of a definition, and a directory to work in. */
#pragma once

#include "model/vm.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* Two disks, one of them qcow2 and read-only, and a NIC; pinned. */
static inline struct vm_def example(void)
{
	struct vm_def def = {.memory_mib = 512, .vcpus = 2, .disk_count = 2, .nic_count = 1};

	strcpy(def.uuid, "5b1f9d9e-0000-4000-8000-000000000001");
	strcpy(def.name, "web");
	strcpy(def.kernel, "/srv/vmlinuz");
	strcpy(def.append, "console=ttyS0 root=/dev/vda,x");
	strcpy(def.disks[0].path, "/srv/web.raw");
	strcpy(def.disks[1].path, "/srv/data.qcow2");
	def.disks[1].format = DISK_QCOW2;
	def.disks[1].read_only = true;
	strcpy(def.nics[0].bridge, "br0");
	strcpy(def.nics[0].mac, "52:54:00:00:00:01");
	vm_def_pin(&def);
	return def;
}

/* A new directory, open; its path ends up in path. Both are the caller's. */
static inline int temporary_dir(char path[static 64])
{
	snprintf(path, 64, "/tmp/test-qemu-XXXXXX");
	assert_non_null(mkdtemp(path));
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}
