# SPDX-License-Identifier: Apache-2.0
"""Storage that is lost under running guests (B10, B11): on one node, and on all. The guest keeps a log on its disk
(writer.py): it says whether one guest at a time wrote it, and whether it was booted anew."""
import os
import time

import pytest

from cluster import DAEMON, pids, stories, wait_synced
from copies import Copies
from faults import boot
from lab import Lab, wait_until
from writer import Watch


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=3, storage_fuse=True) as whole:
        wait_until(lambda: all(node["state"] == "online" for node in whole.cli("n1", "node", "list")["nodes"]), 30,
                   "three nodes online")
        yield whole


@pytest.fixture(scope="module", autouse=True)
def beside(request):
    with stories(request, test_a_watchdog_ends_a_node_whose_guest_cannot_be_killed=a_watchdog_ends_a_node) as begun:
        yield begun


@pytest.fixture
def image(lab):
    """Of a guest that writes, on n1; everything mended and gone afterwards."""
    path = boot(lab, "w1", 0, "n1")
    wait_until(lambda: show(lab)["state"] == "online", 30, "w1 to run")
    yield path
    for node in lab.nodes:
        lab.heal(node, "storage")
    wait_until(lambda: lab.cli("n2", "node", "list")["nodes"][0]["state"] == "online", 30, "n1 back")
    lab.cli("n2", "vm", "stop", "w1")
    lab.cli("n1", "vm", "delete", "w1", "--yes")  # where the next one is created: it knows then that the name is free
    path.unlink()


def show(lab, node="n2"):
    return lab.cli(node, "vm", "show", "w1")


def writes(watch, more=20):
    """Waits for so many records more."""
    count = len(watch.seen)
    wait_until(lambda: len(watch.seen) >= count + more, 60, "the guest to write")


@pytest.mark.parametrize("mode", ["readonly", "error", "hang"])
def test_a_guest_starts_where_its_disks_are_reached(lab, image, mode):
    """B10: paused is no proof. It is killed, and one guest at a time has written, with a silence between both."""
    with Copies() as copies, Watch(image) as watch:
        writes(watch)
        lab.cut("n1", "storage", mode)
        wait_until(lambda: "for its disks" in show(lab)["reason"], 20, "the loss to be known")
        began = time.monotonic()
        wait_until(lambda: show(lab)["state"] == "online" and show(lab)["node"] != "n1", 40, "w1 to run elsewhere")
        print(f"{mode}: elsewhere {time.monotonic() - began:.1f} s after the loss was known")
        writes(watch)
        lab.heal("n1", "storage")
        writes(watch)
        owners = watch.check()
        assert not copies.doubles
    assert len(owners) == 2 and owners[1]["gap_ms"] > 0, owners
    why = lab.cli_raw("n3", "why", "vm/w1").stdout
    assert "does not reach its disks" in why, why
    assert not any(node["reason"].startswith("left") for node in lab.cli("n2", "node", "list")["nodes"]), "nobody was fenced"


def test_a_short_loss_costs_a_pause(lab, image):
    """A path that is away for some seconds: the guest goes on where it is, and nothing is started anew."""
    with Watch(image) as watch:
        writes(watch)
        lab.cut("n1", "storage", "error")
        wait_until(lambda: "for its disks" in show(lab)["reason"], 15, "the loss to be known")
        lab.heal("n1", "storage")
        writes(watch)
        wait_until(lambda: "reached again" in show(lab)["reason"], 15, "the end to be known")
        assert len(watch.check()) == 1
    assert show(lab)["node"] == "n1"


@pytest.mark.parametrize("mode", ["error", "hang"])
def test_storage_lost_on_all_nodes_lets_the_guest_wait(lab, image, mode):
    """B11: no fence, no kill; with the storage back the same guest goes on."""
    with Watch(image) as watch:
        writes(watch)
        for node in lab.nodes:
            lab.cut(node, "storage", mode)
        wait_until(lambda: "does not reach them either" in show(lab)["reason"], 60, "others to be asked")
        time.sleep(20)  # the loss lasts: longer than one node would be given
        assert show(lab)["node"] == "n1" and show(lab)["state"] == "online"
        for node in lab.nodes:
            lab.heal(node, "storage")
        writes(watch)
        wait_until(lambda: "reached again" in show(lab)["reason"], 20, "the end to be known")
        time.sleep(15)  # what was asked before the end, and answered after it, must not end the guest
        writes(watch)
        assert len(watch.check()) == 1, "the same boot of the guest"
    assert all(node["state"] == "online" for node in lab.cli("n2", "node", "list")["nodes"])


def test_a_guest_that_hangs_with_its_storage_is_not_doubled(lab, image):
    """B10: QEMU waits in the kernel, deaf to SIGKILL. Nothing starts elsewhere before its death is proven."""
    with Copies() as copies, Watch(image) as watch:
        writes(watch)
        lab.cut("n1", "storage", "stuck")
        wait_until(lambda: "QEMU does not die on n1" in show(lab)["reason"], 60, "it to be known that QEMU does not die")
        assert "reboot n1" in show(lab)["reason"], "no device, no watchdog: a person is told what to do"
        assert show(lab)["node"] == "n1"
        lab.heal("n1", "storage")
        wait_until(lambda: show(lab)["state"] == "online" and show(lab)["node"] != "n1", 40, "w1 to run elsewhere")
        writes(watch)
        assert len(watch.check()) == 2
        assert not copies.doubles


def test_a_storage_that_is_stuck_keeps_no_daemon_from_ending(lab):
    """Opening a VM's files hangs in the kernel, deaf to SIGKILL; a stop of the daemon has its end all the same."""
    image = boot(lab, "w1", 0, "n2")
    wait_until(lambda: show(lab)["state"] == "online", 30, "w1 to run")
    lab.cli("n2", "vm", "stop", "w1")
    daemon, = pids(lab, "n1", DAEMON)
    lab.cut("n1", "storage", "stuck")
    try:
        lab.cli_raw("n2", "vm", "start", "w1", "--on", "n1", "--no-wait")
        wait_until(lambda: len(pids(lab, "n1", "watari-files")) > 1, 20, "n1 to open the disk")
        lab.exec("n1", "pkill", "-TERM", "-x", "watarid")
        # Not even a thread of it is left: the process could not be reaped then.
        wait_until(lambda: not os.path.exists(f"/proc/{daemon}"), 20, "watarid to be gone")
    finally:
        lab.heal("n1", "storage")
        lab.restart_daemon("n1")
    wait_synced(lab)
    wait_until(lambda: show(lab)["state"] in ("online", "off"), 60, "the start to have come to an end")
    if show(lab)["state"] == "online":
        lab.cli("n2", "vm", "stop", "w1")
    lab.cli("n1", "vm", "delete", "w1", "--yes")
    image.unlink()


def test_a_node_whose_guest_cannot_be_killed_is_switched_off(lab, image):
    """B10: with a device that can prove it, the node leaves the cluster and is fenced; no one has to come."""
    lab.cli("n2", "fence", "add", "power-n1", "--node", "n1", "--agent", "fence_lab", "--option", "plug=n1")
    try:
        with Copies() as copies, Watch(image) as watch:
            writes(watch)
            lab.cut("n1", "storage", "stuck")
            wait_until(lambda: show(lab)["state"] == "online" and show(lab)["node"] != "n1", 90, "w1 to run elsewhere")
            assert lab.status()["n1"]["power"] == "off"
            writes(watch)
            assert len(watch.check()) == 2
            assert not copies.doubles
        why = lab.cli_raw("n2", "why", "vm/w1").stdout
        assert "QEMU does not die on n1" in why and "fenced" in why, why
    finally:
        lab.cli("n2", "fence", "remove", "power-n1")
        lab.power_on("n1")


def test_a_watchdog_ends_a_node_whose_guest_cannot_be_killed(beside):
    """The same without any device: the node's own watchdog is the proof."""
    beside["test_a_watchdog_ends_a_node_whose_guest_cannot_be_killed"].result()


def a_watchdog_ends_a_node():
    with Lab(nodes=3, storage_fuse=True, watchdog=5000) as lab:
        wait_until(lambda: all(node["watchdog_ms"] for node in lab.cli("n1", "node", "list")["nodes"]), 60, "watchdogs armed")
        image = boot(lab, "w1", 0, "n1")
        wait_until(lambda: show(lab)["state"] == "online", 30, "w1 to run")
        with Copies() as copies, Watch(image) as watch:
            writes(watch)
            lab.cut("n1", "storage", "stuck")
            wait_until(lambda: show(lab)["state"] == "online" and show(lab)["node"] != "n1", 120, "w1 to run elsewhere")
            writes(watch)
            assert len(watch.check()) == 2
            assert not copies.doubles
