# SPDX-License-Identifier: Apache-2.0
"""libvirt from Debian in a node of the lab, as the peer: `virsh save` and `virsh restore` of the lab's guest.

libvirtd runs without systemd and D-Bus in mount and PID namespaces of the lab, with a configuration, a run directory and
a cache of its own; the machine's libvirt, if it has one, is neither used nor changed. It goes with the lab.
"""
import time

from measure import Away, BenchError, GUEST_IP, LabError, machine_state, wait_until

URI = "qemu:///system"
SAVE_FILE = "/srv/watari/libvirt.save"
# What a quiet default would be: root needs no change of owners on the files, and no cgroup of the machine is touched.
PREPARE = r"""
set -eu
mount -n --make-rprivate /
! mountpoint -q /sys/fs/cgroup || umount -n -l /sys/fs/cgroup
mkdir -p /var/cache/libvirt /run/libvirt /var/lib/libvirt
mount -n -t tmpfs -o mode=0755 cache /var/cache/libvirt
mount -n -t tmpfs -o mode=0755 lib /var/lib/libvirt
rm -rf /etc/libvirt
mkdir /etc/libvirt
cat > /etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
END
cat > /etc/libvirt/libvirtd.conf <<END
listen_tls = 0
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
log_outputs = "3:stderr"
END
exec setsid -f libvirtd --pid-file /run/libvirtd.pid > /run/libvirtd.out 2>&1 < /dev/null
"""
# The same machine as watari builds, by libvirt's words for it: machine type, CPU, devices; both run under TCG.
DOMAIN = """
<domain type='qemu'>
  <name>bench</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <kernel>/srv/watari/guest/vmlinuz</kernel>
    <initrd>/srv/watari/guest/initrd.img</initrd>
    <cmdline>{append}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
  <clock offset='utc'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' io='native'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'>
      <mac address='02:77:02:00:00:32'/>
      <source bridge='br0'/>
      <model type='virtio'/>
    </interface>
    <serial type='null'><target port='0'/></serial>
    <graphics type='vnc' socket='/run/bench.vnc'/>
    <video><model type='vga'/></video>
    <memballoon model='none'/>
  </devices>
</domain>
"""


class Libvirt:
    """with Libvirt(lab, "n1") as libvirt: libvirt.boot(...); libvirt.round(...); libvirt.destroy()"""

    def __init__(self, lab, node, disk):
        self.lab, self.node, self.disk = lab, node, disk

    def __enter__(self):
        self.lab.exec(self.node, "unshare", "--mount", "--propagation", "private", "bash", "-s", input=PREPARE)
        wait_until(self._answers, 60, "libvirtd to answer (its log is /run/libvirtd.out in the node)", every=0.2)
        self.version = self.virsh("version", "--daemon").strip().splitlines()[-1].split()[-1]
        return self

    def __exit__(self, kind, value, trace):
        """Only this libvirtd and its guest: by the pid files that they wrote in the node."""
        self.lab.sh(self.node, """
            for file in /run/libvirt/qemu/bench.pid /run/libvirtd.pid; do
                ! pid=$(cat "$file" 2> /dev/null) || kill -KILL "$pid"
            done; rm -f """ + SAVE_FILE, check=False)

    def _answers(self):
        try:
            return self.virsh("version", timeout=20)
        except LabError:
            return None

    def virsh(self, *args, timeout=120):
        return self.lab.exec(self.node, "virsh", "-q", "-c", URI, *args, timeout=timeout).stdout

    def boot(self, size, load):
        xml = DOMAIN.format(memory_mib=size.memory_mib, append=size.append(load), disk=self.disk)
        self.lab.exec(self.node, "bash", "-c", "cat > /run/bench.xml", input=xml)
        self.virsh("create", "/run/bench.xml")
        self.lab.wait_guest(GUEST_IP, timeout=120)

    def destroy(self):
        self.virsh("destroy", "bench")

    def round(self, size, bypass):
        """One save and one restore, while a client asks."""
        flags = ("--bypass-cache",) if bypass else ()
        state = machine_state(f"libvirt, {size.label}{', --bypass-cache' if bypass else ''}")
        with Away(self.lab) as away:
            begin = time.monotonic()
            self.virsh("save", *flags, "bench", SAVE_FILE)
            saved = time.monotonic()
            self.virsh("restore", *flags, SAVE_FILE)
            restored = time.monotonic()
        bytes_written = int(self.lab.sh(self.node, f"stat -c %s {SAVE_FILE}; rm {SAVE_FILE}"))
        if bytes_written < size.fill_mib << 20:
            raise BenchError(f"{SAVE_FILE} had {bytes_written} bytes, less than the guest's random data")
        return {"blackout_ms": away.blackout_ms, "save_ms": (saved - begin) * 1000, "restore_ms": (restored - saved) * 1000,
                "bytes": bytes_written, "calm_again_ms": away.calm_again_ms, "probe_late_ms": away.late_ms, **state}
