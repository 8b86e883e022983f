"""A run whose broker is here, through submitit's local executor: this machine, an allocation."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from hpcjobs.login.prepare import Job
from hpcjobs.run.events import record_event

_FOR_EVER_MIN = 10 * 365 * 24 * 60


class LocalRun(Protocol):
    """What the caller may ask of a run on this machine."""

    job_id: str

    def done(self) -> bool:
        """Whether the job's process has ended."""


def start_locally(job: Job) -> LocalRun:
    """Starts the run's broker on this machine and returns at once.

    With ``cluster=allocation`` the processes run on the nodes of the Slurm allocation that this
    is called in, and the end of that counts instead of ``cluster.time``.

    The job ignores the terminal's interrupt and hang-up: it is stopped by ``stop_locally``,
    which lets it save first, and it survives the end of the session.
    """
    from submitit.helpers import CommandFunction
    from submitit.local.local import LocalExecutor

    cluster, parallel = job.experiment.cluster, job.experiment.parallel
    in_allocation = cluster.kind == "allocation"
    words = [sys.executable, "-Iu", str(job.run.node_archive)]
    words += ["allocation" if in_allocation else "local", str(job.run.path)]

    class BrokerExecutor(LocalExecutor):  # type: ignore[misc]
        """submitit's executor, running the broker instead of its pickle."""

        @property
        def _submitit_command_str(self) -> str:
            return shlex.join(words)

    executor: Any = BrokerExecutor(folder=job.run.submitit)
    executor.update_parameters(
        timeout_min=_FOR_EVER_MIN if in_allocation else cluster.time_s / 60,
        signal_delay_s=cluster.signal_lead_s,
        gpus_per_node=0 if parallel.device == "cpu" else parallel.gpus_per_node,
        stderr_to_stdout=True,
    )
    with _ignored(signal.SIGINT, signal.SIGHUP):
        started: LocalRun = executor.submit(CommandFunction(words))
    record_event(job.run, "submitted", pid=int(started.job_id), local=True)
    return started


def stop_locally(started: LocalRun) -> None:
    """Asks a run on this machine to save and end."""
    os.kill(int(started.job_id), signal.SIGTERM)


@contextmanager
def _ignored(*numbers: signal.Signals) -> Iterator[None]:
    """Ignores signals while a child is started: an ignored signal stays so in the child."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
