"""A run that was submitted with ``parallel=auto`` trains, and goes on with the same words."""

import pytest
from runs import submit, trained_steps
from tiny import tiny_words, write_tiny_data

from hpcjobs.run.files import read_json
from hpcjobs.run.layout import RunDir


@pytest.mark.slow  # trains twice on the CPU
def test_a_run_without_cards_trains_and_goes_on_with_the_same_words(tmp_path):
    data = write_tiny_data(tmp_path / "data")
    words = [*tiny_words(data, train__steps=4, run_dir=tmp_path / "run"), "parallel=auto"]
    first = submit([*words, "cluster.time='0:05:00'"], tmp_path)
    assert first.returncode == 0, (first.stdout, first.stderr)
    assert "parallel=auto: no cards, so nothing was planned: 1 process on the CPU" in first.stdout
    assert "not planned: a run on the CPU" in first.stdout
    run = RunDir(tmp_path / "run")
    assert read_json(run.config)["parallel"]["gpus_per_node"] == 1
    assert max(trained_steps(run)) == 4
    again = submit(words, tmp_path)
    assert again.returncode == 0, (again.stdout, again.stderr)
    assert "finished already" in again.stdout
