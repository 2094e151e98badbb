# SPDX-License-Identifier: Apache-2.0
"""Trouble inside one VM, on a real cluster: its kernel panics, its QEMU hangs, its agent does. It reboots by itself: that is no trouble."""
import functools
import json

import pytest

from cluster import Api, Guest, stories, wait_synced
from lab import Lab, wait_until

SILENCE_S = 40  # the limit is 30 s after a question, and one is asked each 10 s


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=3) as lab:  # one daemon is restarted while others are asked
        wait_synced(lab)
        yield lab


@pytest.fixture(scope="module", autouse=True)
def beside(request, lab):
    """Of guests of their own."""
    with stories(request, test_a_qemu_that_hangs_is_killed=functools.partial(a_qemu_hangs, lab),
                 test_an_agent_that_stops_ends_its_guest=functools.partial(an_agent_stops, lab)) as begun:
        yield begun


@pytest.fixture(scope="module")
def the_guest(lab):
    guest = Guest(lab, "web", append="watari.fill_mib=4", memory="192M").create()
    assert guest.show()["definition"]["panic_device"] == "isa"
    return guest


@pytest.fixture
def web(the_guest):
    """Runs, with a whole budget: a start by hand forgets what was used up."""
    if the_guest.state() != "off":
        the_guest.cli("vm", "stop", "web")
    the_guest.boot(on="n1")
    return the_guest


def policy(guest, **changed):
    definition = guest.show()["definition"]
    definition.setdefault("policy", {}).update(changed)
    with Api(guest.lab, guest.asked()) as api:
        api.call("vm.edit", vm=guest.name, definition=definition)


def new_boot(guest, before):
    wait_until(lambda: guest.wait()["nonce"] != before["nonce"], 60, "the guest to have booted again")


def test_a_panic_is_a_death(lab, web):
    """Here within the budget, then elsewhere; the reason is told by show and by why."""
    for panics, owners in enumerate(({"n1"}, {"n2", "n3"}), 1):
        before, at = web.look(), web.show()["epoch"]
        web.panic()
        vm = wait_until(lambda: (vm := web.show())["state"] == "online" and vm["epoch"] > at and vm, 30,
                        "web to run again")
        assert vm["node"] in owners and vm["epoch"] == at + 1, vm
        new_boot(web, before)
        # The first panic is a cause of where it went after the second one.
        why = lab.cli_raw("n2", "why", "vm/web").stdout
        assert why.count("online -> off: the guest panicked on n1") == panics, why


def test_a_panic_by_policy_stops_or_waits(lab, web):
    """pause: kept as it is, said so, and not moved. stop, set while it waits: off, and not started again."""
    policy(web, on_panic="pause")
    web.panic()
    wait_until(lambda: "panicked" in (web.show().get("note") or ""), 20, "the note")
    vm = web.show()
    assert (vm["state"], vm["node"]) == ("online", "n1") and web.qemu("n1")
    policy(web, on_panic="stop")
    vm = web.wait_state("off")
    assert "panicked on n1" in vm["reason"] and vm["want"] == "off", vm
    policy(web, on_panic="restart")


def test_a_reboot_is_none(lab, web):
    before, epoch = web.look(), web.show()["epoch"]
    web.shell("n1", "reboot -f", until="Restarting system")
    new_boot(web, before)
    vm = web.show()
    assert (vm["node"], vm["epoch"], vm["deaths"]) == ("n1", epoch, 0)


def a_qemu_hangs(lab):
    hung = Guest(lab, "hung", ip="10.77.0.52", append="watari.fill_mib=4", memory="192M").create()
    before, vm = hung.boot(on="n1"), hung.show()
    process = hung.qemu("n1")
    lab.stop("n1", "qemu", "hung")
    wait_until(lambda: "does not answer" in (hung.show().get("note") or ""), SILENCE_S, "the note")
    lab.cont("n1", "qemu", "hung")
    assert hung.wait()["nonce"] == before["nonce"]
    wait_until(lambda: not hung.show().get("note"), 20, "the note to be over")
    assert hung.qemu("n1") == process and hung.show()["epoch"] == vm["epoch"]
    lab.stop("n1", "qemu", "hung")
    wait_until(lambda: (at := hung.show())["state"] == "online" and at["epoch"] > vm["epoch"], SILENCE_S + 20,
               "hung to run again")
    new_boot(hung, before)
    assert len(hung.qemu("n1")) == 1 and hung.qemu("n1") != process
    assert "not answered for 30 s" in lab.cli_raw("n2", "why", "vm/hung").stdout


def an_agent_stops(lab):
    guest = Guest(lab, "beat", ip="10.77.0.51", append="watari.fill_mib=4", memory="192M").create("--heartbeat", "10s")
    assert guest.show()["definition"]["guest_agent"] == "virtio"
    guest.boot(on="n1")
    before = guest.look()
    record = lambda node: json.loads((lab.root(node) / f"run/watari/vm/{guest.uuid}/instance.json").read_text())
    heard = lambda node: wait_until(lambda: record(node).get("agent_heard"), 20, f"the agent to be heard on {node}")
    heard("n1")
    guest.move("n2")
    heard("n2")
    lab.restart_daemon("n2")
    wait_synced(lab)
    vm = guest.show()
    assert guest.look()["nonce"] == before["nonce"] and (vm["state"], vm["node"], vm["deaths"]) == ("online", "n2", 0)
    guest.stop_agent()
    wait_until(lambda: (at := guest.show())["state"] == "online" and at["epoch"] > vm["epoch"], 30, "beat to run again")
    new_boot(guest, before)
    assert "its guest agent did not answer for 10 s" in lab.cli_raw("n1", "why", "vm/beat").stdout


def test_an_agent_that_stops_ends_its_guest(lab, the_guest, beside):
    """B17: a guest whose agent was heard and then hangs is booted again; before, the heartbeat goes on through a move and a
    restart of the daemon. A machine without the channel is told how to get one."""
    refused = lab.cli_raw("n1", "vm", "edit", "web", "--heartbeat", "10s", check=False)
    assert refused.returncode and "--guest-agent virtio" in refused.stderr, refused
    beside["test_an_agent_that_stops_ends_its_guest"].result()


def test_a_qemu_that_hangs_is_killed(lab, beside):
    """For a while: nothing happens, and it is the same guest. For good: killed, dead for sure, then booted again."""
    beside["test_a_qemu_that_hangs_is_killed"].result()
