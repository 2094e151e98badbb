# SPDX-License-Identifier: Apache-2.0
"""The forecast against reality: what is said to become of a node's VMs does, when its cord is pulled."""
import pytest

from lab import Lab, wait_until

KERNEL = ("--kernel", "/srv/watari/guest/vmlinuz", "--initrd", "/srv/watari/guest/initrd.img", "--append",
          "console=ttyS0 quiet panic=1 watari.fill_mib=16")  # the guest's own default does not fit so little
# Options of each VM: order, size, rules; what has none of them comes last of its priority.
VMS = {
    "late": ("--start-order", "2"),
    "first": ("--start-order", "1"),
    "big": ("--memory", "160M", "--priority", "high"),
    "away": ("--possible", "n2,n3"),
    "stuck": ("--possible", "n2"),
}


@pytest.fixture
def lab():
    with Lab(nodes=3) as whole:
        yield whole


def state_of(lab):
    return {vm["name"]: vm for vm in lab.cli("n1", "vm", "list")["vms"]}


def starts(lab, since):
    """VMs in the order in which the log starts them."""
    lines = [line for line in lab.cli("n1", "log", "--lines", "1000")["lines"] if line["index"] > since]
    return [line["vm"] for line in lines if "-> starting:" in line["text"]]


def test_what_was_forecast_happens(lab):
    for node in lab.nodes:
        lab.cli("n1", "fence", "add", f"power-{node}", "--node", node, "--agent", "fence_lab", "--option", f"plug={node}")
    for name, options in VMS.items():
        size = () if "--memory" in options else ("--memory", "96M")
        lab.cli("n1", "vm", "create", name, *size, *KERNEL, *options)
        lab.cli("n1", "vm", "start", name, "--on", "n2")
    found = lab.cli("n1", "forecast", "--fail", "n2")
    assert found == lab.cli("n3", "forecast", "--fail", "n2"), "every node says the same"
    told = {vm["vm"]: vm for vm in found["cases"][0]["vms"]}
    assert set(told) == set(VMS) and found["cases"][0]["unproven"] == []
    assert told["stuck"]["end"] == "waits" and "no possible owner" in told["stuck"]["text"]
    assert found["survives"]["nodes"] == 0 and found["survives"]["limit"] == "rules"
    since = lab.cli("n1", "status")["index"]

    lab.power_off("n2")
    runs = {name for name, vm in told.items() if vm["end"] == "runs"}
    wait_until(lambda: all(vm["state"] == "online" and vm["node"] != "n2"
                           for name, vm in state_of(lab).items() if name in runs), 60, "the VMs to run elsewhere")
    after = state_of(lab)
    assert {name: after[name]["node"] for name in told} == {name: vm["to"] for name, vm in told.items()}
    assert starts(lab, since) == sorted(runs, key=lambda name: told[name]["order"])
    assert after["stuck"]["state"] == "off" and "no possible owner" in after["stuck"]["reason"]
