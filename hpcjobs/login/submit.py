"""The submission: compose, check, show, write the run directory, hand over."""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hpcjobs.login import door
from hpcjobs.login.compose import compose_experiment, group_choices
from hpcjobs.login.figures import figures_of
from hpcjobs.login.follow import follow, show_result
from hpcjobs.login.inputs import missing_inputs, refuse_full_disk, refuse_missing
from hpcjobs.login.local_submit import start_locally, stop_locally
from hpcjobs.login.prepare import Job, plan_job, refuse_other_run, write_run
from hpcjobs.login.preview import show_preview
from hpcjobs.login.slurm_submit import (
    refuse_if_busy,
    sbatch_command,
    slurm_is_here,
    submit_to_slurm,
)
from hpcjobs.run.errors import ConfigError, SchedulerError
from hpcjobs.run.experiment import Experiment

_EXAMPLES = """\
examples:
  python -m hpcjobs.submit +experiment=mgm_lora_demo
  python -m hpcjobs.submit +experiment=mgm_lora cluster.partition=gpu train.lr=1e-4
  python -m hpcjobs.submit +experiment=mgm_lora dry_run=true
  python -m hpcjobs.submit --config-dir my_conf +experiment=mine

exit codes: 0 submitted or finished, 2 wrong configuration, 3 missing or broken input,
4 Slurm missing or refusing, 5 the run directory is held, 6 the run did not finish
"""


def submit(argv: Sequence[str]) -> int:
    """Submits one experiment; returns the exit code.

    Raises:
        HpcjobsError: everything that a user can mend.
    """
    words = _parse(argv)
    here = Path.cwd()
    request, experiment = compose_experiment(words.overrides, words.config_dir, here)
    job = plan_job(request, experiment, os.environ, here)
    figures = figures_of(experiment)
    if request.dry_run:
        return _dry_run(job)
    on_slurm = _on_slurm(experiment)
    refuse_missing(experiment)
    refuse_full_disk(experiment, job.run.path, figures.trainable)
    refuse_other_run(job.run, experiment)
    refuse_if_busy(job.run)
    console = Console(highlight=False)
    show_preview(console, experiment, job.run, figures, "Slurm" if on_slurm else "this machine")
    is_new = not job.run.path.exists()
    write_run(job, words.overrides, os.environ)
    return _to_slurm(job, console, is_new) if on_slurm else _here(job, console)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    choices = ", ".join(group_choices("experiment"))
    parser = door.parser(
        "submit", "Submit a fine-tuning run to Slurm, or run it on this machine.", _EXAMPLES
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help=f"Hydra overrides; experiments: {choices}",
    )
    parser.add_argument(
        "--config-dir",
        "-cd",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a directory with configuration groups of your own; may be given several times",
    )
    parser.add_argument("--multirun", "-m", action="store_true", help=argparse.SUPPRESS)
    words = parser.parse_intermixed_args(argv)
    if words.multirun:
        raise ConfigError("--multirun is not there yet: submit one run at a time")
    return words


def _on_slurm(experiment: Experiment) -> bool:
    kind, nodes = experiment.cluster.kind, experiment.parallel.nodes
    if kind == "slurm" and not slurm_is_here():
        raise SchedulerError(
            "cluster=slurm, but sbatch is not on the PATH or knows no cluster: log in to a node of "
            "the cluster, load its Slurm module, or write cluster=local"
        )
    on_slurm = kind == "slurm" or (kind == "auto" and slurm_is_here())
    if not on_slurm and nodes > 1:
        raise ConfigError(f"parallel.nodes={nodes} needs Slurm; here write parallel.nodes=1")
    return on_slurm


def _dry_run(job: Job) -> int:
    sys.stdout.write(job.script)
    sys.stdout.write("\n# nothing was submitted; the command would be:\n")
    sys.stdout.write(f"# {shlex.join(sbatch_command(job.run))}\n")
    for problem in missing_inputs(job.experiment):
        sys.stderr.write(f"warning: {problem}\n")
    return 0


def _to_slurm(job: Job, console: Console, is_new: bool) -> int:
    try:
        job_id = submit_to_slurm(job)
    except SchedulerError:
        if is_new:  # nothing has run here and nothing will
            shutil.rmtree(job.run.path)
        raise
    run = job.run
    console.print(f"submitted as Slurm job [bold]{job_id}[/]")
    for line in (
        f"squeue -j {job_id}",
        f"python -m hpcjobs.follow {shlex.quote(str(run.path))}",
        f"tail -F {shlex.quote(str(run.path))}/attempts/1/rank-0.log",
        f"scancel {job_id}",
    ):
        console.print(f"  {line}", soft_wrap=True, markup=False)
    return 0


def _here(job: Job, console: Console) -> int:
    started = start_locally(job)
    try:
        follow(job.run, console, started.done)
    except KeyboardInterrupt:
        console.print("stopping: saving a checkpoint first")
        stop_locally(started)
        follow(job.run, console, started.done)
    show_result(job.run, console)
    return 0
