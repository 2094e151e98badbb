# SPDX-License-Identifier: Apache-2.0
"""A few rows of campaign_kill.py, one for each step and each kind of fault: what ./check has time for."""
import pytest

from campaign_kill import TABLE, fault_at, guest, lab, the_guest  # noqa: F401 (fixtures)

SHORT = [("prepare", "daemon-target"), ("copy", "daemon-source"), ("seal", "daemon-source"), ("load", "qemu-target"),
         ("load", "power-source"), ("resume", "daemon-target"), ("filling", "stream-target")]
assert {step for step, _ in SHORT} == set(TABLE)


@pytest.mark.parametrize("step,fault", SHORT, ids=lambda value: value)
def test_fault(lab, guest, step, fault):  # noqa: F811
    fault_at(lab, guest, step, fault)
