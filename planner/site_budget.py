"""The site's own rules for budgets: a file of root's, so that no submitter can bend them."""

import os
import stat
from pathlib import Path
from typing import Literal

import msgspec

from planner.errors import PlannerError

SITE_FILE = Path("/etc/hpcjobs/budget.json")


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a site decides; null leaves it to the configuration of the run."""

    approval: Literal["none", "required"] | None = None
    approvers: tuple[str, ...] | None = None
    self_approval: bool | None = None
    approval_valid_days: float | None = None
    gpu_hours_limit: float | None = None
    gpu_hours_total: float | None = None
    ledger: str | None = None
    approvals: str | None = None


class SiteBudget(Rules, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules for everyone, and what differs for a project."""

    projects: dict[str, Rules] = {}

    def rules_of(self, project: str | None) -> Rules:
        """The rules of one project.

        Raises:
            PlannerError: the site has projects, and this is none of them.
        """
        common = {name: getattr(self, name) for name in Rules.__struct_fields__}
        if not self.projects:
            return Rules(**common)
        if project not in self.projects:
            known = ", ".join(sorted(self.projects))
            said = "is not set" if project is None else f"{project} is not known here"
            raise PlannerError(f"budget.project {said}: write one of {known}")
        special = msgspec.structs.asdict(self.projects[project])
        return Rules(**(common | {name: v for name, v in special.items() if v is not None}))


def read_site_budget(path: Path = SITE_FILE) -> SiteBudget | None:
    """Reads the site's rules; None where the site has none.

    Raises:
        PlannerError: the file cannot be read, is wrong, or somebody else than root may write it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlannerError(f"cannot read the site's {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != 0 or writable:
            raise PlannerError(f"{path} must be a file of root that nobody else can write")
        try:
            return msgspec.json.decode(file.read(), type=SiteBudget)
        except msgspec.MsgspecError as error:
            raise PlannerError(f"{path}: {error}; tell the administrator") from error
