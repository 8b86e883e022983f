"""Follows a run by what it writes: a progress bar, and the result at the end."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hpcjobs.login.override_word import override_word
from hpcjobs.run.errors import TrainingFailedError
from hpcjobs.run.files import Tail, read_json
from hpcjobs.run.layout import RunDir
from hpcjobs.run.verdict import Verdict, read_verdict

POLL_S = 0.5
_LOG_LINES = 15


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


def latest_verdict(run: RunDir) -> Verdict | None:
    """The verdict of the newest attempt; None where it has none yet."""
    numbers = run.attempt_numbers()
    return read_verdict(run.attempt(numbers[-1]).verdict) if numbers else None


def show_result(run: RunDir, console: Console) -> None:
    """Prints how a run ended and what to type next.

    Raises:
        TrainingFailedError: it did not finish; says why and where to look.
    """
    verdict = latest_verdict(run)
    if verdict is not None and verdict.status == "done":
        _show_done(run, console)
        return
    if verdict is not None and verdict.status == "checkpointed":
        console.print(f"stopped, saved at step {verdict.step}. Go on with:")
        console.print(f"  {resume_command(run)}", soft_wrap=True)
        return
    if verdict is not None and verdict.status == "never":
        raise TrainingFailedError(verdict.reason)
    for line in _log_tail(run, verdict):
        console.print(line, style="dim", markup=False, highlight=False)
    reason = verdict.reason if verdict else "the job left no verdict"
    raise TrainingFailedError(f"the run did not finish: {reason}; see {run.attempts}")


def resume_command(run: RunDir) -> str:
    """What to type to continue a run where it stopped."""
    overrides = read_json(run.record)["overrides"]
    kept = [word for word in overrides if not word.startswith("run_dir=")]
    words = ["python", "-m", "hpcjobs.submit", *kept, override_word("run_dir", run.path)]
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
    console.print(f"  run directory  {run.path}", soft_wrap=True)
    console.print(f"  result         {run.result}", soft_wrap=True)


def _log_tail(run: RunDir, verdict: Verdict | None) -> list[str]:
    numbers = run.attempt_numbers()
    if not numbers:
        return []
    log = run.attempt(numbers[-1]).rank_log((verdict.rank if verdict else None) or 0)
    if not log.exists():
        return []
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
