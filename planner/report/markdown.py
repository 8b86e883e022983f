"""The plan as Markdown, for a ticket or a pull request."""

import re
from collections.abc import Iterable, Sequence

from planner.plan import Choice, Plan
from planner.report import words
from planner.report.card_memory import card_memory
from planner.report.facts import (
    Fact,
    assumptions,
    checks,
    hashes,
    prices,
    question,
    risks,
    swings,
)
from planner.report.figures import UNKNOWN, gib, moment, money, one_line, percent, price, sentence
from planner.report.rows import columns, currency_of, few_rows, rows_of, shown
from planner.report.settings import settings
from planner.report.tiles import approvable, request, tiles

_MOST_ROWS = 40
_LEVEL = 2
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!])")
_WHO_APPROVES = (
    "The approver, who must be somebody else than the submitter unless the configuration says so, "
    "types under the own account:"
)
_VERDICTS = {True: "holds at p95", False: "**does not hold at p95**", None: UNKNOWN}


def render_markdown(plan: Plan) -> str:
    """Renders the same facts as the page, with tables in place of charts."""
    parts = [
        f"# GPU budget: {_md(words.title(plan))}",
        *(_chosen(plan, plan.chosen) if plan.chosen else _nothing(plan)),
        *_rejected(plan),
        *_section("Prices", _prices(plan)),
        *_section("Assumptions", "\n".join(f"- {_md(text)}" for text in assumptions(plan))),
        f"Calibration: {_md(sentence(plan.calibration))}",
        "## Configuration in short",
        _facts(settings(plan)),
        *(_approval(plan) if plan.chosen and approvable(plan.chosen) else ()),
        f"Made {_md(moment(plan.created))} from {plan.candidates:,} candidates.",
    ]
    return "\n\n".join(parts) + "\n"


def _chosen(plan: Plan, choice: Choice) -> list[str]:
    limits = [
        f"- {check.label}: {_VERDICTS[check.holds]}, {_md(check.text)}" for check in checks(plan)
    ]
    return [
        f"**{_md(request(plan, choice))}**",
        _figures(plan, choice),
        "\n".join(limits),
        "Expected is p50: half of such runs need less. High is p95: nineteen in twenty stay below.",
        "## What is asked, and what was chosen",
        _facts(question(plan)),
        f"Chosen: {_md(words.described(choice))}.",
        f"Why: {_md(sentence(plan.why))}",
        "## Choices",
        _choices(plan),
        "## Memory of one card",
        _memory(plan, choice),
        *_section("What the cost depends on", _swings(plan)),
        "## Risks",
        _facts(risks(plan)),
    ]


def _nothing(plan: Plan) -> list[str]:
    return [
        "**There is nothing to approve: nothing that was asked for is feasible.**",
        f"Why: {_md(sentence(plan.why))}",
        f"Most of the memory goes to {_md(words.component_name(plan.binding))}.",
        f"The nearest that would be feasible: {_md(sentence(plan.nearest or UNKNOWN))}",
        *_unlock(plan),
        "## What was asked",
        _facts(question(plan)),
    ]


def _figures(plan: Plan, choice: Choice) -> str:
    rows = []
    for tile in tiles(plan, choice):
        more = "".join(f"{part.before}{part.text}{part.after}" for part in tile.more)
        rows.append((_md(tile.label), _md(tile.big), _md(more)))
    return _table(("", "", ""), rows)


def _choices(plan: Plan) -> str:
    every = rows_of(plan)
    rows = few_rows(every, _MOST_ROWS)
    chosen = shown(columns(currency_of(plan)), _LEVEL, rows)
    cells = []
    for row in rows:
        mark = "chosen" if row.chosen else "*" if row.on_front else ""
        texts = (_md(column.text(row.choice)) for column in chosen)
        cells.append((str(row.number), *texts, _md(mark)))
    numeric = (True, *(column.numeric for column in chosen), False)
    table = _table(("no.", *(column.title for column in chosen), ""), cells, numeric)
    left_out = len(every) - len(rows)
    more = f" {left_out} more choices are left out." if left_out else ""
    return f"{table}\n\n\\* nothing is both cheaper and faster.{more}"


def _memory(plan: Plan, choice: Choice) -> str:
    memory = card_memory(choice)
    limit = memory.limit_bytes
    rows = [
        (_md(part.name), gib(part.size_bytes), percent(part.size_bytes / limit if limit else None))
        for part in memory.segments
    ]
    rows += [
        (
            "**peak, expected (p50)**",
            gib(memory.p50_bytes),
            percent(_share(memory.p50_bytes, limit)),
        ),
        ("**peak, high (p95)**", gib(memory.p95_bytes), percent(_share(memory.p95_bytes, limit))),
        ("**what a process gets of the card**", gib(limit), ""),
    ]
    table = _table((f"one {_md(choice.gpu)}", "size", "of the limit"), rows, (False, True, True))
    binds = f"Most of it goes to {_md(words.component_name(plan.binding))}."
    return "\n\n".join((table, binds, *_unlock(plan)))


def _share(size: float, limit: float | None) -> float | None:
    return size / limit if limit else None


def _unlock(plan: Plan) -> list[str]:
    if plan.unlock is None:
        return []
    unlock = plan.unlock
    frees = f"{_md(unlock.change)} frees {gib(unlock.frees_bytes)}; {_md(sentence(unlock.then))}"
    return [f"The cheapest change that makes the next option possible: {frees}"]


def _rejected(plan: Plan) -> list[str]:
    rows = [(_md(other.change), _md(other.reason)) for other in plan.rejected]
    title = "Neighbours that were not taken" if plan.chosen else "What was tried"
    return _section(title, _table(("change", "reason"), rows) if rows else "")


def _swings(plan: Plan) -> str:
    currency = currency_of(plan)
    rows = [
        (
            _md(swing.parameter),
            f"{money(swing.cost_low, currency)} at {_md(swing.low)}",
            f"{money(swing.cost_high, currency)} at {_md(swing.high)}",
        )
        for swing in swings(plan)
    ]
    return _table(("assumption", "low end", "high end"), rows) if rows else ""


def _prices(plan: Plan) -> str:
    rows = [
        (
            _md(line.gpu),
            _md(line.kind),
            price(line.price, _md(line.currency)),
            _md(line.source),
            _md(line.date),
        )
        for line in prices(plan)
    ]
    titles = ("card", "kind", "a card and hour", "source", "date")
    return _table(titles, rows, (False, False, True, False, False)) if rows else ""


def _approval(plan: Plan) -> list[str]:
    return [
        "## Approval",
        _facts(hashes(plan)),
        "- [ ] approved\n- [ ] refused",
        "Name, date:",
        _WHO_APPROVES,
        "    python -m planner approve plan.json",
    ]


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}", text] if text else []


def _facts(facts: Iterable[Fact]) -> str:
    return _table(("", ""), [(_md(fact.label), _md(fact.text)) for fact in facts])


def _table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool] = ()
) -> str:
    rules = ["---:" if at < len(numeric) and numeric[at] else "---" for at in range(len(titles))]
    lines = [titles, rules, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _md(text: str) -> str:
    r"""Text as it is: nothing in it is markup.

    >>> _md("<b>|*x*") == r"\<b\>\|\*x\*"
    True
    """
    return _SPECIAL.sub(r"\\\1", one_line(text))
