# SPDX-License-Identifier: Apache-2.0
"""A real QEMU on each side of watari-stream: what the daemon's driver does, in few lines, for tests and measurements.

Everything lives in one temporary directory; every process is ended by its own handle."""
import array, fcntl, gzip, json, os, pathlib, select, shutil, socket, struct, subprocess, tempfile, threading, time

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("WATARI_BUILD", HERE.parents[2] / "build"))
MIB = 1 << 20


def build_guest(directory):
    """An initramfs whose only file is guest.c as /init, and the console that the kernel opens for it."""
    init = directory / "init"
    subprocess.run(["gcc", "-O2", "-static", "-o", init, HERE / "guest.c", "-lpthread"], check=True)
    out = bytearray()

    def entry(name, mode, data=b"", rdev=(0, 0)):
        fields = [len(out), mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(name) + 1, 0]
        out.extend(b"070701" + b"".join(b"%08x" % f for f in fields) + name.encode() + b"\0")
        out.extend(b"\0" * (-len(out) % 4) + data)
        out.extend(b"\0" * (-len(out) % 4))

    entry("dev", 0o040755)
    entry("dev/console", 0o020600, rdev=(5, 1))
    entry("init", 0o100755, init.read_bytes())
    entry("TRAILER!!!", 0)
    image = directory / "initramfs.gz"
    image.write_bytes(gzip.compress(bytes(out), 1))
    return image


def kernel():
    """The lab's: its builder fetches Debian's cloud kernel where the machine has none."""
    subprocess.run([HERE.parents[2] / "lab/guest/build", BUILD / "lab/guest"], check=True, timeout=300)
    return BUILD / "lab/guest/vmlinuz"


def connect(path, limit=10.0):
    end = time.monotonic() + limit
    while True:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            s.connect(str(path))
            return s
        except (FileNotFoundError, ConnectionRefusedError):
            s.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


class Lines:
    """JSON or text lines of a socket, read by a thread that notes when each came."""

    def __init__(self, sock):
        self.sock, self.lines, self.closed = sock, [], False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        rest = b""
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b""
            now = time.time_ns()
            *lines, rest = (rest + data).split(b"\n")
            with self.changed:
                self.lines += [(now, line.decode(errors="replace").strip()) for line in lines]
                self.closed = self.closed or not data
                self.changed.notify_all()
            if not data:
                return

    def wait(self, match, start=0, limit=60.0):
        """The first line from number start on for which match is true: (number, time in ns, line)."""
        end = time.monotonic() + limit
        at = start
        with self.changed:
            while True:
                for at in range(at, len(self.lines)):
                    when, line = self.lines[at]
                    if match(line):
                        return at, when, line
                at = len(self.lines)
                left = end - time.monotonic()
                if self.closed or left <= 0:
                    raise AssertionError(f"{'closed' if self.closed else 'timed out'}; last lines: {self.lines[-8:]}")
                self.changed.wait(left)


class Qmp:
    def __init__(self, path):
        self.sock = connect(path)
        self.lines = Lines(self.sock)
        self.at = 0
        self.lines.wait(lambda line: "QMP" in line)
        self("qmp_capabilities")

    def __call__(self, command, fd=None, limit=30.0, **arguments):
        message = json.dumps({"execute": command, "arguments": arguments}).encode()
        self.at = len(self.lines.lines)
        if fd is None:
            self.sock.sendall(message)
        else:
            self.sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        self.at, _, line = self.lines.wait(lambda l: '"return"' in l or '"error"' in l, self.at, limit)
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}")
        return answer["return"]

    def event(self, name, start=0, limit=30.0):
        """The wall clock time in ns that QEMU put into the event."""
        _, _, line = self.lines.wait(lambda l: f'"event": "{name}"' in l, start, limit)
        stamp = json.loads(line)["timestamp"]
        return stamp["seconds"] * 10**9 + stamp["microseconds"] * 1000


class Vm:
    """One QEMU. incoming: it waits for a state."""

    number = 0

    def __init__(self, rig, incoming=False):
        Vm.number += 1
        self.rig, self.dir = rig, rig.dir / f"vm{Vm.number}"
        self.dir.mkdir()
        o = rig.options
        memory = f"memory-backend-memfd,id=ram,size={o['mib']}M,share=on" if o["shared"] else \
            f"memory-backend-ram,id=ram,size={o['mib']}M"
        append = f"console=ttyS0 quiet panic=-1 fill={o['fill']} hot={o['hot']} threads={o['vcpus']} pace={o['pace']}"
        argv = ["qemu-system-x86_64", "-nodefaults", "-accel", "tcg", "-cpu", "max,la57=off", "-display", "none",
                "-machine", "pc-q35-7.2,memory-backend=ram", "-object", memory, "-m", f"{o['mib']}M",
                "-smp", str(o["vcpus"]), "-vga", "std", "-kernel", str(kernel()), "-initrd", str(rig.initramfs),
                "-append", append, "-S",
                "-chardev", f"socket,id=serial,path={self.dir}/serial,server=on,wait=off", "-serial", "chardev:serial",
                "-qmp", f"unix:{self.dir}/qmp,server=on,wait=off"]
        if incoming:
            argv += ["-incoming", "defer"]
        self.errors = open(self.dir / "stderr", "wb")
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors)
        rig.cleanup.append(self.kill)
        self.qmp = Qmp(self.dir / "qmp")
        self.serial_sock = connect(self.dir / "serial")
        self.serial = Lines(self.serial_sock)

    def memory_fd(self):
        """The guest's memory, opened anew read-only."""
        base = f"/proc/{self.process.pid}/fd"
        for fd in os.listdir(base):
            try:
                if "memory-backend-memfd" in os.readlink(f"{base}/{fd}"):
                    return os.open(f"{base}/{fd}", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
        raise AssertionError("no memfd")

    def check(self, limit=300.0):
        start = len(self.serial.lines)
        self.serial_sock.sendall(b"check\n")
        _, _, line = self.serial.wait(lambda l: l.startswith("check "), start, limit)
        assert line.startswith("check ok"), [l for _, l in self.serial.lines if "BAD" in l][:5]
        return line

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def stderr(self):
        return (self.dir / "stderr").read_text()


class Helper:
    """One watari-stream with its control channel."""

    number = 0

    def __init__(self, rig, verb, fd0, state, memory=None, **popen):
        Helper.number += 1
        self.path = rig.dir / f"control{Helper.number}"
        listen = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listen.bind(str(self.path))
        listen.listen(4)
        directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
        places = {0: fd0, 3: listen.fileno(), 4: directory}
        if memory is not None:
            places[5] = memory
        # Moved out of the way first, so that no source is overwritten before it was moved.
        high = {to: fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for to, fd in places.items()}

        def move():
            if os.geteuid() == 0:
                os.setpriority(os.PRIO_PROCESS, 0, -10)
            for to, fd in high.items():
                os.dup2(fd, to)

        self.process = subprocess.Popen([str(rig.binary), verb], preexec_fn=move, close_fds=False,
                                        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, **popen)
        for fd in high.values():
            os.close(fd)
        os.close(directory)
        listen.close()
        rig.cleanup.append(self.kill)
        self.connect()

    def connect(self):
        self.sock = connect(self.path)
        self.events = Lines(self.sock)

    def send(self, cmd, **members):
        self.sock.sendall(json.dumps({"cmd": cmd, **members}).encode() + b"\n")

    def wait(self, *names, limit=120.0, start=0):
        """The first event of one of these names; failed ends the wait unless it is asked for."""
        def match(line):
            event = json.loads(line)["event"]
            return event in names or event in ("failed", "refused")
        _, when, line = self.events.wait(match, start, limit)
        event = json.loads(line)
        assert event["event"] in names, line
        event["heard_ns"] = when
        return event

    def progress(self):
        return [json.loads(l) for _, l in self.events.lines if '"progress"' in l]

    def quit(self, limit=20.0):
        self.send("quit")
        return self.process.wait(limit)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Rig:
    def __init__(self, binary, store=None, **options):
        self.options = dict(mib=1024, fill=500, hot=32, vcpus=1, pace=2000, shared=True, repair=True,
                            downtime_ms=20, mode="postcopy", verify="served")
        self.options.update(options)
        self.binary = binary
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="watari-stream-"))
        self.store = pathlib.Path(store or self.dir)
        self.cleanup = []
        self.initramfs = build_guest(self.dir)

    def close(self):
        for end in reversed(self.cleanup):
            end()
        shutil.rmtree(self.dir, ignore_errors=True)

    def boot(self):
        vm = Vm(self)
        vm.qmp("cont")
        vm.serial.wait(lambda line: line.startswith("ready "), limit=300)
        return vm

    def state(self):
        return pathlib.Path(tempfile.mkdtemp(prefix="state-", dir=self.store))

    def save(self, vm, state=None, **start):
        """Saves a running VM; it is stopped then. Returns the state, the sealed event and what was measured."""
        state = state or self.state()
        helper, read_end = self.save_begin(vm, state, **start)
        stopped_at = len(vm.qmp.lines.lines)
        sealed = helper.wait("sealed", limit=600)
        vm.stop_ns = vm.qmp.event("STOP", stopped_at)
        figures = sealed["figures"]
        ms = lambda a, b: round((b - a) / 1e6, 1)
        assert helper.quit() == 0
        return state, sealed, {
            "copy_ms": ms(figures["started_ns"], vm.stop_ns),
            "stop_stream_ms": ms(vm.stop_ns, figures["streamed_ns"]),
            "drain_ms": ms(figures["streamed_ns"], figures["written_ns"]),
            "repair_ms": ms(figures["written_ns"], figures["repaired_ns"]),
            "fsync_ms": ms(figures["repaired_ns"], figures["synced_ns"]),
            "manifest_ms": ms(figures["synced_ns"], figures["sealed_ns"]),
            "stop_sealed_ms": ms(vm.stop_ns, figures["sealed_ns"]),
            "hash_gb_s": round(figures["hashed_bytes"] / max(figures["hash_us"], 1) / 1000, 1),
            "repaired": figures["repaired_pages"], "passes": figures["passes"], "tail_pages": figures["tail_pages"],
            "amplification": round(figures["ram_bytes"] / max(figures["used_bytes"], 1), 3),
            "used_mib": figures["used_bytes"] >> 20,
        }

    def save_begin(self, vm, state, **start):
        o = self.options
        read_end, write_end = os.pipe()
        memory = vm.memory_fd() if o["shared"] and o["repair"] else None
        helper = Helper(self, "save", read_end, state, memory)
        os.close(read_end)
        if memory is not None:
            os.close(memory)
        helper.send("start", **{"facts": {"vm": "test", "epoch": 1}, "ram_bytes": o["mib"] * MIB, "block": "ram",
                                "repair": memory is not None, **start})
        helper.wait("copying")
        vm.qmp("migrate-set-capabilities", capabilities=[
            {"capability": "events", "state": True}, {"capability": "postcopy-ram", "state": False}])
        vm.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": o["downtime_ms"]})
        vm.qmp("getfd", fd=write_end, fdname="state")
        os.close(write_end)
        vm.qmp("migrate", uri="fd:state")
        return helper, read_end

    def standby(self):
        """A QEMU that waits, and the socket over which it will take a state."""
        o = self.options
        vm = Vm(self, incoming=True)
        vm.qmp("migrate-set-capabilities", capabilities=[
            {"capability": "events", "state": True},
            {"capability": "postcopy-ram", "state": o["mode"] == "postcopy"}])
        path = vm.dir / "incoming"
        vm.qmp("migrate-incoming", uri=f"unix:{path}")
        return vm, connect(path)

    def load_begin(self, state, vm, sock, **start):
        helper = Helper(self, "load", sock.fileno(), state)
        sock.close()
        helper.send("ready", ram_bytes=self.options["mib"] * MIB)
        helper.send("start", **{"mode": self.options["mode"], "verify": self.options["verify"],
                                "ram_bytes": self.options["mib"] * MIB, "expect": {"vm": "test"}, **start})
        return helper

    def load(self, state, vm, sock, **start):
        """Loads a state and lets the guest run. Returns what was measured."""
        began = time.time_ns()
        helper = self.load_begin(state, vm, sock, **start)
        loaded = helper.wait("loaded")
        events = len(vm.qmp.lines.lines)
        ticks = len(vm.serial.lines)
        vm.qmp("cont")
        resumed_ns = vm.qmp.event("RESUME", events)
        _, tick_ns, _ = vm.serial.wait(lambda l: l.startswith("tick"), ticks)
        filled = helper.wait("filled")
        figures = filled["figures"]
        assert helper.quit() == 0
        ms = lambda a, b: round((b - a) / 1e6, 1)
        return {"helper": helper, "resumed_ns": resumed_ns}, {
            "spawn_ms": ms(began, figures["started_ns"]),
            "validate_ms": ms(figures["started_ns"], figures["validated_ns"]),
            "load_ms": ms(figures["validated_ns"], figures["loaded_ns"]),
            "cont_ms": ms(figures["loaded_ns"], resumed_ns),
            "first_tick_ms": ms(resumed_ns, tick_ns),
            "fill_ms": ms(resumed_ns, figures["filled_ns"]),
            "requests": figures["requests"], "served": figures["requests_served"],
            "request_us": [figures["request_us_avg"], figures["request_us_p99"], figures["request_us_max"]],
        }

    def hop(self, vm, **start):
        """One move: returns the new VM, what was measured, and the state's directory (removed)."""
        target, sock = self.standby()
        state, sealed, saved = self.save(vm, **start)
        loaded, measured = self.load(state, target, sock)
        saved.update(measured)
        saved["blackout_ms"] = round((loaded["resumed_ns"] - vm.stop_ns) / 1e6, 1)
        assert sorted(p.name for p in state.iterdir()) == ["device", "manifest", "ram", "sums"]
        shutil.rmtree(state)
        vm.qmp("quit")
        vm.process.wait(30)
        return target, saved
