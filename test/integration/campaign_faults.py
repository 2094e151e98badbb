# SPDX-License-Identifier: Apache-2.0
"""The long form of the fault campaign: 60 faults of one seed (WATARI_FAULTS, WATARI_SEED). See faults.py."""
import os

from faults import campaign


def test_sixty_faults():
    campaign(int(os.environ.get("WATARI_SEED", "1")), int(os.environ.get("WATARI_FAULTS", "60")))
