"""Shows, marks and forgets bad nodes."""

import argparse
import datetime as dt
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpcjobs.login import door
from hpcjobs.login.console import make_console
from hpcjobs.node.health_exclude import store_of
from hpcjobs.run.bad_node_files import Found, add_evidence, forget, read_evidence
from hpcjobs.run.bad_nodes import HOUR_S, BadNode, Evidence, bad_nodes
from hpcjobs.run.checks import above
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.health_config import HealthSettings

_EXAMPLES = """\
examples:
  python -m hpcjobs.nodes
  python -m hpcjobs.nodes mark gpu017 --reason "fans are loud" --hours 48
  python -m hpcjobs.nodes forget gpu017
  python -m hpcjobs.nodes forget all
"""
_ALL = "all"


def nodes_command(argv: Sequence[str]) -> int:
    """Lists the bad nodes of this cluster, or changes what is known of one.

    Raises:
        HpcjobsError: what a user can mend.
    """
    words = _parse(argv)
    store = store_of(words.store)
    if words.action == "mark":
        return _mark(store, words.node, words.reason, words.hours)
    if words.action == "forget":
        return _forget(store, words.node)
    found = read_evidence(store)
    bad = bad_nodes(found.evidence, time.time(), HealthSettings())
    if words.json:
        sys.stdout.write(json.dumps(as_json(store, bad, found), indent=2) + "\n")
        return 0
    _show(make_console(), store, bad, found)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = door.parser("nodes", "Show the nodes that runs avoid, and why.", _EXAMPLES)
    parser.add_argument(
        "--store", metavar="DIR", help="the group's directory (health.bad_nodes); default your own"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    mark = actions.add_parser("mark", help="avoid a node from now on")
    mark.add_argument("node")
    mark.add_argument("--reason", required=True)
    mark.add_argument("--hours", type=float, default=HealthSettings().expire_hours)
    drop = actions.add_parser("forget", help="use a node again")
    drop.add_argument("node", help="its name, or all")
    return parser.parse_args(argv)


def _mark(store: Path, node: str, reason: str, hours: float) -> int:
    above("--hours", hours, 0)
    if not reason.strip():
        raise ConfigError("--reason is empty: say why, others will ask")
    if node == _ALL:
        raise ConfigError("name one node: all of them cannot be avoided")
    add_evidence(store, Evidence(node, time.time(), "manual", reason, hours=hours))
    sys.stdout.write(f"{node} is avoided for {hours:g} hours\n")
    return 0


def _forget(store: Path, node: str) -> int:
    gone, left = forget(store, None if node == _ALL else node)
    if left:
        raise InputError(f"not everything could be removed: {'; '.join(left)}")
    if not gone and node != _ALL:
        raise ConfigError(f"nothing is known of {node!a}: python -m hpcjobs.nodes lists what is")
    sys.stdout.write(f"forgotten: {', '.join(gone) or 'nothing was known'}\n")
    return 0


def as_json(store: Path, bad: Sequence[BadNode], found: Found) -> dict[str, Any]:
    """What ``--json`` prints; times in Unix seconds."""
    return {
        "store": str(store),
        "nodes": [
            {
                "node": one.node,
                "since_s": one.since_s,
                "until_s": one.until_s,
                "runs": _runs(one),
                "evidence": [
                    {"time_s": e.time_s, "kind": e.kind, "reason": e.reason, "run": e.run,
                     "attempt": e.attempt} for e in one.evidence
                ],
            }
            for one in bad
        ],
        "ignored": found.ignored,
    }  # fmt: skip


def _show(console: Console, store: Path, bad: Sequence[BadNode], found: Found) -> None:
    if not bad:
        console.print(f"no bad nodes are known in {store}", soft_wrap=True, markup=False)
    else:
        console.print(_table(store, bad))
    for line in found.ignored:
        console.print(f"ignored: {line}", soft_wrap=True, markup=False)


def _table(store: Path, bad: Sequence[BadNode]) -> Table:
    table = Table(title=Text(f"nodes that runs avoid ({store})"), title_justify="left")
    for name in ("node", "since", "until", "evidence", "runs"):
        table.add_column(name, overflow="fold", no_wrap=name == "node")
    for one in bad:
        last = one.evidence[-1]
        more = f" (and {len(one.evidence) - 1} more)" if len(one.evidence) > 1 else ""
        left_h = (one.until_s - time.time()) / HOUR_S
        table.add_row(
            one.node,
            _clock(one.since_s),
            f"{_clock(one.until_s)}, {left_h:.0f} h from now",
            Text(f"{last.kind}: {last.reason}{more}"),
            Text(", ".join(Path(run).name for run in _runs(one))),
        )
    return table


def _runs(one: BadNode) -> list[str]:
    return sorted({item.run for item in one.evidence if item.run})


def _clock(time_s: float) -> str:
    return dt.datetime.fromtimestamp(time_s).astimezone().strftime("%Y-%m-%d %H:%M")
