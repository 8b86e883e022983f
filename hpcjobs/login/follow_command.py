"""Follows a run from another terminal."""

from collections.abc import Sequence
from pathlib import Path

from hpcjobs.login import door
from hpcjobs.login.console import make_console
from hpcjobs.login.follow import follow, show_result
from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_lines
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
    console = make_console()
    follow(run, console, lambda: has_ended(run))
    show_result(run, console)
    return 0


def has_ended(run: RunDir) -> bool:
    """Whether nothing more happens to a run by itself; one that waits to be requeued goes on."""
    ended = False
    for event in read_lines(run.events):
        if event["kind"] == "attempt_ended":
            ended = event["action"]["kind"] == "exit"
        elif event["kind"] == "requeue_refused":
            ended = True
        elif event["kind"] in ("submitted", "attempt_started"):
            ended = False
    return ended
