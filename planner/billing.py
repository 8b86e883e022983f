"""Slurm's billing: what a job takes from an account where units are sold instead of cards."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from planner.errors import PlannerError

_ITEM = re.compile(
    r"^(?P<name>[A-Za-z][\w/:.-]*)=(?P<value>[0-9.]+(?:[eE][+-]?\d+)?)(?P<unit>[KMGTP]?)$"
)
# A weight of memory is per megabyte, unless a unit follows it (slurm.conf, TRESBillingWeights).
_MEGABYTES = {"": 1.0, "K": 1.0 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}


@dataclass(frozen=True, slots=True)
class BillingWeights:
    """The weights of one partition, memory per MB."""

    weights: Mapping[str, float]
    maximum: bool = False
    """PriorityFlags has MAX_TRES: the dearest of the node's resources counts, not their sum."""

    def units_per_hour(self, *, cpus: float, mem_gib: float, gpus: float, nodes: float) -> float:
        """Billing units an hour of a job.

        With MAX_TRES the dearest of processors, memory, nodes and cards counts (slurm.conf(5),
        TRESBillingWeights and PriorityFlags).

        >>> weights = read_billing_weights("CPU=1.0,Mem=0.25G,GRES/gpu=16")
        >>> weights.units_per_hour(cpus=32, mem_gib=256, gpus=4, nodes=1)
        160.0
        """
        amounts = {"cpu": cpus, "mem": mem_gib * 1024.0, "node": nodes, "gres/gpu": gpus}
        shares = [self._weight(name) * amount for name, amount in amounts.items()]
        return max(shares) if self.maximum else sum(shares)

    def _weight(self, name: str) -> float:
        """Of a resource; a typed card (gres/gpu:a100) counts for the plain one."""
        exact = self.weights.get(name)
        if exact is not None:
            return exact
        typed = [value for key, value in self.weights.items() if key.startswith(f"{name}:")]
        return typed[0] if len(typed) == 1 else 0.0


def read_billing_weights(text: str, *, maximum: bool = False) -> BillingWeights:
    """Reads TRESBillingWeights as ``scontrol show partition`` prints it.

    Raises:
        PlannerError: an item that is no ``name=number``, or a negative one.
    """
    weights: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        found = _ITEM.match(item)
        value = _number(found["value"]) if found else math.nan
        if found is None or math.isnan(value):
            raise PlannerError(
                f"TRESBillingWeights: {item!r} is no name=weight; write such as GRES/gpu=2.0"
            )
        name = found["name"].lower()
        weights[name] = value / _MEGABYTES[found["unit"]] if name == "mem" else value
    if not weights:
        raise PlannerError("TRESBillingWeights is empty; write such as CPU=1.0,GRES/gpu=2.0")
    return BillingWeights(weights, maximum)


def gpu_hour_price(
    weights: BillingWeights,
    price_per_unit: float,
    *,
    cpus_per_gpu: float,
    mem_gib_per_gpu: float,
    gpus_per_node: float,
) -> float:
    """What an hour of one card costs where billing units have a price.

    Raises:
        PlannerError: a price of zero or less, or weights under which a card costs nothing.
    """
    if not 0 < price_per_unit < math.inf:
        raise PlannerError(f"price per billing unit must be above 0, not {price_per_unit:g}")
    node = weights.units_per_hour(
        cpus=cpus_per_gpu * gpus_per_node,
        mem_gib=mem_gib_per_gpu * gpus_per_node,
        gpus=gpus_per_node,
        nodes=1.0,
    )
    if node <= 0:
        raise PlannerError("TRESBillingWeights: nothing that the job uses has a weight above 0")
    return node / gpus_per_node * price_per_unit


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
