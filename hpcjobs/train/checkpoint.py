"""What a training goes on from: progress, and the newest checkpoint that can be believed."""

import hashlib
import random
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from hpcjobs.run.errors import InputError
from hpcjobs.run.manifest import (
    manifest_digest,
    newest_valid,
    read_manifest,
    set_aside_newer,
    wait_for_latest,
    wait_until_visible,
)
from hpcjobs.run.trust import refuse_untrusted
from hpcjobs.train.process import Process, seed_everything
from hpcjobs.train.reshape import load_reshaped

RNG_FILE = "rng-rank-{rank:05d}.pt"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands; travels in every checkpoint."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    heldout_loss_before: float | None = None


def restore(
    engine: Any,  # noqa: ANN401
    checkpoints: Path,
    process: Process,
    trusted: Collection[str] = (),
    seed: int = 0,
) -> tuple[Progress, list[str]]:
    """Loads the newest checkpoint that its manifest vouches for.

    Args:
        engine: DeepSpeed's.
        checkpoints: the run's.
        process: this rank.
        trusted: users and groups that may be able to write above the run (``cluster.trusted``).
        seed: the run's; a rank that the checkpoint has no random state for draws from it.

    Returns:
        The progress (of step 0 where the run has no checkpoint yet), and what is wrong with
        newer checkpoints that were passed over.

    Raises:
        InputError: checkpoints exist but none is intact (a fresh start would lose them
            silently), the newest changes between ZeRO stage 0 and another, or somebody else
            could have written them.
        TimeoutError: a rank does not see what rank 0 has chosen.
    """
    choice = _agree_on_checkpoint(checkpoints, process, trusted)
    if choice.refusal is not None:
        raise InputError(choice.refusal)
    if choice.name is None:
        return Progress(), []
    name, problems = choice.name, choice.problems
    # Verified above: written by this user, unchanged since. DeepSpeed reads its own pickles.
    saved = _load(engine, checkpoints / name, process)
    progress = Progress(**saved["progress"])
    rng = checkpoints / name / RNG_FILE.format(rank=process.rank)
    if rng.exists():
        _restore_rng(rng, process)
    else:
        _seed_newcomer(seed, progress.step, process.rank)
    return progress, problems


def _load(engine: Any, directory: Path, process: Process) -> dict[str, Any]:  # noqa: ANN401
    """Loads by DeepSpeed what it can load, and the rest by our own resharding.

    Raises:
        InputError: the ZeRO stages cannot be converted.
    """
    manifest = read_manifest(directory)
    parts, stage = manifest.world_size, manifest.zero_stage
    now = engine.zero_optimization_stage()
    if 0 in (stage, now) and stage != now:
        raise InputError(
            f"the checkpoint of step {manifest.step} is of ZeRO stage {stage}, this job of stage "
            f"{now}: stages 1 to 3 go on from one another, stage 0 only from itself"
        )
    if now != 0 and (parts, stage) != (process.world_size, now):
        return load_reshaped(engine, directory, stage, parts)
    path, client = engine.load_checkpoint(
        str(directory.parent), tag=directory.name, load_module_strict=False
    )
    if path is None:
        raise InputError(f"DeepSpeed did not load {directory}")
    saved: dict[str, Any] = client
    return saved


def _seed_newcomer(seed: int, step: int, rank: int) -> None:
    """Seeds a rank that did not exist when the checkpoint was written."""
    drawn = hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()
    seed_everything(int.from_bytes(drawn[:6], "big"), rank)


@dataclass(frozen=True, slots=True)
class _Choice:
    """What rank 0 tells the others to load; file systems may show them different directories."""

    name: str | None = None
    digest: str = ""
    """Of the manifest."""
    problems: list[str] = field(default_factory=list)
    refusal: str | None = None


def _agree_on_checkpoint(checkpoints: Path, process: Process, trusted: Collection[str]) -> _Choice:
    told: list[Any] = [None]
    if process.is_leader:
        try:
            told = [_choose(checkpoints, trusted)]
        except InputError as error:
            told = [_Choice(refusal=str(error))]
    dist.broadcast_object_list(told, src=0)
    choice: _Choice = told[0]
    if choice.name is not None:
        _refuse_another_view(checkpoints / choice.name, choice.digest, process)
    return choice


def _choose(checkpoints: Path, trusted: Collection[str]) -> _Choice:
    """Looks at owners and modes before any file, and at digests before any pickle."""
    refuse_untrusted(checkpoints, trusted)
    wait_for_latest(checkpoints)
    directory, problems = newest_valid(checkpoints)
    if directory is None and problems:
        raise InputError(
            f"no checkpoint is intact: {'; '.join(problems)}; put intact ones back, or start "
            f"anew with another run_dir"
        )
    if directory is None:
        return _Choice()
    if problems:
        set_aside_newer(checkpoints, read_manifest(directory).step)
    return _Choice(directory.name, manifest_digest(directory), problems)


def _refuse_another_view(directory: Path, digest: str, process: Process) -> None:
    """Every rank looks before any loads: one that loaded something else would go on unnoticed."""
    views: list[bool | None] = [None] * process.world_size
    dist.all_gather_object(views, wait_until_visible(directory, digest))
    if not all(views):
        blind = ", ".join(str(rank) for rank, sees in enumerate(views) if not sees)
        raise TimeoutError(f"rank {blind} does not see {directory} as rank 0 does")


def _restore_rng(path: Path, process: Process) -> None:
    state = torch.load(path, weights_only=True)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    if process.device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
