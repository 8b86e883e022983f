"""GPU-hours, money, energy and carbon dioxide of a run."""

import math
from dataclasses import dataclass

from planner.cards import Card
from planner.errors import PlannerError
from planner.layout import Layout, Quantity
from planner.prediction import Cost, Hours
from planner.prices import Price, card_price


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """How watts become a bill; every default can be replaced by the site's own figure."""

    utilisation: float = 0.8
    """Mean power over TDP while training."""
    host_w_per_gpu: float = 150.0
    """Processors, memory, fans and network, a card: a DGX A100 has 6.5 kW for 8 x 400 W at most,
    about half of the difference in use."""
    pue: float = 1.2
    """Power of the building over power of the machines; HPC centres have 1.1 to 1.3, the mean of
    all data centres is 1.56 (Uptime Institute, survey of 2024)."""
    grid_g_per_kwh: float = 473.0
    """CO2 of the grid: the world's mean of 2024 (Ember, Global Electricity Review 2025)."""


def cost_of(
    hours: Hours,
    layout: Layout,
    card: Card,
    price: Price | float | None = None,
    *,
    preemptible: bool = False,
    energy: Energy | None = None,
) -> Cost:
    """What a run takes from the budget, at the median and at p95.

    Queue waits cost nothing. A price that is a bare number is the user's own, in USD. Where none is
    given, the table of cards answers, for preemptible cards if asked; where it has none either,
    cost and price are NaN and the source says so: unknown, never zero.

    Raises:
        PlannerError: a price of zero or less.
    """
    chosen = _chosen(price, card, preemptible=preemptible)
    power = energy or Energy()
    median, slow = hours.hours_p50 * layout.gpus, hours.hours_p95 * layout.gpus
    kwh = _kwh(median, card, power)
    return Cost(
        gpu_hours_p50=median,
        gpu_hours_p95=slow,
        cost_p50=median * chosen.per_gpu_hour,
        cost_p95=slow * chosen.per_gpu_hour,
        currency=chosen.currency,
        price_per_gpu_hour=chosen.per_gpu_hour,
        price_source=chosen.source,
        price_date=chosen.date,
        energy_kwh=kwh,
        co2_kg=kwh * power.grid_g_per_kwh / 1000.0,
    )


def _chosen(price: Price | float | None, card: Card, *, preemptible: bool) -> Price:
    if price is None:
        default = card_price(card, preemptible=preemptible)
        return default or Price(math.nan, "USD", f"no price known for {card.name}", "")
    own = price if isinstance(price, Price) else Price(float(price), "USD", "given", "")
    if not 0 < own.per_gpu_hour < math.inf:
        raise PlannerError(f"price_per_gpu_hour must be above 0, not {own.per_gpu_hour:g}")
    return own


def _kwh(gpu_hours: Quantity, card: Card, energy: Energy) -> Quantity:
    """Energy at the meter: ``hours x (TDP x utilisation + host) x PUE``; NaN without a TDP."""
    tdp = math.nan if card.tdp_w is None else card.tdp_w
    watts = (tdp * energy.utilisation + energy.host_w_per_gpu) * energy.pue
    return gpu_hours * (watts / 1000.0)
