"""The budget's own rules: limits are positive, a total is counted somewhere, names are names."""

import pytest

from hpcjobs.login.compose import compose_experiment
from hpcjobs.run.budget_config import Budget
from hpcjobs.run.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"gpu_hours_limit": 0.0}, "gpu_hours_limit must be greater than 0"),
        ({"gpu_hours_limit": float("nan")}, "gpu_hours_limit must be a finite number"),
        ({"gpu_hours_total": -1.0}, "gpu_hours_total must be greater than 0"),
        ({"gpu_hours_total": float("inf")}, "finite"),
        ({"approval_valid_days": 0.0}, "approval_valid_days"),
        ({"gpu_hours_total": 5.0}, "gpu_hours_total needs ledger: write budget.ledger=VALUE"),
        ({"gpu_hours_total": 5.0, "project": "vlm"}, "needs ledger"),
        ({"ledger": "l.jsonl"}, "ledger needs project"),
        ({"approvers": ("anna", "")}, "'' is no name of a user"),
        ({"approvers": ("anna bob",)}, "no name of a user"),
        ({"approvers": ("-x",)}, "no name of a user"),
        ({"project": ""}, "project is empty"),
        ({"plan": "a\nb"}, "control character"),
    ],
)
def test_impossible_budgets_are_refused_in_one_line(fields, words):
    with pytest.raises(ConfigError, match=words) as error:
        Budget(**fields)
    assert "\n" not in str(error.value)


def test_by_default_nothing_is_asked_and_nothing_is_limited():
    _, experiment = compose_experiment(["+experiment=mgm_lora"])
    assert experiment.budget == Budget()


def test_the_configuration_knows_the_strict_form():
    words = ["+experiment=mgm_lora", "budget=required", "budget.approvers=[anna,bob]"]
    _, experiment = compose_experiment(words)
    assert experiment.budget.approval == "required"
    assert experiment.budget.approvers == ("anna", "bob")


def test_a_mistyped_rule_is_named():
    with pytest.raises(ConfigError, match="approval must be one of none, required"):
        compose_experiment(["+experiment=mgm_lora", "budget.approval=maybe"])
