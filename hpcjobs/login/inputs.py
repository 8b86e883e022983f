"""What can be seen to be missing from here, before anything waits in a queue."""

import shutil
from pathlib import Path

from hpcjobs.run.errors import InputError
from hpcjobs.run.experiment import Experiment
from planner.states import checkpoint_bytes

_GIB = 1 << 30


def missing_inputs(experiment: Experiment) -> list[str]:
    """Says which of the model and data files cannot be read here, each with its remedy."""
    return [*_missing_model(experiment), *_missing_data(experiment)]


def refuse_missing(experiment: Experiment) -> None:
    """Stops at the first missing input.

    Raises:
        InputError: what is missing and the key that names it.
    """
    for problem in missing_inputs(experiment):
        raise InputError(problem)


def refuse_full_disk(experiment: Experiment, directory: Path, trainable: int) -> None:
    """Stops when the checkpoints that the run keeps cannot fit on the disk.

    Raises:
        InputError: free and needed GiB.
    """
    keep = experiment.train.checkpoint.keep + 1  # the next one is written before the oldest goes
    needed = keep * checkpoint_bytes(trainable)
    existing = next(parent for parent in [directory, *directory.parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"{existing} has {free / _GIB:.2f} GiB free, the run's {keep} checkpoints need "
            f"{needed / _GIB:.2f} GiB: free space, or lower train.checkpoint.keep"
        )


def _missing_model(experiment: Experiment) -> list[str]:
    model, problems = experiment.model, []
    if model.weights == "pretrained":
        path = Path(model.path or "")
        if not path.is_dir():
            return [f"model directory {path} does not exist: write model.path=DIR"]
        if not list(path.glob("*.safetensors")):
            problems.append(f"model directory {path} holds no .safetensors file")
    tokenizer = tokenizer_path(experiment)
    if experiment.data.builtin is None and not tokenizer.is_file():
        problems.append(f"tokenizer {tokenizer} does not exist: write model.tokenizer=FILE")
    return problems


def tokenizer_path(experiment: Experiment) -> Path:
    """The tokenizer's file: ``model.tokenizer``, or the one in the model directory."""
    model = experiment.model
    return Path(model.tokenizer or Path(model.path or ".") / "tokenizer.json")


def _missing_data(experiment: Experiment) -> list[str]:
    data = experiment.data
    if data.builtin is not None:
        return []
    root = Path(data.root)
    names = [("data.train", data.train), ("data.heldout", data.heldout)]
    problems = [
        f"{key}: {root / name} does not exist: write {key}=FILE or data.root=DIR"
        for key, name in names
        if name is not None and not (root / name).is_file()
    ]
    if not (root / data.pictures).is_dir():
        problems.append(f"data.pictures: {root / data.pictures} is not a directory")
    return problems
