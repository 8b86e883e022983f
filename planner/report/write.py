"""Writes a plan as a page; the file's suffix says which kind."""

import os
from pathlib import Path

from planner.errors import PlannerError
from planner.plan import Plan

_MODE = 0o600
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

        _replace(path, render_markdown(plan))
    else:
        from planner.report.html import render_html

        _replace(path, render_html(plan))


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PlannerError(f"cannot write {path}: {error.strerror}") from error
