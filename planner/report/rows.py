"""The table of feasible choices: its columns, and which of them fit into a width."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from planner.plan import Choice, Plan
from planner.report import words
from planner.report.figures import UNKNOWN, amount, bare_gib, figure, one_line

WIDEST, NARROWEST = 0, 7


@dataclass(frozen=True, slots=True)
class Column:
    """One column; it is shown from the level ``first`` to the level ``last`` of narrowing."""

    title: str
    values: Callable[[Choice], tuple[Any, ...]]
    """What stands in a cell: one value, or p50 and p95."""
    written: Callable[[Any], str] = str
    numeric: bool = True
    first: int = WIDEST
    last: int = NARROWEST
    idle: str = ""
    """Left out where every row says this."""
    varied: bool = False
    """Left out where all rows say the same."""

    def says_nothing(self, rows: Sequence["Row"]) -> bool:
        """Whether the column can be left out of these rows."""
        texts = {self.text(row.choice) for row in rows}
        return texts <= {self.idle} if self.idle else self.varied and len(texts) < 2

    @property
    def written_as_text(self) -> bool:
        """Whether the cell holds words or counts, and no measured figure."""
        return self.written is str

    def text(self, choice: Choice) -> str:
        """The cell as text; a pair with one unknown end is unknown."""
        parts = [self.written(value) for value in self.values(choice)]
        return UNKNOWN if UNKNOWN in parts else "/".join(parts)


@dataclass(frozen=True, slots=True)
class Row:
    """One choice with its place in the plan."""

    number: int
    choice: Choice
    chosen: bool
    on_front: bool
    """No other choice is both cheaper and faster."""


def rows_of(plan: Plan) -> tuple[Row, ...]:
    """All feasible choices in the order of the objective; the chosen one is always there."""
    front = set(plan.pareto)
    listed = [(choice, at in front) for at, choice in enumerate(plan.feasible)]
    if plan.chosen is not None and plan.chosen not in plan.feasible:
        listed.insert(0, (plan.chosen, False))
    return tuple(
        Row(number, choice, choice == plan.chosen, on_front)
        for number, (choice, on_front) in enumerate(listed, start=1)
    )


def few_rows(rows: Sequence[Row], at_most: int) -> tuple[Row, ...]:
    """The best ones: the chosen one and the front stay before others."""
    wanted = sorted(rows, key=lambda row: (not row.chosen, not row.on_front, row.number))
    return tuple(sorted(wanted[:at_most], key=lambda row: row.number))


def currency_of(plan: Plan) -> str:
    """The currency of the plan's prices; USD where no price is known."""
    for choice in ((plan.chosen,) if plan.chosen else ()) + plan.feasible:
        if choice.prediction.cost is not None:
            return one_line(choice.prediction.cost.currency)
    return "USD"


def _peak(choice: Choice) -> tuple[Any, ...]:
    memory = choice.prediction.memory
    return memory.process_p50_bytes, memory.process_p95_bytes


def _hours(choice: Choice) -> tuple[Any, ...]:
    hours = choice.prediction.hours
    return (None, None) if hours is None else (hours.hours_p50, hours.hours_p95)


def _gpu_hours(choice: Choice) -> tuple[Any, ...]:
    cost = choice.prediction.cost
    return (cost.gpu_hours_p50 if cost else None,)


def _cost(choice: Choice) -> tuple[Any, ...]:
    cost = choice.prediction.cost
    return (None, None) if cost is None else (cost.cost_p50, cost.cost_p95)


def _kwh(choice: Choice) -> tuple[Any, ...]:
    cost = choice.prediction.cost
    return (cost.energy_kwh if cost else None,)


def _words(title: str, say: Callable[[Choice], str], **more: Any) -> Column:  # noqa: ANN401
    return Column(title, lambda choice: (say(choice),), numeric=False, **more)


def _count(title: str, say: Callable[[Choice], str], **more: Any) -> Column:  # noqa: ANN401
    return Column(title, lambda choice: (say(choice),), **more)


def columns(currency: str) -> tuple[Column, ...]:
    """All columns in their order, wide and narrow ones."""
    return (
        _words("card", lambda c: one_line(c.gpu)),
        _words("partition", lambda c: one_line(c.partition or "-"), varied=True, last=5),
        _words("kind", lambda c: "spot" if c.preemptible else "-", idle="-"),
        _count("cards", lambda c: f"{c.gpus:,}", last=2),
        _count("nodes", lambda c: f"{c.nodes:,}", last=2),
        _count("cards", words.cards_short, first=3),
        _words("ZeRO", words.stage, last=3),
        _words("offload", words.offload_short, last=3, idle="none"),
        _words("ZeRO", words.stage_with_offload, first=4),
        _count("micro", lambda c: f"{c.micro_batch}", last=1),
        _count("accum.", lambda c: f"{c.grad_accum}", last=1),
        _count("batch", lambda c: f"{c.micro_batch}x{c.grad_accum}", first=2, last=6),
        _words("ckpt", lambda c: "on" if c.grad_ckpt else "off", last=6),
        _words("loss", lambda c: one_line(c.loss), last=4, idle="fp32"),
        Column("GiB p50/p95", _peak, bare_gib),
        Column("hours p50/p95", _hours, figure),
        Column("GPU-hours", _gpu_hours, figure, last=4),
        Column(f"{currency} p50/p95", _cost, amount),
        Column("kWh", _kwh, figure, last=0),
    )


def shown(all_columns: Sequence[Column], level: int, rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns of one level of narrowing, without those that say nothing."""
    return tuple(
        column
        for column in all_columns
        if column.first <= level <= column.last and not column.says_nothing(rows)
    )
