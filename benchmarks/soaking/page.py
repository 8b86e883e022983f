"""The soak's report as Markdown."""

from collections.abc import Mapping
from typing import Any


def page(found: Mapping[str, Any]) -> str:
    """Renders what ``benchmarks/soak.py`` has found."""
    score, costs = found["goodput"], found["costs"]
    lines = [
        f"# Soak: {len(found['acts'])} kills over one training",
        "",
        (
            f"Written by `{found['command']}`; every kill follows from seed {found['seed']}. "
            f"{found['machine']}."
        ),
        "",
        *(f"- {line}" for line in _verdict(found)),
        "",
        "## Goodput",
        "",
        "| | |",
        "|---|---|",
        (
            f"| training that counts | {score['useful_s']:.0f} s ({found['steps']} steps of "
            f"{score['step_s']:.3f} s) |"
        ),
        f"| in the allocation, from the first step to the last | {score['allocated_s']:.0f} s |",
        f"| waiting for an allocation | {score['queued_s']:.0f} s |",
        f"| expected overhead h | {score['expected_overhead']:.3f} |",
        f"| goodput measured | {score['measured']:.3f} |",
        f"| goodput by the formula, 1 / (1 + h) | {score['formula']:.3f} |",
        f"| difference | {score['points']:.1f} points |",
        f"| steps that had to be trained again | {score['repeated_steps']} |",
        "",
        (
            f"Costs, {found['costs_from']}: a step takes {costs['step_s']:.3f} s, saving every "
            f"{found['every_steps']} steps adds {100 * costs['save_share']:.1f} %."
        ),
        "",
        (
            "| what follows a kill | kills | from the kill to the first new step, without queue: "
            "before | in the soak |"
        ),
        "|---|---|---|---|",
        *(_class_line(name, found) for name in found["counts"]),
        "",
        "## Every kill",
        "",
        "| no. | kill | victim | moment | during a save | attempt | step | seconds down | queued |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_act_line(act) for act in found["acts"]),
        "",
    ]
    return "\n".join(lines)


def _verdict(found: Mapping[str, Any]) -> list[str]:
    rejected = found["rejected"]
    said = "; ".join(rejected) if rejected else "none was ever found corrupt"
    during = sum(act["during_save"] for act in found["acts"])
    return [
        f"finished: {_yes(found['finished'])}, in {found['attempts']} attempts",
        f"bit-equal to the undisturbed run: {_yes(found['bit_equal'])}",
        f"checkpoints: {said}",
        f"kills during saves: {during}",
        f"started again by hand, since nobody was left to ask for it: {found['by_hand']}",
    ]


def _class_line(name: str, found: Mapping[str, Any]) -> str:
    before, soak = found["costs"]["down_s"].get(name), found["down_s"].get(name)
    return f"| {name} | {found['counts'][name]} | {_seconds(before)} | {_seconds(soak)} |"


def _act_line(act: Mapping[str, Any]) -> str:
    return (
        f"| {act['number']} | {act['way']} | {act['victim']} | {act['moment']} | "
        f"{_yes(act['during_save'])} | {act['attempt']} | {act['step']} | "
        f"{_seconds(act['down_s'])} | {_seconds(act['queued_s'])} |"
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
