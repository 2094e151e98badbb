/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/argv.h"
#include "base/json.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void take(struct argv *argv, char *word)
{
	assert(word && argv->count < ARGV_WORDS_MAX);
	argv->words[argv->count++] = word;
	argv->words[argv->count] = NULL;
}

static void PRINTF_LIKE(2, 3) add(struct argv *argv, const char *format, ...)
{
	va_list args;
	char *word = NULL;

	va_start(args, format);
	int size = vasprintf(&word, format, args);
	va_end(args);
	assert(size >= 0);
	take(argv, word);
}

/* In QEMU's key=value lists a comma inside a value is doubled. */
static char *escaped(const char *text)
{
	char *out = malloc(2 * strlen(text) + 1), *at = out;

	assert(out);
	for (; *text; text++) {
		*at++ = *text;
		if (*text == ',')
			*at++ = ',';
	}
	*at = 0;
	return out;
}

static void add_json(struct argv *argv, json_t *json)
{
	take(argv, json_dumps(json, JSON_COMPACT));
	json_decref(json);
}

static void add_machine(struct argv *argv, const struct vm_def *def, const struct argv_facts *facts)
{
	bool tcg = facts->accel == ARGV_TCG;
	CLEANUP_FREE char *name = escaped(def->name);

	add(argv, "-name");
	add(argv, "guest=%s,debug-threads=on", name);
	add(argv, "-uuid");
	add(argv, "%s", def->uuid);
	add(argv, "-machine");
	add(argv, "%s,accel=%s,memory-backend=ram,usb=off,dump-guest-core=off", def->machine, tcg ? "tcg" : "kvm");
	/* TCG's log of dirty pages loses some (design §6): the stopped guest's memory is read and compared through a
	 * shared memfd. KVM's log is exact, and private memory keeps huge pages. */
	add(argv, "-object");
	if (tcg)
		add(argv, "memory-backend-memfd,id=ram,size=%uM,share=on", def->memory_mib);
	else
		add(argv, "memory-backend-ram,id=ram,size=%uM", def->memory_mib);
	add(argv, "-m");
	add(argv, "size=%uM", def->memory_mib);
	/* KVM refuses at once what this host's CPU lacks; TCG makes the same CPU everywhere. */
	add(argv, "-cpu");
	add(argv, "%s%s", def->cpu, tcg ? "" : ",enforce=on");
	add(argv, "-smp");
	add(argv, "cpus=%u,sockets=1,cores=%u,threads=1", def->vcpus, def->vcpus);
	add(argv, "-rtc");
	add(argv, "base=utc");
}

static void add_confinement(struct argv *argv)
{
	add(argv, "-nodefaults");
	add(argv, "-no-user-config");
	add(argv, "-sandbox");
	add(argv, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
	/* A guest that powers itself off, or panics, stays there to be seen, also by a daemon that was away. */
	add(argv, "-action");
	add(argv, "reboot=reset,shutdown=pause,panic=pause,watchdog=reset");
	add(argv, "-msg");
	add(argv, "timestamp=on");
}

static void add_consoles(struct argv *argv, const struct vm_def *def, const struct argv_facts *facts)
{
	CLEANUP_FREE char *vnc = escaped(facts->vnc_path);

	add(argv, "-chardev");
	add(argv, "socket,id=qmp,fd=%d,server=on,wait=off", ARGV_FD_QMP);
	add(argv, "-mon");
	add(argv, "chardev=qmp,mode=control");
	add(argv, "-add-fd");
	add(argv, "fd=%d,set=%d", ARGV_FD_SERIAL_LOG, ARGV_FD_SERIAL_LOG);
	add(argv, "-chardev");
	add(argv, "socket,id=serial0,fd=%d,server=on,wait=off,logfile=/dev/fdset/%d,logappend=on", ARGV_FD_SERIAL,
		ARGV_FD_SERIAL_LOG);
	add(argv, "-device");
	add(argv, "isa-serial,id=serial0.dev,chardev=serial0");
	add(argv, "-device");
	add(argv, "VGA,id=vga,bus=pcie.0,addr=0x1");
	if (def->panic_device == PANIC_DEVICE_ISA) {
		add(argv, "-device");
		add(argv, "pvpanic,id=panic");
	}
	add(argv, "-vnc");
	add(argv, "unix:%s", vnc);
}

/* The channel's name is what qemu-guest-agent looks for. */
static void add_agent(struct argv *argv, const struct vm_def *def)
{
	if (def->guest_agent != GUEST_AGENT_VIRTIO)
		return;
	add(argv, "-chardev");
	add(argv, "socket,id=" ARGV_AGENT ",fd=%d,server=on,wait=off", ARGV_FD_AGENT);
	add(argv, "-device");
	add(argv, "virtio-serial-pci,id=vserial,bus=pcie.0,addr=0x2,max_ports=2");
	add(argv, "-device");
	add(argv, "virtserialport,id=" ARGV_AGENT ".dev,bus=vserial.0,nr=1,chardev=" ARGV_AGENT ",name=org.qemu.guest_agent.0");
}

static void add_boot(struct argv *argv, const struct vm_def *def)
{
	add(argv, "-boot");
	add(argv, "menu=off,strict=on");
	if (!def->kernel[0])
		return;
	add(argv, "-kernel");
	add(argv, "/proc/self/fd/%d", ARGV_FD_KERNEL);
	if (def->initrd[0]) {
		add(argv, "-initrd");
		add(argv, "/proc/self/fd/%d", ARGV_FD_INITRD);
	}
	if (def->append[0]) {
		add(argv, "-append");
		add(argv, "%s", def->append);
	}
}

static void add_disk_nodes(struct argv *argv, const struct vm_disk *disk, int fd, bool block_device, bool direct)
{
	char file[24 + sizeof(disk->id)], path[24];

	snprintf(path, sizeof(path), "/dev/fdset/%d", fd);
	snprintf(file, sizeof(file), "%s.file", disk->id);
	add(argv, "-add-fd");
	add(argv, "fd=%d,set=%d", fd, fd);
	add(argv, "-blockdev");
	add_json(argv, json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:s, s:{s:b, s:b}}", "driver",
			       block_device ? "host_device" : "file", "node-name", file, "filename", path, "aio",
			       direct ? "native" : "threads", "read-only", (int)disk->read_only, "auto-read-only", 0,
			       "discard", "unmap", "cache", "direct", (int)direct, "no-flush", 0));
	add(argv, "-blockdev");
	json_t *top = json_pack("{s:s, s:s, s:s, s:b, s:b, s:s, s:{s:b, s:b}}", "driver",
		disk_format_name((int)disk->format), "node-name", disk->id, "file", file, "read-only",
		(int)disk->read_only, "auto-read-only", 0, "discard", "unmap", "cache", "direct", (int)direct, "no-flush",
		0);
	/* media.c has refused images that rest on another file; should the header change since, QEMU still opens none. */
	if (disk->format == DISK_QCOW2)
		json_object_set_new(top, "backing", json_null());
	add_json(argv, top);
}

static void add_disks(struct argv *argv, const struct vm_def *def, const struct argv_facts *facts)
{
	uint32_t ports = 0;

	for (uint32_t i = 0; i < def->disk_count; i++) {
		const struct vm_disk *disk = &def->disks[i];
		add_disk_nodes(argv, disk, ARGV_FD_DISKS + (int)i, facts->block_device[i], facts->direct[i]);
		add(argv, "-device");
		/* An error of the storage pauses the guest rather than reach it; a full disk too. */
		if (disk->bus == DISK_VIRTIO)
			add(argv,
				"virtio-blk-pci,id=%s.dev,drive=%s,bus=pcie.0,addr=0x%x,bootindex=%u,serial=%.20s,"
				"write-cache=on,werror=stop,rerror=stop",
				disk->id, disk->id, disk->slot, i + 1, disk->id);
		else
			add(argv,
				"ide-hd,id=%s.dev,drive=%s,bus=ide.%u,bootindex=%u,serial=%.20s,write-cache=on,"
				"werror=stop,rerror=stop",
				disk->id, disk->id, ports++, i + 1, disk->id);
	}
}

static void add_nics(struct argv *argv, const struct vm_def *def)
{
	for (uint32_t i = 0; i < def->nic_count; i++) {
		const struct vm_nic *nic = &def->nics[i];
		add(argv, "-netdev");
		add(argv, "tap,id=%s,fd=%d", nic->id, ARGV_FD_NICS + (int)i);
		add(argv, "-device");
		/* No boot ROM: its block would be one more that has to fit on the other side. */
		add(argv, "%s,id=%s.dev,netdev=%s,mac=%s,bus=pcie.0,addr=0x%x,romfile=",
			nic->model == NIC_VIRTIO ? "virtio-net-pci" : "e1000", nic->id, nic->id, nic->mac, nic->slot);
	}
}

void argv_build(const struct vm_def *def, const struct argv_facts *facts, struct argv *argv)
{
	memset(argv, 0, sizeof(*argv));
	add(argv, "%s", facts->binary);
	add_machine(argv, def, facts);
	add_confinement(argv);
	add_consoles(argv, def, facts);
	add_agent(argv, def);
	add_boot(argv, def);
	add_disks(argv, def, facts);
	add_nics(argv, def);
	if (facts->incoming) {
		add(argv, "-S");
		add(argv, "-incoming");
		add(argv, "defer");
	}
}

void argv_fini(struct argv *argv)
{
	for (uint32_t i = 0; i < argv->count; i++)
		free((char *)(uintptr_t)argv->words[i]);
	argv->count = 0;
}
