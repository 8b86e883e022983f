"""Finds a run's processes on this machine, where all nodes of the test cluster live."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.soaking.plan import Who


@dataclass(frozen=True, slots=True)
class Victim:
    """A process of a run."""

    who: Who
    number: int
    """Rank, or the node's number; 0 for the broker."""
    node: str
    pid: int


def victims(run: Path, who: Who) -> list[Victim]:
    """The run's processes of one sort: main processes only, no loader workers and helpers."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            victim = _victim(entry, run, who)
        except (OSError, ValueError, IndexError):
            continue  # it has ended while it was looked at
        if victim is not None:
            found.append(victim)
    return sorted(found, key=lambda victim: victim.number)


def _victim(process: Path, run: Path, who: Who) -> Victim | None:
    words = _words(process)
    if str(run) not in words or _role(words) != who:
        return None
    parent = Path("/proc") / _parent(process)
    parents_role = _role(_words(parent))
    if who == "rank" and parents_role != "agent":
        return None
    if who != "rank" and parents_role == who:
        return None
    environment = dict(
        item.split("=", 1)
        for item in (process / "environ").read_text(errors="replace").split("\0")
        if "=" in item
    )
    name = {"rank": "RANK", "agent": "SLURM_NODEID"}.get(who)
    number = int(environment[name]) if name in environment else 0
    return Victim(who, number, environment.get("SLURMD_NODENAME", ""), int(process.name))


def _role(words: list[str]) -> str | None:
    if "--attempt" in words:
        return "rank"
    if any(word.endswith("node.pyz") for word in words):
        return next((role for role in ("agent", "broker") if role in words), None)
    return None


def _words(process: Path) -> list[str]:
    return (process / "cmdline").read_text(errors="replace").split("\0")


def _parent(process: Path) -> str:
    return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
