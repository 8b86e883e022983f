"""Follows a run from another terminal."""

import time
from collections.abc import Sequence
from pathlib import Path

from hpcjobs.login import door
from hpcjobs.login.console import make_console
from hpcjobs.login.follow import follow, show_result
from hpcjobs.login.slurm_submit import holder_alive, slurm_is_here
from hpcjobs.node.queue import jobs_of
from hpcjobs.run.errors import InputError
from hpcjobs.run.files import read_lines
from hpcjobs.run.holder import current_holder
from hpcjobs.run.layout import RunDir

_ASK_EVERY_S = 5.0
_STAYS_ENDED = ("follow_up_refused", "time_used_up")
_GOES_ON = ("submitted", "requeued", "follow_up", "attempt_started")


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
    watch = _Watch(run)
    follow(run, console, lambda: has_ended(run) or watch.holder_is_gone())
    show_result(run, console)
    return 0


class _Watch:
    """Asks now and then whether the job that holds a run still lives."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._asked_at = time.monotonic()

    def holder_is_gone(self) -> bool:
        """True only on evidence; a job that cannot be seen counts as alive."""
        if time.monotonic() - self._asked_at < _ASK_EVERY_S:
            return False
        self._asked_at = time.monotonic()
        holder = current_holder(self._run)
        return _nobody_waits(self._run) if holder is None else holder_alive(holder) is False


def _nobody_waits(run: RunDir) -> bool:
    """Whether Slurm knows no job of a run any more, such as after the one that waited was ended."""
    return run.submissions.exists() and slurm_is_here() and jobs_of(run) == []


def has_ended(run: RunDir) -> bool:
    """Whether nothing more happens to a run by itself; one that waits to be requeued goes on."""
    ended = False
    goes_on: tuple[str, ...] = ("restart",)
    for event in read_lines(run.events):
        if event["kind"] == "attempt_started":  # outside Slurm nobody starts it again
            goes_on = ("restart", "later") if event.get("job_id") else ("restart",)
        if event["kind"] == "attempt_ended":
            ended = event["decision"]["kind"] not in goes_on
        elif event["kind"] in _STAYS_ENDED:
            ended = True
        elif event["kind"] in _GOES_ON:
            ended = False
    return ended
