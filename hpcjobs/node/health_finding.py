"""What a look at nodes has found, and what follows; pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hpcjobs.run.health_config import HealthSettings

State = Literal["ok", "bad", "unknown"]
SUSPICIOUS = ("link",)
"""Findings that may be the other end's fault: they are written down and stop nothing."""
SHARED = ("run_disk",)
"""Findings on what all nodes share."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: the figure, the limit, and what that means."""

    name: str
    state: State
    said: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Report:
    """What one node says of itself."""

    node: int
    host: str
    findings: tuple[Finding, ...] = ()
    clock_offset_s: float | None = None
    """The first node's clock less this one's; None is not known."""
    link_from: int | None = None
    """Number of the neighbour in the ring that data came from."""
    link_mib_s: float | None = None
    seconds: float = 0.0
    """How long the look took."""


@dataclass(frozen=True)
class Conclusion:
    """What the reports of all nodes come to."""

    unfit: dict[str, str] = field(default_factory=dict)
    """Host -> why nothing may start on it."""
    suspected: dict[str, str] = field(default_factory=dict)
    """Host -> what is odd about it, and may be another's fault."""
    everywhere: list[str] = field(default_factory=list)
    """What is wrong with all nodes alike, and so with none of them."""


def read_report(raw: Any) -> Report:  # noqa: ANN401 - whatever JSON holds
    """Builds a report from JSON.

    Raises:
        TypeError: another version wrote it.
    """
    findings = tuple(Finding(**item) for item in raw["findings"])
    return Report(**{**raw, "findings": findings})


def at_least(name: str, value: float | None, limit: float, what: str, unit: str) -> Finding:
    """A finding on a figure that must not be lower than its limit; None is unknown.

    >>> at_least("shm", 0.0, 0.5, "free in /dev/shm", "GiB").said
    '0.00 GiB free in /dev/shm, at least 0.5 needed'
    """
    if value is None:
        return Finding(name, "unknown", f"{what}: cannot be read", None, limit)
    if value < limit:
        said = f"{value:.2f} {unit} {what}, at least {limit:g} needed"
        return Finding(name, "bad", said, round(value, 3), limit)
    return Finding(name, "ok", f"{value:.2f} {unit} {what}", round(value, 3), limit)


def judge(
    hosts: Sequence[str], reports: Mapping[int, Report], settings: HealthSettings
) -> Conclusion:
    """Draws together what the nodes of an attempt say of themselves and of each other.

    Args:
        hosts: names of all nodes, in their order.
        reports: by the node's number; a missing one did not answer.
        settings: the limits.

    What is wrong with every node of several, or with what they share, is the site's or the
    configuration's, not a node's.
    If no node answered, nothing is known of any.
    """
    if not reports:
        return Conclusion()
    bad = {node: _bad_of(reports.get(node), settings) for node in range(len(hosts))}
    for node, said in clock_findings(reports, settings.clock_skew_s).items():
        bad[node]["clock"] = said
    _blame_the_first_node(bad)
    common = {name for found in bad.values() for name in found if name in SHARED}
    if len(hosts) > 1:
        common |= set.intersection(*(set(found) for found in bad.values()))
    conclusion = Conclusion(everywhere=sorted(common))
    for node, found in bad.items():
        own = {name: said for name, said in found.items() if name not in common}
        strong = [said for name, said in own.items() if name not in SUSPICIOUS]
        weak = [said for name, said in own.items() if name in SUSPICIOUS]
        if strong:
            conclusion.unfit[hosts[node]] = "; ".join(strong)
        if weak:
            conclusion.suspected[hosts[node]] = "; ".join(weak)
    return conclusion


def clock_findings(reports: Mapping[int, Report], limit_s: float) -> dict[int, str]:
    """Nodes whose clock is far from the others': of three and more the median is right.

    Of two nobody can say which is right: the first node's clock is the broker's own.
    """
    offsets = {n: r.clock_offset_s for n, r in reports.items() if r.clock_offset_s is not None}
    if not offsets:
        return {}
    middle = statistics.median_low(offsets.values()) if len(offsets) > 2 else 0.0
    wrong = {node: middle - offset for node, offset in offsets.items()}
    return {
        node: f"its clock is {ahead:+.0f} s off, at most {limit_s:g} s are allowed"
        for node, ahead in wrong.items()
        if abs(ahead) > limit_s
    }


def _blame_the_first_node(bad: dict[int, dict[str, str]]) -> None:
    """If all of several others cannot reach the first node, it is the one that is ill."""
    others = [found for node, found in bad.items() if node != 0]
    if len(others) > 1 and all("network" in found for found in others):
        bad[0]["network"] = "no other node can reach it"
        for found in others:
            del found["network"]


def _bad_of(report: Report | None, settings: HealthSettings) -> dict[str, str]:
    if report is None:
        return {"answer": f"no answer within {settings.timeout_s:g} s"}
    return {item.name: item.said for item in report.findings if item.state == "bad"}
