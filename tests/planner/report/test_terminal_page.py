"""The plan on terminals of every width and kind."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from plans import ALL, HOSTILE, hostile, infeasible, large, many, small, unpriced
from rich.cells import cell_len
from rich.console import Console

from planner.approval import plan_hash
from planner.plan import Plan
from planner.report.html import render_html
from planner.report.terminal import show_plan

GOLDEN = Path(__file__).parent / "golden"
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def printed(plan: Plan, width: int, encoding: str = "utf-8", **console) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    show_plan(Console(width=width, file=file, **console), plan)
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("name", "width", "encoding"),
    [("small", 80, "utf-8"), ("small", 120, "utf-8"), ("large", 80, "ascii"), ("infeasible", 80, "utf-8")],
)  # fmt: skip
def test_the_page_is_the_recorded_one(name, width, encoding):
    """Delete the golden file to record a wanted change anew."""
    plan = ALL[name]()
    text = printed(plan, width, encoding).replace(plan_hash(plan), "H" * 64)
    golden = GOLDEN / f"{name}_{width}_{encoding}.txt"
    if not golden.exists():
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("name", ALL)
def test_a_pipe_gets_plain_lines_that_fit_and_end_without_blanks(name, width):
    plan = ALL[name]()
    for line in printed(plan, width).splitlines():
        assert "\x1b" not in line
        assert line == line.rstrip()
        # Of hashes nothing may be cut off.
        assert cell_len(line) <= width or plan_hash(plan) in line or plan.config_hash in line


@pytest.mark.parametrize("name", ALL)
def test_an_old_terminal_gets_ascii_only(name):
    assert printed(ALL[name](), 80, "ascii").isascii()


def test_colours_change_no_letter_of_the_table():
    coloured = printed(large(), 100, force_terminal=True, color_system="standard")
    assert ESCAPES.search(coloured)
    plain = printed(large(), 100)
    table = [line for line in plain.splitlines() if "H100-SXM5" in line]
    assert [line for line in ESCAPES.sub("", coloured).splitlines() if "H100-SXM5" in line] == table


def test_no_color_is_obeyed(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(small(), 80, force_terminal=True, color_system="standard")
    assert not re.search(r"\x1b\[[0-9;]*3[1-7]m", text)
    assert "## weights 5.6" in text


@pytest.mark.parametrize(
    ("width", "there", "gone"),
    [
        (140, ("micro", "accum.", "kWh", "GPU-hours", "optimizer + weights"[:3]), ("batch ",)),
        (80, ("GiB", "hours", "USD", "batch", "ckpt", "3+opt+w"), ("kWh", "GPU-hours  ", "nodes")),
    ],
)
def test_narrow_terminals_lose_columns_and_no_decision(width, there, gone):
    text = printed(small(), width)
    table = text[text.index("Feasible choices") : text.index("> chosen")]
    assert all(word in table for word in there)
    assert not any(word in table for word in gone)
    assert [line for line in table.splitlines() if line.startswith("> RTX 4090")]


def test_cards_that_differ_at_the_end_of_the_name_stay_apart():
    text = printed(large(), 60)
    assert "80GB" in text[text.index("Feasible") :]


def test_bar_ends_where_its_marks_are():
    lines = printed(small(), 80).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("Memory of one"))
    bar, pointers, labels = lines[at + 1 : at + 4]
    fills = bar.rstrip("│").rstrip()
    assert pointers.index("▲") == len(fills.rstrip("░"))
    assert pointers.rindex("▲") == bar.index("│")
    assert "p50 16.7" in labels
    shares = {letter: bar.count(letter) for letter in "#%:"}
    # 5.62, 4.95 and 2.31 GiB of 23.64 on 76 letters.
    assert shares == {"#": 18, "%": 16, ":": 8}


def test_only_the_best_rows_are_shown_and_the_rest_is_counted():
    text = printed(many(), 120)
    assert text.count("ZeRO-") < 20
    assert "28 more in the report" in text
    assert any(line.startswith(">") for line in text.splitlines())


def test_nothing_fits_says_why_and_what_would():
    text = " ".join(printed(infeasible(), 80).split())
    assert "Nothing that was asked for is feasible" in text
    assert infeasible().why in text
    assert infeasible().nearest in text
    assert "fused cross-entropy frees 5.0 GiB" in text
    assert all(other.reason in text for other in infeasible().rejected)
    assert "Feasible choices" not in text


def test_unknown_is_written_as_unknown():
    text = printed(unpriced(), 80)
    assert "cost              unknown" in text
    assert "time              unknown" in text
    assert not re.search(r"USD 0\b|\b0 h\b|\b0\.0/0\.0", text)


def test_names_from_outside_cannot_steer_the_terminal():
    text = printed(hostile(), 80, force_terminal=True, color_system="standard")
    assert "\x1b[31m|" not in text
    assert "\\x1b[31m" in text
    assert "\u202e" not in text
    assert HOSTILE not in text


def test_markup_in_names_stays_text():
    plan = small()
    text = printed(
        type(plan)(**{field: getattr(plan, field) for field in plan.__slots__} | {"why": "[red]x[/red] :smile:"}), 80
    )  # fmt: skip
    assert "[red]x[/red] :smile:" in text


def test_several_ways_out_are_a_list_and_no_long_sentence():
    ways = ["LoRA: 1 x L40S (20.1 GiB)", "cards of 80 GB: 1 x H100-SXM5 (60.0 GiB)"]
    nearest = f"no configuration fits into memory. Possible instead: {'; '.join(ways)}"
    plan = replace(infeasible(), nearest=nearest)
    lines = printed(plan, 100).splitlines()
    assert any(line.endswith("no configuration fits into memory") for line in lines)
    assert all(any(line.endswith(way) for line in lines) for way in ways)
    assert all(f"<li>{way}</li>" in render_html(plan) for way in ways)


def test_the_narrowest_table_tells_the_cards_of_two_memories_apart():
    assert not [line for line in printed(small(), 40).splitlines() if "~" in line and "GB" in line]
