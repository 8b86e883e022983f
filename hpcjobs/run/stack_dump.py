"""Reads what faulthandler writes: where a process's threads were."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEADER = re.compile(r"(?:Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):")
_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')
_COMMUNICATION = re.compile(r"(^|/)(torch/distributed|deepspeed/comm)/")
_QUEUES_CARD_WORK = re.compile(r"(^|/)(torch|deepspeed|hpcjobs/train|hpcjobs/evaluate)/")
_IDLE_LOADER = re.compile(
    r"(^|/)(multiprocessing/(queues|connection|synchronize)|selectors|torch/utils/data/.*worker)"
    r"\.py$"
)


@dataclass(frozen=True)
class Frame:
    """One line of a stack."""

    file: str
    line: int | None
    function: str

    def __str__(self) -> str:
        """The short form, with the last two parts of the path.

        >>> str(Frame("/lib/PIL/Image.py", 3218, "open"))
        'open at PIL/Image.py:3218'
        """
        return f"{self.function} at {self.place}:{'?' if self.line is None else self.line}"

    @property
    def place(self) -> str:
        """The file by the last two parts of its path, as it is the same on every machine."""
        return "/".join(self.file.split("/")[-2:])

    @property
    def communicates(self) -> bool:
        """Whether it waits for other ranks."""
        return _COMMUNICATION.search(self.file) is not None

    @property
    def may_wait_for_card(self) -> bool:
        """Whether it may wait for a card, which in turn may wait for other ranks."""
        return _QUEUES_CARD_WORK.search(self.file) is not None

    @property
    def is_idle_loader(self) -> bool:
        """Whether a loader process only waits for its next order."""
        return _IDLE_LOADER.search(self.file) is not None


def main_thread(dump: str) -> list[Frame]:
    r"""The stack of the main thread, innermost frame first; empty where the dump has none.

    faulthandler writes the newest thread first and the main thread last.

    >>> text = 'Current thread 0x7f (most recent call first):\n  File "a.py", line 3 in f\n'
    >>> main_thread(text)
    [Frame(file='a.py', line=3, function='f')]
    """
    frames: list[Frame] = []
    for line in dump.splitlines():
        if _HEADER.fullmatch(line):
            frames = []
        elif match := _FRAME.fullmatch(line):
            file, number, function = match.groups()
            frames.append(Frame(file, int(number) if number.isdigit() else None, function))
    return frames
