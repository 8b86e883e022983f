"""What the search chooses fits, keeps the batch and the limits, and is beaten by nothing."""

from dataclasses import replace

import numpy as np
import pytest
from asks import A100, L40S, RTX_4090, ask, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cards import card_of
from planner.errors import PlannerError
from planner.estimate import predict
from planner.layout import Layout
from planner.models.read import architecture_of
from planner.plan import CardOffer
from planner.search.conditions import Conditions
from planner.search.evaluate import Evaluator
from planner.search.limits import Limits
from planner.search.nearest import groups_of
from planner.search.options import STAGES, Option
from planner.search.search import search
from planner.search.table import TIE, table_of, within

asks = st.builds(
    lambda batch, length, method, cards, objective, deadline, budget: ask(
        tuple(CardOffer(gpu, per_node, most) for gpu, per_node, most in cards),
        batch,
        workload=workload(seq_len=length, method=method),
        objective=objective,
        deadline_hours=deadline,
        budget=budget,
    ),
    st.sampled_from([1, 12, 64, 128, 480]),
    st.sampled_from([256, 1024, 4096]),
    st.sampled_from(["lora", "full", "qlora"]),
    st.lists(
        st.tuples(st.sampled_from([RTX_4090, L40S, A100]), st.integers(1, 8), st.integers(1, 24)),
        min_size=1,
        max_size=2,
        unique_by=lambda card: card[0],
    ),
    st.sampled_from(["cheapest", "fastest"]),
    st.none() | st.floats(1, 100),
    st.none() | st.floats(5, 500),
)


@settings(max_examples=25, deadline=None)
@given(asks)
def test_the_choice_is_feasible_exact_and_best(question):
    plan = search(question)
    table = _table(question)
    good = within(question, table)
    if plan.chosen is None:
        assert not np.any(good)
        assert plan.nearest
        return
    chosen, figures = plan.chosen, plan.chosen.prediction
    assert chosen.micro_batch * chosen.grad_accum * chosen.gpus == question.global_batch
    assert figures.fits
    assert figures.memory.process_p95_bytes <= card_of(chosen.gpu).usable_bytes
    if question.deadline_hours is not None:
        assert figures.hours.hours_p95 <= question.deadline_hours
    if question.budget is not None:
        assert figures.cost.cost_p95 <= question.budget
    values = {"cheapest": table.cost, "fastest": table.time}[question.objective]
    own = {"cheapest": figures.cost.cost_p50, "fastest": figures.hours.wall_hours_p50}
    assert own[question.objective] <= values[good].min() * (1 + TIE) * (1 + 1e-9)
    ties = good & (values <= values[good].min() * (1 + TIE))
    if question.objective == "cheapest":
        assert STAGES.index(chosen.sharding) == table.ranks[ties, 0].min()
    else:
        assert figures.cost.cost_p50 == table.cost[ties].min()


def test_of_equally_cheap_plans_of_one_stage_the_fastest_is_chosen():
    question = ask(shardings=("zero2",), offloads=("none",))
    table = _table(question)
    good = within(question, table)
    ties = good & (table.cost <= table.cost[good].min() * (1 + TIE))
    assert search(question).chosen.prediction.hours.wall_hours_p50 == table.time[ties].min()


@settings(max_examples=15, deadline=None)
@given(asks)
def test_nothing_feasible_beats_the_front_and_the_front_beats_the_rest(question):
    plan = search(question)
    table = _table(question)
    good = within(question, table)
    front = [plan.feasible[i].prediction for i in plan.pareto]
    points = [(p.cost.cost_p50, p.hours.wall_hours_p50) for p in front]
    assert points == sorted(points)
    for cost, hours in points:
        assert not np.any(good & (table.cost < cost) & (table.time < hours))
    for cost, hours in zip(table.cost[good], table.time[good], strict=True):
        assert any(c <= cost and h <= hours for c, h in points)


def _table(question):
    evaluator = Evaluator(architecture_of(question.workload.model), question.workload, Conditions())
    return table_of(groups_of(question, evaluator, Limits()))


def test_many_candidates_at_once_are_the_same_as_one_by_one():
    question = ask()
    evaluator = Evaluator(architecture_of("gemma-2b"), question.workload, Conditions())
    offer = question.offers[1]
    layouts = [(1, 128, 1, 1), (4, 4, 8, 8), (8, 1, 16, 8)]
    columns = Layout(*(np.array(column, dtype=float) for column in zip(*layouts, strict=True)))
    option = Option("zero2", "none", grad_ckpt=True, loss="fp32")
    group = evaluator.group(offer, option, columns)
    card = card_of(offer.gpu)
    for place, numbers in enumerate(layouts):
        one = predict(
            evaluator.architecture,
            option.applied(question.workload),
            Layout(*map(float, numbers)),
            card,
        )
        many = group.prediction(place)
        assert many.fits == one.fits
        assert many.binding == one.binding
        assert many.memory.process_p95_bytes == pytest.approx(one.memory.process_p95_bytes)
        assert many.step.p50_s == pytest.approx(one.step.p50_s)
        assert many.hours.hours_p95 == pytest.approx(one.hours.hours_p95)
        assert many.cost.cost_p95 == pytest.approx(one.cost.cost_p95)


def test_a_deadline_buys_more_cards_and_no_more_than_it_needs():
    free = search(ask())
    hurried = search(ask(deadline_hours=free.chosen.prediction.hours.hours_p95 / 4))
    assert free.chosen.gpus < hurried.chosen.gpus
    assert free.chosen.prediction.cost.cost_p50 <= hurried.chosen.prediction.cost.cost_p50


def test_the_fastest_costs_no_more_than_its_budget():
    fastest = search(ask(objective="fastest"))
    budget = fastest.chosen.prediction.cost.cost_p95 * 0.9
    bounded = search(ask(objective="fastest", budget=budget))
    assert bounded.chosen.prediction.cost.cost_p95 <= budget
    assert bounded.chosen.prediction.hours.hours_p50 >= fastest.chosen.prediction.hours.hours_p50


def test_a_preemptible_offer_is_cheaper_and_takes_longer():
    offers = (CardOffer(A100, 8, 8, 2.0), CardOffer(A100, 8, 8, 1.0, preemptible=True))
    plan = search(ask(offers))
    assert plan.chosen.preemptible
    dear = search(ask(offers[:1]))
    assert plan.chosen.prediction.cost.cost_p50 < dear.chosen.prediction.cost.cost_p50
    assert any(row["parameter"] == "price per card and hour" for row in plan.sensitivity)


def test_a_card_without_a_price_does_not_win_by_that():
    offers = (CardOffer(A100, 8, 8, 2.0), CardOffer("V100-32GB", 8, 8))
    question = replace(ask(offers), workload=workload(precision="fp16"))
    plan = search(question)
    if card_of("V100-32GB").price_ondemand is None:
        assert plan.chosen.gpu == A100


def test_without_any_price_gpu_hours_decide():
    conditions = Conditions(currency="EUR")
    plan = search(ask(), conditions=conditions)
    assert plan.chosen is not None
    assert "no price is known" in plan.why
    assert np.isnan(plan.chosen.prediction.cost.cost_p50)
    assert plan.sensitivity == ()


def test_without_samples_the_seconds_of_a_step_decide():
    plan = search(ask(workload=workload(samples=None)))
    assert plan.chosen.prediction.hours is None
    assert plan.chosen.prediction.fits


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"deadline_hours": 0.0}, "deadline_hours must be above 0"),
        ({"budget": -1.0}, "budget must be above 0"),
        ({"offers": (CardOffer(A100, 8, 8, 0.0),)}, "a price must be above 0"),
        ({"offers": (CardOffer("A1000", 8, 8),)}, "no card is called 'A1000'"),
        ({"offers": (CardOffer(A100, 0, 8),)}, "gpus_per_node must be at least 1"),
        ({"micro_batches": ()}, "nothing can be searched"),
        ({"shardings": ("zero0",), "offloads": ("optimizer",)}, "nothing can be searched"),
        (
            {"workload": workload(samples=None), "deadline_hours": 5.0},
            "deadline_hours needs the length of the run",
        ),
    ],
)
def test_a_question_that_cannot_be_answered_is_one_line(changes, said):
    with pytest.raises(PlannerError) as error:
        search(ask(**changes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
