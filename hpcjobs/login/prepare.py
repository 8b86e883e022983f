"""Makes a run directory, or checks that an existing one may be continued."""

import contextlib
import datetime as dt
import getpass
import importlib.metadata
import os.path
import platform
import secrets as random_secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcjobs.login.compose import Request, absolute
from hpcjobs.login.container_planned import planned_container
from hpcjobs.login.node_archive import partial_archive, write_node_archive, write_train_archive
from hpcjobs.login.render import check_run_path, own_option, render_script
from hpcjobs.login.secrets import refuse_secrets
from hpcjobs.login.site import UNKNOWN_SITE, Site
from hpcjobs.node.health_exclude import store_of
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.files import make_private_dir, read_json, write_json, write_text
from hpcjobs.run.launch import Launch, write_launch
from hpcjobs.run.layout import RunDir
from hpcjobs.run.schema import build, plain

if TYPE_CHECKING:
    from planner.plan import Plan

# What a continued run may change: where it runs, how long and how safely, not what it computes.
_FREE = frozenset(
    "cluster container health watch planner budget data.workers data.bad_samples_max "
    "train.checkpoint train.log_every_steps train.export parallel.nodes parallel.min_nodes "
    "parallel.gpus_per_node parallel.micro_batch parallel.grad_accum parallel.offload_optimizer "
    "parallel.offload_params".split()
)
_PACKAGES = ("hpcjobs", "torch", "deepspeed", "transformers", "peft", "submitit", "hydra-core")


@dataclass(frozen=True, slots=True)
class Job:
    """One submission: the experiment, where it goes, and the exact batch script."""

    experiment: Experiment
    run: RunDir
    python: str
    script: str
    plan: "Plan | None" = None
    """Made where ``parallel=auto`` asked for it."""
    budget: dict[str, Any] | None = None
    """What the budget was asked for, and who approved it; None where nobody had to."""
    site: Site = UNKNOWN_SITE
    """What the cluster says of the place that the script asks for."""


def plan_job(
    request: Request,
    experiment: Experiment,
    environment: Mapping[str, str],
    here: Path,
    plan: "Plan | None" = None,
    site: Site = UNKNOWN_SITE,
) -> Job:
    """Chooses the run directory and renders the script; writes nothing.

    Raises:
        ConfigError: a value cannot be written into a script, or is a secret.
    """
    run = RunDir(_run_path(request, experiment, here))
    check_run_path(run.path)
    python = experiment.cluster.python or sys.executable
    script = render_script(experiment, run, python, site)
    refuse_secrets("the configuration", repr(plain(experiment)), environment)
    refuse_secrets("the batch script", script, environment)
    return Job(experiment, run, python, script, plan, site=site)


def write_run(
    job: Job,
    overrides: Sequence[str],
    environment: Mapping[str, str],
    config_dirs: Sequence[Path] = (),
) -> None:
    """Writes everything that the job needs into its run directory: all of it, or no directory.

    Raises:
        ConfigError: the directory holds a run that computes something else, or a secret
            would be written.
        InputError: the directory cannot be written.
    """
    record = _record(job, overrides, config_dirs)
    refuse_secrets("the record of the submission", repr(record), environment)
    refuse_other_run(job.run, job.experiment)
    is_new = not job.run.config.exists()
    try:
        _write_files(job, record)
    except BaseException:
        if is_new:  # half a run could be neither continued nor begun
            _remove_files(job.run)
        raise


def _remove_files(run: RunDir) -> None:
    """Takes back what a submission writes, and nothing that it finds."""
    archives = (run.node_archive, run.train_archive)
    own = (run.config, run.record, run.launch, run.script, run.plan)
    for path in (*own, *archives, *map(partial_archive, archives)):
        path.unlink(missing_ok=True)
    for directory in (run.checkpoints, run.submitit, run.path):
        with contextlib.suppress(OSError):
            directory.rmdir()


def _write_files(job: Job, record: dict[str, Any]) -> None:
    try:
        make_private_dir(job.run.path)
        make_private_dir(job.run.checkpoints)
        make_private_dir(job.run.submitit)
        write_json(job.run.config, plain(job.experiment))
        write_json(job.run.record, record)
        if job.plan is not None:
            from planner.plan_file import encode_plan

            write_text(job.run.plan, encode_plan(job.plan).decode())
        write_launch(job.run.launch, _launch(job))
        write_node_archive(job.run.node_archive)
        write_train_archive(job.run.train_archive)
        write_text(job.run.script, job.script)
    except OSError as error:
        raise InputError(
            f"cannot write the run directory {job.run.path}: {error.strerror}; write another "
            f"runs_dir or run_dir"
        ) from error


def refuse_other_run(run: RunDir, experiment: Experiment) -> None:
    """Refuses to continue a run with a configuration that computes something else.

    Raises:
        ConfigError: names the first key that differs.
    """
    if not run.config.exists():
        if run.path.exists() and not run.path.is_dir():
            raise ConfigError(f"{run.path} is a file; use another run_dir")
        if run.path.is_dir() and _holds_something_else(run):
            raise ConfigError(f"{run.path} is not empty and holds no run; use another run_dir")
        return
    try:
        before = build(Experiment, read_json(run.config))
    except ConfigError as error:
        raise ConfigError(f"{run.config} is of another version: {error}") from error
    difference = _first_difference(plain(before), plain(experiment), "")
    if difference:
        raise ConfigError(f"{run.path} holds a run with {difference}; use another run_dir")


def _holds_something_else(run: RunDir) -> bool:
    """Whether a directory without a configuration is anything but a submission at work.

    One that was killed while it wrote leaves its lock behind, and can be made anew. The order
    of the looks matters: the lock goes only after the configuration has come.
    """
    lock = run.submitting.name
    strangers = any(not path.name.startswith(f".{lock}") for path in run.path.iterdir())
    return strangers and not run.submitting.exists() and not run.config.exists()


def _run_path(request: Request, experiment: Experiment, here: Path) -> Path:
    if request.run_dir is not None:
        return Path(os.path.normpath(absolute(here, request.run_dir)))
    now = dt.datetime.now(tz=dt.UTC).strftime("%Y%m%d-%H%M%S")
    name = f"{experiment.name}-{now}-{random_secrets.token_hex(2)}"
    return Path(os.path.normpath(absolute(here, request.runs_dir))) / name


def _launch(job: Job) -> Launch:
    cluster, parallel = job.experiment.cluster, job.experiment.parallel
    in_allocation = cluster.kind == "allocation"  # that is the user's own job, not the run's
    return Launch(
        python=job.python,
        nodes=parallel.nodes,
        min_nodes=parallel.min_nodes,
        batch_units=job.experiment.batch_units,
        processes_per_node=parallel.gpus_per_node,
        cpus_per_node=cluster.cpus_per_node,
        requeue=cluster.requeue and not in_allocation,
        env=cluster.process_env,
        env_file=cluster.env_file,
        follow_up=cluster.follow_up and not in_allocation,
        signal_lead_s=cluster.signal_lead_s,
        failures_max=cluster.failures_max,
        interruptions_max=cluster.interruptions_max,
        exclude=own_option(cluster, "exclude"),
        comment=own_option(cluster, "comment"),
        job_time_s=job.site.job_time_s(cluster),
        total_s=_total_s(job),
        code=str(job.run.train_archive),
        container=planned_container(job.experiment, job.run),
        gpus_expected={"cuda": parallel.gpus_per_node, "cpu": 0}.get(parallel.device),
        health=plain(job.experiment.health),
        watch=plain(job.experiment.watch),
        bad_nodes=str(store_of(job.experiment.health.bad_nodes)),
    )


def _total_s(job: Job) -> int | None:
    """What all jobs of a run in chunks may take; a planned time is a job's, and bounds no run."""
    is_bound = job.site.in_chunks(job.experiment.cluster) and _plan_record(job) is None
    return job.experiment.cluster.time_s if is_bound else None


def _record(job: Job, overrides: Sequence[str], config_dirs: Sequence[Path]) -> dict[str, Any]:
    return {
        "submitted": dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        "user": getpass.getuser(),
        "host": platform.node(),
        "directory": str(Path.cwd()),
        "overrides": list(overrides),
        "config_dirs": [str(directory.resolve()) for directory in config_dirs],
        "plan": _plan_record(job),
        "budget": job.budget,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": _git_commit(),
    }


def _plan_record(job: Job) -> dict[str, Any] | None:
    """What ``parallel=auto`` chose, now or when the run began; None where nothing was planned."""
    if job.plan is None:
        if not job.run.record.exists():
            return None
        before: dict[str, Any] | None = read_json(job.run.record).get("plan")
        return before
    parallel, cluster = job.experiment.parallel, job.experiment.cluster
    return {
        "created": job.plan.created,
        "config_hash": job.plan.config_hash,
        "why": job.plan.why,
        "parallel": plain(parallel),
        "grad_checkpointing": job.experiment.train.grad_checkpointing,
        "cluster": {
            key: getattr(cluster, key)
            for key in ("time", "mem", "cpus_per_node", "partition", "gpu_type")
        },
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the working directory, with -dirty; None outside a repository."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _first_difference(old: Any, new: Any, where: str) -> str | None:  # noqa: ANN401
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            path = f"{where}.{key}" if where else key
            if path in _FREE:
                continue
            found = _first_difference(old.get(key), new.get(key), path)
            if found:
                return found
        return None
    return None if old == new else f"{where}={old!r}, not {new!r}"
