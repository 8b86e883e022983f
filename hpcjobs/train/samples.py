"""The run's samples: made or read, checked once, and ordered the same for every world size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import distributed as dist
from torch.utils.data import DataLoader

from hpcjobs.data import check, demo
from hpcjobs.data.dataset import MgmDataset, collate
from hpcjobs.data.llava_json import Sample, read_samples
from hpcjobs.data.order import SampleOrder
from hpcjobs.data.template import load_tokenizer
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.files import read_json, write_json
from hpcjobs.run.layout import RunDir
from hpcjobs.train.process import Process

_THREADS = 8


@dataclass(frozen=True)
class Samples:
    """What a run trains on, and what it is measured with."""

    train: MgmDataset
    heldout: MgmDataset | None
    order: SampleOrder
    pad_id: int

    def collate(self, items: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Makes a padded batch."""
        return collate(items, self.pad_id)


def load_samples(experiment: Experiment, run: RunDir, process: Process) -> Samples:
    """Reads and checks the samples on all ranks together.

    Raises:
        InputError: files are missing or more samples are broken than the run allows.
    """
    if experiment.data.builtin == "demo":
        if process.is_leader:
            demo.prepare(Path(experiment.data.root))
        dist.barrier()
    tokenizer = load_tokenizer(_tokenizer_path(experiment))
    train = _checked(experiment, "train", experiment.data.train, tokenizer, run, process)
    heldout = experiment.data.heldout
    return Samples(
        train=train,
        heldout=heldout
        and _checked(experiment, "heldout", heldout, tokenizer, run, process)
        or None,
        order=SampleOrder(len(train), experiment.train.global_batch, experiment.train.seed),
        pad_id=tokenizer.token_to_id("<pad>"),
    )
