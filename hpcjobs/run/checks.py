"""Range checks that configuration classes share."""

from __future__ import annotations

import math
import re

from hpcjobs.run.errors import ConfigError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def at_least(name: str, value: float | None, low: float) -> None:
    """Refuses a value below ``low``, and infinity; None passes."""
    _finite(name, value)
    if value is not None and not value >= low:
        raise ConfigError(f"{name} must be at least {low}, not {value}")


def above(name: str, value: float | None, low: float) -> None:
    """Refuses a value that is not greater than ``low``, and infinity; None passes."""
    _finite(name, value)
    if value is not None and not value > low:
        raise ConfigError(f"{name} must be greater than {low}, not {value}")


def below(name: str, value: float, high: float) -> None:
    """Refuses a value that is not smaller than ``high``."""
    if not value < high:
        raise ConfigError(f"{name} must be less than {high}, not {value}")


def has_control_character(text: str) -> bool:
    """Whether a text holds a newline or another character that no line may hold."""
    return _CONTROL.search(text) is not None


def one_line(name: str, value: str | None) -> None:
    """Refuses control characters: a newline would end a ``#SBATCH`` line and start a command."""
    if value is not None and has_control_character(value):
        raise ConfigError(f"{name} holds a control character: {value!r}; write it on one line")


def _finite(name: str, value: float | None) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, not {value}")


def run_name(value: str) -> None:
    """Refuses names that are not safe as a directory, a job name and a shell word at once."""
    if not _RUN_NAME.fullmatch(value):
        raise ConfigError(
            f"name must be 1 to 64 of letters, digits, '.', '_' and '-', not starting with a sign: "
            f"{value!r}"
        )
