"""Checkpoints of the DeepSpeed engine under the commit protocol of the run directory."""

import contextlib
import os
import random
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from hpcjobs.run.errors import InputError
from hpcjobs.run.files import make_private_dir
from hpcjobs.run.manifest import (
    FileSeal,
    Manifest,
    commit,
    newest_valid,
    prune,
    read_manifest,
    seal,
    set_aside_newer,
    step_dir,
    sweep,
)
from hpcjobs.train.process import Process

_RNG = "rng-rank-{rank:05d}.pt"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands; travels in every checkpoint."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    heldout_loss_before: float | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save did."""

    directory: Path
    save_s: float
    pruned: list[int]


def save(
    engine: Any,  # noqa: ANN401
    checkpoints: Path,
    progress: Progress,
    process: Process,
    attempt: int,
    keep: int,
) -> Saved:
    """Saves on all ranks and commits: shards, sync, manifest, rename, then pruning.

    Frozen weights are left out: they come from the model directory or the seed.
    """
    started = time.monotonic()
    partial = checkpoints / f"step-{progress.step:08d}.partial"
    try:
        pruned = _write_and_commit(engine, partial, progress, process, attempt, keep)
    except BaseException:
        if process.is_leader:  # it may have filled the disk, and the verdict needs room
            _discard(partial)
        raise
    final = step_dir(checkpoints, progress.step)
    return Saved(final, time.monotonic() - started, pruned)


def _write_and_commit(
    engine: Any,  # noqa: ANN401
    partial: Path,
    progress: Progress,
    process: Process,
    attempt: int,
    keep: int,
) -> list[int]:
    checkpoints = partial.parent
    if process.is_leader:
        shutil.rmtree(partial, ignore_errors=True)
        make_private_dir(partial)
    dist.barrier()
    engine.save_checkpoint(
        str(checkpoints),
        tag=partial.name,
        client_state={"progress": asdict(progress)},
        save_latest=False,
        exclude_frozen_parameters=True,
    )
    torch.save(_rng_state(process), partial / _RNG.format(rank=process.rank))
    dist.barrier()
    seals = _gather_seals(_seal_share(partial, process), process)
    pruned: list[int] = []
    if process.is_leader:
        manifest = Manifest(
            step=progress.step,
            world_size=process.world_size,
            zero_stage=engine.zero_optimization_stage(),
            attempt=attempt,
            files=seals,
        )
        commit(partial, manifest)
        pruned = prune(checkpoints, keep)
    dist.barrier()
    return pruned


def _discard(partial: Path) -> None:
    """Gives the space of a failed save back, also of files that a writer still holds open."""
    for path in partial.glob("*"):
        with contextlib.suppress(OSError):
            os.truncate(path, 0)
    shutil.rmtree(partial, ignore_errors=True)


def restore(engine: Any, checkpoints: Path, process: Process) -> tuple[Progress, list[str]]:  # noqa: ANN401
    """Loads the newest checkpoint that its manifest vouches for.

    Returns:
        The progress (of step 0 where the run has no checkpoint yet), and what is wrong with
        newer checkpoints that were passed over.

    Raises:
        InputError: checkpoints exist but none is intact (a fresh start would lose them
            silently), or the newest is of another world size or ZeRO stage.
    """
    name, problems = _agree_on_checkpoint(checkpoints, process)
    if name is None:
        if problems:
            raise InputError(
                f"no checkpoint is intact: {'; '.join(problems)}; put intact ones back, or start "
                f"anew with another run_dir"
            )
        return Progress(), []
    manifest = read_manifest(checkpoints / name) if process.is_leader else None
    _refuse_other_shape(manifest, engine, process)
    # Verified above: written by this user, unchanged since. DeepSpeed reads its own pickles.
    path, client = engine.load_checkpoint(str(checkpoints), tag=name, load_module_strict=False)
    if path is None:
        raise InputError(f"DeepSpeed did not load {checkpoints / name}")
    _restore_rng(checkpoints / name / _RNG.format(rank=process.rank), process)
    return Progress(**client["progress"]), problems


def _seal_share(partial: Path, process: Process) -> dict[str, FileSeal]:
    """Syncs and digests this rank's share of the files, so that large ones go in parallel."""
    names = sorted(path.name for path in partial.iterdir())
    return {name: seal(partial / name) for name in names[process.rank :: process.world_size]}


def _gather_seals(mine: dict[str, FileSeal], process: Process) -> dict[str, FileSeal]:
    everyone: list[dict[str, FileSeal] | None] = [None] * process.world_size
    dist.all_gather_object(everyone, mine)
    return {name: value for share in everyone if share for name, value in sorted(share.items())}


def _agree_on_checkpoint(checkpoints: Path, process: Process) -> tuple[str | None, list[str]]:
    """Rank 0 chooses and tells the others: file systems may show them different directories."""
    choice: list[Any] = [None, []]
    if process.is_leader:
        sweep(checkpoints)
        directory, problems = newest_valid(checkpoints)
        if directory is not None and problems:
            set_aside_newer(checkpoints, read_manifest(directory).step)
        choice = [directory and directory.name, problems]
    dist.broadcast_object_list(choice, src=0)
    return choice[0], choice[1]


def _refuse_other_shape(manifest: Manifest | None, engine: Any, process: Process) -> None:  # noqa: ANN401
    complaint: list[str | None] = [None]
    if manifest is not None:
        saved = (manifest.world_size, manifest.zero_stage)
        now = (process.world_size, engine.zero_optimization_stage())
        if saved != now:
            complaint[0] = (
                f"the checkpoint of step {manifest.step} is of world size {saved[0]} and ZeRO "
                f"stage {saved[1]}, this job of {now[0]} and {now[1]}: continue with the same shape"
            )
    dist.broadcast_object_list(complaint, src=0)
    if complaint[0]:
        raise InputError(complaint[0])


def _rng_state(process: Process) -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
    }
    if process.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_rng(path: Path, process: Process) -> None:
    state = torch.load(path, weights_only=True)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    if process.device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
