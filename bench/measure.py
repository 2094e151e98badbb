# SPDX-License-Identifier: Apache-2.0
"""What every benchmark here needs: the machine's state before a measurement, and a guest's absence as a client sees it."""
import os
import pathlib
import statistics
import sys
import time

REPO = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "test" / "integration"))
from lab import GUEST_IP, LabError, wait_until  # noqa: E402

WINDOW_NS = 100_000_000
CALM_WINDOWS = 3


class BenchError(Exception):
    """What was to be measured cannot be, or the guest is not what it was."""


class Size:
    """A guest: its RAM and how much of it holds random data."""

    def __init__(self, key, label, memory_mib, percent):
        self.key, self.label, self.memory_mib, self.percent = key, label, memory_mib, percent
        self.fill_mib = memory_mib * percent // 100

    def append(self, load):
        return (f"console=tty0 console=ttyS0 quiet panic=1 watari.ip={GUEST_IP}/24 watari.fill_mib={self.fill_mib} "
                f"watari.load={load}")


SIZES = {"1g": Size("1g", "1 GiB, 60 % random", 1024, 60), "4g": Size("4g", "4 GiB, 75 % random", 4096, 75)}


def say(text):
    print(text, file=sys.stderr, flush=True)


def cpu_ticks():
    """(busy, all) clock ticks of all CPUs since boot."""
    with open("/proc/stat", encoding="ascii") as stat:
        ticks = [int(word) for word in stat.readline().split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def machine_state(what):
    """Writes back what is dirty, then tells how busy the machine is: a figure from a busy machine is not to be quoted."""
    os.sync()
    busy, total = cpu_ticks()
    time.sleep(0.5)
    busy_after, total_after = cpu_ticks()
    percent = 100 * (busy_after - busy) / max(1, total_after - total)
    load = open("/proc/loadavg", encoding="ascii").read().split()[0]
    say(f"{what}: load {load}, CPUs {percent:.0f} % busy before it")
    return {"load_1m": float(load), "cpus_busy_percent": round(percent, 1)}


class Away:
    """The guest's absence during `with Away(lab) as away: ...`, from a client that asks each 5 ms.

    .blackout_ms is the longest time without an answer. It holds up to one interval in which nobody asked, so it errs on
    the long side. .begin_ns and .end_ns are CLOCK_REALTIME."""

    def __init__(self, lab, calm_s=1.5, tail_s=2.5):
        self.lab, self.calm_s, self.tail_s = lab, calm_s, tail_s

    def __enter__(self):
        self.probe = self.lab.probe(every_ms=5, windows=True)
        try:
            self.probe.wait_first()
        except BaseException:
            self.probe.__exit__(None, None, None)
            raise
        # Its normal latency is that of the guest left alone: sampled before anything is asked of it.
        time.sleep(self.calm_s)
        self.asked_ns = time.time_ns()
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            self.probe.__exit__(kind, value, trace)
            return
        time.sleep(self.tail_s)
        self.report = self.probe.stop()
        self._judge()

    def _judge(self):
        report = self.report
        if report["nonce_changes"] or report["counter_back"] or report["duplicates"]:
            raise BenchError(f"this is not the same guest any more: nonce changed {report['nonce_changes']} times, counter "
                             f"went back {report['counter_back']} times, {report['duplicates']} doubled answers")
        gaps = [gap for gap in report["gaps"] if gap["end_ns"] > self.asked_ns]
        if not gaps:
            raise BenchError("the client saw no silence: nothing was measured")
        self.gaps = gaps
        gap = max(gaps, key=lambda each: each["ms"])
        self.blackout_ms, self.begin_ns, self.end_ns = gap["ms"], gap["begin_ns"], gap["end_ns"]
        self.late_ms = report["max_late_ms"]
        before = [window["p50_ms"] for window in report["windows"]
                  if window["begin_ns"] + WINDOW_NS <= self.asked_ns and window["p50_ms"] is not None]
        self.normal_ms = statistics.median(before) if before else None
        self.calm_again_ms = self.calm_after(self.end_ns)

    def silence_around(self, at_ns):
        """(begin_ns, end_ns) of the silence in which at_ns lies. On a busy machine it need not be the longest."""
        around = [gap for gap in self.gaps if gap["begin_ns"] <= at_ns <= gap["end_ns"]]
        return (around[0]["begin_ns"], around[0]["end_ns"]) if around else (at_ns, at_ns)

    def calm_after(self, end_ns):
        """From end_ns to the first of 3 windows of 100 ms in which every question was answered and the median was under
        twice its normal; None when that did not happen while the client looked."""
        calm = 0
        for window in self.report["windows"][:-1]:
            if window["begin_ns"] + WINDOW_NS <= end_ns:
                continue
            is_calm = window["answered"] == window["sent"] and window["p50_ms"] <= 2 * self.normal_ms
            calm = calm + 1 if is_calm else 0
            if calm == CALM_WINDOWS:
                return max(0.0, (window["begin_ns"] - (CALM_WINDOWS - 1) * WINDOW_NS - end_ns) / 1e6)
        return None


def checked_memory(lab):
    """Reads all the guest's memory again, inside it; raises when a byte of it is not what it was."""
    verdict = lab.http("/checksum", timeout=110)
    if not verdict["checksum_ok"]:
        raise BenchError(f"the guest's memory is damaged: {verdict}")
    return verdict["ms"]


__all__ = ["Away", "BenchError", "GUEST_IP", "LabError", "SIZES", "Size", "checked_memory", "machine_state", "say",
           "wait_until", "REPO"]
