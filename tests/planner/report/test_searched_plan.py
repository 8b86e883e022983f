"""The pages of plans that the search made, with numbers of numpy and figures that nobody knows."""

import io
import re

import pytest
from rich.console import Console

from planner.plan import Ask, CardOffer, Plan
from planner.plan_file import decode_plan, encode_plan
from planner.read_workload import read_workload
from planner.report.html import render_html
from planner.report.markdown import render_markdown
from planner.report.terminal import show_plan
from planner.search.search import search


def searched(**changes) -> Plan:
    raw = {
        "model": "mgm-2b",
        "method": "lora",
        "seq_len": {"mean": 850, "max": 2048},
        "samples": 50_000,
    }
    ask = {
        "workload": read_workload(raw | changes.pop("workload", {})),
        "global_batch": 128,
        "offers": (CardOffer("A100-SXM4-80GB", 8, 16), CardOffer("RTX A5000", 4, 8), CardOffer("H100-SXM5", 8, 8)),
    }  # fmt: skip
    return search(Ask(**(ask | changes)))


def pages(plan: Plan) -> dict[str, str]:
    screen = io.StringIO()
    show_plan(Console(width=100, file=screen), plan)
    return {"terminal": screen.getvalue(), "html": render_html(plan), "md": render_markdown(plan)}


PLANS = {
    "priced": {},
    "without a length": {"workload": {"samples": None}},
    "without a price": {
        "offers": (CardOffer("RTX A5000", 4, 8),),
        "workload": {"model": "gemma-2b", "seq_len": 512},
    },
    "too large": {"workload": {"model": "llama-3-70b", "method": "full", "seq_len": 8192}},
    "reserved": {"workload": {"memory_metric": "reserved"}},
}


@pytest.mark.parametrize("name", PLANS)
def test_every_page_can_be_made(name):
    plan = searched(**PLANS[name])
    for text in pages(plan).values():
        assert not re.search(r"\bnan\b|\binf\b|\bNone\b|\barray\(", text)


def test_a_card_without_a_price_has_unknown_cost():
    plan = searched(**PLANS["without a price"])
    found = pages(plan)
    for kind in ("terminal", "html", "md"):
        assert "unknown" in found[kind]
        assert "USD 0" not in found[kind]
        assert "USD unknown" not in found[kind]


def test_a_plan_that_was_written_and_read_looks_the_same():
    plan = searched()
    assert pages(decode_plan(encode_plan(plan), "plan.json")) == pages(plan)
