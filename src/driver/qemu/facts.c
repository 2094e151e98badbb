/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/facts.h"

/* All that QEMU's device state depends on. The name, priorities and such may change while the VM is saved. */
static json_t *hardware(const struct vm_def *def)
{
	json_t *disks = json_array();
	json_t *nics = json_array();

	for (uint32_t i = 0; i < def->disk_count; i++) {
		const struct vm_disk *disk = &def->disks[i];
		json_array_append_new(disks,
			json_pack("{s:s, s:s, s:s, s:s, s:b, s:i}", "id", disk->id, "path", disk->path, "format",
				disk_format_name((int)disk->format), "bus", disk_bus_name((int)disk->bus), "read_only",
				(int)disk->read_only, "slot", (int)disk->slot));
	}
	for (uint32_t i = 0; i < def->nic_count; i++) {
		const struct vm_nic *nic = &def->nics[i];
		json_array_append_new(nics, json_pack("{s:s, s:s, s:s, s:i}", "id", nic->id, "model",
						    nic_model_name((int)nic->model), "mac", nic->mac, "slot", (int)nic->slot));
	}
	json_t *machine = json_pack("{s:s, s:s, s:I, s:I, s:b, s:o, s:o}", "machine", def->machine, "cpu", def->cpu, "memory_mib",
		(json_int_t)def->memory_mib, "vcpus", (json_int_t)def->vcpus, "kernel", (int)(def->kernel[0] != 0), "disks",
		disks, "nics", nics);
	/* Left out where there is none, as states of before know of none. */
	if (def->panic_device)
		json_object_set_new(machine, "panic", json_string(panic_device_name((int)def->panic_device)));
	if (def->guest_agent)
		json_object_set_new(machine, "guest_agent", json_string(guest_agent_name((int)def->guest_agent)));
	return machine;
}

static json_t *common(const struct instance *instance, uint64_t task, uint64_t epoch)
{
	const struct vm_def *def = &instance->record.def;

	return json_pack("{s:s, s:s, s:I, s:I, s:s, s:o}", "cluster", instance->qemu->config.cluster_uuid, "vm", def->uuid,
		"task", (json_int_t)task, "epoch", (json_int_t)epoch, "accel", instance->record.kvm ? "kvm" : "tcg",
		"hardware", hardware(def));
}

json_t *facts_of_save(const struct instance *instance)
{
	json_t *facts = common(instance, instance->record.task, instance->record.epoch);

	json_object_set_new(facts, "name", json_string(instance->record.def.name));
	json_object_set_new(facts, "node", json_string(instance->qemu->config.node_name));
	json_object_set_new(facts, "qemu", json_string(instance->qemu->qemu_version));
	return facts;
}

json_t *facts_to_expect(const struct instance *instance, const struct hv_saved *saved)
{
	return common(instance, saved->task, saved->epoch);
}
