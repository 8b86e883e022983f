"""The jobs of one run that wait or run, found by their batch script: by whomever they were sent."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from hpcjobs.node.slurm import Run, run_command
from hpcjobs.run.layout import RunDir

_SEPARATOR = "\x1f"  # in no path that a batch script can name
_FORMAT = _SEPARATOR.join(("%i", "%T", "%o", "%k"))
_PARTS = 4


@dataclass(frozen=True)
class QueuedJob:
    """A job of this user in Slurm's queue."""

    job_id: str
    state: str
    command: str
    """The batch script's path as it was given, and its arguments."""
    comment: str


def parse_queue(text: str) -> list[QueuedJob]:
    r"""Reads the lines of ``squeue``; what is no such line is left out.

    >>> parse_queue("7\x1fPENDING\x1f/r/job.sbatch\x1f(null)\n\n")
    [QueuedJob(job_id='7', state='PENDING', command='/r/job.sbatch', comment='(null)')]
    """
    lines = (line.split(_SEPARATOR, _PARTS - 1) for line in text.split("\n"))
    return [QueuedJob(*parts) for parts in lines if len(parts) == _PARTS and parts[0]]


def jobs_of(run: RunDir, but: str | None = None, ask: Run = run_command) -> list[str] | None:
    """The ids of the jobs that wait or run with this run's batch script.

    Args:
        run: the run.
        but: a job that does not count: the one that asks.
        ask: runs a command.

    Returns:
        None where the controller does not answer.
    """
    answer = ask(["squeue", "--noheader", f"--user={os.getuid()}", f"--format={_FORMAT}"])
    if answer.returncode != 0:
        return None
    found = [job for job in parse_queue(answer.stdout) if runs_script(job.command, run.script)]
    return [job.job_id for job in found if job.state != "COMPLETING" and job.job_id != but]


def runs_script(command: str, script: Path) -> bool:
    """Says whether a job's command is this script, perhaps by another spelling of its path."""
    if command == str(script) or command.startswith(f"{script} "):
        return True
    with contextlib.suppress(OSError, ValueError):
        return Path(command).name == script.name and Path(command).samefile(script)
    return False
