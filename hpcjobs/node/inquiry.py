"""What follows when a hang was found: stacks, a report, and a bounded time for the other nodes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from hpcjobs.node.proc import ProcessView, this_host, view_process
from hpcjobs.node.stacks import Dump, request_stacks
from hpcjobs.run.beat import Beat
from hpcjobs.run.files import write_text
from hpcjobs.run.hang_report import GONE, HangReport, RankView, write_report
from hpcjobs.run.layout import Attempt
from hpcjobs.run.stack_dump import main_thread

DUMP_WITHIN_S = 15.0
PEERS_WITHIN_S = 30.0
"""How long the other nodes have to find the same hang and write down what they see."""


class Inquiry:
    """Finds out what the ranks of one node are at."""

    def __init__(
        self,
        attempt: Attempt,
        node: int,
        nodes: int,
        beats_directory: Path,
        pids: Mapping[int, int],
        silences: Mapping[int, tuple[Beat | None, float]],
        now_s: float,
    ) -> None:
        """Asks every process for its stacks.

        Args:
            attempt: the attempt's files.
            node: the number of this node.
            nodes: how many nodes there are.
            beats_directory: where the ranks beat and dump.
            pids: the process that was started for each rank.
            silences: last beat and seconds of silence by rank.
            now_s: monotonic clock.
        """
        self._attempt, self._node, self._nodes = attempt, node, nodes
        self._silences, self._began_s = dict(silences), now_s
        self._requests = request_stacks(beats_directory, pids)
        self._written_s: float | None = None

    def goes_on(self, now_s: float) -> bool:
        """Takes the next step without waiting; returns whether it goes on."""
        if self._written_s is None:
            settled = [request.settled(now_s) for request in self._requests.values()]
            if all(settled) or now_s - self._began_s > DUMP_WITHIN_S:
                self._written_s = now_s
                try:
                    self._write()
                except OSError as error:  # it stays a hang where the disk has no room to say so
                    sys.stderr.write(f"hpcjobs: cannot write down the hang: {error}\n")
            return True
        return not self._others_have_written() and now_s - self._written_s < PEERS_WITHIN_S

    def _write(self) -> None:
        host, views = this_host(), []
        for rank, request in self._requests.items():
            dumps = request.dumps()
            write_text(self._attempt.stacks(rank), stack_text(dumps, request.family))
            beat, silent_s = self._silences[rank]
            views.append(_view(rank, host, beat, silent_s, request.family, dumps))
        write_report(self._attempt.hang(self._node), HangReport(self._node, host, tuple(views)))

    def _others_have_written(self) -> bool:
        others = (node for node in range(self._nodes) if node != self._node)
        return all(self._attempt.hang(node).exists() for node in others)


def state_of(view: ProcessView | None) -> str:
    """The kernel's letter; ``gone`` for a process that has ended."""
    return GONE if view is None or view.state in "ZX" else view.state


def stack_text(dumps: list[Dump], family: list[ProcessView]) -> str:
    """The dumps, headed by the processes and their states, for a person to read."""
    states = ", ".join(f"{member.pid} {member.state}" for member in family) or "none"
    parts = [f"processes and their states: {states}\n"]
    if not dumps:
        parts.append("no process answered: none can that is stopped or waits for a device\n")
    parts += [f"\n--- {dump.file}\n{dump.text}" for dump in dumps]
    return "".join(parts)


def _view(
    rank: int,
    host: str,
    beat: Beat | None,
    silent_s: float,
    family: list[ProcessView],
    dumps: list[Dump],
) -> RankView:
    own = [main_thread(dump.text) for dump in dumps if not dump.is_loader]
    return RankView(
        rank,
        host,
        beat,
        round(silent_s, 1),
        _own_state(beat, family),
        own[0][0] if own and own[0] else None,
        tuple(_loaders(beat, family, dumps)),
    )


def _own_state(beat: Beat | None, family: list[ProcessView]) -> str:
    """The state of the process that beats, or before it does of the one that was started."""
    if not family or beat is None:
        return state_of(family[0] if family else None)
    own = [member for member in family if member.pid == beat.pid]
    if not own:
        return "?"
    # A short wait for a page looks like one for a dead disk: it counts if it still goes on.
    return state_of(view_process(beat.pid) if own[0].state == "D" else own[0])


def _loaders(beat: Beat | None, family: list[ProcessView], dumps: list[Dump]) -> list[str]:
    """What the loader processes are at, other than waiting for orders."""
    children = [member for member in family if beat is not None and member.parent == beat.pid]
    stuck = [f"{child.pid} in state {child.state}" for child in children if child.state in "TtDZ"]
    stacks = [main_thread(dump.text) for dump in dumps if dump.is_loader]
    frames = [stack[0] for stack in stacks if stack]
    busy = [f"in {frame}" for frame in frames if not frame.is_idle_loader]
    return stuck + list(dict.fromkeys(busy))  # several are often stuck at the same place
