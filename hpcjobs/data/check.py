"""Looks at every sample before the first step, so that none vanishes silently later."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from hpcjobs.data.bad_sample import BadSample
from hpcjobs.data.dataset import MgmDataset
from hpcjobs.data.llava_json import Sample
from hpcjobs.data.picture import load_picture, picture_path
from hpcjobs.data.template import encode
from hpcjobs.run.errors import InputError

_PROBE_PX = 8
_AT_ONCE = 4096
"""Samples handed to the threads together: a waiting one costs about a kilobyte."""


def check_samples(
    dataset: MgmDataset,
    how: Literal["decode", "exists"],
    rank: int = 0,
    world_size: int = 1,
    threads: int = 8,
    alive: Callable[[], None] = lambda: None,
) -> list[BadSample]:
    """Encodes this rank's share of the samples and looks at their pictures.

    Args:
        dataset: all samples.
        how: ``decode`` reads every picture whole, ``exists`` only looks for the file.
        rank: which share.
        world_size: how many share the work.
        threads: pictures looked at side by side.
        alive: called now and then.

    Returns:
        The broken ones in the order of the samples.
    """
    share = list(dataset.samples)[rank::world_size]
    bad: list[BadSample] = []
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(share), _AT_ONCE):
            alive()
            part = share[first : first + _AT_ONCE]
            found = pool.map(lambda sample: _check(dataset, sample, how), part)
            bad += [sample for sample in found if sample is not None]
    return bad


def without(samples: Sequence[Sample], bad: Sequence[BadSample]) -> list[Sample]:
    """The samples that are not broken, in their order."""
    broken = {sample.index for sample in bad}
    return [sample for sample in samples if sample.index not in broken]


def _check(
    dataset: MgmDataset, sample: Sample, how: Literal["decode", "exists"]
) -> BadSample | None:
    try:
        encode(sample, dataset.tokenizer, dataset.picture_tokens, dataset.max_length)
        if sample.picture is not None and how == "decode":
            load_picture(dataset.pictures, sample.picture, _PROBE_PX)
        elif sample.picture is not None:
            picture_path(dataset.pictures, sample.picture)
    except InputError as error:
        return BadSample(sample.index, sample.id, str(error))
    return None
