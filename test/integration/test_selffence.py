# SPDX-License-Identifier: Apache-2.0
"""Self-fencing in a real cluster with the lab's watchdogs: who is ended, who ends its guests, and who must not be touched.
The times are checked in virtual time (test/unit/test_selffence.c); here it is the order of things that counts."""
import time

import pytest

from lab import Lab, LabError, wait_until

WATCHDOG_MS = 5000
KERNEL = ("--kernel", "/srv/watari/guest/vmlinuz", "--initrd", "/srv/watari/guest/initrd.img", "--append",
          "console=ttyS0 quiet panic=1 watari.fill_mib=16")  # the guest's own default does not fit so little


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=3, watchdog=WATCHDOG_MS) as whole:
        yield whole


def nodes_of(lab):
    return {node["name"]: node for node in lab.cli("n2", "node", "list")["nodes"]}


def all_armed(lab):
    try:
        nodes = nodes_of(lab)
    except LabError:
        return False
    return len(nodes) == 3 and all(n["state"] == "online" and n["watchdog_ms"] == WATCHDOG_MS for n in nodes.values())


@pytest.fixture
def web(lab):
    """A running guest on n1, all watchdogs armed; everything is mended afterwards."""
    wait_until(lambda: all_armed(lab), 60, "three nodes online with armed watchdogs")
    lab.cli("n1", "vm", "create", "web", "--memory", "128M", *KERNEL)
    lab.cli("n1", "vm", "start", "web", "--on", "n1")
    yield "web"
    lab.power_on(*lab.nodes)
    lab.heal("n1")
    for node in lab.nodes:
        lab.restart_daemon(node)
    wait_until(lambda: all_armed(lab), 60, "the cluster to be whole again")
    if lab.cli("n2", "vm", "show", "web")["state"] == "online":
        lab.cli("n2", "vm", "stop", "web")
    lab.cli("n2", "vm", "delete", "web", "--yes")


def qemu(lab, node):
    """The guest's process in that node; empty: there is none."""
    return lab.exec(node, "pgrep", "-f", "[q]emu-system-x86_64", check=False).stdout.strip()


def owner(lab):
    vm = lab.cli("n2", "vm", "show", "web")
    return vm["node"] if vm["state"] == "online" else None



def hardware(lab, node):
    return [event for _, _, event in lab.hardware_log(node)]


def test_a_node_that_is_cut_off_ends_its_guests_before_others_start_them(lab, web):
    boot = lab.boot_id("n1")
    lab.cut("n1", "network")
    wait_until(lambda: not qemu(lab, "n1"), 30, "the guest's end on n1")
    assert owner(lab) in (None, "n1")  # not elsewhere yet
    wait_until(lambda: owner(lab) in ("n2", "n3"), 30, "the guest elsewhere")
    assert not qemu(lab, "n1")
    assert lab.boot_id("n1") == boot
    wait_until(lambda: "disarmed" in hardware(lab, "n1")[-1], 10, "n1's watchdog disarmed")


def test_a_daemon_that_is_stopped_ends_its_node(lab, web):
    lab.stop("n1", "watarid")
    wait_until(lambda: any("by its watchdog" in event for event in hardware(lab, "n1")[-3:]), 30, "n1's watchdog")
    wait_until(lambda: owner(lab) in ("n2", "n3"), 60, "the guest elsewhere")


def test_a_daemon_that_is_killed_and_comes_back_harms_nobody(lab, web):
    pid, boot = qemu(lab, "n1"), lab.boot_id("n1")
    lab.kill_daemon("n1")
    lab.restart_daemon("n1")
    until = time.monotonic() + 2 * WATCHDOG_MS / 1000
    wait_until(lambda: all_armed(lab), 30, "n1 back with its watchdog armed")
    while time.monotonic() < until:  # longer than any watchdog's time
        assert qemu(lab, "n1") == pid
        time.sleep(0.5)
    assert lab.boot_id("n1") == boot and owner(lab) == "n1"


def test_a_daemon_that_ends_in_order_harms_nobody(lab, web):
    pid, boot = qemu(lab, "n1"), lab.boot_id("n1")
    lab.sh("n1", "kill -TERM $(pgrep -x watarid)")
    wait_until(lambda: "disarmed" in hardware(lab, "n1")[-1], 20, "n1's watchdog disarmed")
    assert nodes_of(lab)["n1"]["watchdog_ms"] == 0
    until = time.monotonic() + 2 * WATCHDOG_MS / 1000
    while time.monotonic() < until:
        assert qemu(lab, "n1") == pid
        time.sleep(0.5)
    lab.restart_daemon("n1")
    wait_until(lambda: all_armed(lab), 30, "n1 back with its watchdog armed")
    assert qemu(lab, "n1") == pid and lab.boot_id("n1") == boot


def test_a_reload_takes_all_or_nothing(lab):
    conf = lab.root("n3") / "etc/watari/watarid.conf"
    good = conf.read_text()

    def hup():
        lab.sh("n3", "kill -HUP $(pgrep -x watarid)")

    wait_until(lambda: all_armed(lab), 60, "three nodes online with armed watchdogs")
    try:
        conf.write_text(good.replace(f"timeout={WATCHDOG_MS}ms", "timeout=3s"))
        line = 1 + conf.read_text().splitlines().index("timeout=3s")
        hup()
        wait_until(lambda: f"watarid.conf:{line}: a watchdog of 3000 ms is too short" in lab.logs("n3"), 20, "the refusal")
        assert nodes_of(lab)["n3"]["watchdog_ms"] == WATCHDOG_MS
        conf.write_text(good.replace(f"timeout={WATCHDOG_MS}ms", "timeout=9s"))
        hup()
        wait_until(lambda: nodes_of(lab)["n3"]["watchdog_ms"] == 9000, 20, "the new time")
        conf.write_text(good.split("[watchdog]")[0])
        hup()
        wait_until(lambda: nodes_of(lab)["n3"]["watchdog_ms"] == 0, 20, "no watchdog")
        wait_until(lambda: "disarmed" in hardware(lab, "n3")[-1], 20, "the timer to be stopped")
        assert "none is configured" in nodes_of(lab)["n3"]["watchdog"]
    finally:
        conf.write_text(good)
        hup()
    wait_until(lambda: all_armed(lab), 30, "the first configuration again")
