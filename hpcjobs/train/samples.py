"""The run's samples: made or read, checked once, and dealt out the same for every world size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Generator, Tensor
from torch import distributed as dist
from torch.utils.data import DataLoader, Dataset

from hpcjobs.data import check
from hpcjobs.data.bad_sample import BadSample, refuse_too_many
from hpcjobs.data.dataset import Item, MgmDataset, collate
from hpcjobs.data.llava_json import read_samples
from hpcjobs.data.order import SampleOrder
from hpcjobs.data.template import load_tokenizer, pad_id
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.files import read_json, sha256, write_json
from hpcjobs.run.layout import RunDir
from hpcjobs.run.manifest import committed_steps
from hpcjobs.run.notices import blocked
from hpcjobs.train.heartbeat import watch_loader
from hpcjobs.train.process import Process

Batch = dict[str, Tensor]
Alive = Callable[[], None]


@dataclass(frozen=True)
class Samples:
    """What a run trains on, and what it is measured with."""

    train: MgmDataset
    heldout: MgmDataset | None
    order: SampleOrder
    collate: Callable[[Sequence[Item]], Batch]


class _Reporting(Dataset[Item | InputError]):
    """Hands a broken sample over as a value.

    An exception of a loader process would come back wrapped into that process's traceback.
    """

    def __init__(self, items: MgmDataset) -> None:
        self._items = items

    def __getitem__(self, index: int) -> Item | InputError:
        try:
            return self._items[index]
        except InputError as error:
            return InputError(str(error))


class _CollateOrReport:
    """Makes a batch, or passes the first error on; a class, for the loader processes."""

    def __init__(self, collate: Callable[[Sequence[Item]], Batch]) -> None:
        self._collate = collate

    def __call__(self, items: Sequence[Item | InputError]) -> Batch | InputError:
        whole = [item for item in items if not isinstance(item, InputError)]
        errors = [item for item in items if isinstance(item, InputError)]
        return errors[0] if errors else self._collate(whole)


class Collate:
    """Makes padded batches; a class, because loader processes need it by name."""

    def __init__(self, pad_id: int, picture_px: int) -> None:
        """Remembers what padding needs."""
        self.pad_id, self.picture_px = pad_id, picture_px

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Pads items to a batch."""
        return collate(items, self.pad_id, self.picture_px)


def load_samples(
    experiment: Experiment, run: RunDir, process: Process, alive: Alive = lambda: None
) -> Samples:
    """Reads and checks the samples, all ranks sharing the work; calls ``alive`` meanwhile.

    Raises:
        InputError: files are missing, or more samples are broken than the run allows.
        ConfigError: the tokenizer does not fit the model, or there is less than one batch.
    """
    _make_builtin(experiment, process)
    tokenizer = _tokenizer(experiment)
    train = _dataset(experiment, experiment.data.train, tokenizer, run, process, alive)
    heldout = experiment.data.heldout and _dataset(
        experiment, experiment.data.heldout, tokenizer, run, process, alive
    )
    return Samples(
        train=train,
        heldout=heldout or None,
        order=SampleOrder(len(train), experiment.train.global_batch, experiment.train.seed),
        collate=Collate(pad_id(tokenizer), experiment.model.aux.picture_px),
    )


def batches(
    samples: Samples, experiment: Experiment, process: Process, first_step: int, last_step: int
) -> Iterator[Batch]:
    """This rank's micro batches from a step on, in order.

    The loader gets a generator of its own: drawing its seed from torch's would shift the
    dropout masks of a resumed run.

    Raises:
        InputError: a sample broke since the data was checked.
    """

    def indices() -> Iterator[list[int]]:
        for step in range(first_step, last_step):
            yield from samples.order.of_rank(
                step, process.rank, process.world_size, experiment.parallel.micro_batch
            )

    loader = DataLoader(
        _Reporting(samples.train),
        batch_sampler=indices(),
        num_workers=experiment.data.workers,
        collate_fn=_CollateOrReport(samples.collate),
        generator=Generator(),
        pin_memory=process.device.type == "cuda",
        worker_init_fn=watch_loader,
    )
    with blocked():  # Slurm may signal every process of a step: a loader process would die of it
        loaded = iter(loader)
    for batch in loaded:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def _make_builtin(experiment: Experiment, process: Process) -> None:
    if experiment.data.builtin != "demo":
        return
    complaint: list[str | None] = [None]
    if process.is_leader:
        from hpcjobs.data import demo

        try:
            demo.prepare(Path(experiment.data.root))
        except InputError as error:
            complaint[0] = str(error)
    dist.broadcast_object_list(complaint, src=0)
    if complaint[0]:
        raise InputError(complaint[0])


def _tokenizer(experiment: Experiment) -> Tokenizer:
    model = experiment.model
    tokenizer = load_tokenizer(Path(model.tokenizer or Path(model.path or ".") / "tokenizer.json"))
    tokens = max(tokenizer.get_vocab().values()) + 1
    if tokens > model.text.vocab:
        raise ConfigError(
            f"the tokenizer has {tokens} tokens, the model's embedding {model.text.vocab}: use the "
            f"model's own tokenizer"
        )
    return tokenizer


def _dataset(
    experiment: Experiment,
    name: str,
    tokenizer: Tokenizer,
    run: RunDir,
    process: Process,
    alive: Alive,
) -> MgmDataset:
    root, model = Path(experiment.data.root), experiment.model
    samples, malformed = read_samples(root / name)
    dataset = MgmDataset(
        samples=samples,
        tokenizer=tokenizer,
        pictures=root / experiment.data.pictures,
        picture_tokens=model.picture_tokens,
        picture_px=model.aux.picture_px,
        max_length=model.max_length,
    )
    bad = _known_bad(run, root / name, name, process)
    if bad is None:
        bad = [*malformed, *_check_together(dataset, experiment, process, alive)]
        limit = experiment.data.bad_samples_max
        _remember_bad(run, root / name, name, bad, len(bad) <= limit, process)
        refuse_too_many(bad, limit, name)
    return replace(dataset, samples=check.without(samples, bad))


def _check_together(
    dataset: MgmDataset, experiment: Experiment, process: Process, alive: Alive
) -> list[BadSample]:
    mine = check.check_samples(
        dataset, experiment.data.check, process.rank, process.world_size, alive=alive
    )
    everyone: list[list[BadSample] | None] = [None] * process.world_size
    dist.all_gather_object(everyone, mine)
    return sorted((bad for share in everyone for bad in share or []), key=lambda bad: bad.index)


def _known_bad(run: RunDir, path: Path, name: str, process: Process) -> list[BadSample] | None:
    """What an earlier attempt found in the same file; a resumed run must leave out the same.

    Rank 0 looks and tells the others, to whom the file system may show another moment.
    """
    answer: list[Any] = [None, None]
    if process.is_leader:
        try:
            answer[0] = _remembered(run, path, name)
        except InputError as error:
            answer[1] = str(error)
    dist.broadcast_object_list(answer, src=0)
    if answer[1]:
        raise InputError(answer[1])
    known: list[BadSample] | None = answer[0]
    return known


def _remembered(run: RunDir, path: Path, name: str) -> list[BadSample] | None:
    found = read_json(run.data_check).get(name) if run.data_check.exists() else None
    if found is None or not found.get("accepted"):
        return None
    if found["sha256"] == sha256(path):
        return [BadSample(**bad) for bad in found["bad"]]
    if committed_steps(run.checkpoints):
        raise InputError(
            f"{path} has changed since the run began, and going on would deal out other samples: "
            f"put the old file back, or start anew with another run_dir"
        )
    return None


def _remember_bad(
    run: RunDir, path: Path, name: str, bad: list[BadSample], accepted: bool, process: Process
) -> None:
    if process.is_leader:
        known = read_json(run.data_check) if run.data_check.exists() else {}
        known[name] = {
            "sha256": sha256(path),
            "accepted": accepted,
            "bad": [asdict(sample) for sample in bad],
        }
        write_json(run.data_check, known)
    dist.barrier()
