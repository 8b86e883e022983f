"""Loader processes outlive the signals that Slurm sends to every process of a step."""

import multiprocessing
import os
import signal

import pytest
import torch
from tiny import tiny_words, write_tiny_data

from hpcjobs.data.order import SampleOrder
from hpcjobs.login.compose import compose_experiment
from hpcjobs.train.process import Process
from hpcjobs.train.samples import Samples, batches


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_loader_process_outlives_the_announcement_of_a_preemption(tmp_path, number):
    words = tiny_words(write_tiny_data(tmp_path), **{"data.workers": 1, "parallel.gpus_per_node": 1,
                                                     "train.global_batch": 2})  # fmt: skip
    _, experiment = compose_experiment(words)
    samples = Samples(list(range(64)), None, SampleOrder(64, 2, seed=1), sorted)
    process = Process(0, 0, 1, torch.device("cpu"))
    dealt = batches(samples, experiment, process, 0, 20)
    first = next(dealt)
    (loader,) = multiprocessing.active_children()
    os.kill(loader.pid, number)
    rest = list(dealt)
    assert len(rest) == 19
    assert first not in rest
