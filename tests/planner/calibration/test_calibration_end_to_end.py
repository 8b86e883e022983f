"""Trainings that really ran make the planner better at one that it has not seen.

Slow: four short trainings, which share one start of torch.
"""

import pytest
from tiny import tiny_words, write_tiny_data
from trainings import prepare, train_all

from planner.calibrate_command import calibrate
from planner.calibration.store import read_calibration

pytestmark = pytest.mark.slow

# A busy machine: what is asked is that learning helps, not how much.
GOOD_ENOUGH = 0.3


def test_three_runs_improve_the_prediction_of_a_fourth(tmp_path, capsys):
    write_tiny_data(tmp_path / "data")
    runs = []
    for size in (1, 2, 4, 8):
        words = tiny_words(
            tmp_path / "data",
            **{
                "parallel.micro_batch": size, "parallel.gpus_per_node": 1, "train.global_batch": 16,
                "train.steps": 12, "train.checkpoint.every_steps": "null", "data.workers": 0,
            },
        )  # fmt: skip
        runs.append(prepare(words, tmp_path / f"micro-{size}"))
    assert all(verdict.status == "done" for verdict in train_all(runs))

    path = tmp_path / "calibration.json"
    assert calibrate([*(str(run.path) for run in runs), "-o", str(path)]) == 0
    assert "4 runs" in capsys.readouterr().out
    errors = read_calibration(path).time_errors["all"]
    assert errors.runs == 4
    assert errors.after < max(errors.before, GOOD_ENOUGH), errors
