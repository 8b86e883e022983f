"""How many samples a data file has and how long they are, without reading all of a large one."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_WHOLE_BYTES = 2 << 20
"""Files up to this size are decoded whole."""
_COUNTED_BYTES = 64 << 20
"""In files up to this size every sample is counted."""
_PROBES = 16
_PROBE_BYTES = 64 << 10
"""Larger ones are read at this many places: data sets are often several in a row."""
_BEGIN = re.compile(r'\{\s*"(?:id|image|conversations)"\s*:')
_MARK = b'"conversations"'
"""Every sample has this key once."""
_CHARACTERS_A_TOKEN = 4.0
"""Of English in vocabularies of 32,000 and more (OpenAI's and Google's documentation say 4)."""
_TEMPLATE_TOKENS = 11
"""Gemma's words around one question and its answer; docs/data.md shows the template."""
_VALUES = 32
"""Lengths are grouped into so many values of equal share."""


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """What a data file says about a run's length."""

    samples: int
    is_exact: bool
    """False where the number was extrapolated from parts of the file."""
    is_whole: bool
    """Whether every sample was looked at."""
    characters: tuple[int, ...]
    """Characters of all turns, of the samples that were looked at."""
    turns: tuple[int, ...]
    """Pairs of question and answer in each."""
    with_picture: tuple[bool, ...]

    @property
    def picture_share(self) -> float:
        """Share of samples with a picture."""
        return sum(self.with_picture) / len(self.with_picture)

    def lengths(self, picture_tokens: int, longest: int) -> tuple[tuple[int, ...], list[float]]:
        """Tokens a sample, estimated from the characters, with the share of each length.

        Samples that were not looked at may be longer: the longest possible gets the share that
        one more sample would have.
        """
        every = sorted(
            min(longest, max(1, round(self._tokens(i, picture_tokens))))
            for i in range(len(self.characters))
        )
        values = _quantiles(every)
        if self.is_whole:
            values[-1] = every[-1]
            return tuple(values), [1 / len(values)] * len(values)
        rest = 1.0 / (len(every) + 1)
        return (*values, longest), [(1 - rest) / len(values)] * len(values) + [rest]

    def _tokens(self, index: int, picture_tokens: int) -> float:
        text = self.characters[index] / _CHARACTERS_A_TOKEN
        template = 1 + _TEMPLATE_TOKENS * self.turns[index]
        return text + template + (picture_tokens if self.with_picture[index] else 0)


def _quantiles(every: Sequence[int]) -> list[int]:
    """The middle of each of ``_VALUES`` equal shares of a sorted list."""
    count = min(_VALUES, len(every))
    return [every[(2 * i + 1) * len(every) // (2 * count)] for i in range(count)]


def sample_facts(path: Path) -> SampleFacts | None:
    """Looks at a JSON list of conversations; None where the file is missing or is none."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= _WHOLE_BYTES:
                return _facts_of_all(file.read())
            count, is_exact = _count(file, size)
            probes = [_probe(file, size, i).decode("utf-8", "replace") for i in range(_PROBES)]
    except (OSError, ValueError, RecursionError):
        return None
    items = [item for probe in probes for item in _whole_items(probe)]
    return _facts(items, count, is_exact=is_exact, is_whole=False) if items and count else None


def _facts_of_all(content: bytes) -> SampleFacts | None:
    raw = json.loads(content)
    items = [item for item in raw if _is_sample(item)] if isinstance(raw, list) else []
    return _facts(items, len(raw), is_exact=True, is_whole=True) if items else None


def _count(file: BinaryIO, size: int) -> tuple[int, bool]:
    """Samples of a file, and whether all of it was looked at."""
    if size <= _COUNTED_BYTES:
        return file.read().count(_MARK), True
    found = sum(_probe(file, size, i).count(_MARK) for i in range(_PROBES))
    return round(size * found / (_PROBES * _PROBE_BYTES)), False


def _probe(file: BinaryIO, size: int, number: int) -> bytes:
    """One of ``_PROBES`` parts at equal distances."""
    file.seek(number * (size - _PROBE_BYTES) // (_PROBES - 1))
    return file.read(_PROBE_BYTES)


def _whole_items(probe: str) -> Iterator[dict[str, Any]]:
    """The samples that lie whole in a part of a file."""
    decoder = json.JSONDecoder()
    begin = _BEGIN.search(probe)
    while begin:
        try:
            item, end = decoder.raw_decode(probe, begin.start())
        except (ValueError, RecursionError):
            return  # cut off by the end of the part
        if _is_sample(item):
            yield item
        begin = _BEGIN.search(probe, end)


def _is_sample(item: object) -> bool:
    turns = item.get("conversations") if isinstance(item, dict) else None
    return isinstance(turns, list) and bool(turns) and all(isinstance(t, dict) for t in turns)


def _facts(
    items: Sequence[dict[str, Any]], samples: int, *, is_exact: bool, is_whole: bool
) -> SampleFacts:
    return SampleFacts(
        samples=samples,
        is_exact=is_exact,
        is_whole=is_whole,
        characters=tuple(
            sum(len(str(turn.get("value", ""))) for turn in item["conversations"]) for item in items
        ),
        turns=tuple(-(-len(item["conversations"]) // 2) for item in items),
        with_picture=tuple(bool(item.get("image")) for item in items),
    )
