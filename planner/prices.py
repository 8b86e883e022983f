"""Prices of card hours: the dated table of cards, or a site's own CSV."""

import csv
import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.cards import Card, card_of
from planner.errors import PlannerError

ON_DEMAND, PREEMPTIBLE = "on-demand", "preemptible"
_REQUIRED = ("gpu", "kind", "price_per_gpu_hour", "currency", "date", "source")
_OPTIONAL = ("partition", "account")


@dataclass(frozen=True, slots=True)
class Price:
    """What an hour of one card costs, and who says so."""

    per_gpu_hour: float
    currency: str
    source: str
    date: str


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One line of a price table."""

    gpu: str
    kind: str
    price: Price
    partition: str | None = None
    account: str | None = None


@dataclass(frozen=True, slots=True)
class PriceTable:
    """A site's own prices."""

    rows: tuple[PriceRow, ...]

    def price_of(
        self,
        card: Card,
        *,
        preemptible: bool = False,
        partition: str | None = None,
        account: str | None = None,
    ) -> Price | None:
        """The most specific line: one of the partition and account before one of neither."""
        kind = PREEMPTIBLE if preemptible else ON_DEMAND
        fitting = [
            row
            for row in self.rows
            if row.gpu == card.name
            and row.kind == kind
            and row.partition in (None, partition)
            and row.account in (None, account)
        ]
        if not fitting:
            return None
        best = max(fitting, key=lambda row: (row.account is not None) + (row.partition is not None))
        return best.price


def card_price(card: Card, *, preemptible: bool = False) -> Price | None:
    """The dated default of planner/data/gpus.csv, in USD; None where the table has none."""
    value = card.price_spot if preemptible else card.price_ondemand
    if value is None:
        return None
    return Price(value, "USD", card.price_source, card.price_date)


def read_prices(path: str | Path) -> PriceTable:
    """Reads a price table.

    Columns: gpu, kind (on-demand or preemptible), price_per_gpu_hour, currency, date
    (YYYY-MM-DD), source; and, where they matter, partition and account.

    Raises:
        PlannerError: the file cannot be read, a column is missing or unknown, or a price, kind,
            date or card is impossible; the message names the line.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            _check_columns(path, reader.fieldnames or ())
            rows = tuple(_row(f"{path}:{reader.line_num}", row) for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlannerError(f"{path}: cannot read the price table ({error})") from error
    if not rows:
        raise PlannerError(f"{path}: the price table has no lines; write one a card")
    return PriceTable(rows)


def _check_columns(path: str | Path, names: Sequence[str]) -> None:
    for name in _REQUIRED:
        if name not in names:
            raise PlannerError(f"{path}: column {name} is missing; needed: {', '.join(_REQUIRED)}")
    for name in names:
        if name not in (*_REQUIRED, *_OPTIONAL):
            known = ", ".join((*_REQUIRED, *_OPTIONAL))
            raise PlannerError(f"{path}: unknown column {name}; known: {known}")


def _row(where: str, row: Mapping[str, str | None]) -> PriceRow:
    text = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
    try:
        gpu = card_of(text["gpu"]).name
    except PlannerError as error:
        raise PlannerError(f"{where}: {error}") from error
    if text["kind"] not in (ON_DEMAND, PREEMPTIBLE):
        raise PlannerError(
            f"{where}: kind must be {ON_DEMAND} or {PREEMPTIBLE}, not {text['kind']!r}"
        )
    if not text["currency"]:
        raise PlannerError(f"{where}: currency is empty; write one such as EUR")
    price = Price(_price(where, text), text["currency"], text["source"], _date(where, text["date"]))
    return PriceRow(
        gpu, text["kind"], price, text.get("partition") or None, text.get("account") or None
    )


def _price(where: str, text: Mapping[str, str]) -> float:
    raw = text["price_per_gpu_hour"]
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise PlannerError(f"{where}: price_per_gpu_hour must be a number above 0, not {raw!r}")
    return value


def _date(where: str, raw: str) -> str:
    try:
        return dt.date.fromisoformat(raw).isoformat()
    except ValueError as error:
        raise PlannerError(f"{where}: date must be written YYYY-MM-DD, not {raw!r}") from error
