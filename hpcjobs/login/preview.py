"""What a submission is about to do, as a table."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpcjobs.login.figures import Figures
from hpcjobs.login.planned_figures import Planned, planned_figures
from hpcjobs.login.site import UNKNOWN_SITE, Site
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.layout import RunDir

if TYPE_CHECKING:
    from planner.plan import Plan


def show_preview(
    console: Console,
    experiment: Experiment,
    run: RunDir,
    figures: Figures,
    where: str,
    plan: "Plan | None" = None,
    site: Site = UNKNOWN_SITE,
) -> None:
    """Prints what a run is about to do: model, data, batch, resources and paths."""
    table = Table(title=f"{experiment.name}  ->  {where}", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    planned = planned_figures(experiment, plan)
    for name, value in preview_rows(experiment, run, figures, planned, site):
        table.add_row(name, Text(value))  # as it is: a path may look like markup
    console.print(table)


def preview_rows(
    experiment: Experiment,
    run: RunDir,
    figures: Figures,
    planned: Planned,
    site: Site = UNKNOWN_SITE,
) -> list[tuple[str, str]]:
    """The rows of the preview: name and value."""
    return [
        ("model", f"{experiment.model.kind}, {figures.total:,} parameters, {_weights(experiment)}"),
        ("method", _method(experiment, figures)),
        ("data", f"{experiment.data.root}/{experiment.data.train}"),
        ("batch", _batch(experiment)),
        ("length", _length(experiment)),
        ("container", _container(experiment)),
        ("cards", _cards(experiment)),
        ("time limit", _time(experiment, site)),
        ("memory a card", planned.memory),
        ("planned", planned.run),
        ("checkpoints", _checkpoints(experiment)),
        ("run directory", str(run.path)),
    ]


def _weights(experiment: Experiment) -> str:
    model = experiment.model
    return "random weights" if model.weights == "random" else f"weights of {model.path}"


def _method(experiment: Experiment, figures: Figures) -> str:
    method = experiment.method
    detail = f" rank {method.rank}, alpha {method.alpha:g}" if method.kind == "lora" else ""
    share = 100 * figures.trainable / figures.total
    return f"{method.kind}{detail}: {figures.trainable:,} parameters trained ({share:.2f} %)"


def _batch(experiment: Experiment) -> str:
    parallel = experiment.parallel
    return (
        f"{experiment.train.global_batch} = micro batch {parallel.micro_batch} x accumulation "
        f"{experiment.grad_accum} x {parallel.world_size} cards"
    )


def _container(experiment: Experiment) -> str:
    container = experiment.container
    if container.image is None:
        return "none"
    digest = container.sha256
    pin = f"sha256:{digest[:16]}" if digest else "as it is now"
    return f"{container.kind}, {container.image} ({pin})"


def _length(experiment: Experiment) -> str:
    train = experiment.train
    return f"{train.steps} steps" if train.steps is not None else f"{train.epochs:g} epochs"


def _cards(experiment: Experiment) -> str:
    parallel, cluster = experiment.parallel, experiment.cluster
    kind = {"cpu": "CPU", "cuda": "GPU", "auto": "GPU (CPU where there is none)"}
    card = cluster.gpu_type or kind[parallel.device]
    return (
        f"{parallel.node_words} x {parallel.gpus_per_node} {card}, {parallel.words}, "
        f"{experiment.train.precision}"
    )


def _time(experiment: Experiment, site: Site) -> str:
    cluster = experiment.cluster
    chunks = f", in chunks of {site.job_time(cluster)}" if site.in_chunks(cluster) else ""
    return f"{cluster.time}{chunks}"


def _checkpoints(experiment: Experiment) -> str:
    plan = experiment.train.checkpoint
    every = [f"{plan.every_steps} steps"] if plan.every_steps else []
    if plan.every_s == "auto":
        every += ["30 min, sooner where losses are frequent"]
    elif plan.every_s is not None:
        every += [f"{plan.every_s:g} s"]
    rhythm = f"every {' or '.join(every)}" if every else "at the end only"
    return f"{rhythm}, the last {plan.keep} kept"
