"""Runs a build beside its log, and reads from its lines where it stands and why it failed."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcjobs.login.build_progress import BuildProgress, stage_of
from hpcjobs.run.files import PRIVATE_FILE

_PATIENCE_S = 20.0
_SHOWN = 400
_ERROR = re.compile(r"\b(error|fatal|failed|no space left|not found)\b|\bE: ", re.IGNORECASE)
# The program's last line repeats that something failed, not what.
_ONLY_THAT = re.compile(r"^INFO:|^FATAL:\s+(While performing build|Failed to execute %)")


def watch_build(
    words: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    log: Path,
    progress: BuildProgress,
) -> int:
    """Runs a build to its end; returns its exit code.

    Args:
        words: the command.
        directory: the definition's own: it names files beside it.
        environment: of the command.
        log: takes all that it says, with the time; private.
        progress: is told when a stage begins.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    with (
        os.fdopen(descriptor, "w", encoding="utf-8") as written,
        subprocess.Popen(
            list(words),
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # it is ended from here, with all its processes
            umask=0o022,  # an image's files must be readable inside, whatever is private out here
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                written.write(f"{time.strftime('%H:%M:%S')} {line}")
                written.flush()
                if stage := stage_of(line):
                    progress.stage(stage)
            return process.wait()
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends what an interruption left running: a terminal's own signal can be lost on the way."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)


def reason_in(text: str) -> str:
    r"""The last line of a build's log that says why it failed, as far as one can tell.

    >>> reason_in("10:00:00 E: no such package\n10:00:01 FATAL: While performing build: exit 1\n")
    'E: no such package'
    """
    told = [line[9:].strip() for line in text.splitlines() if line[9:].strip()]
    errors = [line for line in told if _ERROR.search(line) and not _ONLY_THAT.search(line)]
    return (errors or told or ["it said nothing"])[-1].removeprefix("FATAL:").strip()[:_SHOWN]
