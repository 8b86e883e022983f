"""How figures are written: one place, so that a number looks the same on every page.

What is not known (None, or no number) is written as ``unknown``, never as zero.
"""

import datetime as dt
import math
from typing import Any

from planner.prediction import GIB

UNKNOWN = "unknown"


def known(value: Any) -> float | None:  # noqa: ANN401 - a number, a numpy scalar or None
    """The value as a plain number; None where there is none.

    >>> known(2), known(None), known(float("nan"))
    (2.0, None, None)
    """
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def figure(value: Any) -> str:  # noqa: ANN401
    """A bare number with about three digits that count.

    >>> [figure(x) for x in (0.0123, 0.5, 9.0, 38.14, 99.96, 28800.0, 4, None)]
    ['0.012', '0.5', '9.0', '38.1', '100', '28,800', '4', 'unknown']
    """
    number = known(value)
    if number is None:
        return UNKNOWN
    size = abs(number)
    if size >= 99.95 or isinstance(value, int) or number == 0:
        return f"{number:,.0f}"
    if size >= 1:
        return f"{number:.1f}"
    return f"{number:.2g}" if size >= 0.001 else f"{number:.0e}"


def hours(value: Any) -> str:  # noqa: ANN401
    """A duration given in hours, in the unit that reads best.

    >>> [hours(x) for x in (0.005, 0.4, 3.21, 24.0, 52.3, 360.0, None)]
    ['18 s', '24 min', '3.2 h', '24 h', '2 d 4 h', '15 d', 'unknown']
    """
    number = known(value)
    if number is None:
        return UNKNOWN
    if number * 3600 < 59.5:
        return f"{number * 3600:.0f} s"
    if number * 60 < 59.5:
        return f"{number * 60:.0f} min"
    if number < 47.95:
        return f"{number:.0f} h" if number == round(number) else f"{number:.1f} h"
    days, rest = divmod(round(number), 24)
    return f"{days:,} d {rest} h" if rest else f"{days:,} d"


def amount(value: Any) -> str:  # noqa: ANN401
    """Money without its currency: cents below a hundred, none above.

    >>> [amount(x) for x in (0.0, 0.004, 5.5, 99.999, 209.83, 19872.0, None)]
    ['0.00', 'under 0.01', '5.50', '100', '210', '19,872', 'unknown']
    """
    number = known(value)
    if number is None:
        return UNKNOWN
    if 0 < number < 0.01:
        return "under 0.01"
    return f"{number:,.0f}" if abs(number) >= 99.995 else f"{number:.2f}"


def money(value: Any, currency: str) -> str:  # noqa: ANN401
    """Money with its currency in front.

    >>> money(19872.0, "USD"), money(None, "USD")
    ('USD 19,872', 'unknown')
    """
    text = amount(value)
    return text if text == UNKNOWN else f"{currency} {text}"


def price(value: Any, currency: str) -> str:  # noqa: ANN401
    """The price of a card and hour: at least two decimals, three where the third counts.

    >>> price(0.138, "USD"), price(2.79, "USD"), price(None, "USD")
    ('USD 0.138', 'USD 2.79', 'unknown')
    """
    number = known(value)
    if number is None:
        return UNKNOWN
    text = f"{number:,.3f}"
    return f"{currency} {text.removesuffix('0')}"


def gib(value: Any) -> str:  # noqa: ANN401
    """Bytes as GiB.

    >>> gib(15.5 * 2**30), gib(0.25 * 2**30), gib(None)
    ('15.5 GiB', '0.25 GiB', 'unknown')
    """
    text = bare_gib(value)
    return text if text == UNKNOWN else f"{text} GiB"


def bare_gib(value: Any) -> str:  # noqa: ANN401
    """Bytes as GiB without the unit: a second decimal below one.

    >>> bare_gib(15.5 * 2**30), bare_gib(2**28), bare_gib(3000 * 2**30), bare_gib(1000)
    ('15.5', '0.25', '3,000', 'under 0.01')
    """
    number = known(value)
    if number is None:
        return UNKNOWN
    size = number / GIB
    if 0 < size < 0.005:
        return "under 0.01"
    if size >= 999.5:
        return f"{size:,.0f}"
    return f"{size:.2f}" if abs(size) < 0.995 else f"{size:.1f}"


def percent(share: Any) -> str:  # noqa: ANN401
    """A share as percent; a decimal where the whole number would hide that it is not all or none.

    >>> percent(0.874), percent(0.9984), percent(0.002), percent(1.0), percent(None)
    ('87 %', '99.8 %', '0.2 %', '100 %', 'unknown')
    """
    number = known(share)
    if number is None:
        return UNKNOWN
    value = 100 * number
    if 0 < value < 0.05:
        return "under 0.1 %"
    near_edge = 0 < value < 1 or 99 < value < 100
    return f"{value:.1f} %" if near_edge else f"{value:.0f} %"


def mass(kg: Any) -> str:  # noqa: ANN401
    """Kilograms, or tonnes from one tonne on.

    >>> mass(42.4), mass(4200), mass(None)
    ('42.4 kg', '4.2 t', 'unknown')
    """
    number = known(kg)
    if number is None:
        return UNKNOWN
    return f"{figure(number / 1000)} t" if number >= 1000 else f"{figure(number)} kg"


def energy(kwh: Any) -> str:  # noqa: ANN401
    """Kilowatt hours, or megawatt hours from ten on.

    >>> energy(106.2), energy(12960), energy(None)
    ('106 kWh', '13.0 MWh', 'unknown')
    """
    number = known(kwh)
    if number is None:
        return UNKNOWN
    return f"{number / 1000:.1f} MWh" if number >= 10_000 else f"{figure(number)} kWh"


def seconds(value: Any) -> str:  # noqa: ANN401
    """A duration given in seconds; milliseconds below one.

    >>> seconds(0.234), seconds(2.6), seconds(1800.0), seconds(None)
    ('234 ms', '2.6 s', '30 min', 'unknown')
    """
    number = known(value)
    if number is None:
        return UNKNOWN
    if 0 < number < 1:
        return f"{number * 1000:.0f} ms"
    return f"{figure(number)} s" if number < 59.5 else hours(number / 3600)


def plural(count: float, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "card"), plural(80, "card")
    ('1 card', '80 cards')
    """
    return f"{count:,.0f} {noun}" + ("" if count == 1 else "s")


def moment(text: str) -> str:
    """A time of ISO 8601 as people write it; anything else as it is.

    >>> moment("2026-11-22T19:11:32+00:00"), moment("2026-11-22T18:30:00Z"), moment("soon")
    ('2026-11-22 19:11 UTC', '2026-11-22 18:30 UTC', 'soon')
    """
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError:
        return one_line(text)
    if when.tzinfo is None:
        return one_line(text)
    return f"{when.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"


def one_line(text: object) -> str:
    r"""Text from outside as one line: whatever is not visible is spelt out.

    Names come from configurations; an escape sequence in one must not move a cursor, nor a
    direction mark turn what an approver reads.

    >>> one_line("a" + chr(27) + "[2J b" + chr(10) + "c" + chr(0x202e))
    'a\\x1b[2J b c\\u202e'
    """
    return visible(" ".join(str(text).split()))


def visible(text: str) -> str:
    """Spells out every letter that is not visible; a line break becomes a space."""
    return "".join(_letter(letter) for letter in text)


def _letter(letter: str) -> str:
    if letter.isprintable():
        return letter
    return " " if letter in "\n\t" else letter.encode("unicode_escape").decode("ascii")


def sentence(text: str) -> str:
    """The text with one full stop at its end.

    >>> sentence("it fits"), sentence("It fits.")
    ('it fits.', 'It fits.')
    """
    return text if text.endswith((".", "!", "?")) else f"{text}."
