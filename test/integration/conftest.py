# SPDX-License-Identifier: Apache-2.0
"""Run with: sudo /usr/bin/python3 -m pytest test/integration (after ninja -C build)."""
import os
import signal

import pytest

from lab import Lab

# A shell that starts something in the background has it ignore the interrupt, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="the lab needs root"))


@pytest.fixture(scope="module")
def bare_lab():
    """Three nodes with corosync and watchdogs, without watarid; one for the module's tests, made whole again before each."""
    with Lab(nodes=3, daemon=False, watchdog=5000) as lab:
        yield lab


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    for lab in {value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Lab)}:
        report.sections.append(("lab", lab.tool("status", check=False).stdout))
        for node in lab.nodes:
            for daemon in ("watarid", "corosync"):
                report.sections.append((f"{node} {daemon}", lab.logs(node, daemon)[-6000:]))
