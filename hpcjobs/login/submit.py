"""The submission: compose, check, show, write the run directory, hand over."""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from hpcjobs.login import door
from hpcjobs.login.allocation import refuse_unfit_allocation
from hpcjobs.login.approval import Cleared, cleared_submission, release_hours, reserve_hours
from hpcjobs.login.compose import compose_planned, group_choices
from hpcjobs.login.console import make_console
from hpcjobs.login.figures import figures_of
from hpcjobs.login.follow import (
    follow,
    is_finished,
    latest_verdict,
    show_result,
    show_resumption,
)
from hpcjobs.login.inputs import (
    missing_inputs,
    refuse_full_disk,
    refuse_missing,
    refuse_missing_here,
)
from hpcjobs.login.lead_time import refuse_short_lead
from hpcjobs.login.local_submit import LocalRun, start_locally, stop_locally
from hpcjobs.login.prepare import Job, plan_job, refuse_other_run, write_run
from hpcjobs.login.preview import show_preview
from hpcjobs.login.secrets import refuse_secrets
from hpcjobs.login.site import UNKNOWN_SITE, look_at_site
from hpcjobs.login.slurm_submit import (
    refuse_if_busy,
    sbatch_command,
    slurm_is_here,
    submit_to_slurm,
)
from hpcjobs.login.submission_lock import submission_lock
from hpcjobs.run.errors import ConfigError, HpcjobsError, SchedulerError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.trust import refuse_untrusted
from planner.errors import PlannerError

if TYPE_CHECKING:
    from planner.plan import Plan

_EXAMPLES = """\
examples:
  python -m hpcjobs.submit +experiment=mgm_lora_demo
  python -m hpcjobs.submit +experiment=mgm_lora cluster.partition=gpu train.lr=1e-4
  python -m hpcjobs.submit +experiment=mgm_lora dry_run=true
  python -m hpcjobs.submit --config-dir my_conf +experiment=mine

exit codes: 0 submitted or finished, 2 wrong configuration, 3 missing or broken input,
4 Slurm missing or refusing, 5 the run directory is held, 6 the run did not finish,
130 interrupted: a run on this machine has saved and can go on
"""


Place = Literal["slurm", "local", "allocation"]
_WHERE = {"slurm": "Slurm", "local": "this machine", "allocation": "this Slurm allocation"}


def submit(argv: Sequence[str]) -> int:
    """Submits one experiment; returns the exit code.

    Raises:
        HpcjobsError: everything that a user can mend.
    """
    words = _parse(argv)
    refuse_secrets("the command line", "\n".join(words.overrides), os.environ)
    here = Path.cwd()
    composed = compose_planned(words.overrides, words.config_dir, here)
    request, experiment = composed.request, composed.experiment
    site = look_at_site(experiment) if _asks_slurm(experiment) else UNKNOWN_SITE
    job = plan_job(request, experiment, os.environ, here, composed.plan, site)
    figures = figures_of(experiment)
    if request.dry_run:
        return _dry_run(job, composed.note, composed.plan)
    place = _place(experiment)
    refuse_untrusted(job.run.path, experiment.cluster.trusted)
    refuse_other_run(job.run, experiment)
    refuse_if_busy(job.run)
    console = make_console()
    if is_finished(job.run):
        console.print("the run has finished already, nothing was started")
        show_result(job.run, console)
        return 0
    refuse_missing(experiment)
    if place == "local":
        refuse_missing_here(experiment)
    refuse_full_disk(experiment, job.run, figures.checkpoint_bytes)
    refuse_short_lead(experiment, job.run, composed.plan)
    cleared = cleared_submission(experiment, composed.plan, job.run.path)
    job = replace(job, budget=None if cleared is None else cleared.record())
    if composed.note is not None:
        console.print(composed.note, soft_wrap=True, markup=False)
    show_preview(console, experiment, job.run, figures, _WHERE[place], composed.plan, site)
    with submission_lock(job.run):
        refuse_if_busy(job.run)
        is_new = not job.run.config.exists()
        write_run(job, words.overrides, os.environ, words.config_dir)
        _reserve(cleared, job, is_new)
        if place != "slurm":
            return _here(job, console)
        try:
            return _to_slurm(job, console)
        except SchedulerError:
            if is_new:  # nothing has run here and nothing will
                shutil.rmtree(job.run.path)
                release_hours(cleared, job.run.path)
            raise


def _reserve(cleared: Cleared | None, job: Job, is_new: bool) -> None:
    """Takes the hours from the project's ledger; another submission may have been faster."""
    try:
        reserve_hours(cleared, job.run.path)
    except ConfigError:
        if is_new:
            shutil.rmtree(job.run.path)
        raise


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    choices = ", ".join(group_choices("experiment"))
    parser = door.parser(
        "submit", "Submit a fine-tuning run to Slurm, or run it on this machine.", _EXAMPLES
    )
    door.add_overrides(parser, choices)
    parser.add_argument("--multirun", "-m", action="store_true", help=argparse.SUPPRESS)
    words = parser.parse_intermixed_args(argv)
    if words.multirun:
        raise ConfigError("--multirun is not there yet: submit one run at a time")
    if not words.overrides:
        raise ConfigError(f"no experiment is named: write +experiment=NAME, one of {choices}")
    for word in words.overrides:
        if not _is_text(word):
            raise ConfigError(f"{word!a} is not UTF-8 text: rename what it names")
    return words


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _place(experiment: Experiment) -> Place:
    """Where the run is to execute.

    Raises:
        SchedulerError: there is no Slurm, or the allocation does not do.
        ConfigError: what was asked for is not to be had there.
    """
    cluster, parallel = experiment.cluster, experiment.parallel
    nodes = parallel.min_nodes or parallel.nodes
    if cluster.kind == "slurm" and not slurm_is_here():
        raise SchedulerError(
            "cluster=slurm, but sbatch is not on the PATH or knows no cluster: log in to a node of "
            "the cluster, load its Slurm module, or write cluster=local"
        )
    if cluster.kind != "allocation" and _asks_slurm(experiment):
        return "slurm"
    if cluster.setup:
        raise ConfigError(
            "cluster.setup belongs to batch scripts: on this machine run its lines in your shell, "
            "and write cluster.setup=[]"
        )
    if cluster.kind == "allocation":
        refuse_unfit_allocation(experiment, os.environ)
        return "allocation"
    if nodes > 1:
        raise ConfigError(f"parallel.nodes={nodes} needs Slurm; here write parallel.nodes=1")
    return "local"


def _asks_slurm(experiment: Experiment) -> bool:
    return experiment.cluster.kind in ("auto", "slurm") and slurm_is_here()


def _dry_run(job: Job, note: str | None, plan: "Plan | None") -> int:
    sys.stdout.write(job.script)
    sys.stdout.write("\n# nothing was submitted; the command would be:\n")
    sys.stdout.write(f"# {shlex.join(sbatch_command(job.run))}\n")
    if note is not None:
        sys.stderr.write(f"{note}\n")
    for problem in missing_inputs(job.experiment):
        sys.stderr.write(f"warning: {problem}\n")
    try:
        cleared_submission(job.experiment, plan, job.run.path)
        refuse_short_lead(job.experiment, job.run, plan)
    except (HpcjobsError, PlannerError) as error:
        sys.stderr.write(f"warning: would be refused: {' '.join(str(error).split())}\n")
    return 0


def _to_slurm(job: Job, console: Console) -> int:
    job_id = submit_to_slurm(job)
    run = job.run
    next_attempt = max(run.attempt_numbers(), default=0) + 1
    console.print(f"submitted as Slurm job [bold]{job_id}[/]")
    if inside := os.environ.get("SLURM_JOB_ID"):
        console.print(f"this is a new job; to train inside job {inside}: cluster=allocation")
    for line in (
        f"squeue -j {job_id}",
        _follow_words(job),
        f"tail -F {shlex.quote(str(run.attempt(next_attempt).rank_log(0)))}",
        f"scancel {job_id}",
    ):
        console.print(f"  {line}", soft_wrap=True, markup=False)
    return 0


def _here(job: Job, console: Console) -> int:
    before = max(job.run.attempt_numbers(), default=0)
    started = start_locally(job)
    try:
        follow(job.run, console, started.done)
    except KeyboardInterrupt:
        return _stop(job, console, started, before)
    show_result(job.run, console, before)
    return 0


def _stop(job: Job, console: Console, started: LocalRun, before: int) -> int:
    """Stops the run on this machine after an interrupt, and waits until it has saved."""
    try:
        _has_stopped(started)
        console.print("stopping: saving a checkpoint first")
        follow(job.run, console, lambda: _has_stopped(started))
    except KeyboardInterrupt:
        _has_stopped(started)
        console.print("not waiting: the run saves and ends by itself. See what it does with:")
        console.print(f"  {_follow_words(job)}", soft_wrap=True, markup=False)
        return door.EXIT_INTERRUPTED
    if max(job.run.attempt_numbers(), default=0) == before:
        console.print("stopped before the training began. Start it again with:")
        show_resumption(job.run, console)
        return door.EXIT_INTERRUPTED
    show_result(job.run, console, before)
    verdict = latest_verdict(job.run, before)
    return 0 if verdict and verdict.status == "done" else door.EXIT_INTERRUPTED


def _has_stopped(started: LocalRun) -> bool:
    """Asks again at every look: a process that is just starting may miss the first signal."""
    if started.done():
        return True
    stop_locally(started)
    return False


def _follow_words(job: Job) -> str:
    return f"python -m hpcjobs.follow {shlex.quote(str(job.run.path))}"
