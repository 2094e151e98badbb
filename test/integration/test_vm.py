# SPDX-License-Identifier: Apache-2.0
"""The life of a VM on a real cluster, as an administrator lives it: through the CLI, with a guest that can tell a
restore from a reboot."""
import json
import os
import threading
import time

import pytest

from cluster import DAEMON, QEMU, STREAM, Api, CopyWatch, Freezer, Guest, News, kill, pids, wait_agreed, wait_synced
from lab import Lab, LabError, wait_until

NODES = ["n1", "n2", "n3"]


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=3) as lab:
        wait_synced(lab)
        yield lab


@pytest.fixture(scope="module")
def the_guest(lab):
    return Guest(lab, "web", append="watari.fill_mib=64 watari.load=mem watari.load_mib=16 watari.load_rate=1000",
                 memory="256M").create()


@pytest.fixture
def web(lab, the_guest):
    """A guest that runs somewhere and has all its memory; what a test before has left is mended."""
    state = the_guest.state()
    if state in ("off", "saved", "failed"):
        the_guest.start()
    the_guest.wait()
    the_guest.wait_filled()
    return the_guest


def others(node):
    return [other for other in NODES if other != node]


def refusal(guest, *args, **how):
    """The error of a CLI call that must be refused: (exit status, text)."""
    with pytest.raises(LabError) as caught:
        guest.cli(*args, **how)
    return caught.value.status, caught.value.stderr


def test_a_vm_from_definition_to_deletion(lab):
    """The whole life: defined by options, seen by all, started, shut down by its button, edited, deleted."""
    guest = Guest(lab, "life", ip="10.77.0.51", append="watari.fill_mib=4").create()
    shown = guest.show("n2")
    assert shown["state"] == "off" and shown["definition"]["machine"] == "pc-q35-7.2"
    assert shown["definition"]["nics"][0]["mac"].startswith("52:54:00:")
    task = guest.cli("vm", "start", "life", "--on", "n2", node="n3")
    assert task["state"] == "done" and task["kind"] == "start" and task["target"] == "n2"
    guest.wait()
    for node in NODES:
        listed = {vm["name"]: vm for vm in guest.cli("vm", "list", node=node)["vms"]}
        assert (listed["life"]["state"], listed["life"]["node"]) == ("online", "n2")
    status, text = refusal(guest, "vm", "edit", "life", "--memory", "300M")
    assert status == 113 and "shut it down first" in text
    status, text = refusal(guest, "vm", "delete", "life", "--yes")
    assert status == 113 and "shut it down first" in text
    task = guest.cli("vm", "shutdown", "life")
    assert task["state"] == "done", task
    assert guest.state() == "off" and not any(guest.qemu(node) for node in NODES)
    guest.cli("vm", "edit", "life", "--memory", "300M", "--vcpus", "2")
    guest.boot("n1")
    state = guest.look()
    assert state["vcpus"] == 2
    guest.cli("vm", "stop", "life")
    assert guest.state() == "off"
    status, text = refusal(guest, "vm", "delete", "life")
    assert status == 107 and "confirmation" in text
    guest.cli("vm", "delete", "life", "--yes")
    status, text = refusal(guest, "vm", "show", "life")
    assert status == 105 and "no VM 'life'" in text
    wait_agreed(lab)


def test_a_definition_goes_from_file_to_file(lab):
    """What `vm show --definition` prints, `vm create --file` takes: on stdin and from a file, with changes on top."""
    guest = Guest(lab, "first", ip="10.77.0.52").create()
    definition = json.loads(lab.cli_raw("n1", "vm", "show", "first", "--definition").stdout)
    del definition["uuid"]
    for nic in definition["nics"]:
        del nic["mac"]
    lab.cli("n2", "vm", "create", "second", "--file", "-", "--memory", "128M", input=json.dumps(definition))
    path = lab.store / "shared" / "third.json"
    path.write_text(json.dumps({**definition, "name": "third"}))
    lab.cli("n3", "vm", "create", "--file", "/srv/watari/third.json")
    # Asked where the last one was created: another node may apply it a moment later.
    defined = {vm["name"]: lab.cli("n3", "vm", "show", vm["name"])["definition"]
               for vm in lab.cli("n3", "vm", "list")["vms"] if vm["name"] in ("first", "second", "third")}
    assert defined["second"]["memory_mib"] == 128 and defined["third"]["memory_mib"] == 256
    assert len({one["uuid"] for one in defined.values()}) == len({one["nics"][0]["mac"] for one in defined.values()}) == 3
    for name in defined:
        guest.cli("vm", "delete", name, "--yes")


def test_dry_run_changes_nothing(lab, web):
    """--dry-run answers as the change would, and the log does not move."""
    before = web.show()
    target = others(before["node"])[0]
    task = web.move(target, "--dry-run")
    assert task["state"] == "done" and target in task["text"] and task["dry_run"] is True
    wait_until(lambda: not web.qemu(target), 10, "the QEMU that stood by to end")
    index = web.cli("status")["index"]
    web.cli("vm", "create", "ghost", "--memory", "64M", "--kernel", "/srv/watari/guest/vmlinuz", "--dry-run")
    web.cli("vm", "stop", "web", "--dry-run")
    web.cli("vm", "save", "web", "--dry-run")
    assert refusal(web, "vm", "delete", "web", "--yes", "--dry-run")[0] == 113
    assert web.cli("status")["index"] == index
    assert refusal(web, "vm", "move", "web", "--to", before["node"], "--dry-run")[0] == 65
    after = web.show()
    for key in ("state", "node", "epoch", "saved"):
        assert after.get(key) == before.get(key), key
    assert web.qemu(before["node"]) and not web.states()


def test_a_move_keeps_the_guest(lab, web):
    """The point of it all: same nonce, counter going on, every byte as it was, one TCP connection throughout."""
    before, owner = web.check(), web.show()["node"]
    target = others(owner)[0]
    with lab.probe("udp") as udp, lab.probe("tcp", stall_s=20) as tcp, CopyWatch(lab, web.uuid) as copies:
        udp.wait_first()
        tcp.wait_first()
        task = web.move(target)
        web.wait_filled()
        seen, connection = udp.stop(), tcp.stop()
    assert task["state"] == "done" and (task["source"], task["target"]) == (owner, target)
    assert seen["nonce_changes"] == seen["counter_back"] == 0 and seen["blackout_ms"] < 5000
    assert tcp.status == 0 and connection["broken"] is None
    assert not copies.violations and len(copies.copies_seen) == 2
    after = web.check()
    assert after["nonce"] == before["nonce"] and after["counter"] > before["counter"]
    assert [len(web.qemu(node)) for node in (owner, target)] == [0, 1]
    web.wait_no_states()
    spans = task["spans_us"]
    assert 0 < spans["blackout"] < 5e6 and spans["prepare"] and spans["copy"] and spans["load"] >= 0
    wait_agreed(lab)


def test_moves_back_to_back_while_pages_come_in(lab, web):
    """A19: a move that is asked while the one before still fills waits for the pages; the new state is complete."""
    before, (a, b, c) = web.check(), [web.show()["node"], *others(web.show()["node"])]
    with Freezer(lab) as freezer, News(lab, c) as news:
        stream = freezer.catch(b, STREAM)
        moving = threading.Thread(target=web.move, args=(b,), kwargs={"node": c})
        moving.start()
        pid = stream()
        # Let it load, and stop it again as soon as the guest runs: its pages stay outstanding.
        os.kill(pid, 18)
        news.wait_vm("the guest to run on the target", lambda vm: vm["node"] == b and vm["state"] == "online")
        freezer.freeze(pid)
        moving.join(30)
        assert web.show(c)["filling"] is True, "the pages came in too fast for this test"
        task = web.move(c, "--no-wait", node=c)["task"]
        news.wait_phase("wait")
        assert not news.has(lambda event: event["kind"] == "vm" and event["vm"]["task"] == task
                            and event["vm"]["phase"] == "copy")
        freezer.thaw()
        assert web.wait_task(task, node=c)["state"] == "done"
    after = web.check()
    assert after["nonce"] == before["nonce"] and web.show()["node"] == c
    web.wait_filled()
    web.wait_no_states()


def test_two_moves_at_once(lab, web):
    """One is accepted; the other is told, on whatever node, which task is under way."""
    owner = web.show()["node"]
    b, c = others(owner)
    with Freezer(lab) as freezer, News(lab, c) as news:
        stream = freezer.catch(owner, STREAM)
        task = web.move(b, "--no-wait", node=b)["task"]
        news.wait_phase("copy")
        stream()
        for node, target in ((owner, c), (b, c), (c, b)):
            status, text = refusal(web, "vm", "move", "web", "--to", target, node=node)
            assert status == 75 and f"task {task}" in text and "cancel" in text
        for verb in ("save", "stop", "shutdown"):
            assert refusal(web, "vm", verb, "web")[0] == 75
        freezer.thaw()
        assert web.wait_task(task, node=c)["state"] == "done"
    assert web.show()["node"] == b
    web.check()


def test_cancel_in_the_copy(lab, web):
    """The guest runs on where it was, never stopped for long; nothing is left of the attempt."""
    before, owner = web.check(), web.show()["node"]
    target, third = others(owner)
    pid = web.qemu(owner)
    with Freezer(lab) as freezer, News(lab, third) as news, lab.probe("udp") as udp:
        udp.wait_first()
        stream = freezer.catch(owner, STREAM)
        task = web.move(target, "--no-wait")["task"]
        news.wait_phase("copy")
        stream()
        web.cli("vm", "cancel", "web", node=target)
        freezer.thaw()
        ended = web.wait_task(task)
        seen = udp.stop()
    assert ended["state"] == "cancelled" and "cancelled by root" in ended["text"]
    vm = web.wait_state("online")
    assert (vm["node"], vm["phase"], vm["epoch"]) == (owner, "idle", web.show()["epoch"]) and web.qemu(owner) == pid
    assert seen["nonce_changes"] == seen["counter_back"] == 0 and seen["blackout_ms"] < 2000
    assert web.check()["nonce"] == before["nonce"]
    web.wait_no_states()
    wait_until(lambda: not web.qemu(target), 10, "the QEMU that stood by to end")
    assert refusal(web, "vm", "cancel", "web")[0] == 113


def test_save_and_start_elsewhere(lab, web):
    """A saved VM goes on, on another node, in the same state; its connections too."""
    before, owner = web.check(), web.show()["node"]
    target = others(owner)[0]
    with lab.probe("tcp", stall_s=60) as tcp:
        tcp.wait_first()
        task = web.cli("vm", "save", "web")
        assert task["state"] == "done" and task["kind"] == "save"
        vm = web.show()
        assert vm["state"] == "saved" and vm["node"] is None and vm["saved"]["status"] == "sealed"
        wait_until(lambda: not any(web.qemu(node) for node in NODES), 10, "no QEMU to be left")
        assert len(web.states()) == 1
        assert refusal(web, "vm", "edit", "web", "--memory", "1G")[0] == 113, "its definition is pinned"
        task = web.cli("vm", "start", "web", "--on", target)
        assert task["state"] == "done" and task["kind"] == "restore"
        web.wait_filled()
        assert tcp.stop()["broken"] is None
    after = web.check()
    assert after["nonce"] == before["nonce"] and after["counter"] > before["counter"]
    vm = web.show()
    assert vm["node"] == target and vm["saved"]["status"] == "consumed" and vm["epoch"] == 1 + vm["saved"]["epoch"]
    web.wait_no_states()


def test_discard_the_saved_state(lab, web):
    """--discard-state boots, as after a power cut, and the state is gone for good."""
    before = web.look()
    web.cli("vm", "save", "web")
    assert len(web.states()) == 1
    web.cli("vm", "start", "web", "--discard-state")
    assert web.wait()["nonce"] != before["nonce"]
    assert web.show()["saved"]["status"] == "discarded"
    web.wait_no_states()


def test_a_saved_vm_is_deleted_only_with_its_memory(lab):
    """--yes is the word for it; then the state goes too, and no directory stays."""
    guest = Guest(lab, "kept", ip="10.77.0.53", memory="128M", append="watari.fill_mib=4").create()
    guest.boot()
    guest.cli("vm", "save", "kept")
    assert refusal(guest, "vm", "delete", "kept")[0] == 107
    assert guest.state() == "saved" and guest.states()
    guest.cli("vm", "delete", "kept", "--yes")
    guest.wait_no_states()
    wait_until(lambda: not (lab.store / "shared/state" / guest.uuid).exists(), 10, "its directory to go")


def test_a_killed_daemon_finds_its_guest_again(lab, web):
    """kill -9 of watarid: the guest notices nothing at all, before, during or after the restart."""
    before, owner = web.look(), web.show()["node"]
    pid, third = web.qemu(owner), others(owner)[1]
    with lab.probe("udp") as udp, News(lab, third) as news:
        udp.wait_first()
        kill(pids(lab, owner, DAEMON)[0])
        blocked = news.wait_vm("web to be blocked", lambda vm: vm["state"] == "blocked")
        assert owner in blocked["reason"] and "no proof" in blocked["reason"]
        assert refusal(web, "vm", "start", "web", node=third)[0] == 113
        lab.restart_daemon(owner)
        wait_synced(lab)
        web.wait_state("online", node=third)
        seen = udp.stop()
    assert web.qemu(owner) == pid
    after = web.look()
    assert after["nonce"] == before["nonce"] and after["counter"] > before["counter"]
    assert seen["nonce_changes"] == seen["counter_back"] == 0 and seen["blackout_ms"] < 1000
    web.move(third)
    assert web.check()["nonce"] == before["nonce"], "and it can be moved as any other"


def test_all_daemons_restart_at_once(lab, web):
    """Upgrade of the daemons, the rude way: all killed at the same moment, all started again."""
    before, owner = web.look(), web.show()["node"]
    pid, epoch = web.qemu(owner), web.show()["epoch"]
    for node in NODES:
        kill(pids(lab, node, DAEMON)[0])
    for node in NODES:
        lab.restart_daemon(node)
    wait_synced(lab)
    vm = web.wait_state("online")
    assert vm["node"] == owner and web.show()["epoch"] == epoch and web.qemu(owner) == pid
    assert web.look()["nonce"] == before["nonce"]
    wait_agreed(lab)


def test_a_killed_qemu_is_started_again(lab, web):
    """QEMU's death is seen, said, and answered by a new start on the same node; the guest has rebooted."""
    before, owner = web.look(), web.show()["node"]
    epoch = web.show()["epoch"]
    with News(lab, others(owner)[0]) as news:
        kill(web.qemu(owner)[0])
        news.wait_vm("web to run again", lambda vm: vm["state"] == "online" and vm["task"] == 0)
        assert news.has(lambda event: event["kind"] == "log" and "QEMU ended on" in event["line"]["text"])
    assert web.wait()["nonce"] != before["nonce"]
    vm = web.show()
    assert vm["node"] == owner and vm["epoch"] == epoch + 1 and vm["deaths"] >= 1


def test_a_guest_powers_itself_off(lab, web):
    """That is no death: it stays off."""
    owner = web.show()["node"]
    web.shell(owner, "poweroff -f", until="Power down")
    vm = web.wait_state("off")
    assert "powered itself off" in vm["reason"] and vm["want"] == "off"
    assert not any(web.qemu(node) for node in NODES)


def test_a_guest_powers_itself_off_during_a_move(lab, web):
    """A16: off it is and off it stays, on neither node; the task says so; nothing is left."""
    owner = web.show()["node"]
    target, third = others(owner)
    with Freezer(lab) as freezer, News(lab, third) as news:
        stream = freezer.catch(owner, STREAM)
        task = web.move(target, "--no-wait")["task"]
        news.wait_phase("copy")
        stream()
        web.shell(owner, "poweroff -f", until="Power down")
        freezer.thaw()
        ended = web.wait_task(task)
    assert ended["state"] == "failed" and "powered itself off" in ended["text"], ended
    vm = web.wait_state("off")
    assert vm["want"] == "off"
    wait_until(lambda: not any(web.qemu(node) for node in NODES), 10, "no QEMU to be left")
    web.wait_no_states()


def test_a_guest_resets_itself_during_a_move(lab, web):
    """A16: a reset while memory is being saved is a reset, on whichever node it ends up; then it runs, once."""
    before, owner = web.look(), web.show()["node"]
    target = others(owner)[0]
    with Freezer(lab) as freezer, News(lab, target) as news, CopyWatch(lab, web.uuid) as copies:
        stream = freezer.catch(owner, STREAM)
        task = web.move(target, "--no-wait")["task"]
        news.wait_phase("copy")
        stream()
        web.shell(owner, "reboot -f", until="Restarting system")
        freezer.thaw()
        ended = web.wait_task(task)
        web.wait_state("online")
        wait_until(lambda: web.wait()["nonce"] != before["nonce"], 60, "the guest to have booted again")
    assert ended["state"] == "done", ended
    assert not copies.violations
    assert [len(web.qemu(node)) for node in (owner, target)] == [0, 1]
    web.check()


def test_the_console(lab, web):
    """The serial console takes a command and shows its answer; on another node the CLI says where it is."""
    owner = web.show()["node"]
    where = web.cli("vm", "console", "web", node=owner)
    assert where["socket"] == f"/run/watari/vm/{web.uuid}/serial.sock"
    assert "6 times 7 is 42" in web.shell(owner, "echo 6 times 7 is $((6 * 7))", until="42")
    status, text = refusal(web, "vm", "console", "web", node=others(owner)[0])
    assert status == 113 and owner in text and "ssh" in text
    # As in a script: what goes in at stdin is typed, what the guest says comes out. Ends with the console's other side.
    console = lab.popen("cli", owner, "--", "vm", "console", "web", stdin=-1, stdout=-1, stderr=-1)
    try:
        console.stdin.write("\necho 6 times 8 is $((6 * 8))\n")
        console.stdin.flush()
        got = []
        reader = threading.Thread(target=lambda: got.extend(iter(lambda: console.stdout.read(1), "")), daemon=True)
        reader.start()
        wait_until(lambda: "6 times 8 is 48" in "".join(got), 20, "the guest's answer through `vm console`")
    finally:
        console.terminate()
        console.communicate(timeout=10)


# Writes "S" to the first serial port, then a count every 18.2 Hz tick; assembled by hand, so that nothing is needed.
BOOT_SECTOR = bytes.fromhex(
    "fa31c08ed88ed0bc007cfb"      # cli; ds = ss = 0; sp = 7c00; sti
    "baf803"                      # mov dx, 3f8
    "b053ee"                      # mov al, 'S'; out dx, al
    "b330"                        # mov bl, '0'
    "f4"                          # again: hlt (until the timer ticks)
    "88d8ee"                      # mov al, bl; out dx, al
    "fec380fb3a72f5"              # inc bl; cmp bl, ':'; jb again
    "b330ebf1")                   # mov bl, '0'; jmp again


def test_bios_boot_from_a_disk_and_a_move(lab):
    """No kernel given: the BIOS boots the first disk, and such a guest moves like any other."""
    image = lab.store / "shared" / "bios.img"
    image.write_bytes(BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    guest = Guest(lab, "bios")
    guest.cli("vm", "create", "bios", "--memory", "64M", "--disk", "/srv/watari/bios.img", "--start")
    guest.uuid = guest.show()["uuid"]
    owner = guest.show()["node"]
    target = others(owner)[0]

    def reads(node):
        with guest.serial(node) as sock:
            got = b""
            while b"789012345" not in got:
                got += sock.recv(4096)
        return got
    reads(owner)
    assert b"S0123456789" in (lab.root(owner) / f"var/log/watari/vm/{guest.uuid}.serial.log").read_bytes()
    assert guest.move(target)["state"] == "done"
    reads(target)
    assert b"S" not in (lab.root(target) / f"var/log/watari/vm/{guest.uuid}.serial.log").read_bytes(), "it has rebooted"
    guest.wait_filled()
    guest.cli("vm", "stop", "bios")
    guest.cli("vm", "delete", "bios", "--yes")


def test_a_client_that_waits_survives_the_daemons_restart(lab, web):
    """`vm move --wait` through a daemon that is killed and started again still ends with the move's outcome."""
    owner = web.show()["node"]
    target, third = others(owner)
    with Freezer(lab) as freezer, News(lab, target) as news:
        stream = freezer.catch(owner, STREAM)
        result = []
        waiting = threading.Thread(target=lambda: result.append(web.move(target, node=third)))
        waiting.start()
        news.wait_phase("copy")
        stream()
        kill(pids(lab, third, DAEMON)[0])
        lab.restart_daemon(third)
        wait_synced(lab)
        freezer.thaw()
        waiting.join(60)
    assert result and result[0]["state"] == "done"
    web.check()


def test_the_log_says_who_and_why(lab, web):
    """Every change of the VM so far has a line with its reason, the same on every node (I8)."""
    web.wait_filled()
    wait_agreed(lab)
    lines = {node: [(line["index"], line["kind"], line["text"]) for line in
                    web.cli("log", "--lines", "60", "--vm", "web", node=node)["lines"]] for node in NODES}
    newest = [set(lines[node]) for node in NODES]
    # A daemon that was restarted has the history from there on.
    common = newest[0] & newest[1] & newest[2]
    assert len(common) >= 3
    assert any("asked by root" in text for _, _, text in lines["n1"])
    assert all(text for node in NODES for _, _, text in lines[node])
    with Api(lab, "n1") as api:
        for task in api.call("task.list", vm="web")["tasks"]:
            assert task["text"] or task["state"] == "running", task
