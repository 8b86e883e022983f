"""The plan as Markdown, and reports as files."""

import json
import os
import re
import stat
from pathlib import Path

import pytest
from plans import ALL, hostile, infeasible, small, unpriced

from planner.approval import plan_hash
from planner.errors import PlannerError
from planner.report.markdown import render_markdown
from planner.report.write import write_report

GOLDEN = Path(__file__).parent / "golden"
CELLS = re.compile(r"(?<!\\)\|")


@pytest.mark.parametrize("name", ["small", "infeasible"])
def test_markdown_is_the_recorded_one(name):
    """Delete the golden file to record a wanted change anew."""
    plan = ALL[name]()
    text = render_markdown(plan).replace(plan_hash(plan), "H" * 64)
    golden = GOLDEN / f"{name}.md"
    if not golden.exists():
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ALL)
def test_rows_of_a_table_have_as_many_cells_as_its_head(name):
    table: list[int] = []
    for line in render_markdown(ALL[name]()).splitlines():
        if line.startswith("|"):
            table.append(len(CELLS.findall(line)))
        else:
            assert len(set(table)) <= 1
            table = []


def test_nothing_in_a_name_is_markup():
    text = render_markdown(hostile())
    assert not re.search(r"(?<!\\)<|(?<!\\)`", text)
    assert not re.search(r"(?<!\\)&amp;", text)
    assert "\x1b" not in text
    assert not re.search(r"^# bad", text, re.MULTILINE)


def test_unknown_is_written_as_unknown():
    text = render_markdown(unpriced())
    assert "USD 0" not in text
    assert "| cost, expected | unknown |" in text
    assert "approve plan.json" not in text
    assert "approve plan.json" not in render_markdown(infeasible())


@pytest.mark.parametrize("suffix", [".html", ".md", ".json", ".HTML"])
def test_a_report_is_private_and_replaces_the_old_one(weird_tmp_path, suffix):
    path = weird_tmp_path / f"report{suffix}"
    path.write_text("old")
    path.chmod(0o644)
    write_report(small(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "RTX 4090" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in weird_tmp_path.iterdir()] == [path.name]


def test_json_is_the_plan(tmp_path):
    write_report(small(), tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text())["config_hash"] == small().config_hash


@pytest.mark.parametrize("name", ["report.pdf", "report", "report.html.gz", ".html"])
def test_other_suffixes_are_refused_with_those_that_work(tmp_path, name):
    with pytest.raises(PlannerError, match=r"\.html, \.md, \.json"):
        write_report(small(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".html", ".md", ".json"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, suffix):
    with pytest.raises(PlannerError, match=r"cannot write .*No such file or directory"):
        write_report(small(), tmp_path / "missing" / f"r{suffix}")
    (tmp_path / f"taken{suffix}").mkdir()
    with pytest.raises(PlannerError, match=r"cannot write .*Is a directory"):
        write_report(small(), tmp_path / f"taken{suffix}")
    assert os.listdir(tmp_path) == [f"taken{suffix}"]
