# SPDX-License-Identifier: Apache-2.0
"""Many moves of one busy guest: not a byte lost, and nothing left behind.

A few in ./check; the campaign is WATARI_MOVES=100 /usr/bin/python3 -m pytest -s test/integration/test_moves.py
"""
import collections
import itertools
import json
import os
import statistics
import time

import pytest

from cluster import CopyWatch, Guest, belongings, wait_agreed, wait_synced
from lab import Lab, wait_until

MOVES = int(os.environ.get("WATARI_MOVES", "4"))
NODES = ["n1", "n2", "n3"]


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=3) as lab:
        wait_synced(lab)
        yield lab


def settled(lab, guest):
    """What every node holds, with the guest on n1 and the helpers of the last move ended."""
    guest.wait_filled()
    if guest.show()["node"] != "n1":
        guest.move("n1")
        guest.wait_filled()
    guest.wait_no_states()
    wait_until(lambda: [len(guest.qemu(node)) for node in NODES] == [1, 0, 0], 20, "one QEMU to be left")
    wait_until(lambda: not any("watari-stream" in belongings(lab, node)["processes"] for node in NODES), 20,
               "the helpers to end")
    return {node: belongings(lab, node) for node in NODES}


def test_moves_in_a_row_under_load(lab):
    """Memory writer, disk writer, a TCP connection and a question each 5 ms, through every move."""
    guest = Guest(lab, "busy", memory="512M", disk_mib=64,
                  append="watari.fill_mib=128 watari.load=mem,disk watari.load_mib=32 watari.load_rate=1500")
    guest.create().boot("n1")
    # Each node has been source and target once: what a daemon keeps for good it has by then.
    for node in ("n2", "n3", "n1"):
        guest.move(node)
        guest.wait_filled()
    before = guest.check()
    written = guest.look()
    held = settled(lab, guest)
    tasks = []
    with lab.probe("udp", gap_ms=50) as udp, lab.probe("tcp", stall_s=30) as tcp, CopyWatch(lab, guest.uuid) as copies:
        udp.wait_first()
        tcp.wait_first()
        for number, node in zip(range(MOVES), itertools.cycle(("n2", "n3", "n1"))):
            began = time.monotonic()
            tasks.append(guest.move(node))
            assert tasks[-1]["state"] == "done", tasks[-1]
            # Every seventh move follows at once, while pages still come in.
            if number % 7 != 6:
                guest.wait_filled()
            verdict = guest.check()
            assert (verdict["nonce"], verdict["checksum"]) == (before["nonce"], before["checksum"]), f"move {number}"
            print(f"move {number + 1}: {tasks[-1]['spans_us']['blackout'] / 1000:.0f} ms blackout, "
                  f"{time.monotonic() - began:.1f} s", flush=True)
        after_held = settled(lab, guest)
        seen, connection = udp.stop(), tcp.stop()
    assert seen["nonce_changes"] == seen["counter_back"] == 0
    assert tcp.status == 0 and connection["broken"] is None
    assert not copies.violations
    after = guest.look()
    for load in ("memory_load", "disk_load"):
        assert after[load]["written"] > written[load]["written"] and after[load]["errors"] == 0, load
    assert after["disk_load"]["io_errors"] == 0
    assert guest.check()["counter"] > before["counter"]
    for node in NODES:
        for what, was in held[node].items():
            # Some of it is let go of a moment later; so it may have been before, when less is held now.
            wait_until(lambda: not collections.Counter(belongings(lab, node)[what]) - collections.Counter(was), 10,
                       f"{node} to hold no more {what} than before: {was}; it has {after_held[node][what]}")
    wait_agreed(lab)
    blackouts = sorted(task["spans_us"]["blackout"] / 1000 for task in tasks)
    repaired = sum(task["figures"].get("repaired_pages", 0) for task in tasks)
    print(json.dumps({"moves": len(tasks), "blackout_ms_median": statistics.median(blackouts),
                      "blackout_ms_max": blackouts[-1], "client_longest_ms": seen["blackout_ms"],
                      "repaired_pages": repaired, "lost_questions": seen["sent"] - seen["answered"]}))
