"""The questions that a node puts to Slurm; every answer may also be «not known»."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hpcjobs.run.job_environment import job_environment
from hpcjobs.run.notices import blocked

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]

_FIELDS = "JobState|Reason|PreemptTime|EndTime|Restarts"
_FIELD = re.compile(rf"(?:^|\s)({_FIELDS})=(\S+)")
_STATE = re.compile(r"[A-Z_]+")
_ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED "
    "REVOKED TIMEOUT".split()
)
_GONE = "Invalid job id"
_NO_CLUSTER = "Could not establish a configuration source"
_NOT_FOUND = 127
_NO_ANSWER = 124
_ANSWER_TIMEOUT_S = 15.0
"""A question is asked again; what changes something gets twice the time."""
_QUESTIONS = ("squeue", "scontrol show", "scontrol ping")
_SAME_MOMENT_S = 1.0
# What Slurm's commands say while the controller is down, restarting or too busy.
_PASSING = re.compile(
    r"unable to contact|connect failure|connection refused|timed out|temporarily|zero bytes"
    r"|standby|in progress|not responding|no answer|transport endpoint|try again",
    re.IGNORECASE,
)
# The fields of a job in squeue's words, and the widths of their columns.
_SQUEUE_FIELDS = {"JobState": 32, "Reason": 64, "PreemptTime": 32, "EndTime": 32, "Restarts": 12}
_COLUMNS = "State:32,Reason:64,PreemptTime:32,EndTime:32,RestartCnt:12"
_ENDED_BY = {"TimeLimit": "TIMEOUT", "NodeDown": "NODE_FAIL"}


@dataclass(frozen=True)
class JobView:
    """A job as the controller sees it."""

    state: str
    preempted: bool
    """Slurm has announced that it takes the nodes away."""
    restarts: int
    reason: str = "None"
    ends_at: float | None = None
    """When the job's time is over, in Unix seconds; None is not known."""


def run_command(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a Slurm command; one that is missing or hangs is answered with exit code 127 or 124.

    The stop signals are held back in the command: Slurm signals every process of a job, and
    would kill the very ``scontrol`` that saves the run. Variables such as SLURM_TIME_FORMAT,
    SQUEUE_STATES or SBATCH_DEPENDENCY would change the command or its answer: they stay here.
    """
    words = list(argv)
    try:
        with blocked():
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                encoding="utf-8", errors="replace", env=job_environment(os.environ),
            )  # fmt: skip
    except OSError as error:
        return subprocess.CompletedProcess(words, _NOT_FOUND, "", f"{words[0]}: {error.strerror}")
    with process:
        try:
            out, err = process.communicate(timeout=_patience_s(words))
        except subprocess.TimeoutExpired:
            process.kill()
            return subprocess.CompletedProcess(words, _NO_ANSWER, "", f"{words[0]}: no answer")
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def _patience_s(words: Sequence[str]) -> float:
    is_question = " ".join(words[:2]).startswith(_QUESTIONS)
    return _ANSWER_TIMEOUT_S if is_question else 2 * _ANSWER_TIMEOUT_S


def parse_job(text: str) -> JobView | None:
    """Reads one line of ``scontrol show job -o``; None where it says nothing of a state.

    A field counts where it stands first: what follows are paths, which may look like fields.

    >>> parse_job("JobId=7 JobState=RUNNING Restarts=1 PreemptTime=None WorkDir=/a JobState=X")
    JobView(state='RUNNING', preempted=False, restarts=1, reason='None', ends_at=None)
    """
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(text):
        fields.setdefault(name, value)
    state = _STATE.match(fields.get("JobState", ""))
    if state is None:
        return None
    restarts = fields.get("Restarts", "0")
    return JobView(
        state=state.group(),
        preempted=fields.get("PreemptTime", "None") not in ("None", "Unknown", "N/A", "(null)"),
        restarts=int(restarts) if restarts.isascii() and restarts.isdigit() else 0,
        reason=fields.get("Reason", "None"),
        ends_at=parse_time(fields.get("EndTime", "")),
    )


def parse_time(text: str) -> float | None:
    """Reads Slurm's local time as Unix seconds; None for Unknown and whatever else it says."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def view_job(job_id: str, run: Run = run_command) -> JobView | None:
    """Asks for a job's state; None when the controller does not answer.

    Of a job that it is ending, Slurm shows COMPLETING alone. Where the other fields tell why,
    the state is PREEMPTED, TIMEOUT or NODE_FAIL; a bare COMPLETING was cancelled, requeued (it
    then counts one restart more) or has ended by itself.
    """
    answer = run(["scontrol", "show", "job", "-o", job_id])
    text = answer.stdout
    if answer.returncode in (_NOT_FOUND, _NO_ANSWER):
        text = _as_job_line(run(["squeue", "--noheader", f"--jobs={job_id}", f"-O{_COLUMNS}"]))
    elif answer.returncode != 0:
        return None
    view = parse_job(text)
    if view is None or view.state != "COMPLETING":
        return view
    return replace(view, state=_why_completing(view, text))


def _as_job_line(answer: subprocess.CompletedProcess[str]) -> str:
    """Writes what ``squeue`` says as ``scontrol`` would, for nodes that lack that."""
    line = answer.stdout.partition("\n")[0]
    if answer.returncode != 0 or not line.strip():
        return ""
    words = []
    for name, width in _SQUEUE_FIELDS.items():
        value, line = line[:width].split()[:1], line[width:]
        words += [f"{name}={value[0]}"] if value else []
    return " ".join(words)


def _why_completing(view: JobView, text: str) -> str:
    """Tells a job that was preempted from one that a person cancelled in its grace time.

    Slurm sets PreemptTime anew when it takes the nodes, so it is the job's end; it is older
    than the end of a job that was cancelled after a preemption had been announced.
    """
    if view.reason in _ENDED_BY:
        return _ENDED_BY[view.reason]
    taken = re.search(r"\sPreemptTime=(\S+)", text)
    taken_at = parse_time(taken.group(1)) if taken else None
    if taken_at is None or view.ends_at is None:
        return view.state
    return "PREEMPTED" if abs(view.ends_at - taken_at) <= _SAME_MOMENT_S else view.state


def job_alive(job_id: str, run: Run = run_command) -> bool | None:
    """Says whether a job runs or may still run; None when the controller does not answer.

    An array or a heterogeneous job has several lines: it lives as long as one part does.
    """
    answer = run(["scontrol", "show", "job", "-o", job_id])
    if answer.returncode != 0:
        return False if _GONE in answer.stderr else None
    views = [parse_job(line) for line in answer.stdout.splitlines() if line.strip()]
    if not views or None in views:
        return None
    return any(view.state not in _ENDED for view in views if view is not None)


def is_configured(run: Run = run_command) -> bool:
    """Says whether Slurm's commands know a cluster; a controller that is down still counts.

    A machine may have the packages installed and belong to no cluster.
    """
    answer = run(["scontrol", "ping"])
    return answer.returncode != _NOT_FOUND and _NO_CLUSTER not in answer.stderr


@dataclass(frozen=True)
class Refused:
    """What Slurm said, and whether it may say otherwise in a moment."""

    said: str
    passing: bool


def refused(answer: subprocess.CompletedProcess[str]) -> Refused:
    """Reads a refusal; one of the controller's state, not of the request, may pass.

    >>> text = "slurm_submit_error: Unable to contact slurm controller (connect failure)"
    >>> refused(subprocess.CompletedProcess([], 1, "", text)).passing
    True
    """
    said = " ".join((answer.stderr or answer.stdout).split()) or f"exit code {answer.returncode}"
    return Refused(said, answer.returncode == _NO_ANSWER or bool(_PASSING.search(said)))


def requeue(job_id: str, restarts: int, run: Run = run_command) -> Refused | None:
    """Asks Slurm to start the job again; returns the refusal where it refused.

    Slurm's signal may kill ``scontrol`` after it was heard: a job that counts one restart more
    than ``restarts`` has been requeued whatever the exit code. One that hangs is not asked
    again: the time is better spent on another way.
    """
    answer = run(["scontrol", "requeue", job_id])
    if answer.returncode == 0:
        return None
    hangs = answer.returncode == _NO_ANSWER
    view = view_job(job_id, run) if answer.returncode != _NOT_FOUND else None
    if view is not None and view.restarts > restarts:
        return None
    return replace(refused(answer), passing=False) if hangs else refused(answer)
