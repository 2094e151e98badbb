# SPDX-License-Identifier: Apache-2.0
"""The QEMU driver under test: hv-shell processes (one a "node") in a network namespace with a bridge, real guests.

    with Host() as host:
        a, b = host.shell("a"), host.shell("b")
        a.call("start", host.definition(), epoch=1)
        a.expect("started")

Nothing here sleeps where it can wait for an event. Everything that was started is killed at the end, by its own number.
"""
import ctypes
import fcntl
import json
import os
import pathlib
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

from lab import BUILD, TOOL, wait_until

LIBC = ctypes.CDLL(None, use_errno=True)
UID_BASE = 70000
GUEST_IP = "10.77.0.50"


def dead(pid):
    """All its threads: a leader may be a zombie while another thread still holds the files. One that ends while we look
    says nothing about the others."""
    def gone(task):
        try:
            return "(zombie)" in (task / "status").read_text()
        except OSError:
            return True
    try:
        return all([gone(task) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()])
    except OSError:
        return True


class Shell:
    """One hv-shell: the driver of one node."""

    def __init__(self, host, name, **config):
        self.host, self.name, self.dir = host, name, host.dir / name
        self.run_dir, self.log_dir = self.dir / "run", self.dir / "log"
        self.config = {"cluster_uuid": "c0ffee00-0000-4000-8000-000000000001", "node_name": name,
                       "stream_binary": str(BUILD / "src/cmd/watari-stream"), "run_dir": str(self.run_dir),
                       "state_dir": str(host.state), "log_dir": str(self.log_dir), "uid_base": UID_BASE, **config}
        self.dir.mkdir(mode=0o755, exist_ok=True)
        self.begin()

    def begin(self):
        self.errors = open(self.dir / "driver.log", "ab")
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.host.netns, BUILD / "test/tool/hv-shell", json.dumps(self.config)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.lines = queue.Queue()
        self.seen = []
        threading.Thread(target=self.read, args=(self.process.stdout, self.lines), daemon=True).start()
        answer = self.answer()
        assert answer["answer"] == "ready", answer

    @staticmethod
    def read(stream, lines):
        for line in stream:
            lines.put((time.time(), json.loads(line)))
        lines.put((time.time(), {"answer": "eof"}))

    def kill(self):
        """kill -9 of the daemon."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self.errors.close()

    def restart(self):
        self.kill()
        self.begin()

    def call(self, call, definition=None, **members):
        members = {"call": call, **members}
        if definition is not None:
            members |= {"def": definition, "vm": definition["uuid"]}
        self.process.stdin.write(json.dumps(members) + "\n")
        self.process.stdin.flush()

    def answer(self, timeout=20):
        while True:
            _, line = self.lines.get(timeout=timeout)
            if "answer" in line:
                return line
            self.seen.append(line)

    def ask(self, call, vm=None):
        self.call(call, vm=vm)
        return self.answer()

    def state(self, vm):
        return self.ask("inspect", vm)["info"]["state"]

    def info(self, vm):
        return self.ask("inspect", vm)["info"]

    def expect(self, *kinds, timeout=30, skip=()):
        """The next event of one of these kinds; progress, news of the storage, and what is to be skipped, is passed over. Any other event is a
        failure."""
        deadline = time.monotonic() + timeout
        while True:
            while self.seen:
                line = self.seen.pop(0)
                if line["event"] in kinds:
                    return line
                assert line["event"] in ("progress", "storage", *skip), f"{self.name}: {line} instead of {kinds}\n{self.log()}"
            try:
                _, line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{self.name}: no {kinds} in {timeout} s\n{self.log()}") from None
            assert line.get("answer") != "eof", f"{self.name}: the driver ended\n{self.log()}"
            self.seen.append(line)

    def note(self, text, timeout=30):
        """Waits for a progress event whose note has this text."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            _, line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            if text in line.get("note", ""):
                return line
        raise AssertionError(f"{self.name}: no note '{text}'")

    def log(self):
        text = (self.dir / "driver.log").read_text(errors="replace")[-3000:]
        for path in sorted(self.log_dir.glob("vm/*.log")):
            if "serial" not in path.name:
                text += f"\n--- {path.name}\n" + path.read_text(errors="replace")[-1500:]
        return text

    # --- what QEMU and the helper say themselves ---

    def vm_dir(self, vm):
        return self.run_dir / "vm" / vm

    def record(self, vm):
        return json.loads((self.vm_dir(vm) / "instance.json").read_text())

    def pid(self, vm):
        return self.record(vm)["pid"]

    def serial(self, vm):
        return (self.log_dir / "vm" / f"{vm}.serial.log").read_text(errors="replace")

    def end(self):
        """Ends the daemon, then what it has left running."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        ended = []
        for lock in self.run_dir.glob("vm/*/qemu.lock"):
            try:
                pid = int(lock.read_text() or 0)
                if pid > 1 and b"qemu-system" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    ended.append(pid)
            except (OSError, ValueError):
                pass
        for pid in self.helpers():
            os.kill(pid, signal.SIGKILL)
            ended.append(pid)
        wait_until(lambda: all(dead(pid) for pid in ended), 10, "their death")

    def helpers(self):
        """watari-streams whose output goes to this node's logs."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if (path / "comm").read_text().strip() == "watari-stream" and \
                        os.readlink(path / "fd/2").startswith(str(self.log_dir)):
                    found.append(int(path.name))
            except OSError:
                pass
        return found


class Userfaultfd:
    """Allowed to QEMU meanwhile, for post-copy. With the labs that may be up beside: the last to need it restores what was before."""
    SYSCTL = pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd")
    BEFORE = pathlib.Path("/run/watari-lab.userfaultfd")

    def __init__(self):
        self.there = self.SYSCTL.exists()
        if not self.there:
            return
        run = os.open("/run", os.O_RDONLY)
        try:
            fcntl.flock(run, fcntl.LOCK_EX)
            if not self.BEFORE.exists():
                self.BEFORE.write_text(self.SYSCTL.read_text())
            self.needed = open(self.BEFORE)
            fcntl.flock(self.needed, fcntl.LOCK_SH)
            self.SYSCTL.write_text("1")
        finally:
            os.close(run)

    def end(self):
        if self.there:
            self.needed.close()
            subprocess.run([TOOL, "down"], env={**os.environ, "WATARI_LAB_NAME": f"t{os.getpid()}-hv"}, timeout=60, check=True,
                           capture_output=True)


class Host:
    def __enter__(self):
        self.userfaultfd = Userfaultfd()
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="wq-", dir=os.environ.get("WATARI_TEST_DIR", "/tmp")))
        self.dir.chmod(0o755)
        self.netns = self.dir.name
        # Its own VMs: beside it other tests run, and each looks for its QEMUs by their uuids.
        self.uuid = f"{secrets.token_hex(4)}-0000-4000-8000-{{:012x}}"
        self.shells = {}
        self.state = self.dir / "state"
        self.state.mkdir(mode=0o755)
        subprocess.run([pathlib.Path(__file__).parents[2] / "lab/guest/build", BUILD / "lab/guest"], check=True,
                       timeout=300)
        self.ip("netns", "add", self.netns)
        for words in ("link set lo up", "link add br0 type bridge", "addr add 10.77.0.1/24 dev br0",
                      "link set br0 up"):
            self.ip("-n", self.netns, *words.split())
        return self

    def __exit__(self, kind, value, trace):
        for shell in self.shells.values():
            shell.end()
        self.ip("netns", "del", self.netns, check=False)
        self.userfaultfd.end()
        shutil.rmtree(self.dir, ignore_errors=True)

    @staticmethod
    def ip(*args, check=True):
        return subprocess.run(["ip", *args], check=check, timeout=20, capture_output=True, text=True)

    def shell(self, name, **config):
        self.shells[name] = Shell(self, name, **config)
        return self.shells[name]

    def disk(self, name="disk.raw", mib=32):
        path = self.dir / name
        with open(path, "wb") as file:
            file.truncate(mib << 20)
        path.chmod(0o600)
        return str(path)

    def definition(self, number=1, memory_mib=256, load="none", disk=True, network=True, append="", **members):
        guest = BUILD / "lab/guest"
        fill = memory_mib // 4
        made = {"uuid": self.uuid.format(number), "name": f"web{number}", "memory_mib": memory_mib, "vcpus": 1,
                "kernel": str(guest / "vmlinuz"), "initrd": str(guest / "initrd.img"),
                "append": f"console=ttyS0 quiet watari.ip={GUEST_IP}/24 watari.load={load} watari.fill_mib={fill} "
                          f"watari.load_mib={memory_mib // 8} {append}"}
        if disk:
            made["disks"] = [{"path": self.disk()}]
        if network:
            made["nics"] = [{"bridge": "br0", "mac": "52:54:00:77:00:50"}]
        return {**made, **members}

    def socket(self, *args):
        """A socket in the namespace."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.netns}", os.O_RDONLY)
        try:
            assert LIBC.setns(there, 0) == 0
            return socket.socket(*args)
        finally:
            assert LIBC.setns(here, 0) == 0
            os.close(here)
            os.close(there)

    def get(self, path, timeout=10):
        """HTTP of the guest; its JSON."""
        with self.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect((GUEST_IP, 80))
            sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            data = b""
            while part := sock.recv(65536):
                data += part
        return json.loads(data.split(b"\r\n\r\n", 1)[1])

    def wait_guest(self, timeout=40):
        def ready():
            try:
                status = self.get("/", timeout=1)
                return status if status.get("fill_ready", True) else None
            except (OSError, ValueError, IndexError):
                return None
        return wait_until(ready, timeout, "the guest answers over HTTP", every=0.2)
