"""A submission and its budget, with the commands as users type them and a real approver."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from runs import submit
from tiny import tiny_words, write_tiny_data
from users import as_user

from hpcjobs.run.layout import RunDir
from planner.approve_command import approve
from planner.plan_file import read_plan, write_plan

APPROVER = "daemon"
CARD = "cluster.gpu_type=h100"
RULES = ["budget.approval=required", f"budget.approvers=[{APPROVER}]", "budget.plan=plan.json"]
LEDGER = ["budget.project=mgm", "budget.ledger=ledger.jsonl", "budget.gpu_hours_total=100"]
ON_SLURM = ["cluster=slurm", "cluster.python=python3"]

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs to be several users in turn")


@pytest.fixture(scope="module")
def planned():
    """The words of a tiny run on the CPU, and the plan of its layout on a card."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "data").mkdir()
        write_tiny_data(place / "data")
        words = [*tiny_words(place / "data"), CARD, f"cluster.trusted=[{APPROVER}]"]
        command = [*words, "planner.keep_layout=true", "plan=plan.json"]
        made = planner(place, *command)
        assert made.returncode == 0, made.stderr
        yield words, read_plan(place / "plan.json")


@pytest.fixture
def place(planned):
    """A directory with the plan, which the approver may write a record into."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        shutil.chown(place, APPROVER)
        place.chmod(0o755)
        write_plan(planned[1], place / "plan.json")
        (place / "plan.json").chmod(0o644)
        yield place


@pytest.fixture
def refusing_slurm(place):
    """A cluster that takes no job."""
    tools = place / "bin"
    tools.mkdir()
    (tools / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: no such partition' >&2\nexit 1\n"
    )
    (tools / "scontrol").write_text("#!/bin/sh\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}"}


def planner(place, *words):
    return subprocess.run(
        [sys.executable, "-m", "planner", *words], cwd=place, capture_output=True, text=True
    )


def sign(place):
    as_user(APPROVER, approve, [str(place / "plan.json"), "--yes"])


def refused(answer, *words):
    assert answer.returncode == 2, (answer.stdout, answer.stderr)
    assert len(answer.stderr.splitlines()) == 1
    for word in words:
        assert word in answer.stderr


def ledger(place):
    return [json.loads(line) for line in (place / "ledger.jsonl").read_text().splitlines()]


def test_without_an_approval_nothing_is_submitted(place, planned):
    words, _ = planned
    refused(submit([*words, *RULES, "run_dir=r"], place), "not approved", "planner approve")
    refused(submit([*words, *RULES[:2], "run_dir=r"], place), "no plan is given")
    assert not (place / "r").exists()


def test_an_approved_run_runs_and_its_record_says_who_agreed(place, planned):
    words, plan = planned
    sign(place)
    (place / "ledger.jsonl").touch()
    answer = submit([*words, *RULES, *LEDGER, "run_dir=r"], place)
    assert answer.returncode == 0, answer.stderr
    budget = json.loads(RunDir(place / "r").record.read_text())["budget"]
    assert (budget["approver"], budget["project"]) == (APPROVER, "mgm")
    assert budget["gpu_hours_p95"] == pytest.approx(plan.chosen.prediction.cost.gpu_hours_p95)
    assert [entry["state"] for entry in ledger(place)] == ["reserved"]
    again = submit([*words, *RULES, *LEDGER, "run_dir=other"], place)
    refused(again, "one approval is for one run")


def test_a_change_since_the_approval_is_named(place, planned):
    words, _ = planned
    sign(place)
    refused(submit([*words, *RULES, "train.steps=9", "run_dir=r"], place), "steps was 6 and is 9")


def test_a_limit_counts_what_the_run_takes_and_not_what_a_plan_says(place, planned):
    words, _ = planned
    limit = "budget.gpu_hours_limit=0.000001"
    refused(submit([*words, limit, "run_dir=r"], place), "above budget.gpu_hours_limit")
    raw = json.loads((place / "plan.json").read_text())
    raw["chosen"]["prediction"]["cost"]["gpu_hours_p95"] = 1e-9
    (place / "plan.json").write_text(json.dumps(raw))
    forged = submit([*words, limit, RULES[2], "run_dir=r"], place)
    refused(forged, "above budget.gpu_hours_limit")


def test_a_limit_without_a_known_card_is_one_line(place, planned):
    words, _ = planned
    nameless = [word for word in words if word != CARD]
    answer = submit([*nameless, "budget.gpu_hours_limit=1", "run_dir=r"], place)
    refused(answer, "no card is named", "cluster.gpu_type")


def test_hours_go_back_to_the_ledger_when_slurm_refuses(place, planned, refusing_slurm):
    words, _ = planned
    sign(place)
    (place / "ledger.jsonl").touch()
    chosen = [word for word in words if word != "cluster=local"]
    answer = submit([*chosen, *ON_SLURM, *RULES, *LEDGER, "run_dir=r"], place, refusing_slurm)
    assert answer.returncode == 4, (answer.stdout, answer.stderr)
    states = [(entry["state"], entry["gpu_hours"] > 0) for entry in ledger(place)]
    assert states == [("reserved", True), ("released", False)]
    assert not (place / "r").exists()


def test_a_dry_run_says_what_the_budget_would_refuse(place, planned):
    words, _ = planned
    answer = submit([*words, *RULES, "dry_run=true"], place)
    assert answer.returncode == 0
    assert "warning: would be refused: the plan is not approved" in answer.stderr
    sign(place)
    assert "would be refused" not in submit([*words, *RULES, "dry_run=true"], place).stderr


@pytest.mark.parametrize("change", [{"sharding": "fsdp"}, {"loss": "no_upcast"}])
def test_a_plan_that_the_trainer_cannot_run_is_refused(place, planned, change):
    words, _ = planned
    raw = json.loads((place / "plan.json").read_text())
    raw["chosen"] |= change
    (place / "plan.json").write_text(json.dumps(raw))
    answer = submit([*words, "parallel=auto", RULES[2], "dry_run=true"], place)
    refused(answer, "the trainer runs ZeRO 0 to 3 with the loss in fp32")
