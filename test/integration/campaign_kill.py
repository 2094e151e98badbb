# SPDX-License-Identifier: Apache-2.0
"""Every fault at every step of a move: the outcome is one of the allowed ones (design §6), never two copies, never a
second resume.

A step is short; so that a fault hits it exactly, the process that would end it is stopped first, and goes on right after
the fault. All rows: /usr/bin/python3 -m pytest test/integration/campaign_kill.py (4 to 7 minutes); some of them with WATARI_KILL=copy,
=power-target or =copy-power-target. ./check runs a few (test_kill.py).

Steps:
    prepare   the target's QEMU comes up                          (its QEMU is stopped)
    copy      the guest runs, its memory is being saved           (the source's watari-stream is stopped)
    seal      the guest is stopped, its state durable, the log does not know it yet   (the source's watarid is stopped)
    load      sealed and committed, the target loads              (the target's QEMU is stopped)
    resume    consumed, the guest is about to run on the target   (the target's watarid is stopped)
    filling   it runs there, pages are still coming in            (the target's watari-stream is stopped)
"""
import json
import os
import re
import time

import pytest

from cluster import (DAEMON, QEMU, STREAM, Api, ApiError, CopyWatch, Freezer, Guest, News, kill, pids,
                     wait_agreed, wait_dead, wait_synced)
from lab import BUILD, Lab, wait_until

NODES = ["n1", "n2", "n3"]

# What must become of it. memory: kept, lost (the guest has rebooted, as after a power cut) or either; at: where it runs in the end;
# blocked: nothing may run it until the daemon or the node is back; task: how the move ends.
KEPT_AT_SOURCE = {"memory": "kept", "at": "source", "blocked": False, "task": "failed"}
KEPT_AT_TARGET = {"memory": "kept", "at": "target", "blocked": False, "task": "done"}
LOST = {"memory": "lost", "at": "any", "blocked": False, "task": "failed"}


def but(outcome, **changes):
    return {**outcome, **changes}


EARLY = {  # the state is not sealed: it never counts
    "daemon-source": but(KEPT_AT_SOURCE, blocked=True),
    "daemon-target": KEPT_AT_SOURCE,
    "qemu-source": but(LOST, at="source"),
    "qemu-target": KEPT_AT_SOURCE,
    "power-source": but(LOST, blocked=True),
    "power-target": KEPT_AT_SOURCE,
}
TABLE = {
    # A target that is lost before anything was copied is tried again: there where it is back in time.
    "prepare": but(EARLY, **{"power-target": {"memory": "kept", "at": "any", "blocked": False, "task": "any"}}),
    "copy": EARLY,
    # A QEMU that is killed after its state became durable: SEALED may be told before its death is.
    "seal": but(EARLY, **{"qemu-source": {"memory": "either", "at": "any", "blocked": False, "task": "any"}}),
    "load": {
        "daemon-source": KEPT_AT_TARGET,
        "daemon-target": KEPT_AT_SOURCE,
        "qemu-source": KEPT_AT_TARGET,
        "qemu-target": KEPT_AT_SOURCE,
        "power-source": KEPT_AT_TARGET,
        "power-target": KEPT_AT_SOURCE,
    },
    "resume": {
        "daemon-source": KEPT_AT_TARGET,
        "daemon-target": but(KEPT_AT_TARGET, blocked=True, task="failed"),
        "qemu-source": KEPT_AT_TARGET,
        "qemu-target": LOST,
        "power-source": KEPT_AT_TARGET,
        "power-target": but(LOST, blocked=True),
    },
    "filling": {
        "daemon-source": KEPT_AT_TARGET,
        "daemon-target": but(KEPT_AT_TARGET, blocked=True),
        "qemu-source": KEPT_AT_TARGET,
        "qemu-target": but(LOST, task="done"),
        "power-source": KEPT_AT_TARGET,
        "power-target": but(LOST, blocked=True, task="done"),
    },
}
# The helper that splits or serves the stream, and both daemons of the move at once: two of three, so that nothing is
# committed, not even that the VM is blocked; the two come back, and the move goes on or ends.
#
# One that only stands by is replaced when its state is there; one that loads has begun to speak to QEMU, which then ends.
EITHER_KEPT = {"memory": "kept", "at": "any", "blocked": False, "task": "any"}
TABLE["copy"] = but(TABLE["copy"], **{"stream-source": KEPT_AT_SOURCE, "stream-target": KEPT_AT_TARGET,
                                        "daemon-both": EITHER_KEPT})
TABLE["load"] = but(TABLE["load"], **{"stream-target": KEPT_AT_SOURCE, "daemon-both": EITHER_KEPT})
# Pages that nobody brings any more: the guest cannot go on.
TABLE["filling"] = but(TABLE["filling"], **{"stream-target": but(LOST, task="done")})

ROWS = [(step, fault) for step, faults in TABLE.items() for fault in faults]


def chosen():
    want = os.environ.get("WATARI_KILL", "all")
    return [row for row in ROWS if want in ("all", *row, "-".join(row))]


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=3) as lab:
        wait_synced(lab)
        yield lab


@pytest.fixture(scope="module")
def the_guest(lab):
    return Guest(lab, "web", memory="256M", disk_mib=16, append="watari.fill_mib=64 watari.load=mem,disk watari.load_mib=16 "
                 "watari.load_rate=1000 watari.disk_mib=8").create()


@pytest.fixture
def guest(lab, the_guest):
    """On, whole, at rest; the cluster too."""
    lab.up()
    wait_synced(lab)
    # A node that loses its power for the third time in an hour is quarantined; deaths are counted over 15 minutes, and the
    # fourth would end the guest for good: each row begins with a clean record.
    for node in NODES:
        lab.cli_raw("n1", "node", "resume", node, check=False)  # refused where nothing is counted
    if the_guest.show().get("deaths"):
        if the_guest.state() == "online":
            the_guest.cli("vm", "stop", "web")
        the_guest.start()
    if the_guest.state() != "online":
        the_guest.start()
    the_guest.wait()
    the_guest.wait_filled()
    return the_guest


class Move:
    """One move from where the guest is, watched from the third node, brought to a step and held there."""

    def __init__(self, lab, guest, freezer):
        self.lab, self.guest, self.freezer = lab, guest, freezer
        self.source = guest.show()["node"]
        self.target, self.third = [node for node in NODES if node != self.source]
        self.task = None
        self.late = False  # the step was over when the fault came

    def begin(self):
        self.task = self.guest.move(self.target, "--no-wait", node=self.third)["task"]

    def to_step(self, step, news):
        getattr(self, f"to_{step}")(news)

    def to_prepare(self, news):
        qemu = self.freezer.catch(self.target, QEMU)
        self.begin()
        news.wait_phase("prepare")
        qemu()

    def to_copy(self, news):
        stream = self.freezer.catch(self.source, STREAM)
        self.begin()
        news.wait_phase("copy")
        stream()

    def to_seal(self, news):
        stream = self.freezer.catch(self.source, STREAM)
        qemu, daemon = self.guest.qemu(self.source)[0], pids(self.lab, self.source, DAEMON)[0]
        self.begin()
        news.wait_phase("copy")
        copying = stream()
        # It has to say that it is ready before the daemon gives QEMU its orders; then its first bytes can wait.
        os.kill(copying, 18)
        wait_until(lambda: self.migrating(qemu), 20, "QEMU to send", every=0.001)
        os.kill(copying, 19)
        # What follows is between QEMU and watari-stream; the daemon that would tell of it is stopped.
        self.freezer.freeze(daemon)
        os.kill(copying, 18)
        manifest = self.guest.state_dir(self.task) / "manifest"
        wait_until(manifest.exists, 20, "the manifest", every=0.002)
        with Api(self.lab, self.third) as api:
            assert api.call("vm.show", vm="web")["phase"] == "copy", "the copy was too fast for this test"

    @staticmethod
    def migrating(pid):
        return any(thread_name(pid, thread) == "live_migration" for thread in os.listdir(f"/proc/{pid}/task"))

    def to_load(self, news):
        stream = self.freezer.catch(self.source, STREAM)
        self.begin()
        news.wait_phase("copy")
        copying = stream()
        self.freezer.freeze(self.guest.qemu(self.target)[0])
        os.kill(copying, 18)
        news.wait_phase("load")
        # The third node may tell it before the target begins; what is struck then still stands by.
        record = self.lab.root(self.target) / "run/watari/vm" / self.guest.uuid / "instance.json"
        wait_until(lambda: json.loads(record.read_text(encoding="utf-8"))["step"] == "load", 20, "the target to load",
                   every=0.002)

    def to_resume(self, news):
        """The one step that nothing else can hold: the target's daemon is stopped as soon as the third node's tells."""
        daemon = pids(self.lab, self.target, DAEMON)[0]
        self.begin()
        news.wait_phase("resume")
        self.freezer.freeze(daemon)
        time.sleep(0.3)
        with Api(self.lab, self.third) as api:
            self.late = api.call("vm.show", vm="web")["phase"] != "resume"
        print("came right after RESUMED" if self.late else "held before RESUMED")

    def to_filling(self, news):
        stream = self.freezer.catch(self.target, STREAM)
        self.begin()
        loading = stream()
        os.kill(loading, 18)
        news.wait_vm("the guest to run on the target", lambda vm: vm["state"] == "online" and vm["node"] == self.target)
        self.freezer.freeze(loading)
        with Api(self.lab, self.third) as api:
            assert api.call("vm.show", vm="web")["filling"] is True, "the pages came in too fast for this test"

    # --- faults ---

    def strike(self, fault):
        """Returns how to mend it."""
        what, _, whom = fault.partition("-")
        nodes = {"source": [self.source], "target": [self.target], "both": [self.source, self.target]}[whom]
        if what == "power":
            self.lab.power_off(nodes[0])
            return lambda: self.lab.power_on(nodes[0])
        for node in nodes:
            victims = self.guest.qemu(node) if what == "qemu" else pids(self.lab, node,
                                                                        DAEMON if what == "daemon" else STREAM)
            # In these the source has been ended already, as it should: there is nothing left to kill.
            assert victims or (what, node) == ("qemu", self.source), f"no {what} on {node}"
            for pid in victims:
                try:
                    kill(pid)
                except ProcessLookupError:
                    pass
                if what == "stream":
                    self.wait_reaped(pid)
        if what == "daemon":
            return lambda: [self.lab.restart_daemon(node) for node in nodes]
        return lambda: None


    @staticmethod
    def wait_reaped(pid):
        """Its parent, the daemon, has seen its death before the move goes on."""
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 10, f"process {pid} to be reaped", every=0.002)


def thread_name(pid, thread):
    try:
        with open(f"/proc/{pid}/task/{thread}/comm", encoding="utf-8") as comm:
            return comm.read().strip()
    except OSError:
        return ""


def check_log(lab, guest):
    """No state is consumed twice (I3), and every change has its reason (I8)."""
    consumed = []
    for node in NODES:
        with Api(lab, node) as api:
            lines = api.call("log.list", vm="web", count=1000)["lines"]
        consumed.append([found[1] for line in lines if (found := re.search(r"has loaded state (\d+)", line["text"]))
                         and "->" in line["text"]])
        assert len(consumed[-1]) == len(set(consumed[-1])), f"{node}: a state was consumed twice: {consumed[-1]}"
        assert all(line["text"] for line in lines)


def check_one_copy(lab, guest, node):
    """Exactly one QEMU, where the log says, and one guest that answers."""
    wait_until(lambda: [len(guest.qemu(other)) for other in NODES] == [int(other == node) for other in NODES], 20,
               f"one QEMU to be left, on {node}")
    # Frames that go to everybody: if two copies ran, both would answer. (TCP would not take such frames.)
    neighbour = ["10.77.0.50", "lladdr", "ff:ff:ff:ff:ff:ff", "dev", "eth0"]
    lab.client("ip", "neigh", "replace", *neighbour, "nud", "permanent")
    try:
        seen = json.loads(lab.client(BUILD / "lab/probe", "udp", "--to", "10.77.0.50", "--every-ms", 10, "--seconds", 1,
                                     "--json").stdout)
    finally:
        lab.client("ip", "neigh", "del", *neighbour)
    assert seen["duplicates"] == 0 and seen["nonce_changes"] == 0 and seen["answered"] > 20


def fault_at(lab, guest, step, fault):
    allowed = TABLE[step][fault]
    before = guest.check()
    with Freezer(lab) as freezer, CopyWatch(lab, guest.uuid) as copies, lab.probe("udp") as udp:
        udp.wait_first()
        move = Move(lab, guest, freezer)
        with News(lab, move.third) as news:
            move.to_step(step, news)
            mend = move.strike(fault)
            freezer.thaw()
            if allowed["blocked"]:
                blocked = news.wait_vm("the VM to be blocked", lambda vm: vm["state"] == "blocked")
                assert blocked["node"] in (move.source, move.target) and blocked["reason"], blocked
                with Api(lab, move.third) as api, pytest.raises(ApiError) as refused:
                    api.call("vm.start", vm="web")
                assert refused.value.code == "unfit" and "blocked" in refused.value.message
            mend()
            wait_synced(lab)
            ended = guest.wait_task(move.task, node=move.third)
            vm = guest.wait_state("online", 90, node=move.third)
            assert vm["reason"]
        state = guest.wait()
        seen = udp.stop()
    assert not copies.violations, copies.violations
    assert seen["counter_back"] == 0 and seen["nonce_changes"] == int(state["nonce"] != before["nonce"])
    if allowed["memory"] != "either":
        assert (state["nonce"] == before["nonce"]) == (allowed["memory"] == "kept"), "memory"
    if state["nonce"] == before["nonce"]:
        assert state["counter"] > before["counter"]
    task = "done" if move.late else allowed["task"]
    if allowed["at"] != "any":
        assert vm["node"] == getattr(move, allowed["at"]), vm
    assert ended["state"] in ([task] if task != "any" else ["done", "failed"]) and ended["text"]
    guest.check()
    guest.wait_filled()
    check_one_copy(lab, guest, vm["node"])
    guest.wait_no_states()
    wait_until(lambda: not any(pids(lab, node, STREAM) for node in NODES), 20, "no watari-stream to be left")
    wait_agreed(lab)
    check_log(lab, guest)


@pytest.mark.parametrize("step,fault", chosen(), ids=lambda value: value)
def test_fault(lab, guest, step, fault):
    fault_at(lab, guest, step, fault)
