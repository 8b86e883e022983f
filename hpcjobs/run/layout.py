"""Where everything about one run lies: the contract between login node, node and container."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hpcjobs.run.files import make_private_dir

_COMMITTED = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class RunDir:
    """The directory of one run; its name is the run's id across all attempts."""

    path: Path

    @property
    def run_id(self) -> str:
        """The logical name of the run, the same for every attempt."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The validated experiment, as JSON."""
        return self.path / "config.json"

    @property
    def plan(self) -> Path:
        """What the planner chose for the run, and why; only where it was asked."""
        return self.path / "plan.json"

    @property
    def launch(self) -> Path:
        """What the nodes need to know to start the processes."""
        return self.path / "launch.json"

    @property
    def record(self) -> Path:
        """Who submitted what, when, with which versions."""
        return self.path / "record.json"

    @property
    def script(self) -> Path:
        """The batch script exactly as submitted; ``sbatch`` takes it by hand too."""
        return self.path / "job.sbatch"

    @property
    def node_archive(self) -> Path:
        """Broker and agent as one zip application for the nodes' Python."""
        return self.path / "node.pyz"

    @property
    def train_archive(self) -> Path:
        """The training program as one archive for the Python of the image, or of the node."""
        return self.path / "train.zip"

    @property
    def events(self) -> Path:
        """What happened to the run, one JSON object a line."""
        return self.path / "events.jsonl"

    @property
    def metrics(self) -> Path:
        """What the training measured, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def submissions(self) -> Path:
        """The jobs that were submitted for this run, one JSON object a line."""
        return self.path / "submissions.jsonl"

    @property
    def holder(self) -> Path:
        """The job that runs this directory now; absent when none does."""
        return self.path / "holder.json"

    @property
    def submitting(self) -> Path:
        """The submission that is at work on this directory; absent when none is."""
        return self.path / "submitting.json"

    @property
    def checkpoints(self) -> Path:
        """One directory a committed step, and the advisory ``latest``."""
        return self.path / "checkpoints"

    def newest_step(self) -> int:
        """Optimizer steps in the newest committed checkpoint, read or not; 0 without one."""
        if not self.checkpoints.is_dir():
            return 0
        matches = (_COMMITTED.fullmatch(entry.name) for entry in self.checkpoints.iterdir())
        return max((int(match.group(1)) for match in matches if match), default=0)

    @property
    def data_check(self) -> Path:
        """What the check of the samples found, so that a resumption need not repeat it."""
        return self.path / "data_check.json"

    @property
    def result(self) -> Path:
        """Adapter, projector and final figures of a finished run."""
        return self.path / "result"

    @property
    def result_file(self) -> Path:
        """The final figures as JSON."""
        return self.result / "result.json"

    @property
    def submitit(self) -> Path:
        """The folder that submitit insists on; nothing of ours reads it."""
        return self.path / "submitit"

    @property
    def attempts(self) -> Path:
        """One directory an attempt, numbered from 1."""
        return self.path / "attempts"

    def attempt(self, number: int) -> Attempt:
        """The files of one attempt."""
        return Attempt(self.attempts / str(number))

    def attempt_numbers(self) -> list[int]:
        """Numbers of the attempts that were begun, ascending."""
        if not self.attempts.is_dir():
            return []
        return sorted(int(p.name) for p in self.attempts.iterdir() if p.name.isdigit())

    def new_attempt(self) -> int:
        """Creates the next attempt's directory and returns its number.

        Raises:
            FileExistsError: another process created the same attempt at this moment.
        """
        make_private_dir(self.attempts)
        number = max(self.attempt_numbers(), default=0) + 1
        self.attempt(number).path.mkdir(mode=0o700)
        return number


@dataclass(frozen=True)
class Attempt:
    """The directory of one attempt: logs of every process, and what became of it."""

    path: Path

    @property
    def verdict(self) -> Path:
        """What the broker concluded."""
        return self.path / "verdict.json"

    @property
    def start(self) -> Path:
        """Which job began it, and how far the run had come."""
        return self.path / "start.json"

    def rank_verdict(self, rank: int) -> Path:
        """What one training process says of itself."""
        return self.path / f"verdict-rank-{rank}.json"

    def rank_log(self, rank: int) -> Path:
        """Standard output and error of one training process."""
        return self.path / f"rank-{rank}.log"

    def agent(self, node: int) -> Path:
        """Which process is the agent of one node, in the form of the holder's file."""
        return self.path / f"agent-node-{node}.json"

    def health(self, node: int) -> Path:
        """What the look at one node before the attempt found."""
        return self.path / f"health-node-{node}.json"

    @property
    def ring(self) -> Path:
        """Where the nodes meet to look at the network between them."""
        return self.path / "health-ring.json"

    def hang(self, node: int) -> Path:
        """What one node saw of a hang; only where there was one."""
        return self.path / f"hang-node-{node}.json"

    def stacks(self, rank: int) -> Path:
        """The stacks of one rank's processes during a hang."""
        return self.path / f"stacks-rank-{rank}.txt"

    def watch(self, node: int) -> Path:
        """What the watch of one node last saw."""
        return self.path / f"watch-node-{node}.json"

    def notice(self, node: int) -> Path:
        """That the agent of one node was told that the end is near, and by which signal."""
        return self.path / f"notice-node-{node}.json"

    def exit_codes(self, node: int) -> Path:
        """How the processes of one node ended."""
        return self.path / f"exit-node-{node}.json"
