"""The heartbeat of a training process: where it is, told to the agent of its node.

A beat is one write of a fixed record into a file on the node's own disk, which costs some
microseconds (benchmarks/heartbeat.py). It never fails the training: a beat that cannot be
written is a beat that the agent misses. No torch is imported here, so that beats begin before it.
"""

import contextlib
import faulthandler
import os
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from hpcjobs.run.beat import BEATS_VARIABLE, Beat, beat_path, dump_path, encode_beat
from hpcjobs.run.files import PRIVATE_FILE
from hpcjobs.train.card_clock import CardClock, card_memory

_RECENT_LAPS = 32
_LAPS_FOR_MEDIAN = 3
_LOOK_AT_MEMORY_EVERY_S = 1.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Silent:
    """The heartbeat of a process that nobody watches: it does nothing."""

    watched = False

    def lap(self, step: int, steps: int) -> None:
        """Begins a turn of the training loop; every rank, at the same point.

        Args:
            step: optimizer steps that are complete.
            steps: optimizer steps of the whole training.
        """

    def enter(self, phase: str, micro: int = 0) -> None:
        """Begins a phase; every rank must make the same calls in the same order.

        Whoever made fewer of them when the training stands still is the one that the others
        wait for.
        """

    def alive(self) -> None:
        """Says that the phase goes on; how often may differ between the ranks."""


class Heartbeat(Silent):
    """Writes the beats of one rank."""

    watched = True

    def __init__(self, path: Path, rank: int) -> None:
        """Opens the file and beats for the first time.

        Raises:
            OSError: the directory cannot be written.
        """
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        self._memory_file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._rank, self._pid = rank, os.getpid()
        self._sequence = self._lap = self._point = self._micro = self._step = self._steps = 0
        self._phase = "start"
        self._since = self._lap_began = time.monotonic()
        self._data_s = self._compute_s = 0.0
        self._laps: deque[float] = deque(maxlen=_RECENT_LAPS)
        self._step_s: float | None = None
        self._memory = (0, 0, 0, 0)
        self._memory_at = -_LOOK_AT_MEMORY_EVERY_S
        self._card = CardClock()
        self._write(self._since)

    def lap(self, step: int, steps: int) -> None:
        """Begins a turn of the training loop."""
        now = time.monotonic()
        self._compute_s += self._card.lap_s()
        if self._lap:
            self._laps.append(now - self._lap_began)
        if len(self._laps) >= _LAPS_FOR_MEDIAN:
            self._step_s = statistics.median(self._laps)
        self._lap, self._point, self._lap_began = self._lap + 1, 0, now
        self._step, self._steps = step, steps
        self._begin("collective", 0, now)

    def enter(self, phase: str, micro: int = 0) -> None:
        """Begins a phase."""
        self._point += 1
        self._begin(phase, micro, time.monotonic())

    def alive(self) -> None:
        """Says that the phase goes on."""
        self._write(time.monotonic())

    def _begin(self, phase: str, micro: int, now: float) -> None:
        """Books the time of the phase that ends, and writes the one that begins."""
        ended, took_s = self._phase, now - self._since
        if ended == "data":
            self._data_s += took_s
        elif ended == "forward":
            self._compute_s += self._card.stop(took_s)
        if phase == "forward":
            self._card.start()
        self._phase, self._micro, self._since = phase, micro, now
        self._write(now)

    def _write(self, now: float) -> None:
        if os.getpid() != self._pid:
            return  # a loader's copy of this object must not speak for its parent
        self._sequence += 1
        if now - self._memory_at >= _LOOK_AT_MEMORY_EVERY_S:
            self._memory_at = now
            self._memory = (self._resident_bytes(), *card_memory())
        beat = Beat(
            self._rank, self._pid, self._sequence, self._lap, self._point, self._phase,
            self._micro, self._step, self._steps, now, self._step_s, self._data_s,
            self._compute_s, *self._memory,
        )  # fmt: skip
        with contextlib.suppress(OSError):
            os.pwrite(self._file, encode_beat(beat), 0)

    def _resident_bytes(self) -> int:
        return int(os.pread(self._memory_file, 256, 0).split()[1]) * _PAGE_BYTES


SILENT = Silent()


def open_heartbeat(environment: Mapping[str, str], rank: int) -> Silent:
    """Begins to beat where an agent listens, and to dump all stacks on SIGUSR1.

    The dump is made in C and needs no interpreter lock, so it works while the process is stuck
    in a collective, in a blocking call or in a loop that never lets go; not while it is stopped.
    """
    place = environment.get(BEATS_VARIABLE)
    if not place:
        return SILENT
    try:
        _dump_on_request(dump_path(Path(place), rank))
        return Heartbeat(beat_path(Path(place), rank), rank)
    except OSError as error:
        sys.stderr.write(f"no heartbeat: {error}\n")
        return SILENT


def watch_loader(worker: int) -> None:
    """Lets a loader process answer a request for its stacks too, in a file of its own."""
    place, rank = os.environ.get(BEATS_VARIABLE), os.environ.get("RANK", "")
    if place and rank.isdigit():
        with contextlib.suppress(OSError):
            _dump_on_request(dump_path(Path(place), int(rank), worker))


_dump_files: list[TextIO] = []
"""faulthandler keeps only the number of the descriptor: the file must not be collected."""


def _dump_on_request(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE_FILE)
    file = os.fdopen(descriptor, "w", encoding="utf-8")
    _dump_files[:] = [file]
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True, chain=False)
