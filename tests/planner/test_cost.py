import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.billing import gpu_hour_price, read_billing_weights
from planner.cards import card_of
from planner.cost import Energy, cost_of
from planner.errors import PlannerError
from planner.layout import Layout
from planner.prediction import Hours
from planner.prices import Price, card_price, read_prices

HEADER = "gpu,partition,account,kind,price_per_gpu_hour,currency,date,source\n"


def _layout(gpus=8.0):
    return Layout(1.0, 1.0, gpus, np.minimum(gpus, 8.0))


def _hours(median=10.0, slow=12.0):
    return Hours(100.0, 9.0, median, slow, median, 0.9, 600.0)


def _write(tmp_path, lines):
    path = tmp_path / "prices.csv"
    path.write_text(HEADER + lines, encoding="utf-8")
    return path


def test_cost_is_gpu_hours_times_the_dated_default():
    card = card_of("A100-SXM4-80GB")
    cost = cost_of(_hours(), _layout(), card)
    assert (cost.gpu_hours_p50, cost.gpu_hours_p95) == (80.0, 96.0)
    assert cost.cost_p50 == pytest.approx(80 * card.price_ondemand)
    assert cost.cost_p95 == pytest.approx(96 * card.price_ondemand)
    assert (cost.currency, cost.price_date) == ("USD", "2026-11-22")
    assert "lambda" in cost.price_source


def test_preemptible_takes_the_spot_price():
    card = card_of("H100-SXM5")
    cost = cost_of(_hours(), _layout(), card, preemptible=True)
    assert cost.price_per_gpu_hour == card.price_spot


def test_an_own_price_keeps_its_currency_and_source():
    own = Price(1.5, "EUR", "contract 12", "2026-01-01")
    cost = cost_of(_hours(), _layout(), card_of("A100"), own)
    assert (cost.cost_p50, cost.currency, cost.price_source) == (120.0, "EUR", "contract 12")
    assert cost_of(_hours(), _layout(), card_of("A100"), 2.0).cost_p50 == 160.0


def test_an_unknown_price_is_unknown_and_not_nothing():
    cost = cost_of(_hours(), _layout(), card_of("A40"))
    assert math.isnan(cost.cost_p50)
    assert "no price known for A40" in cost.price_source
    assert cost.gpu_hours_p50 == 80.0


@pytest.mark.parametrize("price", [0.0, -1.0, math.inf, math.nan])
def test_a_price_of_nothing_is_refused(price):
    with pytest.raises(PlannerError, match="price_per_gpu_hour must be above 0"):
        cost_of(_hours(), _layout(), card_of("A100"), price)


def test_energy_counts_card_host_building_and_grid():
    energy = Energy(utilisation=1.0, host_w_per_gpu=100.0, pue=1.5, grid_g_per_kwh=200.0)
    cost = cost_of(_hours(), _layout(), card_of("A100"), energy=energy)
    assert cost.energy_kwh == pytest.approx(80 * (400 + 100) * 1.5 / 1000)
    assert cost.co2_kg == pytest.approx(cost.energy_kwh * 0.2)


def test_cost_takes_many_candidates_at_once():
    gpus = np.array([1.0, 8.0, 16.0])
    cost = cost_of(_hours(np.array([80.0, 10.0, 5.0])), _layout(gpus), card_of("A100"))
    assert cost.gpu_hours_p50.tolist() == [80.0, 80.0, 80.0]


def test_the_most_specific_price_wins(tmp_path):
    table = read_prices(
        _write(
            tmp_path,
            "a100,,,on-demand,2.0,EUR,2026-05-01,list\n"
            "A100-80GB,gpu,,on-demand,1.5,EUR,2026-05-01,partition\n"
            "a100,gpu,physics,on-demand,1.0,EUR,2026-05-01,contract\n"
            "a100,,,preemptible,0.5,EUR,2026-05-01,list\n",
        )
    )
    card = card_of("A100")
    assert table.price_of(card).per_gpu_hour == 2.0
    assert table.price_of(card, partition="gpu").source == "partition"
    assert table.price_of(card, partition="gpu", account="physics").per_gpu_hour == 1.0
    assert table.price_of(card, preemptible=True).per_gpu_hour == 0.5
    assert table.price_of(card_of("H100")) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a100,,,on-demand,0,EUR,2026-05-01,x\n", r"prices.csv:2: price_per_gpu_hour must be"),
        ("a100,,,on-demand,-3,EUR,2026-05-01,x\n", "number above 0, not '-3'"),
        ("a100,,,on-demand,cheap,EUR,2026-05-01,x\n", "number above 0, not 'cheap'"),
        ("a100,,,on-demand,nan,EUR,2026-05-01,x\n", "number above 0"),
        ("a100,,,spot,1,EUR,2026-05-01,x\n", "kind must be on-demand or preemptible"),
        ("a1000,,,on-demand,1,EUR,2026-05-01,x\n", "did you mean"),
        ("a100,,,on-demand,1,EUR,May,x\n", "YYYY-MM-DD"),
        ("a100,,,on-demand,1,,2026-05-01,x\n", "currency is empty"),
        ("", "has no lines"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    with pytest.raises(PlannerError, match=message) as error:
        read_prices(_write(tmp_path, line))
    assert "\n" not in str(error.value)


def test_missing_and_unknown_columns_are_named(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("gpu,price\n", encoding="utf-8")
    with pytest.raises(PlannerError, match="column kind is missing"):
        read_prices(path)
    path.write_text(HEADER.strip() + ",colour\n", encoding="utf-8")
    with pytest.raises(PlannerError, match="unknown column colour"):
        read_prices(path)
    with pytest.raises(PlannerError, match="cannot read the price table"):
        read_prices(tmp_path / "absent.csv")


def test_default_prices_carry_date_and_source():
    price = card_price(card_of("A100"))
    assert price.date == "2026-11-22"
    assert price.source.startswith("SkyPilot catalog")
    assert card_price(card_of("B300")) is None


def test_billing_units_are_a_sum_or_the_dearest_resource():
    text = "CPU=1.0,Mem=0.25G,GRES/gpu=16"
    job = {"cpus": 32.0, "mem_gib": 256.0, "gpus": 4.0, "nodes": 1.0}
    assert read_billing_weights(text).units_per_hour(**job) == 160.0
    assert read_billing_weights(text, maximum=True).units_per_hour(**job) == 64.0
    typed = read_billing_weights("GRES/gpu:a100=20")
    assert typed.units_per_hour(**job) == 80.0


def test_a_card_hour_costs_its_share_of_the_nodes_units():
    weights = read_billing_weights("CPU=0.5,GRES/gpu=12")
    price = gpu_hour_price(weights, 0.1, cpus_per_gpu=8, mem_gib_per_gpu=64, gpus_per_node=4)
    assert price == pytest.approx(1.6)


@pytest.mark.parametrize("text", ["", "gpu", "CPU=-1", "CPU=one", "CPU=1;Mem=2", "CPU=1.2.3"])
def test_weights_that_are_none_are_refused(text):
    with pytest.raises(PlannerError, match="TRESBillingWeights"):
        read_billing_weights(text)


@given(st.floats(0.001, 1000), st.floats(0.001, 1000), st.floats(1, 512))
def test_the_dearest_resource_is_never_more_than_the_sum(cpu, gpu, count):
    text = f"CPU={cpu:.6f},GRES/gpu={gpu:.6f}"
    job = {"cpus": count, "mem_gib": 1.0, "gpus": count, "nodes": 1.0}
    dearest = read_billing_weights(text, maximum=True).units_per_hour(**job)
    assert 0 < dearest <= read_billing_weights(text).units_per_hour(**job)
