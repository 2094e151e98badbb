# SPDX-License-Identifier: Apache-2.0
"""A lab for a test: a cluster of its own, taken away at the end whatever happens.

    with Lab(nodes=3) as lab:
        lab.power_off("n2")
        lab.wait_members("n1", 2)
        vms = lab.cli("n1", "vm", "list")

Every call is bounded in time; nothing here sleeps where it can look. Labs have distinct names, so tests may run side by
side. A lab whose test was killed is taken away by the next Lab that is made.
"""
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("WATARI_BUILD", REPO / "build")).resolve()
TOOL = REPO / "lab" / "watari-lab"
RUN_BASE = pathlib.Path(os.environ.get("WATARI_LAB_DIR", "/run/watari-lab"))
STORE_BASE = pathlib.Path(os.environ.get("WATARI_LAB_STORE", "/var/lib/watari-lab"))
GUEST_IP = "10.77.0.50"
_serial = itertools.count(1)


class LabError(Exception):
    """A command failed; has .status and .stderr."""

    def __init__(self, argv, status, stdout, stderr):
        self.status, self.stdout, self.stderr = status, stdout, stderr
        super().__init__(f"{' '.join(map(str, argv))}: exit status {status}\n{stdout[-2000:]}{stderr[-4000:]}")


def wait_until(condition, timeout, what, every=0.05):
    """Returns the first true value of condition(), or fails after `timeout` seconds, saying what was waited for."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for: {what}")
        time.sleep(every)


class Lab:
    def __init__(self, nodes=3, name=None, build=BUILD, daemon=True, storage_mib=0, storage_fuse=False,
                 watchdog=0, witness=False, token=0):
        """storage_mib: shared storage of that size, so that it can be full. storage_fuse: cut("n1", "storage",
        "readonly") stops who has a file open too, and "hang", "error", "full" and "slow:MS" become possible. watchdog: each node has one, armed for that many ms.
        witness: corosync-qnetd on a machine of its own; "witness" is then a name for power_off, power_on, cut and heal.
        "default": with corosync-qdevice's own times, not the lab's short ones.
        token: corosync's, in ms (1000)."""
        self.count, self.build = nodes, pathlib.Path(build)
        self.options = [] if daemon else ["--no-daemon"]
        self.options += ["--storage-mib", storage_mib] if storage_mib else []
        self.options += ["--storage-fuse"] if storage_fuse else []
        self.options += [f"--watchdog={watchdog}"] if watchdog else []
        self.options += [] if not witness else ["--witness"] if witness is True else [f"--witness={witness}"]
        self.options += ["--token", token] if token else []
        self.name = name or f"t{os.getpid()}-{next(_serial)}"
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.run_dir, self.store = RUN_BASE / self.name, STORE_BASE / self.name
        self.keepers = {}

    # --- life ---

    def __enter__(self):
        self.reap()
        try:
            return self.up()
        except BaseException:
            self.down()
            raise

    def __exit__(self, kind, value, trace):
        self.down()

    def up(self, *args):
        self.tool("up", "--nodes", self.count, "--build", self.build, *self.options, *args)
        return self

    def down(self):
        self.tool("down")

    @staticmethod
    def reap():
        """Takes away the labs of tests that were killed."""
        for path in list(RUN_BASE.glob("t*-*")) + list(STORE_BASE.glob("t*-*")):
            owner = re.fullmatch(r"t(\d+)-\d+", path.name)
            if owner and not os.path.exists(f"/proc/{owner[1]}"):
                subprocess.run([TOOL, "down"], env={**os.environ, "WATARI_LAB_NAME": path.name}, timeout=60, check=False)

    # --- commands ---

    def argv(self, *args):
        return [str(TOOL), *map(str, args)]

    def env(self):
        return {**os.environ, "WATARI_LAB_NAME": self.name}

    def tool(self, *args, timeout=120, check=True, input=None):
        """watari-lab ARGS..., as a CompletedProcess with text. A failure is a LabError."""
        done = subprocess.run(self.argv(*args), env=self.env(), timeout=timeout, input=input, text=True,
                              capture_output=True, stdin=None if input is not None else subprocess.DEVNULL, check=False)
        if check and done.returncode:
            raise LabError(args, done.returncode, done.stdout, done.stderr)
        return done

    def exec(self, node, *cmd, **how):
        return self.tool("exec", node, "--", *cmd, **how)

    def sh(self, node, script, **how):
        """A line of shell in the node; its output without the last newline."""
        return self.exec(node, "bash", "-c", script, **how).stdout.rstrip("\n")

    def spawn(self, machine, *cmd):
        """Starts a command in a node (or "client") that outlives this call, with no ties to it."""
        where = ("client",) if machine == "client" else ("exec", machine)
        self.tool(*where, "--", "bash", "-c", 'exec setsid -f "$@" < /dev/null > /dev/null 2>&1', "spawn", *cmd)

    def client(self, *cmd, **how):
        return self.tool("client", "--", *cmd, **how)

    def popen(self, *args, **how):
        """watari-lab ARGS... left running: popen("exec", "n1", "--", ...). SIGTERM to it reaches the command."""
        return subprocess.Popen(self.argv(*args), env=self.env(), text=True, **how)

    def cli(self, node, *args, **how):
        """The node's `watari ARGS -o json`, parsed; None when it prints nothing. Errors are LabError with .status."""
        out = self.cli_raw(node, *args, "-o", "json", **how).stdout
        return json.loads(out) if out.strip() else None

    def cli_raw(self, node, *args, timeout=120, check=True, input=None, text=True):
        """`watari-lab cli NODE -- ARGS` without its shell, which costs more than the call: a CompletedProcess."""
        argv = [self.build / "lab/keeper", "enter", str(self.keeper(node)), "--", "/run/lab/build/src/cmd/watari",
                *(arg if isinstance(arg, bytes) else str(arg) for arg in args)]
        done = subprocess.run(argv, timeout=timeout, input=input, text=text, capture_output=True, check=False,
                              stdin=None if input is not None else subprocess.DEVNULL)
        if check and done.returncode:
            raise LabError(["cli", node, *args], done.returncode, str(done.stdout), str(done.stderr))
        return done

    # --- what it is like ---

    def status(self):
        """{node: {power, cluster, guests, storage, quorate, members, corosync, watarid, boot_id}}"""
        return {node["name"]: node for node in json.loads(self.tool("status", "-o", "json").stdout)["nodes"]}

    def members(self, node):
        """How many nodes corosync on `node` sees, 0 when it does not answer."""
        found = re.search(r"^Nodes: +(\d+)", self.exec(node, "corosync-quorumtool", "-s", check=False).stdout, re.M)
        return int(found[1]) if found else 0

    def is_quorate(self, node):
        return self.exec(node, "corosync-quorumtool", "-s", check=False).returncode == 0

    def wait_members(self, node, count, timeout=30):
        wait_until(lambda: self.members(node) == count, timeout, f"{node} to see {count} members")

    def boot_id(self, node):
        return self.sh(node, "cat /proc/sys/kernel/random/boot_id")

    def keeper(self, machine):
        """The pid, as this machine sees it, of the machine's first process. It must be on."""
        want = f"watari-keeper\0{self.run_dir}\0{machine}\0".encode()
        for pid in [self.keepers.get(machine), *(int(name) for name in os.listdir("/proc") if name.isdigit())]:
            try:
                if pid and pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() == want:
                    self.keepers[machine] = pid
                    return pid
            except OSError:
                pass
        raise LabError(["keeper", machine], 69, "", f"{machine} is powered off")

    def root(self, node):
        """Where this machine sees the node's files; stays right until the node's next power-off."""
        return pathlib.Path(f"/proc/{self.keeper(node)}/root")

    @property
    def shared(self):
        """Where this machine sees the shared storage, which may be a filesystem of its own."""
        return pathlib.Path(f"/proc/{self.keeper('switch')}/root{self.store}/shared")

    def logs(self, node, daemon="watarid"):
        return self.tool("logs", node, daemon, check=False).stdout

    # --- faults ---

    def power_off(self, *nodes):
        """All of them at once."""
        self.tool("power-off", *nodes)

    def power_on(self, *nodes):
        """In this order."""
        self.tool("power-on", *nodes)

    def bmc(self, node, fault="ok"):
        """What is wrong with the controller that fence_lab speaks to when it is to switch `node`."""
        self.tool("bmc", node, fault)

    def fence(self, by, timeout=60, **options):
        """The agent fence_lab, called in the node `by` as a daemon would: a CompletedProcess."""
        lines = "".join(f"{name}={value}\n" for name, value in options.items())
        argv = [self.build / "lab/keeper", "enter", str(self.keeper(by)), "--", "/run/lab/agents/fence_lab"]
        return subprocess.run(argv, input=lines, text=True, errors="replace", capture_output=True, timeout=timeout,
                              check=False)

    def watchdog(self, node, state=None):
        """Sets it (ok, dead), or says what state it is in."""
        return self.tool("watchdog", node, *([state] if state else [])).stdout.strip()

    def hardware_log(self, node=None):
        """[(CLOCK_REALTIME in ms, node, event)] of power, controllers and watchdogs."""
        lines = (line.split(" ", 2) for line in self.tool("hardware").stdout.splitlines())
        return [(int(ms), name, event) for ms, name, event in lines if node in (None, name)]

    def cut(self, node, what, *how):
        self.tool("cut", node, what, *how)

    def degrade(self, node, what, way=None, **how):
        """A bad cable: loss=30, delay=, jitter=, duplicate=, reorder=, mtu=; way "in" or "out" for one direction alone."""
        options = [word for name, value in how.items() for word in (f"--{name}", value)]
        self.tool("degrade", node, what, *([f"--{way}"] if way else []), *options)

    def heal(self, node, what="all"):
        self.tool("heal", node, what)

    def stop(self, node, what, *vm):
        """SIGSTOP to its watarid, corosync, qdevice, or the QEMU of a VM."""
        self.tool("stop", node, what, *vm)

    def cont(self, node, what, *vm):
        self.tool("cont", node, what, *vm)

    def kill(self, node, what, *vm):
        """SIGKILL; returns when it is gone."""
        self.tool("kill", node, what, *vm)

    def kill_daemon(self, node, daemon="watarid"):
        self.tool("kill-daemon", node, daemon)

    def restart_daemon(self, node, daemon="watarid"):
        self.tool("restart-daemon", node, daemon)

    # --- the client outside ---

    def probe(self, verb="udp", to=GUEST_IP, **options):
        """A running probe: `with lab.probe() as probe: ...; report = probe.stop()`."""
        return Probe(self, verb, to, options)

    def http(self, path="/", to=GUEST_IP, timeout=60):
        """The guest's answer, parsed: / is its state, /checksum reads all its memory again."""
        argv = [str(self.build / "lab/keeper"), "enter", str(self.keeper("client")), "--",
                str(self.build / "lab/probe"), "http", "--to", to, "--path", path, "--stall-s", str(timeout)]
        done = subprocess.run(argv, timeout=timeout + 20, text=True, capture_output=True, stdin=subprocess.DEVNULL,
                              check=False)
        if done.returncode:
            raise LabError(["probe", "http", path], done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def wait_guest(self, to=GUEST_IP, timeout=60):
        """The guest's state, once it answers and its memory is filled."""
        def look():
            try:
                state = self.http("/", to, timeout=1)
            except LabError:
                return None
            return state if state["fill_ready"] else None
        return wait_until(look, timeout, f"the guest at {to} to answer and fill its memory")


class Probe:
    """build/lab/probe in the client's namespace, running until stop(). Options are its own: every_ms=5, gap_ms=20..."""

    def __init__(self, lab, verb, to, options):
        args = [str(lab.build / "lab" / "probe"), verb, "--to", to, "--json"]
        for name, value in options.items():
            args += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        self.process = lab.popen("client", "--", *args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        self.first = threading.Event()
        self.stderr = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.stderr.append(line)
            if "first answer" in line:
                self.first.set()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.communicate(timeout=20)

    def wait_first(self, timeout=30):
        assert self.first.wait(timeout), f"no answer within {timeout} s: {''.join(self.stderr)}"

    def wait_end(self, timeout=30):
        """For a probe that ends by itself: its seconds are over, or the connection broke."""
        self.process.wait(timeout)

    def stop(self, timeout=30):
        """Closes its standard input; the report, with .status beside it (1: tcp broken, udp never answered)."""
        self.process.stdin.close()
        self.process.stdin = None
        out, _ = self.process.communicate(timeout=timeout)
        self.status = self.process.returncode
        assert out.strip(), f"probe: status {self.status}: {''.join(self.stderr)}"
        return json.loads(out)


class HandGuest:
    """The lab's guest in a plain QEMU that the test itself starts in a node: for tests of the lab, without a daemon."""

    def __init__(self, lab, node, ip=GUEST_IP, memory_mib=512, append="", extra=(), mac="02:77:02:00:00:32"):
        self.lab, self.node, self.ip = lab, node, ip
        self.tap = f"tap{next(_serial)}"
        self.qmp_path = f"/run/{self.tap}.qmp"
        lab.sh(node, f"ip tuntap add {self.tap} mode tap && ip link set {self.tap} master br0 up")
        lab.spawn(node, "qemu-system-x86_64", "-accel", "tcg", "-machine", "q35,memory-backend=ram",
                  "-object", f"memory-backend-file,id=ram,size={memory_mib}M,mem-path=/dev/shm/{self.tap},share=on",
                  "-m", memory_mib, "-cpu", "qemu64", "-display", "none", "-serial", f"file:/tmp/{self.tap}.serial",
                  "-kernel", "/srv/watari/guest/vmlinuz", "-initrd", "/srv/watari/guest/initrd.img",
                  "-append", f"console=tty0 console=ttyS0 quiet panic=1 watari.ip={ip}/24 {append}",
                  "-netdev", f"tap,id=net,ifname={self.tap},script=no,downscript=no",
                  "-device", f"virtio-net-pci,netdev=net,mac={mac},romfile=",
                  "-qmp", f"unix:{self.qmp_path},server,nowait", *extra)
        self.ram = lab.root(node) / "dev/shm" / self.tap
        self.serial = lab.root(node) / "tmp" / f"{self.tap}.serial"

    def is_running(self):
        return self.lab.exec(self.node, "pgrep", "-f", self.qmp_path, check=False).returncode == 0

    def signal(self, name):
        self.lab.exec(self.node, "pkill", f"-{name}", "-f", self.qmp_path)

    def qmp(self, command):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            wait_until(lambda: self._connect(sock), 10, "QEMU's QMP socket")
            stream = sock.makefile("rw")
            stream.readline()
            for name in ("qmp_capabilities", command):
                stream.write(json.dumps({"execute": name}) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
                while "event" in answer:
                    answer = json.loads(stream.readline())
                assert "return" in answer, answer
            return answer["return"]

    def _connect(self, sock):
        try:
            sock.connect(str(self.lab.root(self.node)) + self.qmp_path)
            return True
        except OSError:
            return False
