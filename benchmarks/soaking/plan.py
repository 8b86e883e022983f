"""Which kills come when: seeded, so that a report can be played again."""

import random
from dataclasses import dataclass
from typing import Literal

Who = Literal["rank", "agent", "broker", "job", "node"]
Moment = Literal["training", "save", "start"]

SHORTEST_GAP, LONGEST_GAP = 0.25, 3.0
SHARE_OF_SAVES = 0.3
"""So many of the kills wait for a save in flight."""
SHARE_OF_STARTS = 0.05
"""So many come while the processes start."""

WAYS: dict[str, tuple[int, Who, str]] = {
    "rank KILL": (30, "rank", "SIGKILL"),
    "rank TERM": (12, "rank", "SIGTERM"),
    "rank USR2": (12, "rank", "SIGUSR2"),
    "agent KILL": (12, "agent", "SIGKILL"),
    "agent TERM": (6, "agent", "SIGTERM"),
    "agent USR2": (6, "agent", "SIGUSR2"),
    "broker TERM": (4, "broker", "SIGTERM"),
    "broker USR2": (4, "broker", "SIGUSR2"),
    "broker KILL": (3, "broker", "SIGKILL"),
    "preemption": (9, "job", "preemption"),
    "node loss": (2, "node", "power loss"),
}
"""Weight, victim, signal. After ``broker KILL`` nobody is left who could ask for a requeue: the
run is submitted again by hand, as the report says."""
SHORT = ("rank KILL", "rank USR2", "agent KILL", "rank TERM", "preemption", "rank KILL")
"""One of each sort that needs neither a lost node nor a hand."""

CLASS: dict[str, str] = {
    "rank KILL": "crash in place",
    "agent KILL": "crash in place",
    "rank TERM": "stop in place",
    "rank USR2": "stop in place",
    "agent TERM": "stop in place",
    "agent USR2": "stop in place",
    "broker TERM": "requeue",
    "broker USR2": "requeue",
    "preemption": "requeue",
    "broker KILL": "by hand",
    "node loss": "node loss",
}
"""What follows, and so what it costs."""
ABRUPT = ("crash in place", "by hand", "node loss")
"""Classes that may lose the work since the last checkpoint."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One planned kill."""

    number: int
    way: str
    moment: Moment
    gap: float
    """Training since the last new step, in mean gaps."""
    victim: float
    """Chooses among the victims that there are, from 0 to 1."""
    delay: float
    """Chooses the instant within the moment, from 0 to 1."""

    @property
    def who(self) -> Who:
        """What is killed."""
        return WAYS[self.way][1]

    @property
    def signal(self) -> str:
        """How."""
        return WAYS[self.way][2]


def plan_kills(count: int, seed: int) -> list[Kill]:
    """Draws kills; never two in a row during a start, so that each meets a run that moves on."""
    dice = random.Random(seed)
    ways, weights = list(WAYS), [weight for weight, *_ in WAYS.values()]
    kills: list[Kill] = []
    for number in range(1, count + 1):
        way = dice.choices(ways, weights)[0]
        kills.append(_kill(dice, number, way, _moment(dice, way, kills)))
    return kills


def short_plan(seed: int) -> list[Kill]:
    """A few kills, one of each common sort, half of them during saves."""
    dice = random.Random(seed)
    moments: tuple[Moment, ...] = ("save", "training")
    return [
        _kill(dice, number, way, moments[number % 2]) for number, way in enumerate(SHORT, start=1)
    ]


def classes(kills: list[Kill]) -> dict[str, float]:
    """The share of each class."""
    return {
        name: sum(CLASS[kill.way] == name for kill in kills) / len(kills)
        for name in sorted(set(CLASS.values()))
    }


def _kill(dice: random.Random, number: int, way: str, moment: Moment) -> Kill:
    gap = min(LONGEST_GAP, max(SHORTEST_GAP, dice.expovariate(1.0)))
    return Kill(number, way, moment, gap, dice.random(), dice.random())


def _moment(dice: random.Random, way: str, before: list[Kill]) -> Moment:
    drawn = dice.random()
    if drawn < SHARE_OF_SAVES:
        return "save"
    starts = WAYS[way][1] in ("rank", "agent") and before and before[-1].moment != "start"
    return "start" if starts and drawn < SHARE_OF_SAVES + SHARE_OF_STARTS else "training"
