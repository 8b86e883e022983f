"""One long run, event by event; what follows each end is decided by the broker's own rules."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.long_run.assumptions import DAY_S, Assumptions
from hpcjobs.node.retry import AttemptEnd, decide
from hpcjobs.run.verdict import Cause


@dataclass(slots=True)
class Account:
    """Where the time went, in seconds, and how often what happened."""

    seconds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)

    @property
    def wall_s(self) -> float:
        """From the first allocation to the last commit."""
        return sum(self.seconds.values())

    @property
    def allocated_s(self) -> float:
        """The same without the time in which no card was held."""
        return self.wall_s - self.seconds["queue"] - self.seconds["person"]


class _Stretch(NamedTuple):
    """What an attempt got done until it was interrupted."""

    trained_s: float
    committed_s: float
    """Of that, what a finished periodic save keeps."""
    stalled_s: float


@dataclass
class _Run:
    """A run under way."""

    world: Assumptions
    dice: random.Random
    account: Account = field(default_factory=Account)
    history: list[AttemptEnd] = field(default_factory=list)
    done_s: float = 0.0
    """Training that is safe in a checkpoint."""
    held_s: float = 0.0
    """Age of the allocation."""
    startup_s: float = 0.0
    node_is_ill: bool = False
    """The last crash was a node's fault, and the processes are started on it again."""


def simulate(world: Assumptions, seed: int) -> Account:
    """Plays one run to its end; the same seed gives the same run."""
    run = _Run(world, random.Random(seed), startup_s=world.restart_requeue_s)
    while True:
        before_s = run.done_s
        cause = _attempt(run)
        run.account.ends[cause] += 1
        if cause == "done":
            return run.account
        steps = (int(s / world.step_s) for s in (before_s, run.done_s))
        run.history.append(AttemptEnd(cause, None, *steps))
        _follow(run)


def _attempt(run: _Run) -> Cause:
    """One attempt: the look at the nodes, the start, training, and whatever ends it."""
    world, account = run.world, run.account
    account.seconds["restart"] += world.health_s
    if run.node_is_ill:
        return "node"  # the look has found it: nothing is started
    cause, after_s = _next_event(world, run.dice, run.held_s)
    account.seconds["restart"] += min(after_s, run.startup_s)
    left_s = world.training_days * DAY_S - run.done_s
    stretch = _stretch(world, min(max(0.0, after_s - run.startup_s), _time_for(world, left_s)))
    account.seconds["stall"] += stretch.stalled_s
    run.held_s += after_s
    if stretch.trained_s >= left_s - 1e-6:
        account.seconds["training"] += stretch.trained_s
        account.seconds["final_save"] += world.save_s
        return "done"
    kept_s = _kept(run, cause, stretch)
    account.seconds["training"] += kept_s
    account.seconds["lost_work"] += max(0.0, stretch.trained_s - kept_s)
    run.done_s += kept_s
    return cause


def _kept(run: _Run, cause: Cause, stretch: _Stretch) -> float:
    """How much of an interrupted stretch is kept: all of it where there is time to save."""
    world, account = run.world, run.account
    if cause == "crash":
        account.seconds["detect"] += world.detect_s
        run.node_is_ill = run.dice.random() < world.node_share
        return stretch.committed_s
    if stretch.trained_s == 0 or (cause == "preempted" and not world.notice):
        return stretch.committed_s
    account.seconds["final_save"] += world.save_s
    return stretch.trained_s + run.dice.random() * world.step_s  # the step under way


def _follow(run: _Run) -> None:
    """What the rules make of the history: again here, in another allocation, or after a person."""
    world, account = run.world, run.account
    decision = decide(run.history)
    account.seconds["backoff"] += decision.backoff_s
    run.startup_s = world.restart_in_place_s
    if decision.kind == "restart":
        return
    if decision.kind == "stop":
        account.ends["stopped"] += 1
        account.seconds["person"] += world.person_s
        run.history.clear()
    account.seconds["queue"] += run.dice.expovariate(1.0 / world.queue_s) if world.queue_s else 0.0
    run.startup_s, run.held_s, run.node_is_ill = world.restart_requeue_s, 0.0, False


def _next_event(world: Assumptions, dice: random.Random, held_s: float) -> tuple[Cause, float]:
    """What interrupts the attempt first, and after how many seconds of it."""
    first: tuple[Cause, float] = ("time_limit", world.time_limit_days * DAY_S - held_s)
    rates: tuple[tuple[Cause, float], ...] = (
        ("crash", world.failures_per_s),
        ("preempted", world.preemptions_per_s),
    )
    for cause, per_s in rates:
        after_s = dice.expovariate(per_s) if per_s else float("inf")
        if after_s < first[1]:
            first = (cause, after_s)
    return first


def _time_for(world: Assumptions, training_s: float) -> float:
    """How long an undisturbed stretch of training takes with its saves."""
    return training_s + int(training_s / world.interval_s) * world.stall_s


def _stretch(world: Assumptions, seconds: float) -> _Stretch:
    """Training in turn with saves: each is committed a while after its stall has begun."""
    cycle_s = world.interval_s + world.stall_s
    cycles, rest_s = divmod(seconds, cycle_s)
    trained_s = cycles * world.interval_s + min(rest_s, world.interval_s)
    stalled_s = cycles * world.stall_s + max(0.0, rest_s - world.interval_s)
    commits = max(0, int((seconds - world.interval_s - world.save_s) // cycle_s) + 1)
    return _Stretch(trained_s, commits * world.interval_s, stalled_s)
