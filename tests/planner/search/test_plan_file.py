"""A plan comes back from its file as it was; anything else is refused in one line."""

import json
import math
import stat

import pytest
from asks import ask

from planner.errors import PlannerError
from planner.plan_file import encode_plan, read_plan, write_plan
from planner.plan_hash import config_hash
from planner.search.search import search


@pytest.fixture(scope="module")
def plan():
    return search(ask(), config_hash="0" * 64)


def test_a_plan_comes_back_as_it_was(plan, tmp_path):
    path = tmp_path / "plan.json"
    write_plan(plan, path)
    back = read_plan(path)
    assert back == plan or encode_plan(back) == encode_plan(plan)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_without_a_choice_comes_back_too(tmp_path):
    impossible = search(ask(deadline_hours=0.001))
    write_plan(impossible, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json").nearest == impossible.nearest


def test_what_is_not_finite_is_null_in_the_file(tmp_path):
    from planner.search.conditions import Conditions

    unpriced = search(ask(), conditions=Conditions(currency="EUR"))
    write_plan(unpriced, tmp_path / "plan.json")
    assert "NaN" not in (tmp_path / "plan.json").read_text()
    assert math.isnan(read_plan(tmp_path / "plan.json").chosen.prediction.cost.cost_p50)


def changed(plan, **changes):
    return json.dumps(json.loads(encode_plan(plan)) | changes)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda plan: "", "is no plan"),
        (lambda plan: "{", "is no plan"),
        (lambda plan: "[1]", "is no plan"),
        (lambda plan: "{}", "is no plan: write one with python -m planner"),
        (lambda plan: "[" * 100_000, "is no plan"),
        (lambda plan: changed(plan, version=2), "is a plan of version 2, this planner reads 1"),
        (lambda plan: changed(plan, version="1"), "is a plan of version '1'"),
        (lambda plan: changed(plan, extra=1), "has the unknown field extra"),
        (lambda plan: changed(plan, candidates="many"), "candidates"),
        (lambda plan: changed(plan, feasible={}), "feasible must be a list"),
        (lambda plan: changed(plan, ask=None), "ask must be an object"),
    ],
)
def test_anything_else_is_refused_in_one_line(make, said, plan, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(make(plan))
    with pytest.raises(PlannerError) as error:
        read_plan(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_what_is_no_file_is_named(name, tmp_path):
    with pytest.raises(PlannerError, match=r"cannot read|is no file"):
        read_plan(tmp_path / name)


def test_a_place_that_cannot_be_written_is_named(plan, tmp_path):
    with pytest.raises(PlannerError, match="cannot write"):
        write_plan(plan, tmp_path / "nowhere" / "plan.json")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"name": "other"}, True),
        ({"cluster": {"partition": "gpu", "time": "9:00:00", "env": {"A": "1"}}}, True),
        ({"cluster": {"partition": "low", "time": "1:00:00", "env": {}}}, False),
        ({"train": {"global_batch": 64, "seed": 1}}, False),
        ({"train": {"global_batch": 128, "seed": 2}}, True),
    ],
)
def test_the_hash_is_of_what_decides_the_resources(change, same):
    experiment = {
        "name": "a",
        "train": {"global_batch": 128, "seed": 1},
        "cluster": {"partition": "gpu", "time": "1:00:00", "env": {}},
    }
    assert (config_hash(experiment) == config_hash(experiment | change)) is same
