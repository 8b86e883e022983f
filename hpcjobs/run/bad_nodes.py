"""Which nodes are bad now, as it follows from the evidence; pure, so that every case can be shown.

Nothing but evidence is kept (``bad_node_files``): since when, until when and how often follow from
it, so that writers on many nodes need no lock.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from hpcjobs.run.health_config import HealthSettings

HOUR_S = 3600.0
MEMORY_S = 30 * 24 * HOUR_S
"""How long after a term a relapse still counts as one."""
SUSPICION_S = 7 * 24 * HOUR_S
"""Two suspicions count together if they lie no further apart."""
CLOCKS_APART_S = HOUR_S
"""Evidence that seems to come from further in the future is not believed."""
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

SUSPICIONS = ("culprit", "link")
"""Kinds that need a second one: the training itself, or the other end, may be to blame."""
KINDS = ("health", "node_fail", "hardware", "manual", *SUSPICIONS)


@dataclass(frozen=True)
class Evidence:
    """One thing that one attempt saw of one node."""

    node: str
    time_s: float
    """Unix seconds, by the clock of the one who wrote it."""
    kind: str
    """``health`` check, ``node_fail`` of Slurm, ``hardware`` error in a log, ``manual``;
    ``culprit`` of a hang or crash, and a slow or dead ``link``, are suspicions."""
    reason: str
    run: str = ""
    """Run directory; empty for a mark by hand."""
    attempt: int = 0
    place: int | None = None
    """Which of the attempt's nodes it was."""
    hours: float | None = None
    """Length of a mark by hand."""


@dataclass(frozen=True)
class BadNode:
    """A node that is avoided now, and why."""

    node: str
    since_s: float
    until_s: float
    evidence: tuple[Evidence, ...]

    @property
    def strength(self) -> int:
        """A person's word counts most, a suspicion least."""
        kinds = {item.kind for item in self.evidence}
        return 2 if "manual" in kinds else int(not kinds <= set(SUSPICIONS))


def bad_nodes(evidence: Iterable[Evidence], now_s: float, rules: HealthSettings) -> list[BadNode]:
    """The nodes that are avoided now, by name.

    >>> seen = Evidence("n1", 1000.0, "health", "/dev/shm is full", "/runs/a", 1)
    >>> [(bad.node, bad.until_s) for bad in bad_nodes([seen], 2000.0, HealthSettings())]
    [('n1', 87400.0)]
    """
    by_node: dict[str, list[Evidence]] = {}
    for item in evidence:
        if item.time_s <= now_s + CLOCKS_APART_S:
            by_node.setdefault(item.node, []).append(item)
    found = (_judge(node, items, now_s, rules) for node, items in sorted(by_node.items()))
    return [bad for bad in found if bad is not None]


def _judge(
    node: str, items: Sequence[Evidence], now_s: float, rules: HealthSettings
) -> BadNode | None:
    """Goes through the convictions in order: one within a term belongs to it, a later one doubles.

    A mark by hand lasts as long as it says.
    """
    term_s, since_s, until_s = 0.0, 0.0, float("-inf")
    for at_s, hours in _convictions(sorted(items, key=lambda item: item.time_s)):
        start_s = min(at_s, now_s)
        if start_s >= until_s:
            relapse = start_s < until_s + MEMORY_S
            term_s = (
                min(2 * term_s, rules.expire_max_hours * HOUR_S)
                if relapse and term_s
                else (rules.expire_hours * HOUR_S)
            )
            since_s = start_s
        until_s = max(until_s, start_s + (term_s if hours is None else hours * HOUR_S))
    if not now_s < until_s:
        return None
    recent = [item for item in items if item.time_s > since_s - SUSPICION_S]
    return BadNode(node, since_s, until_s, tuple(sorted(recent, key=lambda item: item.time_s)))


def _convictions(items: Sequence[Evidence]) -> Iterable[tuple[float, float | None]]:
    """When the evidence was enough: at once, or with the second independent suspicion."""
    open_cases: list[Evidence] = []
    for item in items:
        if item.kind not in SUSPICIONS:
            yield item.time_s, item.hours
            continue
        open_cases = [one for one in open_cases if item.time_s - one.time_s < SUSPICION_S]
        if any(_independent(one, item) for one in open_cases):
            open_cases = []
            yield item.time_s, None
        else:
            open_cases.append(item)


def _independent(one: Evidence, other: Evidence) -> bool:
    """Whether the node is what both have in common.

    In the same run the same rank may fail again for the same reason of its own, such as a broken
    sample, unless the node had another place, and so other ranks.
    """
    return one.run != other.run or one.place != other.place


def choose_excluded(
    bad: Sequence[BadNode], partition: Collection[str] | None, needed: int, rules: HealthSettings
) -> tuple[list[str], list[str]]:
    """Which bad nodes to exclude, and which are let in although they are bad.

    Args:
        bad: the nodes that are bad now.
        partition: the names of the partition's nodes; None where it is not known.
        needed: nodes that the job asks for: so many always stay.
        rules: the caps. The weakest and oldest evidence is dropped first.
    """
    here = [one for one in bad if partition is None or one.node in partition]
    most = rules.exclude_max
    if partition is not None:
        share = max(1, int(rules.exclude_share_max * len(partition)))
        most = min(most, share, max(0, len(partition) - needed))
    ranked = sorted(here, key=lambda one: (-one.strength, -one.evidence[-1].time_s, one.node))
    kept, dropped = ranked[:most], ranked[most:]
    return sorted(one.node for one in kept), [one.node for one in dropped]


def merge_exclude(own: str | None, nodes: Collection[str]) -> str | None:
    """The value of ``--exclude``: the user's own node list and the bad nodes; None for neither.

    >>> merge_exclude("node[7-9]", ["node2"])
    'node[7-9],node2'
    """
    words = [own] if own else []
    return ",".join([*words, *sorted(nodes)]) or None
