"""Submission to Slurm through submitit, with our batch script as the only text."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

from hpcjobs.login.job_environment import job_environment, only_variables
from hpcjobs.login.prepare import Job
from hpcjobs.node.slurm import is_configured, job_alive
from hpcjobs.run.errors import RunHeldError, SchedulerError
from hpcjobs.run.events import record_event
from hpcjobs.run.files import append_line, read_lines
from hpcjobs.run.holder import Holder, local_alive, refuse_if_held
from hpcjobs.run.layout import RunDir


def slurm_is_here() -> bool:
    """Whether this machine belongs to a cluster that jobs can be submitted to."""
    return shutil.which("sbatch") is not None and is_configured()


def sbatch_command(run: RunDir) -> list[str]:
    """The exact command that submits the run."""
    return ["sbatch", str(run.script)]


def submit_to_slurm(job: Job) -> str:
    """Submits the run's ``job.sbatch`` and returns the job id.

    Raises:
        SchedulerError: Slurm refused, with what it said.
    """
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
    job_id = str(submitted.job_id)
    append_line(job.run.submissions, {"time": round(time.time(), 3), "job_id": job_id})
    record_event(job.run, "submitted", job_id=job_id, script=str(job.run.script))
    return job_id


def refuse_if_busy(run: RunDir) -> None:
    """Refuses a run that a live or queued job holds.

    Raises:
        RunHeldError: names the holder, or says that it cannot be known.
    """
    refuse_if_held(run, holder_alive)
    submissions = list(read_lines(run.submissions))
    if not submissions or not slurm_is_here():
        return
    job_id = str(submissions[-1]["job_id"])
    if job_alive(job_id) is not False:
        raise RunHeldError(
            f"{run.path} belongs to Slurm job {job_id}, which is queued, running or not visible; "
            f"cancel it first (scancel {job_id}), or use another run_dir"
        )


def holder_alive(holder: Holder) -> bool | None:
    """Says whether a holder lives, asking Slurm or this machine; None is not known."""
    if holder.job_id is None:
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
