# SPDX-License-Identifier: Apache-2.0
"""Bad input of every kind, on a real cluster with a real guest, through the CLI and through the socket itself: each is
refused with its exit status, with the fact and with what to do; nothing is lost, and the guest runs on.

test_cli.py has the words of the command line one by one; here is what needs the whole: memory, disks, nodes, states."""
import contextlib
import json
import os
import re
import shutil
import threading
import time

import pytest

from cluster import DAEMON, INITRD, KERNEL, STREAM, Api, Freezer, Guest, News, pids, wait_agreed, wait_synced
from lab import Lab, wait_until

NODES = ["n1", "n2", "n3"]
GUEST_MIB = 128
ENOUGH_MIB = 700  # of shared storage: two states of the guest at once, disks, the margin that a save wants


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=3, storage_mib=ENOUGH_MIB) as lab:
        wait_synced(lab)
        yield lab


@pytest.fixture(scope="module")
def web(lab):
    # Every block of its disk is there: what fills the storage up in a test shall not fill it up for the guest.
    (lab.shared / "web.img").write_bytes(bytes(16 << 20))
    guest = Guest(lab, "web", memory=f"{GUEST_MIB}M", disk_mib=16, append="watari.fill_mib=24 watari.load=mem,disk "
                  "watari.load_mib=8 watari.load_rate=500 watari.disk_mib=4").create()
    guest.boot("n1")
    return guest


@pytest.fixture
def unharmed(web):
    """Around the tests: the guest is the same one afterwards, whole, on the same node in the same epoch, and all
    nodes agree on the same history. A test that moved or saved it on purpose says where it must be then."""
    before, was = web.check(), web.show()
    expected = {"node": was["node"], "epoch": was["epoch"]}
    yield expected
    web.wait_filled()
    after, now = web.check(), web.show()
    assert after["nonce"] == before["nonce"] and after["checksum"] == before["checksum"], "it has rebooted"
    assert after["counter"] > before["counter"]
    assert (now["state"], now["node"]) == ("online", expected["node"]) and now["epoch"] == expected["epoch"], now
    web.wait_no_states()
    wait_agreed(web.lab)


def daemon_pid(lab, node="n1"):
    return pids(lab, node, DAEMON)[0]


def rss_kib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1])


class Refusal:
    """How a command was refused; checks that it says what is the matter and what to do."""

    def __init__(self, error):
        self.exit, self.text = error["exit"], error["message"]
        self.hint = error.get("hint", "")

    def __repr__(self):
        return f"{self.exit}: {self.text} | {self.hint}"

    def must_say(self, exit_status, fact, todo):
        assert self.exit == exit_status, self
        assert fact in self.text, f"'{fact}' is not in {self}"
        assert todo in f"{self.text} {self.hint}", f"'{todo}' is not in {self}"
        return self


def refused(lab, *args, node="n1", **how):
    """The refusal of a CLI call, whose exit status must be the one that its error names."""
    done = lab.cli_raw(node, *args[:2], "-o", "json", *args[2:], check=False, text=False, **how)
    assert done.returncode, f"{args[:3]} was not refused: {done.stdout[-300:]}"
    text = done.stderr.decode()
    error = json.loads(text[text.index('{\n  "error"'):])["error"]
    assert error["exit"] == done.returncode and error["message"].isprintable()
    return Refusal(error)


def raw(api, line, number=1):
    """Sends bytes that no JSON library would write; the refusal that comes back."""
    api.send(line + b"\n")
    answer = api.line()
    assert answer is not None, "the daemon hung up"
    assert "error" in answer, f"{line[:80]} was not refused: {answer}"
    return Refusal(answer["error"])


# --- names ---

LONG = b"x" * 65536
# As bytes within a JSON string, the exit status, what is said.
NAMES = [
    (b"../../etc/passwd", 65, "is no VM's name"),
    (b"-rf", 65, "is no VM's name"),
    (b"a/b", 65, "is no VM's name"),
    (b"web;reboot", 65, "is no VM's name"),
    (b"$(reboot)", 65, "is no VM's name"),
    (b"a\\nb", 65, "control characters are not allowed"),
    (b"a\nb", 65, "not JSON"),
    (b"a\\u0000b", 65, "not JSON"),
    (b"\\ud800", 65, "not JSON"),
    (b"\xff\xfe", 65, "not JSON"),
    (b"\xc0\xaf", 65, "not JSON"),
    (b"w\\u0435b", 65, "is no VM's name"),
    (b"", 65, "must not be empty"),
    (LONG, 65, "65536 bytes, at most 63"),
]
NAMED_CALLS = ("vm.show", "vm.start", "vm.stop", "vm.save", "vm.cancel", "vm.delete", "vm.console")


def test_names_through_the_socket(lab, web, unharmed):
    """Every call that takes a name, every name that is none: refused, and the next call on the same connection works."""
    with Api(lab, "n1") as api:
        index = api.call("cluster.status")["index"]
        for name, status, fact in NAMES:
            for call in NAMED_CALLS:
                line = b'{"id":1,"call":"%b","args":{"vm":"%b"}}' % (call.encode(), name)
                if b"\n" in name:
                    api.send(line.split(b"\n")[0] + b"\n")
                    raw(api, line.split(b"\n")[1]).must_say(status, "not JSON", "")
                    api.line()
                else:
                    raw(api, line).must_say(status, fact, "")
            if b"\n" not in name:
                definition = b'{"memory_mib":64,"kernel":"%b","name":"%b"}' % (KERNEL.encode(), name)
                raw(api, b'{"id":1,"call":"vm.create","args":{"definition":%b}}' % definition).must_say(65, "", "")
                found = raw(api, b'{"id":1,"call":"vm.move","args":{"vm":"web","target":"%b"}}' % name)
                assert found.exit in (65, 105) and len(found.text) < 300, found
        assert api.call("vm.show", vm="web")["state"] == "online"
        assert api.call("cluster.status")["index"] == index, "something was logged"
        assert [vm["name"] for vm in api.call("vm.list")["vms"]] == ["web"]


def test_names_on_the_command_line(lab, web, unharmed):
    for name, status, fact in ((b"../web", 65, "is no VM's name"), (b"-web", 65, "is no VM's name"),
                               (b"a\nb", 65, "control characters"), (LONG, 65, "65536 bytes, at most 63"),
                               (b"\xff\xfeweb", 65, "invalid UTF-8"), (b"", 65, "must not be empty")):
        for verb in ("show", "start", "save"):
            refused(lab, "vm", verb, "--", name).must_say(status, fact, "")
        found = refused(lab, "vm", "create", "--memory", "64M", "--kernel", KERNEL, "--", name)
        assert found.exit == 65 and "name" in found.text or "word 10" in found.text, found
        assert refused(lab, "vm", "move", "web", "--to=" + os.fsdecode(name)).exit in (65, 105)


# --- JSON ---

def test_a_gigabyte_of_json_costs_a_megabyte(lab, web, unharmed):
    """One line of 1 GB, then 1 GB of answers that nobody reads: both clients are sent away with the reason, the daemon
    does not grow, and other clients are served all the while."""
    pid, block, total = daemon_pid(lab), b"[" + b"1," * 32767 + b"1", 1 << 30
    before, sent = rss_kib(pid), 0
    with Api(lab, "n1") as other, Api(lab, "n1") as flood:
        flood.send(b'{"id":1,"call":"vm.create","args":{"definition":')
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < total:
                flood.send(block)
                sent += len(block)
                if not sent % (len(block) * 8):
                    other.call("cluster.status")
        answer = flood.line()
        Refusal(answer["error"]).must_say(65, "a call of more than 1 MiB", "one call is one line")
        assert sent < 16 << 20, sent
        assert other.call("vm.show", vm="web")["state"] == "online"
    grown = rss_kib(pid) - before
    assert grown < 16 << 10, f"the daemon has grown by {grown} KiB"

    with Api(lab, "n1") as other, Api(lab, "n1") as deaf:
        ask = b'{"id":1,"call":"api.list"}\n' * 64
        deaf.sock.settimeout(1)
        with pytest.raises(TimeoutError):  # the daemon does not take more questions while nobody takes its answers
            while True:
                deaf.send(ask)
        deaf.sock.settimeout(30)
        last, answers = None, 0
        with contextlib.suppress(ConnectionResetError):  # its questions that were not read any more
            while (line := deaf.line()) is not None:
                last, answers = line, answers + 1
        assert answers > 100 and last["event"]["kind"] == "dropped" and "does not read" in last["event"]["reason"], last
        assert other.call("vm.show", vm="web")["state"] == "online"
    grown = rss_kib(pid) - before
    assert grown < 32 << 10, f"the daemon has grown by {grown} KiB"


def test_a_gigabyte_as_a_definition_file(lab, web, unharmed):
    """The CLI itself takes a bounded bite, of a file and of a pipe that never ends."""
    huge = lab.shared / "huge.json"
    with open(huge, "wb") as file:
        file.truncate(1 << 30)
    try:
        for path in "/srv/watari/huge.json", "/dev/zero":
            began = time.monotonic()
            refused(lab, "vm", "create", "--file", path).must_say(65, "at most 1048576", "")
            assert time.monotonic() - began < 10
    finally:
        huge.unlink()


DEFINITION = b'{"name":"bad","memory_mib":%b,"vcpus":%b,"kernel":"' + KERNEL.encode() + b'"%b}'
BIG = b"18446744073709551617"


def definitions():
    """(a definition, what is said of it)."""
    for text, fact in ((b"0", "memory 0 MiB: allowed are 16 to 4194304 MiB"), (b"-1", "whole number from 0"),
                       (BIG, "too big integer"), (b"-" + BIG, "too big negative integer"), (b"NaN", "not JSON"),
                       (b"Infinity", "not JSON"), (b"1e999", "real number overflow"), (b"64.5", "whole number"),
                       (b"6.4e1", "whole number"), (b'"64"', "whole number"), (b"true", "whole number"),
                       (b"4294967360", "whole number from 0 to 4294967295"), (b"4194305", "allowed are 16 to 4194304"),
                       (b"15", "allowed are 16"), (b"0x40", "not JSON"), (b"064", "not JSON"), (b"[64]", "whole number")):
        yield DEFINITION % (text, b"1", b""), fact
    for text, fact in ((b"1000000000", "1000000000 vCPUs: allowed are 1 to 256"), (b"257", "allowed are 1 to 256"),
                       (b"-1", "vcpus: a whole number"), (BIG, "too big integer"), (b"null", "vcpus: a whole number")):
        yield DEFINITION % (b"64", text, b""), fact
    for text, fact in ((b',"vcpus":1', "duplicate object key"), (b',"nics":[{"bridge":"br0","bridge":"br1"}]', "duplicate"),
                       (b',"exec":"/bin/sh"', "unknown key 'exec'"), (b',"machine":"q35,accel=kvm"', "machine 'q35,accel=kvm'"),
                       (b',"cpu":"max,+vmx"', "cpu 'max,+vmx'"), (b',"uuid":"../../x"', "not a UUID"),
                       (b',"nics":[{"bridge":"br0,script=/x"}]', "bridge"), (b',"disks":[{"path":"nbd:evil"}]', "absolute path"),
                       (b',"disks":[{"path":"/a/../etc/shadow"}]', "without '..'"), (b',"disks":[{"path":"/x","slot":99}]', "PCI slot 99"),
                       (b',"append":"' + b"x" * 600 + b'"', "600 bytes, at most 511"),
                       (b',"disks":[' + b",".join([b'{"path":"/x"}'] * 9) + b"]", "9 entries, at most 8")):
        yield DEFINITION % (b"64", b"1", text), fact
    yield b"[" * 1000000, "nested deeper than 16"
    yield b'{"a":' * 150000, "nested deeper than 16"


def test_definitions_through_the_socket_and_from_files(lab, web, unharmed):
    """The same definitions both ways; the socket's connection lives on, and nothing is defined."""
    path = lab.shared / "bad.json"
    with Api(lab, "n1") as api:
        index = api.call("cluster.status")["index"]
        for text, fact in definitions():
            raw(api, b'{"id":1,"call":"vm.create","args":{"definition":' + text + b"}}").must_say(65, fact, "")
            path.write_bytes(text)
            refused(lab, "vm", "create", "--file", "/srv/watari/bad.json").must_say(65, fact, "")
        assert api.call("cluster.status")["index"] == index
        assert [vm["name"] for vm in api.call("vm.list")["vms"]] == ["web"]
    path.unlink()


@pytest.mark.parametrize("line,status,fact", [
    (b"", 65, "not JSON"), (b"hello", 65, "not JSON"), (b"[]", 65, "a call is an object"),
    (b'{"id":1,"id":2,"call":"vm.list"}', 65, "duplicate"), (b'{"id":-1,"call":"vm.list"}', 65, "id: a whole number"),
    (b'{"id":' + BIG + b',"call":"vm.list"}', 65, "too big"), (b'{"id":1,"call":"vm.destroy"}', 64, "no call 'vm.destroy'"),
    (b'{"id":1,"call":"vm.show"}', 64, "needs the argument 'vm'"), (b'{"id":1,"call":"vm.list","args":[]}', 65, "an object"),
    (b'{"id":1,"call":"vm.list","arg":{}}', 64, "unknown key 'arg'"), (b'{"id":1,"call":"vm.list"} x', 65, "not JSON"),
    (b'{"id":1,"call":"vm.save","args":{"vm":"web","dry_run":"yes"}}', 65, "true or false"),
    (b'{"id":1,"call":"task.show","args":{"task":9223372036854775808}}', 65, "too big"),
    (b'{"id":1,"call":"log.list","args":{"count":1001}}', 65, "from 0 to 1000"),
    (b'{"id":1,"call":"vm.list","args":{"limit":NaN}}', 65, "not JSON"),
    (b"\xef\xbb\xbf{}", 65, "not JSON"), (b"\x00", 65, "not JSON"), (b"[" * 1000000, 65, "nested deeper than 16"),
], ids=lambda value: str(value)[:30] if isinstance(value, bytes) else "")
def test_lines_that_are_no_calls(lab, line, status, fact):
    with Api(lab, "n2") as api:
        raw(api, line).must_say(status, fact, "")
        assert api.call("cluster.status")["synced"]


# --- disks ---

def test_disks(lab, web, unharmed):
    """Missing, a directory, no file, in use by another VM: by its name at once, by another name when it is started."""
    shared = lab.shared
    (shared / "empty.img").touch()
    (shared / "a-dir").mkdir()
    os.mkfifo(shared / "a-fifo")
    os.symlink("web.img", shared / "alias.img")

    def create(*disks):
        words = ["vm", "create", "other", "--memory", "64M"]
        for disk in disks:
            words += ["--disk", f"/srv/watari/{disk}"]
        return words
    refused(lab, *create("no.img")).must_say(105, "disk disk0: /srv/watari/no.img: No such file", "create or mount it first")
    refused(lab, *create("a-dir")).must_say(65, "/srv/watari/a-dir is a directory", "give the image file")
    refused(lab, *create("a-fifo")).must_say(65, "neither a file nor a block device", "")
    refused(lab, *create("web.img")).must_say(108, "'/srv/watari/web.img' is in use by web", "one of its own")
    refused(lab, *create("alias.img", "alias.img")).must_say(65, "is disk disk0 already", "")
    refused(lab, *create("web.img,format=qcow2")).must_say(65, "no qcow2 image", "format")
    with Api(lab, "n3") as api:
        definition = {"name": "other", "memory_mib": 64, "disks": [{"path": "/srv/watari/web.img"}]}
        api.send(json.dumps({"id": 7, "call": "vm.create", "args": {"definition": definition}}).encode() + b"\n")
        Refusal(api.answer(7)["error"]).must_say(108, "in use by web", "")
    # What cannot be seen from the names is seen when it is opened, on every node.
    lab.cli("n1", *create("alias.img"))
    for node in NODES:
        refused(lab, "vm", "start", "other", "--on", node).must_say(75, "another process has the image open", "end it first")
    lab.cli("n1", "vm", "delete", "other", "--yes")
    lab.cli("n1", *create("empty.img"))
    refused(lab, "vm", "start", "other", "--on", "n2").must_say(65, "it is empty", "qemu-img create")
    (shared / "empty.img").unlink()
    refused(lab, "vm", "start", "other", "--on", "n2").must_say(105, "it does not exist on this node", "mount the storage")
    assert lab.cli("n1", "vm", "show", "other")["state"] == "off"
    lab.cli("n1", "vm", "delete", "other", "--yes")
    refused(lab, "vm", "edit", "web", "--remove", "disk0").must_say(113, "its machine is pinned", "shut it down")
    (shared / "a-dir").rmdir()
    for name in "a-fifo", "alias.img":
        (shared / name).unlink()


# --- targets ---

def test_targets(lab, web, unharmed):
    """Unknown, itself, without the disk, the bridge, the room, and one that is off: refused before anything stops."""
    def move(to, *more):
        return refused(lab, "vm", "move", "web", "--to", to, *more, node="n2")
    move("n9").must_say(105, "no node 'n9'", "watari node list")
    move("n1").must_say(65, "web runs on n1 already", "another")
    move("n1", "--dry-run").must_say(65, "web runs on n1 already", "another")

    lab.cut("n3", "storage", "gone")
    move("n3").must_say(105, "n3: disk disk0, '/srv/watari/web.img': it does not exist on this node", "mount the storage")
    lab.heal("n3", "storage")

    lab.sh("n3", "ip link set br0 down && ip link set br0 name br9 && ip link set br9 up")
    move("n3").must_say(113, "br0", "bridge")
    wait_until(lambda: "br9" in json.dumps(lab.cli("n1", "node", "show", "n3")), 20, "n3 to report its bridges")
    move("n3").must_say(113, "n3 has no bridge br0, which net0 of web needs", "watari node list")
    lab.sh("n3", "ip link set br9 down && ip link set br9 name br0 && ip link set br0 up")

    conf = lab.root("n3") / "etc/watari/watarid.conf"
    whole = conf.read_text()
    conf.write_text(whole.replace("[qemu]", f"[qemu]\nmemory={GUEST_MIB - 1}M"))
    lab.restart_daemon("n3")
    wait_synced(lab)
    move("n3").must_say(113, f"n3 has {GUEST_MIB - 1} MiB free, web needs {GUEST_MIB}", "watari node list")
    move("n3", "--dry-run").must_say(113, f"n3 has {GUEST_MIB - 1} MiB free", "")

    lab.power_off("n3")
    wait_until(lambda: lab.cli("n1", "node", "show", "n3")["state"] != "online", 30, "n1 to see that n3 is off")
    move("n3").must_say(113, "n3 is ", "watari node list")
    lab.power_on("n3")
    conf = lab.root("n3") / "etc/watari/watarid.conf"
    conf.write_text(whole)
    lab.restart_daemon("n3")
    wait_synced(lab)
    assert web.move("n3", "--dry-run")["state"] == "done"


# --- saved states ---

def flip(path, at, bit=3):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1 << bit]))


def cut_short(path):
    os.truncate(path, path.stat().st_size - 1)


def copy_state(source, target):
    """With its owner, without whom it cannot be read."""
    shutil.copytree(source, target)
    for copied in (target, *target.iterdir()):
        was = (source / copied.relative_to(target)).stat()
        os.chown(copied, was.st_uid, was.st_gid)


def data_at(path):
    """Somewhere in the middle of what is written: a flipped bit in a hole would be in a page that nobody reads."""
    with open(path, "rb") as file:
        return os.lseek(file.fileno(), path.stat().st_size // 4, os.SEEK_DATA) + 1234


def test_saved_states(lab, web, unharmed):
    """Truncated, damaged, another VM's, another epoch's: no node resumes it, it is kept, and once it is whole again the
    guest goes on as if nothing had been."""
    other = Guest(lab, "other", ip="10.77.0.60", memory=f"{GUEST_MIB}M", append="watari.fill_mib=4").create()
    other.boot("n2")
    other.cli("vm", "save", "other")
    (task_other,) = other.states()
    web.cli("vm", "save", "web")
    (task_old,) = web.states()
    aside = lab.shared / "aside"
    copy_state(web.state_dir(task_old), aside / "old")
    web.start("n1")
    web.wait_filled()
    web.cli("vm", "save", "web")
    (task,) = web.states()
    state, sound = web.state_dir(task), aside / "sound"
    copy_state(state, sound)

    def swap(source):
        def act():
            shutil.rmtree(state)
            copy_state(source, state)
        return act

    def manifest_of(source, **changes):
        """A manifest whose own sum is not right any more: an editor's work."""
        def act():
            text = (source / "manifest").read_text()
            for old, new in changes.values():
                assert old in text
                text = text.replace(old, new)
            (state / "manifest").write_text(text)
        return act
    epoch = web.show()["saved"]["epoch"]
    kept = "--discard-state"
    for what, act, status, fact in (
            ("ram truncated", lambda: cut_short(state / "ram"), 104, "'ram' has"),
            ("device truncated", lambda: cut_short(state / "device"), 104, "'device' has"),
            ("manifest truncated", lambda: cut_short(state / "manifest"), 104, "manifest: not JSON"),
            ("ram, one bit", lambda: flip(state / "ram", data_at(state / "ram")), 104, "of 'ram' does not hold"),
            ("device, one bit", lambda: flip(state / "device", 4321), 104, "the checksum of 'device' does not hold"),
            ("sums, one bit", lambda: flip(state / "sums", 4321), 104, "the checksum of 'sums' does not hold"),
            ("manifest, one bit", lambda: flip(state / "manifest", 200, 0), 104, "manifest: "),
            ("an edited epoch", manifest_of(sound, epoch=(f'"epoch":{epoch}', f'"epoch":{epoch + 1}')), 104,
             "manifest: its checksum does not hold"),
            ("another epoch's", swap(aside / "old"), 113, f"saved state has task {task_old}, {task} was expected"),
            ("another VM's", swap(other.state_dir(task_other)), 113, f'saved state has vm "{other.uuid}", "{web.uuid}"'),
            ("gone", lambda: shutil.rmtree(state), 105, str(task)),
            ("a link", lambda: ((state / "ram").unlink(), os.symlink("/etc/shadow", state / "ram")), 104, "'ram' of the saved state is a link")):
        act()
        found = refused(lab, "vm", "start", "web", node="n3")
        print(what, found)
        found.must_say(status, fact, kept)
        assert "the saved state is kept" in found.text
        vm = web.show(node="n3")
        assert vm["state"] == "saved" and vm["saved"]["status"] == "sealed" and fact in vm["reason"], vm
        assert not any(web.qemu(node) for node in NODES), what
        if state.exists():
            shutil.rmtree(state)
        copy_state(sound, state)
    with Api(lab, "n2") as api:
        ended = web.wait_task(api.call("vm.start", vm="web", node="n1")["task"], node="n2")
    assert ended["state"] == "done", ended
    unharmed.update(epoch=epoch + 1, node="n1")
    shutil.rmtree(aside)
    other.cli("vm", "delete", "other", "--yes")
    other.wait_no_states()


def test_a_state_that_is_damaged_in_a_move(lab, web, unharmed):
    """Sealed, and then one bit of the devices is flipped before the target reads it: the guest runs on at the source."""
    with Freezer(lab) as freezer, News(lab, "n3") as news:
        stream = freezer.catch("n1", STREAM)
        task = web.move("n2", "--no-wait")["task"]
        news.wait_phase("copy")
        copying = stream()
        # Its bytes come through the target's helper alone, which is stopped until they are others.
        for pid in pids(lab, "n2", STREAM):
            freezer.freeze(pid)
        os.kill(copying, 18)
        news.wait_phase("load")
        flip(web.state_dir(task) / "device", 4321)
        freezer.thaw()
        ended = web.wait_task(task)
    assert ended["state"] == "failed" and ended["code"] == "corrupt", ended
    assert "the checksum of 'device' does not hold" in ended["text"] and ended["hint"]
    web.wait_state("online")


# --- a full state disk ---

@contextlib.contextmanager
def full(lab, leave=0):
    """The shared storage with no more than about `leave` bytes free."""
    filler = lab.shared / "filler"
    with open(filler, "wb") as file:
        for step in 16 << 20, 1 << 20, 4096:
            with contextlib.suppress(OSError):
                while (room := os.fstatvfs(file.fileno())).f_bfree * room.f_frsize > leave:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), step)
    try:
        yield
    finally:
        filler.unlink()


def test_no_room_before_the_copy(lab, web, unharmed):
    """Refused with both figures before anything is written; the guest never stops."""
    with lab.probe("udp") as udp:
        udp.wait_first()
        for leave in 0, 90 << 20:
            with full(lab, leave):
                for words in (("vm", "move", "web", "--to", "n2"), ("vm", "save", "web")):
                    found = refused(lab, *words, node="n3")
                    print(leave, found)
                    # A disk with no block left has no room for the directory either, where it is not there yet: "is full".
                    found.must_say(73, "MiB free, the guest's memory in use needs" if leave else "'/srv/watari/state'",
                                   "make room there")
                    web.wait_no_states()
                with Api(lab, "n2") as api:
                    ended = web.wait_task(api.call("vm.save", vm="web")["task"], node="n2")
                assert (ended["state"], ended["code"]) == ("failed", "no-space") and "/srv/watari/state" in ended["text"]
        seen = udp.stop()
    assert seen["nonce_changes"] == seen["counter_back"] == 0 and seen["blackout_ms"] < 3000, seen


@pytest.mark.parametrize("words", [("move", "web", "--to", "n2"), ("save", "web")], ids=["move", "save"])
def test_no_room_during_the_copy(lab, web, unharmed, words):
    """The storage fills up when the memory's room is taken and nothing written yet: the copy ends, the guest runs on, and
    as soon as there is room the same command works."""
    result = []
    with Freezer(lab) as freezer, News(lab, "n3") as news:
        stream = freezer.catch("n1", STREAM)
        asking = threading.Thread(target=lambda: result.append(refused(lab, "vm", *words, node="n3")))
        asking.start()
        task = news.wait_phase("copy")["task"]
        copying = stream()
        # It has its orders, and makes its files; the daemon that would go on is stopped.
        freezer.freeze(daemon_pid(lab, "n1"))
        os.kill(copying, 18)
        ram = web.state_dir(task) / "ram"
        wait_until(lambda: ram.exists() and ram.stat().st_blocks * 512 >= GUEST_MIB << 20, 10, "the room to be taken",
                   every=0.002)
        with full(lab):
            freezer.thaw()
            asking.join(60)
    assert result, "the command did not end"
    print(result[0])
    result[0].must_say(73, "'/srv/watari/state'", "make room there")
    web.wait_state("online")
    web.wait_no_states()
    if words[0] == "move":
        assert web.move("n2")["state"] == "done"
        web.wait_filled()
        assert web.move("n1")["state"] == "done"
        unharmed["epoch"] += 2


def test_a_guest_whose_disk_finds_no_room_waits_for_it(lab, web, unharmed):
    """A thin disk on storage that is full: the guest is paused and `vm show` says why; with room it runs on by itself,
    and what it could not write is written."""
    thin = Guest(lab, "thin", ip="10.77.0.61", memory="96M", disk_mib=64, append="watari.fill_mib=4 watari.load=disk "
                 "watari.disk_mib=48 watari.disk_rate=50").create()
    before = thin.boot("n2")
    with full(lab):
        wait_until(lambda: "is full; mended, it runs on" in thin.show("n3").get("note", ""), 30, "the note on another node")
        assert "is full; mended" in lab.cli_raw("n1", "vm", "list").stdout
        assert thin.state() == "online"
    written = wait_until(lambda: "note" not in thin.show("n3") and thin.look()["disk_load"]["written"], 30, "it to run on")
    wait_until(lambda: thin.look()["disk_load"]["written"] > written, 20, "it to write again")
    after = thin.look()
    assert after["nonce"] == before["nonce"] and after["disk_load"]["errors"] == after["disk_load"]["io_errors"] == 0
    thin.check()
    thin.cli("vm", "stop", "thin")
    thin.cli("vm", "delete", "thin", "--yes")
    (lab.shared / "thin.img").unlink()
