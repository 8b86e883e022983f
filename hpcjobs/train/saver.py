"""Saves checkpoints beside the training: copy, write in the background, agree, commit."""

import contextlib
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import distributed as dist

from hpcjobs.run.fence import fenced, staging_dir
from hpcjobs.run.files import PRIVATE_DIR, write_text
from hpcjobs.run.manifest import (
    BEST,
    FileSeal,
    Manifest,
    commit,
    committed_steps,
    prune,
    step_dir,
)
from hpcjobs.train.checkpoint import Progress
from hpcjobs.train.process import Process
from hpcjobs.train.snapshot import Buffers, Snapshot, take_snapshot, write_snapshot

Seals = dict[str, FileSeal]


@dataclass(frozen=True, slots=True)
class Saved:
    """A committed checkpoint."""

    step: int
    stall_s: float
    """The training stood still so long for it."""
    save_s: float
    """From the copy to the commit."""
    pruned: list[int]
    """Steps whose checkpoints were deleted."""


@dataclass(slots=True)
class _Save:
    """The save in flight: written by every rank, then committed by the leader."""

    step: int
    started: float
    work: Future[Any]
    stall_s: float = 0.0
    committing: bool = False


class Saver:
    """Saves one checkpoint at a time.

    The thread touches files only. Whatever needs all ranks happens in ``begin`` and ``advance``,
    which all ranks call at the same step boundary.
    """

    def __init__(
        self,
        engine: Any,  # noqa: ANN401
        checkpoints: Path,
        attempt: int,
        process: Process,
        keep: int,
        best: Callable[[Sequence[int]], list[int]] = lambda _: [],
    ) -> None:
        """Takes what every save of this attempt has in common.

        ``best`` picks those of the committed steps that are kept for their quality, best first.
        """
        self._engine, self._process, self._keep = engine, process, keep
        self._checkpoints, self._attempt, self._best = checkpoints, attempt, best
        self._staging = staging_dir(checkpoints, attempt)
        self._buffers: Buffers = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="save")
        self._save: _Save | None = None

    @property
    def step(self) -> int | None:
        """The step that is being saved; the same on all ranks."""
        return None if self._save is None else self._save.step

    @property
    def working(self) -> bool:
        """Whether this rank still writes."""
        return self._save is not None and not self._save.work.done()

    @property
    def failed(self) -> bool:
        """Whether this rank's part of the save went wrong."""
        return self._save is not None and self._save.work.done() and _error(self._save) is not None

    def begin(self, progress: Progress) -> None:
        """Copies the state of this step and starts to write it; no save may be in flight."""
        started = time.monotonic()
        snapshot = take_snapshot(self._engine, progress, self._process, self._buffers)
        work = self._thread.submit(self._write, snapshot, progress.step)
        self._save = _Save(progress.step, started, work)
        self._save.stall_s = time.monotonic() - started

    def advance(self) -> Saved | None:
        """Takes the save one phase on, once no rank is working or one has failed.

        Returns:
            What was committed; None while there is more to do.

        Raises:
            Exception: what went wrong on any rank, on all ranks; nothing was committed.
        """
        save = self._save
        if save is None:
            return None
        with _counted(save):
            outcomes = self._gather(save)
            if not save.committing:
                seals = {n: s for share in outcomes for n, s in sorted((share or {}).items())}
                save.committing = True
                save.work = self._thread.submit(self._commit, save.step, seals)
                return None
        self._save = None
        save_s = time.monotonic() - save.started
        return Saved(save.step, save.stall_s, save_s, outcomes[0])

    def finish(self) -> Saved | None:
        """Waits for the save in flight; None where there is none."""
        saved = None
        while self._save is not None:
            with _counted(self._save):
                _error(self._save)  # waits
            saved = self.advance()
        return saved

    def _write(self, snapshot: Snapshot, step: int) -> Seals:
        staged = self._staging / step_dir(self._checkpoints, step).name
        with fenced(self._checkpoints, self._attempt):
            staged.mkdir(mode=PRIVATE_DIR, exist_ok=True)  # never the staging directory itself
            return write_snapshot(snapshot, staged)

    def _commit(self, step: int, seals: Seals) -> list[int]:
        if not self._process.is_leader:
            return []
        staged = self._staging / step_dir(self._checkpoints, step).name
        manifest = Manifest(
            step=step,
            world_size=self._process.world_size,
            zero_stage=self._engine.zero_optimization_stage(),
            attempt=self._attempt,
            files=seals,
        )
        with fenced(self._checkpoints, self._attempt):
            commit(staged, manifest)
            best = self._best(committed_steps(self._checkpoints))
            if best:
                name = step_dir(self._checkpoints, best[0]).name
                write_text(self._checkpoints / BEST, f"{name}\n")
            return prune(self._checkpoints, self._keep, self._staging, best)

    def _gather(self, save: _Save) -> list[Any]:
        """What came of the phase on every rank; raises the first error on all of them."""
        error, result = None, None
        if save.work.done():
            error = _error(save)
            result = None if error else save.work.result()
        everyone: list[Any] = [None] * self._process.world_size
        dist.all_gather_object(everyone, (error and _portable(error), result))
        for failure, _ in everyone:
            if failure is not None:
                self._give_up(save)
                raise failure
        return [result for _, result in everyone]

    def _give_up(self, save: _Save) -> None:
        """Gives the space of a failed save back, also of files that a writer still holds open.

        It may have filled the disk, and the verdict needs room.
        """
        if self._process.is_leader:
            staged = self._staging / step_dir(self._checkpoints, save.step).name
            for path in staged.glob("*"):
                with contextlib.suppress(OSError):
                    os.truncate(path, 0)
            shutil.rmtree(staged, ignore_errors=True)


@contextlib.contextmanager
def _counted(save: _Save) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        save.stall_s += time.monotonic() - started


def _error(save: _Save) -> BaseException | None:
    """Waits for the end of the phase."""
    return save.work.exception()


def _portable(error: BaseException) -> BaseException:
    """An error that other ranks can read; the same one where it can be pickled."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:  # noqa: BLE001 - whatever a class may do when it is pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
