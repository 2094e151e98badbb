/* SPDX-License-Identifier: Apache-2.0
 * The definition of a VM: all that any node needs to build exactly the same machine (design §5).
 *
 * Machine type, CPU model, MAC and PCI slots are pinned at creation, so that a saved state fits wherever it goes.
 * Promises: plain data without pointers; vm_def_check refuses whatever the rest of the program must not meet, and
 * names the rule. Must never: hold a secret, or a text that becomes a shell word or a QEMU option without escaping. */
#pragma once

#include "model/policy.h"

enum disk_kind {
	DISK_SHARED, /* a path on storage that every node mounts */
	DISK_LUN,    /* a block device with a filesystem, mounted on one node at a time */
	DISK_NET,    /* opened by QEMU itself: nbd:, iscsi:, rbd: */
	DISK_KIND_COUNT
};
enum disk_format { DISK_RAW, DISK_QCOW2, DISK_FORMAT_COUNT };
enum disk_bus { DISK_VIRTIO, DISK_SATA, DISK_BUS_COUNT };
enum nic_model { NIC_VIRTIO, NIC_E1000, NIC_MODEL_COUNT };
enum vm_priority { PRIORITY_MEDIUM, PRIORITY_HIGH, PRIORITY_LOW, PRIORITY_NONE, PRIORITY_COUNT };
enum panic_device { PANIC_DEVICE_NONE, PANIC_DEVICE_ISA, PANIC_DEVICE_COUNT };
enum guest_agent { GUEST_AGENT_NONE, GUEST_AGENT_VIRTIO, GUEST_AGENT_COUNT };
enum offline_action { OFFLINE_SAVE, OFFLINE_SHUTDOWN, OFFLINE_SHUTDOWN_FORCED, OFFLINE_TURN_OFF, OFFLINE_COUNT };

struct vm_disk {
	char id[32]; /* "disk0": names the device in QEMU and in errors */
	char path[PATH_BYTES];
	enum disk_kind kind;
	enum disk_format format;
	enum disk_bus bus;
	bool read_only;
	uint32_t slot; /* PCI slot on pcie.0, pinned; unused for SATA */
};

struct vm_nic {
	char id[32]; /* "net0" */
	char bridge[BRIDGE_BYTES];
	char mac[MAC_BYTES];
	enum nic_model model;
	uint32_t slot;
};

struct vm_def {
	char uuid[UUID_BYTES];
	char name[NAME_BYTES];
	uint32_t memory_mib;
	uint32_t vcpus;
	char machine[MODEL_BYTES]; /* versioned: pc-q35-7.2 */
	char cpu[MODEL_BYTES];	   /* the cluster's baseline */
	enum vm_priority priority;
	enum offline_action offline_action;
	char kernel[PATH_BYTES]; /* empty: boot from the first disk by the BIOS */
	char initrd[PATH_BYTES];
	char append[APPEND_BYTES];
	uint32_t disk_count;
	struct vm_disk disks[VM_DISKS_MAX];
	uint32_t nic_count;
	struct vm_nic nics[VM_NICS_MAX];
	struct vm_policy policy;
	/* By which the guest tells its panic. New definitions have it (api); one of before stays without, its saved states too.
	 */
	enum panic_device panic_device;
	/* The channel of qemu-guest-agent: virtio-serial in PCI slot 2, kept free for it. A creation that asks for a heartbeat
	 * has it. */
	enum guest_agent guest_agent;
};

extern const struct schema vm_def_schema;

const char *disk_kind_name(int kind);
const char *disk_format_name(int format);
const char *disk_bus_name(int bus);
const char *nic_model_name(int model);
const char *vm_priority_name(int priority);
const char *offline_action_name(int action);
const char *panic_device_name(int device);
const char *guest_agent_name(int agent);

/* A name of a VM or a node: 1–63 of a-z A-Z 0-9 . _ -, beginning with a letter or a digit. */
bool name_ok(const char *name);

/* Fills what is left open: ids, slots, machine type, CPU model, vcpus 1, the restart budget. Never touches what is set. The
 * uuid and the MACs need randomness and are the caller's (api). */
void vm_def_pin(struct vm_def *def);

/* As watari writes them: lower case. */
bool vm_uuid_ok(const char *uuid);

/* Equal definitions have equal digests; never 0. */
uint64_t vm_def_digest(const struct vm_def *def);

/* 0, or -1 with ERR_INVALID and the rule that is broken. Checks the definition alone, not what exists anywhere. */
int vm_def_check(const struct vm_def *def, struct err *err);
