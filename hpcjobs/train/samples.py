"""The run's samples: made or read, checked once, and dealt out the same for every world size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer
from torch import Generator, Tensor
from torch import distributed as dist
from torch.utils.data import DataLoader

from hpcjobs.data import check
from hpcjobs.data.bad_sample import BadSample, refuse_too_many
from hpcjobs.data.dataset import Item, MgmDataset, collate
from hpcjobs.data.llava_json import read_samples
from hpcjobs.data.order import SampleOrder
from hpcjobs.data.template import load_tokenizer, pad_id
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.files import read_json, write_json
from hpcjobs.run.layout import RunDir
from hpcjobs.train.process import Process

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Samples:
    """What a run trains on, and what it is measured with."""

    train: MgmDataset
    heldout: MgmDataset | None
    order: SampleOrder
    collate: Callable[[Sequence[Item]], Batch]


class Collate:
    """Makes padded batches; a class, because loader processes need it by name."""

    def __init__(self, pad_id: int, picture_px: int) -> None:
        """Remembers what padding needs."""
        self.pad_id, self.picture_px = pad_id, picture_px

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Pads items to a batch."""
        return collate(items, self.pad_id, self.picture_px)


def load_samples(experiment: Experiment, run: RunDir, process: Process) -> Samples:
    """Reads and checks the samples, all ranks sharing the work.

    Raises:
        InputError: files are missing, or more samples are broken than the run allows.
        ConfigError: the tokenizer does not fit the model, or there is less than one batch.
    """
    _make_builtin(experiment, process)
    tokenizer = _tokenizer(experiment)
    train = _dataset(experiment, experiment.data.train, tokenizer, run, process)
    heldout = experiment.data.heldout and _dataset(
        experiment, experiment.data.heldout, tokenizer, run, process
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
    """

    def indices() -> Iterator[list[int]]:
        for step in range(first_step, last_step):
            yield from samples.order.of_rank(
                step, process.rank, process.world_size, experiment.parallel.micro_batch
            )

    loader = DataLoader(
        samples.train,
        batch_sampler=indices(),
        num_workers=experiment.data.workers,
        collate_fn=samples.collate,
        generator=Generator(),
        pin_memory=process.device.type == "cuda",
    )
    return iter(loader)


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
    if tokenizer.get_vocab_size() > model.text.vocab:
        raise ConfigError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model's embedding "
            f"{model.text.vocab}: use the model's own tokenizer"
        )
    return tokenizer


def _dataset(
    experiment: Experiment, name: str, tokenizer: Tokenizer, run: RunDir, process: Process
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
    bad = _known_bad(run, root / name)
    if bad is None:
        bad = [*malformed, *_check_together(dataset, experiment, process)]
        refuse_too_many(bad, experiment.data.bad_samples_max, name)
        _remember_bad(run, root / name, bad, process)
    return replace(dataset, samples=check.without(samples, bad))


def _check_together(
    dataset: MgmDataset, experiment: Experiment, process: Process
) -> list[BadSample]:
    mine = check.check_samples(dataset, experiment.data.check, process.rank, process.world_size)
    everyone: list[list[BadSample] | None] = [None] * process.world_size
    dist.all_gather_object(everyone, mine)
    return sorted((bad for share in everyone for bad in share or []), key=lambda bad: bad.index)


def _known_bad(run: RunDir, path: Path) -> list[BadSample] | None:
    """What an earlier attempt found in the same file; a resumed run must leave out the same."""
    if not run.data_check.exists():
        return None
    found = read_json(run.data_check).get(path.name)
    if found is None or found["bytes"] != path.stat().st_size:
        return None
    return [BadSample(**bad) for bad in found["bad"]]


def _remember_bad(run: RunDir, path: Path, bad: list[BadSample], process: Process) -> None:
    if process.is_leader:
        known = read_json(run.data_check) if run.data_check.exists() else {}
        known[path.name] = {
            "bytes": path.stat().st_size,
            "bad": [asdict(sample) for sample in bad],
        }
        write_json(run.data_check, known)
    dist.barrier()
