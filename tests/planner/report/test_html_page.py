"""The HTML page: whole, self-contained, harmless, and with the plan's figures."""

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plans import ALL, HOSTILE, choice, hostile, infeasible, large, many, small, unpriced

import planner.report
from planner.approval import plan_hash
from planner.report.card_memory import card_memory
from planner.report.html import render_html
from planner.report.memory_chart import memory_chart
from planner.report.pareto_chart import pareto_chart
from planner.report.places import box_of
from planner.report.tornado_chart import tornado_chart

VOID = {"meta", "link", "br", "img", "input", "hr"}
SELF_CLOSED = {"rect", "circle", "line", "path", "polyline"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps what is needed."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.values: list[float] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag == "data":
            self.values.append(float(dict(attrs)["value"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SELF_CLOSED, tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.mark.parametrize("name", ALL)
def test_page_is_well_formed_and_loads_nothing(name):
    text = render_html(ALL[name]())
    assert text.lstrip().startswith("<!DOCTYPE html>")
    page = Page(text)
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "img", "form", "base", "use"}
        assert not any(key.startswith("on") for key in attributes)
        for key in ("src", "href"):
            assert attributes.get(key, "data:,") == "data:,"
        if tag == "meta" and "http-equiv" in attributes:
            assert attributes["content"].startswith("default-src 'none'")


@pytest.mark.parametrize("name", ALL)
def test_ids_are_unique_and_every_reference_has_its_target(name):
    tags = Page(render_html(ALL[name]())).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {word for _, a in tags for word in a.get("aria-labelledby", "").split()}
    assert wanted <= set(ids)
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for tag, attributes in tags:
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"


@pytest.mark.parametrize("make", [small, large, many])
def test_every_figure_of_the_plan_is_on_the_page_with_its_exact_value(make):
    plan = make()
    values = set(Page(render_html(plan)).values)
    rows = plan.feasible
    for row in rows:
        memory, clock, cost = row.prediction.memory, row.prediction.hours, row.prediction.cost
        wanted = (
            memory.process_p50_bytes, memory.process_p95_bytes, clock.hours_p50, clock.hours_p95,
            cost.gpu_hours_p50, cost.cost_p50, cost.cost_p95, cost.energy_kwh,
        )  # fmt: skip
        assert {float(value) for value in wanted} <= values
    best = plan.chosen.prediction
    wanted = {best.cost.gpu_hours_p95, best.cost.co2_kg, best.hours.wall_hours_p50, plan.candidates}
    wanted |= set(best.memory.components.values())
    wanted |= {
        best.cost.price_per_gpu_hour,
        plan.unlock.frees_bytes,
        card_memory(plan.chosen).limit_bytes,
    }
    assert {float(value) for value in wanted} <= values


def test_page_says_what_an_approver_needs():
    plan = small()
    text = " ".join(Page(render_html(plan)).text.split())
    for words in (
        "Approval is asked for up to USD 177 (USD 126 expected)",
        plan.why, plan.calibration, plan_hash(plan), plan.config_hash, *plan.assumptions,
        "python -m planner approve plan.json", "2026-11-22", "SkyPilot catalog v8: runpod",
        "preemptible: the cluster may take them back at any time",
        "chunked cross-entropy", *(other.reason for other in plan.rejected),
        *(other.change for other in plan.rejected), *(row["parameter"] for row in plan.sensitivity),
        "GPU-hour", "half of such runs need less",
    ):  # fmt: skip
        assert words in text


def test_nothing_feasible_leaves_nothing_to_approve():
    text = Page(render_html(infeasible())).text
    assert "There is nothing to approve" in text
    assert infeasible().nearest in text
    assert "python -m planner approve" not in text


def test_unknown_figures_are_called_unknown():
    page = Page(render_html(unpriced()))
    assert "There is nothing to approve yet" in page.text
    assert "python -m planner approve" not in page.text
    assert page.text.count("unknown") >= 8
    assert 0.0 not in page.values
    assert "USD 0" not in page.text


def test_a_cost_without_a_price_asks_for_gpu_hours():
    plan = small()
    free = tuple(choice(price=None) for _ in range(3))
    text = Page(render_html(replace(plan, feasible=free, chosen=free[0], pareto=()))).text
    assert "Approval is asked for up to 360 GPU-hours of unknown price" in text
    assert "USD 0" not in text


def test_a_limit_that_does_not_hold_is_said():
    plan = small()
    text = Page(render_html(replace(plan, ask=replace(plan.ask, budget=150.0)))).text
    assert "Budget does NOT hold at the high estimate: USD 177 of USD 150 (118 %)" in text


def test_hostile_names_stay_text():
    text = render_html(hostile())
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    shown = HOSTILE.split("\x1b")[0].strip()
    assert shown in Page(text).text


@pytest.mark.parametrize("name", ["small", "large", "many", "hostile"])
def test_labels_of_the_charts_do_not_touch(name):
    plan = ALL[name]()
    charts = [memory_chart(card_memory(plan.chosen)), pareto_chart(plan), tornado_chart(plan)]
    for chart in filter(None, charts):
        bars = getattr(chart, "bars", ())
        labels = [
            *getattr(chart, "labels", ()),
            *(label for bar in bars for label in (bar.low, bar.high)),
        ]
        boxes = [box_of(label) for label in labels]
        for one, other in itertools.combinations(boxes, 2):
            assert not one.meets(other)
        for box in boxes:
            assert box.left >= 0
            assert box.right <= chart.width


def test_stripes_of_the_bar_join_and_end_at_p50():
    chart = memory_chart(card_memory(small().chosen))
    for one, other in itertools.pairwise(chart.stripes):
        assert one.x + one.width == pytest.approx(other.x, abs=0.15)
    last = chart.stripes[-1]
    assert last.x + last.width == pytest.approx(chart.spread.x, abs=0.15)
    assert chart.spread.x < chart.spread.x + chart.spread.width < chart.limit_x


def test_what_a_metric_leaves_out_is_a_stripe_of_its_own():
    plan = small()
    memory = plan.chosen.prediction.memory
    inside = {k: v for k, v in memory.components.items() if k not in ("context", "nccl", "slack")}
    allocated = replace(
        plan.chosen, prediction=replace(plan.chosen.prediction, memory=replace(memory, components=inside))
    )  # fmt: skip
    segments = card_memory(allocated).segments
    assert segments[-1].name == "outside the metric"
    assert sum(part.size_bytes for part in segments) == pytest.approx(memory.process_p50_bytes)


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, 1.4.3."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_has_the_contrast_of_level_aa():
    css = (Path(planner.report.__file__).parent / "templates" / "style.css").read_text()
    ink = dict(re.findall(r"--(\w+): (#\w{6})", css))
    grounds = ["#ffffff", ink["pale"], re.search(r"tr\.chosen td.*?background: (#\w{6})", css)[1]]
    for name in ("ink", "soft", "accent", "good", "bad"):
        for ground in grounds:
            assert contrast(ink[name], ground) >= 4.5, (name, ground)
    stripes = re.findall(r"\.c\d \{ fill: (#\w{6})", css)
    assert len(stripes) == 10
    assert all(contrast("#1b1f24", stripe) >= 4.5 for stripe in stripes)
