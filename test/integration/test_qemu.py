# SPDX-License-Identifier: Apache-2.0
"""The QEMU driver with real guests. Each test's name is the promise; rows of the fault list are named where they apply."""
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import time

import pytest

from cluster import stories
from hv import Host, UID_BASE, dead
from lab import wait_until


@pytest.fixture(scope="module")
def host():
    with Host() as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def beside(request):
    """On hosts of their own."""
    with stories(request, test_a_helper_that_hangs_does_not_hang_the_guest=a_helper_hangs,
                 test_an_agent_is_heard_after_a_move_and_missed_when_it_stops=an_agent_stops) as begun:
        yield begun


@pytest.fixture
def node(host):
    """A driver of its own for the test, and no guest left behind."""
    shells = []

    def make(**config):
        shell = host.shell(f"s{len(host.shells)}", **config)
        shells.append(shell)
        return shell

    yield make
    for shell in shells:
        shell.end()
    for path in host.state.iterdir():
        shutil.rmtree(path)


def start(shell, host, epoch=1, **how):
    definition = host.definition(**how)
    shell.call("start", definition, epoch=epoch)
    shell.expect("started")
    return definition, definition["uuid"]


def left_over(shell):
    """Of any VM: directories, helpers, children that were not reaped."""
    def children_of(pid):
        return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def name_of(pid):
        try:
            return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
        except FileNotFoundError:
            return ""  # reaped since: the next look does not see it
    children = children_of(shell.process.pid)
    # One is always there, which opens files; its own children are gone soon after their work.
    files = [pid for pid in children if name_of(pid) == "watari-files"]
    assert len(files) == 1, files
    wait_until(lambda: not children_of(files[0]), 10, "what opened files to be gone")
    children = [pid for pid in children if pid not in files]
    return [path for path in (shell.run_dir / "vm").iterdir() if path.name != "lock"] + shell.helpers() + children


def test_a_guest_is_confined(host, node):
    """Design §5: its own user, no capability, no new privilege, seccomp, no core, nothing of the daemon's inherited."""
    a = node()
    definition, vm = start(a, host)
    proc = pathlib.Path(f"/proc/{a.pid(vm)}")
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(UID_BASE + 1)] * 4
    assert status["Gid"].split() == [str(UID_BASE + 1)] * 4
    assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert "Max core file size        0                    0" in (proc / "limits").read_text()
    assert proc.joinpath("environ").read_bytes() == b"LC_ALL=C\0HOME=/nonexistent\0"
    for name in ("instance.json", "qmp.sock", "serial.sock"):
        assert (a.vm_dir(vm) / name).stat().st_mode & 0o777 == 0o600
    assert (a.vm_dir(vm) / "guest").stat().st_uid == UID_BASE + 1
    # A second VM gets another user.
    second = host.definition(2, disk=False, network=False)
    a.call("start", second, epoch=1)
    a.expect("started")
    assert a.record(second["uuid"])["uid"] == UID_BASE + 2
    for uuid in (vm, second["uuid"]):
        a.call("kill", vm=uuid)
        assert a.expect("gone")["cause"] == "stopped"
    assert not left_over(a)


def test_a_guest_outlives_the_daemon(host, node):
    """Promise 5: kill -9 of the daemon and a new one; the guest is the same process and never stopped counting."""
    a = node()
    definition, vm = start(a, host)
    before = host.wait_guest()
    pid, starttime = a.pid(vm), a.record(vm)["starttime"]
    for _ in range(3):
        a.restart()
        info = a.info(vm)
        assert (info["state"], info["epoch"]) == ("running", 1)
    after = host.get("/")
    assert after["nonce"] == before["nonce"] and after["counter"] > before["counter"]
    assert (a.pid(vm), a.record(vm)["starttime"]) == (pid, starttime)
    # It is in the new daemon's hand: its power button works.
    a.call("shutdown", vm=vm)
    event = a.expect("gone")
    assert (event["cause"], event["epoch"]) == ("guest-shutdown", 1)
    assert not left_over(a) and dead(pid)


def test_a_start_may_be_cut_short_anywhere(host, node):
    """kill -9 of the daemon at any point of a start: the next one knows the guest or there is none; never one unknown."""
    a = node()
    found = 0
    for delay_ms in (0, 2, 5, 10, 20, 40, 60, 80, 120, 200, 400):
        definition = host.definition(network=False)
        vm = definition["uuid"]
        a.call("start", definition, epoch=7)
        time.sleep(delay_ms / 1000)
        a.restart()
        qemus = [path for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if vm.encode() in read(path)]
        state = a.state(vm)
        if state == "absent":
            assert not [path for path in qemus if not dead(path.parent.name)], delay_ms
            continue
        found += 1
        assert a.info(vm)["epoch"] == 7
        a.call("kill", vm=vm)
        a.expect("gone", skip=["started"])
        assert not left_over(a)
    assert found >= 3


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_power_off_is_told_from_a_crash(host, node):
    """A guest that powers itself off while no daemon watches is not taken for one that died, and the other way round."""
    a = node()
    definition, vm = start(a, host)
    host.wait_guest()
    with socket.socket(socket.AF_UNIX) as serial:
        os.chdir(a.vm_dir(vm))
        serial.connect("serial.sock")
        os.chdir("/")
        serial.sendall(b"\n")
        wait_until(lambda: b"guest#" in serial.recv(65536), 10, "the shell on the serial console")
        a.kill()
        serial.sendall(b"poweroff -f\n")
        time.sleep(1.5)  # no daemon is there to tell of it
    assert not dead(pid := int((a.vm_dir(vm) / "qemu.lock").read_text()))
    a.begin()
    assert a.expect("gone")["cause"] == "guest-shutdown"
    assert dead(pid)

    definition, vm = start(a, host, epoch=2)
    pid = a.pid(vm)
    a.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: dead(pid), 5, "its death")
    a.begin()
    event = a.expect("gone")
    assert (event["cause"], event["epoch"]) == ("died", 2)
    assert a.state(vm) == "absent" and not left_over(a)

    definition, vm = start(a, host, epoch=3)
    os.kill(a.pid(vm), signal.SIGKILL)
    event = a.expect("gone")
    assert (event["cause"], event["epoch"]) == ("died", 3) and "signal 9" in event["text"]


@pytest.mark.parametrize("change, code, text", [
    ({"disks": [{"path": "/nonexistent/web.raw"}]}, "not-found", "'/nonexistent/web.raw': it does not exist on this node"),
    ({"disks": [{"path": "/tmp"}]}, "invalid", "it is a directory"),
    ({"disks": [{"path": "/dev/null"}]}, "invalid", "neither a file nor a block device"),
    ({"disks": [{"path": "/dev/vda", "kind": "lun"}]}, "unfit", "kind 'lun' is not supported"),
    ({"nics": [{"bridge": "br9", "mac": "52:54:00:00:00:01"}]}, "unfit", "no bridge 'br9'"),
    ({"memory_mib": 4 << 20}, "no-room", "MiB of memory left, 'web1' needs"),
    ({"machine": "pc-q35-99.9"}, "unfit", "machine pc-q35-99.9"),
    ({"cpu": "nosuchcpu"}, "unfit", "unable to find CPU model 'nosuchcpu'"),
    ({"kernel": "/nonexistent/vmlinuz"}, "not-found", "kernel: '/nonexistent/vmlinuz' cannot be opened"),
    ({"initrd": "/tmp"}, "invalid", "initrd: '/tmp' must be a file"),
])
@pytest.mark.parametrize("call", ["start", "standby"])
def test_what_does_not_fit_is_refused_with_the_fact(host, node, call, change, code, text):
    """A13, and the issue's bad input: a clear error that names the fact, and nothing is left."""
    a = node()
    definition = host.definition(disk=False, network=False) | change
    if call == "start":
        a.call("start", definition, epoch=4)
        event = a.expect("failed")
        last = a.expect("gone")
        assert (last["cause"], last["epoch"]) == ("died", 4)
    else:
        a.call("standby", definition, task=4)
        event = a.expect("failed")
        assert event["task"] == 4
    assert event["code"] == code and text in event["text"], event
    assert not left_over(a) and a.state(definition["uuid"]) == "absent"


def test_images_are_judged_before_qemu_sees_them(host, node):
    a = node()
    base, top = host.disk("base.raw"), str(host.dir / "top.qcow2")
    os.system(f"qemu-img create -q -f qcow2 -F raw -b {base} {top}")
    for path, disk_format, text in ((top, "qcow2", "backing file"), (base, "qcow2", "not a qcow2 image")):
        a.call("start", host.definition(disks=[{"path": path, "format": disk_format}]), epoch=1)
        assert text in a.expect("failed")["text"]
        a.expect("gone")
    # In use on this machine by another VM: QEMU's own lock.
    first, _ = start(a, host)
    second = host.definition(2, network=False, disk=False) | {"disks": first["disks"]}
    a.call("start", second, epoch=1)
    event = a.expect("failed")
    assert event["code"] == "busy" and "another process has the image open" in event["text"]
    a.expect("gone")


def move(host, source, target, definition, task, epoch, verify_all=False):
    """A whole move, as the engine would ask for it. Returns all figures in one."""
    vm = definition["uuid"]
    target.call("standby", definition, task=task)
    target.expect("prepared")
    source.call("copy", definition, task=task, epoch=epoch)
    figures = source.expect("sealed")["figures"]
    assert source.state(vm) == "sealed"
    target.call("load", definition, task=task, state_task=task, state_epoch=epoch, verify_all=verify_all)
    loaded = target.expect("loaded")
    target.call("run", vm=vm, task=task, epoch=epoch + 1)
    resumed = target.expect("resumed")
    assert resumed["epoch"] == epoch + 1
    source.call("kill", vm=vm)
    assert source.expect("gone")["cause"] == "stopped"
    if loaded["filling"]:
        target.expect("filled")
    return figures | {key: value for key, value in resumed["figures"].items() if value}


def test_a_guest_moves_under_load_and_loses_nothing(host, node):
    """Six moves there and back: nonce, counter, memory and disk are exact, nothing is left where it was."""
    a, b = node(), node()
    definition, vm = start(a, host, load="mem,disk")
    before = host.wait_guest()
    source, target = a, b
    fds = None
    for hop in range(6):
        figures = move(host, source, target, definition, 10 + hop, 1 + hop)
        order = [figures[key] for key in ("copy_us", "stopped_us", "streamed_us", "repaired_us", "sealed_us",
                                          "loading_us", "loaded_us", "resumed_us")]
        assert order == sorted(order), figures
        assert figures["ram_bytes"] and figures["passes"] >= 2
        after = host.get("/")
        assert after["nonce"] == before["nonce"] and after["counter"] > before["counter"]
        before = after
        wait_until(lambda: not left_over(source), 5, "nothing left on the source")
        source, target = target, source
        if hop == 3:
            fds = [len(os.listdir(f"/proc/{shell.process.pid}/fd")) for shell in (a, b)]
    assert host.get("/checksum", timeout=60)["checksum_ok"]
    # Once more to the side that it was on: as many descriptors as before.
    assert fds == [len(os.listdir(f"/proc/{shell.process.pid}/fd")) for shell in (a, b)]
    source.call("purge", vm=vm, keep=0, below=100)
    wait_until(lambda: not list(host.state.iterdir()), 10, "the saved states to be gone")


def test_a_saved_guest_is_restored_whole(host, node):
    """vm save and vm start: the source is gone, another task loads the state, every page before it runs."""
    a, b = node(), node()
    definition, vm = start(a, host, load="mem")
    before = host.wait_guest()
    a.call("copy", definition, task=20, epoch=1)
    a.expect("sealed")
    a.call("kill", vm=vm)
    a.expect("gone")
    b.call("standby", definition, task=25)
    b.expect("prepared")
    b.call("load", definition, task=25, state_task=20, state_epoch=1, verify_all=True)
    assert not b.expect("loaded")["filling"]
    b.call("run", vm=vm, task=25, epoch=2)
    b.expect("resumed")
    assert host.get("/")["nonce"] == before["nonce"]
    assert host.get("/checksum", timeout=60)["checksum_ok"]


def test_a_state_that_does_not_fit_is_refused_before_it_runs(host, node):
    """A9, A14: another epoch, another machine, another VM, a truncated or damaged file; the standby is gone afterwards."""
    a, b = node(), node()
    definition, vm = start(a, host)
    host.wait_guest()
    a.call("copy", definition, task=30, epoch=1)
    a.expect("sealed")
    directory = host.state / vm / "30"

    def damaged(name, at, bit=1):
        with open(directory / name, "r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ bit]))

    def attempt(task, codes, epoch=1, state_task=30, **change):
        b.call("standby", definition | change, task=task)
        b.expect("prepared")
        b.call("load", definition | change, task=task, state_task=state_task, state_epoch=epoch, verify_all=True)
        event = b.expect("failed")
        assert event["code"] in codes, event
        assert b.state(vm) == "absent"
        wait_until(lambda: not left_over(b), 5, "nothing left over")  # a child is reaped a moment after it ended

    attempt(31, ["unfit"], epoch=2)
    attempt(32, ["unfit"], memory_mib=128)
    attempt(33, ["unfit"], vcpus=2)
    attempt(34, ["not-found"], state_task=29)
    size = (directory / "device").stat().st_size
    damaged("device", size // 2)
    attempt(35, ["corrupt"])
    damaged("device", size // 2)
    os.truncate(directory / "device", size - 1)
    attempt(36, ["corrupt"])
    # The guest is as it was: stopped here, and may run on.
    a.call("run", vm=vm, task=30, epoch=1)
    a.expect("resumed")
    assert host.get("/")["uptime_ms"] > 0


DELAYS_MS = (0, 1, 3, 6, 10, 20, 40, 80, 120, 160, 200, 260, 320, 400, 600)


def test_a_copy_can_be_called_off_at_any_moment(host, node):
    """A1, A16: run() at any step of a copy: the guest runs on, where it was, with all that it had."""
    a = node()
    definition, vm = start(a, host, load="mem")
    before = host.wait_guest()
    sealed = 0
    for task, delay_ms in enumerate((*DELAYS_MS, None), 40):  # None: once it is sealed
        a.call("copy", definition, task=task, epoch=1)
        if delay_ms is None:
            a.expect("sealed")
            sealed += 1
        else:
            time.sleep(delay_ms / 1000)
        a.call("run", vm=vm, task=task, epoch=1)
        event = a.expect("resumed", "sealed")
        if event["event"] == "sealed":
            sealed += 1
            a.expect("resumed")
        assert a.state(vm) == "running"
        after = wait_until(lambda: (now := host.get("/"))["counter"] > before["counter"] and now, 10,
                           f"it counts on ({delay_ms} ms)")
        assert after["nonce"] == before["nonce"]
        wait_until(lambda: not a.helpers(), 5, "the helper is gone")
        before = after
    assert 0 < sealed <= len(DELAYS_MS)
    assert host.get("/checksum", timeout=60)["checksum_ok"]
    # And it can be moved for good afterwards.
    b = node()
    move(host, a, b, definition, 90, 1)
    assert host.get("/")["nonce"] == before["nonce"]


def test_the_source_dies_at_any_moment_of_a_copy(host, node):
    """A2, B17: QEMU killed at any step: it is told gone, once, and nothing is left."""
    a = node()
    for task, delay_ms in enumerate(DELAYS_MS[::3], 100):
        definition, vm = start(a, host, network=False, epoch=task)
        a.call("copy", definition, task=task, epoch=task)
        time.sleep(delay_ms / 1000)
        os.kill(a.pid(vm), signal.SIGKILL)
        event = a.expect("gone", "sealed")
        if event["event"] == "sealed":
            event = a.expect("gone")
        assert (event["cause"], event["epoch"]) == ("died", task)
        wait_until(lambda: not left_over(a), 5, "nothing left")


def test_the_daemon_dies_at_any_moment_of_a_copy(host, node):
    """A2: QEMU and watari-stream go on without it; the next daemon finds the copy under way, done or failed, never both,
    and can let the guest run on."""
    a = node()
    definition, vm = start(a, host, load="mem")
    before = host.wait_guest()
    ends = {}
    for task, delay_ms in enumerate(DELAYS_MS, 120):
        a.call("copy", definition, task=task, epoch=1)
        time.sleep(delay_ms / 1000)
        a.restart()
        state = a.state(vm)
        assert state in ("running", "copying", "sealed"), state
        if state == "copying":
            event = a.expect("sealed", "failed")
            state = "failed" if event["event"] == "failed" else a.state(vm)
        if state == "running" and [line for line in a.seen if line["event"] == "failed"]:
            state = "failed"  # told before we asked
        ends[state] = ends.get(state, 0) + 1
        a.call("run", vm=vm, task=task, epoch=1)
        a.expect("resumed", skip=["failed", "sealed"])  # told while we asked
        assert a.state(vm) == "running"
        after = host.get("/")
        assert after["nonce"] == before["nonce"] and after["counter"] > before["counter"], delay_ms
        before = after
    assert ends.get("sealed", 0) >= 2 and ends.get("failed", 0) >= 1, ends
    assert host.get("/checksum", timeout=60)["checksum_ok"]


def test_the_helper_dies_at_any_moment_of_a_copy(host, node):
    """A1: watari-stream killed: the guest runs on, or waits for run(); the state is none."""
    a = node()
    definition, vm = start(a, host, load="mem")
    before = host.wait_guest()
    failed = 0
    for task, delay_ms in enumerate(DELAYS_MS, 140):
        a.call("copy", definition, task=task, epoch=1)
        time.sleep(delay_ms / 1000)
        for pid in a.helpers():
            os.kill(pid, signal.SIGKILL)
        event = a.expect("failed", "sealed")
        failed += event["event"] == "failed"
        a.call("run", vm=vm, task=task, epoch=1)
        a.expect("resumed")
        after = host.get("/")
        assert after["nonce"] == before["nonce"] and after["counter"] > before["counter"], delay_ms
        before = after
    assert failed >= 3
    assert host.get("/checksum", timeout=60)["checksum_ok"]


@pytest.mark.parametrize("victim", ["qemu", "helper", "daemon"])
def test_the_target_fails_at_any_moment_of_a_load(host, node, victim):
    """A5: whatever dies on the target before it runs, the sealed state is as good as before, and loads at the next try."""
    a, b = node(), node()
    definition, vm = start(a, host, load="mem")
    before = host.wait_guest()
    a.call("copy", definition, task=160, epoch=1)
    a.expect("sealed")
    task = 161
    for task, delay_ms in enumerate((0, 1, 2, 4, 8, 15, 25, 40, 60, 100), 161):
        b.call("standby", definition, task=task)
        b.expect("prepared", skip=["gone", "failed"])  # of the kill before
        b.call("load", definition, task=task, state_task=160, state_epoch=1)
        time.sleep(delay_ms / 1000)
        if victim == "qemu":
            os.kill(b.pid(vm), signal.SIGKILL)
        elif victim == "helper":
            for pid in b.helpers():
                with contextlib.suppress(ProcessLookupError):  # it may have done its work just now
                    os.kill(pid, signal.SIGKILL)
        else:
            b.restart()
        if b.state(vm) == "loading":
            b.expect("failed", "loaded", skip=["gone"])
        b.call("kill", vm=vm)
        wait_until(lambda: b.state(vm) == "absent", 10, "nothing there")
        wait_until(lambda: not left_over(b), 5, "nothing left")
        while not b.lines.empty():
            b.lines.get()
        b.seen.clear()
    b.call("standby", definition, task=200)
    b.expect("prepared", skip=["gone", "failed"])
    b.call("load", definition, task=200, state_task=160, state_epoch=1)
    filling = b.expect("loaded")["filling"]
    b.call("run", vm=vm, task=200, epoch=2)
    b.expect("resumed")
    a.call("kill", vm=vm)
    a.expect("gone")
    if filling:
        b.expect("filled")
    assert host.get("/")["nonce"] == before["nonce"]
    assert host.get("/checksum", timeout=60)["checksum_ok"]


def test_a_daemon_that_dies_while_pages_come_in_misses_nothing(host, node):
    """A18, C6: after LOADED the helper serves pages without the daemon; the next daemon hears that all are in."""
    a, b = node(), node()
    definition, vm = start(a, host, load="mem", memory_mib=512)
    before = host.wait_guest()
    b.call("standby", definition, task=210)
    b.expect("prepared")
    a.call("copy", definition, task=210, epoch=1)
    a.expect("sealed")
    b.call("load", definition, task=210, state_task=210, state_epoch=1)
    filling = b.expect("loaded")["filling"]
    if not host.userfaultfd.there:
        pytest.skip("this kernel has no userfaultfd: nothing is read after the start")
    assert filling
    b.restart()
    assert b.state(vm) == "loaded"
    b.call("run", vm=vm, task=210, epoch=2)
    b.expect("resumed")
    a.call("kill", vm=vm)
    a.expect("gone")
    b.restart()
    info = b.info(vm)
    assert (info["state"], info["epoch"]) == ("running", 2)
    if info["filling"]:  # else the daemon before heard it: ending the source took its time
        b.expect("filled")
    assert not b.info(vm)["filling"]
    assert host.get("/")["nonce"] == before["nonce"]
    assert host.get("/checksum", timeout=60)["checksum_ok"]
    # And on it goes: the next copy is of a whole memory.
    move(host, b, a, definition, 211, 2)
    assert host.get("/checksum", timeout=60)["checksum_ok"]


def test_a_guest_that_dirties_faster_than_storage_takes_is_stopped_in_bounds(host, node):
    """A17: the copy ends, the file does not outgrow the memory."""
    a, b = node(), node()
    definition, vm = start(a, host, load="mem", memory_mib=512, append="watari.load_rate=0 watari.load_mib=200")
    before = host.wait_guest()
    figures = move(host, a, b, definition, 220, 1)
    assert figures["ram_bytes"] < 4 * (512 << 20)
    assert (host.state / vm / "220" / "ram").stat().st_size <= 512 << 20
    assert host.get("/")["nonce"] == before["nonce"]
    assert host.get("/checksum", timeout=100)["checksum_ok"]


def test_a_guest_that_stopped_by_itself_is_not_moved_nor_resumed(host, node):
    """A16: paused by an error of its disk: no copy, and no run() makes it run by surprise."""
    small = host.dir / "small"
    small.mkdir(exist_ok=True)
    os.system(f"mount -t tmpfs -o size=6m,mode=0755 tmpfs {small}")
    try:
        with open(small / "disk.raw", "wb") as file:
            file.truncate(32 << 20)
        a = node()
        definition, vm = start(a, host, disk=False, load="disk", append="watari.disk_rate=0",
                               disks=[{"path": str(small / "disk.raw")}])
        a.note("its disk's storage fails or is full", timeout=60)
        a.call("copy", definition, task=230, epoch=1)
        event = a.expect("failed")
        assert event["code"] == "unfit" and "paused" in event["text"]
        a.call("run", vm=vm, task=230, epoch=1)
        a.expect("resumed")
        a.restart()
        a.note("its disk's storage fails or is full")
        # What was not written is kept; there is room: nobody has to say so.
        os.system(f"mount -o remount,size=64m {small}")
        a.note("the guest runs on")
        before = host.get("/")["disk_load"]
        wait_until(lambda: host.get("/")["disk_load"]["written"] > before["written"], 20, "the disk to be written again")
        verdict = host.get("/checksum", timeout=60)
        assert verdict["checksum_ok"] and host.get("/")["disk_load"]["io_errors"] == 0
        a.call("kill", vm=vm)
        assert a.expect("gone")["cause"] == "stopped"
    finally:
        os.system(f"umount -l {small}")


def test_a_full_state_storage_costs_nothing(host, node):
    """A10: no room before the copy: refused with the figures; the guest never stopped, no file is left."""
    small = host.dir / "full"
    small.mkdir()
    os.system(f"mount -t tmpfs -o size=100m,mode=0755 tmpfs {small}")
    try:
        a = node(state_dir=str(small))
        definition, vm = start(a, host)
        before = host.wait_guest()
        a.call("copy", definition, task=240, epoch=1)
        event = a.expect("failed")
        assert event["code"] == "no-space" and "MiB free" in event["text"]
        assert a.state(vm) == "running"
        after = host.get("/")
        assert after["nonce"] == before["nonce"] and after["counter"] > before["counter"]
        assert not list(small.rglob("ram"))
    finally:
        a.end()
        os.system(f"umount -l {small}")


def test_a_second_daemon_is_refused(host, node):
    """Two daemons on one run directory would each think the guests their own."""
    a = node()
    with pytest.raises(AssertionError, match="another daemon uses it"):
        host.shell(a.name)


def test_a_panic_is_told_also_after_a_move(host, node):
    """B17: the panic device is part of the state; the guest stays stopped, a daemon that was away learns of it too, and its
    end is told as that."""
    a, b = node(), node()
    definition, vm = start(a, host, panic_device="isa")
    before = host.wait_guest()
    move(host, a, b, definition, 7, 1)
    assert host.wait_guest()["nonce"] == before["nonce"]
    host.get("/panic")
    b.expect("panicked")
    b.restart()
    b.expect("panicked")
    b.call("kill", vm=vm)
    assert b.expect("gone")["cause"] == "panicked"
    assert not left_over(b)


def test_a_helper_that_hangs_does_not_hang_the_guest(beside):
    """A11: the state's storage stops answering: within the limit the copy is given up and the guest runs on."""
    beside["test_a_helper_that_hangs_does_not_hang_the_guest"].result()


def a_helper_hangs():
    with Host() as host:
        a = host.shell("a")
        definition, vm = start(a, host, load="mem", memory_mib=512)
        before = host.wait_guest()
        a.call("copy", definition, task=250, epoch=1)
        helper = wait_until(a.helpers, 5, "the helper", every=0.001)[0]
        wait_until(lambda: a.seen or not a.lines.empty(), 10, "progress", every=0.001)
        # Somebody keeps the pipe's other end open, as a helper that waits for a dead disk would.
        pipe = os.open(f"/proc/{helper}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
        os.kill(helper, signal.SIGSTOP)
        event = a.expect("failed", timeout=60)
        assert event["code"] == "timeout", event
        a.call("run", vm=vm, task=250, epoch=1)
        a.expect("resumed")
        os.close(pipe)
        after = host.get("/")
        assert after["nonce"] == before["nonce"] and after["counter"] > before["counter"]
        wait_until(lambda: not a.helpers(), 5, "no helper left")


def test_an_agent_is_heard_after_a_move_and_missed_when_it_stops(beside):
    """B17: its channel is part of the state; the target's driver hears the agent anew; one that stops while the daemon is
    away is missed by the next."""
    beside["test_an_agent_is_heard_after_a_move_and_missed_when_it_stops"].result()


def an_agent_stops():
    with Host() as host:
        a, b = host.shell("a"), host.shell("b")
        definition, vm = start(a, host, guest_agent="virtio")
        before = host.wait_guest()
        a.call("heartbeat", vm=vm, seconds=10)
        heard = lambda shell: wait_until(lambda: shell.record(vm).get("agent_heard"), 10, "the agent to be heard")
        heard(a)
        move(host, a, b, definition, 7, 1)
        assert not b.record(vm).get("agent_heard")
        b.call("heartbeat", vm=vm, seconds=10)
        heard(b)
        assert host.wait_guest()["nonce"] == before["nonce"]
        b.kill()
        host.get("/agent-stop")
        b.begin()
        b.call("heartbeat", vm=vm, seconds=10)
        began = time.monotonic()
        gone = b.expect("gone", timeout=40)
        assert gone["cause"] == "died" and gone["text"] == "its guest agent did not answer for 10 s", gone
        assert time.monotonic() - began > 10
        assert not left_over(b)
