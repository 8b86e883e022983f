"""What a search must leave as it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers that the asker has fixed; None is free."""

    gpus: int | None = None
    gpus_per_node: int | None = None
    """Cards in use on every node."""
    nodes: int | None = None
    grad_accum: int | None = None

    @property
    def words(self) -> str:
        """What is fixed, for messages; empty where nothing is.

        >>> Limits(gpus=4, grad_accum=2).words
        'cards 4, accumulation 2'
        """
        names = {
            "gpus": "cards",
            "nodes": "nodes",
            "gpus_per_node": "cards a node",
            "grad_accum": "accumulation",
        }
        fixed = {name: getattr(self, name) for name in names}
        return ", ".join(f"{names[name]} {value}" for name, value in fixed.items() if value)
