"""A run in a container that is stopped before its process can listen.

Slow: the process imports torch before it can end.
"""

import os
import signal

import pytest
from runs import start, wait_until
from tiny import tiny_words, write_tiny_data

from hpcjobs.run.files import read_json
from hpcjobs.run.layout import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.container, pytest.mark.timeout(600)]


def test_a_stop_in_the_first_moments_of_a_container_is_neither_lost_nor_deadly(tmp_path, image):
    """Without the wait for the first heartbeat, Apptainer itself dies of the signal (-12)."""
    run = RunDir(tmp_path / "early, run")
    data = write_tiny_data(tmp_path / "data")
    words = tiny_words(data, **{"container": "apptainer", "container.image": image,
                                "train.steps": 400, "data.workers": 1, "run_dir": run.path})  # fmt: skip
    started = start(words, tmp_path)
    log = run.attempt(1).rank_log(0)
    wait_until(log.exists, "the start of the container", 120)
    broker = read_json(run.holder)["pid"]
    os.kill(broker, signal.SIGTERM)
    wait_until(run.attempt(1).verdict.exists, "the verdict", 300)
    assert read_json(run.attempt(1).verdict)["status"] == "checkpointed", log.read_text()
    started.wait(timeout=60)
    assert run.attempt_numbers() == [1]
