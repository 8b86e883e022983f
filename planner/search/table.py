"""All candidates of a search as columns, whatever group they were evaluated in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.plan import Ask, Choice
from planner.search.evaluate import Group, Values
from planner.search.options import OFFLOADS, STAGES

TIE = 0.01
"""Two plans whose objectives differ by less than this share are equally good: the formulas are
not more exact. Of equally cheap ones the simplest that is fast is worth more, of equally fast
ones the cheapest."""


@dataclass(frozen=True, slots=True)
class Table:
    """One row a candidate."""

    groups: Sequence[Group]
    group: NDArray[np.int64]
    """Position of the row's group."""
    place: NDArray[np.int64]
    """Position of the row within its group."""
    excess_bytes: Values
    time: Values
    cost: Values
    wall_p95_hours: Values
    cost_p95: Values
    card_time: Values
    ranks: NDArray[np.float64]
    """Columns that decide ties: stage, offload, nodes and cards."""

    @property
    def size(self) -> int:
        """Number of candidates."""
        return int(self.group.size)

    def choice(self, row: int) -> Choice:
        """One row with all its figures."""
        return self.groups[int(self.group[row])].choice(int(self.place[row]))

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Whether p95 of the process's memory is within what the card can give."""
        return self.excess_bytes <= 0


def table_of(groups: Sequence[Group]) -> Table:
    """Puts groups under one another."""
    sizes = [group.size for group in groups]

    def stack(columns: list[Values]) -> Values:
        return np.concatenate(columns) if columns else np.empty(0)

    return Table(
        groups=groups,
        group=np.repeat(np.arange(len(groups)), sizes),
        place=np.concatenate([np.arange(size) for size in sizes] or [np.empty(0, dtype=int)]),
        excess_bytes=stack([group.excess_bytes for group in groups]),
        time=stack([group.time_key for group in groups]),
        cost=stack([group.cost_p50 for group in groups]),
        wall_p95_hours=stack([group.wall_p95_hours for group in groups]),
        cost_p95=stack([group.cost_p95 for group in groups]),
        card_time=stack([group.card_time for group in groups]),
        ranks=stack([_ranks(group) for group in groups]).reshape(-1, 4),
    )


def _ranks(group: Group) -> Values:
    """Stage, offload, nodes and cards; of each, less is simpler."""
    nodes = np.ceil(group.column(group.layout.gpus) / group.column(group.layout.gpus_per_node))
    stage = np.full(group.size, float(STAGES.index(group.option.sharding)))
    offload = np.full(group.size, float(OFFLOADS.index(group.option.offload)))
    return np.stack([stage, offload, nodes, group.column(group.layout.gpus)], axis=1)


def within(ask: Ask, table: Table) -> NDArray[np.bool_]:
    """Rows that fit into memory, the deadline and the budget, at p95.

    What is not known is within nothing: a deadline cannot be promised without hours.
    """
    good = table.fits
    if ask.deadline_hours is not None:
        good = good & (table.wall_p95_hours <= ask.deadline_hours)
    if ask.budget is not None:
        good = good & (table.cost_p95 <= ask.budget)
    return good


def value_of(ask: Ask, table: Table) -> Values:
    """What the objective makes small.

    Prices that no offer has leave GPU-hours to decide; one that some lack cannot win by that.
    """
    if ask.objective == "fastest":
        return table.time
    return _price(table)


def order_of(ask: Ask, table: Table, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows from the best to the worst.

    Of those that tie with the cheapest of all: the lowest stage, no offload, the shortest time,
    few nodes, few cards. Of those that tie with the fastest: the lowest cost, then the same.
    """
    if rows.size == 0:
        return rows
    value = value_of(ask, table)[rows]
    is_cheapest = ask.objective == "cheapest"
    other = table.time[rows] if is_cheapest else _price(table)[rows]
    stage, offload, nodes, cards = table.ranks[rows].T
    rules = [stage, offload, other] if is_cheapest else [other, stage, offload]
    ties = value <= value.min() * (1 + TIE)
    first = [np.where(ties, rule, 0.0) for rule in (*rules, nodes, cards)]
    keys = [~ties, *first, value, other]
    ordered: NDArray[np.int64] = rows[np.lexsort(keys[::-1])]
    return ordered


def _price(table: Table) -> Values:
    """What a row costs; GPU-hours where no offer has a price."""
    if np.all(np.isnan(table.cost)):
        return table.card_time
    return np.where(np.isnan(table.cost), np.inf, table.cost)


def pareto_rows(table: Table, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that no other beats in both cost and time, from the cheapest on.

    Of rows that are equal in both, the first in the tie order stays.
    """
    cost = table.cost[rows]
    if np.all(np.isnan(cost)):
        cost = table.card_time[rows]
    rows, cost = rows[~np.isnan(cost)], cost[~np.isnan(cost)]
    time = table.time[rows]
    order = np.lexsort([*table.ranks[rows].T[::-1], time, cost])
    time = time[order]
    fastest_before = np.minimum.accumulate(np.concatenate([[np.inf], time[:-1]]))
    front: NDArray[np.int64] = rows[order][time < fastest_before]
    return front
