"""The model that a training starts with: built, read, with adapters and perhaps earlier values."""

from pathlib import Path

import torch
from torch import nn

from hpcjobs.run.events import record_event
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.layout import RunDir
from hpcjobs.run.manifest import committed_steps
from hpcjobs.train.deepspeed_config import deepspeed_config
from hpcjobs.train.engine import compute_dtype
from hpcjobs.train.gather import Divider
from hpcjobs.train.method import apply_method
from hpcjobs.train.mgm.model import build_model
from hpcjobs.train.process import Process
from hpcjobs.train.stop import agree
from hpcjobs.train.warm_start import warm_start
from hpcjobs.train.weights import load_weights


def starting_model(
    experiment: Experiment, run: RunDir, attempt: int, process: Process
) -> nn.Module:
    """Builds the model: the same random values on every rank, then its weights and adapters.

    Raises:
        HpcjobsError: weights or starting values are missing or do not fit.
    """
    torch.manual_seed(experiment.train.seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(compute_dtype(experiment.train))
    try:
        model = build_model(experiment.model)
        if experiment.model.weights == "pretrained":
            _load(model, experiment, process)
        if experiment.train.grad_checkpointing:
            model.activation_checkpointing_enable()
        module = apply_method(model, experiment.method)
    finally:
        torch.set_default_dtype(default)
    _start_from(module, experiment, run, attempt, process)
    return module


def _load(model: nn.Module, experiment: Experiment, process: Process) -> None:
    """Reads the weights; at ZeRO-3 rank 0 does, and each is divided as soon as it is read.

    A model whose weights are to be read takes no memory before: its pages are untouched. So no
    rank ever holds more than its part and one parameter.
    """
    directory = Path(experiment.model.path or "")
    if experiment.parallel.zero_stage < 3:
        load_weights(model, directory)
    else:
        divide = Divider(deepspeed_config(experiment))
        load_weights(model, directory, divide, reads=process.is_leader)


def _start_from(
    module: nn.Module, experiment: Experiment, run: RunDir, attempt: int, process: Process
) -> None:
    """Takes another result's values, before the first step only: a checkpoint has its own."""
    start = experiment.method.start_from
    begun = agree((bool(committed_steps(run.checkpoints)),), process.device)[0]
    if start is None or begun:
        return
    files = warm_start(module, experiment.method, Path(start))
    if process.is_leader:
        record_event(run, "started_from", attempt=attempt, path=start, sha256=files)
