"""What a run may take from the budget, and who has to agree to it first."""

import re
from dataclasses import dataclass
from typing import Literal

from hpcjobs.run.checks import above, one_line
from hpcjobs.run.errors import ConfigError

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}\$?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits in GPU-hours, and the rule for approvals; docs/approval.md tells how they bind.

    A site's own file, where there is one, overrides what is written here.
    """

    approval: Literal["none", "required"] = "none"
    """``required``: nothing is submitted without an approved plan."""
    approvers: tuple[str, ...] = ()
    """Names of operating-system users whose approval counts."""
    self_approval: bool = False
    """Whether the one who submits may be the one who approves."""
    approval_valid_days: float = 30.0
    gpu_hours_limit: float | None = None
    """The most p95 GPU-hours that one run may take; null is no limit."""
    gpu_hours_total: float | None = None
    """GPU-hours of the whole project; null is no limit. Needs ``ledger``."""
    project: str | None = None
    """Whose hours these are, as the ledger names it."""
    ledger: str | None = None
    """File of JSON lines that all submissions of the project write their hours into. Needs
    ``project``."""
    plan: str | None = None
    """The approved plan, as ``python -m planner`` wrote it."""
    approvals: str | None = None
    """Directory that approvers write to; null looks beside the plan."""

    def __post_init__(self) -> None:
        """Checks ranges, and that a total has a ledger to be counted in."""
        for name in ("approval_valid_days", "gpu_hours_limit", "gpu_hours_total"):
            above(name, getattr(self, name), 0)
        for name in ("project", "ledger", "plan", "approvals"):
            one_line(name, getattr(self, name))
            if getattr(self, name) == "":
                raise ConfigError(f"{name} is empty: write a value, or null")
        for user in self.approvers:
            if not _USER.fullmatch(user):
                raise ConfigError(f"approvers: {user!r} is no name of a user")
        self._check_ledger()

    def _check_ledger(self) -> None:
        for name, need in (("gpu_hours_total", "ledger"), ("ledger", "project")):
            if getattr(self, name) is not None and getattr(self, need) is None:
                raise ConfigError(f"{name} needs {need}: write budget.{need}=VALUE")
