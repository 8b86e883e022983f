"""The questions that a node puts to Slurm; every answer may also be «not known»."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]

_FIELD = re.compile(r"(?:^|\s)(JobState|Reason|PreemptTime|Restarts)=(\S+)")
_ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED "
    "TIMEOUT".split()
)
_GONE = "Invalid job id"
_NO_CLUSTER = "Could not establish a configuration source"
_NOT_FOUND = 127
_ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class JobView:
    """A job as the controller sees it."""

    state: str
    preempted: bool
    """Slurm has announced that it takes the nodes away."""
    restarts: int
    reason: str = "None"


def run_command(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a Slurm command; one that is missing or hangs is answered with exit code 127 or 124."""
    try:
        return subprocess.run(
            list(argv), capture_output=True, text=True, timeout=_ANSWER_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(list(argv), _NOT_FOUND, "", f"{argv[0]}: not found")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(argv), 124, "", f"{argv[0]}: no answer")


def parse_job(text: str) -> JobView | None:
    """Reads the one line of ``scontrol show job -o``; None where it says nothing of a state.

    >>> parse_job("JobId=7 JobState=RUNNING Restarts=1 PreemptTime=None")
    JobView(state='RUNNING', preempted=False, restarts=1, reason='None')
    """
    fields = dict(_FIELD.findall(text))
    if "JobState" not in fields:
        return None
    restarts = fields.get("Restarts", "0")
    return JobView(
        state=fields["JobState"],
        preempted=fields.get("PreemptTime", "None") not in ("None", "Unknown"),
        restarts=int(restarts) if restarts.isdigit() else 0,
        reason=fields.get("Reason", "None"),
    )


def view_job(job_id: str, run: Run = run_command) -> JobView | None:
    """Asks for a job's state; None when the controller does not answer."""
    answer = run(["scontrol", "show", "job", "-o", job_id])
    return parse_job(answer.stdout) if answer.returncode == 0 else None


def job_alive(job_id: str, run: Run = run_command) -> bool | None:
    """Says whether a job runs or may still run; None when the controller does not answer."""
    answer = run(["scontrol", "show", "job", "-o", job_id])
    if answer.returncode != 0:
        return False if _GONE in answer.stderr else None
    view = parse_job(answer.stdout)
    return None if view is None else view.state not in _ENDED


def is_configured(run: Run = run_command) -> bool:
    """Says whether Slurm's commands know a cluster; a controller that is down still counts.

    A machine may have the packages installed and belong to no cluster.
    """
    answer = run(["scontrol", "ping"])
    return answer.returncode != _NOT_FOUND and _NO_CLUSTER not in answer.stderr


def requeue(job_id: str, restarts: int, run: Run = run_command) -> str | None:
    """Asks Slurm to start the job again; returns what Slurm said when it refused.

    Slurm's signal may kill ``scontrol`` after it was heard: a job that counts one restart more
    than ``restarts`` has been requeued whatever the exit code.
    """
    answer = run(["scontrol", "requeue", job_id])
    if answer.returncode == 0:
        return None
    view = view_job(job_id, run)
    if view is not None and view.restarts > restarts:
        return None
    return (answer.stderr or answer.stdout).strip() or f"exit code {answer.returncode}"


def first_host(node_list: str, run: Run = run_command) -> str:
    """Expands a node list and returns its first host; the list itself if that fails."""
    answer = run(["scontrol", "show", "hostnames", node_list])
    lines = answer.stdout.split()
    return lines[0] if answer.returncode == 0 and lines else node_list
