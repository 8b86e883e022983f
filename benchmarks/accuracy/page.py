"""The generated part of docs/accuracy.md: tables of the figures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy.sources import SOURCES

PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
BEGIN = "<!-- figures: written by benchmarks/accuracy/score.py --write -->"
END = "<!-- end of figures -->"


def write_page(found: Mapping[str, Any]) -> None:
    """Replaces what stands between the markers."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(found)}\n{END}{after}", "utf-8")


def tables(found: Mapping[str, Any]) -> str:
    """All sections, one below the other."""
    sections = (
        _headline(found),
        _memory(found),
        _families(found),
        _coverage(found),
        _worst(found),
        _competitors(found),
        _verdict(found),
        _time(found),
        _left_out(found),
    )
    return "\n\n".join(sections) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _name(source: str) -> str:
    return SOURCES[source].name


def _headline(found: Mapping[str, Any]) -> str:
    sets, p95, verdict = found["memory"], found["p95"], found["verdict"]
    time, later = found["time"], found["time after three runs"]
    trained = [time[kind]["macro_mape"] for kind in ("lora", "full")]
    rows = [
        ("memory, text of tier A, MAPE", f"{sets['text A']['macro_mape']} %", "5 % (aim 4)"),
        (
            "memory, vision-language, MAPE",
            f"{sets['vision-language A and B']['macro_mape']} %",
            "8 % (aim 6)",
        ),
        ("rows below p95", f"{p95['below_p95']} %", "90-99 %"),
        ("median p95 / p50", p95["median_p95_over_p50"], "1.15"),
        ("worst row above p95", f"{p95['worst_excess']} % ({p95['worst_id']})", "12 %"),
        ("verdict right", f"{verdict['right']} % of {verdict['rows']}", "98 %"),
        (
            "verdict right, OOM and bounds",
            f"{verdict['hard_right']} % of {verdict['hard_rows']}",
            "95 %",
        ),
        ("time, LoRA / full, MAPE", f"{trained[0]} / {trained[1]} %", "15 % (aim 10)"),
        ("time, QLoRA, MAPE", f"{time['qlora']['macro_mape']} %", "25 %"),
        (
            "time after three runs, MAPE",
            ", ".join(f"{kind} {group['macro_mape']} %" for kind, group in later.items()),
            "5 %",
        ),
    ]
    return "## Figures at a glance\n\n" + _table(("figure", "reached", "bar"), rows)


def _memory(found: Mapping[str, Any]) -> str:
    blocks = ["## Memory by source and metric"]
    for title, group in found["memory"].items():
        rows = [
            (_name(name), one["rows"], *_figures(one)) for name, one in group["by_source"].items()
        ]
        rows += [
            (f"all, metric {name}", one["rows"], *_figures(one))
            for name, one in group["by_metric"].items()
        ]
        head = (
            f"**{title}**: {group['rows']} rows, MAPE {group['macro_mape']} % averaged over "
            f"sources ({group['mape']} % over rows); {found['shipped'][title]} % with what the "
            "planner ships, whose constants have seen the rows."
        )
        heads = ("source", "rows", "MAPE %", "bias %", "from .. to %", "below p95 %")
        blocks.append(head + "\n\n" + _table(heads, rows))
    return "\n\n".join(blocks)


def _figures(one: Mapping[str, Any]) -> tuple[object, ...]:
    span = f"{one['least']} .. {one['most']}"
    return one["mape"], one["bias"], span, one["below_p95"]


def _families(found: Mapping[str, Any]) -> str:
    rows = [
        (name, title, one["rows"], *_figures(one))
        for title, group in found["memory"].items()
        for name, one in group["by_family"].items()
    ]
    heads = (
        "family left out",
        "rows of",
        "rows",
        "MAPE %",
        "bias %",
        "from .. to %",
        "below p95 %",
    )
    words = (
        "## Memory by family\n\nThe family's own rows have fitted none of the constants that it is "
        "scored with.\n\n"
    )
    return words + _table(heads, rows)


def _coverage(found: Mapping[str, Any]) -> str:
    p95 = found["p95"]
    above = ", ".join(f"{name} (+{excess} %)" for name, excess in p95["above_p95"]) or "none"
    return (
        f"## p95\n\n{p95['below_p95']} % of {p95['rows']} rows (text of tier A and "
        f"vision-language) lie below p95; the median of p95 / p50 is "
        f"{p95['median_p95_over_p50']}. Rows above p95: {above}."
    )


def _worst(found: Mapping[str, Any]) -> str:
    heads = ("row", "source", "metric", "measured GiB", "predicted GiB", "error %")
    rows = [(one[0], _name(one[1]), *one[2:]) for one in found["worst"]]
    return "## Worst rows\n\n" + _table(heads, rows)


def _competitors(found: Mapping[str, Any]) -> str:
    rows = [
        (name, one["rows"], one["macro_mape"], f"{one['least']} .. {one['most']}")
        for name, one in found["competitors"].items()
    ]
    heads = ("formula", "rows it answers", "MAPE % over sources", "from .. to %")
    return "## Beside other formulas, same rows\n\n" + _table(heads, rows)


def _verdict(found: Mapping[str, Any]) -> str:
    verdict = found["verdict"]
    rows = [
        (kind, one["rows"], one["right"], ", ".join(one["wrong"]) or "none")
        for kind, one in verdict["by_kind"].items()
    ]
    matrix = ", ".join(f"{cell}: {count}" for cell, count in verdict["matrix"].items())
    table = _table(("rows", "verdicts", "right %", "wrong"), rows)
    return f"## Fit verdict\n\nAt p95 against the card's usable memory. {matrix}.\n\n{table}"


def _time(found: Mapping[str, Any]) -> str:
    blocks = ["## Step time"]
    for title, groups in (
        ("uncalibrated", found["time"]),
        ("after three runs of the same model", found["time after three runs"]),
    ):
        rows = [
            (kind, _name(name), one["rows"], one["mape"], one["bias"], one["worst"])
            for kind, group in groups.items()
            for name, one in group["by_source"].items()
        ]
        heads = ("method", "source", "rows", "MAPE %", "bias %", "worst")
        blocks.append(f"**{title}**\n\n" + _table(heads, rows))
    return "\n\n".join(blocks)


def _left_out(found: Mapping[str, Any]) -> str:
    rows = [(reason, len(ids), _ids(ids)) for reason, ids in sorted(found["not counted"].items())]
    heads = ("reason", "rows", "ids")
    words = (
        f"## What is not counted\n\n{found['counted']} rows of tiers A, B, OOM and BOUND count; "
        "tiers C and D and duplicates stay out.\n\n"
    )
    return words + _table(heads, rows)


def _ids(ids: Sequence[str]) -> str:
    return ", ".join(ids) if len(ids) <= 6 else f"{ids[0]} .. {ids[-1]}"
