"""Follows a run by what it writes: a progress bar, and the result at the end."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from hpcjobs.login.override_word import override_word
from hpcjobs.run.errors import TrainingFailedError
from hpcjobs.run.files import Tail, has_no_room, read_json
from hpcjobs.run.layout import RunDir
from hpcjobs.run.verdict import Verdict, read_verdict

POLL_S = 0.5
_LOG_LINES = 15
_ALARMS = {"alarm": ("alarm", "yellow"), "alarm_cleared": ("over", "dim")}
_TOLD_BY_LOGS = ("crash", "hang", "unknown")


def follow(run: RunDir, console: Console, ended: Callable[[], bool]) -> None:
    """Shows a progress bar until ``ended`` says so; reads only the run directory."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[steps]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=None, steps="", figures="")
        watched = _Watched(Tail(run.events), Tail(run.metrics))
        while not ended():
            watched.show(progress, task)
            time.sleep(POLL_S)
        watched.show(progress, task)


@dataclass
class _Watched:
    """What has been read of a run so far; its files grow long, so each line is read once."""

    events: Tail
    metrics: Tail
    steps: int | None = None
    last: dict[str, Any] | None = None

    def show(self, progress: Progress, task: TaskID) -> None:
        for event in self.events.new_lines():
            if event["kind"] == "training":
                self.steps = event["steps"]
            elif event["kind"] in _ALARMS:
                show_alarm(event, progress.console)
        for line in self.metrics.new_lines():
            if line["kind"] == "train":
                self.last = line
        if self.steps is None:
            return
        if self.last is None:
            progress.update(task, description="preparing", total=self.steps)
            return
        progress.update(
            task,
            description="training",
            total=self.steps,
            completed=self.last["step"],
            steps=f"{self.last['step']}/{self.steps} steps",
            figures=f"loss {self.last['loss']:.3f}, {self.last['samples_per_s']:.1f} samples/s",
        )


def show_alarm(event: dict[str, Any], console: Console) -> None:
    """Prints one line about an alarm, or that it is over."""
    word, style = _ALARMS[event["kind"]]
    line = Text(f"{word}: {event['text']}", style=style)
    console.print(line, soft_wrap=True)


def latest_verdict(run: RunDir, after: int = 0) -> Verdict | None:
    """The verdict of the newest attempt behind number ``after``; None where it has none yet."""
    number = _newest_attempt(run, after)
    return read_verdict(run.attempt(number).verdict) if number else None


def _newest_attempt(run: RunDir, after: int) -> int | None:
    return max((number for number in run.attempt_numbers() if number > after), default=None)


def show_result(run: RunDir, console: Console, after: int = 0) -> None:
    """Prints how a run ended and what to type next.

    Args:
        run: the run.
        console: where to print.
        after: the last attempt that does not count, since it was there before.

    Raises:
        TrainingFailedError: it did not finish; says why and where to look.
    """
    verdict = latest_verdict(run, after)
    if verdict is not None and verdict.status == "done":
        _show_done(run, console)
        return
    if verdict is not None and verdict.status in ("checkpointed", "cancelled"):
        word = "stopped" if verdict.status == "checkpointed" else "cancelled"
        console.print(f"{word}, saved at step {_shown(verdict.step)}. Go on with:")
        show_resumption(run, console)
        return
    if verdict is not None and verdict.status == "never" and verdict.cause not in _TOLD_BY_LOGS:
        console.print("once that is mended, go on with:")
        show_resumption(run, console)
        raise TrainingFailedError(verdict.reason)
    for line in _log_tail(run, verdict, after):
        console.print(line, style="dim", markup=False, highlight=False)
    console.print("to go on from the last checkpoint:")
    show_resumption(run, console)
    reason = verdict.reason if verdict else f"the job left no verdict{_full_disk(run)}"
    raise TrainingFailedError(f"the run did not finish: {reason}; see {run.attempts}")


def _shown(step: int | None) -> str:
    return "unknown" if step is None else str(step)


def is_finished(run: RunDir) -> bool:
    """Whether the run has trained to its end and left its result."""
    verdict = latest_verdict(run)
    return verdict is not None and verdict.status == "done" and run.result_file.exists()


def show_resumption(run: RunDir, console: Console) -> None:
    """Prints the command that continues a run, as it is to be typed."""
    console.print(f"  {resume_command(run)}", soft_wrap=True, markup=False)


def resume_command(run: RunDir) -> str:
    """What to type to continue a run where it stopped."""
    record = read_json(run.record)
    dirs = [word for place in record.get("config_dirs", []) for word in ("--config-dir", place)]
    kept = [word for word in record["overrides"] if not word.startswith("run_dir=")]
    words = ["python", "-m", "hpcjobs.submit", *dirs, *kept, override_word("run_dir", run.path)]
    return shlex.join(words)


def _show_done(run: RunDir, console: Console) -> None:
    result = read_json(run.result_file)
    before, after = result.get("heldout_loss_before"), result.get("heldout_loss_after")
    console.print(f"[bold green]done[/] after {result['steps']} steps", highlight=False)
    if before is not None and after is not None:
        console.print(f"  held-out loss  {before:.3f} before -> {after:.3f} after")
        shuffled = result.get("heldout_loss_shuffled_pictures")
        if shuffled is not None:
            console.print(f"  with the pictures shuffled between the samples: {shuffled:.3f}")
    console.print(f"  run directory  {run.path}", soft_wrap=True, markup=False)
    console.print(f"  result         {run.result}", soft_wrap=True, markup=False)
    console.print("next:")
    for line in _next_commands(run):
        console.print(f"  {line}", soft_wrap=True, markup=False)


def _next_commands(run: RunDir) -> list[str]:
    """What a user types after a run: look at it, or go on to the real model."""
    return [
        f"cat {shlex.quote(str(run.result_file))}",
        f"tail -n 3 {shlex.quote(str(run.metrics))}",
        f"ls {shlex.quote(str(run.result))}/  # PEFT loads adapter/",
        "python -m hpcjobs.submit +experiment=mgm_lora dry_run=true",
    ]


def _log_tail(run: RunDir, verdict: Verdict | None, after: int) -> list[str]:
    number = _newest_attempt(run, after)
    rank = (verdict.rank if verdict else None) or 0
    log = run.attempt(number).rank_log(rank) if number else None
    if log is None or not log.exists() or not log.stat().st_size:
        log = _broker_log(run)
    if log is None:
        return []
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]


def _broker_log(run: RunDir) -> Path | None:
    """What the newest job printed itself: it tells why no training process came to be."""
    logs = [*run.path.glob("slurm-*.log"), *run.submitit.glob("*_log.out")]
    return max(logs, key=lambda log: log.stat().st_mtime, default=None)


def _full_disk(run: RunDir) -> str:
    """A verdict that is missing may have found no room."""
    return ": its disk is full" if has_no_room(run.path) else ""
