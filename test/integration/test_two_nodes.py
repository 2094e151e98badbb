# SPDX-License-Identifier: Apache-2.0
"""Two nodes, alone (two_node) and with a witness (corosync-qdevice, corosync-qnetd): whoever goes on has proof, nobody is shot twice."""
import re
import time

import pytest

from lab import Lab, LabError, wait_until

KERNEL = ("--kernel", "/srv/watari/guest/vmlinuz", "--initrd", "/srv/watari/guest/initrd.img", "--append",
          "console=ttyS0 quiet panic=1 watari.load=none watari.fill_mib=16")


@pytest.fixture(scope="module", params=["witness", "two_node"])
def lab(request):
    with Lab(nodes=2, witness=request.param == "witness") as whole:
        whole.witness = request.param == "witness"
        for node in whole.nodes:
            whole.cli("n1", "fence", "add", f"power-{node}", "--node", node, "--agent", "fence_lab", "--option", f"plug={node}")
        yield whole


def qemus(lab):
    """Of VM web: who runs it, {node: pid}."""
    found = {}
    for node in lab.nodes:
        done = lab.exec(node, "pgrep", "-f", "[q]emu-system.*guest=web", check=False)
        if done.returncode == 0:
            found[node] = done.stdout.strip()
    assert len(found) <= 1, f"two copies: {found}"
    return found


def says(lab, node, *args):
    """The node's answer; None where it has none to give."""
    try:
        return lab.cli(node, *args)
    except LabError:
        return None


def is_whole(lab):
    listed = [says(lab, node, "node", "list") for node in lab.nodes]
    return all(one and [node["state"] for node in one["nodes"]] == ["online"] * 2 for one in listed)


def runs_on(lab, node):
    vm = says(lab, node, "vm", "show", "web")
    return bool(vm) and vm["state"] == "online" and vm["node"] == node and set(qemus(lab)) == {node}


def votes(lab):
    told = lab.exec("n1", "corosync-quorumtool", "-s", check=False).stdout
    return int(re.search(r"Total votes: +(\d+)", told)[1])


@pytest.fixture
def web(lab):
    """A guest on n2; everything is mended afterwards."""
    wait_until(lambda: is_whole(lab), 60, "both nodes online")
    lab.cli("n1", "vm", "create", "web", "--memory", "96M", *KERNEL)
    lab.cli("n1", "vm", "start", "web", "--on", "n2")
    assert set(qemus(lab)) == {"n2"}
    yield
    lab.power_on(*lab.nodes)
    for node in lab.nodes:
        lab.heal(node)
    wait_until(lambda: is_whole(lab), 60, "both nodes online again")
    lab.cli("n1", "vm", "stop", "web")
    lab.cli("n1", "vm", "delete", "web", "--yes")


def test_a_pulled_cord_is_proven_and_its_guest_started(lab, web):
    lab.power_off("n2")
    wait_until(lambda: runs_on(lab, "n1"), 60, "the guest on n1")
    pid = qemus(lab)
    lab.power_on("n2")
    wait_until(lambda: is_whole(lab), 60, "both nodes online again")
    assert qemus(lab) == pid and runs_on(lab, "n1")


def test_a_cut_between_them_leaves_exactly_one(lab, web):
    boots = {node: lab.boot_id(node) for node in lab.nodes}
    lab.cut("n2", "cluster")
    wait_until(lambda: "off" in [state["power"] for state in lab.status().values()], 60,
               "one of them to be switched off")
    loser = next(node for node, state in lab.status().items() if state["power"] == "off")
    winner = "n1" if loser == "n2" else "n2"
    if lab.witness:
        assert winner == "n1", "n2 is cut off from the witness"
    wait_until(lambda: runs_on(lab, winner), 60, f"the guest on {winner}")
    pid = qemus(lab)
    # It comes back and is still cut off: it must not shoot the other one.
    lab.power_on(loser)
    if loser == "n2":
        lab.cut("n2", "cluster")
    until = time.monotonic() + 8  # a fence would take less: see above
    while time.monotonic() < until:
        assert qemus(lab) == pid
        time.sleep(0.5)
    assert lab.boot_id(winner) == boots[winner]
    lab.heal("n2", "cluster")
    wait_until(lambda: is_whole(lab), 60, "both nodes online again")
    assert qemus(lab) == pid and lab.boot_id(winner) == boots[winner]


def test_a_lost_witness_harms_nobody(lab, web):
    if not lab.witness:
        pytest.skip("there is none")
    boots, pid = [lab.boot_id(node) for node in lab.nodes], qemus(lab)
    lab.power_off("witness")
    wait_until(lambda: votes(lab) == 2, 40, "its vote to be gone")
    lab.cli("n1", "vm", "create", "late", "--memory", "96M", *KERNEL)
    lab.cli("n1", "vm", "delete", "late", "--yes")
    assert is_whole(lab) and qemus(lab) == pid
    lab.power_on("witness")
    wait_until(lambda: votes(lab) == 3, 40, "its vote again")
    wait_until(lambda: is_whole(lab), 30, "both nodes online")
    assert qemus(lab) == pid and [lab.boot_id(node) for node in lab.nodes] == boots
