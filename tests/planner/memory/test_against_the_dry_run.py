"""The closed form as the dry run traces it, over every measured row of the sweep."""

import csv
import json
import statistics
from pathlib import Path

import pytest
from memory_words import allocated

SWEEP = Path(__file__).parents[3] / "benchmarks" / "verifier" / "sweep.csv"


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    csv.field_size_limit(1 << 24)
    found = {}
    with SWEEP.open(newline="") as file:
        for row in csv.DictReader(file):
            if not row["error"]:
                peak = allocated("cpu", **json.loads(row["workload"])).peak_bytes
                found[f"{row['model']} {row['id']}"] = float(peak) / int(row["peak_bytes"]) - 1
    return found


def test_the_mean_error_is_below_one_percent(errors: dict[str, float]) -> None:
    assert len(errors) >= 200
    assert statistics.fmean(abs(error) for error in errors.values()) < 0.01


def test_no_row_is_further_off_than_five_percent(errors: dict[str, float]) -> None:
    assert {name: error for name, error in errors.items() if abs(error) > 0.05} == {}
