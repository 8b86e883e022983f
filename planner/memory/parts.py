"""Bytes by component, and their sums."""

from typing import TypeAlias

from planner.layout import Quantity

Parts: TypeAlias = dict[str, Quantity]
"""Bytes by component."""


def joined(*several: Parts) -> Parts:
    """Adds components of the same name.

    >>> joined({"weights": 1.0}, {"weights": 2.0, "logits": 3.0})
    {'weights': 3.0, 'logits': 3.0}
    """
    total: Parts = {}
    for parts in several:
        for name, value in parts.items():
            total[name] = total[name] + value if name in total else value
    return total
