# SPDX-License-Identifier: Apache-2.0
"""The lab keeps its own promises: what the other integration tests stand on."""
import json
import os
import pathlib
import re
import signal
import subprocess
import time
from xml.etree import ElementTree

import pytest

from lab import BUILD, GUEST_IP, HandGuest, Lab, LabError, STORE_BASE, wait_until
from writer import Log, Watch

SYSCTL = pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd")


@pytest.fixture
def lab(bare_lab):
    bare_lab.up()
    return bare_lab


def traces(name):
    """What this machine shows of the lab `name`: processes, mounts, files."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"/{name} " in line or f"/{name}/" in line:
            found.append(f"process {path.parent.name}: {line}")
    found += [f"mount {line}" for line in open("/proc/mounts") if f"/{name}" in line]
    for base in ("/run", "/var/lib", "/srv", "/tmp", "/dev/shm", "/etc", "/var/cache"):
        # Not rglob: it stumbles over what others take away meanwhile, and follows every build tree to its end.
        for at, directories, files in os.walk(base):
            found += [f"file {at}/{entry}" for entry in directories + files if entry == name]
            if at.count("/") > 3:
                directories.clear()
    return found


def namespaces():
    """The network namespaces and the links that this machine's own processes can see."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return sorted(re.findall(r"^\d+: ([^:@]+)", links, re.M))


def processes_of(name):
    """Every process in the lab's PID namespaces, and its hardware, as pids of this machine."""
    spaces, found = set(), []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"/{name}\0" in path.read_text(errors="replace"):
                found.append(int(path.parent.name))
                spaces.add(os.readlink(path.parent / "ns/pid"))
        except OSError:
            pass
    spaces.discard(os.readlink("/proc/self/ns/pid"))
    for path in pathlib.Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            if os.readlink(path) in spaces:
                found.append(int(path.parent.parent.name))
        except OSError:
            pass
    return found


def test_up_gives_a_quorate_cluster_and_down_leaves_no_trace():
    """A tool that leaves namespaces or links behind cannot be run on a machine that matters."""
    others = subprocess.run([str(BUILD / "../lab/watari-lab"), "list"], capture_output=True, text=True, check=False).stdout
    sysctl_before = SYSCTL.read_text()
    links_before = namespaces()
    tops = {base: sorted(os.listdir(base)) for base in ("/", "/etc", "/var/lib", "/srv")}
    lab = Lab(nodes=3, daemon=False)
    try:
        lab.up()
        assert all(node["quorate"] and node["members"] == 3 for node in lab.status().values())
        assert SYSCTL.read_text().strip() == "1"
        # Left running on purpose, detached twice over, in a node and at the client.
        lab.sh("n1", "touch /srv/watari/x /var/lib/watari/x; ip link add d0 type veth")
        lab.spawn("n1", "sleep", "1000")
        lab.spawn("client", "sleep", "1000")
        members = processes_of(lab.name)
        assert len(members) > 8
        assert namespaces() == links_before, "the lab put links into the machine's own network"
        assert not [line for line in open("/proc/mounts") if lab.name in line], "the lab's mounts show outside"
    finally:
        lab.down()
    assert traces(lab.name) == []
    assert [pid for pid in members if os.path.exists(f"/proc/{pid}") and "Z (" not in
            pathlib.Path(f"/proc/{pid}/status").read_text()] == []
    assert namespaces() == links_before
    for base, before in tops.items():
        assert set(os.listdir(base)) - set(before) <= {"watari-lab"}, base
    if not others.strip() and not os.path.exists("/run/watari-lab.userfaultfd"):
        assert SYSCTL.read_text() == sysctl_before
        assert not STORE_BASE.exists() or os.listdir(STORE_BASE)


def test_up_and_down_can_be_run_again(lab):
    """`up` on a whole lab changes nothing; on a broken one it mends."""
    before = lab.status()
    lab.up()
    assert lab.status() == before
    lab.power_off("n3")
    lab.cut("n2", "network")
    lab.cut("n1", "storage", "readonly")
    lab.kill_daemon("n1", "corosync")
    lab.up()
    after = lab.status()
    assert after["n3"].pop("boot_id") != before["n3"].pop("boot_id")
    assert after == before
    gone = Lab(name=f"{lab.name}-none")
    gone.down()
    gone.down()


def test_a_power_cut_is_seen_by_the_others_and_the_node_comes_back(lab):
    """The power cord: everything in the node ends at once, what was on its disk stays, what was in RAM does not."""
    boot_id = lab.boot_id("n2")
    lab.sh("n2", "echo kept > /var/lib/watari/kept; echo lost > /run/lost")
    lab.spawn("n2", "sleep", "1234567")
    lab.power_off("n2")
    began = time.monotonic()
    assert subprocess.run(["pgrep", "-f", "-x", "sleep 1234567"], capture_output=True, check=False).returncode == 1
    lab.wait_members("n1", 2)
    lab.wait_members("n3", 2)
    took = time.monotonic() - began
    assert lab.is_quorate("n1")
    assert took < 15, f"detection took {took:.1f} s with a token of 1 s"
    with pytest.raises(LabError, match="n2 is powered off"):
        lab.exec("n2", "true")
    lab.power_off("n2")
    lab.power_on("n2")
    for node in lab.nodes:
        lab.wait_members(node, 3)
    assert lab.boot_id("n2") != boot_id
    assert lab.sh("n2", "cat /var/lib/watari/kept; ls /run/lost 2>/dev/null || :") == "kept"


def test_a_cut_cable_takes_quorum_and_gives_it_back(lab):
    lab.cut("n2", "network")
    lab.wait_members("n1", 2)
    lab.wait_members("n2", 1)
    assert lab.is_quorate("n1") and not lab.is_quorate("n2")
    assert lab.status()["n2"]["cluster"] == "cut"
    lab.heal("n2", "network")
    lab.wait_members("n2", 3)
    assert lab.is_quorate("n2")


ECHO = """
import socket, sys
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(("0.0.0.0", 7007))
print("ready", flush=True)
while True:
    data, peer = echo.recvfrom(4000)
    echo.sendto(data, peer)
"""
ASK = """
import json, select, socket, sys, time
size, count, rtt, order = int(sys.argv[1]), 200, {}, []
ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: never
ask.connect(("10.70.0.2", 7007))
sent = {}
def take(until):
    while (left := until - time.monotonic()) > 0 and select.select([ask], [], [], left)[0]:
        number = int(ask.recv(4000).split()[0])
        order.append(number)
        rtt.setdefault(number, time.monotonic() - sent[number])
for number in range(count):
    sent[number] = time.monotonic()
    ask.send(str(number).encode().ljust(size))
    take(time.monotonic() + 0.003)
take(time.monotonic() + 1.5)
print(json.dumps({"answered": len(rtt), "copies": len(order) - len(rtt), "rtt_ms": 1000 * min(rtt.values(), default=0),
                  "back": sum(a > b for a, b in zip(order, order[1:]))}))
"""


def test_a_cable_can_be_bad_in_one_direction_or_both(lab):
    """Half of what happens to networks is not a cut: the odd fault must be what it says, and only that."""
    def ask(size=100):
        return json.loads(lab.exec("n1", "/usr/bin/python3", "-c", ASK, size).stdout)
    echo = lab.popen("exec", "n2", "--", "/usr/bin/python3", "-c", ECHO, stdout=subprocess.PIPE)
    try:
        assert echo.stdout.readline() == "ready\n"
        assert ask() == {"answered": 200, "copies": 0, "rtt_ms": pytest.approx(0, abs=50), "back": 0}
        lab.degrade("n2", "cluster", loss=30)
        assert lab.status()["n2"]["cluster"] == "bad" and lab.status()["n2"]["guests"] == "up"
        assert 50 < ask()["answered"] < 150, "both ways get through with 49 %"
        lab.degrade("n2", "cluster", way="out", loss=30)
        assert 100 < ask()["answered"] < 180, "one way gets through with 70 %"
        lab.degrade("n2", "cluster", delay=40, jitter=60, duplicate=50)
        seen = ask()
        assert seen["answered"] == 200 and seen["copies"] > 100 and seen["rtt_ms"] >= 80 and seen["back"] > 20
        lab.degrade("n2", "cluster", way="in", reorder=50)
        assert ask()["back"] > 20
        lab.degrade("n2", "cluster", mtu=600)
        assert (ask(400)["answered"], ask(900)["answered"]) == (200, 0)
        lab.heal("n2", "cluster")
        assert ask(900)["answered"] == 200 and lab.status()["n2"]["cluster"] == "up"
    finally:
        echo.send_signal(signal.SIGTERM)
        echo.wait(10)
    for way in ("--in", "--out"):
        lab.cut("n2", "network", way)
        lab.wait_members("n1", 2)
        lab.wait_members("n2", 1)
        lab.heal("n2")
        lab.wait_members("n2", 3)
    for options in (("--loss", "101"), ("--loss",), ("--speed", "1"), ("--delay", "-1"), ()):
        assert lab.tool("degrade", "n2", "cluster", *options, check=False).returncode == 64, options
    assert lab.status()["n2"]["cluster"] == "up", "what was refused changed nothing"


def test_processes_can_be_stopped_and_killed(lab):
    lab.stop("n2", "corosync")
    lab.wait_members("n1", 2)
    assert lab.status()["n2"]["members"] == 0, "who is stopped does not answer, and status does not wait for it"
    lab.cont("n2", "corosync")
    lab.wait_members("n2", 3)
    lab.kill("n2", "corosync")
    assert not lab.status()["n2"]["corosync"]
    lab.spawn("n2", "bash", "-c", "exec -a qemu-system-x86_64 /usr/bin/python3 -c 'import time; time.sleep(9999)' "
              "-name guest=web.1,debug-threads=on")
    for words, status in ((("n2", "qemu"), 64), (("n2", "qemu", "web"), 69), (("n2", "watarid"), 69), (("n2", "bash"), 64),
                          (("n2", "qemu", "webx1"), 69), (("n2", "qemu", "-x"), 64)):
        assert lab.tool("kill", *words, check=False).returncode == status, words
    lab.kill("n2", "qemu", "web.1")
    assert lab.tool("kill", "n2", "qemu", "web.1", check=False).returncode == 69


def test_storage_can_be_cut_for_one_node(lab):
    lab.sh("n1", "echo 1 > /srv/watari/shared-file")
    lab.cut("n2", "storage", "readonly")
    assert lab.sh("n2", "cat /srv/watari/shared-file") == "1"
    assert "Read-only" in lab.exec("n2", "touch", "/srv/watari/x", check=False).stderr
    lab.cut("n2", "storage", "gone")
    assert lab.exec("n2", "cat", "/srv/watari/shared-file", check=False).returncode == 1
    assert lab.status()["n2"]["storage"] == "gone"
    lab.sh("n3", "echo 2 > /srv/watari/shared-file")
    lab.heal("n2", "storage")
    assert lab.sh("n2", "cat /srv/watari/shared-file; touch /srv/watari/shared-file") == "2"


# Appends numbers to a file that it has open, and says each one that was written, or why not. One request a line of input.
WRITER = """
import os, sys
f = os.open('/srv/watari/numbers', os.O_RDWR | os.O_CREAT)
for line in sys.stdin:
    try:
        os.pwrite(f, line.encode(), os.fstat(f).st_size if line[0] == 'a' else 0)
        os.fsync(f)
        print('done', flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""
# Takes a lock on a file as QEMU does, and keeps it until its input ends.
LOCKER = """
import fcntl, os, struct, sys
f = os.open('/srv/watari/locked', os.O_RDWR | os.O_CREAT)
try:
    fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, 100, 1, 0))
    print('locked', flush=True)
    sys.stdin.read()
except OSError as error:
    print(error.strerror, flush=True)
"""


def python_in(lab, node, program):
    return lab.popen("exec", node, "--", "/usr/bin/python3", "-c", program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def ask(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.fixture(scope="module")
def fuse_lab():
    with Lab(nodes=2, daemon=False, storage_mib=64, storage_fuse=True) as lab:
        yield lab


@pytest.mark.parametrize("mode,word", [("readonly", "Read-only file system"), ("error", "Input/output error"),
                                       ("full", "No space left on device")])
def test_storage_is_cut_under_a_running_writer(fuse_lab, mode, word):
    """Whoever has a file open must feel it too: that is what a lost path to a disk array is like."""
    lab, writer = fuse_lab, python_in(fuse_lab, "n2", WRITER)
    assert ask(writer, "a1") == "done"
    lab.cut("n2", "storage", mode)
    assert lab.status()["n2"]["storage"] == mode
    assert ask(writer, "b2") == word
    assert lab.sh("n1", "cat /srv/watari/numbers") == "a1", "what came before is done, nothing came after"
    assert lab.sh("n1", "touch /srv/watari/numbers && echo fine") == "fine", "only n2's way to it is cut"
    lab.heal("n2", "storage")
    assert ask(writer, "c3") == "done"
    writer.communicate(timeout=10)
    lab.sh("n1", "rm /srv/watari/numbers")


def test_storage_hangs_and_goes_on_or_is_never_done(fuse_lab):
    """A process that waits for its storage is deaf to SIGKILL; when its node loses power, what it wanted is not done."""
    lab = fuse_lab
    lab.sh("n1", "echo 1 > /srv/watari/file")
    lab.cut("n2", "storage", "hang")
    assert lab.status()["n2"]["storage"] == "hang"
    touch = lab.popen("exec", "n2", "--", "touch", "/srv/watari/file2")
    with pytest.raises(subprocess.TimeoutExpired):
        touch.wait(1)
    assert lab.exec("n1", "cat", "/srv/watari/file").stdout == "1\n", "only n2's way to it is cut"
    lab.heal("n2", "storage")
    assert touch.wait(10) == 0
    lab.cut("n2", "storage", "hang")
    touch = lab.popen("exec", "n2", "--", "touch", "/srv/watari/file2")
    wait_until(lambda: lab.sh("n2", "ps -eo wchan:30,comm | grep 'request_wait.*touch' || :"), 10, "a request that waits")
    lab.sh("n2", "pkill -KILL -x touch")
    assert touch.wait(10) == 137, "as on NFS"
    lab.cut("n2", "storage", "stuck")
    stuck = lab.popen("exec", "n2", "--", "bash", "-c", "echo in; touch /srv/watari/file3", stdout=subprocess.PIPE)
    assert stuck.stdout.readline() == "in\n"
    wait_until(lambda: lab.sh("n2", "ps -eo wchan:30,comm | grep 'request_wait.*touch' || :"), 10, "a request that waits")
    lab.sh("n2", "pkill -KILL -x touch")
    wait_until(lambda: lab.sh("n2", "ps -eo stat,comm | grep '^D.*touch' || :"), 10, "a process that SIGKILL does not end")
    lab.power_off("n2")
    assert stuck.wait(10) == 137
    assert lab.exec("n1", "test", "-e", "/srv/watari/file3", check=False).returncode == 1
    lab.power_on("n2")
    assert lab.sh("n2", "cat /srv/watari/file") == "1", "a booted node's storage is well"


def test_locks_on_the_storage_hold_between_nodes(fuse_lab):
    """QEMU's image lock is the last thing between two copies of a guest."""
    first = python_in(fuse_lab, "n1", LOCKER)
    assert first.stdout.readline() == "locked\n"
    second = python_in(fuse_lab, "n2", LOCKER)
    assert second.stdout.readline() == "Resource temporarily unavailable\n"
    first.communicate(timeout=10)
    third = python_in(fuse_lab, "n2", LOCKER)
    assert third.stdout.readline() == "locked\n"
    third.communicate(timeout=10)


def test_storage_can_be_full_slow_and_dead(fuse_lab):
    lab = fuse_lab
    assert "No space left" in lab.exec("n1", "dd", "if=/dev/zero", "of=/srv/watari/fill", "bs=1M", check=False).stderr
    lab.sh("n1", "rm /srv/watari/fill; echo 1 > /srv/watari/file")
    lab.cut("n2", "storage", "slow:300")
    began = time.monotonic()
    lab.sh("n2", "cat /srv/watari/file")
    assert time.monotonic() - began > 0.3
    assert lab.status()["n2"]["storage"] == "slow:300"
    assert lab.tool("cut", "n2", "storage", "slow:x", check=False).returncode == 64
    lab.sh("n2", "pkill -KILL storagefs")
    wait_until(lambda: lab.status()["n2"]["storage"] == "dead", 10, "its death is seen")
    lab.heal("n2", "storage")
    assert lab.sh("n2", "cat /srv/watari/file") == "1"


def test_up_that_was_killed_can_be_repeated_or_taken_down():
    """People press Ctrl-C, and machines run out of memory, in the middle of things."""
    lab = Lab(nodes=3, daemon=False)
    try:
        for delay in (0.05, 0.2, 0.4, 0.7, 1.1, 1.6):
            process = lab.popen("up", "--no-daemon", stderr=subprocess.DEVNULL, start_new_session=True)
            time.sleep(delay)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if delay in (0.2, 0.7):
                lab.down()
                assert traces(lab.name) == []
        lab.up()
        assert all(node["quorate"] and node["members"] == 3 for node in lab.status().values())
    finally:
        lab.down()
    assert traces(lab.name) == []


OFF, DONE, FAILED = 2, 0, 1


def test_the_fence_agent_pulls_the_cord_and_tells_the_truth(lab):
    """Whatever watari believes about a dead node, it believes because of this agent."""
    metadata = ElementTree.fromstring(lab.fence("n1", action="metadata").stdout)
    assert {"action", "plug", "port", "ip", "password"} <= {item.get("name") for item in metadata.iter("parameter")}
    assert {"off", "on", "reboot", "status", "monitor", "list"} <= {item.get("name") for item in metadata.iter("action")}
    assert lab.fence("n1", action="list").stdout == "n1,n1\nn2,n2\nn3,n3\n"
    assert lab.fence("n1", action="monitor").returncode == DONE
    assert lab.fence("n1", action="status", plug="n2").returncode == DONE
    lab.spawn("n2", "sleep", "1234568")
    assert lab.fence("n1", action="off", plug="n2", username="x", password="x").returncode == DONE
    assert subprocess.run(["pgrep", "-f", "-x", "sleep 1234568"], capture_output=True, check=False).returncode == 1
    times = {event: ms for ms, _, event in lab.hardware_log("n2")}
    assert times["is off"] - times["power cut asked by n1"] < 2000
    for by in ("n1", "n3"):
        assert lab.fence(by, action="status", port="n2").returncode == OFF
    assert lab.fence("n1", action="off", nodename="n2").returncode == DONE, "off already is off"
    assert lab.fence("n3", action="on", nodename="n2").returncode == DONE
    assert lab.fence("n1", action="status", plug="n2").returncode == DONE
    lab.wait_members("n2", 3)
    boot_id = lab.boot_id("n2")
    assert lab.fence("n1", action="reboot", plug="n2").returncode == DONE
    lab.wait_members("n2", 3)
    assert lab.boot_id("n2") != boot_id
    for options in ({"action": "off"}, {"action": "off", "plug": "n9"}, {"action": "off", "plug": "n2 n3"},
                    {"action": "explode", "plug": "n2"}, {"action": "off", "plug": "../n2"}):
        assert lab.fence("n1", **options).returncode == FAILED, options
    lab.cut("n1", "bmc")
    assert lab.fence("n1", action="off", plug="n2").returncode == FAILED
    assert lab.fence("n3", action="status", plug="n2").returncode == DONE
    lab.heal("n1", "bmc")
    assert lab.fence("n1", action="status", plug="n2").returncode == DONE


def test_a_controller_can_fail_in_every_way(lab):
    """A fault that does not happen as its name says would make the tests of fencing prove nothing."""
    def off(by="n1", node="n2", **how):
        return lab.fence(by, action="off", plug=node, **how)

    def status(node="n2"):
        return lab.fence("n1", action="status", plug=node).returncode
    lab.bmc("n2", "lie")
    assert (off().returncode, status()) == (DONE, DONE)
    lab.bmc("n2", "lie-status")
    assert (off().returncode, status()) == (DONE, OFF)
    lab.bmc("n2", "gone")
    assert (off().returncode, status()) == (FAILED, FAILED)
    lab.bmc("n2", "crash")
    assert off().returncode == 128 + signal.SIGSEGV
    lab.bmc("n2", "garbage")
    done = off()
    assert done.returncode == 77 and "\0" in done.stdout and len(done.stdout) > 100000
    lab.bmc("n2", "hang")
    with pytest.raises(subprocess.TimeoutExpired):
        off(timeout=1)
    assert lab.status()["n2"]["power"] == "on", "none of these switched anything"
    lab.bmc("n2", "wrong:n3")
    assert (off().returncode, status()) == (DONE, OFF)
    assert {name: node["power"] for name, node in lab.status().items()} == {"n1": "on", "n2": "on", "n3": "off"}
    lab.bmc("n2", "slow:2")
    with pytest.raises(subprocess.TimeoutExpired):
        off(timeout=0.5)
    wait_until(lambda: lab.status()["n2"]["power"] == "off", 20, "the order to be carried out late")
    lab.up()
    assert status() == DONE, "up mends"
    lab.bmc("n2", "huge")
    agent = lab.popen("exec", "n1", "--", "bash", "-c", "echo action=off$'\n'plug=n2 | /run/lab/agents/fence_lab | wc -c",
                      stdout=subprocess.PIPE)
    assert int(agent.communicate(timeout=60)[0]) > 1 << 30
    assert status() == OFF
    for fault in ("fine", "wrong", "wrong:n9", "slow", "slow:x", "ok:1"):
        assert lab.tool("bmc", "n2", fault, check=False).returncode == 64, fault


def test_the_watchdog_fires_when_nobody_feeds_it(lab):
    """A node whose daemon hangs must die by itself, and not a moment before its time."""
    talk = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/watari-watchdog'); " \
           "s.sendall(sys.argv[1].encode()); print(s.recv(99).decode(), end='')"

    def say(node, words):
        return lab.exec(node, "/usr/bin/python3", "-c", talk, words).stdout
    assert lab.watchdog("n2") == "disarmed"
    assert say("n2", "arm 600000\n") == "armed 600000\n"
    assert lab.watchdog("n2").startswith("armed 600000 ms, fed "), "a closed connection does not disarm it"
    assert say("n2", "feed\nfeed\ndisarm\n") == "disarmed\n"
    for words in ("arm\n", "arm 0\n", "arm 99999999999999999999\n", "arm -5\n", "arm 1000x\n", "\n"):
        assert say("n2", words).startswith("error "), words
    assert lab.watchdog("n2") == "disarmed"
    lab.watchdog("n3", "dead")
    for node in ("n2", "n3"):
        assert say(node, "arm 1500\n") == "armed 1500\n"
    wait_until(lambda: "ran out" in lab.watchdog("n3"), 20, "the dead watchdog's time")
    wait_until(lambda: lab.status()["n2"]["power"] == "off", 20, "n2 to be off")
    assert lab.status()["n3"]["power"] == "on", "a dead watchdog does nothing"
    times = {event: ms for ms, _, event in lab.hardware_log("n2")}
    # The log's line is written after the arming, and its clock shows whole milliseconds.
    assert 1490 <= times["power cut by its watchdog"] - times["watchdog armed 1500 ms"] < 2500
    lab.power_on("n2")
    assert lab.watchdog("n2") == "disarmed", "a new boot has a new watchdog"


def test_all_lose_power_at_once_and_come_back_in_any_order(lab):
    lab.power_off("--all")
    assert {node["power"] for node in lab.status().values()} == {"off"}
    lab.power_on("n3", "n1")
    assert lab.status()["n2"]["power"] == "off"
    lab.power_on("--all")
    lab.wait_members("n1", 3)


def test_nodes_are_apart(lab):
    """Files, processes, addresses and names of one node are not another's."""
    lab.sh("n1", "touch /run/mine /tmp/mine /dev/shm/mine /var/lib/watari/mine /etc/watari/mine")
    lab.spawn("n1", "sleep", "7654321")
    assert lab.sh("n2", "ls /run/mine /tmp/mine /dev/shm/mine /var/lib/watari/mine /etc/watari/mine 2>/dev/null || :") == ""
    assert lab.exec("n2", "pgrep", "-f", "sleep 7654321", check=False).returncode == 1
    assert lab.sh("n2", "hostname") == "n2"
    assert len({lab.boot_id(node) for node in lab.nodes}) == 3
    assert lab.sh("n2", "ls /sys/class/net").split() == ["br0", "eth0", "eth1", "lo"]
    assert lab.exec("n3", "bash", "-c", "exit 42", check=False).returncode == 42
    assert not os.path.exists("/run/mine") and not os.path.exists("/etc/watari")


def test_two_labs_live_side_by_side_and_two_nodes_are_enough(lab):
    with Lab(nodes=2, daemon=False) as other:
        other.power_off("n1")
        other.wait_members("n2", 1)
        assert other.is_quorate("n2"), "two_node: the survivor keeps quorum"
        assert lab.members("n1") == 3
    assert lab.members("n1") == 3


def test_a_witness_breaks_the_tie_of_two_nodes():
    with Lab(nodes=2, daemon=False, witness=True, token=1500) as lab:
        assert "token: 1500" in lab.sh("n1", "cat /etc/corosync/corosync.conf")

        def wait_quorate(node, members, quorate=True):
            wait_until(lambda: (lab.members(node), lab.is_quorate(node)) == (members, quorate), 60,
                       f"{node} to see {members} and be quorate: {quorate}")
        lab.power_off("n1")
        wait_quorate("n2", 1)
        lab.power_on("n1")
        wait_quorate("n1", 2)
        lab.cut("n1", "network")
        wait_quorate("n2", 1)
        wait_quorate("n1", 1, False)
        lab.heal("n1")
        wait_quorate("n1", 2)
        lab.cut("witness", "network")
        wait_until(lambda: "NR" in lab.sh("n2", "corosync-quorumtool -s || :") or
                   "Total votes:      2" in lab.sh("n2", "corosync-quorumtool -s || :"), 60, "the witness's vote to go")
        assert lab.is_quorate("n2") and lab.members("n2") == 2, "two of two need no witness"
        lab.power_off("n1")
        wait_quorate("n2", 1, False)
        lab.up()
        wait_quorate("n2", 2)
        lab.power_off("witness")
        assert json.loads(lab.tool("status", "-o", "json").stdout)["witness"] == "off"
        assert lab.is_quorate("n1")
        lab.power_on("witness")


def test_bad_input_is_refused(lab):
    for args, text in ((("power-off", "n4"), "not a node"), (("power-off", "../n1"), "not a node"),
                       (("cut", "n1", "tree"), "cut what"), (("frobnicate",), "no verb"), (("exec", "n1"), "exec NODE"),
                       (("up", "--nodes", "9"), "2 to 8"), (("up", "--nodes", "4"), "has nodes 3, not 4"),
                       (("up", "--build", "/nonexistent/x"), "no such directory"), (("status", "-o", "xml"), "json"),
                       (("up", "--witness"), "has witness none"), (("cut", "witness", "network"), "has no witness"),
                       (("up", "--token", "5"), "100 to"), (("up", "--watchdog=1"), "100 to")):
        done = lab.tool(*args, check=False)
        assert done.returncode != 0 and text in done.stderr, (args, done.stderr)
    done = subprocess.run([lab.argv()[0], "status"], env={**lab.env(), "WATARI_LAB_NAME": "a/../b"}, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 64
    assert "power-off" in lab.tool("--help").stdout


@pytest.fixture
def guest(lab):
    lab.sh("n1", "truncate -s 64M /srv/watari/vda.img")
    guest = HandGuest(lab, "n1", append="watari.fill_mib=64 watari.load=mem,disk watari.load_mib=16",
                      extra=("-drive", "file=/srv/watari/vda.img,format=raw,if=virtio,cache=none"))
    lab.wait_guest()
    yield guest
    if guest.is_running():
        guest.signal("KILL")


def test_the_guest_answers_and_the_probes_measure(lab, guest):
    """A stop of known length must come out of the probe with that length, or no figure of ours means anything."""
    with lab.probe("udp") as udp, lab.probe("tcp") as tcp:
        udp.wait_first()
        tcp.wait_first()
        time.sleep(2)  # the probe's idea of "normal" comes from these seconds
        stop_asked = time.time_ns()
        guest.signal("STOP")
        stopped = time.time_ns()
        time.sleep(0.4)
        resume_asked = time.time_ns()
        guest.signal("CONT")
        resumed = time.time_ns()
        time.sleep(2)
        udp_report, tcp_report = udp.stop(), tcp.stop()
    gap = max(udp_report["gaps"], key=lambda gap: gap["ms"])
    # The last answer before and the first after: an emulated guest may be 100 ms late by itself on a busy machine.
    slack = 150_000_000
    assert stop_asked - slack < gap["begin_ns"] < stopped and resume_asked < gap["end_ns"] < resumed + slack
    assert udp_report["blackout_ms"] == gap["ms"] == pytest.approx((gap["end_ns"] - gap["begin_ns"]) / 1e6, abs=0.01)
    assert udp_report["blackout_ms"] > (resume_asked - stopped) / 1e6
    assert udp_report["nonce_changes"] == udp_report["counter_back"] == udp_report["duplicates"] == 0
    assert udp_report["answered"] > 500
    assert gap["normal_again_ms"] is not None
    assert tcp.status == 0 and tcp_report["broken"] is None and tcp_report["longest_gap_ms"] > 300
    state = lab.http("/checksum")
    assert state["checksum_ok"] is True and state["pages"] == 64 * 256
    state = lab.http("/")
    assert state["memory_load"]["written"] > 1000 and state["memory_load"]["errors"] == 0
    assert state["disk_load"]["written"] > 20 and state["disk_load"]["errors"] == state["disk_load"]["io_errors"] == 0
    assert f"nonce {state['nonce']}" in guest.serial.read_text(errors="replace")


def test_the_guest_notices_one_flipped_bit(lab, guest):
    """A checksum that cannot fail proves nothing."""
    address = lab.http("/")["fill_phys"]
    assert lab.http("/checksum")["checksum_ok"] is True
    with open(guest.ram, "r+b", buffering=0) as ram:
        ram.seek(address + 1001)
        byte = ram.read(1)[0]
        ram.seek(address + 1001)
        ram.write(bytes([byte ^ 0x10]))
    verdict = lab.http("/checksum")
    assert verdict["checksum_ok"] is False and verdict["pages_bad"] == 1 and verdict["first_bad"] == 64 * 256 // 2
    assert lab.http("/")["checksum_ok"] is False


def test_the_guest_notices_a_stale_disk_block(lab, guest):
    """A disk that goes back in time is what a state resumed against the wrong disk looks like."""
    lab.http("/set?disk_rate=1000")
    wait_until(lambda: lab.http("/")["disk_load"]["written"] > 2000, 60, "disk load")
    lab.http("/set?load=none")
    assert lab.http("/checksum")["checksum_ok"] is True
    image = lab.store / "shared" / "vda.img"
    old = image.read_bytes()[:16 << 20]
    lab.http("/set?load=disk")
    written = lab.http("/")["disk_load"]["written"]
    wait_until(lambda: lab.http("/")["disk_load"]["written"] > written + 200, 60, "disk load")
    lab.http("/set?load=none")
    with open(image, "r+b") as disk:
        disk.write(old)
    verdict = lab.http("/checksum")
    assert verdict["checksum_ok"] is False and verdict["disk_bad"] > 50 and verdict["pages_bad"] == 0


def test_reset_and_power_button(lab, guest):
    """Rebooted must not look like restored; and the button must end the guest soon."""
    with lab.probe("udp") as udp, lab.probe("tcp", stall_s=5) as tcp:
        udp.wait_first()
        tcp.wait_first()
        before = lab.http("/")["nonce"]
        guest.qmp("system_reset")
        wait_until(lambda: lab.wait_guest()["nonce"] != before, 60, "the guest to boot again")
        report = udp.stop()
        tcp.wait_end()
        assert tcp.stop()["broken"] and tcp.status == 1
    assert report["nonce_changes"] == 1 and report["first_nonce"] == before != report["last_nonce"]
    assert any(gap["rebooted"] for gap in report["gaps"])
    guest.qmp("system_powerdown")
    wait_until(lambda: not guest.is_running(), 15, "the guest to power off")


def test_the_writers_log_shows_one_writer_with_a_gap_or_two_at_once(lab):
    """The fault campaign's verdict is this log: it must pass one owner after the other, and catch two together."""
    disk = ("-drive", "file=/srv/watari/writer.img,format=raw,if=virtio,cache=none,file.locking=off")

    def boot(node, ip):
        guest = HandGuest(lab, node, ip=ip, extra=disk, mac=f"02:77:02:00:00:{ip[-2:]}",
                          append="watari.fill_mib=1 watari.writer=vda watari.writer_rate=50")
        lab.wait_guest(ip)
        return guest

    def written(ip):
        return lab.http("/", ip)["writer"]["number"]
    lab.sh("n1", "rm -f /srv/watari/writer.img; truncate -s $(((16 << 20) + 64 * 512)) /srv/watari/writer.img")
    image = lab.store / "shared" / "writer.img"
    guests = []
    try:
        with Watch(image) as watch:
            guests.append(boot("n1", "10.77.0.61"))
            wait_until(lambda: written("10.77.0.61") > 20, 60, "the first owner to write")
            guests[0].signal("KILL")
            guests.append(boot("n2", "10.77.0.62"))
            wait_until(lambda: written("10.77.0.62") > 90, 60, "the second owner to write the ring full")
            first, second = watch.check()
            assert first["records"] >= 20 and second["gap_ms"] > 100 and second["last_ms"] > second["first_ms"]
            assert first["last_ms"] + second["gap_ms"] == second["first_ms"]
            assert Log(image).check().owners()[-1] == second["nonce"]
            guests.append(boot("n3", "10.77.0.63"))
            wait_until(lambda: Log(image).violations, 60, "two writers to be seen in what lies there")
            wait_until(lambda: watch.violations, 60, "two writers to be seen by whoever reads along")
            with pytest.raises(AssertionError):
                watch.check()
            wait_until(lambda: any(lab.http("/", ip)["writer"]["strangers"] for ip in ("10.77.0.62", "10.77.0.63")), 30,
                       "a guest to meet the other's records")
    finally:
        for guest in guests:
            if guest.is_running():
                guest.signal("KILL")


def test_the_guest_is_reached_whichever_node_it_is_on(lab):
    guest = HandGuest(lab, "n3", append="watari.fill_mib=8")
    try:
        lab.wait_guest()
        lab.cut("n3", "guests")
        with pytest.raises(LabError):
            lab.http("/", timeout=1)
        assert lab.members("n3") == 3, "the cluster's cable is another one"
        lab.heal("n3", "guests")
        lab.wait_guest(timeout=20)
    finally:
        lab.power_off("n3")
    wait_until(lambda: lab.client(BUILD / "lab" / "probe", "udp", "--to", GUEST_IP, "--seconds", 1,
                                  check=False).returncode == 1, 10, "the guest to die with its node")
