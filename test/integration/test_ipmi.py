# SPDX-License-Identifier: Apache-2.0
"""The driver of fence agents with a stock agent, fence_ipmilan, against a simulated BMC: OpenIPMI's ipmi_sim on loopback.

What the BMC believes of the power is a file, so that a test sees from outside what was switched.
"""
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import pytest

from lab import BUILD, wait_until

PASSWORD = "open-sesame"
POWER = """#!/bin/sh
# usage: DEVICE get PARAMETER... | DEVICE set [PARAMETER VALUE]...
shift
case $1 in
get) shift; for p; do case $p in power) echo "power:$(cat DIR/power)";; *) echo "$p:0";; esac; done ;;
set) shift; while [ $# -gt 1 ]; do [ "$1" = power ] && echo "$2" >DIR/power; shift 2; done ;;
esac
"""
LAN = """name "bmc"
set_working_mc 0x20
startlan 1
	addr 127.0.0.1 PORT
	priv_limit admin
	allowed_auths_admin md2 md5 straight
	guid a123456789abcdefa123456789abcdef
endlan
chassis_control "DIR/power.sh 0x20"
user 2 true "admin" "PASSWORD" admin 10 md2 md5 straight
"""
EMULATION = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"

pytestmark = pytest.mark.skipif(not (shutil.which("ipmi_sim") and pathlib.Path("/usr/sbin/fence_ipmilan").exists()),
                                reason="needs fence-agents, openipmi and ipmitool (tools/install-needs test)")


def free_udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Bmc:
    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="watari-ipmi-"))
        self.port = free_udp_port()
        self.process = None
        (self.dir / "state").mkdir()
        for name, text in (("power.sh", POWER), ("lan.conf", LAN), ("bmc.emu", EMULATION)):
            text = text.replace("DIR", str(self.dir)).replace("PORT", str(self.port)).replace("PASSWORD", PASSWORD)
            (self.dir / name).write_text(text)
        (self.dir / "power.sh").chmod(0o755)
        self.secret("right", PASSWORD)
        self.secret("wrong", "guessed")
        self.set(True)

    def secret(self, name, value):
        (self.dir / name).write_text(value + "\n")
        (self.dir / name).chmod(0o600)

    def set(self, on):
        (self.dir / "power").write_text(f"{int(on)}\n")

    def is_on(self):
        return (self.dir / "power").read_text().strip() == "1"

    def begin(self):
        self.log = open(self.dir / "sim.log", "wb")
        self.process = subprocess.Popen(
            ["ipmi_sim", "-c", self.dir / "lan.conf", "-f", self.dir / "bmc.emu", "-s", self.dir / "state", "-n"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        inode = f":{self.port:04X} "
        wait_until(lambda: inode in pathlib.Path("/proc/net/udp").read_text(), 20, "ipmi_sim to listen")

    def end(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.log.close()
            self.process = None

    def device(self, password="right", **changes):
        options = {"ip": "127.0.0.1", "ipport": str(self.port), "username": "admin", "lanplus": "1", "cipher": "3",
                   **changes.pop("options", {})}
        listed = [{"name": name, "value": value} for name, value in options.items()]
        listed.append({"name": "password", "value": str(self.dir / password), "secret": True})
        return {"name": "bmc-n3", "node": 3, "agent": "fence_ipmilan", "limit_ms": 60000, "options": listed, **changes}


class Fencer:
    """One fence-shell."""

    def __init__(self, secrets):
        self.process = subprocess.Popen([BUILD / "test/tool/fence-shell", "/usr/sbin", secrets], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.number = 0

    def ask(self, action, device, timeout=180):
        self.number += 1
        self.process.stdin.write(json.dumps({"id": self.number, "action": action, "device": device}) + "\n")
        self.process.stdin.flush()
        watchdog = threading.Timer(timeout, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        assert line, f"no answer to {action} within {timeout} s"
        answer = json.loads(line)
        assert answer.get("id") == self.number, answer
        return answer

    def end(self):
        self.process.stdin.close()
        self.process.wait(20)


@pytest.fixture
def bmc():
    bmc = Bmc()
    try:
        bmc.begin()
        yield bmc
    finally:
        bmc.end()
        shutil.rmtree(bmc.dir)


@pytest.fixture
def fencer(bmc):
    fencer = Fencer(bmc.dir)
    yield fencer
    fencer.end()


def test_off_is_switched_and_read_back(bmc, fencer):
    """The whole way: stock agent, IPMI over the network, a BMC that does as it is told."""
    answer = fencer.ask("off", bmc.device())
    assert (answer["result"], answer["was_on"]) == ("off", True), answer
    assert answer["text"] == "status read back: off"
    assert not bmc.is_on()
    again = fencer.ask("off", bmc.device())
    assert (again["result"], again["was_on"], again["text"]) == ("off", False, "status: off already")
    back = fencer.ask("on", bmc.device())
    assert back["result"] == "on" and bmc.is_on(), back


def test_status_tells_the_power_and_leaves_it(bmc, fencer):
    assert fencer.ask("status", bmc.device())["result"] == "on"
    assert bmc.is_on()
    bmc.set(False)
    assert fencer.ask("status", bmc.device())["result"] == "off"


def test_a_wrong_password_is_a_failure_and_says_nothing_of_it(bmc, fencer):
    """A BMC that refuses proves nothing, whatever the agent's exit status was thought to mean."""
    answer = fencer.ask("off", bmc.device("wrong"))
    assert answer["result"] == "failed" and "Unable to obtain correct plug status" in answer["text"], answer
    assert bmc.is_on()
    assert "guessed" not in answer["text"] and PASSWORD not in answer["text"]


def test_a_bmc_that_is_gone_is_a_timeout(bmc, fencer):
    bmc.end()
    answer = fencer.ask("off", bmc.device(limit_ms=8000))
    assert answer["result"] == "failed", answer
    assert "does not end" in answer["text"] or "exit status 1" in answer["text"], answer
    # It comes back, and the next order is as good as any.
    bmc.begin()
    assert fencer.ask("off", bmc.device())["result"] == "off"


def test_a_check_explains_the_stock_agent(bmc, fencer):
    fits = fencer.ask("check", bmc.device())
    assert fits["result"] == "fits" and fits["told"]["ip"] == "IP address or hostname of fencing device", fits
    assert "login" not in fits["told"] and "ipmitool_path" not in fits["told"]  # an older name; refused
    wrong = fencer.ask("check", bmc.device(options={"adress": "127.0.0.1"}))
    assert wrong["result"] == "invalid" and "no option 'adress'" in wrong["text"], wrong
    wrong = fencer.ask("check", bmc.device(options={"auth": "sha512"}))
    assert wrong["result"] == "invalid" and "one of md5, password, none" in wrong["text"], wrong


def test_every_stock_agent_can_be_checked(bmc, fencer):
    """Their metadata parses, each of them; an agent that cannot switch off is refused for that reason."""
    for agent in sorted(pathlib.Path("/usr/sbin").glob("fence_*")):
        device = {"name": "x", "node": 3, "agent": agent.name, "limit_ms": 60000}
        answer = fencer.ask("check", device)
        known = answer["result"] == "fits" or "needs the option" in answer["text"] or "has no action" in answer["text"]
        # fence_ack_manual is a shell script that has none.
        assert known or agent.name == "fence_ack_manual", (agent.name, answer)
