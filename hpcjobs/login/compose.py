"""From words on the command line to one validated experiment; below here, no DictConfig."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hpcjobs.login.assets import asset_dir
from hpcjobs.login.auto_parallel import (
    decide,
    given_keys,
    is_auto,
    wanted_layout,
    with_node_range,
    with_typed_auto,
    without_auto,
)
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Experiment, Parallel
from hpcjobs.run.layout import RunDir
from hpcjobs.run.schema import build, did_you_mean

if TYPE_CHECKING:
    from planner.plan import Plan

_NO_KEY = re.compile(r"Could not override '([^']+)'")
# Groups and mappings that are empty until a user adds to them; Hydra wants a plus for that.
_OPEN_KEYS = ("experiment", "probe", "checkpoint", "cluster.sbatch", "cluster.env.")
_NO_CHOICE = re.compile(r"Could not find '([^']+)'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of the submission itself, beside the experiment."""

    runs_dir: str
    run_dir: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuses empty paths, which would mean the working directory."""
        for name in ("runs_dir", "run_dir"):
            if getattr(self, name) == "":
                raise ConfigError(f"{name} is empty: write {name}=DIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """What the words of a command line come to."""

    request: Request
    experiment: Experiment
    given: frozenset[str]
    """Keys of the layout and the cluster that the words fix: the planner leaves them."""
    wanted: Parallel
    """The layout whose given values stay."""
    keeps_layout: bool = False
    """Whether the layout is complete as it is, and not left to the planner."""
    plan: "Plan | None" = None
    """Made where ``parallel=auto`` asked for it."""
    note: str | None = None
    """What ``parallel=auto`` came to, in one line."""


def compose_experiment(
    overrides: Sequence[str], config_dirs: Sequence[Path] = (), here: Path | None = None
) -> tuple[Request, Experiment]:
    """Composes ``conf/`` with the user's overrides and validates the result.

    Args:
        overrides: Hydra override words, such as ``+experiment=mgm_lora`` or ``train.lr=1e-4``.
        config_dirs: directories of the user's own configuration groups.
        here: what relative paths are relative to; the working directory by default.

    Raises:
        ConfigError: anything that cannot be composed, is unknown, mistyped or impossible.
        PlannerError: ``parallel=auto`` asks the planner something that it cannot answer.
    """
    composed = compose_planned(overrides, config_dirs, here)
    return composed.request, composed.experiment


def compose_planned(
    overrides: Sequence[str], config_dirs: Sequence[Path] = (), here: Path | None = None
) -> Composed:
    """Does the same, and keeps the plan that ``parallel=auto`` took its choice from.

    Raises:
        ConfigError: see ``compose_experiment``.
        PlannerError: see ``compose_experiment``.
    """
    here = here or Path.cwd()
    raw, request, given = _composed_parts(overrides, config_dirs)
    if not is_auto(raw):
        experiment = _absolute(build(Experiment, raw), here)
        return Composed(
            request=request, experiment=experiment, given=given, wanted=experiment.parallel
        )
    draft = _absolute(build(Experiment, without_auto(raw)), here)
    run = None if request.run_dir is None else RunDir(Path(absolute(here, request.run_dir)))
    done = decide(raw, draft, given, run)
    return Composed(
        request=request,
        experiment=done.experiment,
        given=given,
        wanted=done.experiment.parallel,
        plan=done.plan,
        note=done.note,
    )


def compose_free(
    overrides: Sequence[str], config_dirs: Sequence[Path] = (), here: Path | None = None
) -> Composed:
    """Composes an experiment for a plan alone: what no word fixes is free, and not checked.

    An experiment's own layout may not divide a global batch that another one does; it counts only
    with ``planner.keep_layout``.

    Raises:
        ConfigError: anything that cannot be composed, is unknown, mistyped or impossible.
    """
    here = here or Path.cwd()
    raw, request, given = _composed_parts(overrides, config_dirs)
    keeps = raw["planner"]["keep_layout"] is True and not is_auto(raw)
    draft = raw if keeps else without_auto(raw)
    experiment = _absolute(build(Experiment, draft), here)
    wanted = experiment.parallel if keeps else wanted_layout(experiment, raw, given)
    return Composed(
        request=request, experiment=experiment, given=given, wanted=wanted, keeps_layout=keeps
    )


def _composed_parts(
    overrides: Sequence[str], config_dirs: Sequence[Path]
) -> tuple[dict[str, Any], Request, frozenset[str]]:
    """The experiment as Hydra composed it, what is asked of the submission, and the given keys."""
    raw = with_typed_auto(_compose_raw(_with_search_path(overrides, config_dirs)), overrides)
    raw = {**raw, "parallel": with_node_range(raw["parallel"])}
    values = {key: raw.pop(key) for key in ("runs_dir", "run_dir", "dry_run") if key in raw}
    return raw, build(Request, values), given_keys(raw, overrides)


def _compose_raw(overrides: Sequence[str]) -> dict[str, Any]:
    try:
        return _compose_dict(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error)) from error


def _compose_dict(overrides: Sequence[str]) -> dict[str, Any]:
    with initialize_config_dir(str(asset_dir("conf")), version_base="1.3"):
        config = compose("config", list(overrides))
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return plain if isinstance(plain, dict) else {}  # type: ignore[return-value]


def _with_search_path(overrides: Sequence[str], config_dirs: Sequence[Path]) -> list[str]:
    if not config_dirs:
        return list(overrides)
    for directory in config_dirs:
        if not directory.is_dir():
            raise ConfigError(f"--config-dir {directory} is not a directory")
    quoted = (str(d.resolve()).replace("\\", "\\\\").replace("'", "\\'") for d in config_dirs)
    paths = ",".join(f"'file://{path}'" for path in quoted)
    return [f"hydra.searchpath=[{paths}]", *overrides]


def _one_line(error: Exception) -> str:
    """Says in one line what Hydra says in several, with the nearest word that exists."""
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r}: write key=value, and quote an odd value twice, for "
            f"the shell and for Hydra: 'key=\"a&b\"'"
        )
    causes = [error, *([error.__cause__] if error.__cause__ else [])]
    lines = [line.strip() for cause in causes for line in str(cause).splitlines() if line.strip()]
    unknown = _NO_KEY.search("\n".join(lines))
    if unknown and unknown.group(1).startswith(_OPEN_KEYS):
        return f"write it with a plus: +{unknown.group(1)}=..."
    if unknown:
        return f"unknown key {unknown.group(1)}{_nearest_key(unknown.group(1))}"
    choice = _NO_CHOICE.search("\n".join(lines))
    if choice:
        group, _, name = choice.group(1).rpartition("/")
        return f"there is no {group}={name}{did_you_mean(name, group_choices(group))}"
    return " ".join(lines[:2]) if lines else type(error).__name__


def _nearest_key(key: str) -> str:
    """Looks for the nearest key in the parent group of ``key``, then anywhere."""
    known = _flat_keys(_compose_dict([]))
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    return did_you_mean(key, siblings or known)


def _flat_keys(raw: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in raw.items():
        keys.append(prefix + key)
        if isinstance(value, Mapping):
            keys += _flat_keys(value, f"{prefix}{key}.")
    return keys


def group_choices(group: str) -> list[str]:
    """The configurations that ship in a group, such as ``experiment``."""
    return sorted(path.stem for path in (asset_dir("conf") / group).glob("*.yaml"))


def _absolute(experiment: Experiment, here: Path) -> Experiment:
    """Makes the experiment's paths absolute: a job starts in another directory."""
    model, data, cluster = experiment.model, experiment.data, experiment.cluster
    budget, method, container = experiment.budget, experiment.method, experiment.container
    return replace(
        experiment,
        budget=replace(
            budget,
            plan=budget.plan and absolute(here, budget.plan),
            ledger=budget.ledger and absolute(here, budget.ledger),
            approvals=budget.approvals and absolute(here, budget.approvals),
        ),
        data=replace(data, root=absolute(here, data.root)),
        method=replace(method, start_from=method.start_from and absolute(here, method.start_from)),
        model=replace(
            model,
            path=model.path and absolute(here, model.path),
            tokenizer=model.tokenizer and absolute(here, model.tokenizer),
        ),
        container=replace(
            container,
            image=container.image and absolute(here, container.image),
            hf_home=container.hf_home and absolute(here, container.hf_home),
            cache_dir=container.cache_dir and absolute(here, container.cache_dir),
        ),
        cluster=replace(cluster, env_file=cluster.env_file and absolute(here, cluster.env_file)),
    )


def absolute(here: Path, path: str) -> str:
    """Makes a path absolute, ``~`` included.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return str(here / Path(path).expanduser())
    except RuntimeError as error:
        raise ConfigError(f"{path} names no user of this machine: write the path out") from error
