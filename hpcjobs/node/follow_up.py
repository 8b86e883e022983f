"""A job that follows a job: it starts when that has ended, and goes on with the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpcjobs.node.queue import jobs_of
from hpcjobs.node.slurm import Refused, Run, refused
from hpcjobs.run.bad_nodes import merge_exclude
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import RunDir


@dataclass(frozen=True)
class Leaving:
    """A job that is about to end, and what its successor is to be like."""

    run: RunDir
    launch: Launch
    job_id: str
    restarts: int
    """How often Slurm had restarted the job when it began."""
    exclude: Sequence[str]
    """Hosts that the run is not to get again."""
    time_limit: str | None
    """A shorter limit than the batch script's, in Slurm's form; None keeps the script's."""

    @property
    def token(self) -> str:
        """What the successor's comment says, so that it is known among the user's jobs."""
        return f"hpcjobs:after-{self.job_id}.{self.restarts}"


def submit_follow_up(leaving: Leaving, ask: Run) -> str | Refused:
    """Submits the run's own script once more, to start when the leaving job has ended.

    A job of this run that waits already is taken for it: one that was submitted by hand, or
    one whose ``sbatch`` timed out after Slurm had accepted it. So nothing is submitted while
    the queue cannot be seen.

    Returns:
        The job's id, or why there is none.
    """
    waiting = jobs_of(leaving.run, but=leaving.job_id, ask=ask)
    if waiting is None:
        return Refused("the queue cannot be seen", passing=True)
    if waiting:
        return waiting[0]
    answer = ask(sbatch_words(leaving, leaving.exclude))
    if answer.returncode != 0 and leaving.exclude and not refused(answer).passing:
        # Too few other nodes, perhaps: a node with a bad record is better than none.
        answer = ask(sbatch_words(leaving, ()))
    job_id = answer.stdout.strip().partition(";")[0]
    if answer.returncode == 0 and job_id.isascii() and job_id.isdigit():
        return job_id
    return refused(answer)


def sbatch_words(leaving: Leaving, exclude: Sequence[str]) -> list[str]:
    """The command; what it says counts before the script's own ``#SBATCH`` lines."""
    launch = leaving.launch
    comment = f"{leaving.token} {launch.comment}" if launch.comment else leaving.token
    words = ["sbatch", "--parsable", f"--dependency=afterany:{leaving.job_id}"]
    words += [f"--comment={comment}"]
    nodes = merge_exclude(launch.exclude, exclude)
    words += [f"--exclude={nodes}"] if nodes else []
    words += [f"--time={leaving.time_limit}"] if leaving.time_limit else []
    return [*words, str(leaving.run.script)]
