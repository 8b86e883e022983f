"""One training on the test cluster, and the kills that it meets."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.slurm_cluster import SlurmCluster
from runs import submit

from benchmarks.soaking.plan import CLASS, Kill
from benchmarks.soaking.victims import Victim, victims
from hpcjobs.run.fence import staging_dir
from hpcjobs.run.files import Tail
from hpcjobs.run.layout import RunDir

_POLL_S = 0.02
_QUEUE_POLL_S = 0.4
_SURELY_OVER_S = 3.0
_SAVE_POLL_S = 0.001
_START_S = 4.0
"""A kill during a start comes within so many seconds of it."""
_SAVE_WITHIN_S = 60.0
_ALLOCATED = ("RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT")
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")


@dataclass
class Act:
    """A kill as it was carried out."""

    number: int
    way: str
    kind: str
    moment: str
    victim: str
    attempt: int
    step: int
    time: float
    during_save: bool
    down_s: float | None = None
    """To the first new step, without the wait for an allocation."""
    queued_s: float = 0.0


@dataclass
class Training:
    """A run under way: what its files tell, and how long its job held no allocation."""

    cluster: SlurmCluster
    run: RunDir
    job_id: str
    timeout_s: float
    """Longest wait for any one thing."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    by_hand: int = 0
    queued_s: float = 0.0

    def __post_init__(self) -> None:
        """Begins to follow the run's files."""
        self._metrics, self._events = Tail(self.run.metrics), Tail(self.run.events)
        self._asked_at = time.monotonic()
        self._over_since: float | None = None
        self._struck_attempt = 0
        self._lost: list[str] = []

    @property
    def done(self) -> bool:
        """Whether the training has finished."""
        self.look()
        return any(
            event["kind"] == "attempt_ended" and event["verdict"]["status"] == "done"
            for event in self.events[-50:]
        )

    @property
    def step(self) -> int:
        """The last step that was trained."""
        return self.lines[-1]["step"] if self.lines else 0

    @property
    def attempt(self) -> int:
        """The attempt that trained it."""
        return self.lines[-1]["attempt"] if self.lines else 0

    def look(self) -> None:
        """Reads what is new; asks Slurm now and then, and revives what only a person can."""
        self.lines += [line for line in self._metrics.new_lines() if line["kind"] == "train"]
        self.events += self._events.new_lines()
        now = time.monotonic()
        if now - self._asked_at < _QUEUE_POLL_S:
            return
        state = self.cluster.job(self._current_job())["JobState"]
        if state not in _ALLOCATED and self.lines:
            self.queued_s += now - self._asked_at
        self._asked_at = now
        self._over_since = (self._over_since or now) if state in _OVER else None
        if self._over_since is not None and now - self._over_since > _SURELY_OVER_S:
            self._start_by_hand()

    def _start_by_hand(self) -> None:
        """Submits the run again, as a person does who finds it dead."""
        self.events += self._events.new_lines()
        if not self._has_ended():
            self.job_id, self._over_since = self.cluster.submit(self.run.script), None
            self.by_hand += 1

    def wait_for(self, predicate: Callable[[], bool], what: str) -> None:
        """Looks until something is so.

        Raises:
            TimeoutError: it is not, for too long.
            RuntimeError: the run has stopped for good.
        """
        deadline = time.monotonic() + self.timeout_s
        while not predicate():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {self.timeout_s:g} s for {what} in {self.run.path}")
            if self._has_stopped():
                raise RuntimeError(f"{self.run.path} stopped: {self.events[-1]}")
            time.sleep(_POLL_S)
            self.look()

    def carry_out(self, kills: Sequence[Kill], gap_steps: float) -> list[Act]:
        """Carries out all kills, or as many as the training is long enough for."""
        acts: list[Act] = []
        for kill, following in zip(kills, [*kills[1:], None], strict=True):
            self._wait_for_moment(kill, gap_steps)
            during = kill.moment == "save" and self._wait_for_save()
            if self.done:
                break
            acts.append(self._strike(kill, during))
            if following is None or following.moment != "start":
                self._wait_for_new_step(acts[-1])
        return acts

    def _wait_for_moment(self, kill: Kill, gap_steps: float) -> None:
        if kill.moment == "start":
            self.wait_for(
                lambda: self.done or self._starts()[-1]["attempt"] > self._struck_attempt,
                "the attempt that the last kill led to",
            )
            time.sleep(kill.delay * _START_S)
        else:
            until = self.step + max(1, round(kill.gap * gap_steps))
            self.wait_for(lambda: self.done or self.step >= until, f"step {until}")

    def _strike(self, kill: Kill, during_save: bool) -> Act:
        victim = None
        if kill.who in ("rank", "agent", "broker"):
            self.wait_for(lambda: bool(victims(self.run.path, kill.who)), f"a {kill.who} to kill")
            found = victims(self.run.path, kill.who)
            victim = found[min(len(found) - 1, int(kill.victim * len(found)))]
        self.look()
        attempt = self._starts()[-1]["attempt"]
        act = Act(
            kill.number, kill.way, CLASS[kill.way], kill.moment, _name(victim) or kill.signal,
            attempt, self.step, time.time(), during_save,
        )  # fmt: skip
        self._struck_attempt = attempt
        if victim is not None:
            os.kill(victim.pid, getattr(signal, kill.signal))
        elif kill.who == "job":
            words = ["-p", "high", f"-N{_nodes(self.cluster)}", "--exclusive", "-o", "/dev/null"]
            self.cluster.run("sbatch", *words, "--wrap", "true")
        else:
            act.victim = self._lose_node(kill)
        return act

    def _lose_node(self, kill: Kill) -> str:
        """Power loss of one of the job's nodes; it is switched on again once the run goes on."""
        hosts = self._starts()[-1]["nodes"]
        host = hosts[min(len(hosts) - 1, int(kill.victim * len(hosts)))]
        self.cluster.node("kill", host)
        self._lost.append(host)
        return str(host)

    def _wait_for_new_step(self, act: Act) -> None:
        queued_s, seen = self.queued_s, len(self.lines)

        def moved_on() -> bool:
            return self.done or any(line["attempt"] > act.attempt for line in self.lines[seen:])

        self.wait_for(moved_on, f"a new step after kill {act.number}, {act.way}")
        new = next((line for line in self.lines[seen:] if line["attempt"] > act.attempt), None)
        act.queued_s = self.queued_s - queued_s
        if new is not None:
            act.down_s = max(0.0, new["time"] - act.time - act.queued_s - new["step_s"])
        while self._lost:
            self.cluster.node("start", self._lost.pop())

    def _wait_for_save(self) -> bool:
        """Waits until a save is in flight: something lies in the attempt's staging directory."""
        deadline = time.monotonic() + _SAVE_WITHIN_S
        while time.monotonic() < deadline and not self.done:
            staging = staging_dir(self.run.checkpoints, self.attempt)
            for _ in range(100):
                if any(staging.glob("step-*/*")):
                    return True
                time.sleep(_SAVE_POLL_S)
        return False

    def _starts(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == "attempt_started"]

    def _current_job(self) -> str:
        """The job that goes on with the run: a follow-up has a number of its own."""
        following = [e["job_id"] for e in self.events[-200:] if e["kind"] == "follow_up"]
        return max([self.job_id, *following], key=int)

    def _has_ended(self) -> bool:
        return self._has_stopped() or any(
            event["kind"] == "attempt_ended" and event["verdict"]["status"] == "done"
            for event in self.events[-50:]
        )

    def _has_stopped(self) -> bool:
        ends = [event for event in self.events[-50:] if event["kind"] == "attempt_ended"]
        return bool(ends) and ends[-1]["decision"]["kind"] == "stop"


def start_training(
    cluster: SlurmCluster, words: Sequence[str], run: RunDir, timeout_s: float
) -> Training:
    """Submits a run as a user does.

    Raises:
        RuntimeError: it was refused.
    """
    answer = submit(words, run.path.parent, env=cluster.env)
    if answer.returncode != 0:
        raise RuntimeError(answer.stderr)
    job_id = answer.stdout.partition("Slurm job ")[2].split()[0]
    return Training(cluster, run, job_id, timeout_s)


def _nodes(cluster: SlurmCluster) -> int:
    return sum(not state.startswith("down") for state in cluster.node_states().values())


def _name(victim: Victim | None) -> str | None:
    return f"{victim.who} {victim.number} on {victim.node}" if victim is not None else None
