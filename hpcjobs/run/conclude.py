"""Draws the verdict of an attempt from what its processes said and how they ended."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hpcjobs.run.failure import is_echo, last_error_line, root_of
from hpcjobs.run.hang import conclude_hang
from hpcjobs.run.launch import Launch
from hpcjobs.run.layout import Attempt
from hpcjobs.run.node_end import NodeEnd, read_node_end
from hpcjobs.run.verdict import Verdict, read_verdict

_CONTAINER_FAILED = 255
"""Exit code of apptainer and singularity for their own failures; a program's own code passes."""
_NAMED_RANKS = 4


@dataclass(frozen=True)
class Trace:
    """What one training process left behind."""

    rank: int
    said: Verdict | None = None
    exit_code: int | None = None
    """None where it was not seen to end by itself."""
    host: str | None = None
    last_line: str | None = None
    """The line of its log that tells most."""
    memory_killed: bool = False
    """Whether the kernel killed for memory on its node meanwhile."""

    @property
    def fell_silent(self) -> bool:
        """Whether it failed without a word."""
        return self.said is None and bool(self.exit_code)

    @property
    def is_echo(self) -> bool:
        """Whether all that is known of it is a complaint about a peer."""
        words = self.said.reason if self.said else self.last_line
        return words is not None and is_echo(words)


def conclude(attempt: Attempt, launch: Launch, nodes: int | None = None) -> Verdict:
    """Draws the attempt's verdict from its files.

    Args:
        attempt: the attempt's files.
        launch: how many processes there were, and whether they ran in a container.
        nodes: of the attempt; None is what the launch file says.
    """
    traces: list[Trace] = []
    per_node = launch.processes_per_node
    for node in range(launch.nodes if nodes is None else nodes):
        end = read_node_end(attempt.exit_codes(node))
        ranks = range(node * per_node, (node + 1) * per_node)
        traces += [_trace(attempt, rank, end) for rank in ranks]
    return conclude_hang(attempt, len(traces)) or merge(traces)


def _trace(attempt: Attempt, rank: int, end: NodeEnd | None) -> Trace:
    trace = trace_of(attempt, rank, end.exits.get(rank) if end else None)
    if end is None:
        return trace
    return replace(trace, host=end.host, memory_killed=bool(end.oom_kills))


def trace_of(attempt: Attempt, rank: int, exit_code: int | None) -> Trace:
    """What one process left, as far as its own node can tell at once."""
    said = read_verdict(attempt.rank_verdict(rank))
    line = last_error_line(attempt.rank_log(rank)) if exit_code and said is None else None
    return Trace(rank, said, exit_code, last_line=line)


def merge(traces: Sequence[Trace]) -> Verdict:
    """Merges what the processes left: the worst wins, and rank 0 alone can say done.

    A process that died without a word while others complain of it is the one to blame, since
    the complaint of its peers (connection reset) is only the echo.
    """
    step = max((t.said.step for t in traces if t.said and t.said.step is not None), default=None)
    for trace in traces:
        if trace.said and trace.said.status == "never":
            return replace(trace.said, cause=trace.said.cause or "never", node=trace.host)
    silent = [trace for trace in traces if trace.fell_silent]
    failed = [trace for trace in traces if trace.said and trace.said.status == "failed"]
    for is_echoing in (False, True):
        if dead := [trace for trace in silent if trace.is_echo == is_echoing]:
            return replace(_blame_silent(dead), step=step)
        if complaints := [trace for trace in failed if trace.is_echo == is_echoing]:
            return replace(_blame_spoken(complaints[0]), step=step)
    if traces and traces[0].said:
        return replace(traces[0].said, cause="done" if traces[0].said.status == "done" else None)
    return Verdict("unknown", "no process left a verdict", step, cause="unknown")


def _blame_spoken(trace: Trace) -> Verdict:
    said = trace.said or Verdict("failed", "")
    reason = f"{_name(trace)}: {said.reason}"
    root = said.root or root_of(said.reason)
    return replace(
        said, reason=reason, cause=said.cause or "crash", root=root, node=trace.host,
        rank=trace.rank,
    )  # fmt: skip


def _blame_silent(dead: Sequence[Trace]) -> Verdict:
    """Blames the first that a signal killed, else the first."""
    first = min(dead, key=lambda trace: ((trace.exit_code or 0) >= 0, trace.rank))
    others = [trace for trace in dead if trace is not first]
    how = _describe_death(first)
    words = [f"{_name(first)} {how}"]
    words += [f"{_name(t)} {describe_exit(t.exit_code)}" for t in others[: _NAMED_RANKS - 1]]
    if len(dead) > _NAMED_RANKS:
        words.append(f"and {len(dead) - _NAMED_RANKS} more")
    line = f"; its log ends with: {first.last_line}" if first.last_line else ""
    root = root_of(first.last_line or "")
    return Verdict(
        status="failed",
        reason=", ".join(words) + line,
        rank=first.rank,
        cause="crash",
        root=f"{how}: {root}" if root else how,
        node=first.host,
    )


def _describe_death(trace: Trace) -> str:
    if trace.exit_code == -signal.SIGKILL and trace.memory_killed:
        return "was killed by signal 9, and the kernel killed for memory on its node just then"
    if trace.exit_code == _CONTAINER_FAILED:
        return "ended with exit code 255, which a container's own failure has"
    return describe_exit(trace.exit_code)


def describe_exit(code: int | None) -> str:
    """Says an exit code in words.

    >>> describe_exit(-9), describe_exit(3), describe_exit(None)
    ('was killed by signal 9', 'ended with exit code 3', 'was not seen to end')
    """
    if code is None:
        return "was not seen to end"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _name(trace: Trace) -> str:
    return f"rank {trace.rank}" + (f" on {trace.host}" if trace.host else "")
