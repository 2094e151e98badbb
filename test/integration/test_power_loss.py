# SPDX-License-Identifier: Apache-2.0
"""What is left of a cluster after the power went: a survivor that is told to go on, and clusters of which every node lost it,
back in any order, one never, the one that knows most last. Proof before a start, every VM that ran runs again once, by
priority, and nothing that was acknowledged is lost."""
import pytest

from cluster import Guest, add_power, refusal, says, wait_agreed, wait_synced
from copies import Copies
from lab import Lab, wait_until


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=3) as whole:
        add_power(whole, "n1", "n2")  # n3 has none: nothing but its return or a person's word proves it off
        yield whole


@pytest.fixture(scope="module")
def pair():
    """two_node: the survivor goes on alone, and so is alone with what it acknowledges."""
    with Lab(nodes=2) as whole:
        add_power(whole, *whole.nodes)
        yield whole


@pytest.fixture
def four():
    with Lab(nodes=4) as whole:
        yield whole


@pytest.fixture
def guests(request):
    """guests(lab, {name: options of vm create}); taken away at the end, with all that is broken mended."""
    made = []

    def make(lab, wanted):
        wait_synced(lab)
        for name, options in wanted.items():
            made.append(Guest(lab, name, memory="96M", append="watari.load=none watari.fill_mib=16", networks=()))
            made[-1].create(*options)
        return made[-len(wanted):]
    yield make
    if made:
        made[0].lab.power_on(*made[0].lab.nodes)
        wait_synced(made[0].lab, timeout=60)
    for guest in made:
        guest.delete()


def known(lab, node):
    return {vm["name"] for vm in lab.cli(node, "vm", "list")["vms"]}


def acts(lab, node):
    status = says(lab, node, "status")
    return status and status["synced"]


def test_a_survivor_is_told_to_go_on(lab, guests):
    web, db = guests(lab, {"web": (), "db": ()})
    web.start("n2")
    db.start("n3")
    assert "this node has quorum" in refusal(lab, "n1", "cluster", "force-quorum", "--yes", "n1")[1]

    with Copies() as copies:
        lab.power_off("n2", "n3")
        wait_until(lambda: not lab.cli("n1", "status")["quorate"], 30, "quorum to be lost")
        assert "no quorum" in lab.cli("n1", "status")["reason"]
        assert "not the name of this node" in refusal(lab, "n1", "cluster", "force-quorum", "--yes", "n2")[1]
        assert "typed" in refusal(lab, "n1", "cluster", "force-quorum")[1]
        assert not web.running() and not db.running()
        lab.cli("n1", "cluster", "force-quorum", "--yes", "n1")
        wait_until(lambda: web.is_online("n1"), 60, "web on n1: n2's device says off")
        # Of n3 there is no proof: its VM waits, however long it takes.
        vm = db.show("n1")
        assert vm["state"] == "blocked" and "no proof" in vm["reason"], vm
        assert "typed" in refusal(lab, "n1", "node", "confirm-off", "n3")[1]
        refusal(lab, "n1", "node", "confirm-off", "n3", "--yes", "n2")
        refusal(lab, "n1", "node", "confirm-off", "n1", "--yes", "n1")
        lab.cli("n1", "node", "confirm-off", "n3", "--yes", "n3")
        wait_until(lambda: db.is_online("n1"), 30, "db on n1")
        guests_before = web.running(), db.running()
        late = Guest(lab, "late", networks=()).create(node="n1")
        lab.power_on("n3", "n2")
        wait_synced(lab, timeout=60)
    assert not copies.doubles
    for node in lab.nodes:
        assert known(lab, node) == {"web", "db", "late"}, "what was acknowledged by the survivor"
    assert (web.running(), db.running()) == guests_before
    late.delete()


def test_half_is_told_to_go_on(four, guests):
    """Both nodes that are left are the quorum, whichever was told; a third that comes back makes three of four."""
    lab = four
    web, db = guests(lab, {"web": (), "db": ()})
    web.start("n1")
    db.start("n3")
    with Copies() as copies:
        lab.power_off("n3", "n4")
        wait_until(lambda: not acts(lab, "n1") and not acts(lab, "n2"), 30, "quorum to be lost")
        assert refusal(lab, "n1", "vm", "start", "db")[0] == 106
        lab.cli("n2", "cluster", "force-quorum", "--yes", "n2")
        wait_until(lambda: acts(lab, "n1") and acts(lab, "n2"), 30, "both to act")
        assert web.is_online("n1") and db.show("n1")["state"] == "blocked"
        # The other half might have been forced as well.
        assert "nothing can be changed" in refusal(lab, "n1", "vm", "start", "db")[1]
        for node in ("n3", "n4"):
            lab.cli("n1", "node", "confirm-off", node, "--yes", node)
        wait_until(lambda: db.is_online("n1") or db.is_online("n2"), 30, "db on one of the two")
        lab.power_on("n3")
        wait_until(lambda: acts(lab, "n3"), 60, "n3 to be back")
        lab.power_on("n4")
        wait_synced(lab, timeout=60)
        assert web.is_online("n1") and not db.is_online("n3")
    assert not copies.doubles


def started_again(lab, after):
    """The VMs that were started by themselves since this entry of the log, in order."""
    lines = [line for line in lab.cli("n2", "log", "--lines", "200")["lines"] if line["index"] > after]
    return [line["text"].split(":")[0] for line in lines if "-> starting: starting on" in line["text"]]


def test_all_lose_power_and_one_never_returns(lab, guests):
    """What ran on those that are back goes on there; what ran on the lost one starts elsewhere once its device says off."""
    low, high, gone = guests(lab, {"low": ("--priority", "low"), "high": ("--priority", "high"), "gone": ()})
    low.start("n2")
    high.start("n2")
    gone.start("n1")
    epochs = {guest.name: guest.show()["epoch"] for guest in (low, high, gone)}
    index = lab.cli("n1", "status")["index"]
    with Copies() as copies:
        lab.power_off("n1", "n2", "n3")
        lab.power_on("n3")
        # One of three: it knows the VMs, and starts nothing.
        wait_until(lambda: "no quorum" in (says(lab, "n3", "status") or {}).get("reason", ""), 30, "n3 to say that it waits")
        assert refusal(lab, "n3", "vm", "start", "gone")[0] == 106
        assert not any(guest.running() for guest in (low, high, gone))
        lab.power_on("n2")
        wait_until(lambda: all(guest.show("n3")["state"] == "online" for guest in (low, high, gone)
                               if acts(lab, "n3")) and acts(lab, "n3"), 60, "all three VMs to run")
    assert not copies.doubles
    assert {guest.name: guest.show("n2")["epoch"] - epochs[guest.name] for guest in (low, high, gone)} == \
        {"low": 1, "high": 1, "gone": 1}
    assert low.is_online("n2") and high.is_online("n2") and set(gone.running()) < {"n2", "n3"}
    order = started_again(lab, index)
    assert sorted(order) == ["gone", "high", "low"] and order.index("high") < order.index("low"), order
    why = lab.cli_raw("n3", "why", "vm/gone").stdout
    assert "power-n1" in why and "off" in why, why
    running = {guest.name: guest.running() for guest in (low, high, gone)}
    lab.power_on("n1")
    wait_synced(lab, timeout=60)
    assert {guest.name: guest.running() for guest in (low, high, gone)} == running


def test_all_lose_power_and_one_that_knows_more_comes_last(lab, guests):
    """n3 had no power when the cluster decided last. A saved state is resumed once, and not by itself."""
    web, kept = guests(lab, {"web": (), "kept": ()})
    kept.start("n2")
    kept.cli("vm", "save", "kept")
    saved = kept.show()
    web.start("n3")
    lab.power_off("n3")  # it misses what follows
    wait_until(lambda: web.state("n1") == "blocked", 30, "web to be blocked")
    newest = Guest(lab, "newest", networks=()).create(node="n1")
    index = lab.cli("n1", "status")["index"]
    with Copies() as copies:
        lab.power_off("n1", "n2")
        lab.power_on("n3")
        wait_until(lambda: says(lab, "n3", "status"), 30, "the daemon of n3")
        assert not acts(lab, "n3") and "newest" not in known(lab, "n3")
        lab.power_on("n2")
        wait_until(lambda: acts(lab, "n3"), 60, "n2 and n3 to be in sync")
        assert "newest" in known(lab, "n3") and lab.cli("n3", "status")["index"] > index
        lab.power_on("n1")
        wait_synced(lab, timeout=60)
        wait_until(lambda: web.state() == "online", 60, "web to run: n3 rebooted")
        assert kept.state() == "saved"
        kept.start("n1")
        kept.wait_state("online")
    assert not copies.doubles
    for node in lab.nodes:
        assert known(lab, node) == {"web", "kept", "newest"}
    vm = kept.show("n2")
    assert vm["epoch"] == saved["epoch"] + 1 and vm["saved"]["status"] == "consumed", vm
    assert len(web.running()) == 1 and set(kept.running()) == {"n1"}
    newest.delete()


def test_of_two_the_one_that_went_on_alone_comes_last(pair, guests):
    """It alone knows the last change and where the VM ran last. The other one must not go on without it."""
    web, = guests(pair, {"web": ()})
    web.start("n2")
    with Copies() as copies:
        pair.power_off("n2")
        wait_until(lambda: web.is_online("n1"), 60, "web on n1")
        late = Guest(pair, "late", networks=()).create(node="n1")
        epoch = web.show("n1")["epoch"]
        pair.power_off("n1")
        pair.power_on("n2")
        wait_until(lambda: "no quorum" in (says(pair, "n2", "status") or {}).get("reason", ""), 30, "n2 to say that it waits")
        assert refusal(pair, "n2", "vm", "start", "web")[0] == 106
        assert "late" not in known(pair, "n2") and not web.running()
        pair.power_on("n1")
        wait_synced(pair, timeout=60)
        wait_until(lambda: web.state() == "online", 60, "web to run")
    assert not copies.doubles
    for node in pair.nodes:
        assert known(pair, node) == {"web", "late"}
    assert web.show()["epoch"] == epoch + 1 and len(web.running()) == 1
    wait_agreed(pair)
    late.delete()
