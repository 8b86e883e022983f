"""The preview tells what the planner expects, and is never stopped by what it does not know."""

import pytest

from hpcjobs.login.compose import compose_experiment, compose_planned
from hpcjobs.login.planned_figures import planned_figures

LORA = "+experiment=mgm_lora"


def planned(tmp_path, *words):
    return planned_figures(compose_experiment([LORA, *words], here=tmp_path)[1], None)


def test_memory_hours_and_cost_of_a_known_card(tmp_path):
    told = planned(tmp_path, "cluster.gpu_type=h200")
    assert "GiB at p50" in told.memory
    assert told.memory.endswith("fits a h200")
    assert "GPU-hours" in told.run
    assert told.run.endswith("USD")


def test_what_does_not_fit_is_said_loudly(tmp_path):
    told = planned(tmp_path, "cluster.gpu_type=rtx-4090", "method=full", "parallel=zero0")
    assert "DOES NOT FIT" in told.memory


@pytest.mark.parametrize(
    ("words", "memory", "run"),
    [
        ([], "GiB at p95", "unknown: write cluster.gpu_type"),
        (["cluster.gpu_type=ours"], "unknown: gpu: no card is called 'ours'", "unknown"),
        (
            ["cluster.gpu_type=l40s", "planner.samples=null"],
            "GiB at p95",
            "unknown: the number of samples is not known",
        ),
        (
            ["planner.calibration=missing.json"],
            "unknown: planner.calibration: missing.json",
            "unknown",
        ),
        (["method.targets=nothing"], "unknown: method.targets", "unknown"),
        (["parallel.device=cpu"], "not planned: a run on the CPU", "unknown"),
    ],
)
def test_what_is_not_known_is_unknown_and_stops_nothing(words, memory, run, tmp_path):
    told = planned(tmp_path, *words)
    assert memory in told.memory
    assert told.run.startswith(run)


def test_the_plan_of_the_submission_is_what_is_told(tmp_path):
    done = compose_planned([LORA, "parallel=auto", "cluster.gpu_type=h200"], here=tmp_path)
    told = planned_figures(done.experiment, done.plan)
    hours = done.plan.chosen.prediction.hours.hours_p50
    assert told.run.startswith(f"{hours:.1f} h at p50")


def test_an_entry_of_ones_own_brings_its_price(tmp_path):
    cards = "planner.cards=[{gpu: H200-SXM, price: 100, gpu_type: ours}]"
    told = planned(tmp_path, cards, "cluster.gpu_type=ours")
    dear = float(told.run.split("; ")[2].split(" to ")[0])
    hours = float(told.run.split("; ")[1].split(" to ")[0])
    assert dear == pytest.approx(100 * hours, rel=0.01)
