"""What the planner is asked for: the objective, the cards on offer and what surrounds the run."""

from dataclasses import dataclass, field
from typing import Literal

from hpcjobs.run.checks import above, at_least, one_line
from hpcjobs.run.cluster_config import slurm_time_s
from hpcjobs.run.errors import ConfigError

Sharding = Literal["zero0", "zero1", "zero2", "zero3"]
Offload = Literal["none", "optimizer", "optimizer_params"]
"""What lies in host memory; the names are the planner's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardEntry:
    """One kind of card that may be used."""

    gpu: str
    """The planner's name of the card: ``python -m planner estimate`` takes the same."""
    gpus_per_node: int = 8
    max_gpus: int = 8
    price: float | None = None
    """A card and hour, in the currency of the prices; null takes the dated price table."""
    preemptible: bool = False
    partition: str | None = None
    """The Slurm partition that has these cards; ``parallel=auto`` submits to it."""
    gpu_type: str | None = None
    """Slurm's name of the card; null leaves ``cluster.gpu_type`` as it is."""

    def __post_init__(self) -> None:
        """Checks ranges: a price of zero would win every comparison."""
        at_least("gpus_per_node", self.gpus_per_node, 1)
        at_least("max_gpus", self.max_gpus, 1)
        above("price", self.price, 0)
        for name in ("gpu", "partition", "gpu_type"):
            one_line(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLengths:
    """Tokens a sample, pictures included: mean and spread, or observed values."""

    mean: float | None = None
    std: float | None = None
    max: int | None = None
    """Null is ``model.max_length``."""
    values: tuple[int, ...] = ()
    """Observed lengths, instead of mean and std."""

    def __post_init__(self) -> None:
        """Checks ranges, and that lengths are given in one way."""
        for name in ("mean", "std", "max"):
            above(name, getattr(self, name), 0)
        for value in self.values:
            at_least("each of values", value, 1)
        if self.values and self.mean is not None:
            raise ConfigError(
                "set either mean or values: the experiment's own mean goes with "
                "planner.lengths.mean=null planner.lengths.std=null"
            )
        if self.std is not None and self.mean is None:
            raise ConfigError("std needs mean: write planner.lengths.mean=N")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """The question to the planner; docs/planner.md shows what it answers."""

    objective: Literal["cheapest", "fastest"] = "cheapest"
    deadline_hours: float | None = None
    """The run must have ended by then at p95, queue and interruptions included."""
    budget: float | None = None
    """The most that the run may cost at p95, in the currency of the prices."""
    keep_layout: bool = False
    """Plans the cards, the stage and the micro batch that the experiment has, and no others."""
    cards: tuple[CardEntry, ...] = ()
    """Cards to choose from; empty takes ``cluster.gpu_type``, else a list of common cards."""
    gpus_per_node: int = 8
    """Cards of one node, for cards that are not listed in ``cards``."""
    max_gpus: int = 8
    """The most cards to consider, for cards that are not listed in ``cards``."""
    prices: str | None = None
    """A price table (CSV) instead of the dated one of the planner."""
    calibration: str | None = None
    """What runs have taught (``python -m planner calibrate``); null takes the user's own file
    where there is one, none takes nothing."""
    currency: str = "USD"
    """Of all prices that are written here."""
    shardings: tuple[Sharding, ...] = ("zero0", "zero1", "zero2", "zero3")
    """ZeRO stages to consider."""
    offloads: tuple[Offload, ...] = ("none",)
    """Offloads to host memory to consider: they save cards' memory and cost time."""
    read_data: bool = True
    """Measures samples, lengths and pictures in the data file where it can be read here; false
    takes the three keys below in any case."""
    samples: int | None = None
    """Samples of the training data where the file was not read; null is not known."""
    lengths: PlanLengths = field(default_factory=PlanLengths)
    """Tokens a sample where the file was not read; null is ``model.max_length`` for all."""
    images_per_sample: float | None = None
    """Pictures a sample where the file was not read; null is 1."""
    preemptions_per_day: float | None = None
    """Of a preemptible card; null is the planner's documented rate."""
    queue_hours: float | None = None
    """Wait in the queue at each start; null is the planner's default."""
    grams_co2_per_kwh: float | None = None
    """Of the power grid; null is the planner's default."""
    time_limit: str = "24:00:00"
    """The longest ``--time`` that ``parallel=auto`` asks for; a longer run saves at this limit,
    is requeued and goes on."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("deadline_hours", "budget"):
            above(name, getattr(self, name), 0)
        for name in ("gpus_per_node", "max_gpus", "samples"):
            at_least(name, getattr(self, name), 1)
        for name in ("preemptions_per_day", "queue_hours", "images_per_sample"):
            at_least(name, getattr(self, name), 0)
        at_least("grams_co2_per_kwh", self.grams_co2_per_kwh, 0)
        one_line("prices", self.prices)
        one_line("calibration", self.calibration)
        one_line("currency", self.currency)
        for name in ("shardings", "offloads"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty: write at least one")
        slurm_time_s(self.time_limit)
