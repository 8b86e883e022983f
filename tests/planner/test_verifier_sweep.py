"""The closed form agrees with what the real engine held, over the committed sweep."""

import csv
import json
import statistics
from functools import cache
from pathlib import Path

import pytest

from planner.layout import layout_of
from planner.memory.closed_form import allocated_of
from planner.models.read import architecture_of
from planner.read_workload import read_workload

SWEEP = Path(__file__).parents[2] / "benchmarks" / "verifier" / "sweep.csv"
ROWS_AIM, MEAN_AIM, WORST_AIM = 200, 0.02, 0.05


@cache
def rows():
    with SWEEP.open(newline="") as file:
        return [row for row in csv.DictReader(file) if not row["error"]]


@cache
def errors():
    """Computed over measured peak, less one, by the row's id and model."""
    found = {}
    for row in rows():
        workload = read_workload(json.loads(row["workload"]))
        architecture = architecture_of(workload.model)
        # The sweep ran on the CPU's operators; a card's sum gradients in place, for one.
        computed = allocated_of(architecture, workload, layout_of(workload), kernels="cpu")
        found[f"{row['id']} {row['model']}"] = (
            float(computed.peak_bytes) / int(row["peak_bytes"]) - 1.0
        )
    return found


def test_the_sweep_is_as_broad_as_it_claims():
    workloads = [json.loads(row["workload"]) for row in rows()]
    assert len({row["id"] for row in rows()}) == len(rows()) >= ROWS_AIM
    assert len({row["model"].partition("/")[0] for row in rows()}) >= 15
    shardings = {workload["sharding"] for workload in workloads}
    assert shardings >= {"none", "ddp", "zero0", "zero1", "zero2", "zero3"}
    assert {workload["attention"] for workload in workloads} >= {"sdpa", "eager"}
    assert {workload.get("grad_ckpt", True) for workload in workloads} >= {True, False}
    assert len({workload["seq_len"] for workload in workloads}) >= 4


def test_a_row_is_measured_in_less_than_a_gib():
    assert max(int(row["rss_mib"]) for row in rows()) < 1024


def test_the_closed_form_agrees_on_average():
    assert statistics.fmean(map(abs, errors().values())) <= MEAN_AIM


def test_the_closed_form_agrees_at_worst():
    far = {name: round(error, 4) for name, error in errors().items() if abs(error) > WORST_AIM}
    assert far == {}


@pytest.mark.parametrize("phase", ["init", "forward", "backward", "step"])
def test_a_phase_never_ends_above_its_peak(phase):
    for row in rows():
        assert int(row[f"{phase}_current_bytes"]) <= int(row[f"{phase}_peak_bytes"])
        if phase != "init":
            assert int(row[f"{phase}_peak_bytes"]) <= int(row["peak_bytes"])
