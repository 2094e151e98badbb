# SPDX-License-Identifier: Apache-2.0
"""A few faults of the campaign (faults.py, campaign_faults.py): what ./check has time for."""
from faults import campaign


def test_five_faults():
    campaign(seed=7, faults=5, hold_s=3)
