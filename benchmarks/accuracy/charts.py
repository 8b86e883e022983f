"""The charts of docs/accuracy.md, as SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

from benchmarks.accuracy.memory_scores import Score, by
from benchmarks.accuracy.sources import SOURCES

IMAGES = Path(__file__).parents[2] / "docs" / "images"
GIB = 1 << 30
COLOURS = {"allocated": "#1b7837", "reserved": "#2166ac", "process": "#b2182b"}
MARKS = {"allocated": "^", "reserved": "o", "process": "s"}


def draw(
    text: Sequence[Score],
    vision: Sequence[Score],
    second: Sequence[Score],
    found: Mapping[str, Any],
) -> None:
    """All four charts."""
    # The same figures give the same files: no date, no random ids.
    plt.rcParams.update(
        {"svg.hashsalt": "accuracy", "font.size": 9, "axes.spines.top": False}
        | {"axes.spines.right": False, "svg.fonttype": "none"}
    )
    both = [*text, *vision]
    _save(_scatter([*both, *second]), "accuracy-memory")
    _save(_by_source(both), "accuracy-sources")
    _save(_coverage(both), "accuracy-p95")
    _save(_competitors(found["competitors"]), "accuracy-competitors")


def _save(figure: Any, name: str) -> None:  # noqa: ANN401
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def _scatter(scores: Sequence[Score]) -> Any:  # noqa: ANN401
    """Predicted against measured, by metric."""
    figure, axes = plt.subplots(figsize=(5.2, 5.0))
    for metric, group in by(scores, "metric").items():
        measured = [score.measured / GIB for score in group]
        predicted = [score.p50 / GIB for score in group]
        axes.scatter(
            measured, predicted, s=14, alpha=0.7, marker=MARKS[metric], color=COLOURS[metric],
            label=f"{metric} ({len(group)})",
        )  # fmt: skip
    ends = [2.5, 100]
    axes.plot(ends, ends, color="#444444", linewidth=0.8)
    for share in (0.9, 1.1):
        axes.plot(ends, [share * end for end in ends], color="#999999", linewidth=0.6, ls="--")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set(xlabel="measured, GiB a card", ylabel="predicted p50, GiB a card")
    axes.set_title("Peak memory; dashed: 10 % off", fontsize=10, loc="left")
    axes.legend(frameon=False)
    return figure


def _by_source(scores: Sequence[Score]) -> Any:  # noqa: ANN401
    """Every row's error, by source."""
    groups = by(scores, "source")
    figure, axes = plt.subplots(figsize=(6.4, 0.5 * len(groups) + 1.2))
    for place, group in enumerate(groups.values()):
        errors = sorted(100 * score.error for score in group)
        spots = [place + 0.3 * (n / max(1, len(errors) - 1) - 0.5) for n in range(len(errors))]
        colour = COLOURS[group[0].metric]
        axes.scatter(errors, spots, s=10, alpha=0.7, color=colour)
        axes.plot([errors[len(errors) // 2]] * 2, [place - 0.3, place + 0.3], color="black", lw=1.2)
    names = [f"{SOURCES[name].name} ({len(group)})" for name, group in groups.items()]
    axes.set_yticks(range(len(groups)), names)
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.axvspan(-10, 10, color="#eeeeee", zorder=0)
    axes.invert_yaxis()
    axes.set(xlabel="error of the predicted peak, %")
    axes.set_title("Error by source; bar: median", fontsize=10, loc="left")
    return figure


def _coverage(scores: Sequence[Score]) -> Any:  # noqa: ANN401
    """How far below p95 the measurements lie."""
    figure, axes = plt.subplots(figsize=(6.0, 2.8))
    ratios = sorted(score.measured / score.p95 for score in scores)
    shares = [100 * (n + 1) / len(ratios) for n in range(len(ratios))]
    axes.step(ratios, shares, where="post", color="#2166ac")
    axes.axvline(1.0, color="#b2182b", linewidth=0.9)
    axes.axhline(95, color="#999999", linewidth=0.6, ls="--")
    axes.set(xlabel="measured / predicted p95", ylabel="rows below, %", ylim=(0, 101))
    axes.set_title("Rows below p95 (left of the red line)", fontsize=10, loc="left")
    return figure


def _competitors(found: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Mean error of the published formulas on the same rows."""
    names = [f"{name} ({one['rows']} rows)" for name, one in found.items()]
    values = [one["macro_mape"] for one in found.values()]
    figure, axes = plt.subplots(figsize=(6.4, 2.4))
    colours = ["#2166ac"] + ["#bbbbbb"] * (len(names) - 1)
    bars = axes.barh(range(len(names)), values, color=colours)
    axes.bar_label(bars, fmt="%.1f %%", padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="mean absolute error over sources, % (log)")
    axes.set_xlim(1, 4 * max(values))
    axes.set_title("Peak memory, same rows", fontsize=10, loc="left")
    return figure
