# SPDX-License-Identifier: Apache-2.0
"""Looks at every process of this machine all the time, and counts the QEMUs that each VM has: I1, seen from outside."""
import os
import pathlib
import threading


def lab_of(pid):
    """The directory of the lab that a process runs in: what its node's first process, an ancestor, has as its argument.
    "" outside of any, None while that cannot be read."""
    while pid > 1:
        try:
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if words[0] == "watari-keeper":
                return words[1]
            pid = int(pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError, ValueError):
            return None
    return ""


class Copies(threading.Thread):
    """`with Copies() as copies: ...; assert not copies.doubles`. A QEMU that waits with -incoming is none yet: the log
    of a move, not this watch, says when it may run."""

    EVERY_S = 0.02

    def __init__(self):
        super().__init__(daemon=True)
        self.known, self.doubles, self.ended = {}, [], threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join(10)

    def run(self):
        while not self.ended.wait(self.EVERY_S):
            self.look()

    def look(self):
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self.known = {pid: vm for pid, vm in self.known.items() if pid in pids}
        copies = {}
        for pid in pids:
            if not self.known.get(pid):
                self.known[pid] = self.vm_of(pid)
            if self.known[pid] and self.is_alive(pid):
                copies.setdefault(self.known[pid], []).append(pid)
        for vm, running in copies.items():
            if len(running) > 1 and set(running) not in [set(each) for _, each in self.doubles]:
                self.doubles.append((vm, running))

    @staticmethod
    def vm_of(pid):
        """The VM whose cold-started QEMU this process is, with its lab: beside it other labs and the tests of the driver
        run. "" for any other process, None while it cannot be read."""
        try:
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return None
        if "qemu-system" not in words[0]:
            return None
        if "-incoming" in words or "-uuid" not in words:
            return ""
        lab = lab_of(pid)
        return f"{lab} {words[words.index('-uuid') + 1]}" if lab else lab

    @staticmethod
    def is_alive(pid):
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            return False
        return state not in "ZX"
