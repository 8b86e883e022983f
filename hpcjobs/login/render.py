"""The batch script as a pure function of the experiment: previewed, submitted and saved alike."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hpcjobs.login.assets import asset_dir
from hpcjobs.login.site import UNKNOWN_SITE, Site
from hpcjobs.run.bad_nodes import merge_exclude
from hpcjobs.run.checks import has_control_character
from hpcjobs.run.cluster_config import Cluster
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.layout import RunDir

_PLAIN = re.compile(r"[A-Za-z0-9_./:,=@+%\[\]-]+")

Option = tuple[str, str | None]


def render_script(
    experiment: Experiment, run: RunDir, python: str, site: Site = UNKNOWN_SITE
) -> str:
    """Renders ``sbatch_templates/job.sbatch.j2``.

    Args:
        experiment: the validated experiment.
        run: the run directory; only its paths are used.
        python: interpreter that starts the broker.
        site: what the cluster says of the place; unknown by default.

    Raises:
        ConfigError: a value that no quoting makes safe.
    """
    template = _templates().get_template("job.sbatch.j2")
    return template.render(
        options=sbatch_options(experiment, run, site),
        setup=experiment.cluster.setup,
        python=python,
        archive=str(run.node_archive),
        run=str(run.path),
        run_id=run.run_id,
        script=str(run.script),
    )


def sbatch_options(experiment: Experiment, run: RunDir, site: Site = UNKNOWN_SITE) -> list[Option]:
    """The long options of the job's ``#SBATCH`` lines, in the order in which people read them."""
    parallel, cluster = experiment.parallel, experiment.cluster
    options: list[Option] = [("job-name", experiment.name), ("output", _log_pattern(run))]
    options += [("open-mode", "append")]
    for name in ("partition", "account", "qos", "constraint"):
        options += _given(name, getattr(cluster, name))
    options += [("nodes", parallel.node_words)]
    if parallel.min_nodes is None:  # with it Slurm 22.05 gives a range's fewest nodes, never more
        options += [("ntasks-per-node", "1")]
    options += [("cpus-per-task", str(cluster.cpus_per_node))]
    if parallel.device != "cpu":
        kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
        options += [("gpus-per-node", f"{kind}{parallel.gpus_per_node}")]
    options += [*_given("mem", cluster.mem), ("time", site.job_time(cluster))]
    options += [("requeue" if cluster.requeue else "no-requeue", None)]
    options += [("signal", f"B:USR2@{cluster.signal_lead_s}"), ("export", "ALL")]
    further = dict(cluster.sbatch)
    if site.bad_nodes:
        further["exclude"] = merge_exclude(own_option(cluster, "exclude"), site.bad_nodes)
    return options + _further(further)


def own_option(cluster: Cluster, name: str) -> str | None:
    """What the user gave an sbatch option; None where nothing was given."""
    value = cluster.sbatch.get(name)
    return None if value is None or isinstance(value, bool) else str(value)


def sbatch_word(value: str) -> str:
    """Quotes a value for an ``#SBATCH`` line, which sbatch unquotes but does not expand.

    Inside double quotes sbatch (22.05) unescapes only the backslash and the quote; outside
    them it cuts the value at ``#`` without a word.

    Raises:
        ConfigError: a control character, which would end the line.
    """
    if has_control_character(value):
        raise ConfigError(f"{value!r} holds a control character, which would end the #SBATCH line")
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _log_pattern(run: RunDir) -> str:
    return str(run.path).replace("%", "%%") + "/slurm-%j.log"


def _given(name: str, value: str | None) -> list[Option]:
    return [] if value is None else [(name, value)]


def _further(options: Mapping[str, str | int | bool | None]) -> list[Option]:
    chosen: list[Option] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        chosen.append((name, None if value is True else str(value)))
    return chosen


def _templates() -> Environment:
    loader = FileSystemLoader(asset_dir("sbatch_templates"))
    templates = Environment(  # noqa: S701 - a shell script, quoted by the two filters below
        loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=False
    )
    templates.filters["quote"] = _shell_word
    templates.filters["sbatch"] = sbatch_word
    return templates


def _shell_word(value: str) -> str:
    if "\x00" in value:
        raise ConfigError(f"{value!r} holds a NUL character")
    return shlex.quote(value)


def check_run_path(path: Path) -> None:
    """Refuses run directories that a batch script cannot name.

    Raises:
        ConfigError: a control character, or a backslash, which makes sbatch drop the log.
    """
    if "\\" in str(path) or has_control_character(str(path)):
        raise ConfigError(
            f"the run directory {str(path)!r} holds a backslash or a control character, "
            f"which sbatch cannot name: write another runs_dir or run_dir"
        )
