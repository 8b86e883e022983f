"""Samples what alarms are made of, on every node; the first node says them in the run's events."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hpcjobs.node.gpu_use import CardUse
from hpcjobs.node.memory_watch import MemoryWatch
from hpcjobs.node.proc import families, this_host
from hpcjobs.run.alarms import (
    Alarm,
    Ledger,
    Reading,
    compute_s_a_lap,
    data_wait_alarm,
    data_wait_share,
    idle_card_alarms,
    straggler_alarms,
)
from hpcjobs.run.beat import Beat
from hpcjobs.run.errors import InputError
from hpcjobs.run.events import record_event
from hpcjobs.run.files import read_json, write_json
from hpcjobs.run.layout import RunDir
from hpcjobs.run.watch_config import WatchSettings

SAMPLE_EVERY_S = 30.0
_SAMPLES_A_WINDOW = 20
_WARM_UP_LAPS = 3


class Lookout:
    """The alarms of one node. It ends nothing, and what it cannot read it leaves out."""

    def __init__(
        self,
        run: RunDir,
        attempt: int,
        node: int,
        nodes: int,
        settings: WatchSettings,
        pids: Mapping[int, int],
    ) -> None:
        """Takes no sample yet; arguments as of ``Watch``."""
        self._run, self._attempt, self._node, self._nodes = run, attempt, node, nodes
        self._settings, self._pids = settings, dict(pids)
        self._every_s = min(SAMPLE_EVERY_S, settings.window_s / _SAMPLES_A_WINDOW)
        self._kept = 2 + int(settings.window_s / self._every_s)
        self._sampled_s = float("-inf")
        self._readings: dict[int, deque[Reading]] = {r: deque(maxlen=self._kept) for r in pids}
        self._used: dict[str, deque[tuple[float, float]]] = {}
        self._memory = MemoryWatch(os.environ)
        self._cards = CardUse(os.environ)
        self._ledger = Ledger()

    def look(self, beats: Mapping[int, Beat | None], now_s: float) -> None:
        """Takes a sample if one is due, once every rank has warmed up, and says what is new.

        Args:
            beats: the last beat of every rank of this node.
            now_s: monotonic clock.
        """
        training = {
            rank: beat
            for rank, beat in beats.items()
            if beat is not None and beat.lap > _WARM_UP_LAPS and beat.phase != "done"
        }
        if len(training) < len(beats) or now_s - self._sampled_s < self._every_s:
            return
        self._sampled_s = now_s
        self._note_cards(now_s)
        self._note(training, now_s)
        here = {"host": this_host(), "paces": self._paces(), "alarms": self._here(training)}
        try:
            self._tell(here)
        except OSError:
            return  # a full or absent disk is told by those that must write to it

    def close(self) -> None:
        """Leaves no helper process behind."""
        self._cards.close()

    def _note_cards(self, now_s: float) -> None:
        """Takes the answer to the last question, and asks the next."""
        for card, percent in (self._cards.answer(now_s) or {}).items():
            self._used.setdefault(card, deque(maxlen=self._kept)).append((now_s, percent))
        self._cards.ask(now_s)

    def _note(self, beats: Mapping[int, Beat], now_s: float) -> None:
        members = families(self._pids.values())
        held = {r: sum(view.memory_bytes for view in members[self._pids[r]]) for r in beats}
        for rank, beat in beats.items():
            self._readings[rank].append(Reading(now_s, beat.lap, beat.data_s, beat.compute_s))
        self._memory.note(beats, held, now_s)

    def _paces(self) -> dict[str, float | None]:
        window_s = self._settings.window_s
        return {str(rank): compute_s_a_lap(r, window_s) for rank, r in self._readings.items()}

    def _here(self, beats: Mapping[int, Beat]) -> list[dict[str, Any]]:
        host, settings = this_host(), self._settings
        shares = {
            rank: data_wait_share(readings, settings.window_s)
            for rank, readings in self._readings.items()
        }
        waits = data_wait_alarm(shares, host, settings)
        found = [] if waits is None else [waits]
        found += idle_card_alarms(self._used, host, settings)
        return [asdict(alarm) for alarm in found + self._memory.alarms(beats)]

    def _tell(self, here: dict[str, Any]) -> None:
        """Every node writes its own file; the first alone appends to the events.

        Appends from several hosts to one file of a network file system would mix.
        """
        attempt = self._run.attempt(self._attempt)
        if self._nodes > 1:
            write_json(attempt.watch(self._node), here)
        if self._node != 0:
            return
        seen = [here, *(self._of_node(node) for node in range(1, self._nodes))]
        alarms = [Alarm(**raw) for said in seen for raw in said["alarms"]]
        paces = {int(rank): pace for said in seen for rank, pace in said["paces"].items()}
        new, over = self._ledger.update([*alarms, *straggler_alarms(paces, self._settings)])
        for kind, which in (("alarm", new), ("alarm_cleared", over)):
            for alarm in which:
                record_event(self._run, kind, attempt=self._attempt, **asdict(alarm))

    def _of_node(self, node: int) -> dict[str, Any]:
        try:
            said: dict[str, Any] = read_json(self._run.attempt(self._attempt).watch(node))
        except InputError:
            return {"alarms": [], "paces": {}}
        return said
