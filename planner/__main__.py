"""The door: ``python -m planner`` plans an experiment; its first word may be another command."""

import importlib
import sys
from collections.abc import Callable, Sequence

from hpcjobs.login.door import run_door

# Loaded when they are called: a plan needs Hydra, an estimate does not.
_COMMANDS = {
    "estimate": ("planner.estimate_command", "estimate_lines"),
    "approve": ("planner.approve_command", "approve"),
    "calibrate": ("planner.calibrate_command", "calibrate"),
    "verify": ("hpcjobs.login.verify_command", "verify"),
}
_PLAN = ("hpcjobs.login.plan_command", "plan")


def main(argv: Sequence[str]) -> int:
    """Runs the command that the first word names, and returns its exit code."""
    first = argv[0] if argv else ""
    module, name = _COMMANDS.get(first, _PLAN)
    command: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), name)
    return command(argv[1:] if first in _COMMANDS else argv)


if __name__ == "__main__":
    sys.exit(run_door(main))
