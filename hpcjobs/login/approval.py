"""Nothing is submitted that the budget's owner has not agreed to."""

import datetime as dt
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hpcjobs.login import spend
from hpcjobs.run.budget_config import Budget
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.schema import plain
from planner.approval import (
    Approval,
    SignedApproval,
    p95_gpu_hours,
    plan_hash,
    read_approval,
    record_path,
    uids_of,
    user_name,
)
from planner.errors import PlannerError
from planner.plan_hash import config_hash
from planner.site_budget import SITE_FILE, read_site_budget

if TYPE_CHECKING:
    from planner.plan import Ask, Plan

_CLOCK_SKEW = dt.timedelta(hours=1)
_FIELDS = "approvers self_approval approval_valid_days gpu_hours_total ledger approvals".split()
_LAYOUT = "micro_batch grad_accum grad_ckpt sharding offload gpus gpus_per_node gpu".split()


@dataclass(frozen=True, slots=True)
class Cleared:
    """A submission that the budget allows, and the hours that it takes."""

    budget: Budget
    """With the site's rules in force."""
    gpu_hours: float
    plan_hash: str
    approver: str | None
    """None where no approval is asked for."""

    def record(self) -> dict[str, Any]:
        """What the run's record says of it."""
        return {
            "project": self.budget.project,
            "gpu_hours_p95": self.gpu_hours,
            "plan_hash": self.plan_hash,
            "approver": self.approver,
        }


def refuse_unapproved(
    budget: Budget,
    experiment_hash: str,
    plan: "Plan | None" = None,
    ask: "Ask | None" = None,
    *,
    least_hours: float = 0.0,
    run: Path | None = None,
    now: dt.datetime | None = None,
    site_file: Path = SITE_FILE,
) -> Cleared | None:
    """Checks approval and limits of a submission; None where nothing is asked for.

    Args:
        budget: of the experiment; the site's file overrides it.
        experiment_hash: of the present configuration (``planner.plan_hash``).
        plan: the plan made at this submission, for limits where ``budget.plan`` names none.
        ask: the present question, to name the key that changed since the approval.
        least_hours: GPU-hours that are known otherwise; a plan that says less does not count.
        run: the run directory; what it has reserved before is not counted against it.
        now: the time; by default it is asked for.
        site_file: the site's rules.

    Raises:
        ConfigError: one line that says what is missing and who can mend it.
    """
    try:
        budget = with_site_rules(budget, site_file)
        cleared = _check(budget, experiment_hash, plan, ask, now or dt.datetime.now(tz=dt.UTC))
    except PlannerError as error:
        raise ConfigError(str(error)) from error
    if cleared is not None:
        cleared = replace(cleared, gpu_hours=max(cleared.gpu_hours, least_hours))
        _refuse_too_much(cleared, run)
    return cleared


def cleared_submission(
    experiment: Experiment, plan: "Plan | None", run: Path, site_file: Path = SITE_FILE
) -> Cleared | None:
    """Checks a submission as it stands; None where the budget asks for nothing.

    Args:
        experiment: what is about to be submitted.
        plan: made or taken by ``parallel=auto``; without one the layout is planned as it is.
        run: the run directory.
        site_file: the site's rules.

    Raises:
        ConfigError: see ``refuse_unapproved``.
        PlannerError: the site's file is wrong, or the experiment cannot be planned.
    """
    if not _asks(with_site_rules(experiment.budget, site_file)):
        return None
    present = config_hash(plain(experiment))
    own = _own_plan(experiment)
    made_here = plan is not None and experiment.budget.plan is None
    if not made_here or plan is None or plan.config_hash != present:
        plan = own
    return refuse_unapproved(
        experiment.budget,
        present,
        plan,
        None if own is None else own.ask,
        least_hours=_hours_of(own),
        run=run,
        site_file=site_file,
    )


def _own_plan(experiment: Experiment) -> "Plan | None":
    """What the planner says of the layout as it stands; None where no card is known.

    It looks at the data where they can be read, whatever the experiment says of their number.
    """
    if not (experiment.planner.cards or experiment.cluster.gpu_type):
        return None
    from hpcjobs.login.plan_question import plan_as_configured

    return plan_as_configured(
        replace(experiment, planner=replace(experiment.planner, read_data=True))
    )


def _hours_of(plan: "Plan | None") -> float:
    """Its GPU-hours at p95; 0 where they are not known."""
    try:
        return 0.0 if plan is None else p95_gpu_hours(plan)
    except PlannerError:
        return 0.0


def reserve_hours(cleared: Cleared | None, run: Path) -> None:
    """Takes the hours of a run out of its project's ledger, just before it is handed over.

    A second submission of the same run directory replaces its first reservation.

    Raises:
        ConfigError: another submission has taken the hours, or the ledger cannot be read.
    """
    if cleared is None or cleared.budget.ledger is None:
        return
    budget = cleared.budget
    entry = _entry(cleared, run)
    spend.reserve(Path(cleared.budget.ledger), ledger_owners(budget), entry, budget.gpu_hours_total)


def release_hours(cleared: Cleared | None, run: Path) -> None:
    """Gives the hours back where it is certain that nothing has run and nothing will."""
    if cleared is None or cleared.budget.ledger is None:
        return
    entry = _entry(cleared, run)
    spend.release(Path(cleared.budget.ledger), ledger_owners(cleared.budget), entry)


def _entry(cleared: Cleared, run: Path) -> spend.Entry:
    return spend.Entry(
        id=str(run.absolute()),
        project=cleared.budget.project or "",
        state="reserved",
        gpu_hours=cleared.gpu_hours,
        plan_hash=cleared.plan_hash,
        user=user_name(os.getuid()),
        time=round(time.time(), 3),
    )


def with_site_rules(budget: Budget, site_file: Path = SITE_FILE) -> Budget:
    """The budget with the site's rules in force; a run may only be stricter with itself.

    Raises:
        PlannerError: the site's file is wrong, or knows no such project.
        ConfigError: the rules contradict each other.
    """
    site = read_site_budget(site_file)
    if site is None:
        return budget
    rules = site.rules_of(budget.project)
    changes: dict[str, Any] = {
        name: getattr(rules, name) for name in _FIELDS if getattr(rules, name) is not None
    }
    if rules.approval == "required":
        changes = _strict(budget) | changes
    limits = [x for x in (rules.gpu_hours_limit, budget.gpu_hours_limit) if x is not None]
    changes["gpu_hours_limit"] = min(limits, default=None)
    return replace(budget, **changes)


def _strict(budget: Budget) -> dict[str, Any]:
    """What a site leaves out of its rule for approvals is strict, not the submitter's choice."""
    return {
        "approval": "required",
        "approvers": (),
        "self_approval": False,
        "approval_valid_days": min(budget.approval_valid_days, Budget().approval_valid_days),
    }


def ledger_owners(budget: Budget) -> frozenset[int]:
    """Users whose ledger is believed: root and approvers; oneself where one may approve oneself."""
    own = {os.getuid()} if budget.self_approval else set()
    return frozenset({0, *uids_of(budget.approvers), *own})


def _check(
    budget: Budget, experiment_hash: str, plan: "Plan | None", ask: "Ask | None", now: dt.datetime
) -> Cleared | None:
    if not _asks(budget):
        return None
    required = budget.approval == "required"
    approver = None
    if budget.plan is not None:
        plan = _read_plan(Path(budget.plan))
        _refuse_changed(plan, experiment_hash, ask)
    if required:
        if budget.plan is None or plan is None:
            raise ConfigError(
                "budget.approval=required, but no plan is given: make one with python -m planner, "
                "have it approved, and write budget.plan=FILE"
            )
        approver = _approver(budget, plan, now)
    if plan is None:
        raise ConfigError(
            "the budget has a limit, but the GPU-hours are unknown, since no card is named: write "
            "cluster.gpu_type=NAME, or budget.plan=FILE"
        )
    return Cleared(budget, p95_gpu_hours(plan), plan_hash(plan), approver)


def _asks(budget: Budget) -> bool:
    limits = (budget.gpu_hours_limit, budget.gpu_hours_total, budget.ledger)
    return budget.approval == "required" or any(limit is not None for limit in limits)


def _read_plan(path: Path) -> "Plan":
    from planner.plan_file import read_plan

    return read_plan(path)


def _refuse_changed(plan: "Plan", experiment_hash: str, ask: "Ask | None") -> None:
    if plan.config_hash == experiment_hash:
        return
    difference = None if ask is None else first_difference(_work(plan.ask), _work(ask))
    what = f": {difference}" if difference else ""
    raise ConfigError(
        f"the configuration has changed since the plan was made{what}; make a new plan and have "
        f"it approved, or take the change back"
    )


def _work(ask: "Ask") -> dict[str, Any]:
    """What is asked, without the layout: a plan was free to choose that."""
    workload = msgspec.to_builtins(ask.workload)
    kept = {name: value for name, value in workload.items() if name not in _LAYOUT}
    return {"global_batch": ask.global_batch, "workload": kept}


def first_difference(before: object, now: object) -> str | None:
    """Names the first value that differs, as words; None where nothing does."""
    return _difference(msgspec.to_builtins(before), msgspec.to_builtins(now), "")


def _difference(before: object, now: object, where: str) -> str | None:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            path = f"{where}.{key}" if where else str(key)
            found = _difference(before.get(key), now.get(key), path)
            if found:
                return found
        return None
    return None if before == now else f"{where} was {before!r} and is {now!r}"


def _approver(budget: Budget, plan: "Plan", now: dt.datetime) -> str:
    """Name of the user whose approval counts."""
    directory = Path(budget.approvals) if budget.approvals else None
    signed = read_approval(record_path(plan, Path(budget.plan or ""), directory))
    _refuse_wrong_user(budget, signed)
    _refuse_wrong_record(signed.approval, plan)
    _refuse_expired(budget, signed.approval, now)
    return signed.owner


def _refuse_wrong_user(budget: Budget, signed: SignedApproval) -> None:
    if not budget.approvers:
        raise ConfigError("nobody may approve: write budget.approvers=[NAME,...]")
    if signed.owner_uid not in uids_of(budget.approvers):
        raise ConfigError(
            f"the approval belongs to {signed.owner}, who may not approve; it must come from "
            f"{' or '.join(budget.approvers)}"
        )
    if signed.owner_uid == os.getuid() and not budget.self_approval:
        raise ConfigError(
            f"{signed.owner} cannot approve the own plan: ask another of "
            f"{', '.join(budget.approvers)}, unless the site allows budget.self_approval=true"
        )


def _refuse_wrong_record(approval: Approval, plan: "Plan") -> None:
    if approval.decision != "approved":
        why = f": {approval.reason}" if approval.reason else ""
        raise ConfigError(f"{approval.approver} has rejected the plan{why}")
    if approval.plan_hash != plan_hash(plan):
        raise ConfigError("the plan has changed since it was approved: have it approved again")


def _refuse_expired(budget: Budget, approval: Approval, now: dt.datetime) -> None:
    try:
        decided = dt.datetime.fromisoformat(approval.decided)
        age = now - decided
    except (ValueError, TypeError):
        raise ConfigError(f"the approval has no date: {approval.decided!r}") from None
    if age < -_CLOCK_SKEW:
        raise ConfigError(f"the approval is of the future ({approval.decided}): look at the clocks")
    if age > dt.timedelta(days=budget.approval_valid_days):
        raise ConfigError(
            f"the approval of {approval.decided} has expired: it is good for "
            f"{budget.approval_valid_days:g} days; have the plan approved again"
        )


def _refuse_too_much(cleared: Cleared, run: Path | None) -> None:
    budget, hours = cleared.budget, cleared.gpu_hours
    if budget.gpu_hours_limit is not None and hours > budget.gpu_hours_limit:
        raise ConfigError(
            f"the plan's p95 of {hours:.4g} GPU-hours is above budget.gpu_hours_limit, "
            f"{budget.gpu_hours_limit:.4g}"
        )
    if budget.ledger is not None and run is not None:
        spend.refuse_beyond(
            Path(budget.ledger), ledger_owners(budget), _entry(cleared, run), budget.gpu_hours_total
        )
