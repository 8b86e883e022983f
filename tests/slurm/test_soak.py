"""The soak in short: a few kills of one training on a real Slurm, half of them during saves.

Slow: two trainings on two nodes and a restart after every kill. ``make soak`` is the long one.
"""

import pytest

from benchmarks.soak import soak
from benchmarks.soaking.page import page
from benchmarks.soaking.plan import short_plan

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(900)]


def test_a_training_that_is_killed_again_and_again_ends_bit_equal(slurm, tmp_path):
    kills = short_plan(seed=3)
    found = soak(slurm, tmp_path, kills, 3, gap_steps=6)
    said = page({**found, "command": "pytest"})
    assert found["finished"], said
    assert found["bit_equal"], said
    assert found["rejected"] == [], said
    assert [act["way"] for act in found["acts"]] == [kill.way for kill in kills], said
    assert sum(act["during_save"] for act in found["acts"]) >= 2, said
    assert found["attempts"] == len(kills) + 1, said
    assert found["by_hand"] == 0, said
