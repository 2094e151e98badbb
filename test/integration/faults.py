# SPDX-License-Identifier: Apache-2.0
"""Faults drawn by seed against a real cluster: cords, cuts of both and of one direction, stopped and killed daemons, dead
guests, a storage that is read-only, fails or hangs on one node, or fails on all; during moves as well. After each, everything is mended, and all VMs must run again.

What must hold, seen from outside: never two copies of a VM (copies.py; the log that each guest keeps on its disk,
writer.py), no VM forgotten, never a majority without power by our hand. A run prints its seed and what was done; the
same seed does the same again: WATARI_SEED=N WATARI_FAULTS=60 /usr/bin/python3 -m pytest -s test/integration/campaign_faults.py
"""
import random
import time

from cluster import wait_agreed
from copies import Copies
from lab import Lab, LabError, wait_until
from writer import Watch

SETTLE_S = 180
VMS = ["w1", "w2"]


def boot(lab, name, index, node):
    image = lab.store / "shared" / f"{name}.raw"
    with open(image, "wb") as file:
        file.truncate(24 << 20)
    image.chmod(0o666)
    lab.cli("n1", "vm", "create", name, "--memory", "384M", "--disk", f"/srv/watari/{name}.raw,format=raw",
            "--network", f"br0,mac=02:77:02:00:01:{index:02x}", "--kernel", "/srv/watari/guest/vmlinuz",
            "--initrd", "/srv/watari/guest/initrd.img", "--append",
            f"console=ttyS0 quiet panic=1 watari.ip=10.77.0.{80 + index}/24 watari.fill_mib=16 watari.writer=vda")
    lab.cli("n1", "vm", "start", name, "--on", node, "--quiet")
    return image


class Campaign:
    def __init__(self, lab, seed, hold_s):
        self.lab, self.dice, self.hold_s = lab, random.Random(seed), hold_s

    def vms(self):
        """By name, from any node that knows; None while nobody does."""
        for node in self.lab.nodes:
            try:
                if self.lab.cli(node, "status")["synced"]:
                    return {vm["name"]: vm for vm in self.lab.cli(node, "vm", "list")["vms"]}
            except (LabError, TypeError, KeyError):
                continue
        return None

    # Each fault: what is done to a node, and what undoes it.
    def cord(self, node):
        self.lab.power_off(node)

    def cut(self, node):
        self.lab.cut(node, "cluster")

    def cut_in(self, node):
        self.lab.cut(node, "cluster", "--in")

    def cut_out(self, node):
        self.lab.cut(node, "cluster", "--out")

    def loss(self, node):
        self.lab.degrade(node, "cluster", loss=30)

    def stop_watarid(self, node):
        self.lab.stop(node, "watarid")

    def stop_corosync(self, node):
        self.lab.stop(node, "corosync")

    def kill_watarid(self, node):
        self.lab.kill(node, "watarid")

    def kill_corosync(self, node):
        self.lab.kill(node, "corosync")

    def kill_qemu(self, node):
        here = [name for name, vm in (self.vms() or {}).items() if vm["node"] == node and vm["state"] == "online"]
        if here:
            self.lab.kill(node, "qemu", self.dice.choice(here))

    def storage_readonly(self, node):
        self.lab.cut(node, "storage", "readonly")

    def storage_error(self, node):
        self.lab.cut(node, "storage", "error")

    def storage_hang(self, node):
        self.lab.cut(node, "storage", "hang")

    def storage_stuck(self, node):
        self.lab.cut(node, "storage", "stuck")

    def storage_lost_on_all(self, _):
        for node in self.lab.nodes:
            self.lab.cut(node, "storage", "error")

    KINDS = [cord, cut, cut_in, cut_out, loss, stop_watarid, stop_corosync, kill_watarid, kill_corosync, kill_qemu,
             storage_readonly, storage_error, storage_hang, storage_stuck, storage_lost_on_all]

    def move(self):
        """A move begun just before the fault, sometimes; it may be refused, and may fail."""
        name = self.dice.choice(VMS)
        target = self.dice.choice(self.lab.nodes)
        for node in self.lab.nodes:
            if self.lab.cli_raw(node, "vm", "move", name, "--to", target, "--no-wait", check=False).returncode == 0:
                return f"{name} moves to {target}, "
        return ""

    def mend(self):
        """Whatever is off is on, what is cut is whole, what is stopped goes on, what is dead starts."""
        def whole(node):
            """False: it has no power, perhaps since a moment ago: a fence goes on meanwhile."""
            try:
                self.lab.heal(node)
                return self.lab.status()[node]["power"] == "on"
            except LabError:
                return False
        off = [node for node in self.lab.nodes if not whole(node)]
        for node in set(self.lab.nodes) - set(off):
            for daemon in ("watarid", "corosync"):
                self.lab.tool("cont", node, daemon, check=False)
        def powered():
            """False: a fence that was under way has switched it off again in the middle of its boot."""
            try:
                self.lab.power_on(*off)
                return True
            except LabError:
                return False
        if off:
            wait_until(powered, 60, f"{off} to have power", every=0.5)
        self.lab.tool("up", "--nodes", self.lab.count, "--build", self.lab.build, *self.lab.options)

    def release(self, vms):
        """What an administrator does: a VM under which two nodes died in a row, as they do here, is not started again
        by itself (B18); it is taken for innocent."""
        for name, vm in vms.items():
            if vm["state"] == "failed" and "one after the other" in vm["reason"]:
                print(f"   {name}: {vm['reason']}: started by hand", flush=True)
                for node in self.lab.nodes:
                    if self.lab.cli_raw(node, "vm", "start", name, "--no-wait", check=False).returncode == 0:
                        break

    def settled(self):
        vms = self.vms()
        if vms:
            self.release(vms)
        if not vms or any(vms[name]["state"] != "online" for name in VMS):
            return False
        for node in self.lab.nodes:
            try:
                if any(each["state"] != "online" for each in self.lab.cli(node, "node", "list")["nodes"]):
                    return False
            except LabError:
                return False
        return True

    def one(self, number):
        node, kind = self.dice.choice(self.lab.nodes), self.dice.choice(self.KINDS)
        moving = self.move() if self.dice.random() < 0.5 else ""
        hold_s = self.dice.uniform(0.5, self.hold_s)
        begin = time.monotonic()
        kind(self, node)
        time.sleep(hold_s)  # how long the fault lasts is drawn too
        self.mend()
        what = f"{number}: {moving}{kind.__name__} {node} for {hold_s:.1f} s"
        try:
            wait_until(self.settled, SETTLE_S, f"everything to run again after {what}", every=0.5)
        except AssertionError:
            print(self.lab.tool("status", check=False).stdout)
            for each in self.lab.nodes:
                print(self.lab.cli_raw(each, "status", check=False).stdout)
                print(self.lab.cli_raw(each, "log", "--lines", "40", check=False).stdout)
            raise
        print(f"{what}: all runs again after {time.monotonic() - begin - hold_s:.1f} s", flush=True)


def most_off_at_once(hardware_log):
    """By our hand: how many nodes a controller had switched off at the same time."""
    off, most = set(), 0
    for _, node, event in hardware_log:
        # "is on" is seen before its daemons are started, whoever switched it on.
        if event.startswith(("power on", "is on")):
            off.discard(node)
        elif event.startswith("controller told off"):
            off.add(node)
        most = max(most, len(off))
    return most


def campaign(seed, faults, hold_s=12):
    """hold_s: the longest time that a fault lasts."""
    print(f"seed {seed}, {faults} faults")
    with Lab(nodes=3, watchdog=5000, storage_fuse=True) as lab, Copies() as copies:
        for node in lab.nodes:
            lab.cli("n1", "fence", "add", f"power-{node}", "--node", node, "--agent", "fence_lab", "--option", f"plug={node}")
        images = {name: boot(lab, name, index, lab.nodes[index]) for index, name in enumerate(VMS)}
        run = Campaign(lab, seed, hold_s)
        wait_until(run.settled, 60, "the VMs to run")
        with Watch(images["w1"]) as first, Watch(images["w2"]) as second:
            for number in range(1, faults + 1):
                run.one(number)
                assert not copies.doubles, f"two copies: {copies.doubles}"
            wait_agreed(lab)
        gaps = {name: [owner["gap_ms"] for owner in watch.check()] for name, watch in (("w1", first), ("w2", second))}
        print(f"gaps between owners, ms: {gaps}")
        assert all(gap is None or gap >= 0 for each in gaps.values() for gap in each)
        hardware_log = lab.hardware_log()
        assert most_off_at_once(hardware_log) <= 1, hardware_log
