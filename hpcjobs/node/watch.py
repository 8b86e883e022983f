"""The watch over the training processes of one node: hangs end the attempt, alarms are said."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from hpcjobs.node.inquiry import Inquiry, state_of
from hpcjobs.node.lookout import Lookout
from hpcjobs.node.proc import end_marked_processes, view_process
from hpcjobs.node.silence import Silence, allowed_s
from hpcjobs.run.beat import BEATS_VARIABLE, beat_path, read_beat
from hpcjobs.run.files import make_private_dir
from hpcjobs.run.hang_report import GONE
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import RunDir
from hpcjobs.run.watch_config import read_settings

LOOK_EVERY_S = 1.0
ASK_PEERS_EVERY_S = 5.0
AWAKE_WITHIN_S = 30.0
"""A watcher that did not look for so long was itself stopped or starved."""
END_WITHIN_S = 10.0


def beats_environment(scratch: Path) -> dict[str, str]:
    """What the processes need in their environment to beat; makes the directory for it."""
    make_private_dir(_beats(scratch))
    return {BEATS_VARIABLE: str(_beats(scratch))}


def end_marked(scratch: Path) -> list[int]:
    """Kills whatever was started with this scratch directory, wherever it has gone since.

    Returns:
        Processes that do not die: they wait for a device or a dead file system.
    """
    left = end_marked_processes(f"{BEATS_VARIABLE}={_beats(scratch)}", END_WITHIN_S)
    if left:
        sys.stderr.write(f"hpcjobs: processes {left} do not die: they wait in the kernel\n")
    return left


def _beats(scratch: Path) -> Path:
    return scratch / "beats"


class Watch:
    """Looks at one node's ranks; the agent calls ``look`` in its loop."""

    def __init__(
        self,
        run: RunDir,
        attempt: int,
        node: int,
        launch: Launch,
        scratch: Path,
        pids: Mapping[int, int],
    ) -> None:
        """Begins to watch.

        Args:
            run: the run.
            attempt: its attempt.
            node: the number of this node.
            launch: the shape of the run, with the settings of the watch.
            scratch: the agent's directory, as it was given to ``beats_environment``.
            pids: the process that was started for each rank.
        """
        now_s = time.monotonic()
        self._attempt, self._node, self._nodes = run.attempt(attempt), node, launch.nodes
        self._settings = read_settings(launch.watch)
        self._beats, self._pids = _beats(scratch), dict(pids)
        self._silences = {rank: Silence(now_s) for rank in pids}
        self._next_look_s = now_s
        self._next_ask_s = now_s + ASK_PEERS_EVERY_S
        self._inquiry: Inquiry | None = None
        self._lookout = Lookout(run, attempt, node, launch.nodes, self._settings, pids)

    def look(self) -> bool:
        """Looks if it is time to; never waits.

        Returns:
            Whether there was a hang and all is written down: the processes may be killed.
        """
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return False
        self._next_look_s = now_s + LOOK_EVERY_S
        silent_s = {rank: self._listen(rank, now_s) for rank in self._pids}
        if self._inquiry is not None:
            return not self._inquiry.goes_on(now_s)
        if self._is_hang(silent_s) or self._peers_found_one(now_s):
            self._inquire(silent_s, now_s)
        elif self._settings.alarms:
            beats = {rank: silence.beat for rank, silence in self._silences.items()}
            self._lookout.look(beats, now_s)
        return False

    def close(self) -> None:
        """Ends what the alarms have started."""
        self._lookout.close()

    def _listen(self, rank: int, now_s: float) -> float:
        beat = read_beat(beat_path(self._beats, rank))
        return self._silences[rank].look(beat, now_s, AWAKE_WITHIN_S)

    def _is_hang(self, silent_s: Mapping[int, float]) -> bool:
        return self._settings.hang_s is not None and any(
            seconds > allowed_s(self._silences[rank].beat, self._settings)
            and state_of(view_process(self._pids[rank])) != GONE
            for rank, seconds in silent_s.items()
        )

    def _peers_found_one(self, now_s: float) -> bool:
        """Whether another node found a hang, which this one then bears witness to."""
        if self._nodes == 1 or now_s < self._next_ask_s:
            return False
        self._next_ask_s = now_s + ASK_PEERS_EVERY_S
        return any(self._attempt.hang(node).exists() for node in range(self._nodes))

    def _inquire(self, silent_s: Mapping[int, float], now_s: float) -> None:
        sys.stderr.write("hpcjobs: the training stands still; asking every process for its stack\n")
        silences = {rank: (self._silences[rank].beat, silent_s[rank]) for rank in self._pids}
        self._inquiry = Inquiry(
            self._attempt, self._node, self._nodes, self._beats, self._pids, silences, now_s
        )
