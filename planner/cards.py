"""Cards by name: memory, speed, links, power and dated prices.

The table is ``planner/data/gpus.csv``; it says for every figure where it comes from and, where
sources give a range, which end was taken. Peaks are dense, with fp32 accumulation: tables that
list two or four times as much mean sparsity or fp16 accumulation, which training does not use.
"""

import csv
import difflib
import functools
import re
from dataclasses import dataclass
from importlib.resources import files

from planner.errors import PlannerError

GIB = 1 << 30

_REMARK = re.compile(r"\(.*?\)|,.*|:\d+$")
_MAKER = re.compile(r"\b(nvidia|amd|geforce|tesla|quadro|instinct|gres|gpu|card)\b")
_MEMORY = re.compile(r"\b(\d+) ?(?:gib|gb|g)\b")


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of card; None where a figure is not known."""

    name: str
    memory_gib: float
    """As marketed."""
    usable_bytes: float
    """What a process can get: without the reserve of driver and error correction."""
    bf16_tflops: float | None
    """None where there are no bf16 tensor cores."""
    fp16_tflops: float
    fp32_tflops: float
    """Without tensor cores, as torch multiplies fp32 matrices unless told otherwise."""
    memory_gb_per_s: float
    peer_gb_per_s: float | None
    """One way, to the other cards of the node; None where they talk through the host."""
    host_gb_per_s: float
    """One way, card to host."""
    tdp_w: float | None
    measured_matmul_tflops: float | None
    """The best that large bf16 (fp16) matrix products reach."""
    price_ondemand: float | None
    """USD a card and hour."""
    price_spot: float | None
    price_source: str
    price_date: str

    @property
    def has_bf16(self) -> bool:
        """Whether tensor cores multiply bf16; V100 and T4 need fp16 and loss scaling."""
        return self.bf16_tflops is not None

    @property
    def half_tflops(self) -> float:
        """The peak in two-byte types."""
        return self.fp16_tflops if self.bf16_tflops is None else self.bf16_tflops


def card_of(name: str) -> Card:
    """Finds a card by any usual spelling; case, punctuation and remarks do not matter.

    >>> card_of("a100_80gb").name, card_of("RTX 4090 (PCIe4 x16, no NVLink)").name
    ('A100-SXM4-80GB', 'RTX 4090')

    Raises:
        PlannerError: an unknown card; the message names the nearest ones.
    """
    known = _spellings()
    spelling, memory = _plain(name)
    exact = known.get(spelling + memory)
    if exact is None and spelling in known:
        # The memory may be said where only one size exists, but it must be the right one.
        bare = _cards()[known[spelling]]
        exact = bare.name if memory == f"{bare.memory_gib:g}" else None
    if exact is not None:
        return _cards()[exact]
    near = difflib.get_close_matches(spelling + memory, known, n=4, cutoff=0.5)
    names = list(dict.fromkeys(known[match] for match in near))[:2]
    hint = f"did you mean {' or '.join(names)}?" if names else f"known: {', '.join(card_names())}"
    raise PlannerError(f"gpu: no card is called '{name}'; {hint}")


def assumed_card(name: str) -> bool:
    """Whether a name leaves open which of several cards is meant: plain ``a100`` is two sizes.

    >>> assumed_card("a100"), assumed_card("a100_40gb"), assumed_card("l40s")
    (True, False, False)
    """
    spelling, memory = _plain(name)
    if memory or name in _cards():
        return False
    made = re.compile(re.escape(spelling) + "((sxm|pcie|nvl).*)?")
    return len({size for bare, size in _sizes() if made.fullmatch(bare)}) > 1


def card_names() -> tuple[str, ...]:
    """All names, as the table spells them."""
    return tuple(_cards())


def _plain(name: str) -> tuple[str, str]:
    """Letters and digits of the name without remarks and makers; and the gigabytes it says."""
    words = re.sub(r"[\W_]+", " ", _REMARK.sub("", name.lower().strip()))
    words = _MAKER.sub("", words)
    memory = _MEMORY.search(words)
    bare = _MEMORY.sub("", words).replace(" ", "")
    return bare, memory.group(1) if memory else ""


@functools.cache
def _spellings() -> dict[str, str]:
    spellings: dict[str, str] = {}
    for row in _rows():
        for spelling in (row["gpu"], *filter(None, row["aliases"].split(";"))):
            spellings["".join(_plain(spelling))] = row["gpu"]
    return spellings


@functools.cache
def _sizes() -> frozenset[tuple[str, float]]:
    """Spellings without their memory, and the memory of the cards that are called so."""
    spellings = (
        (spelling, row)
        for row in _rows()
        for spelling in (row["gpu"], *filter(None, row["aliases"].split(";")))
    )
    return frozenset((_plain(name)[0], float(row["memory_gib"])) for name, row in spellings)


@functools.cache
def _cards() -> dict[str, Card]:
    return {row["gpu"]: _card(row) for row in _rows()}


@functools.cache
def _rows() -> tuple[dict[str, str], ...]:
    text = (files("planner") / "data" / "gpus.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def _card(row: dict[str, str]) -> Card:
    def maybe(column: str) -> float | None:
        return float(row[column]) if row[column] else None

    return Card(
        name=row["gpu"],
        memory_gib=float(row["memory_gib"]),
        usable_bytes=float(row["usable_gib"]) * GIB,
        bf16_tflops=maybe("bf16_tflops"),
        fp16_tflops=float(row["fp16_tflops"]),
        fp32_tflops=float(row["fp32_tflops"]),
        memory_gb_per_s=float(row["memory_gb_per_s"]),
        peer_gb_per_s=maybe("peer_gb_per_s"),
        host_gb_per_s=float(row["host_gb_per_s"]),
        tdp_w=maybe("tdp_w"),
        measured_matmul_tflops=maybe("measured_matmul_tflops"),
        price_ondemand=maybe("price_ondemand"),
        price_spot=maybe("price_spot"),
        price_source=row["price_source"],
        price_date=row["price_date"],
    )
