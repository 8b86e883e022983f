"""Follows how much memory the processes of a node hold, in the host and on each rank's card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from hpcjobs.node.proc import memory_limit_bytes, this_host
from hpcjobs.run.alarms import Alarm
from hpcjobs.run.alarms_memory import Level, steady_growth, thinned
from hpcjobs.run.beat import Beat


class MemoryWatch:
    """Remembers the levels since the warm-up, and finds those that grow towards their limit."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Reads the limit of this node's host memory."""
        self._host_limit_bytes = memory_limit_bytes(environment)
        self._host: list[Level] = []
        self._cards: dict[int, list[Level]] = {}
        self._held: dict[int, list[int]] = {}

    def note(self, beats: Mapping[int, Beat], held_bytes: Mapping[int, int], now_s: float) -> None:
        """Adds a sample of all ranks of the node.

        Args:
            beats: every rank's last beat.
            held_bytes: host memory of every rank with its loaders.
            now_s: monotonic clock.
        """
        step = min(beat.step for beat in beats.values())
        self._host = thinned([*self._host, Level(step, now_s, sum(held_bytes.values()))])
        for rank, beat in beats.items():
            self._held.setdefault(rank, [held_bytes[rank], 0])[1] = held_bytes[rank]
            if beat.card_bytes:
                level = Level(beat.step, now_s, beat.reserved_bytes)
                self._cards[rank] = thinned([*self._cards.get(rank, []), level])

    def alarms(self, beats: Mapping[int, Beat]) -> list[Alarm]:
        """What would run out before the training's end."""
        steps = max((beat.steps for beat in beats.values()), default=0)
        found = self._host_alarm(steps)
        for rank, levels in self._cards.items():
            growth = steady_growth(levels, beats[rank].card_bytes, steps)
            if growth is not None:
                text = f"memory of rank {rank}'s card {growth}"
                found.append(Alarm("gpu_memory", f"rank {rank}", text, asdict(growth)))
        return found

    def _host_alarm(self, steps: int) -> list[Alarm]:
        growth = steady_growth(self._host, self._host_limit_bytes, steps)
        if growth is None:
            return []
        host = this_host()
        most = max(self._held, key=lambda rank: self._held[rank][1] - self._held[rank][0])
        text = f"host memory on {host} {growth}; rank {most} and its loaders grew most"
        return [Alarm("host_memory", host, text, {**asdict(growth), "rank": most})]
