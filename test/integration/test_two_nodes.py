# SPDX-License-Identifier: Apache-2.0
"""Two nodes, alone (two_node) and with a witness (corosync-qdevice, corosync-qnetd): whoever goes on has proof, nobody is shot twice."""
import re
import time

import pytest

from cluster import DAEMON, Guest, add_power, pids, refusal, says, wait_synced
from lab import Lab, wait_until


@pytest.fixture(scope="module", params=["witness", "two_node"])
def lab(request):
    with Lab(nodes=2, witness=request.param == "witness") as whole:
        whole.witness = request.param == "witness"
        add_power(whole, *whole.nodes)
        yield whole


def votes(lab):
    told = lab.exec("n1", "corosync-quorumtool", "-s", check=False).stdout
    return int(re.search(r"Total votes: +(\d+)", told)[1])


@pytest.fixture
def web(lab):
    """A guest on n2; everything is mended afterwards."""
    wait_synced(lab, timeout=60)
    for node in lab.nodes:  # each test takes their power, as flapping nodes lose it
        lab.cli_raw("n1", "node", "resume", node, check=False)
    guest = Guest(lab, "web", memory="96M", append="watari.load=none watari.fill_mib=16", networks=()).create()
    guest.start("n2")
    assert set(guest.running()) == {"n2"}
    yield guest
    for node in lab.nodes:
        lab.bmc(node)
    lab.power_on(*lab.nodes)
    for node in lab.nodes:
        lab.heal(node)
    wait_synced(lab, timeout=60)
    guest.delete()


def test_a_pulled_cord_is_proven_and_its_guest_started(lab, web):
    lab.power_off("n2")
    wait_until(lambda: web.is_online("n1"), 60, "the guest on n1")
    pid = web.running()
    lab.power_on("n2")
    wait_synced(lab, timeout=60)
    assert web.running() == pid and web.is_online("n1")


def test_a_cut_between_them_leaves_exactly_one(lab, web):
    boots = {node: lab.boot_id(node) for node in lab.nodes}
    lab.cut("n2", "cluster")
    wait_until(lambda: "off" in [state["power"] for state in lab.status().values()], 60,
               "one of them to be switched off")
    loser = next(node for node, state in lab.status().items() if state["power"] == "off")
    winner = "n1" if loser == "n2" else "n2"
    if lab.witness:
        assert winner == "n1", "n2 is cut off from the witness"
    wait_until(lambda: web.is_online(winner), 60, f"the guest on {winner}")
    pid = web.running()
    # It comes back and is still cut off: it must not shoot the other one.
    lab.power_on(loser)
    if loser == "n2":
        lab.cut("n2", "cluster")
    until = time.monotonic() + 8  # a fence would take less: see above
    while time.monotonic() < until:
        assert web.running() == pid
        time.sleep(0.5)
    assert lab.boot_id(winner) == boots[winner]
    lab.heal("n2", "cluster")
    wait_synced(lab, timeout=60)
    assert web.running() == pid and lab.boot_id(winner) == boots[winner]


def test_without_proof_a_half_waits_and_says_what_would_help(lab, web):
    """No device answers for n2, and there is no watchdog: only a person knows. Until he says so nothing starts."""
    lab.bmc("n2", "gone")
    lab.power_off("n2")
    wait_until(lambda: lab.cli("n1", "status")["hint"], 30, "n1 to wait")
    # Its device fails over and over; the wait does not end by that.
    wait_until(lambda: lab.cli("n1", "node", "show", "n2")["fencing"]["rounds_failed"] > 1, 60, "two rounds to fail")
    status = lab.cli("n1", "status")
    assert not status["synced"] and status["nodes_online"] == 1, status
    assert "confirm-off n2 --yes n2" in status["hint"] and "power-n2" in status["reason"], status
    n2 = lab.cli("n1", "node", "show", "n2")
    assert n2["state"] == "lost" and n2["fencing"]["phase"] != "none", n2
    assert "confirm-off n2" in refusal(lab, "n1", "vm", "stop", "web")[1]
    for what in ("node/n2", "vm/web"):
        why = lab.cli_raw("n1", "why", what).stdout
        assert "power-n2" in why and "confirm-off n2" in why, why
    # It has quorum: to force one is not what helps, and it says so.
    assert "has quorum" in refusal(lab, "n1", "cluster", "force-quorum", "--yes", "n1")[1]
    assert "typed" in refusal(lab, "n1", "node", "confirm-off", "n2")[1]
    assert not web.running()
    lab.cli("n1", "node", "confirm-off", "n2", "--yes", "n2")
    wait_until(lambda: web.is_online("n1"), 30, "the guest on n1")
    assert not lab.cli("n1", "status")["hint"]
    assert "confirmed" in lab.cli_raw("n1", "why", "vm/web").stdout


def test_a_node_that_starts_alone_waits_for_the_other_or_a_person(lab, web):
    """wait_for_all, and with the witness nothing like it: after a loss of both, one alone may go on only where the witness
    votes for it. Else it says what it lacks, and what a person may do and risks by that."""
    if lab.witness:
        pytest.skip("the witness's vote is quorum: see the tests before")
    lab.bmc("n2", "gone")
    lab.power_off("n1", "n2")
    lab.power_on("n1")
    wait_until(lambda: "no quorum" in (says(lab, "n1", "status") or {}).get("reason", ""), 30, "n1 to wait")
    status, said = refusal(lab, "n1", "vm", "start", "web")
    assert status == 106 and "quorum" in said
    # Whether it knows web yet hangs on how old its last snapshot is; it says in both cases that it does not act.
    done = lab.cli_raw("n1", "why", "vm/web", check=False)
    said = done.stdout + done.stderr
    assert done.returncode == (0 if "vm web is" in said else 106) and "no quorum" in said, said
    assert "force-quorum" in lab.cli("n1", "status")["hint"]
    assert not web.running()
    assert "typed" in refusal(lab, "n1", "cluster", "force-quorum")[1]
    assert "What you risk" in " ".join(lab.cli_raw("n1", "cluster", "force-quorum", "--help").stdout.split())
    lab.cli("n1", "cluster", "force-quorum", "--yes", "n1")
    # Quorum is no proof: n2 may still run it.
    wait_until(lambda: web.state("n1") == "blocked", 30, "n1 to say what else it lacks")
    assert not web.running() and "confirm-off n2" in refusal(lab, "n1", "vm", "stop", "web")[1]
    lab.cli("n1", "node", "confirm-off", "n2", "--yes", "n2")
    wait_until(lambda: web.is_online("n1"), 30, "the guest on n1")


def test_a_witness_may_take_all_its_time():
    """corosync-qdevice says nothing for the whole 30 s that corosync waits for it by default. Corosync answers hardly anything meanwhile,
    and does not hang: n1 remains the one that may go on alone, and does when the vote comes."""
    with Lab(nodes=2, witness="default") as lab:
        add_power(lab, "n2")
        wait_synced(lab)
        here, web = (Guest(lab, name, memory="96M", append="watari.load=none watari.fill_mib=16", networks=()).create().start(node)
                     for name, node in (("here", "n1"), ("web", "n2")))
        before = lab.boot_id("n1"), pids(lab, "n1", DAEMON), here.running()
        lab.stop("n1", "qdevice")
        lab.power_off("n2")
        wait_until(lambda: lab.cli("n1", "status")["reason"] == "no quorum", 60, "corosync to wait no longer")
        assert not web.running()
        lab.cont("n1", "qdevice")
        wait_until(lambda: web.is_online("n1"), 30, "the guest on n1")
        assert (lab.boot_id("n1"), pids(lab, "n1", DAEMON), here.running()) == before


def test_a_lost_witness_harms_nobody(lab, web):
    if not lab.witness:
        pytest.skip("there is none")
    boots, pid = [lab.boot_id(node) for node in lab.nodes], web.running()
    lab.power_off("witness")
    wait_until(lambda: votes(lab) == 2, 40, "its vote to be gone")
    Guest(lab, "late", networks=()).create().delete()
    wait_synced(lab)
    assert web.running() == pid
    lab.power_on("witness")
    wait_until(lambda: votes(lab) == 3, 40, "its vote again")
    wait_synced(lab)
    assert web.running() == pid and [lab.boot_id(node) for node in lab.nodes] == boots
