# SPDX-License-Identifier: Apache-2.0
"""The CLI as a user and as a script meet it, against the real API over three engines in one process (api-shell)."""
import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import time

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("WATARI_BUILD", REPO / "build")).resolve()
WATARI = BUILD / "src" / "cmd" / "watari"
SHELL = BUILD / "test" / "support" / "api-shell"
LIMIT = 30


class Shell:
    def __init__(self, directory):
        self.socket = directory / "api.sock"
        self.disk = directory / "spare.raw"
        self.disk.write_bytes(b"\0" * 65536)
        self.errors = open(directory / "errors", "wb")
        self.process = subprocess.Popen([SHELL, self.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors, text=True)
        assert self.hear() == "ready"
        self.env = {"PATH": os.environ["PATH"], "WATARI_SOCKET": str(self.socket), "TZ": "UTC", "LANG": "C.UTF-8"}

    def hear(self):
        readable, _, _ = select.select([self.process.stdout], [], [], LIMIT)
        assert readable, "api-shell does not answer"
        return self.process.stdout.readline().strip()

    def order(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        assert self.hear() == "ok"

    def run(self, *args, stdin="", env=None):
        return subprocess.run([WATARI, *args], input=stdin, env={**self.env, **(env or {})}, timeout=LIMIT,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ok(self, *args, **more):
        done = self.run(*args, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *args):
        return json.loads(self.ok(*args, "-o", "json"))

    def create(self, name="web", *more):
        disk = self.disk.with_name(f"{name}.raw")
        disk.write_bytes(b"\0" * 65536)
        return self.ok("vm", "create", name, "--memory", "512M", "--disk", disk, "--network", "br0", *more)

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(LIMIT) == 0
        self.errors.close()


@pytest.fixture
def shell(tmp_path):
    world = Shell(tmp_path)
    yield world
    world.end()


def test_status_shows_the_cluster_on_one_page(shell):
    shell.create("web", "--start")
    text = shell.ok("status")
    assert "quorum   yes, 3 of 3 nodes online" in text
    assert "n1 *" in text and "web online" in text
    assert "\033" not in text  # no colours into a pipe
    status = shell.json("status")
    assert status["quorate"] and status["synced"] and status["nodes_online"] == 3
    assert [vm["name"] for vm in status["vm_list"]] == ["web"]


def test_a_vm_lives_its_life(shell):
    assert "VM web is defined" in shell.create()
    assert "done" in shell.ok("vm", "start", "web", "--on", "n1")
    moved = shell.run("vm", "move", "web", "--type", "quick", "--to", "n2", "--wait")
    assert moved.returncode == 0, moved.stderr
    for word in ("n1 -> n2", "prepare", "copy", "blackout", "repair", "7 pages", "256 MiB", "1.00 x"):
        assert word in moved.stdout
    assert "web: copy 50 %" in moved.stderr and "web: load" in moved.stderr
    assert "done" in shell.ok("vm", "save", "web")
    assert shell.json("vm", "show", "web")["state"] == "saved"
    assert "restore" in shell.ok("vm", "start", "web", "--on", "n3")
    assert shell.json("vm", "show", "web")["node"] == "n3"
    assert "done" in shell.ok("vm", "shutdown", "web")
    assert "is deleted" in shell.ok("vm", "delete", "web", "--yes")
    assert shell.json("vm", "list") == {"vms": []}
    kinds = [task["kind"] for task in shell.json("task", "list")["tasks"]]
    assert kinds == ["start", "move", "save", "restore", "shutdown"]
    log = shell.ok("log", "--vm", "web")
    assert "web: online -> moving (prepare): asked by root, to n2" in log


def test_a_policy_is_set_by_options_and_shown(shell):
    shell.create("web", "--priority", "high", "--preferred", "n2,n1", "--failback", "22-4", "--restart-max", "0",
                 "--anti-affinity", "db:hard", "--start-order", "2", "--start-delay", "30s", "--offline-action", "shutdown")
    policy = shell.json("vm", "show", "web")["definition"]["policy"]
    assert policy["preferred"] == ["n2", "n1"] and policy["failback"] == "window" and policy["anti_affinity_hard"]
    assert policy["restart_period_s"] == 900 and "restart_max" not in policy  # zero, not the default
    text = shell.ok("vm", "show", "web")
    for line in ("priority  high; when its node is shut down: shutdown", "owners    preferred: n2, n1; possible: all",
                 "apart     from VMs of anti-affinity 'db' (hard)", "restarts  0 within 15 min on one node",
                 "failback  between 22:00 and 4:00 UTC", "start     order 2; those after it wait 30 s longer"):
        assert line in text, line
    shell.ok("vm", "start", "web")
    assert "is changed" in shell.ok("vm", "edit", "web", "--preferred", "none", "--failback", "never", "--possible", "n1,n3",
                                    "--anti-affinity", "none")  # while it runs
    assert "owners    preferred: none; possible: n1, n3" in shell.ok("vm", "show", "web")
    shell.ok("vm", "edit", "web", "--start-order", "0", "--retry-after", "0")
    text = shell.ok("vm", "show", "web")
    assert "a delay of 30 s counts only with a start order" in text and "failed, until somebody starts it" in text
    for options, fact in ((("--possible", "n9"), "possible: no node 'n9'"), (("--failback", "now"), "needs a preferred owner"),
                          (("--preferred", "n2"), "a preferred owner must be a possible one"),
                          (("--restart-max", "101"), "at most 100"), (("--restart-period", "0"), "at least 10 s; --restart-max 0"), (("--preferred", "n1", "--failback", "7-7"), "two different hours")):
        done = shell.run("vm", "edit", "web", *options)
        assert done.returncode and fact in done.stderr, done.stderr


def test_a_forecast_says_where_vms_would_go(shell):
    shell.create("web", "--start")
    home = shell.json("vm", "show", "web")["node"]
    found = shell.json("forecast")
    assert [case["failed"] for case in found["cases"]] == [["n1"], ["n2"], ["n3"]] and found["quorum_needs"] == 2
    case = next(case for case in found["cases"] if case["failed"] == [home])
    # No fence device, no watchdog: after a person's word.
    assert case["unproven"] == [home] and case["down"] == 1 and "no fence device" in case["proofs"][home]
    assert case["vms"][0]["end"] == "blocked" and case["vms"][0]["to"] not in (home, None)
    assert case["vms"][0]["text"] == f"until {home} is proven off, by a person; then on {case['vms'][0]['to']}"
    assert found["survives"]["nodes"] == 0 and found["survives"]["limit"] == "proof" and found["survives"]["failed"] == [home]
    text = shell.ok("forecast", "--fail", home)
    assert f"If {home} died: 1 VM, 0 run elsewhere, 1 would be down" in text and "not proven" in text
    for node in {"n1", "n2", "n3"} - {home}:
        shell.ok("fence", "add", f"cord-{node}", "--node", node, "--agent", "fence_lab", "--no-check")
    shell.ok("fence", "add", "cord", "--node", home, "--agent", "fence_lab", "--no-check")
    text = shell.ok("forecast", "--fail", home)
    assert "survives  1 of 3 nodes may die at once" in text and "limit     quorum" in text and "1 runs elsewhere" in text
    both = shell.json("forecast", "--fail", "n1,n2")["cases"]
    assert len(both) == 1 and not both[0]["quorate"]
    for nodes, fact in (("n9", "no node 'n9'"), ("n1,n2,n3", "no node is left"), ("n1,", "no node ''")):
        done = shell.run("forecast", "--fail", nodes)
        assert done.returncode and fact in done.stderr, done.stderr
    assert shell.json("vm", "show", "web")["node"] == home  # nothing was changed


def test_the_log_is_narrowed(shell):
    shell.create("web")
    shell.create("db")
    shell.ok("vm", "start", "web", "--on", "n2")
    shell.ok("vm", "start", "db", "--on", "n1")
    of_n2 = [line["text"] for line in shell.json("log", "--node", "n2")["lines"]]
    assert "web: starting -> online: runs on n2" in of_n2 and any(text.startswith("n2: online") for text in of_n2)
    assert not any(text.startswith(("db:", "n1:")) for text in of_n2)
    assert shell.json("log", "--node", "n2", "--vm", "db")["lines"] == []
    assert shell.json("log", "--since", "5 min ago")["lines"] and not shell.json("log", "--since", "2999-01-01")["lines"]
    assert shell.run("log", "--node", "n9").returncode and "a time is a span (10m, 2h, '5 min ago'), one of the day (10:02)" in shell.run("log", "-S", "soon").stderr


def test_placement_is_explained_for_each_node(shell):
    shell.create("web", "--possible", "n2")
    placement = {entry["node"]: entry for entry in shell.json("vm", "show", "web")["placement"]}
    assert [placement[node]["fits"] for node in ("n1", "n2", "n3")] == [False, True, False]
    assert "n1 is no possible owner of web" in placement["n1"]["text"] and "MiB free" in placement["n2"]["text"]
    text = shell.ok("vm", "show", "web")
    assert "could run no: n1 is no possible owner of web" in text and "yes: n2 has" in text
    done = shell.run("vm", "start", "web", "--on", "n3", "--dry-run")
    assert done.returncode and "n3 is no possible owner of web" in done.stderr
    shell.ok("vm", "edit", "web", "--memory", "1T")
    done = shell.run("vm", "start", "web", "--dry-run")
    assert done.returncode and "n1 is no possible owner of web; n2 has" in done.stderr and "web needs 1048576" in done.stderr
    shell.ok("vm", "edit", "web", "--memory", "512M")
    shell.ok("vm", "start", "web")
    assert "placement" not in shell.json("vm", "show", "web")  # it runs
    done = shell.run("vm", "move", "web", "--to", "n1", "--dry-run")
    assert done.returncode and "n1 is no possible owner of web" in done.stderr


def test_figures_are_in_json(shell):
    shell.create("web", "--start")
    task = shell.json("vm", "move", "web", "--to", "n2")
    assert task["state"] == "done" and task["source"] == "n1" and task["target"] == "n2"
    assert task["figures"]["repaired_pages"] == 7
    assert task["spans_us"]["blackout"] >= task["spans_us"]["repair"] > 0
    assert shell.json("task", "show", str(task["id"]))["id"] == task["id"]


# What is typed, the exit status, and what the error says.
BAD = [
    (["vm", "show", "nobody"], 105, "no VM 'nobody'"),
    (["vm", "show", "../etc/passwd"], 65, "is no VM's name"),
    (["vm", "show", "--", "-rf"], 65, "is no VM's name"),
    (["vm", "show", "a;reboot"], 65, "is no VM's name"),
    (["vm", "show", "a\nb"], 65, "control characters"),
    (["vm", "show", "x" * 65536], 65, "65536 bytes, at most 63"),
    (["vm", "show", b"\xff\xfe"], 65, "invalid UTF-8"),
    (["vm", "show", "w\u0435b"], 65, "is no VM's name"),
    (["vm", "create", "v", "--memory", "0", "--kernel", "/k"], 65, "memory 0 MiB: allowed are 16"),
    (["vm", "create", "v", "--memory", "-512M", "--kernel", "/k"], 65, "whole number with M, G or T"),
    (["vm", "create", "v", "--memory", "1e9", "--kernel", "/k"], 65, "whole number with M, G or T"),
    (["vm", "create", "v", "--memory", "9999999T", "--kernel", "/k"], 65, "memory_mib: a whole number from 0"),
    (["vm", "create", "v", "--memory", "5T", "--kernel", "/k"], 65, "allowed are 16 to 4194304 MiB"),
    (["vm", "create", "v", "--memory", "64M", "--vcpus", "1000000000", "--kernel", "/k"], 65, "allowed are 1 to 256"),
    (["vm", "create", "v", "--memory", "64M", "--vcpus", "-1", "--kernel", "/k"], 65, "--vcpus: '-1': a whole number"),
    (["vm", "create", "v", "--memory", "64M", "--vcpus", "18446744073709551617", "--kernel", "/k"], 65, "whole number"),
    (["vm", "create", "v", "--memory", "64M"], 65, "nothing to boot from"),
    (["vm", "create", "v"], 64, "needs memory"),
    (["vm", "create"], 64, "needs a name"),
    (["vm", "create", "../v", "--memory", "64M", "--kernel", "/k"], 65, "name '../v'"),
    (["vm", "create", "v", "--memory", "64M", "--disk", "/no/disk"], 105, "disk disk0: /no/disk"),
    (["vm", "create", "v", "--memory", "64M", "--disk", "/tmp"], 65, "/tmp is a directory"),
    (["vm", "create", "v", "--memory", "64M", "--disk", "relative.raw"], 65, "absolute path"),
    (["vm", "create", "v", "--memory", "64M", "--disk", "/a,format=vmdk"], 65, "format: one of raw, qcow2"),
    (["vm", "create", "v", "--memory", "64M", "--disk", "/a,exec=1"], 64, "none of format="),
    (["vm", "create", "v", "--memory", "64M", "--network", "br0,mac=zz", "--kernel", "/k"], 65, "not a unicast MAC"),
    (["vm", "create", "v", "--memory", "64M", "--file", "/no/file"], 105, "/no/file"),
    (["vm", "move", "web"], 64, "needs --to NODE"),
    (["vm", "move", "web", "--to", "n9"], 105, "no node 'n9'"),
    (["vm", "move", "web", "--to", "n1"], 65, "web runs on n1 already"),
    (["vm", "move", "web", "--to", "n2", "--type", "live"], 64, "one of quick"),
    (["vm", "delete", "web"], 107, "needs a confirmation"),
    (["vm", "delete", "web", "--yes"], 113, "web"),
    (["task", "show", "0x10"], 65, "whole number"),
    (["task", "show", "424242"], 105, "no task 424242"),
    (["log", "--since", "yesterday"], 65, "a time is a span"),
    (["log", "--lines", "5000"], 65, "count: a whole number from 0 to 1000"),
    (["frobnicate"], 64, "no verb and no noun"),
    (["vm", "lst"], 64, "did you mean 'watari vm list'?"),
    ([], 64, ""),
]


@pytest.mark.parametrize("words,status,says", BAD,
                         ids=lambda value: str(value)[:40] if isinstance(value, list) else "")
def test_bad_input_is_refused_with_the_rule(words, status, says, shell_with_web):
    before = shell_with_web.json("status")["index"]
    done = subprocess.run([WATARI, *words], env=shell_with_web.env, timeout=LIMIT, capture_output=True)
    assert done.returncode == status, done.stderr
    assert says in done.stderr.decode()
    assert shell_with_web.json("status")["index"] - before <= 1  # a refusal may be logged, nothing else


@pytest.fixture(scope="module")
def shell_with_web(tmp_path_factory):
    world = Shell(tmp_path_factory.mktemp("web"))
    world.create("web", "--start")
    yield world
    world.end()


def test_a_disk_belongs_to_one_vm(shell):
    shell.create("web")
    done = shell.run("vm", "create", "other", "--memory", "64M", "--disk", shell.disk.with_name("web.raw"))
    assert done.returncode == 108 and "web" in done.stderr


def test_a_name_is_given_once(shell):
    shell.create("web")
    done = shell.run("vm", "create", "web", "--memory", "64M", "--disk", shell.disk)
    assert done.returncode == 108 and "exists already" in done.stderr


def test_errors_are_json_for_scripts(shell):
    done = shell.run("vm", "show", "nobody", "-o", "json")
    error = json.loads(done.stderr)["error"]
    assert done.returncode == 105 == error["exit"] and error["code"] == "not-found"
    assert error["exit_name"] == "CRM_EX_NOSUCH" and error["hint"] and done.stdout == ""
    # Also where the words before or behind it are bad.
    for words in (["vm", "show", "a\nb", "-o", "json"], ["vm", "show", "--output=json", "--frob", "web"], ["vm", "sow", "-ojson"]):
        done = shell.run(*words)
        assert json.loads(done.stderr)["error"]["exit"] == done.returncode in (64, 65)


def test_a_definition_goes_out_and_in_again(shell, tmp_path):
    shell.create("web")
    text = shell.ok("vm", "show", "web", "--definition")
    definition = json.loads(text)
    shell.ok("vm", "delete", "web", "--yes")
    file = tmp_path / "web.json"
    file.write_text(text)
    shell.ok("vm", "create", "--file", file)
    assert json.loads(shell.ok("vm", "show", "web", "--definition")) == definition
    # A copy: without what must be unique, from stdin.
    del definition["uuid"], definition["nics"][0]["mac"]
    definition["disks"][0]["path"] = str(shell.disk)
    shell.disk.write_bytes(b"\0" * 512)
    shell.ok("vm", "create", "copy", "--file", "-", stdin=json.dumps(definition))
    copy = json.loads(shell.ok("vm", "show", "copy", "--definition"))
    assert copy["uuid"] != json.loads(text)["uuid"] and copy["nics"][0]["mac"] != json.loads(text)["nics"][0]["mac"]


@pytest.mark.parametrize("text,says", [
    ("", "not JSON"), ("[1]", "a definition is an object"), ('{"name":"v","name":"w"}', "duplicate"),
    ('{"name":"v","memory_mib":NaN}', "not JSON"), ("[" * 1000000, "nested deeper"),
    ('{"name":"v","memory_mib":64,"kernl":"/k"}', "unknown key 'kernl'"),
    ('{"name":"v","memory_mib":18446744073709551617}', "too big integer"),
    (" " * (2 << 20), "at most 1048576"),
], ids=["empty", "list", "duplicate", "nan", "deep", "typo", "huge-number", "huge-file"])
def test_bad_definition_files_are_refused(shell, text, says):
    done = shell.run("vm", "create", "--file", "-", stdin=text)
    assert done.returncode == 65 and says in done.stderr, done.stderr


def test_edit_by_options(shell):
    shell.create("web")
    shell.ok("vm", "edit", "web", "--memory", "1G", "--vcpus", "2", "--disk", f"{shell.disk},readonly", "--remove", "net0")
    definition = json.loads(shell.ok("vm", "show", "web", "--definition"))
    assert definition["memory_mib"] == 1024 and definition["vcpus"] == 2 and "nics" not in definition
    assert [disk["id"] for disk in definition["disks"]] == ["disk0", "disk1"] and definition["disks"][1]["read_only"]
    done = shell.run("vm", "edit", "web", "--remove", "net0")
    assert done.returncode == 105
    shell.ok("vm", "start", "web")
    done = shell.run("vm", "edit", "web", "--memory", "2G")
    assert done.returncode in (75, 113) and "web" in done.stderr


def test_edit_in_an_editor_without_a_shell(shell, tmp_path):
    shell.create("web")
    editor = tmp_path / "editor"
    editor.write_text("#!/usr/bin/python3\nimport sys\np = sys.argv[-1]\nt = open(p).read()\n"
                      "assert '$(' in ''.join(sys.argv)\n"
                      "open(p, 'w').write(t.replace('\"memory_mib\": 512', sys.argv[1]))\n")
    editor.chmod(0o755)
    # The words of $EDITOR arrive as they are: nothing expands them.
    shell.ok("vm", "edit", "web", env={"EDITOR": f'{editor} "memory_mib":768 $(id)'})
    assert shell.json("vm", "show", "web")["memory_mib"] == 768
    # What cannot be used is not lost.
    done = shell.run("vm", "edit", "web", env={"EDITOR": f"{editor} nonsense $(id)"})
    assert done.returncode == 0 and "unchanged" in done.stdout
    editor.write_text("#!/bin/sh\necho nonsense > $1\n")
    done = shell.run("vm", "edit", "web", env={"EDITOR": str(editor)})
    assert done.returncode == 65 and "your text is kept: " in done.stderr
    kept = pathlib.Path(done.stderr.split("--file ")[1].strip())
    assert kept.read_text() == "nonsense\n"
    kept.unlink()
    kept.parent.rmdir()
    done = shell.run("vm", "edit", "web", env={"EDITOR": "/bin/false"})
    assert done.returncode == 1 and "nothing was changed" in done.stderr


def test_dry_runs_change_nothing(shell):
    disk = shell.disk
    assert "dry run" in shell.ok("vm", "create", "web", "--memory", "64M", "--disk", disk, "--dry-run")
    assert shell.json("vm", "list")["vms"] == []
    shell.create("web", "--start")
    index = shell.json("status")["index"]
    assert "dry run" in shell.ok("vm", "stop", "web", "--dry-run")
    assert "dry run" in shell.ok("vm", "save", "web", "-n")
    done = shell.run("vm", "start", "web", "--dry-run")
    assert done.returncode in (75, 113)
    assert shell.json("status")["index"] == index
    # A move asks the target itself.
    moved = shell.run("vm", "move", "web", "--to", "n2", "--dry-run")
    assert moved.returncode == 0 and "(dry run)" in moved.stdout
    assert shell.json("vm", "show", "web")["node"] == "n1"


def test_a_target_that_is_unfit_fails_the_move_and_the_guest_stays(shell):
    shell.create("web", "--start")
    shell.order("fail-standby 2 bridge 'br7' is missing on n2")
    done = shell.run("vm", "move", "web", "--to", "n2")
    assert done.returncode == 113 and "bridge 'br7' is missing on n2" in done.stderr
    vm = shell.json("vm", "show", "web")
    assert vm["node"] == "n1" and vm["state"] == "online"


def test_two_moves_at_once(shell):
    shell.create("web", "--start")
    shell.order("copy-ms 3000")
    task = shell.json("vm", "move", "web", "--to", "n2", "--no-wait")["task"]
    done = shell.run("vm", "move", "web", "--to", "n3")
    assert done.returncode == 75 and f"task {task}" in done.stderr
    shell.ok("vm", "cancel", "web")
    done = shell.run("task", "wait", str(task))
    assert done.returncode == 1 and "cancelled" in done.stderr
    assert shell.json("vm", "show", "web")["node"] == "n1"


def test_waiting_has_an_end(shell):
    shell.create("web", "--start")
    shell.order("copy-ms 20000")
    began = time.monotonic()
    done = shell.run("vm", "move", "web", "--to", "n2", "--timeout", "1")
    assert done.returncode == 124 and 0.9 < time.monotonic() - began < 5
    assert "still under way" in done.stderr
    assert shell.json("vm", "show", "web")["state"] == "moving"  # it goes on


def test_interrupting_the_wait_says_how_to_go_on(shell):
    shell.create("web", "--start")
    shell.order("copy-ms 20000")
    process = subprocess.Popen([WATARI, "vm", "move", "web", "--to", "n2"], env=shell.env, stderr=subprocess.PIPE,
                               text=True)
    while "copy" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130 and "goes on; 'watari task wait" in errors


def test_a_wait_survives_a_restart_of_the_daemon(shell):
    shell.create("web", "--start")
    shell.order("copy-ms 1500")
    process = subprocess.Popen([WATARI, "vm", "move", "web", "--to", "n2"], env=shell.env, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    while "copy" not in process.stderr.readline():
        pass
    shell.order("restart-api")
    out, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert "connecting again" in errors and "done" in out


def test_no_daemon_is_said(shell):
    done = shell.run("status", "--socket", "/nowhere/api.sock")
    assert done.returncode == 69 and "no watarid answers" in done.stderr and "systemctl" in done.stderr


def test_no_quorum_is_said(shell):
    shell.create("web")
    shell.order("cut 1")
    done = shell.run("vm", "start", "web")
    assert done.returncode == 106 and "cannot change the cluster" in done.stderr and "majority" in done.stderr
    # The log still says that the others are online: nobody can write down that they left.
    text = shell.ok("status")
    assert "quorum   NO, 1 of 3 nodes online" in text and "not here: n2, n3." in text
    assert [line.split()[1:4] for line in text.splitlines() if line.startswith(("n2", "n3"))] == 2 * [["online", "(not", "seen)"]]
    assert "not seen now" in shell.ok("node", "show", "n2") and "not seen" not in shell.ok("node", "show", "n1")
    assert not shell.json("node", "show", "n2")["seen"]
    shell.order("heal 1")


def test_a_node_shows_in_which_order_it_is_fenced(shell):
    assert "fenced by no device" in shell.ok("node", "show", "n2")
    for name, level in (("pdu-a", 2), ("cord", 1), ("pdu-b", 2)):
        shell.ok("fence", "add", name, "--node", "n2", "--agent", "fence_lab", "--level", str(level))
    assert "fenced by cord, then pdu-a and pdu-b\n" in shell.ok("node", "show", "n2")


def test_what_waits_for_room_is_told_from_what_is_off(shell):
    shell.create("web", "--possible", "n2", "--start")
    shell.ok("fence", "add", "cord-n2", "--node", "n2", "--agent", "fence_lab")
    shell.order("cut 2")
    while shell.json("vm", "show", "web")["state"] != "off":
        time.sleep(0.05)
    assert "web off (waits)" in " ".join(shell.ok("vm", "list").split())
    done = shell.run("vm", "start", "web")
    assert done.returncode == 113 and "n2 is dead" in done.stderr and "starts by itself when there is some" in done.stderr
    shell.ok("vm", "stop", "web")
    assert "web off -" in " ".join(shell.ok("vm", "list").split())
    shell.order("heal 2")


def test_a_dry_run_says_what_the_request_would_be_told(shell):
    """Also where this node may change nothing: it is not the state of before that decides then."""
    shell.create("web")
    done = shell.run("cluster", "force-quorum", "--dry-run")
    assert done.returncode == 113 and "this node has quorum: there is nothing to force" in done.stderr
    shell.order("cut 1")
    while shell.json("status")["quorate"]:
        pass
    for words in (["vm", "start", "web"], ["vm", "create", "other", "--memory", "64M", "--disk", shell.disk],
                  ["node", "confirm-off", "n2", "--yes", "n2"]):
        done = shell.run(*words, "--dry-run")
        assert done.returncode == 106 and "cannot change the cluster" in done.stderr, done.stderr
        assert "force-quorum --help" in done.stderr  # what a person can do about it
    text = shell.ok("cluster", "force-quorum", "--dry-run")
    assert "n1 would go on without n2, n3" in text and "would be lost" in text and "proven off" in text
    done = shell.run("cluster", "force-quorum")
    assert done.returncode == 107 and "n1 would go on without n2, n3" in done.stderr and "--yes n1" in done.stderr
    assert not shell.json("status")["quorate"]
    shell.order("heal 1")


def test_a_refusal_about_a_node_says_where_its_facts_are(shell):
    for verb in ("confirm-off", "fence"):
        done = shell.run("node", verb, "n2", *(("--yes", "n2") if verb == "confirm-off" else ()))
        assert done.returncode == 113 and "n2 is in the view: it is alive" in done.stderr
        assert "watari node show n2" in done.stderr and "dry-run" not in done.stderr
    assert "it is alive" in shell.run("node", "confirm-off", "n2", "--dry-run").stderr
    assert "needs its name typed" in shell.run("node", "confirm-off", "n2").stderr


def test_a_dry_run_of_a_fence_test_switches_nothing(shell):
    shell.ok("fence", "add", "cord-n2", "--node", "n2", "--agent", "fence_lab")
    assert "n2 would be switched off" in shell.ok("fence", "test", "cord-n2", "--off", "--dry-run")
    shell.create("web")
    shell.ok("vm", "start", "web", "--on", "n2")
    done = shell.run("fence", "test", "cord-n2", "--off", "--dry-run")
    assert done.returncode == 113 and "n2 has VM 'web': move its VMs away first" in done.stderr and "nothing was switched" in done.stderr
    assert shell.json("node", "show", "n2")["state"] == "online"


def test_a_fence_agent_is_explained(shell):
    text = shell.ok("fence", "agent", "fence_lab")
    assert "plug *" in text and "Which outlet" in text and "password=FILE (--secret)" in text
    assert [option["name"] for option in shell.json("fence", "agent", "fence_lab")["options"]] == ["plug", "password"]
    for agent, status, fact in (("fence_unfit", 105, "agent 'fence_unfit' is not there"), ("../x", 65, "the file name of a fence agent")):
        done = shell.run("fence", "agent", agent)
        assert done.returncode == status and fact in done.stderr, done.stderr
    shell.ok("fence", "add", "cord-n2", "--node", "n2", "--agent", "fence_lab", "--option", "plug=7")
    text = shell.ok("fence", "check", "cord-n2")
    assert "its options fit the agent: a fence agent" in text and "plug   7     Which outlet" in text and "password" not in text
    assert shell.json("fence", "check", "cord-n2")["options"][0]["value"] == "7"


def test_watch_streams_until_interrupted(shell):
    shell.create("web")
    process = subprocess.Popen([WATARI, "watch", "-o", "json"], env=shell.env, stdout=subprocess.PIPE)
    os.set_blocking(process.stdout.fileno(), False)
    deadline = time.monotonic() + LIMIT
    kinds, memory, text = set(), 300, b""
    while not {"vm", "log"} <= kinds:  # it hears what comes after its subscription: make news until it does
        assert time.monotonic() < deadline
        memory += 1
        shell.ok("vm", "edit", "web", "--memory", f"{memory}M")
        text += process.stdout.read() or b""
        kinds = {json.loads(line)["kind"] for line in text.splitlines() if line.endswith(b"}")}
    shell.ok("vm", "start", "web")
    while "task" not in kinds:
        assert time.monotonic() < deadline
        select.select([process.stdout], [], [], 1)
        text += process.stdout.read() or b""
        kinds |= {json.loads(line)["kind"] for line in text.splitlines() if line.endswith(b"}")}
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == -signal.SIGINT


def test_a_terminal_gets_a_bar_and_colours(shell):
    shell.create("web", "--start")
    main, side = pty.openpty()
    process = subprocess.Popen([WATARI, "vm", "move", "web", "--to", "n2"], env={**shell.env, "TERM": "xterm"},
                               stdin=side, stdout=side, stderr=side)
    os.close(side)
    text = b""
    while True:
        try:
            block = os.read(main, 4096)
        except OSError:
            break
        if not block:
            break
        text += block
    os.close(main)
    assert process.wait(LIMIT) == 0
    assert b"[====" in text and b"\033[32mdone" in text


def test_delete_asks_on_a_terminal(shell):
    shell.create("web")
    for answer, status, left in (b"n\n", 1, 1), (b"y\n", 0, 0):
        main, side = pty.openpty()
        process = subprocess.Popen([WATARI, "vm", "delete", "web"], env=shell.env, stdin=side, stdout=side, stderr=side)
        os.close(side)
        text = b""
        while b"[y/N]" not in text:
            text += os.read(main, 4096)
        os.write(main, answer)
        assert process.wait(LIMIT) == status
        os.close(main)
        assert len(shell.json("vm", "list")["vms"]) == left


def test_the_console_says_where_it_is(shell):
    shell.create("web")
    done = shell.run("vm", "console", "web")
    assert done.returncode == 113 and "it has no console" in done.stderr
    shell.ok("vm", "start", "web", "--on", "n2")
    done = shell.run("vm", "console", "web")
    assert done.returncode == 113 and "runs on n2, this is n1" in done.stderr and "ssh n2" in done.stderr


def complete(shell, *words):
    return shell.ok("__complete", *words).split()


def test_completion_knows_verbs_options_and_live_names(shell):
    shell.create("web")
    assert complete(shell, "v") == ["vm"]
    assert "move" in complete(shell, "vm", "")
    assert complete(shell, "vm", "mo") == ["move"]
    assert complete(shell, "vm", "move", "") == ["web"]
    assert complete(shell, "vm", "move", "web", "--to", "") == ["n1", "n2", "n3"]
    assert "--dry-run" in complete(shell, "vm", "move", "web", "--")
    assert complete(shell, "vm", "list", "--state", "bl") == ["blocked"]
    assert complete(shell, "vm", "create", "x", "--disk", "") == [":file"]
    assert complete(shell, "vm", "nonsense", "") == []
    assert complete(shell, "forecast", "--fail", "n1,") == ["n1,n1", "n1,n2", "n1,n3"]
    assert complete(shell, "vm", "edit", "web", "--preferred", "n2,n3") == ["n2,n3"]
    assert complete(shell, "why", "node/n3") == ["node/n3"]
    assert complete(shell, "vm", "move", "web", "--to", "=") == complete(shell, "vm", "move", "web", "--to", "=", "") == ["n1", "n2", "n3"]
    assert complete(shell, "vm", "edit", "web", "--priority", "=", "h") == ["high"]
    assert complete(shell, "vm", "move", "--to", "=", "n2", "") == ["web"]
    there = sorted(path.name for path in pathlib.Path("/usr/sbin").glob("fence_*"))
    assert sorted(complete(shell, "fence", "add", "x", "--agent", "")) == there
    assert sorted(complete(shell, "fence", "agent", "fence_")) == there


def test_every_verb_has_help_with_examples(shell):
    text = shell.ok("--help")
    verbs = [line.split()[1:3] for line in text.splitlines() if line.startswith("  watari ")]
    assert ["vm", "move"] in verbs
    calls = [call["call"] for call in shell.json("api", "list")["calls"]]
    assert "vm.move" in calls and "subscribe" in calls
    for noun in "node", "vm", "task", "api":
        assert "watari " + noun in shell.ok(noun, "--help")
    for words in verbs:
        words = [word for word in words if word.islower() and word.isalpha()]
        known = shell.run(*words, "--help")
        if known.returncode == 64:
            known = shell.run(words[0], "--help")
        assert known.returncode == 0 and ("Examples:" in known.stdout or "--help" in known.stdout)


def test_bash_completes_in_a_shell(shell, tmp_path):
    """What bash itself makes of the completion file, words as readline would hand them over."""
    shell.create("web")
    (tmp_path / "some file.json").write_text("{}")
    script = (f'source "{REPO}/dist/watari.bash-completion"\n'
              'compopt() { :; }\n'
              'try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _watari; printf "<%s>" "${COMPREPLY[@]}"; echo; }\n'
              'try "$W" vm sh; try "$W" vm start ""; try "$W" vm create --file "some"; try "$W" vm start web --on ""\n')
    done = subprocess.run(["bash", "-c", script], env={**shell.env, "W": str(WATARI)}, cwd=tmp_path, timeout=LIMIT,
                          capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["<show><shutdown>", "<web>", "<some file.json>", "<n1><n2><n3>"], done.stderr


def test_the_handbook_names_every_call(shell):
    text = (REPO / "docs" / "api.md").read_text()
    missing = [call["call"] for call in shell.json("api", "list")["calls"] if f"`{call['call']}`" not in text]
    assert missing == []
