# SPDX-License-Identifier: Apache-2.0
"""What is left of a cluster after the power went: a survivor that is told to go on. Proof before a start, and nothing that was
acknowledged is lost."""
import pytest

from copies import Copies
from lab import Lab, LabError, wait_until

KERNEL = ("--kernel", "/srv/watari/guest/vmlinuz", "--initrd", "/srv/watari/guest/initrd.img", "--append",
          "console=ttyS0 quiet panic=1 watari.load=none watari.fill_mib=16")


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=3) as whole:
        for node in ("n1", "n2"):  # n3 has none: nothing but a person's word proves it off
            whole.cli("n1", "fence", "add", f"power-{node}", "--node", node, "--agent", "fence_lab", "--option", f"plug={node}")
        yield whole


def says(lab, node, *args):
    """The node's answer; None where it has none to give."""
    try:
        return lab.cli(node, *args)
    except LabError:
        return None


def is_whole(lab):
    listed = [says(lab, node, "status") for node in lab.nodes]
    return all(status and status["synced"] and status["nodes_online"] == 3 for status in listed)


def vms(lab, node):
    listed = says(lab, node, "vm", "list")
    return {vm["name"]: vm for vm in listed["vms"]} if listed else {}


def qemus(lab, vm):
    return [node for node in lab.nodes if says_running(lab, node, vm)]


def says_running(lab, node, vm):
    return lab.exec(node, "pgrep", "-f", f"[q]emu-system.*guest={vm},", check=False).returncode == 0


def create(lab, name):
    lab.cli("n1", "vm", "create", name, "--memory", "96M", *KERNEL)


def refusal(lab, node, *args):
    with pytest.raises(LabError) as refused:
        lab.cli(node, *args)
    return refused.value.status, refused.value.stderr


def force(lab, node="n1"):
    return lab.cli("n1", "cluster", "force-quorum", "--yes", node)


def test_a_survivor_is_told_to_go_on(lab):
    wait_until(lambda: is_whole(lab), 60, "three nodes online")
    for name, node in (("web", "n2"), ("db", "n3")):
        create(lab, name)
        lab.cli("n1", "vm", "start", name, "--on", node)
    assert "this node has quorum" in refusal(lab, "n1", "cluster", "force-quorum", "--yes", "n1")[1]

    lab.power_off("n2", "n3")
    wait_until(lambda: not lab.cli("n1", "status")["quorate"], 30, "quorum to be lost")
    assert "no quorum" in lab.cli("n1", "status")["reason"]
    assert "not the name of this node" in refusal(lab, "n1", "cluster", "force-quorum", "--yes", "n2")[1]
    assert "typed" in refusal(lab, "n1", "cluster", "force-quorum")[1]
    assert not qemus(lab, "web") and not qemus(lab, "db")
    with Copies() as copies:
        force(lab)
        wait_until(lambda: vms(lab, "n1").get("web", {}).get("state") == "online", 60, "web on n1: n2's device says off")
        assert vms(lab, "n1")["web"]["node"] == "n1" and qemus(lab, "web") == ["n1"]
        # Of n3 there is no proof: its VM waits, however long it takes.
        db = vms(lab, "n1")["db"]
        assert db["state"] == "blocked" and "no proof" in db["reason"], db
        assert "typed" in refusal(lab, "n1", "node", "confirm-off", "n3")[1]
        assert refusal(lab, "n1", "node", "confirm-off", "n3", "--yes", "n2")[0]
        assert refusal(lab, "n1", "node", "confirm-off", "n1", "--yes", "n1")[0]
        lab.cli("n1", "node", "confirm-off", "n3", "--yes", "n3")
        wait_until(lambda: vms(lab, "n1")["db"]["state"] == "online", 30, "db on n1")
        create(lab, "late")
        lab.power_on("n3", "n2")
        wait_until(lambda: is_whole(lab), 60, "three nodes online again")
    assert not copies.doubles
    for node in lab.nodes:
        assert set(vms(lab, node)) == {"web", "db", "late"}, "what was acknowledged by the survivor"
    assert qemus(lab, "web") == ["n1"] and qemus(lab, "db") == ["n1"]
    lab.cli("n1", "vm", "delete", "late", "--yes")
    for name in ("web", "db"):
        lab.cli("n1", "vm", "stop", name)
        lab.cli("n1", "vm", "delete", name, "--yes")
