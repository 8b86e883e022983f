"""The plan as a page for the terminal."""

from rich.console import Console
from rich.text import Text

from planner.plan import Choice, Plan
from planner.report import words
from planner.report.card_memory import card_memory
from planner.report.facts import assumptions, checks, hashes, prices, question, swings
from planner.report.figures import (
    UNKNOWN,
    energy,
    figure,
    gib,
    hours,
    mass,
    moment,
    money,
    one_line,
    price,
)
from planner.report.paper import Paper, paper_of, print_lines
from planner.report.rows import currency_of, rows_of
from planner.report.terminal_bar import headline, memory_bar
from planner.report.terminal_table import choices_table

_MOST_SWINGS = 3


def show_plan(console: Console, plan: Plan) -> None:
    """Prints a plan: the choice, its memory, the alternatives and what stands behind them.

    Fits itself to the console: colours only where there are some, columns by width, plain ASCII
    where nothing else can be shown.
    """
    paper = paper_of(console)
    print_lines(console, [*_asked(plan, paper), *_answer(plan, paper), *_behind(plan, paper)])


def _asked(plan: Plan, paper: Paper) -> list[Text]:
    facts = [(fact.label, fact.text) for fact in question(plan)[1:]]
    return [*paper.wrapped(f"Plan for {words.title(plan)}", 0, "bold"), *paper.pairs(facts)]


def _answer(plan: Plan, paper: Paper) -> list[Text]:
    if plan.chosen is None:
        return _nothing_fits(plan, paper) + _rejected(plan, paper, "Tried")
    memory = card_memory(plan.chosen)
    return [
        Text(),
        *paper.wrapped(f"Chosen: {words.described(plan.chosen)}", 0, "bold green"),
        *paper.pairs(_figures(plan, plan.chosen)),
        *paper.heading(headline(memory)),
        *memory_bar(memory, paper),
        *paper.heading("Feasible choices"),
        *choices_table(rows_of(plan), currency_of(plan), paper),
        *paper.heading("What binds"),
        *paper.pairs([("most memory", words.component_name(plan.binding)), *_unlock(plan)]),
        *_rejected(plan, paper, "Not taken"),
        *_sensitivity(plan, paper),
    ]


def _nothing_fits(plan: Plan, paper: Paper) -> list[Text]:
    problem, instead = words.nearest_parts(plan)
    labels = ("instead", *("or" for _ in instead[1:]))
    return [
        Text(),
        Text("Nothing that was asked for is feasible", style="bold red"),
        *paper.pairs(
            [
                ("why", one_line(plan.why)),
                ("most memory", words.component_name(plan.binding)),
                ("nearest", problem),
                *zip(labels, instead, strict=False),
                *_unlock(plan),
            ]
        ),
    ]


def _figures(plan: Plan, choice: Choice) -> list[tuple[str, str]]:
    clock, cost, currency = choice.prediction.hours, choice.prediction.cost, currency_of(plan)
    memory = choice.prediction.memory
    found = [("time", UNKNOWN), ("cost", UNKNOWN)]
    if clock is not None:
        found[0] = ("time", _estimates(hours(clock.hours_p50), hours(clock.hours_p95)))
    if cost is not None:
        spent = _estimates(money(cost.cost_p50, currency), money(cost.cost_p95, currency))
        used = _estimates(figure(cost.gpu_hours_p50), figure(cost.gpu_hours_p95))
        found[1] = ("cost", spent)
        found.append(("GPU-hours", used))
        found.append(("energy", f"{energy(cost.energy_kwh)}, {mass(cost.co2_kg)} CO2"))
    beside = f"{gib(memory.host_bytes)} of RAM a node, {gib(memory.checkpoint_bytes)} a checkpoint"
    verdicts = {True: "holds at p95", False: "DOES NOT HOLD at p95", None: "unknown"}
    limits = [(check.label, f"{verdicts[check.holds]}: {check.text}") for check in checks(plan)]
    return [*found, ("host and disk", beside), *limits, ("why", one_line(plan.why))]


def _estimates(low: str, high: str) -> str:
    return UNKNOWN if UNKNOWN in (low, high) else f"{low} (p50), {high} (p95)"


def _unlock(plan: Plan) -> list[tuple[str, str]]:
    if plan.unlock is None:
        return []
    unlock = plan.unlock
    text = f"{one_line(unlock.change)} frees {gib(unlock.frees_bytes)}: {one_line(unlock.then)}"
    return [("next option", text)]


def _rejected(plan: Plan, paper: Paper, title: str) -> list[Text]:
    if not plan.rejected:
        return []
    facts = [(one_line(other.change), one_line(other.reason)) for other in plan.rejected]
    return [*paper.heading(title), *paper.pairs(facts)]


def _sensitivity(plan: Plan, paper: Paper) -> list[Text]:
    found, currency = swings(plan)[:_MOST_SWINGS], currency_of(plan)
    if not found:
        return []
    facts = []
    for swing in found:
        low = f"{money(swing.cost_low, currency)} at {swing.low}"
        high = f"{money(swing.cost_high, currency)} at {swing.high}"
        facts.append((swing.parameter, f"{low}; {high}"))
    return [*paper.heading("What moves the cost most"), *paper.pairs(facts)]


def _behind(plan: Plan, paper: Paper) -> list[Text]:
    lines = paper.heading("Assumptions") if assumptions(plan) else []
    for text in assumptions(plan):
        lines += paper.item(text)
    if found := _prices(plan):
        lines += [*paper.heading("Prices a card and hour"), *paper.pairs(found)]
    made = f"{moment(plan.created)}, from {plan.candidates:,} candidates"
    facts = [
        ("calibration", one_line(plan.calibration)),
        ("made", made),
        *((fact.label, fact.text) for fact in hashes(plan)),
    ]
    return [*lines, *paper.heading("Origin"), *paper.pairs(facts)]


def _prices(plan: Plan) -> list[tuple[str, str]]:
    found = []
    for line in prices(plan):
        origin = ", ".join(part for part in (line.source, line.date) if part != UNKNOWN)
        text = price(line.price, line.currency) + (f" ({origin})" if origin else "")
        found.append((f"{line.gpu}, {line.kind}", text))
    return found
