import dataclasses

import pytest

from planner.cards import card_of
from planner.layout import layout_of
from planner.models.read import architecture_of
from planner.read_workload import read_workload
from planner.time.constants import Constants
from planner.time.fit import START, Observation, fit, log_error, loss
from planner.time.step import step_time_of

_WORKLOADS = [
    {"method": "lora", "seq_len": length, "model": model, "grad_ckpt": ckpt}
    for model in ("llama-2-7b", "llama-2-13b")
    for length in (128, 512, 2048, 8192)
    for ckpt in (False, True)
]


def _observe(truth, raw):
    work = read_workload(raw)
    architecture, layout, card = architecture_of(work.model), layout_of(work), card_of("A100")
    seconds = float(step_time_of(architecture, work, layout, card, truth).p50_s)
    return Observation("lora", architecture, work, layout, card, seconds)


def test_a_fit_comes_closer_to_a_faster_card_and_host():
    truth = dataclasses.replace(START, matmul_share=0.6, launch_us=50.0)
    seen = [_observe(truth, raw) for raw in _WORKLOADS]
    found = fit(seen)
    assert loss(seen, found, START) < 0.6 * loss(seen, START, START)
    assert found.matmul_share < START.matmul_share
    assert max(abs(log_error(row, found)) for row in seen) < 0.25


def test_without_rows_a_fit_stays_where_it_starts():
    assert fit([]) == START


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Constants)])
def test_every_constant_is_positive(name):
    assert getattr(Constants(), name) > 0
