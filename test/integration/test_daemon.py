# SPDX-License-Identifier: Apache-2.0
"""The real watarid in a real cluster, as its administrator meets it: restarts, a bad configuration, storage that hangs, the
serial console. The moves themselves have their own tests."""
import json
import os
import select
import subprocess

import pytest

from lab import Lab, LabError, wait_until

KERNEL = ("--kernel", "/srv/watari/guest/vmlinuz", "--initrd", "/srv/watari/guest/initrd.img", "--append",
          "console=ttyS0 quiet panic=1")


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=3, storage_fuse=True) as whole:
        wait_until(lambda: all(node["state"] == "online" for node in whole.cli("n1", "node", "list")["nodes"]), 30,
                   "three nodes online")
        yield whole


@pytest.fixture
def web(lab):
    """A running guest on n1; gone again afterwards."""
    lab.cli("n1", "vm", "create", "web", "--memory", "512M", *KERNEL)
    lab.cli("n1", "vm", "start", "web", "--on", "n1")
    yield "web"
    for node in lab.nodes:
        lab.heal(node, "storage")
        lab.restart_daemon(node)
    wait_until(lambda: lab.cli("n2", "status")["synced"], 20, "n2 in sync")
    settled = ("online", "off", "saved")
    wait_until(lambda: lab.cli("n2", "vm", "show", "web")["state"] in settled, 30, "web to settle")
    if lab.cli("n2", "vm", "show", "web")["state"] == "online":
        lab.cli("n2", "vm", "stop", "web")
    lab.cli("n2", "vm", "delete", "web", "--yes")


def qemu_pid(lab, node):
    return lab.sh(node, "pgrep -f '[q]emu-system-x86_64 .*web' || pgrep -x qemu-system-x86")


def synced(lab, node):
    return lab.cli(node, "status")["synced"]


def is_online(lab, name):
    """Asked of a daemon that has just started: until it is in sync it says so (106), and not that there is no such VM."""
    try:
        return lab.cli("n1", "vm", "show", name)["state"] == "online"
    except LabError as error:
        assert error.status == 106, error
        return False


def test_a_restart_of_the_daemon_never_touches_the_guest(lab, web):
    pid = qemu_pid(lab, "n1")
    assert pid
    lab.restart_daemon("n1")
    wait_until(lambda: is_online(lab, web), 20, "web online after the restart")
    lab.kill_daemon("n1")
    assert qemu_pid(lab, "n1") == pid
    lab.restart_daemon("n1")
    wait_until(lambda: is_online(lab, web), 20, "web online after kill -9")
    assert qemu_pid(lab, "n1") == pid
    assert lab.cli("n1", "vm", "show", web)["epoch"] == 1


def test_a_wait_goes_on_over_the_daemons_death(lab, web):
    """Asked of n2, which takes no part in the move from n1 to n3; its daemon dies and comes back."""
    process = lab.popen("cli", "n2", "--", "vm", "move", web, "--to", "n3", stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE)
    assert process.stderr.readline()  # some progress: the order is taken, or about to be
    wait_until(lambda: lab.cli("n1", "vm", "show", web)["task"] or lab.cli("n1", "vm", "show", web)["node"] == "n3", 20,
               "the move to begin")
    lab.kill_daemon("n2")
    lab.restart_daemon("n2")
    out, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert "n1 -> n3" in out and "done" in out
    assert "connecting again" in errors


def test_storage_that_hangs_holds_nobody_up(lab):
    lab.cut("n1", "storage", "hang")
    try:
        with pytest.raises(LabError) as refused:
            lab.cli("n1", "vm", "create", "late", "--memory", "64M", *KERNEL)
        assert refused.value.status == 124 and "did not answer within 5 s" in refused.value.stderr
        assert synced(lab, "n1")
        lab.restart_daemon("n1")
        wait_until(lambda: synced(lab, "n1"), 20, "n1 in sync with its storage hanging")
    finally:
        lab.heal("n1", "storage")
    assert lab.cli("n1", "vm", "list")["vms"] == []


def test_a_bad_configuration_is_refused_whole_and_the_running_one_stays(lab):
    conf = lab.root("n1") / "etc/watari/watarid.conf"
    good = conf.read_text()
    conf.write_text(good + "[qemu]\nuid_bse=1\n")
    line = len(good.splitlines()) + 2
    try:
        done = lab.exec("n1", "/run/lab/build/src/cmd/watarid", "--check-config", check=False)
        assert done.returncode == 65
        assert f"/etc/watari/watarid.conf:{line}: unknown key 'uid_bse' in section [qemu]" in done.stderr
        assert synced(lab, "n1")
    finally:
        conf.write_text(good)
    assert lab.exec("n1", "/run/lab/build/src/cmd/watarid", "--check-config").returncode == 0


def test_a_second_daemon_on_a_node_is_refused(lab):
    done = lab.exec("n1", "/run/lab/build/src/cmd/watarid", check=False, timeout=30)
    assert done.returncode == 75 and "store" in done.stderr, done.stderr
    assert synced(lab, "n1")
    assert lab.cli("n1", "node", "show", "n1")["state"] == "online"


def test_the_serial_console_speaks(lab, web):
    with pytest.raises(LabError) as elsewhere:
        lab.cli("n2", "vm", "console", web)
    assert elsewhere.value.status == 113 and "ssh n1" in elsewhere.value.stderr
    process = lab.popen("cli", "n1", "--", "vm", "console", web, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    heard = b""

    def answered():
        """Asks again until somebody listens: the guest may still be booting, and drops what is typed."""
        nonlocal heard
        process.stdin.write("\necho sum $((40 + 2))\n")
        process.stdin.flush()
        readable, _, _ = select.select([process.stdout], [], [], 1)
        if readable:
            heard += os.read(process.stdout.fileno(), 65536)
        return b"sum 42" in heard

    wait_until(answered, 60, "the guest's shell to answer", every=0.5)
    process.terminate()
    process.wait(10)


def test_the_api_is_for_root_alone(lab):
    who = lab.sh("n1", "stat -c '%a %U %G' /run/watari/api.sock")
    assert who == "600 root root"
    done = lab.exec("n1", "setpriv", "--reuid=65534", "--clear-groups", "/run/lab/build/src/cmd/watari", "status", "-o",
                    "json", check=False)
    assert done.returncode == 77
    assert json.loads(done.stderr)["error"]["code"] == "denied"
