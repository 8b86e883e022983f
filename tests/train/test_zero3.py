"""A released checkpoint, divided among the ranks while it is read, trains as a whole one does.

Slow: three short trainings on two processes, which share one start of torch.
"""

import pytest
from official import write_official
from runs import trained_steps
from tiny import tiny_words, write_tiny_data
from trainings import prepare, train_all

from hpcjobs.login.compose import compose_experiment
from hpcjobs.run.files import read_lines

pytestmark = pytest.mark.slow

PLANS = {
    "whole": {"parallel": "zero2"},
    "divided": {"parallel": "zero3"},
    "on the host": {
        "parallel": "zero3", "parallel.offload_optimizer": "cpu", "parallel.offload_params": "cpu",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each starts from a released checkpoint and from the result of the run before it."""
    place = tmp_path_factory.mktemp("zero3")
    data, model = write_tiny_data(place / "data"), place / "mgm"
    common = {
        "train.steps": 3, "parallel.device": "cpu", "parallel.gpus_per_node": 2,
        "method.dropout": 0.0, "train.precision": "fp32", "model.weights": "pretrained",
        "model.path": model,
    }  # fmt: skip
    write_official(model, compose_experiment(tiny_words(data, **common))[1].model)
    first = prepare(tiny_words(data, **common, run_dir=place / "first"), place / "first")
    later = {"method.start_from": first.result}
    runs = {
        name: prepare(tiny_words(data, **common | later | plan, run_dir=place / name), place / name)
        for name, plan in PLANS.items()
    }
    verdicts = train_all([first, *runs.values()], 2)
    assert [verdict.status for verdict in verdicts] == ["done"] * 4, verdicts
    return runs


@pytest.mark.parametrize("name", ["divided", "on the host"])
def test_losses_and_held_out_losses_are_those_of_whole_weights(runs, name):
    expected, found = trained_steps(runs["whole"]), trained_steps(runs[name])
    for step, line in expected.items():
        assert found[step]["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert found[step]["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-4)
    heldout = [[x["loss"] for x in read_lines(runs[n].metrics) if x["kind"] == "heldout"] for n in ("whole", name)]  # fmt: skip
    assert heldout[1] == pytest.approx(heldout[0], rel=1e-5)


def test_every_run_took_the_values_that_it_was_to_start_from(runs):
    for run in runs.values():
        (started,) = [event for event in read_lines(run.events) if event["kind"] == "started_from"]
        assert len(started["sha256"]) == 2
