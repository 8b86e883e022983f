"""Nothing is submitted without an approval that only an approver can have made.

The users are real ones of this machine: the approver writes, the submitter tries.
"""

import datetime as dt
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from users import as_user

from hpcjobs.login.approval import first_difference, refuse_unapproved, with_site_rules
from hpcjobs.run.budget_config import Budget
from hpcjobs.run.errors import ConfigError
from planner.approve_command import approve
from planner.plan import Ask, CardOffer
from planner.plan_file import read_plan, write_plan
from planner.read_workload import read_workload
from planner.search.search import search
from planner.site_budget import read_site_budget

APPROVER, OTHER_APPROVER, SUBMITTER = "daemon", "bin", "games"
HASH = "c0ffee00" * 8
NOW = dt.datetime.now(tz=dt.UTC)

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs to be several users in turn")


@pytest.fixture(scope="module")
def ask():
    workload = {"model": "gemma-2b", "method": "lora", "seq_len": 1024, "samples": 10_000}
    offers = (CardOffer("A100-SXM4-80GB", 8, 8),)
    return Ask(workload=read_workload(workload), global_batch=128, offers=offers)


@pytest.fixture(scope="module")
def plan(ask):
    return search(ask, config_hash=HASH)


@pytest.fixture
def place(plan):
    """The submitter's directory with a plan, and the approvers' directory."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        for folder, user in (("mine", SUBMITTER), ("approvals", APPROVER)):
            (path / folder).mkdir()
            shutil.chown(path / folder, user)
        as_user(SUBMITTER, write_plan, plan, path / "mine" / "plan.json")
        (path / "mine" / "plan.json").chmod(0o644)
        yield path


def budget(place, **changes):
    fields = {
        "approval": "required",
        "approvers": (APPROVER, OTHER_APPROVER),
        "plan": str(place / "mine" / "plan.json"),
        "approvals": str(place / "approvals"),
    }
    return Budget(**(fields | changes))


def sign(place, user=APPROVER, *words):
    plan = str(place / "mine" / "plan.json")
    as_user(user, approve, [plan, "--yes", "--to", str(place / "approvals"), *words])
    return next((place / "approvals").iterdir())


def attempt(place, user=SUBMITTER, experiment_hash=HASH, now=NOW, **changes):
    """The check as the submitter's own process does it."""
    return as_user(user, check, budget(place, **changes), experiment_hash, now, place / "no-site")


def check(budget, experiment_hash, now, site_file):
    return refuse_unapproved(budget, experiment_hash, now=now, site_file=site_file)


def refused(place, words, **changes):
    with pytest.raises(ConfigError, match=words) as error:
        attempt(place, **changes)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_an_approved_plan_passes_and_says_who_approved_it(place, plan):
    sign(place)
    cleared = attempt(place)
    assert cleared.approver == APPROVER
    assert cleared.gpu_hours == pytest.approx(float(plan.chosen.prediction.cost.gpu_hours_p95))


def test_without_any_rule_nothing_is_asked(place):
    assert check(Budget(), HASH, NOW, place / "no-site") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan": None}, "no plan is given"),
        ({}, "not approved"),
        ({"plan": "/nowhere/plan.json"}, "cannot read /nowhere"),
        ({"experiment_hash": "other"}, "configuration has changed"),
    ],
)
def test_what_is_missing_is_named(place, changes, words):
    refused(place, words, **changes)


def test_a_plan_of_another_version_is_refused(place):
    path = place / "mine" / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 0}))
    refused(place, "version 0")


def test_an_approval_of_somebody_else_does_not_count(place):
    sign(place)
    refused(place, f"belongs to {APPROVER}, who may not approve", approvers=(OTHER_APPROVER,))
    refused(place, "nobody may approve", approvers=())
    refused(place, "may not approve", approvers=("no-such-user-here",))


def test_nobody_approves_the_own_plan_unless_the_configuration_says_so(place):
    sign(place)
    refused(place, "cannot approve the own plan", user=APPROVER)
    assert attempt(place, user=APPROVER, self_approval=True).approver == APPROVER


def test_a_rejection_stops_the_submission_with_its_reason(place):
    sign(place, APPROVER, "--reject", "wait for the H100s")
    refused(place, "rejected the plan: wait for the H100s")


def test_an_approval_expires(place):
    sign(place)
    later = NOW + dt.timedelta(days=31)
    refused(place, "expired", now=later)
    assert attempt(place, now=later, approval_valid_days=60).approver == APPROVER
    refused(place, "future", now=NOW - dt.timedelta(days=2))


def test_hours_above_the_limit_are_refused(place, plan):
    hours = float(plan.chosen.prediction.cost.gpu_hours_p95)
    sign(place)
    refused(place, "above budget.gpu_hours_limit", gpu_hours_limit=0.9 * hours)
    assert attempt(place, gpu_hours_limit=1.1 * hours)


def test_a_limit_holds_without_an_approval_too(place, plan):
    hours = float(plan.chosen.prediction.cost.gpu_hours_p95)
    limited = Budget(gpu_hours_limit=0.9 * hours)
    with pytest.raises(ConfigError, match="above budget"):
        refuse_unapproved(limited, HASH, plan, site_file=place / "no-site")
    with pytest.raises(ConfigError, match="GPU-hours are unknown"):
        refuse_unapproved(limited, HASH, site_file=place / "no-site")


# What a submitter may try against the file system.


def test_a_plan_that_was_changed_after_the_approval_is_refused(place):
    record = sign(place)
    plan = place / "mine" / "plan.json"
    content = json.loads(plan.read_text())
    content["chosen"]["prediction"]["cost"]["gpu_hours_p95"] /= 2
    as_user(SUBMITTER, plan.write_text, json.dumps(content))
    # The name in the approvers' directory comes from the hash: there is none for this plan.
    refused(place, "not approved")
    copied = place / "mine" / "plan.approval.json"
    as_user(SUBMITTER, shutil.copy, record, copied)
    refused(place, f"belongs to {SUBMITTER}", approvals=None)
    os.link(record, copied.with_name("x"))
    copied.with_name("x").rename(copied)
    record.unlink()
    refused(place, "plan has changed since it was approved", approvals=None)


def forge(place, plan_path, approver):
    """The submitter's own record, which names the approver in every field."""
    from planner.approval import plan_hash

    plan = read_plan(plan_path)
    record = {
        "version": 1, "decision": "approved", "approver": approver,
        "decided": NOW.isoformat(), "plan_hash": plan_hash(plan), "config_hash": HASH,
        "gpu_hours_p95": 1.0, "cost_p95": 1.0, "currency": "USD", "reason": None,
    }  # fmt: skip
    path = plan_path.with_name("plan.approval.json")
    path.write_text(json.dumps(record))
    return path


def test_a_forged_record_belongs_to_the_forger(place):
    as_user(SUBMITTER, forge, place, place / "mine" / "plan.json", APPROVER)
    refused(place, f"belongs to {SUBMITTER}, who may not approve", approvals=None)


def test_the_submitter_cannot_give_the_record_to_the_approver(place):
    path = as_user(SUBMITTER, forge, place, place / "mine" / "plan.json", APPROVER)
    with pytest.raises(PermissionError):
        as_user(SUBMITTER, shutil.chown, path, APPROVER)


def test_a_record_that_the_submitter_may_write_is_refused_even_if_the_approver_owns_it(place):
    path = forge(place, place / "mine" / "plan.json", APPROVER)
    shutil.chown(path, APPROVER)
    path.chmod(0o666)
    refused(place, "written by others", approvals=None)


def test_a_link_to_an_approvers_file_is_refused(place):
    record = sign(place)
    link = place / "mine" / "plan.approval.json"
    as_user(SUBMITTER, link.symlink_to, record)
    refused(place, "symbolic link", approvals=None)


def test_a_directory_that_all_may_write_protects_the_record_all_the_same(place):
    (place / "approvals").chmod(0o777)
    record = sign(place)
    assert attempt(place).approver == APPROVER
    forged = as_user(SUBMITTER, forge, place, place / "mine" / "plan.json", APPROVER)
    as_user(SUBMITTER, record.unlink)
    as_user(SUBMITTER, shutil.move, forged, record)
    refused(place, f"belongs to {SUBMITTER}")


def test_the_submitter_cannot_remove_the_rejection_from_the_approvers_directory(place):
    record = sign(place, APPROVER, "--reject", "no")
    with pytest.raises(PermissionError):
        as_user(SUBMITTER, record.unlink)


def test_the_environment_makes_nobody_an_approver(place, monkeypatch):
    for name in ("USER", "LOGNAME", "HOME", "SUDO_UID"):
        monkeypatch.setenv(name, APPROVER)
    as_user(SUBMITTER, forge, place, place / "mine" / "plan.json", APPROVER)
    refused(place, f"belongs to {SUBMITTER}", approvals=None)


# What changed, in words.


def test_the_first_change_since_the_approval_is_named(place, plan, ask):
    sign(place)
    changed = replace(ask, global_batch=256)
    with pytest.raises(ConfigError, match="global_batch was 128 and is 256"):
        refuse_unapproved(budget(place), "other", ask=changed, now=NOW, site_file=place / "no-site")
    assert first_difference(plan.ask, ask) is None


# The site's file.


def site(place, **rules):
    path = place / "budget.json"
    path.write_text(json.dumps(rules))
    path.chmod(0o644)
    return path


def test_the_site_decides_who_approves_whatever_the_submitter_writes(place):
    as_user(SUBMITTER, forge, place, place / "mine" / "plan.json", SUBMITTER)
    loose = budget(
        place, approval="none", approvers=(SUBMITTER,), self_approval=True, approvals=None
    )
    assert as_user(SUBMITTER, check, loose, HASH, NOW, place / "no-site") is None
    rules = site(
        place, approval="required", approvers=[APPROVER], self_approval=False,
        approvals=str(place / "approvals"),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="not approved"):
        as_user(SUBMITTER, check, loose, HASH, NOW, rules)
    sign(place)
    assert as_user(SUBMITTER, check, loose, HASH, NOW, rules).approver == APPROVER


def test_what_the_site_leaves_out_of_its_rule_is_not_the_submitters_choice(place):
    loose = Budget(approvers=(SUBMITTER,), self_approval=True, approval_valid_days=9999)
    strict = with_site_rules(loose, site(place, approval="required"))
    assert (strict.approvers, strict.self_approval, strict.approval_valid_days) == ((), False, 30)
    longer = site(place, approval="required", approval_valid_days=90.0, approvers=[APPROVER])
    assert with_site_rules(loose, longer).approval_valid_days == 90
    assert with_site_rules(loose, site(place, gpu_hours_limit=9.0)).approvers == (SUBMITTER,)


def test_a_run_may_be_stricter_than_its_site_but_not_looser(place):
    rules = site(place, gpu_hours_limit=100.0)
    assert with_site_rules(Budget(gpu_hours_limit=5.0), rules).gpu_hours_limit == 5.0
    assert with_site_rules(Budget(gpu_hours_limit=500.0), rules).gpu_hours_limit == 100.0
    assert with_site_rules(Budget(approval="required"), rules).approval == "required"


def test_a_project_has_rules_of_its_own(place):
    rules = site(
        place, approvers=[APPROVER],
        projects={"vlm": {"approvers": [OTHER_APPROVER], "gpu_hours_limit": 7.0}, "llm": {}},
    )  # fmt: skip
    assert with_site_rules(Budget(project="vlm"), rules).approvers == (OTHER_APPROVER,)
    assert with_site_rules(Budget(project="llm"), rules).approvers == (APPROVER,)
    for project, words in ((None, "is not set"), ("vln", "vln is not known here: write one of")):
        with pytest.raises(ConfigError, match=words):
            refuse_unapproved(Budget(project=project), HASH, site_file=rules)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: shutil.chown(path, SUBMITTER), "must be a file of root"),
        (lambda path: path.chmod(0o666), "must be a file of root"),
        (lambda path: (path.rename(f"{path}.x"), path.symlink_to(f"{path}.x")), "cannot read"),
        (lambda path: path.write_text('{"consent": "none"}'), "consent"),
        (lambda path: path.write_text("nonsense"), "administrator"),
    ],
)
def test_a_site_file_that_cannot_be_trusted_stops_everything(place, spoil, words):
    path = site(place, approval="required")
    spoil(path)
    with pytest.raises(ConfigError, match=words) as error:
        refuse_unapproved(Budget(), HASH, site_file=path)
    assert "\n" not in str(error.value)


def test_no_site_file_is_no_site_rule(place):
    assert read_site_budget(place / "none.json") is None
