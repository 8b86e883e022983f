"""Writes a plan as a page; the file's suffix says which kind."""

from pathlib import Path

from planner.errors import PlannerError
from planner.output_file import replace_file
from planner.plan import Plan

SUFFIXES = (".html", ".md", ".json")


def write_report(plan: Plan, path: Path) -> None:
    """Replaces ``path`` by the plan in one step, readable by the owner only.

    ``.html`` is the page for an approval, ``.md`` the same in Markdown, ``.json`` the plan itself.

    Raises:
        PlannerError: another suffix, or a place that cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PlannerError(f"report={path}: write a name that ends with {', '.join(SUFFIXES)}")
    # Each kind brings its own imports; a plan on the terminal needs none of them.
    if suffix == ".json":
        from planner.plan_file import write_plan

        write_plan(plan, path)
    elif suffix == ".md":
        from planner.report.markdown import render_markdown

        replace_file(path, _encoded(render_markdown(plan)))
    else:
        from planner.report.html import render_html

        replace_file(path, _encoded(render_html(plan)))


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
