"""What the nodes saw of a training that stands still, as files of the attempt."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpcjobs.run.beat import Beat
from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_json, write_json
from hpcjobs.run.layout import Attempt
from hpcjobs.run.stack_dump import Frame

GONE = "gone"
AT_THE_END = (1 << 62, 0)
_NOWHERE = (-1, -1)


@dataclass(frozen=True)
class RankView:
    """One rank at the moment of a hang."""

    rank: int
    host: str
    beat: Beat | None
    """None: it never beat."""
    silent_s: float
    state: str
    """Of the kernel: R, S, D, T, t; ``gone`` once it has ended, ``?`` where it is not known."""
    frame: Frame | None = None
    """Where its main thread is; None where it could not be asked."""
    loaders: tuple[str, ...] = ()
    """What its loader processes are at, other than waiting for orders."""

    @property
    def place(self) -> tuple[int, int]:
        """How far it has come; whoever is done waits for nobody and is waited for by nobody."""
        if self.beat is None:
            return _NOWHERE
        return AT_THE_END if self.beat.phase == "done" else self.beat.place

    @property
    def waits(self) -> bool | None:
        """Whether it waits for other ranks, by its stack; None where that does not tell.

        With a card the program only queues the collectives: it is found waiting anywhere that
        reads a result, so its stack speaks only where no such place is near.
        """
        if self.frame is None:
            return None
        if self.frame.communicates:
            return True
        with_card = self.beat is not None and self.beat.card_bytes > 0
        return None if with_card and self.frame.may_wait_for_card else False


@dataclass(frozen=True)
class HangReport:
    """What one node saw."""

    node: int
    host: str
    views: tuple[RankView, ...]


def write_report(path: Path, report: HangReport) -> None:
    """Writes what one node saw."""
    write_json(path, asdict(report))


def read_reports(attempt: Attempt) -> list[HangReport]:
    """What the nodes saw, by node; a file that cannot be read is left out."""
    found = []
    for path in sorted(attempt.path.glob("hang-node-*.json")):
        try:
            found.append(_report(read_json(path)))
        except (InputError, TypeError, KeyError):
            continue
    return sorted(found, key=lambda report: report.node)


def _report(raw: dict[str, Any]) -> HangReport:
    return HangReport(raw["node"], raw["host"], tuple(_view(view) for view in raw["views"]))


def _view(raw: dict[str, Any]) -> RankView:
    beat = Beat(**raw["beat"]) if raw["beat"] else None
    frame = Frame(**raw["frame"]) if raw["frame"] else None
    return RankView(**{**raw, "beat": beat, "frame": frame, "loaders": tuple(raw["loaders"])})
