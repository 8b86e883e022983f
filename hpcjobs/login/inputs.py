"""What can be seen to be missing from here, before anything waits in a queue."""

import json
import shutil
from pathlib import Path

from hpcjobs.login.container_planned import missing_image
from hpcjobs.node.env_file import read_env_file
from hpcjobs.run.errors import InputError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.layout import RunDir
from hpcjobs.run.manifest import committed_steps

_END_BYTES = 4096
"""How much of a file's ends is looked at: whole data files are read on the nodes."""


def missing_inputs(experiment: Experiment) -> list[str]:
    """Says which of the model and data files cannot be read here, each with its remedy."""
    return [
        *_missing_model(experiment),
        *_missing_start(experiment),
        *_missing_data(experiment),
        *missing_image(experiment.container),
    ]


def refuse_missing(experiment: Experiment) -> None:
    """Stops at the first missing input.

    Raises:
        InputError: what is missing and the key that names it.
    """
    for problem in missing_inputs(experiment):
        raise InputError(problem)


def refuse_missing_here(experiment: Experiment) -> None:
    """Stops at what a run on this machine lacks; on a cluster the nodes may have it.

    Raises:
        InputError: the interpreter or the file of secrets cannot be used.
    """
    cluster = experiment.cluster
    if cluster.python is not None and shutil.which(cluster.python) is None:
        raise InputError(
            f"cluster.python: {cluster.python} is no program on this machine; write "
            f"cluster.python=null for the one that submits"
        )
    if cluster.env_file is not None:
        read_env_file(cluster.env_file)


def refuse_full_disk(experiment: Experiment, run: RunDir, checkpoint_bytes: int) -> None:
    """Stops when the checkpoints that the run will write do not fit on the disk.

    Raises:
        InputError: what is free and what is needed.
    """
    # The next one is written before the oldest goes; those that a continued run has, it has.
    plan = experiment.train.checkpoint
    keep = plan.keep + plan.keep_best + 1
    coming = max(1, keep - len(committed_steps(run.checkpoints)))
    needed = coming * checkpoint_bytes
    existing = next(parent for parent in [run.path, *run.path.parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"{existing} has {_size(free)} free, {coming} checkpoints of the run need "
            f"{_size(needed)}: free space, or lower train.checkpoint.keep"
        )


def _size(count_bytes: int) -> str:
    """Bytes for people.

    >>> _size(0), _size(2_500_000), _size(3 << 30)
    ('0.00 MiB', '2.38 MiB', '3.00 GiB')
    """
    gib, mib = 1 << 30, 1 << 20
    if count_bytes >= gib:
        return f"{count_bytes / gib:.2f} GiB"
    return f"{count_bytes / mib:.2f} MiB"


def _missing_model(experiment: Experiment) -> list[str]:
    model, problems = experiment.model, []
    if model.weights == "pretrained":
        path = Path(model.path or "")
        if not path.is_dir():
            return [f"model directory {path} does not exist: write model.path=DIR"]
        if not list(path.glob("*.safetensors")):
            problems.append(
                f"model directory {path} holds no .safetensors file: write model.path=DIR"
            )
    return problems if experiment.data.builtin else problems + _bad_tokenizer(experiment)


def _missing_start(experiment: Experiment) -> list[str]:
    start = experiment.method.start_from
    if start is None or Path(start).is_dir():
        return []
    return [f"method.start_from: {start} is no directory: name a result, or write null"]


def _bad_tokenizer(experiment: Experiment) -> list[str]:
    path, vocab = tokenizer_path(experiment), experiment.model.text.vocab
    if not path.is_file():
        return [f"tokenizer {path} does not exist: write model.tokenizer=FILE"]
    tokens = _tokens(path)
    if tokens is None:
        return [f"tokenizer {path} is no tokenizer.json: write model.tokenizer=FILE"]
    if tokens > vocab:
        fit = "use the model's own tokenizer.json"
        return [f"tokenizer {path} has {tokens} tokens, the model's embedding {vocab}: {fit}"]
    return []


def _tokens(path: Path) -> int | None:
    """The highest id of a ``tokenizer.json`` plus one; None where it is none."""
    try:
        file = json.loads(path.read_text(encoding="utf-8"))
        vocab, added = file["model"]["vocab"], file.get("added_tokens") or []
        ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
        return int(max([*ids, *(token["id"] for token in added)])) + 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


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
    looked = [(key, _bad_list(root / name)) for key, name in names if name is not None]
    problems = [f"{key}: {problem}" for key, problem in looked if problem]
    if not (root / data.pictures).is_dir():
        problems.append(f"data.pictures: {root / data.pictures} is not a directory")
    return problems


def _bad_list(path: Path) -> str | None:
    """Says what keeps a file from being a JSON list, as far as its two ends tell."""
    if not path.is_file():
        return f"{path} does not exist: name another file, or write data.root=DIR"
    with path.open("rb") as file:
        first = file.read(_END_BYTES).strip()
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        last = file.read().strip()
    if not first.startswith(b"["):
        return f"{path} does not begin with [: it must be a JSON list of samples"
    if not last.endswith(b"]"):
        return f"{path} does not end with ]: is it complete? It must be a JSON list of samples"
    return None
