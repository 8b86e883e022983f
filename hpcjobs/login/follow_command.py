"""Follows a run from another terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hpcjobs.login import door
from hpcjobs.login.follow import follow, latest_verdict, show_result
from hpcjobs.run.errors import InputError
from hpcjobs.run.layout import RunDir


def follow_command(argv: Sequence[str]) -> int:
    """Shows a run's progress until it ends; interrupting only stops the watching.

    Raises:
        InputError: the directory is no run.
    """
    parser = door.parser("follow", "Show the progress of a run until it ends.")
    parser.add_argument("run", type=Path, help="the run directory")
    run = RunDir(parser.parse_args(argv).run.resolve())
    if not run.config.exists():
        raise InputError(f"{run.path} is no run directory: it holds no config.json")
    console = Console(highlight=False)
    follow(run, console, lambda: _ended(run))
    show_result(run, console)
    return 0


def _ended(run: RunDir) -> bool:
    """A stopped run that waits in the queue again has not ended."""
    verdict = latest_verdict(run)
    return verdict is not None and verdict.status != "checkpointed"
