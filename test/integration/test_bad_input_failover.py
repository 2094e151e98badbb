# SPDX-License-Identifier: Apache-2.0
"""What failover is given that is wrong: fence agents, devices, configurations, node ids. Each is
refused with the reason, and the others go on. (Through the command line, as an administrator meets it; the controllers'
faults themselves are proven in test_lab.py, a reload in test_selffence.py, messages of another cluster in test_group.py.)"""
import contextlib

import pytest

from cluster import wait_synced
from lab import Lab, LabError, wait_until

DAEMON = "/run/lab/build/src/cmd/watarid"


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=3, watchdog=5000) as whole:
        whole.cli("n1", "fence", "add", "power-n2", "--node", "n2", "--agent", "fence_lab", "--option", "plug=n2")
        yield whole


@pytest.fixture(autouse=True)
def whole(lab):
    wait_synced(lab)


def node(lab, name, seen_by="n1"):
    return lab.cli(seen_by, "node", "show", name)


def others_go_on(lab, vm):
    """n1 and n2 still decide: a change is accepted and kept."""
    lab.cli("n1", "vm", "create", vm, "--memory", "64M", "--kernel", "/srv/watari/guest/vmlinuz")
    assert vm in [each["name"] for each in lab.cli("n2", "vm", "list")["vms"]]


def daemon_stop(lab, name):
    lab.sh(name, "kill -TERM $(pgrep -x watarid); while pgrep -x watarid > /dev/null; do sleep 0.05; done")


def refused_start(lab, name):
    """What watarid says on a start that it refuses, and its exit status."""
    done = lab.exec(name, DAEMON, check=False, timeout=30)
    assert done.returncode > 0, done.stderr
    return done.stderr


@contextlib.contextmanager
def configured(lab, name, change):
    """Its watarid.conf, changed while the daemon is down; put back at the end, and the daemon runs again."""
    conf = lab.root(name) / "etc/watari/watarid.conf"
    good = conf.read_text()
    daemon_stop(lab, name)
    conf.write_text(change(good))
    try:
        yield conf
    finally:
        if lab.status()[name]["power"] != "on":
            lab.power_on(name)
        (lab.root(name) / "etc/watari/watarid.conf").write_text(good)
        lab.restart_daemon(name)
        wait_synced(lab)


def test_no_agent_whatever_it_does_is_taken_for_a_proof(lab):
    """n3 is cut off and its watchdog does not fire, so the devices alone count; only one that did it ends the wait."""
    with pytest.raises(LabError) as refused:
        lab.cli("n1", "fence", "add", "none-n3", "--node", "n3", "--agent", "fence_nowhere")
    assert "fence_nowhere" in refused.value.stderr
    with configured(lab, "n3", lambda good: good.split("[watchdog]")[0]):
        lab.restart_daemon("n3")
        wait_synced(lab)
        lab.cli("n1", "fence", "add", "a-n3", "--node", "n3", "--agent", "fence_lab", "--option", "plug=n3", "--limit", "2s")
        lab.cli("n1", "vm", "create", "web", "--memory", "64M", "--kernel", "/srv/watari/guest/vmlinuz")
        lab.cli("n1", "vm", "start", "web", "--on", "n3")
        lab.bmc("n3", "crash")
        lab.cut("n3", "cluster")
        wait_until(lambda: (node(lab, "n3")["fencing"] or {}).get("rounds_failed"), 30, "the first round to fail")
        for fault, word in (("crash", "signal"), ("garbage", "exit"), ("hang", "timed out"), ("lie", "on"),
                            ("gone", "exit")):
            lab.bmc("n3", fault)
            before = node(lab, "n3")["fencing"]["rounds_failed"]
            # Once more now, rather than after the pause; it may just be running.
            lab.cli_raw("n1", "node", "fence", "n3", "--force", check=False)
            wait_until(lambda: node(lab, "n3")["fencing"]["rounds_failed"] > before, 30, f"the round with '{fault}' to fail")
            wait_until(lambda: word in node(lab, "n3")["fencing"]["text"], 30, f"'{word}' of '{fault}' to be said")
            assert "a-n3" in node(lab, "n3")["fencing"]["text"]
            assert lab.cli("n1", "vm", "show", "web")["state"] == "blocked" and node(lab, "n3")["state"] == "lost", fault
        # An agent that is not there at all: the next level does it, though it prints 1 GB beside.
        lab.cli("n1", "fence", "add", "none-n3", "--node", "n3", "--agent", "fence_nowhere", "--no-check")
        lab.cli("n1", "fence", "set", "a-n3", "--level", "2")
        lab.bmc("n3", "huge")
        lab.cli_raw("n1", "node", "fence", "n3", "--force", check=False)
        wait_until(lambda: lab.cli("n1", "vm", "show", "web")["state"] == "online", 60, "web elsewhere")
        assert lab.cli("n1", "vm", "show", "web")["node"] in ("n1", "n2")
        assert lab.status()["n3"]["power"] == "off"
        for each in ("none-n3", "a-n3"):
            lab.cli("n1", "fence", "remove", each)
        lab.cli("n1", "vm", "stop", "web")
        lab.bmc("n3", "ok")
        lab.power_on("n3")
        lab.heal("n3")


def test_a_device_that_is_wired_to_another_node_is_found(lab):
    lab.bmc("n2", "wrong:n3")
    with pytest.raises(LabError) as found:
        lab.cli("n1", "fence", "test", "power-n2", "--off", "--yes", "n2", timeout=120)
    assert "n3 left, not only n2: power-n2 switches the wrong machine" in found.value.stderr
    lab.bmc("n2", "ok")
    lab.power_on("n3")


def test_a_token_that_the_watchdog_cannot_wait_for_is_refused_at_the_start(lab):
    with configured(lab, "n3", lambda good: good.replace("timeout=5000ms", "timeout=3s")) as conf:
        line = 1 + conf.read_text().splitlines().index("timeout=3s")
        said = refused_start(lab, "n3")
        assert f"watarid.conf:{line}: a watchdog of 3000 ms is too short" in said, said
        others_go_on(lab, "short")


def test_a_node_id_is_given_once(lab):
    conf = lab.root("n3") / "etc/corosync/corosync.conf"
    good = conf.read_text()
    daemon_stop(lab, "n3")
    lab.kill_daemon("n3", "corosync")
    try:
        conf.write_text(good.replace("nodeid: 3", "nodeid: 2"))
        lab.exec("n3", "bash", "-c", "setsid -f /usr/sbin/corosync -f >> /var/log/corosync.out 2>&1 < /dev/null")
        wait_until(lambda: lab.members("n3") == 0, 20, "corosync of n3 to be refused")
        refused_start(lab, "n3")
        others_go_on(lab, "twice")
        assert {name: node(lab, name)["state"] for name in ("n1", "n2")} == {"n1": "online", "n2": "online"}
    finally:
        conf.write_text(good)
        lab.sh("n3", "pkill -KILL -x corosync; true")
        lab.up()
