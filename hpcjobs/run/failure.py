"""The words of a failure: the line that tells, and what of it is the same the next time."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TAIL_BYTES = 1 << 16
_LINE_CHARACTERS = 400
_ROOT_CHARACTERS = 200

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
# The last ones turn the direction of the text around them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_TELLS = re.compile(
    r"error|exception|fatal|killed|abort|segmentation|out of memory|no space left|cannot",
    re.IGNORECASE,
)
# What is written under a failure and is not the failure.
_ADVICE = re.compile(
    r"for debugging consider|compile with|device-side assertions|may be caused by|"
    r"original traceback|^\s*(?:at|in|from|file|frame) |^\s*\^+\s*$",
    re.IGNORECASE,
)
# How the end of a peer looks from another process: gloo, NCCL, the store, the watchdog.
_ECHO = re.compile(
    r"connection (?:was )?(?:reset|closed|refused)|broken pipe|socket (?:timeout|closed)|"
    r"connect(?:ion)? (?:timed out|timeout)|timed out waiting|remote process exited|"
    r"peer (?:closed|failure|process)|nccl (?:communicator was aborted|error)|ncclremoteerror|"
    r"ncclsystemerror|watchdog|collective operation timeout|heartbeat|"
    r"failed to (?:recv|receive|read)|store (?:is )?unreachable|another rank",
    re.IGNORECASE,
)

_MASKS = (
    (re.compile(r"0x[0-9a-fA-F]+"), "#"),
    (re.compile(r"(?:[A-Za-z]:)?(?<![\w])~?/[^\s'\",:;()\[\]]+"), "<path>"),
    (re.compile(r"\b[0-9a-fA-F]{8,}\b"), "#"),
    (re.compile(r"\d+"), "#"),
    (re.compile(r"\s+"), " "),
)


def one_clean_line(text: str) -> str:
    r"""The first line that says something, without control characters, at a bounded length.

    >>> one_clean_line("\n\x1b[31mValueError: no\x1b[0m picture\nmore")
    'ValueError: no picture'
    """
    for line in text.splitlines():
        clean = _CONTROL.sub(" ", _ESCAPES.sub("", line)).strip()
        if clean:
            return clean[:_LINE_CHARACTERS]
    return ""


def root_of(text: str) -> str:
    """A failure without numbers, addresses and paths, so that two attempts can be compared.

    >>> root_of("RuntimeError: [rank 3] bad value at 0x7f12 in /scratch/a b: 17 > 4.5")
    'RuntimeError: [rank #] bad value at # in <path> b: # > #.#'
    """
    line = one_clean_line(text)
    for pattern, mask in _MASKS:
        line = pattern.sub(mask, line)
    return line.strip()[:_ROOT_CHARACTERS]


def is_echo(text: str) -> bool:
    """Whether a process complains of the end of another one: then the culprit is elsewhere.

    >>> is_echo("RuntimeError: [gloo] Connection reset by peer"), is_echo("ValueError: 3")
    (True, False)
    """
    return _ECHO.search(text) is not None


def last_error_line(log: Path) -> str | None:
    """The last line of a log that tells of a failure; None where none does.

    A process that was killed has logged whatever it was at, which tells nothing. Only the end of
    the file is read: a log may be as large as the disk.
    """
    lines = map(one_clean_line, _tail(log))
    telling = [line for line in lines if _TELLS.search(line) and not _ADVICE.search(line)]
    return telling[-1] if telling else None


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode("utf-8", errors="replace").split("\n")
    except OSError:
        return []
