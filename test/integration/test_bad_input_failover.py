# SPDX-License-Identifier: Apache-2.0
"""What failover is given that is wrong: fence agents, devices, configurations, node ids, stores, nodes of other clusters.
Each is refused with the reason, and the others go on. (Through the command line, as an administrator meets it; the controllers'
faults themselves are proven in test_lab.py, a reload in test_selffence.py, messages of another cluster in test_group.py.)"""
import contextlib
import itertools
import os
import shutil

import pytest

from cluster import Guest, pids, wait_agreed, wait_synced, DAEMON as DAEMON_NAME
from copies import Copies
from lab import Lab, LabError, wait_until

STORE = "/var/lib/watari"
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
        lab.cli("n1", "vm", "delete", "web", "--yes")
        lab.bmc("n3", "ok")
        lab.power_on("n3")
        lab.heal("n3")


def test_a_device_that_is_wired_to_another_node_is_found(lab):
    lab.bmc("n2", "wrong:n3")
    with pytest.raises(LabError) as found:
        lab.cli("n1", "fence", "test", "power-n2", "--off", "--yes", "n2", timeout=120)
    assert "n3 left, not only n2: power-n2 switches the wrong machine" in found.value.stderr
    assert "look where it is wired" in found.value.stderr and "watari fence remove power-n2" in found.value.stderr
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


class Store:
    """The store of a node whose daemon is down; at the end the daemon runs again, and has what the others have."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        # What its /var/lib/watari is a mount of, so that this outlives its power.
        self.dir, self.aside = lab.store / name / "watari", lab.store / name / "aside"

    def __enter__(self):
        daemon_stop(self.lab, self.name)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.aside, ignore_errors=True)
        if self.lab.status()[self.name]["power"] != "on":
            self.lab.power_on(self.name)
        self.lab.restart_daemon(self.name)
        wait_synced(self.lab)
        wait_agreed(self.lab)

    def copy_aside(self):
        shutil.copytree(self.dir, self.aside)

    def empty(self):
        for path in self.dir.iterdir():
            path.unlink()

    def copy_back(self):
        self.empty()
        shutil.copytree(self.aside, self.dir, dirs_exist_ok=True)


def known_by(lab, name):
    return {vm["name"] for vm in lab.cli(name, "vm", "list")["vms"]}


def test_a_node_of_another_cluster_is_not_let_in(lab):
    """On our network, with our key, on our storage; first with our store too, then with one of its own."""
    web = Guest(lab, "web", append="watari.fill_mib=16").create()
    # It has left the ring in most tests of this file, as a flapping node does.
    lab.cli_raw("n1", "node", "resume", "n3", check=False)
    nonce = web.boot("n3")["nonce"]
    lab.cli("n1", "vm", "save", "web")
    conf = lab.root("n3") / "etc/watari/watarid.conf"
    ours, theirs = conf.read_text().split("uuid=")[1].splitlines()[0], "99999999-9999-4999-8999-999999999999"
    with configured(lab, "n3", lambda good: good.replace(ours, theirs)), Store(lab, "n3") as store:
        said = refused_start(lab, "n3")
        assert f"the store belongs to cluster {ours}, this node is configured for {theirs}" in said, said
        store.copy_aside()
        store.empty()
        lab.restart_daemon("n3")
        try:
            why = f"no quorum: the others here run cluster {ours}, this node is configured for cluster {theirs}"
            wait_until(lambda: lab.cli("n3", "status")["reason"] == why and why in lab.logs("n3"), 20,
                       "n3 to say whose network it is on")
            others_go_on(lab, "foreign")
            assert node(lab, "n3")["state"] != "online"
            with pytest.raises(LabError) as refused:
                lab.cli("n3", "vm", "create", "intruder", "--memory", "64M", "--kernel", "/srv/watari/guest/vmlinuz")
            assert refused.value.status == 106, refused.value.stderr
        finally:
            daemon_stop(lab, "n3")
            store.copy_back()
            conf.write_text(conf.read_text().replace(theirs, ours))
    assert known_by(lab, "n3") == known_by(lab, "n1") and "intruder" not in known_by(lab, "n1")
    # And what it found on the storage is as it was.
    lab.cli_raw("n1", "node", "resume", "n3", check=False)
    lab.cli("n1", "vm", "start", "web", "--on", "n3")
    assert lab.wait_guest()["nonce"] == nonce
    lab.cli("n1", "vm", "stop", "web")
    web.delete()


def test_an_older_backup_of_the_store_learns_what_it_missed(lab):
    with Store(lab, "n3") as store:
        store.copy_aside()
        others_go_on(lab, "newer1")
        lab.restart_daemon("n3")
        wait_synced(lab)
        others_go_on(lab, "newer2")  # n3 has acknowledged it
        assert {"newer1", "newer2"} <= known_by(lab, "n3")
        daemon_stop(lab, "n3")
        store.copy_back()
        index = lab.cli("n1", "status")["index"]
        lab.restart_daemon("n3")
        wait_synced(lab)
        for each in lab.nodes:
            assert lab.cli(each, "status")["index"] >= index
            assert {"newer1", "newer2"} <= known_by(lab, each)


def rot(store):
    """One letter of a name: SQLite's own structure does not show it."""
    data = (store.dir / "store.db").read_bytes()
    assert b"rotten" in data
    (store.dir / "store.db").write_bytes(data.replace(b"rotten", b"rottem"))


def cut_short(store):
    os.truncate(store.dir / "store.db", os.path.getsize(store.dir / "store.db") // 2)


def noise(store):
    (store.dir / "store.db").write_bytes(os.urandom(65536))


def no_log(store):
    """The database of long ago beside the mark of today."""
    for name in ("store.db", "store.db-wal", "store.db-shm"):
        (store.dir / name).unlink(missing_ok=True)


def test_a_corrupt_store_is_refused_and_the_others_have_a_copy(lab):
    others_go_on(lab, "rotten")
    with Store(lab, "n3") as store:
        store.copy_aside()
        for number, damage in enumerate((rot, cut_short, noise, no_log)):
            store.copy_back()
            damage(store)
            said = refused_start(lab, "n3")
            assert f"{STORE}/store" in said and "move this store's files away and start again" in said, said
            others_go_on(lab, f"rotten{number}")
        store.empty()  # as it says
        lab.restart_daemon("n3")
        wait_synced(lab)
        assert known_by(lab, "n3") == known_by(lab, "n1")


@contextlib.contextmanager
def small_store(lab, name):
    """Its store lies on a file system of its own that can be filled; it is as the store was, and is gone with the power. Gives
    what fills it and what makes room again."""
    lab.sh(name, f"mkdir -p /tmp/small && mount -n -t tmpfs -o size=16m small /tmp/small && cp -a {STORE}/. /tmp/small/ && "
           f"mount -n --move /tmp/small {STORE}")
    try:
        yield (lambda: lab.sh(name, f"cat /dev/zero > {STORE}/ballast 2> /dev/null || true"),
               lambda: lab.sh(name, f"rm {STORE}/ballast"))
    finally:
        if lab.status()[name]["power"] == "on":
            lab.sh(name, f"pkill -TERM -x watarid; while pgrep -x watarid > /dev/null; do sleep 0.05; done; umount {STORE}")


def fill_until_it_says_so(lab, fill, changes):
    """SQLite's log has some room of its own, for a few changes, which the others acknowledge all the time."""
    told = len(lab.logs("n3"))
    fill()

    def has_failed():
        others_go_on(lab, f"full-{next(changes)}")
        return "the store failed" in lab.logs("n3")[told:]
    wait_until(has_failed, 30, "n3 to say that its store is full")
    said = lab.logs("n3")[told:]
    assert "No space" in said or "full" in said, said
    assert "make room there and start again" in said, said
    wait_until(lambda: not pids(lab, "n3", DAEMON_NAME), 10, "its daemon to end")


CHANGES = itertools.count()


def test_a_full_store_takes_its_node_out_and_nobody_else(lab):
    """Nothing can be promised on it any more: it is refused at the start and ends a daemon that runs. That node's guest runs on
    untouched, the others go on, and with room it is all as before."""
    web = Guest(lab, "web", append="watari.fill_mib=16").create()
    with configured(lab, "n3", lambda good: good.split("[watchdog]")[0]), Store(lab, "n3"), Copies() as copies, \
            small_store(lab, "n3") as (fill, make_room):
        fill()
        said = refused_start(lab, "n3")
        assert "make room there and start again" in said and f"{STORE}/store" in said, said
        others_go_on(lab, "full")
        make_room()
        lab.restart_daemon("n3")
        wait_synced(lab)
        lab.cli_raw("n1", "node", "resume", "n3", check=False)
        nonce = web.boot("n3")["nonce"]
        fill_until_it_says_so(lab, fill, CHANGES)
        wait_until(lambda: node(lab, "n3")["state"] == "lost", 20, "the others to have noticed")
        # SQLite's log that is left behind may have had room for a start.
        fill()
        refused_start(lab, "n3")
        assert web.look()["nonce"] == nonce and lab.status()["n3"]["power"] == "on"
        assert web.show("n1")["node"] == "n3"
        make_room()
        lab.restart_daemon("n3")
        wait_synced(lab)
        assert known_by(lab, "n3") == known_by(lab, "n1")
        assert web.look()["nonce"] == nonce and web.state("n3") == "online" and not copies.doubles
    web.delete()


def test_a_full_store_and_a_watchdog_bring_the_guest_elsewhere(lab):
    """Nobody feeds the watchdog of a node whose daemon has ended: that is the proof."""
    web = Guest(lab, "web", append="watari.fill_mib=16").create()
    with Store(lab, "n3"), Copies() as copies, small_store(lab, "n3") as (fill, _):
        lab.restart_daemon("n3")
        wait_synced(lab)
        lab.cli_raw("n1", "node", "resume", "n3", check=False)
        web.boot("n3")
        fill_until_it_says_so(lab, fill, CHANGES)
        wait_until(lambda: web.state("n1") == "online" and web.show("n1")["node"] in ("n1", "n2"), 60, "web elsewhere")
        assert lab.status()["n3"]["power"] == "off" and not copies.doubles, copies.doubles
    web.delete()
