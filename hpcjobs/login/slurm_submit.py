"""Submission to Slurm through submitit, with our batch script as the only text."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from hpcjobs.login.prepare import Job
from hpcjobs.node.queue import jobs_of
from hpcjobs.node.slurm import is_configured, job_alive, refused
from hpcjobs.run.errors import RunHeldError, SchedulerError
from hpcjobs.run.events import record_event
from hpcjobs.run.files import append_line, read_lines
from hpcjobs.run.holder import Holder, local_alive, refuse_if_held
from hpcjobs.run.job_environment import job_environment
from hpcjobs.run.layout import RunDir

_LOOK_AGAIN_S = (2.0, 4.0, 8.0)
"""When the queue is looked at after an ``sbatch`` whose answer was lost."""


def slurm_is_here() -> bool:
    """Whether this machine belongs to a cluster that jobs can be submitted to."""
    return shutil.which("sbatch") is not None and is_configured()


def sbatch_command(run: RunDir) -> list[str]:
    """The exact command that submits the run."""
    return ["sbatch", str(run.script)]


def submit_to_slurm(job: Job) -> str:
    """Submits the run's ``job.sbatch`` and returns the job id.

    Where ``sbatch`` gave up waiting for the answer, the job may have been accepted: it is then
    found by its script, since no job of this run was there before.

    Raises:
        SchedulerError: Slurm refused, with what it said.
    """
    try:
        job_id = _sbatch(job)
    except SchedulerError as error:
        found = _accepted_unheard(job.run, str(error))
        if found is None:
            raise
        job_id = found
    append_line(job.run.submissions, {"time": round(time.time(), 3), "job_id": job_id})
    record_event(job.run, "submitted", job_id=job_id, script=str(job.run.script))
    return job_id


def _sbatch(job: Job) -> str:
    from submitit.core.utils import CommandFunction, FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmExecutor

    class ScriptExecutor(SlurmExecutor):  # type: ignore[misc]
        """submitit's executor with the rendered script in place of its own."""

        def _make_submission_file_text(self, command: str, uid: str) -> str:  # noqa: ARG002
            return job.script

        def _make_submission_command(self, submission_file_path: Path) -> list[str]:  # noqa: ARG002
            return sbatch_command(job.run)

    heard = io.StringIO()  # submitit prints what sbatch says; a refusal is said once, by us
    try:
        executor = ScriptExecutor(folder=job.run.submitit)
        with only_variables(job_environment(os.environ)), redirect_stderr(heard):
            submitted = executor.submit(CommandFunction([job.python, str(job.run.node_archive)]))
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        raise SchedulerError(f"Slurm refused the job: {_refusal(error)}") from error
    sys.stderr.write(heard.getvalue())
    return str(submitted.job_id)


def _accepted_unheard(run: RunDir, said: str) -> str | None:
    """The job that Slurm made although ``sbatch`` failed; None where there is none."""
    if not refused(subprocess.CompletedProcess([], 1, "", said)).passing:
        return None
    for pause_s in _LOOK_AGAIN_S:
        time.sleep(pause_s)
        if found := jobs_of(run):
            return found[0]
    return None


@contextmanager
def only_variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """Replaces this process's environment while ``sbatch`` is called."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def refuse_if_busy(run: RunDir) -> None:
    """Refuses a run that a live or queued job holds, also one that was submitted by hand.

    Raises:
        RunHeldError: names the holder, or says that it cannot be known.
    """
    refuse_if_held(run, holder_alive)
    if not run.script.exists() or not slurm_is_here():
        return
    submissions = list(read_lines(run.submissions))
    last = str(submissions[-1]["job_id"]) if submissions else None
    busy = jobs_of(run) or []
    if last is not None and job_alive(last) is not False:
        busy.append(last)
    if busy:
        raise RunHeldError(
            f"{run.path} belongs to Slurm job {busy[0]}, which is queued, running or not visible; "
            f"cancel it first (scancel {busy[0]}), or use another run_dir"
        )


def holder_alive(holder: Holder) -> bool | None:
    """Says whether a holder lives, asking Slurm or this machine; None is not known.

    Inside the holder's own allocation its process is what counts.
    """
    inside = holder.job_id is not None and holder.job_id == os.environ.get("SLURM_JOB_ID")
    if holder.job_id is None or (inside and local_alive(holder) is not None):
        return local_alive(holder)
    return job_alive(holder.job_id) if slurm_is_here() else None


def _refusal(error: Exception) -> str:
    text = (
        error.stderr or error.output or ""
        if isinstance(error, subprocess.CalledProcessError)
        else str(error)
    )
    words = text.decode(errors="replace") if isinstance(text, bytes) else text
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return json.dumps(" ".join(errors or lines) or type(error).__name__, ensure_ascii=False)
