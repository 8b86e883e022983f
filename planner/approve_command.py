"""``python -m planner approve PLAN``: shows what a plan costs, asks, and signs."""

import argparse
import datetime as dt
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planner.approval import (
    APPROVAL_VERSION,
    Approval,
    p95_gpu_hours,
    plan_hash,
    record_path,
    uids_of,
    user_name,
    write_approval,
)
from planner.errors import PlannerError
from planner.plan import Plan
from planner.plan_file import read_plan
from planner.prediction import Cost
from planner.report.figures import UNKNOWN, money, price
from planner.site_budget import SITE_FILE, SiteBudget, read_site_budget

_EPILOG = """\
The approver is the operating-system user who runs this. The record goes beside the plan as
NAME.approval.json, or into a directory of the approvers (--to DIR, with budget.approvals=DIR at
the submission). It counts as long as it belongs to that user and the plan does not change.

exit codes: 0 written, 1 you said no, 2 wrong input
"""


_FITS = {
    True: "yes, at p95",
    False: "NO: the run does NOT fit into the memory of its cards",
    None: "unknown",
}
_SHA256 = re.compile("[0-9a-f]{64}")
_ROUNDING = 0.01


def approve(argv: Sequence[str]) -> int:
    """Shows a plan and writes the decision about it; returns the exit code.

    Raises:
        PlannerError: the plan cannot be read or approved, or nobody can be asked.
    """
    words = _parse(argv)
    path = Path(words.plan)
    plan = read_plan(path)
    hours = p95_gpu_hours(plan)
    refuse_nonsense(plan)
    refuse_stranger(os.getuid(), read_site_budget(SITE_FILE))
    decision = "approved" if words.reject is None else "rejected"
    sys.stdout.write("\n".join(summary(plan, path)) + "\n")
    if not words.yes and not _confirmed(decision):
        sys.stdout.write("nothing was written\n")
        return 1
    target = record_path(plan, path, words.to)
    write_approval(target, _approval(plan, hours, words.reject))
    sys.stdout.write(f"{decision} by {user_name(os.getuid())}: {target}\n")
    return 0


def summary(plan: Plan, path: Path) -> list[str]:
    """What an approver must have seen, as lines without control characters."""
    choice = plan.chosen
    if choice is None:
        raise PlannerError("the plan found nothing that fits: there is nothing to approve")
    prediction = choice.prediction
    cost, hours = prediction.cost, prediction.hours
    rows: list[tuple[str, object]] = [
        ("plan", f"{path}, made {plan.created}, file of {_owner(path)}"),
        ("model", _model(plan.ask.workload.model)),
        ("method", plan.ask.workload.method.kind),
        ("cards", f"{choice.gpus} x {choice.gpu} on {choice.nodes} node(s)"),
        ("layout", f"{choice.sharding}, micro batch {choice.micro_batch} x {choice.grad_accum}"),
        ("fits", _FITS[prediction.fits]),
    ]
    if hours is not None:
        rows.append(("hours", f"{hours.hours_p50:.4g} (p95 {hours.hours_p95:.4g})"))
    if cost is not None:
        rows += [
            ("GPU-hours", f"{cost.gpu_hours_p50:.4g} (p95 {cost.gpu_hours_p95:.4g})"),
            ("cost", _cost(cost)),
            ("price", f"{price(cost.price_per_gpu_hour, cost.currency)}, {_source(cost)}"),
        ]
    rows += [("calibration", plan.calibration), ("why", plan.why)]
    rows += [("assumption", text) for text in plan.assumptions]
    rows += [("plan hash", plan_hash(plan)), ("config hash", plan.config_hash)]
    return [f"{name:<12} {printable(str(value))}" for name, value in rows]


def printable(text: str) -> str:
    """Replaces what could repaint the approver's terminal: the plan is a stranger's text.

    >>> printable("8 cards" + chr(27) + "[2K1 card" + chr(0x202E))
    '8 cards?[2K1 card?'
    """
    return "".join(character if character.isprintable() else "?" for character in text)


def refuse_nonsense(plan: Plan) -> None:
    """Refuses a plan of no experiment, and figures that contradict each other.

    Raises:
        PlannerError: says what is wrong with the plan.
    """
    again = "make the plan again with python -m planner +experiment=NAME plan=FILE"
    if not _SHA256.fullmatch(plan.config_hash):
        raise PlannerError(
            f"the plan is of no experiment that can be submitted: its config_hash "
            f"{plan.config_hash[:80]!r} is no SHA-256; {again}"
        )
    choice = plan.chosen
    cost = choice.prediction.cost if choice else None
    hours = choice.prediction.hours if choice else None
    if choice is None or cost is None or hours is None:
        return
    if any(_known(value) < 0 for value in (cost.cost_p50, cost.cost_p95)):
        raise PlannerError(f"the plan's cost is below 0; {again}")
    pairs = ((cost.gpu_hours_p50, hours.hours_p50), (cost.gpu_hours_p95, hours.hours_p95))
    for said, wall in pairs:
        taken = choice.gpus * float(wall)
        if not math.isclose(float(said), taken, rel_tol=_ROUNDING):
            raise PlannerError(
                f"the plan says {float(said):.4g} GPU-hours, but {choice.gpus} cards for "
                f"{float(wall):.4g} h are {taken:.4g}; {again}"
            )


def _known(value: Any) -> float:  # noqa: ANN401 - None where no price is known
    return 0.0 if value is None or math.isnan(value) else float(value)


def refuse_stranger(uid: int, site: SiteBudget | None) -> None:
    """Refuses a user whose approval the site would not accept anywhere.

    Raises:
        PlannerError: names those who may.
    """
    if site is None:
        return
    lists = [rules.approvers for rules in (site, *site.projects.values()) if rules.approvers]
    names = tuple(sorted({name for approvers in lists for name in approvers}))
    if names and uid not in uids_of(names):
        raise PlannerError(
            f"{user_name(uid)} may not approve here; {SITE_FILE} names {', '.join(names)}"
        )


def _approval(plan: Plan, hours: float, reason: str | None) -> Approval:
    cost = plan.chosen.prediction.cost if plan.chosen else None
    return Approval(
        version=APPROVAL_VERSION,
        decision="approved" if reason is None else "rejected",
        approver=user_name(os.getuid()),
        decided=dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        plan_hash=plan_hash(plan),
        config_hash=plan.config_hash,
        gpu_hours_p95=hours,
        cost_p95=_number(cost and cost.cost_p95),
        currency=None if cost is None else cost.currency,
        reason=reason,
    )


def _confirmed(decision: str) -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise PlannerError("nobody can be asked here: look at the plan, then add --yes")
    word = "Approve" if decision == "approved" else "Reject"
    sys.stdout.write(f"{word} this as {user_name(os.getuid())}? Type yes: ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() == "yes"


def _owner(path: Path) -> str:
    try:
        return user_name(path.stat().st_uid)
    except OSError:
        return "unknown"


def _model(model: object) -> str:
    return model if isinstance(model, str) else "given by its config.json"


def _cost(cost: Cost) -> str:
    median, tail = money(cost.cost_p50, cost.currency), money(cost.cost_p95, cost.currency)
    return UNKNOWN if UNKNOWN in (median, tail) else f"{median} (p95 {tail})"


def _number(value: Any) -> float | None:  # noqa: ANN401
    return None if value is None or math.isnan(value) else float(value)


def _source(cost: Cost) -> str:
    return f"{cost.price_source}, {cost.price_date}" if cost.price_source else "no source"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:  # noqa: ANN401 - never returns
        raise PlannerError(f"{message}; python -m planner approve --help shows what there is")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m planner approve",
        description="Approve a plan, or reject it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("plan", metavar="PLAN.json")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--reject", metavar="REASON", help="withdraw or refuse, and say why")
    parser.add_argument("--to", metavar="DIR", type=Path, help="directory of the approvers")
    return parser.parse_args(argv)
