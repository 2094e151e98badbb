/* SPDX-License-Identifier: Apache-2.0 */
#include "model/vm.h"
#include "model/names.h"

#include "base/hash.h"

#include <assert.h>
#include <string.h>

enum { SLOT_FIRST = 3, SLOT_LAST = 30 }; /* 0 host bridge, 1 VGA, 31 ICH9 on q35; 2 the guest agent's channel */

#define DISK_KIND_NAMES(X) X(DISK_SHARED, "shared") X(DISK_LUN, "lun") X(DISK_NET, "net")
NAMES_FUNCTION(disk_kind_name, DISK_KIND_NAMES)

#define DISK_FORMAT_NAMES(X) X(DISK_RAW, "raw") X(DISK_QCOW2, "qcow2")
NAMES_FUNCTION(disk_format_name, DISK_FORMAT_NAMES)

#define DISK_BUS_NAMES(X) X(DISK_VIRTIO, "virtio") X(DISK_SATA, "sata")
NAMES_FUNCTION(disk_bus_name, DISK_BUS_NAMES)

#define NIC_MODEL_NAMES(X) X(NIC_VIRTIO, "virtio") X(NIC_E1000, "e1000")
NAMES_FUNCTION(nic_model_name, NIC_MODEL_NAMES)

#define VM_PRIORITY_NAMES(X) X(PRIORITY_MEDIUM, "medium") X(PRIORITY_HIGH, "high") X(PRIORITY_LOW, "low") X(PRIORITY_NONE, "none")
NAMES_FUNCTION(vm_priority_name, VM_PRIORITY_NAMES)

#define OFFLINE_ACTION_NAMES(X) X(OFFLINE_SAVE, "save") X(OFFLINE_SHUTDOWN, "shutdown") X(OFFLINE_SHUTDOWN_FORCED, "shutdown-forced") X(OFFLINE_TURN_OFF, "turn-off")
NAMES_FUNCTION(offline_action_name, OFFLINE_ACTION_NAMES)

#define PANIC_DEVICE_NAMES(X) X(PANIC_DEVICE_NONE, "none") X(PANIC_DEVICE_ISA, "isa")
NAMES_FUNCTION(panic_device_name, PANIC_DEVICE_NAMES)

#define GUEST_AGENT_NAMES(X) X(GUEST_AGENT_NONE, "none") X(GUEST_AGENT_VIRTIO, "virtio")
NAMES_FUNCTION(guest_agent_name, GUEST_AGENT_NAMES)

static const struct field disk_fields[] = {
	SCHEMA_TEXT(1, vm_disk, id),
	SCHEMA_TEXT(2, vm_disk, path),
	SCHEMA_ENUM(3, vm_disk, kind, disk_kind_name, DISK_KIND_COUNT),
	SCHEMA_ENUM(4, vm_disk, format, disk_format_name, DISK_FORMAT_COUNT),
	SCHEMA_ENUM(5, vm_disk, bus, disk_bus_name, DISK_BUS_COUNT),
	SCHEMA_BOOL(6, vm_disk, read_only),
	SCHEMA_U32(7, vm_disk, slot),
};
static SCHEMA_DEFINE(disk_schema, vm_disk, disk_fields);

static const struct field nic_fields[] = {
	SCHEMA_TEXT(1, vm_nic, id),
	SCHEMA_TEXT(2, vm_nic, bridge),
	SCHEMA_TEXT(3, vm_nic, mac),
	SCHEMA_ENUM(4, vm_nic, model, nic_model_name, NIC_MODEL_COUNT),
	SCHEMA_U32(5, vm_nic, slot),
};
static SCHEMA_DEFINE(nic_schema, vm_nic, nic_fields);

static const struct field def_fields[] = {
	SCHEMA_TEXT(1, vm_def, uuid),
	SCHEMA_TEXT(2, vm_def, name),
	SCHEMA_U32(3, vm_def, memory_mib),
	SCHEMA_U32(4, vm_def, vcpus),
	SCHEMA_TEXT(5, vm_def, machine),
	SCHEMA_TEXT(6, vm_def, cpu),
	SCHEMA_ENUM(7, vm_def, priority, vm_priority_name, PRIORITY_COUNT),
	SCHEMA_ENUM(8, vm_def, offline_action, offline_action_name, OFFLINE_COUNT),
	SCHEMA_TEXT(9, vm_def, kernel),
	SCHEMA_TEXT(10, vm_def, initrd),
	SCHEMA_TEXT(11, vm_def, append),
	SCHEMA_LIST(12, vm_def, disks, disk_count, &disk_schema),
	SCHEMA_LIST(13, vm_def, nics, nic_count, &nic_schema),
	SCHEMA_RECORD(14, vm_def, policy, &vm_policy_schema),
	SCHEMA_ENUM(15, vm_def, panic_device, panic_device_name, PANIC_DEVICE_COUNT),
	SCHEMA_ENUM(16, vm_def, guest_agent, guest_agent_name, GUEST_AGENT_COUNT),
};
SCHEMA_DEFINE(vm_def_schema, vm_def, def_fields);

static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool word_ok(const char *word, const char *extra)
{
	if (!is_alnum(word[0]))
		return false;
	for (const char *c = word; *c; c++)
		if (!is_alnum(*c) && !strchr(extra, *c))
			return false;
	return true;
}

bool name_ok(const char *name)
{
	return strnlen(name, NAME_BYTES) < NAME_BYTES && word_ok(name, "._-");
}

static bool is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

bool vm_uuid_ok(const char *uuid)
{
	for (int i = 0; i < UUID_BYTES - 1; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;
		if (dash ? uuid[i] != '-' : !is_hex(uuid[i]))
			return false;
	}
	return !uuid[UUID_BYTES - 1];
}

static bool mac_ok(const char *mac)
{
	for (int i = 0; i < MAC_BYTES - 1; i++)
		if (i % 3 == 2 ? mac[i] != ':' : !is_hex(mac[i]))
			return false;
	/* The lowest bit of the first octet marks a multicast address. */
	return !mac[MAC_BYTES - 1] && !strchr("13579bdf", mac[1]);
}

static bool slot_used(const struct vm_def *def, uint32_t slot)
{
	for (uint32_t i = 0; i < def->disk_count; i++)
		if (def->disks[i].slot == slot)
			return true;
	for (uint32_t i = 0; i < def->nic_count; i++)
		if (def->nics[i].slot == slot)
			return true;
	return false;
}

static uint32_t slot_free(const struct vm_def *def)
{
	uint32_t slot = SLOT_FIRST;

	while (slot_used(def, slot))
		slot++;
	assert(slot <= SLOT_LAST);
	return slot;
}

void vm_def_pin(struct vm_def *def)
{
	if (!def->vcpus)
		def->vcpus = 1;
	if (!def->machine[0])
		strcpy(def->machine, "pc-q35-7.2");
	if (!def->cpu[0])
		strcpy(def->cpu, "qemu64");
	for (uint32_t i = 0; i < def->disk_count; i++) {
		struct vm_disk *disk = &def->disks[i];
		if (!disk->id[0])
			snprintf(disk->id, sizeof(disk->id), "disk%u", i);
		if (!disk->slot && disk->bus == DISK_VIRTIO)
			disk->slot = slot_free(def);
	}
	for (uint32_t i = 0; i < def->nic_count; i++) {
		struct vm_nic *nic = &def->nics[i];
		if (!nic->id[0])
			snprintf(nic->id, sizeof(nic->id), "net%u", i);
		if (!nic->slot)
			nic->slot = slot_free(def);
	}
	vm_policy_pin(&def->policy);
}

/* Absolute, without "..", so that what is checked is what is opened. */
static bool path_ok(const char *path)
{
	size_t length = strlen(path);

	return path[0] == '/' && !strstr(path, "/../") && !strstr(path, "//") &&
	       (length < 3 || strcmp(path + length - 3, "/..") != 0);
}

static bool id_used_before(const struct vm_def *def, const char *id, uint32_t disks, uint32_t nics)
{
	for (uint32_t i = 0; i < disks; i++)
		if (!strcmp(def->disks[i].id, id))
			return true;
	for (uint32_t i = 0; i < nics; i++)
		if (!strcmp(def->nics[i].id, id))
			return true;
	return false;
}

static int slot_check(const char *id, uint32_t slot, uint32_t *seen, struct err *err)
{
	if (slot < SLOT_FIRST || slot > SLOT_LAST)
		return err_set(err, ERR_INVALID, "%s: PCI slot %u, allowed are %d to %d", id, slot, SLOT_FIRST, SLOT_LAST);
	if (*seen & 1u << slot)
		return err_set(err, ERR_INVALID, "%s: PCI slot %u is used twice", id, slot);
	*seen |= 1u << slot;
	return 0;
}

static bool disk_path_ok(const struct vm_disk *disk)
{
	if (disk->kind != DISK_NET)
		return path_ok(disk->path);
	return !strncmp(disk->path, "nbd:", 4) || !strncmp(disk->path, "iscsi:", 6) || !strncmp(disk->path, "rbd:", 4);
}

static int disks_check(const struct vm_def *def, uint32_t *slots, struct err *err)
{
	for (uint32_t i = 0; i < def->disk_count; i++) {
		const struct vm_disk *disk = &def->disks[i];
		if (!word_ok(disk->id, "_-") || id_used_before(def, disk->id, i, 0))
			return err_set(err, ERR_INVALID, "disks[%u].id '%s': letters, digits, _ and -, each id once", i,
				disk->id);
		if (!disk_path_ok(disk))
			return err_set(err, ERR_INVALID,
				"disk %s: '%s' must be an absolute path without '..' or '//' (kind net: nbd:, iscsi: or rbd:)",
				disk->id, disk->path);
		for (uint32_t j = 0; j < i; j++)
			if (!strcmp(def->disks[j].path, disk->path))
				return err_set(err, ERR_INVALID, "disk %s: '%s' is disk %s already", disk->id, disk->path,
					def->disks[j].id);
		if (disk->bus == DISK_VIRTIO && slot_check(disk->id, disk->slot, slots, err) < 0)
			return -1;
	}
	return 0;
}

static int nics_check(const struct vm_def *def, uint32_t *slots, struct err *err)
{
	for (uint32_t i = 0; i < def->nic_count; i++) {
		const struct vm_nic *nic = &def->nics[i];
		if (!word_ok(nic->id, "_-") || id_used_before(def, nic->id, def->disk_count, i))
			return err_set(err, ERR_INVALID, "nics[%u].id '%s': letters, digits, _ and -, each id once", i,
				nic->id);
		if (!word_ok(nic->bridge, "._-"))
			return err_set(err, ERR_INVALID, "nic %s: '%s' is not a bridge's name", nic->id, nic->bridge);
		if (!mac_ok(nic->mac))
			return err_set(err, ERR_INVALID, "nic %s: '%s' is not a unicast MAC in lower case", nic->id, nic->mac);
		if (slot_check(nic->id, nic->slot, slots, err) < 0)
			return -1;
	}
	return 0;
}

static int boot_check(const struct vm_def *def, struct err *err)
{
	if (!def->kernel[0] && (def->initrd[0] || def->append[0]))
		return err_set(err, ERR_INVALID, "initrd and append need a kernel");
	if (def->kernel[0] && !path_ok(def->kernel))
		return err_set(err, ERR_INVALID, "kernel '%s' must be an absolute path without '..' or '//'", def->kernel);
	if (def->initrd[0] && !path_ok(def->initrd))
		return err_set(err, ERR_INVALID, "initrd '%s' must be an absolute path without '..' or '//'", def->initrd);
	if (!def->kernel[0] && !def->disk_count)
		return err_set(err, ERR_INVALID, "nothing to boot from: give a disk or a kernel");
	return 0;
}

int vm_def_check(const struct vm_def *def, struct err *err)
{
	uint32_t slots = 0;

	if (!name_ok(def->name))
		return err_set(err, ERR_INVALID,
			"name '%s': 1 to 63 of a-z, A-Z, 0-9, '.', '_', '-', the first a letter or digit", def->name);
	if (!vm_uuid_ok(def->uuid))
		return err_set(err, ERR_INVALID, "uuid '%s': not a UUID in lower case", def->uuid);
	if (def->memory_mib < MEMORY_MIB_MIN || def->memory_mib > MEMORY_MIB_MAX)
		return err_set(err, ERR_INVALID, "memory %u MiB: allowed are %d to %d MiB", def->memory_mib, MEMORY_MIB_MIN,
			MEMORY_MIB_MAX);
	if (def->vcpus < 1 || def->vcpus > VCPUS_MAX)
		return err_set(err, ERR_INVALID, "%u vCPUs: allowed are 1 to %d", def->vcpus, VCPUS_MAX);
	if (!word_ok(def->machine, "._-"))
		return err_set(err, ERR_INVALID, "machine '%s': a versioned machine type such as pc-q35-7.2", def->machine);
	if (!word_ok(def->cpu, "._-"))
		return err_set(err, ERR_INVALID, "cpu '%s': a CPU model such as qemu64", def->cpu);
	if (boot_check(def, err) < 0 || disks_check(def, &slots, err) < 0 || nics_check(def, &slots, err) < 0)
		return -1;
	if (vm_policy_check(&def->policy, err) < 0)
		return err_prefix(err, "policy");
	if (def->policy.heartbeat_s && !def->guest_agent)
		return err_set(err, ERR_INVALID,
			"policy: heartbeat_s %u: this machine has no channel to a guest agent. Shut the VM down, then "
			"'vm edit %.20s --guest-agent virtio' adds one",
			def->policy.heartbeat_s, def->name);
	return 0;
}

uint64_t vm_def_digest(const struct vm_def *def)
{
	uint8_t bytes[16 * 1024];
	size_t size = schema_encode(&vm_def_schema, def, bytes, sizeof(bytes));

	assert(size <= sizeof(bytes));
	uint64_t digest = hash64(bytes, size, 0);
	return digest ? digest : 1;
}
