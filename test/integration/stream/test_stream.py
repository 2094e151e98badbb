# SPDX-License-Identifier: Apache-2.0
"""watari-stream against hand-made streams, and against real QEMUs (TCG) with a guest that checks its own memory."""
import json, os, pathlib, signal, subprocess, sys, tempfile, threading, time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import fake, rig
from fake import PAGE

ROOT = pathlib.Path(__file__).resolve().parents[3]
BINARY = pathlib.Path(os.environ.get("WATARI_STREAM", ROOT / "build/src/cmd/watari-stream"))
FACTS = {"vm": "test", "epoch": 1}


class Bench(rig.Rig):
    """Without QEMU: a directory and what is to be ended."""

    def __init__(self):
        self.binary, self.cleanup = BINARY, []
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="watari-stream-"))
        self.store, self.options = self.dir, {}

    def saver(self, state, stream, **start):
        read_end, write_end = os.pipe()
        memory = start.pop("memory", None)
        helper = rig.Helper(self, "save", read_end, state, memory)
        os.close(read_end)
        helper.send("start", **{"facts": FACTS, "ram_bytes": len(stream.memory) * PAGE, **start})
        return helper, os.fdopen(write_end, "wb")

    def saved(self, stream, **start):
        state = self.state()
        helper, pipe = self.saver(state, stream, **start)
        helper.wait("copying")
        with pipe:
            pipe.write(stream.bytes)
        sealed = helper.wait("sealed")
        assert helper.quit() == 0
        return state, sealed

    def loader(self, state, stream, ready=None, **start):
        ours, theirs = fake.pair()
        ours.settimeout(30)
        helper = rig.Helper(self, "load", theirs.fileno(), state)
        theirs.close()
        if ready is not None:
            helper.send("ready", ram_bytes=ready)
        helper.send("start", **{"mode": "postcopy", "ram_bytes": len(stream.memory) * PAGE, "expect": FACTS, **start})
        return helper, fake.Target(ours)

    def checker(self, state, stream, **start):
        with open("/dev/null") as null:
            helper = rig.Helper(self, "check", null.fileno(), state)
        helper.send("start", **{"ram_bytes": len(stream.memory) * PAGE, "verify": "all", **start})
        return helper


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def failure(helper):
    _, _, line = helper.events.wait(lambda l: json.loads(l)["event"] in ("failed", "refused"))
    return json.loads(line)


def poke(path, offset):
    with open(path, "r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(offset)
        f.write(bytes([byte ^ 1]))


def test_what_was_saved_arrives_page_for_page(bench):
    stream = fake.Stream(pages=6000)
    state, sealed = bench.saved(stream)
    assert sealed["figures"]["passes"] == 2 and sealed["figures"]["tail_pages"] == 40
    helper, target = bench.loader(state, stream)
    target.take_head()
    assert target.commands == [1, 3, 6, 7]
    assert target.package.startswith(b"\x08\0\4\0\0") and target.package.endswith(b"\x08\0\5\0\0")
    assert b"the devices' own bytes" in target.package
    assert helper.wait("loaded")["filling"]
    target.take_all()
    target.shut()
    helper.wait("filled")
    assert helper.quit() == 0
    used = {i: p for i, p in enumerate(stream.memory) if p}
    assert target.pages == used  # zero pages are not sent: the target is empty
    assert target.small == {0: b"\1" * PAGE, 1: b""}
    # Hottest first: what the last pass sent comes before the rest, but for reads that overtake each other.
    assert set(stream.order_hot) <= set(target.order[:400])


@pytest.mark.parametrize("ready", [0, 1, PAGE, 1 << 30])
def test_memory_taken_before_the_load_is_a_hint(bench, ready):
    """`ready` with too little or too much changes the time and nothing else."""
    stream = fake.Stream(pages=600)
    state, _ = bench.saved(stream)
    helper, target = bench.loader(state, stream, ready=ready)
    target.take_head()
    target.take_all()
    target.shut()
    helper.wait("filled")
    assert helper.quit() == 0
    assert target.pages == {i: p for i, p in enumerate(stream.memory) if p}


def test_what_was_asked_for_is_sent_first_the_next_time(bench):
    """A guest that is moved often must not wait again for each page of its kernel."""
    stream = fake.Stream(pages=20000, hot=100)
    state, _ = bench.saved(stream)
    helper, target = bench.loader(state, stream)
    target.take_head()
    helper.wait("loaded")
    wanted = [3001, 7000, 12, 16999]
    for page in wanted:
        target.ask(page, "ram")
        while page not in target.pages:
            target.element()
    target.take_all()
    target.shut()
    hot = helper.wait("filled")["hot"]
    assert hot[:4] == wanted

    state, _ = bench.saved(stream, hot=hot)
    helper, target = bench.loader(state, stream)
    target.take_head()
    assert helper.wait("loaded")
    target.take_all()
    target.shut()
    assert target.order[:4] == wanted
    assert helper.wait("filled")["hot"] == hot  # known, though nobody had to ask
    assert target.pages == {i: p for i, p in enumerate(stream.memory) if p}


def test_a_hot_page_that_the_memory_does_not_have_is_refused(bench):
    stream = fake.Stream()
    state = bench.state()
    helper, pipe = bench.saver(state, stream, hot=[len(stream.memory)])
    assert failure(helper)["code"] == "invalid"
    assert os.listdir(state) == []
    pipe.close()


def test_eager_sends_memory_before_devices(bench):
    stream = fake.Stream()
    state, _ = bench.saved(stream)
    helper, target = bench.loader(state, stream, mode="eager")
    with pytest.raises(AssertionError, match="0x4"):  # the first full section: everything before it was taken
        target.take_all()
    assert target.commands == [1]
    assert target.pages == {i: p for i, p in enumerate(stream.memory) if p}
    rest = target.buffer[target.at:]
    while len(rest) < len(fake.TAIL) - 1:
        rest += target.sock.recv(65536)
    assert rest == fake.TAIL[1:]
    target.shut()
    assert not helper.wait("loaded")["filling"]
    helper.wait("filled")


def test_a_page_asked_for_comes_at_once_and_only_once(bench):
    stream = fake.Stream(pages=20000, hot=100)
    state, _ = bench.saved(stream)
    helper, target = bench.loader(state, stream)
    target.take_head()
    before = len(target.order)
    target.ask(3001, "ram")
    target.ask(9002)  # zero: must be sent when asked for
    target.ask(3001)
    while 9002 not in target.pages or 3001 not in target.pages:
        target.element()
    # What the socket held already is all that may come first.
    assert target.order.index(3001) - before < 400
    assert target.pages[3001] == stream.memory[3001] and target.pages[9002] == b""
    target.ask(1, "vga")
    target.take_all()
    target.shut()
    figures = helper.wait("filled")["figures"]
    assert figures["requests"] == 4 and figures["requests_served"] == 3
    assert {i: p for i, p in target.pages.items() if p} == {i: p for i, p in enumerate(stream.memory) if p}


def test_a_page_that_is_broken_stalls_and_never_arrives_as_something_else(bench):
    stream = fake.Stream(pages=3000, hot=10)
    state, _ = bench.saved(stream)
    poke(state / "ram", 1000 * PAGE + 17)
    helper, target = bench.loader(state, stream)
    target.take_head()
    thread = threading.Thread(target=target.take_all)
    thread.start()
    assert "page 1000 " in helper.wait("stalled")["text"]
    target.ask(1000)
    time.sleep(0.5)  # long enough for wrong bytes to arrive, if any were sent
    assert 1000 not in target.pages and not target.ended
    helper.send("cancel")  # the guest may run: too late
    assert failure(helper)["code"] == "busy"
    mark = len(helper.events.lines)
    poke(state / "ram", 1000 * PAGE + 17)
    helper.wait("resumed", start=mark)
    thread.join(30)
    target.shut()
    helper.wait("filled", start=mark)
    assert target.pages[1000] == stream.memory[1000]


@pytest.mark.parametrize("mode", ["eager", "postcopy"])
def test_a_broken_page_fails_the_load_while_the_guest_cannot_run_yet(bench, mode):
    """Nothing is lost then: the next link of the chain is tried, instead of waiting for a page that stays wrong."""
    stream = fake.Stream()
    state, _ = bench.saved(stream)
    poke(state / "ram", 0)
    helper, target = bench.loader(state, stream, mode=mode)
    with pytest.raises(fake.Closed):
        target.take_all()
    failed = failure(helper)
    assert failed["code"] == "corrupt" and not failed["after_loaded"] and "page 0 " in failed["text"]
    assert 0 not in target.pages


def test_giving_up_ends_a_stalled_load(bench):
    stream = fake.Stream()
    state, _ = bench.saved(stream)
    poke(state / "ram", 0)
    helper, target = bench.loader(state, stream)
    target.take_head()
    helper.wait("loaded")
    helper.wait("stalled")
    helper.send("give-up")
    failed = failure(helper)
    assert failed["code"] == "cancelled" and failed["after_loaded"]
    with pytest.raises(fake.Closed):
        target.take_all()
    assert helper.quit() == 1
    assert sorted(os.listdir(state)) == ["device", "manifest", "ram", "sums"]


@pytest.mark.parametrize("what", ["ram", "sums", "device", "manifest"])
def test_a_broken_state_is_refused_before_anything_is_sent(bench, what):
    stream = fake.Stream()
    state, _ = bench.saved(stream)
    assert bench.checker(state, stream).wait("checked")["facts"] == FACTS
    poke(state / what, 100)
    assert failure(bench.checker(state, stream))["code"] == "corrupt"
    helper, target = bench.loader(state, stream, verify="all")
    failed = failure(helper)
    assert failed["code"] == "corrupt" and not failed["after_loaded"]
    assert target.sock.recv(1) == b""  # not a byte came


def test_another_guests_state_is_refused(bench):
    stream = fake.Stream()
    state, _ = bench.saved(stream)
    helper, target = bench.loader(state, stream, expect={"vm": "test", "epoch": 2})
    failed = failure(helper)
    assert (failed["code"], failed["text"]) == ("unfit", "saved state has epoch 1, 2 was expected")
    assert target.sock.recv(1) == b""


def test_qemu_that_asks_for_nonsense_is_not_obeyed(bench):
    stream = fake.Stream()
    state, _ = bench.saved(stream)
    for ask in (lambda t: t.ask(600), lambda t: t.ask(0, "disk"), lambda t: t.ask(2**52 - 1, "ram"),
                lambda t: t.ask(0, pages=5000), lambda t: t.sock.sendall(b"\0\x09\0\0")):
        poke(state / "ram", 0)  # so that it does not end before it has heard
        helper, target = bench.loader(state, stream)
        target.take_head()
        helper.wait("loaded")
        ask(target)
        assert failure(helper)["code"] == "protocol"
        poke(state / "ram", 0)
        helper.quit()


def test_a_stream_that_breaks_off_leaves_nothing_behind(bench):
    stream = fake.Stream()
    for size in (0, 7, 5000, len(stream.bytes) // 2, len(stream.bytes) - 1):
        state = bench.state()
        helper, pipe = bench.saver(state, stream)
        helper.wait("copying")
        with pipe:
            pipe.write(stream.bytes[:size])
        failed = failure(helper)
        assert failed["code"] == "protocol" and failed["removed"]
        assert os.listdir(state) == []
        assert helper.quit() == 1


def test_cancel_breaks_the_pipe_and_removes_the_files(bench):
    stream = fake.Stream()
    state = bench.state()
    helper, pipe = bench.saver(state, stream)
    helper.wait("copying")
    pipe.write(stream.bytes[:100000])
    pipe.flush()
    helper.send("cancel")
    assert failure(helper)["code"] == "cancelled"
    assert os.listdir(state) == []
    with pytest.raises(BrokenPipeError):
        pipe.write(bytes(1 << 22))
        pipe.flush()
    try:
        pipe.close()
    except BrokenPipeError:
        pass


def test_a_new_daemon_hears_everything_again(bench):
    stream = fake.Stream()
    state = bench.state()
    helper, pipe = bench.saver(state, stream)
    helper.wait("copying")
    helper.sock.close()  # the daemon dies
    with pipe:
        pipe.write(stream.bytes)
    helper.connect()
    hello = helper.wait("hello")
    assert hello["verb"] == "save" and hello["protocol"] == 1
    assert helper.wait("copying")["replay"]
    sealed = helper.wait("sealed")
    helper.connect()  # and once more, after the end
    assert helper.wait("hello")["state"] == "done"
    again = helper.wait("sealed")
    assert again["replay"] and again["figures"] == sealed["figures"]
    helper.send("start")
    assert failure(helper)["code"] == "busy"
    assert helper.quit() == 0


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b"{" * 100 + b"\n", b'{"cmd": "start"}\n', b'{"cmd": 5}\n',
                                  b'{"cmd": "start", "ram_bytes": -1}\n', b'{"cmd": "start", "facts": 1e999}\n',
                                  b'{"cmd": "start", "facts": {}, "ram_bytes": 1}\n', b"\xff\xfe\n",
                                  b'{"cmd": "start", "facts": {}, "ram_bytes": 18446744073709551616}\n',
                                  b'{"cmd": "start", "facts": {}, "ram_bytes": 4096, "repair": true}\n',
                                  b'{"cmd": "ready", "ram_bytes": 1099511627776}\n'])
def test_bad_commands_are_refused_and_change_nothing(bench, line):
    stream = fake.Stream()
    state = bench.state()
    read_end, write_end = os.pipe()
    helper = rig.Helper(bench, "save", read_end, state)
    helper.sock.sendall(line)
    assert failure(helper)["event"] == "refused"
    assert os.listdir(state) == []
    helper.send("cancel")
    helper.events.wait(lambda l: '"failed"' in l)
    assert helper.quit() == 1
    os.close(read_end), os.close(write_end)


def test_an_endless_line_drops_the_client_only(bench):
    stream = fake.Stream()
    state = bench.state()
    helper, pipe = bench.saver(state, stream)
    helper.wait("copying")
    try:
        for _ in range(100):
            helper.sock.sendall(b"x" * 65536)
    except OSError:
        pass
    helper.connect()
    with pipe:
        pipe.write(stream.bytes)
    helper.wait("sealed")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_store_is_found_before_anything_is_copied(bench):
    stream = fake.Stream(pages=2000)
    small = bench.dir / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    try:
        helper, pipe = bench.saver(small, stream)
        refused = failure(helper)
        assert refused["event"] == "refused" and refused["code"] == "no-space"
        assert "4 MiB free" in refused["text"] and "7 MiB" in refused["text"]
        assert os.listdir(small) == []
        pipe.close()
        helper.kill()
    finally:
        subprocess.run(["umount", "-l", small], check=True)


# ------------------------------------------------------------------------------------------------- with real QEMUs

@pytest.fixture
def qemus(request):
    made = rig.Rig(BINARY, **getattr(request, "param", {}))
    yield made
    made.close()


@pytest.mark.parametrize("qemus", [dict(mib=512, fill=200, hot=32, vcpus=1), dict(mib=512, fill=200, hot=32, vcpus=2),
                                   dict(mib=512, fill=200, hot=16, vcpus=2, mode="eager", verify="all")],
                         indirect=True, ids=["1 vcpu", "2 vcpus", "eager"])
def test_three_hops_keep_a_busy_guests_memory(qemus):
    vm = qemus.boot()
    for _ in range(3):
        vm, measured = qemus.hop(vm)
        print(measured)
        vm.check()


@pytest.mark.parametrize("qemus", [dict(mib=256, fill=64, hot=16, pace=500)], indirect=True, ids=[""])
def test_loaded_memory_is_the_saved_one_to_the_last_byte(qemus):
    """Both ways to load, against the source's stopped memory: also for pages that are zero and were never sent."""
    vm = qemus.boot()
    state, _, _ = qemus.save(vm)
    source = os.open(f"/proc/{vm.process.pid}/fd/{memory_number(vm)}", os.O_RDONLY)
    for mode in ("eager", "postcopy"):
        qemus.options["mode"] = mode
        target, sock = qemus.standby()
        helper = qemus.load_begin(state, target, sock)
        helper.wait("filled")
        loaded = target.memory_fd()
        for at in range(0, 256 * rig.MIB, rig.MIB):
            assert os.pread(source, rig.MIB, at) == os.pread(loaded, rig.MIB, at), (mode, at)
        os.close(loaded)
        target.kill()
    os.close(source)


def memory_number(vm):
    base = f"/proc/{vm.process.pid}/fd"
    return next(fd for fd in os.listdir(base) if "memory-backend-memfd" in os.readlink(f"{base}/{fd}"))


@pytest.mark.parametrize("qemus", [dict(mib=512, fill=200, hot=16)], indirect=True, ids=[""])
def test_a_save_that_ends_early_leaves_the_guest_running(qemus):
    """Cancelled, or its helper killed: QEMU's migration fails, the guest goes on, and the next save works."""
    vm = qemus.boot()
    for end in ("cancel", "kill"):
        state = qemus.state()
        start = len(vm.qmp.lines.lines)
        helper, _ = qemus.save_begin(vm, state)
        if end == "cancel":
            helper.send("cancel")
            assert failure(helper)["removed"]
            assert os.listdir(state) == []
        else:
            helper.process.send_signal(signal.SIGKILL)
        vm.qmp.lines.wait(lambda l: '"MIGRATION"' in l and '"failed"' in l, start)
        assert vm.qmp("query-status")["status"] == "running"
        assert not (state / "manifest").exists()
    state, _, _ = qemus.save(vm)
    vm.qmp("cont")
    vm.check()


@pytest.mark.parametrize("qemus", [dict(mib=512, fill=200, hot=16)], indirect=True, ids=[""])
def test_a_store_that_fails_while_filling_holds_the_guest_and_lets_it_go_on(qemus):
    """A18. A page the guest has is broken on the store: the guest waits, no wrong byte reaches it; mended, it goes on."""
    vm = qemus.boot()
    state, sealed, _ = qemus.save(vm)
    with open(state / "sums", "rb") as f:
        sums = f.read()
    used = [i for i in range(512 << 8) if sums[i * 8:i * 8 + 8] != bytes(8)]
    broken = used[len(used) // 2::200]
    for page in broken:
        poke(state / "ram", page * PAGE + 5)
    target, sock = qemus.standby()
    helper = qemus.load_begin(state, target, sock)
    helper.wait("loaded")
    target.qmp("cont")
    helper.wait("stalled")
    for page in broken:
        poke(state / "ram", page * PAGE + 5)
    helper.wait("resumed")
    helper.wait("filled")
    target.check()
