"""The plan as one self-contained HTML page for a budget approval."""

import functools
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.approval import plan_hash
from planner.plan import Plan
from planner.report import words
from planner.report.card_memory import card_memory
from planner.report.facts import assumptions, checks, hashes, prices, question, risks
from planner.report.figures import UNKNOWN, gib, known, moment, price, sentence, visible
from planner.report.memory_chart import memory_chart
from planner.report.pareto_chart import pareto_chart
from planner.report.rows import Column, Row, columns, currency_of, few_rows, rows_of
from planner.report.settings import settings
from planner.report.tiles import approvable, request, tiles
from planner.report.tornado_chart import tornado_chart

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_ROWS = 40
_LEVEL = 3
_SHORT_HASH = 12


def render_html(plan: Plan) -> str:
    """Renders the page: no script, nothing to load, every text escaped."""
    page: dict[str, Any] = {
        "plan": plan,
        "choice": plan.chosen,
        "version": _version(),
        "made": moment(plan.created),
        "title": words.title(plan),
        "question": question(plan),
        "nearest": words.nearest_parts(plan),
        "binding": words.component_name(plan.binding),
        "prices": prices(plan),
        "assumptions": assumptions(plan),
        "settings": settings(plan),
        "hashes": hashes(plan),
        "short_hash": plan_hash(plan)[:_SHORT_HASH],
    }
    if plan.chosen is not None:
        page |= {
            "approvable": approvable(plan.chosen),
            "request": request(plan, plan.chosen),
            "described": words.described(plan.chosen),
            "tiles": tiles(plan, plan.chosen),
            "checks": checks(plan),
            "risks": risks(plan),
            "memory": memory_chart(card_memory(plan.chosen)),
            "pareto": pareto_chart(plan),
            "tornado": tornado_chart(plan),
            "table": _table(plan),
        }
    return _environment().get_template("report.html.j2").render(page)


def _table(plan: Plan) -> dict[str, Any]:
    every = rows_of(plan)
    rows = few_rows(every, _MOST_ROWS)
    return {"columns": _columns(plan, rows), "rows": rows, "caption": _caption(every, rows)}


def _columns(plan: Plan, rows: tuple[Row, ...]) -> list[Column]:
    return [
        column
        for column in columns(currency_of(plan))
        if (column.first <= _LEVEL <= column.last or column.title == "kWh")
        and not column.says_nothing(rows)
    ]


def _caption(every: tuple[Row, ...], rows: tuple[Row, ...]) -> str:
    text = "Feasible choices. Pairs are the expected and the high estimate (p50/p95). "
    text += "* nothing is both cheaper and faster."
    left_out = len(every) - len(rows)
    return f"{text} {left_out} more choices are left out." if left_out else text


def _version() -> str:
    try:
        return version("hpcjobs")
    except PackageNotFoundError:
        return UNKNOWN


@functools.cache
def _environment() -> "Environment":
    # Only reports pay for the import.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "known": known,
        "gib": gib,
        "price": price,
        "sentence": sentence,
        "count": lambda number: f"{number:,}",
        "capital": lambda text: text[:1].upper() + text[1:],
    }
    return environment


def _visible(value: Any) -> Any:  # noqa: ANN401 - whatever a template prints
    """Spells control letters out; markup of the own macros is left alone."""
    return visible(value) if type(value) is str else value
