"""What a plan says in sentences: the question, the checks, the risks, the prices."""

from dataclasses import dataclass
from typing import Any

from planner.approval import plan_hash
from planner.plan import Choice, Plan
from planner.report import words
from planner.report.card_memory import card_memory
from planner.report.figures import (
    UNKNOWN,
    figure,
    gib,
    hours,
    known,
    money,
    one_line,
    percent,
    plural,
    seconds,
)
from planner.report.rows import currency_of


@dataclass(frozen=True, slots=True)
class Fact:
    """A label and what is to be said under it."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Check:
    """A limit against the high estimate."""

    label: str
    text: str
    holds: bool | None
    """None where one of both is not known."""


@dataclass(frozen=True, slots=True)
class PriceLine:
    """The price of one kind of card."""

    gpu: str
    kind: str
    price: float | None
    currency: str
    source: str
    date: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Swing:
    """How far one assumption moves the cost."""

    parameter: str
    low: str
    high: str
    cost_low: float
    cost_high: float

    @property
    def span(self) -> float:
        """Distance between both costs."""
        return abs(self.cost_high - self.cost_low)


def question(plan: Plan) -> tuple[Fact, ...]:
    """What was asked."""
    ask, workload = plan.ask, plan.ask.workload
    shortest, longest = min(workload.seq_len.values), max(workload.seq_len.values)
    lengths = f"{longest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
    return (
        Fact("train", words.title(plan)),
        Fact("data", f"{words.amount_of_data(workload)}, {lengths} tokens a sample"),
        Fact("global batch", f"{plural(ask.global_batch, 'sample')} a step, kept exactly"),
        Fact("wanted", words.limits(ask, currency_of(plan))),
        Fact("cards on offer", words.offers(ask)),
    )


def checks(plan: Plan) -> tuple[Check, ...]:
    """Memory, deadline and budget against the high estimate (p95) of the chosen plan."""
    choice = plan.chosen
    if choice is None:
        return ()
    memory, prediction, ask = card_memory(choice), choice.prediction, plan.ask
    found = [_check("memory of a card", memory.p95_bytes, memory.limit_bytes, gib)]
    if ask.deadline_hours is not None:
        found.append(_check("deadline", end_hours(choice), ask.deadline_hours, hours))
    if ask.budget is not None:
        high = prediction.cost.cost_p95 if prediction.cost else None
        currency = currency_of(plan)
        found.append(_check("budget", high, ask.budget, lambda value: money(value, currency)))
    return tuple(found)


def end_hours(choice: Choice) -> float | None:
    """Hours until the run has ended at p95, the expected queue waits included."""
    clock = choice.prediction.hours
    if clock is None:
        return None
    high = known(clock.hours_p95)
    wall, running = known(clock.wall_hours_p50), known(clock.hours_p50)
    if high is None or wall is None or running is None:
        return high
    return high + wall - running


def _check(label: str, value: Any, limit: float | None, written: Any) -> Check:  # noqa: ANN401
    high = known(value)
    if high is None:
        return Check(label, f"nothing says what is taken of {written(limit)}", None)
    if limit is None:
        return Check(label, f"{written(high)} are taken, the limit is in no table", None)
    share = percent(high / limit)
    return Check(label, f"{written(high)} of {written(limit)} ({share})", high <= limit)


def risks(plan: Plan) -> tuple[Fact, ...]:
    """What may go wrong with the chosen plan, and what that would take."""
    choice = plan.chosen
    if choice is None:
        return ()
    return (
        _interruption(choice),
        *_lost_time(choice),
        _out_of_memory(choice),
        *_queue(choice),
        Fact("higher cost", _overrun(choice, currency_of(plan))),
    )


def _interruption(choice: Choice) -> Fact:
    if choice.preemptible:
        text = (
            "These cards are preemptible: the cluster may take them back at any time. The run then "
            "waits for free cards and goes on from its last checkpoint."
        )
    else:
        text = (
            "The cards are not preemptible. Hardware fails all the same; the run then goes on from "
            "its last checkpoint."
        )
    return Fact("interruption", text)


def _lost_time(choice: Choice) -> tuple[Fact, ...]:
    clock = choice.prediction.hours
    if clock is None:
        return ()
    every_s = known(clock.checkpoint_interval_s)
    size = gib(choice.prediction.memory.checkpoint_bytes)
    moving = (
        f"{percent(clock.goodput)} of the paid time is expected to move the training on "
        f"({hours(clock.train_hours_p50)} of {hours(clock.hours_p50)}). The rest is start-up, "
        "checkpoints, evaluation and work done twice after interruptions."
    )
    if every_s is None:
        return (Fact("time lost", moving),)
    return Fact("time lost", moving), Fact("checkpoints", _checkpoints(choice, every_s, size))


def _checkpoints(choice: Choice, every_s: float, size: str) -> str:
    clock = choice.prediction.hours
    if clock is not None and every_s / 3600 >= clock.hours_p50:
        everything = figure(choice.gpus * clock.hours_p50)
        return (
            f"One takes {size}. Interruptions are so rare that saving more often than every "
            f"{seconds(every_s)} loses more than it gains; without a checkpoint before the end, an "
            f"interruption repeats up to {everything} GPU-hours."
        )
    return (
        f"One of {size} about every {seconds(every_s)}: the interval that loses least. An "
        f"interruption repeats at most that much work, {figure(every_s / 3600 * choice.gpus)} "
        "GPU-hours, beside the restart."
    )


def _out_of_memory(choice: Choice) -> Fact:
    memory = card_memory(choice)
    room = (
        f"The high estimate leaves {gib(memory.free_bytes)} of {gib(memory.limit_bytes)} free."
        if memory.free_bytes is not None
        else "How much memory the card has is unknown."
    )
    text = (
        f"{room} One run in twenty is expected to need more than the high estimate. A run that "
        "needs more than the card has stops with an error; what came after its last checkpoint is "
        "lost, and it takes a new plan with a smaller micro batch, checkpointing or a higher stage."
    )
    return Fact("out of memory", text)


def _queue(choice: Choice) -> tuple[Fact, ...]:
    clock = choice.prediction.hours
    if clock is None or known(clock.wall_hours_p50) is None:
        return ()
    wait = float(clock.wall_hours_p50 - clock.hours_p50)
    text = f"Waiting for free cards is expected to add {hours(wait)}; it is not paid for."
    return (Fact("waiting", text),) if wait > 0 else ()


def _overrun(choice: Choice, currency: str) -> str:
    cost = choice.prediction.cost
    low, high = (known(cost.cost_p50), known(cost.cost_p95)) if cost else (None, None)
    if low is None or high is None:
        return "The cost is unknown."
    more = money(high - low, currency)
    return (
        f"Nineteen runs in twenty are expected to cost {money(high, currency)} or less; that is "
        f"{more} above the expected cost. Prices may have changed since their date."
    )


def prices(plan: Plan) -> tuple[PriceLine, ...]:
    """One line for every kind of card that is on the page."""
    lines: dict[tuple[str, bool, str | None], PriceLine] = {}
    listed = ((plan.chosen,) if plan.chosen else ()) + plan.feasible
    for choice in listed:
        if (cost := choice.prediction.cost) is None:
            continue
        kind = "preemptible" if choice.preemptible else "on demand"
        line = PriceLine(
            gpu=one_line(choice.gpu),
            kind=f"{kind}, {one_line(choice.partition)}" if choice.partition else kind,
            price=known(cost.price_per_gpu_hour),
            currency=one_line(cost.currency),
            source=one_line(cost.price_source) or UNKNOWN,
            date=one_line(cost.price_date) or UNKNOWN,
            chosen=choice is plan.chosen,
        )
        lines.setdefault((choice.gpu, choice.preemptible, choice.partition), line)
    return tuple(lines.values())


def assumptions(plan: Plan) -> tuple[str, ...]:
    """What was assumed, each once; the chosen plan has remarks of its own."""
    notes = plan.chosen.prediction.notes if plan.chosen else ()
    return tuple(dict.fromkeys(map(one_line, (*plan.assumptions, *notes))))


def hashes(plan: Plan) -> tuple[Fact, ...]:
    """What an approval is bound to."""
    return (
        Fact("plan hash", plan_hash(plan)),
        Fact("configuration hash", one_line(plan.config_hash) or "none"),
    )


def swings(plan: Plan) -> tuple[Swing, ...]:
    """The sensitivity of the cost, the widest first; entries without both costs are left out."""
    found = []
    for entry in plan.sensitivity:
        low, high = known(entry.get("cost_low")), known(entry.get("cost_high"))
        if low is not None and high is not None:
            name, ends = one_line(entry.get("parameter", "")), (entry.get("low"), entry.get("high"))
            found.append(Swing(name, _end(ends[0]), _end(ends[1]), low, high))
    return tuple(sorted(found, key=lambda swing: -swing.span))


def _end(value: Any) -> str:  # noqa: ANN401 - text or a number, as the plan has it
    if isinstance(value, int | float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return one_line(value)
