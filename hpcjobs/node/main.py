"""The entry of the zip application that travels in the run directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hpcjobs.node.agent import Place, run_agent
from hpcjobs.node.allocation import run_in_allocation
from hpcjobs.node.broker import run_broker
from hpcjobs.node.health import run_health
from hpcjobs.run.errors import HpcjobsError
from hpcjobs.run.layout import RunDir

USAGE = (
    "usage: node.pyz broker|local|allocation RUN | node.pyz health RUN ATTEMPT | "
    "node.pyz agent RUN ATTEMPT MASTER_ADDR MASTER_PORT"
)


def main(argv: list[str] | None = None) -> int:
    """Runs the broker or the agent; returns the process's exit code."""
    os.umask(0o077)
    words = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(words)
    except HpcjobsError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


def _dispatch(words: list[str]) -> int:
    if len(words) == 2 and words[0] == "broker":
        return run_broker(RunDir(Path(words[1])), os.environ)
    if len(words) == 2 and words[0] == "local":  # inside an salloc too, this machine is meant
        outside = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        return run_broker(RunDir(Path(words[1])), outside)
    if len(words) == 2 and words[0] == "allocation":
        return run_in_allocation(RunDir(Path(words[1])), os.environ)
    if len(words) == 5 and words[0] == "agent":
        _, run, attempt, host, port = words
        node = int(os.environ.get("SLURM_NODEID", "0"))
        return run_agent(Place(RunDir(Path(run)), int(attempt), node, host, int(port)))
    if len(words) == 3 and words[0] == "health":
        return run_health(RunDir(Path(words[1])), int(words[2]), os.environ)
    sys.stderr.write(USAGE + "\n")
    return 2
