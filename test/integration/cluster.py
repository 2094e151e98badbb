# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests see and do: the API's socket, the news, processes, the guest, and who runs it.

Everything here looks from outside: at the API as a client, at /proc as the machine, at the network as a user. None of it
knows how the daemons decide.
"""
import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import threading
import time

from lab import LabError, wait_until

KERNEL, INITRD = "/srv/watari/guest/vmlinuz", "/srv/watari/guest/initrd.img"


class ApiError(Exception):
    """A refused call; .code, .exit, .message, .hint."""

    def __init__(self, error):
        self.code, self.exit = error["code"], error["exit"]
        self.message, self.hint = error["message"], error.get("hint", "")
        super().__init__(f"{self.code}: {self.message} ({self.hint})")


class Api:
    """One connection to a node's daemon: JSON lines."""

    def __init__(self, lab, node, timeout=30):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(f"{lab.root(node)}/run/watari/api.sock")
        self.lines = self.sock.makefile("rb")
        self.ids = itertools.count(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.lines.close()
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def line(self):
        """The next line, parsed; None when the daemon has hung up."""
        text = self.lines.readline()
        return json.loads(text) if text else None

    def answer(self, number):
        while (line := self.line()) is not None:
            if line.get("id") == number and "event" not in line:
                return line
        raise ConnectionError("the daemon hung up")

    def call(self, name, **args):
        number = next(self.ids)
        self.send(json.dumps({"id": number, "call": name, "args": args}).encode() + b"\n")
        answer = self.answer(number)
        if "error" in answer:
            raise ApiError(answer["error"])
        return answer["result"]


class News:
    """Everything that a node's daemon tells a subscriber, from now on, each with the time it came (monotonic)."""

    def __init__(self, lab, node):
        self.api = Api(lab, node, timeout=None)
        self.api.call("subscribe", log=True)
        self.seen = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        try:
            while (line := self.api.line()) is not None:
                if "event" in line:
                    with self.changed:
                        self.seen.append((time.monotonic(), line["event"]))
                        self.changed.notify_all()
        except (OSError, ValueError):
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.api.sock.shutdown(socket.SHUT_RDWR)
        self.reader.join(10)
        self.api.close()

    def wait(self, what, condition, timeout=30, since=0):
        """The first event from number `since` on for which condition(event) holds."""
        at, deadline = since, time.monotonic() + timeout
        with self.changed:
            while True:
                while at < len(self.seen):
                    if condition(self.seen[at][1]):
                        return self.seen[at][1]
                    at += 1
                left = deadline - time.monotonic()
                assert left > 0, f"waited {timeout} s for {what}; news: {self.tail()}"
                self.changed.wait(left)

    def wait_vm(self, what, condition, timeout=30, since=0):
        return self.wait(what, lambda event: event["kind"] == "vm" and condition(event["vm"]), timeout, since)["vm"]

    def wait_phase(self, phase, timeout=30, since=0):
        return self.wait_vm(f"phase {phase}", lambda vm: vm["phase"] == phase, timeout, since)

    def has(self, condition):
        with self.changed:
            return any(condition(event) for _, event in self.seen)

    def tail(self):
        return [event["line"]["text"] for _, event in self.seen if event["kind"] == "log"][-12:]


# --- processes, from the machine's side ---

def _read(path):
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:
        return b""


def processes(lab, node, name=None):
    """[(pid as the machine sees it, name)] of the node's living processes; zombies are left out."""
    try:
        space = os.readlink(f"/proc/{lab.keeper(node)}/ns/pid")
    except (LabError, OSError):
        return []
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        stat = _read(f"/proc/{entry}/stat").decode(errors="replace")
        comm = stat[stat.find("(") + 1:stat.rfind(")")]
        if not stat or (name and comm != name) or stat[stat.rfind(")") + 2] in "ZX":
            continue
        try:
            if os.readlink(f"/proc/{entry}/ns/pid") == space:
                found.append((int(entry), comm))
        except OSError:
            pass
    return sorted(found)


QEMU, STREAM, DAEMON = "qemu-system-x86", "watari-stream", "watarid"


def pids(lab, node, name):
    return [pid for pid, _ in processes(lab, node, name)]


def wait_dead(pid, timeout=10):
    def is_dead():
        stat = _read(f"/proc/{pid}/stat")
        return not stat or stat[stat.rfind(b")") + 2:stat.rfind(b")") + 3] in b"ZX"
    wait_until(is_dead, timeout, f"process {pid} to die", every=0.005)


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    wait_dead(pid)


class Freezer:
    """Stops processes, so that a step lasts; whatever is still stopped goes on at the end."""

    def __init__(self, lab):
        self.lab, self.frozen, self.catchers = lab, [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stop, thread, _ in self.catchers:
            stop.set()
            thread.join(10)
        self.thaw()

    def freeze(self, pid):
        os.kill(pid, signal.SIGSTOP)
        self.frozen.append(pid)

    def thaw(self):
        for pid in self.frozen:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
        self.frozen = []

    def catch(self, node, name):
        """From now on: the next process of this name that appears in the node is stopped at once. Returns a function
        that waits for it and gives its pid."""
        before, stop, caught = set(pids(self.lab, node, name)), threading.Event(), []

        def look():
            while not stop.is_set() and not caught:
                for pid in pids(self.lab, node, name):
                    if pid not in before:
                        self.freeze(pid)
                        caught.append(pid)
                        return
                time.sleep(0.001)
        thread = threading.Thread(target=look, daemon=True)
        self.catchers.append((stop, thread, caught))
        thread.start()

        def wait(timeout=20):
            wait_until(lambda: caught, timeout, f"a {name} on {node}", every=0.002)
            return caught[0]
        return wait


class CopyWatch:
    """Whether ever two copies of a guest ran at once. A guest that runs uses its virtual CPU's thread; one that is
    stopped, waits for a state or is frozen uses none of it at all. Both at once, over two looks: two copies.

    Only QEMU's start uses some: 1 ms of the thread before it waits, on a busy machine spread over many looks, while the
    source runs. A copy that never used more than BIRTH_NS has not run."""

    EVERY_S, BUSY_NS, BIRTH_NS = 0.02, 200_000, 5_000_000

    def __init__(self, lab, uuid):
        self.lab, self.uuid = lab, uuid
        self.violations, self.copies_seen = [], set()
        self.stop = threading.Event()
        self.threads = {}
        self.worker = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.worker.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.worker.join(10)

    def _find(self):
        """{pid: path of its vCPU thread's schedstat}; a process is looked at once."""
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) in self.threads:
                continue
            if _read(f"/proc/{entry}/comm") != b"qemu-system-x86\n" or \
                    self.uuid.encode() not in _read(f"/proc/{entry}/cmdline"):
                continue
            for task in os.listdir(f"/proc/{entry}/task"):
                if _read(f"/proc/{entry}/task/{task}/comm").startswith(b"CPU 0/"):
                    self.threads[int(entry)] = f"/proc/{entry}/task/{task}/schedstat"

    @staticmethod
    def _dying(path):
        """A dead process's threads spend time in giving back its memory."""
        flags = _read(path.replace("schedstat", "stat")).rpartition(b")")[2].split()[6:7]
        return not flags or int(flags[0]) & 0x4

    def _run(self):
        used, busy_before = {}, set()
        for look in itertools.count():
            if self.stop.wait(self.EVERY_S):
                return
            try:
                if look % 5 == 0:
                    self._find()
            except OSError:
                pass
            busy = set()
            for pid, path in self.threads.items():
                text = _read(path).split()
                now = int(text[0]) if text else 0
                if text and pid in used and now - used[pid] > self.BUSY_NS and now > self.BIRTH_NS and \
                        not self._dying(path):
                    busy.add(pid)
                used[pid] = now
            self.copies_seen |= busy
            if len(busy & busy_before) > 1:
                self.violations.append((time.monotonic(), sorted(busy & busy_before)))
            busy_before = busy


# --- the guest ---

class Guest:
    """One VM with the lab's guest, spoken to through any node's CLI."""

    def __init__(self, lab, name="web", ip="10.77.0.50", memory="256M", append="", disk_mib=0, networks=("br0",)):
        self.lab, self.name, self.ip, self.memory = lab, name, ip, memory
        self.append = f"console=tty0 console=ttyS0 quiet panic=1 watari.ip={ip}/24 {append}"
        self.disk_mib, self.networks = disk_mib, networks
        self.uuid = None

    def cli(self, *args, node=None, **how):
        return self.lab.cli(node or self.asked(), *args, **how)

    def asked(self):
        """A node whose daemon answers."""
        for node in self.lab.nodes:
            try:
                Api(self.lab, node).close()
                return node
            except (OSError, LabError):
                pass
        raise AssertionError("no node's daemon answers")

    def disk(self):
        path = self.lab.shared / f"{self.name}.img"
        if not path.exists():
            with open(path, "wb") as image:
                image.truncate(self.disk_mib << 20)
        return f"/srv/watari/{self.name}.img"

    def create(self, *more, **how):
        args = ["vm", "create", self.name, "--memory", self.memory, "--kernel", KERNEL, "--initrd", INITRD,
                "--append", self.append]
        args += itertools.chain.from_iterable(("--network", network) for network in self.networks)
        args += ["--disk", self.disk()] if self.disk_mib else []
        self.cli(*args, *more, **how)
        self.uuid = self.show()["uuid"]
        return self

    def start(self, on=None, **how):
        self.cli("vm", "start", self.name, *(["--on", on] if on else []), **how)
        return self

    def boot(self, on=None):
        self.start(on)
        return self.wait()

    def wait(self, timeout=60):
        return self.lab.wait_guest(self.ip, timeout)

    def look(self, timeout=10):
        return self.lab.http("/", self.ip, timeout)

    def check(self):
        """Everything in the guest is what it wrote: memory, load and disk. Its verdict."""
        verdict = self.lab.http("/checksum", self.ip, timeout=60)
        assert verdict["checksum_ok"] is True, verdict
        return verdict

    def show(self, node=None):
        return self.cli("vm", "show", self.name, node=node)

    def state(self, node=None):
        return self.show(node)["state"]

    def wait_state(self, state, timeout=30, node=None, filling=None):
        node = node or self.asked()
        with Api(self.lab, node) as api:
            def look():
                vm = api.call("vm.show", vm=self.name)
                return vm if vm["state"] == state and (filling is None or vm["filling"] == filling) else None
            return wait_until(look, timeout, f"{self.name} to be {state}" +
                              ("" if filling is None else f", filling {filling}"), every=0.02)

    def wait_filled(self, timeout=60, node=None):
        return self.wait_state("online", timeout, node, filling=False)

    def move(self, to, *more, node=None, **how):
        """The finished task."""
        return self.cli("vm", "move", self.name, "--to", to, *more, node=node, **how)

    def task(self, number, node=None):
        return self.cli("task", "show", number, node=node)

    def wait_task(self, number, timeout=60, node=None):
        """The ended task, however it ended."""
        with Api(self.lab, node or self.asked(), timeout + 10) as api:
            return api.call("task.wait", task=number, timeout_ms=timeout * 1000)

    def delete(self):
        """Whatever state it is in."""
        node = self.asked()
        with Api(self.lab, node) as api:
            try:
                vm = api.call("vm.show", vm=self.name)
            except ApiError:
                return
            if vm["task"] and vm["state"] in ("moving", "saving", "restoring"):
                try:
                    api.call("vm.cancel", vm=self.name)
                except ApiError:
                    pass
                self.wait_task(vm["task"], node=node)
            if self.state(node) in ("online", "starting"):
                self.wait_task(api.call("vm.stop", vm=self.name)["task"], node=node)
            api.call("vm.delete", vm=self.name, **({"force": True} if self.state(node) == "saved" else {}))

    # --- where it is on the machines ---

    def qemu(self, node):
        """The machine's pids of this VM's QEMUs on the node."""
        return [pid for pid in pids(self.lab, node, QEMU) if self.uuid.encode() in _read(f"/proc/{pid}/cmdline")]

    def running(self):
        """{node: pid} of its QEMU; never more than one."""
        found = {node: pid for node in self.lab.nodes for pid in self.qemu(node)}
        assert len(found) <= 1 and sum(len(self.qemu(node)) for node in found) <= 1, f"two copies: {found}"
        return found

    def is_online(self, on):
        """There, and nowhere else."""
        vm = says(self.lab, on, "vm", "show", self.name)
        return bool(vm) and vm["state"] == "online" and vm["node"] == on and set(self.running()) == {on}

    def serial(self, node):
        """The console's socket on the node, connected."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(f"{self.lab.root(node)}/run/watari/vm/{self.uuid}/serial.sock")
        return sock

    def shell(self, node, command, until, timeout=30):
        """Types a command into the guest's shell; returns what came back up to `until`."""
        deadline = time.monotonic() + timeout
        with self.serial(node) as sock:
            def read_to(mark):
                got = b""
                while mark not in got:
                    data = sock.recv(4096)
                    assert data and time.monotonic() < deadline, f"no {mark} in {got[-500:]}"
                    got += data
                return got.decode(errors="replace")
            sock.sendall(b"\n")
            read_to(b"guest# ")
            sock.sendall(command.encode() + b"\n")
            return read_to(until.encode())

    def panic(self):
        """Its kernel's, after the answer."""
        self.lab.http("/panic", self.ip, timeout=10)

    def stop_agent(self):
        """It hangs; all else goes on."""
        self.lab.http("/agent-stop", self.ip, timeout=10)

    def state_dir(self, task=""):
        """The VM's directory on the state storage, or the one of a state."""
        return self.lab.shared / "state" / self.uuid / str(task)

    def states(self):
        """The saved states of this VM on the shared storage: {task: [files]}."""
        base = self.state_dir()
        return {int(task.name): sorted(file.name for file in task.iterdir()) for task in base.iterdir()} \
            if base.is_dir() else {}

    def wait_no_states(self, timeout=20):
        wait_until(lambda: not self.states(), timeout, f"the saved states of {self.name} to be deleted")


# --- the cluster ---

def says(lab, node, *args):
    """The node's answer; None where it has none to give."""
    try:
        return lab.cli(node, *args)
    except LabError:
        return None


def refusal(lab, node, *args):
    """(exit status, what is said) of a call that is refused."""
    done = lab.cli_raw(node, *args, check=False)
    assert done.returncode, f"{args} was not refused: {done.stdout}"
    return done.returncode, done.stderr


def add_power(lab, *nodes):
    """Their outlets are known as fence devices power-NODE."""
    for node in nodes:
        lab.cli("n1", "fence", "add", f"power-{node}", "--node", node, "--agent", "fence_lab", "--option", f"plug={node}")


# --- tests that mostly wait ---

@contextlib.contextmanager
def stories(request, **story):
    """For a module's fixture: the functions begin at once, side by side with its tests, where the test of that name is asked for
    at all. Gives {name: future}; its test asks for the result."""
    wanted = {item.name for item in request.session.items}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield {test: pool.submit(tell) for test, tell in story.items() if test in wanted}


# --- what may not leak ---

def belongings(lab, node):
    """What a node's daemon and its helpers hold: to be equal before and after."""
    daemon = pids(lab, node, DAEMON)
    assert len(daemon) == 1, f"{node}: {daemon}"
    held = []
    for entry in os.listdir(f"/proc/{daemon[0]}/fd"):
        try:
            held.append(re.sub(r"\[\d+\]", "", os.readlink(f"/proc/{daemon[0]}/fd/{entry}")))
        except OSError:
            pass
    maps = _read(f"/proc/{daemon[0]}/maps").decode()
    root = lab.root(node)
    return {
        "descriptors": sorted(held),
        "mappings": sorted({line.split(maxsplit=5)[5] for line in maps.splitlines() if "/" in line}),
        "processes": sorted(name for _, name in processes(lab, node)),
        "links": sorted(re.sub(r"^(wtap)\d+$", r"\1", path.name) for path in (root / "sys/class/net").iterdir()),
        "run": sorted(str(path.relative_to(root)) for path in (root / "run/watari").rglob("*")),
        "memory": sorted(path.name for path in (root / "dev/shm").iterdir() if not path.name.startswith("qb-")),
    }


def digests(lab, nodes):
    """{node: (log entry, digest)} as each daemon has it."""
    found = {}
    for node in nodes:
        with Api(lab, node) as api:
            status = api.call("cluster.status")
            found[node] = (status["index"], status["digest"])
    return found


def wait_agreed(lab, nodes=None, timeout=20):
    """All daemons have the same history (I5)."""
    nodes = nodes or lab.nodes
    wait_until(lambda: len(set(digests(lab, nodes).values())) == 1, timeout,
               "all nodes to have the same log and digest")


def wait_synced(lab, nodes=None, timeout=30):
    """Every daemon acts, and sees every one of these nodes online."""
    nodes = nodes or lab.nodes

    def look():
        for node in nodes:
            try:
                with Api(lab, node) as api:
                    if not api.call("cluster.status")["synced"]:
                        return False
                    state = {one["name"]: one["state"] for one in api.call("node.list")["nodes"]}
            except (OSError, LabError, ConnectionError):
                return False
            if any(state.get(other) != "online" for other in nodes):
                return False
        return True
    wait_until(look, timeout, f"{', '.join(nodes)} to be online and in sync")
