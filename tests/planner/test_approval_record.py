"""A record is believed for what the operating system says of its file, not for what it says."""

import io
import json
import os
import pwd
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from users import as_user

from planner.approval import (
    APPROVAL_VERSION,
    Approval,
    p95_gpu_hours,
    plan_hash,
    read_approval,
    record_path,
    write_approval,
)
from planner.approve_command import approve, printable, refuse_stranger, summary
from planner.errors import PlannerError
from planner.plan import Ask, CardOffer
from planner.plan_file import read_plan, write_plan
from planner.read_workload import read_workload
from planner.search.search import search
from planner.site_budget import Rules, SiteBudget

APPROVER, SUBMITTER = "daemon", "games"
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs to be several users in turn")


@pytest.fixture(scope="module")
def plan():
    workload = {"model": "gemma-2b", "method": "lora", "seq_len": 1024, "samples": 10_000}
    offers = (CardOffer("A100-SXM4-80GB", 8, 8),)
    ask = Ask(workload=read_workload(workload), global_batch=128, offers=offers)
    return search(ask, config_hash="0123abcd" * 8)


@pytest.fixture
def place():
    """A directory that every user may enter and read; pytest's own are private."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def path(place, plan):
    write_plan(plan, place / "plan.json")
    (place / "plan.json").chmod(0o644)
    return place / "plan.json"


def record(plan, **changes):
    fields = {
        "version": APPROVAL_VERSION, "decision": "approved", "approver": "root",
        "decided": "2026-11-22T12:00:00+00:00", "plan_hash": plan_hash(plan), "config_hash": "",
        "gpu_hours_p95": 1.0, "cost_p95": None, "currency": None,
    }  # fmt: skip
    return Approval(**(fields | changes))


def test_a_record_is_read_back_with_its_owner(place, plan):
    write_approval(place / "a.json", record(plan))
    signed = read_approval(place / "a.json")
    assert signed.approval == record(plan)
    assert signed.owner_uid == os.getuid()
    assert (place / "a.json").stat().st_mode & 0o777 == 0o644
    assert sorted(p.name for p in place.iterdir()) == ["a.json"]


def test_the_umask_of_the_door_does_not_hide_the_record(place, plan):
    before = os.umask(0o077)
    try:
        write_approval(place / "a.json", record(plan))
    finally:
        os.umask(before)
    assert (place / "a.json").stat().st_mode & 0o777 == 0o644


@needs_root
def test_a_user_without_rights_to_the_directory_is_told_so(place, plan):
    with pytest.raises(PlannerError, match=r"cannot write .*--to DIR"):
        as_user(SUBMITTER, write_approval, place / "a.json", record(plan))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file.unlink(), "not approved"),
        (lambda file: file.chmod(0o664), "written by others"),
        (lambda file: file.chmod(0o646), "written by others"),
        (lambda file: os.link(file, file.with_name("b")), "hard links"),
        (lambda file: (file.rename(file.with_name("b")), file.symlink_to("b")), "symbolic link"),
        (lambda file: (file.unlink(), file.mkdir()), "no regular file"),
        (lambda file: (file.unlink(), os.mkfifo(file)), "no regular file"),
        (lambda file: file.write_text("{"), "no approval"),
        (lambda file: file.write_text("[1]"), "no approval"),
        (lambda file: file.write_text('{"version": 2}'), "version 2"),
        (lambda file: file.write_text('{"version": 1}'), "no approval"),
        (lambda file: file.write_bytes(b"\xff\xfe"), "no approval"),
    ],
)
def test_anything_but_a_plain_file_of_one_user_is_refused(place, plan, spoil, words):
    file = place / "a.json"
    write_approval(file, record(plan))
    spoil(file)
    with pytest.raises(PlannerError, match=words) as error:
        read_approval(file)
    assert "\n" not in str(error.value)


def test_a_rejection_reaches_a_hard_link_to_the_approval(place, plan):
    """A link that was kept aside would bring the approval back after it was withdrawn."""
    write_approval(place / "a.json", record(plan))
    os.link(place / "a.json", place / "aside")
    write_approval(place / "a.json", record(plan, decision="rejected", reason="too dear"))
    (place / "a.json").unlink()
    assert read_approval(place / "aside").approval.decision == "rejected"


def test_writing_destroys_no_file_that_was_planted_under_the_name(place, plan):
    """Whoever owns the directory may link another file of the approver to the record's name."""
    precious = place / "precious"
    precious.write_text("my thesis")
    os.link(precious, place / "a.json")
    write_approval(place / "a.json", record(plan))
    assert precious.read_text() == "my thesis"
    (place / "b.json").symlink_to(precious)
    write_approval(place / "b.json", record(plan))
    assert precious.read_text() == "my thesis"
    assert read_approval(place / "b.json").approval == record(plan)


def test_the_hash_changes_with_every_figure_and_survives_the_file(path, plan):
    kept = plan_hash(read_plan(path))
    assert plan_hash(read_plan(path)) == kept
    for changed in (
        replace(read_plan(path), config_hash="other"),
        replace(read_plan(path), why="other"),
        replace(read_plan(path), chosen=None),
    ):
        assert plan_hash(changed) != kept
    # Another spelling of the same content is the same plan.
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert plan_hash(read_plan(path)) == kept


def test_a_plan_without_an_answer_or_without_hours_cannot_be_approved(plan):
    with pytest.raises(PlannerError, match="nothing that fits"):
        p95_gpu_hours(replace(plan, chosen=None))
    free = replace(plan.chosen, prediction=replace(plan.chosen.prediction, cost=None))
    with pytest.raises(PlannerError, match="does not know its GPU-hours"):
        p95_gpu_hours(replace(plan, chosen=free))


def test_in_a_shared_directory_the_name_comes_from_the_plan(place, path, plan):
    assert record_path(plan, path, None) == place / "plan.approval.json"
    assert record_path(plan, path, place).name == f"{plan_hash(plan)[:16]}.approval.json"


def test_the_command_writes_what_it_showed(path, plan, capsys):
    assert approve([str(path), "--yes"]) == 0
    said = capsys.readouterr().out
    signed = read_approval(path.with_name("plan.approval.json"))
    assert signed.approval.plan_hash == plan_hash(read_plan(path))
    assert signed.approval.approver == "root" or os.getuid() != 0
    for words in ("A100-SXM4-80GB", "p95", signed.approval.plan_hash, "gemma-2b"):
        assert words in said


def test_the_command_asks_nobody_where_nobody_is(path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    with pytest.raises(PlannerError, match="--yes"):
        approve([str(path)])
    assert not path.with_name("plan.approval.json").exists()


def test_a_rejection_carries_its_reason(path):
    assert approve([str(path), "--yes", "--reject", "wait for the H100s"]) == 0
    signed = read_approval(path.with_name("plan.approval.json"))
    assert (signed.approval.decision, signed.approval.reason) == ("rejected", "wait for the H100s")


@needs_root
def test_the_approver_is_the_user_of_the_process_whatever_the_environment_says(
    place, path, monkeypatch
):
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "SUDO_USER"):
        monkeypatch.setenv(name, "root")
    folder = place / "approvals"
    folder.mkdir(mode=0o755)
    os.chown(folder, 1, 1)
    as_user(APPROVER, approve, [str(path), "--yes", "--to", str(folder)])
    (file,) = folder.iterdir()
    assert read_approval(file).owner == APPROVER
    assert read_approval(file).approval.approver == APPROVER


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not json", "no plan"),
        (b"", "no plan"),
        (b"{}", "no plan"),
        (b'{"version": 99}', "version 99"),
        (b"[" * 100_000, "no plan"),
        (b"\xff\xfe\x00", "no plan"),
    ],
)
def test_what_is_no_plan_is_one_line(place, content, words):
    (place / "plan.json").write_bytes(content)
    with pytest.raises(PlannerError, match=words) as error:
        approve([str(place / "plan.json"), "--yes"])
    assert "\n" not in str(error.value)


def test_a_missing_plan_is_one_line(place):
    with pytest.raises(PlannerError, match="cannot read"):
        approve([str(place / "none.json"), "--yes"])
    with pytest.raises(PlannerError, match="--help"):
        approve([])


@given(st.text())
def test_nothing_of_a_strangers_text_moves_the_cursor(text):
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)


def test_who_may_approve_nowhere_on_the_site_is_told_before_signing():
    site = SiteBudget(approvers=("daemon",), projects={"vlm": Rules(approvers=("bin",))})
    for name in ("daemon", "bin"):
        refuse_stranger(pwd.getpwnam(name).pw_uid, site)
    with pytest.raises(PlannerError, match=r"games may not approve here.* bin, daemon"):
        refuse_stranger(pwd.getpwnam("games").pw_uid, site)
    refuse_stranger(1, SiteBudget())
    refuse_stranger(1, None)


def test_an_unknown_price_is_shown_as_unknown(path, plan):
    cost = replace(plan.chosen.prediction.cost, cost_p50=None, cost_p95=None)
    cost = replace(cost, price_per_gpu_hour=float("nan"), price_source="")
    choice = replace(plan.chosen, prediction=replace(plan.chosen.prediction, cost=cost))
    shown = "\n".join(summary(replace(plan, chosen=choice), path))
    assert "cost         unknown\n" in shown
    assert "price        unknown, no source" in shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config_hash": ""}, "is of no experiment"),
        ({"config_hash": "abc"}, "is no SHA-256"),
        ({"gpu_hours_p50": 0.05, "gpu_hours_p95": 0.1}, "says 0.05 GPU-hours, but"),
        ({"cost_p50": -5.0}, "cost is below 0"),
    ],
)
def test_a_plan_that_contradicts_itself_cannot_be_approved(path, plan, changes, words):
    figures = {name: value for name, value in changes.items() if name != "config_hash"}
    prediction = plan.chosen.prediction
    prediction = replace(prediction, cost=replace(prediction.cost, **figures))
    changed = replace(
        plan,
        chosen=replace(plan.chosen, prediction=prediction),
        config_hash=changes.get("config_hash", plan.config_hash),
    )
    write_plan(changed, path)
    with pytest.raises(PlannerError, match=words) as error:
        approve([str(path), "--yes"])
    assert "\n" not in str(error.value)


def test_an_approver_is_told_that_a_plan_does_not_fit(path, plan):
    choice = replace(plan.chosen, prediction=replace(plan.chosen.prediction, fits=False))
    assert "does NOT fit" in "\n".join(summary(replace(plan, chosen=choice), path))
