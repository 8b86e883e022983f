"""What the end of an attempt says against a node."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcjobs.node.health import expand_hosts, remember
from hpcjobs.node.health_gpu import XIDS_OF_A_SICK_NODE
from hpcjobs.node.slurm import Run, run_command
from hpcjobs.run.bad_nodes import Evidence
from hpcjobs.run.files import read_lines
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import RunDir
from hpcjobs.run.verdict import Verdict, read_verdict

_BLAMELESS = (
    "done",
    "preempted",
    "time_limit",
    "cancelled",
    "stopped",
    "interrupted",
    "storage_full",
)
_TAIL_BYTES = 256 * 1024
_XID = re.compile(r"NVRM: Xid \([^)]*\): (\d+)\b")
_HARDWARE = re.compile(
    r"uncorrectable ECC error encountered"
    r"|uncorrectable NVLink error detected"
    r"|GPU is lost\."
    r"|Unable to determine the device handle for GPU"
    r"|has fallen off the bus"
    r"|CUDA error: system not yet initialized"
)
"""What the CUDA run time, NVML and the driver say of a sick card; an illegal access, a launch
failure or an assertion is a program's fault far more often, and not among them."""
_NODE_FIELD = re.compile(r"(?:^|\s)(NodeName|State|BootTime)=(\S+)")


@dataclass(frozen=True)
class NodeView:
    """A node as the controller sees it."""

    state: str
    booted_s: float | None
    """Unix seconds; None is not known."""

    @property
    def is_down(self) -> bool:
        """Whether Slurm has lost it; draining is an administrator's wish, and no fault."""
        words = self.state.upper()
        return any(word in words for word in ("DOWN", "FAIL", "NOT_RESPONDING", "ERROR")) or (
            words.endswith("*")
        )


def blame_nodes(
    run: RunDir, launch: Launch, number: int, verdict: Verdict, environment: Mapping[str, str]
) -> None:
    """Remembers what an attempt's verdict, logs and Slurm say against its nodes.

    A hardware error in a log, or a node that Slurm has lost, is enough. The culprit of a hang or a
    crash is a suspicion: only the second one from another run, or from another place in this one,
    counts, since most crashes are the program's own.
    """
    if launch.bad_nodes is None or "SLURM_JOB_ID" not in environment:
        return
    if verdict.cause in _BLAMELESS:
        return
    hosts = expand_hosts(environment.get("SLURM_JOB_NODELIST", ""))
    found = hardware_errors(run, launch, number, len(hosts))
    if verdict.cause in ("node", "unknown", None):
        found.update(_lost(hosts, None))
    suspected = verdict.cause in ("crash", "hang") and len(hosts) > 1
    if not found and suspected and verdict.node in hosts:
        found[hosts.index(verdict.node)] = ("culprit", f"{verdict.cause}: {verdict.reason}")
    _remember(run, launch, number, hosts, found)


def blame_lost_nodes(run: RunDir, launch: Launch, environment: Mapping[str, str]) -> None:
    """Remembers nodes of the previous attempt that Slurm has lost, or that were booted since.

    For the start of a broker: where the broker's own node died, nobody else could.
    """
    if launch.bad_nodes is None or "SLURM_JOB_ID" not in environment:
        return
    started = [event for event in read_lines(run.events) if event["kind"] == "attempt_started"]
    if not started or not started[-1].get("nodes"):
        return
    number, hosts = int(started[-1]["attempt"]), list(started[-1]["nodes"])
    verdict = read_verdict(run.attempt(number).verdict)
    if verdict is not None and verdict.cause not in ("node", "unknown", None):
        return
    _remember(run, launch, number, hosts, _lost(hosts, float(started[-1]["time"])))


def hardware_errors(
    run: RunDir, launch: Launch, number: int, nodes: int
) -> dict[int, tuple[str, str]]:
    """Signatures of sick cards in the processes' logs, by the node's number."""
    found: dict[int, tuple[str, str]] = {}
    per_node = launch.processes_per_node
    for rank in range(nodes * per_node):
        said = hardware_signature(_tail(run.attempt(number).rank_log(rank)))
        if said is not None:
            found.setdefault(rank // per_node, ("hardware", f"rank {rank}: {said}"))
    return found


def hardware_signature(text: str) -> str | None:
    """The words of a log that only a sick card brings about; None where there are none.

    >>> hardware_signature("RuntimeError: CUDA error: uncorrectable ECC error encountered")
    'uncorrectable ECC error encountered'
    """
    for xid in _XID.findall(text):
        if int(xid) in XIDS_OF_A_SICK_NODE:
            return f"Xid {xid}: {XIDS_OF_A_SICK_NODE[int(xid)]}"
    match = _HARDWARE.search(text)
    return match.group(0) if match else None


def parse_nodes(text: str) -> dict[str, NodeView]:
    """Reads the lines of ``scontrol show node -o``.

    >>> parse_nodes("NodeName=n1 State=DOWN*+CLOUD BootTime=None Reason=x")["n1"].is_down
    True
    """
    views = {}
    for line in text.splitlines():
        fields = dict(_NODE_FIELD.findall(line))
        if "NodeName" in fields and "State" in fields:
            views[fields["NodeName"]] = NodeView(fields["State"], _unix(fields.get("BootTime")))
    return views


def view_nodes(hosts: Iterable[str], run: Run = run_command) -> dict[str, NodeView]:
    """Asks Slurm for the nodes' states; those that it does not answer for are left out."""
    answer = run(["scontrol", "show", "node", "-o", ",".join(hosts)])
    return parse_nodes(answer.stdout) if answer.returncode == 0 else {}


def _lost(hosts: Sequence[str], since_s: float | None) -> dict[int, tuple[str, str]]:
    found = {}
    for host, view in view_nodes(hosts).items():
        if host not in hosts:
            continue
        if view.is_down:
            found[hosts.index(host)] = ("node_fail", f"Slurm says {view.state}")
        elif since_s is not None and view.booted_s is not None and view.booted_s > since_s:
            found[hosts.index(host)] = ("node_fail", "it was booted during an attempt")
    return found


def _remember(
    run: RunDir, launch: Launch, number: int, hosts: Sequence[str],
    found: Mapping[int, tuple[str, str]],
) -> None:  # fmt: skip
    for place, (kind, reason) in found.items():
        evidence = Evidence(hosts[place], time.time(), kind, reason, str(run.path), number, place)
        remember(run, launch, evidence)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _unix(text: str | None) -> float | None:
    """Slurm's local time as Unix seconds; None for None and Unknown."""
    try:
        return time.mktime(time.strptime(text or "", "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
