# SPDX-License-Identifier: Apache-2.0
"""watari's quick migration in the lab: moves of one guest from node to node, and where their time went."""
import time

from measure import Away, BenchError, GUEST_IP, machine_state, wait_until

VM = "bench"
# Phases of the blackout in their order: the task's name for it, ours, what it is.
PHASES = [
    ("tail", "tail", "STOP to the end of the stream"),
    ("repair", "repair", "repair of what TCG's dirty log lost"),
    ("seal", "seal", "seal: fsync, manifest"),
    ("hand_over", "commit_sealed", "commit of SEALED, the target begins"),
    ("load", "load", "load of the device state"),
    ("resume", "commit_loaded", "commit of LOADED, cont"),
]


class Watari:
    """boot(), then moves round the nodes, then destroy()."""

    def __init__(self, lab, disk):
        self.lab, self.disk = lab, disk

    def boot(self, size, load):
        self.lab.cli("n1", "vm", "create", VM, "--memory", f"{size.memory_mib}M", "--disk", f"{self.disk},format=raw",
                     "--network", "br0,mac=02:77:02:00:00:32", "--kernel", "/srv/watari/guest/vmlinuz",
                     "--initrd", "/srv/watari/guest/initrd.img", "--append", size.append(load))
        self.lab.cli("n1", "vm", "start", VM, "--on", "n1", "--quiet")
        self.node = "n1"
        self.lab.wait_guest(GUEST_IP, timeout=120)

    def destroy(self):
        self.lab.cli("n1", "vm", "stop", VM, "--quiet")
        self.lab.cli("n1", "vm", "delete", VM, "--yes")

    def move(self, size):
        """One move to the next node, while a client asks; ends when the last page is in."""
        target = self.lab.nodes[(self.lab.nodes.index(self.node) + 1) % len(self.lab.nodes)]
        state = machine_state(f"watari, {size.label}, {self.node} to {target}")
        with Away(self.lab) as away:
            begin = time.monotonic()
            task = self.lab.cli(self.node, "vm", "move", VM, "--type", "quick", "--to", target, "--quiet", timeout=110)
            returned = time.monotonic()
        if task["state"] != "done":
            raise BenchError(f"the move to {target} ended as {task['state']}: {task.get('text')}")
        self.node = target
        return self._figures(self._filled(task["id"]), away, (returned - begin) * 1000, state)

    def _filled(self, task_id):
        """The task once all memory is in: only then may the guest be moved on."""
        def look():
            task = self.lab.cli(self.node, "task", "show", task_id)
            vm = self.lab.cli(self.node, "vm", "show", VM)
            return task if not vm["filling"] and task["figures"].get("filled_us") else None
        return wait_until(look, 110, "the guest's memory to be all in", every=0.1)

    @staticmethod
    def _figures(task, away, returned_ms, state):
        spans, figures = task["spans_us"], task["figures"]
        missing = [name for name, _, _ in PHASES if name not in spans and name != "repair"]
        if missing or "blackout" not in spans:
            raise BenchError(f"the task does not tell its phases ({', '.join(missing) or 'blackout'}): {task}")
        phases = {ours: spans.get(theirs, 0) / 1000 for theirs, ours, _ in PHASES}
        stop_resume_ms = spans["blackout"] / 1000
        resumed_ns = figures["resumed_us"] * 1000
        begin_ns, end_ns = away.silence_around((figures["stopped_us"] * 1000 + resumed_ns) // 2)
        calm_ms = away.calm_after(end_ns)
        if calm_ms is not None:
            calm_ms += max(0.0, (end_ns - resumed_ns) / 1e6)
        return {
            "blackout_ms": away.blackout_ms,
            "stop_resume_ms": stop_resume_ms,
            "phases_ms": phases,
            # The last answer before STOP came up to 5 ms earlier; the first one after RESUME takes what the guest
            # needs to answer: its pages, and under TCG its code translated anew.
            "client_before_ms": (figures["stopped_us"] * 1000 - begin_ns) / 1e6,
            "client_after_ms": (end_ns - resumed_ns) / 1e6,
            "repair_ms": phases["repair"],
            "rest_ms": away.blackout_ms - phases["repair"],
            "rest_stop_resume_ms": stop_resume_ms - phases["repair"],
            "calm_ms": calm_ms,
            "normal_latency_ms": away.normal_ms,
            "move_ms": spans["total"] / 1000,
            "returned_ms": returned_ms,
            "fill_ms": spans["fill"] / 1000,
            "move_filled_ms": (spans["total"] + spans["fill"]) / 1000,
            "prepare_ms": spans.get("prepare", 0) / 1000,
            "copy_ms": spans.get("copy", 0) / 1000,
            "written_bytes": figures["ram_bytes"] + figures["device_bytes"],
            "used_bytes": figures["used_bytes"],
            "write_amplification": (figures["ram_bytes"] + figures["device_bytes"]) / figures["used_bytes"],
            "repaired_pages": figures.get("repaired_pages", 0),
            "passes": figures.get("passes", 0),
            "probe_late_ms": away.late_ms,
            **state,
        }
