"""The planner's settings are checked where they are written."""

import pytest

from hpcjobs.run.errors import ConfigError
from hpcjobs.run.plan_config import PlanSettings
from hpcjobs.run.schema import build, plain


def test_the_defaults_are_valid_and_come_back_from_json():
    assert build(PlanSettings, plain(PlanSettings()), "planner") == PlanSettings()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"objective": "best"}, "planner.objective must be one of cheapest, fastest"),
        ({"deadline_hours": -1}, "planner: deadline_hours must be greater than 0"),
        ({"deadline_hours": float("inf")}, "planner: deadline_hours must be a finite number"),
        ({"budget": 0}, "planner: budget must be greater than 0"),
        ({"samples": 0}, "planner: samples must be at least 1"),
        ({"cards": [{}]}, "planner.cards[0].gpu is not set"),
        ({"cards": [{"gpu": "L40S", "max_gpus": 0}]}, "max_gpus must be at least 1"),
        ({"cards": [{"gpu": "L40S", "price": -2}]}, "price must be greater than 0"),
        ({"cards": [{"gpu": "L40S\n#SBATCH"}]}, "gpu holds a control character"),
        ({"shardings": ["zero4"]}, "planner.shardings[0] must be one of zero0"),
        ({"offloads": []}, "offloads is empty: write at least one"),
        ({"lengths": {"values": [100, 0]}}, "each of values must be at least 1"),
        ({"lengths": {"std": 5}}, "std needs mean"),
        ({"lengths": {"mean": 5, "values": [1]}}, "set either mean or values"),
        ({"images_per_sample": -0.5}, "images_per_sample must be at least 0"),
        ({"time_limit": "0:00:00"}, "is zero; a run needs a limit"),
        ({"preemptions_per_day": -1}, "preemptions_per_day must be at least 0"),
    ],
)
def test_a_mistake_names_the_key(raw, said):
    with pytest.raises(ConfigError) as error:
        build(PlanSettings, raw, "planner")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
