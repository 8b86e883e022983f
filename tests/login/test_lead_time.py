"""A run that could not save before its end is refused, where step and save are known."""

from types import SimpleNamespace

import pytest

from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.lead_time import Pace, measured_pace, planned_pace, refuse_short_lead
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.files import append_line, make_private_dir
from hpcjobs.run.layout import RunDir


def steps(*seconds):
    return [{"kind": "train", "step_s": value} for value in seconds]


def saves(*seconds):
    return [{"kind": "checkpoint", "save_s": value} for value in seconds]


def plan(step_s, checkpoint_bytes):
    """The few fields of a plan that count here."""
    prediction = SimpleNamespace(
        step=SimpleNamespace(p95_s=step_s),
        memory=SimpleNamespace(checkpoint_bytes=checkpoint_bytes),
    )
    return SimpleNamespace(chosen=SimpleNamespace(prediction=prediction))


@pytest.mark.parametrize(
    ("metrics", "events", "pace"),
    [
        ([], [], None),
        (steps(3), [], None),
        ([], saves(9), None),
        (steps(3, 4), [*saves(9, 7), {"kind": "training"}], (4, 9)),
        ([*steps(*[2] * 99, 300), {"kind": "heldout"}], saves(5), (2, 5)),
        (steps(*[50] * 10, *[2] * 200), saves(5), (2, 5)),
    ],
)
def test_the_newest_steps_and_the_longest_save_count(metrics, events, pace):
    found = measured_pace(metrics, events)
    assert (found and (found.step_s, found.save_s)) == pace


def test_a_plan_says_how_long_step_and_save_take():
    """At the two gigabytes a second that the planner assumes of a shared file system."""
    assert planned_pace(plan(12.0, 60e9)) == Pace(step_s=12.0, save_s=30.0, source="planned")
    assert planned_pace(None) is None
    assert planned_pace(SimpleNamespace(chosen=None)) is None


@pytest.mark.parametrize(
    ("measured", "planned", "lead_s", "needed"),
    [
        ((20, 60), None, 120, None),
        ((20, 60), None, 90, None),
        ((20, 60), None, 89, 90),
        (None, plan(20.0, 120e9), 60, 90),
        ((2, 3), plan(20.0, 120e9), 60, None),  # what was measured goes before
        (None, None, 1, None),
    ],
)
def test_a_lead_that_is_too_short_is_refused_with_the_word_to_write(
    tmp_path, measured, planned, lead_s, needed
):
    run = RunDir(tmp_path / "run")
    make_private_dir(run.path)
    if measured is not None:
        append_line(run.metrics, steps(measured[0])[0])
        append_line(run.events, saves(measured[1])[0])
    words = ["+experiment=mgm_lora_demo", f"cluster.signal_lead_s={lead_s}"]
    _, experiment = compose_experiment(words)
    if needed is None:
        refuse_short_lead(experiment, run, planned)
        return
    with pytest.raises(ConfigError, match=rf"write cluster\.signal_lead_s={needed}$"):
        refuse_short_lead(experiment, run, planned)
