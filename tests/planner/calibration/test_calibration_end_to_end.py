"""Trainings that really ran make the planner better at one that it has not seen.

Slow: four short trainings, which share one start of torch.
"""

import math

import pytest
from tiny import tiny_words, write_tiny_data
from trainings import prepare, train_all

from planner.calibrate_command import calibrate
from planner.calibration.fit import time_at
from planner.calibration.observe import observe
from planner.calibration.read_run import read_run
from planner.calibration.store import read_calibration

pytestmark = pytest.mark.slow

MICRO_BATCHES = (1, 2, 4, 8)
SEEN = (1, 2, 8)


def test_three_runs_improve_the_prediction_of_a_fourth(tmp_path):
    write_tiny_data(tmp_path / "data")
    runs = {}
    for size in MICRO_BATCHES:
        words = tiny_words(
            tmp_path / "data",
            **{
                "parallel.micro_batch": size, "parallel.gpus_per_node": 1, "train.global_batch": 16,
                "train.steps": 12, "train.checkpoint.every_steps": "null", "data.workers": 0,
            },
        )  # fmt: skip
        runs[size] = prepare(words, tmp_path / f"micro-{size}")
    assert all(verdict.status == "done" for verdict in train_all(list(runs.values())))

    path = tmp_path / "calibration.json"
    assert calibrate([*(str(runs[size].path) for size in SEEN), "-o", str(path)]) == 0
    calibration = read_calibration(path)
    (unseen,) = observe(read_run(runs[4].path)).time

    def error(levels):
        told = time_at(levels, unseen.key, unseen.floor_s, unseen.line_s, unseen.fixed_s)
        return abs(math.log(told / unseen.measured_s))

    before, after = error({}), error(calibration.time_levels)
    assert after < before or after < math.log(1.25), (before, after)
    assert len(calibration.runs) == 3
