"""Whether the Slurm allocation that a command is typed in holds a run."""

import re
from collections.abc import Mapping

from hpcjobs.node.slurm import Run, run_command
from hpcjobs.run.errors import ConfigError, SchedulerError
from hpcjobs.run.experiment import Experiment

_CPUS = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_JOB_GRES = re.compile(r"\sJOB_GRES=(\S+)")
_GPUS = re.compile(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)")


def refuse_unfit_allocation(
    experiment: Experiment, environment: Mapping[str, str], run: Run = run_command
) -> None:
    """Stops where there is no allocation, or one that is too small; what is unknown passes.

    Raises:
        SchedulerError: this is no allocation.
        ConfigError: names what is missing.
    """
    job_id = environment.get("SLURM_JOB_ID")
    if job_id is None:
        raise SchedulerError("cluster=allocation, but SLURM_JOB_ID is not set: type it in salloc")
    parallel, cluster = experiment.parallel, experiment.cluster
    cards = (
        0
        if parallel.device == "cpu"
        else (parallel.min_nodes or parallel.nodes) * parallel.gpus_per_node
    )
    wanted = {
        "nodes": (
            parallel.min_nodes or parallel.nodes,
            _number(environment.get("SLURM_JOB_NUM_NODES")),
        ),
        "CPUs on a node": (
            cluster.cpus_per_node,
            fewest_cpus(environment.get("SLURM_JOB_CPUS_PER_NODE", "")),
        ),
        "GPUs": (cards, _cards(job_id, run) if cards else None),
    }
    for what, (needed, given) in wanted.items():
        if given is not None and given < needed:
            raise ConfigError(
                f"the allocation (job {job_id}) has {given} {what}, and the run needs {needed}: "
                f"ask salloc for more, or change the run"
            )


def fewest_cpus(text: str) -> int | None:
    """The smallest of SLURM_JOB_CPUS_PER_NODE; None where it says nothing.

    >>> fewest_cpus("8(x2),4"), fewest_cpus("")
    (4, None)
    """
    return min((int(count) for count, _ in _CPUS.findall(text)), default=None)


def _cards(job_id: str, run: Run) -> int | None:
    answer = run(["scontrol", "show", "job", "-d", "-o", job_id])
    return count_cards(answer.stdout) if answer.returncode == 0 else None


def count_cards(text: str) -> int | None:
    """The GPUs of a job in all, from ``scontrol show job -d -o``; None where it says nothing.

    >>> count_cards("JobId=7 JOB_GRES=gpu:a100:4 Nodes=n1 GRES=gpu:a100:4(IDX:0-3)")
    4
    """
    found = _JOB_GRES.search(text)
    return sum(map(int, _GPUS.findall(found.group(1)))) if found else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
