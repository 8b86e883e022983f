"""Every neighbour of the choice has a reason, and what is impossible has a nearest plan."""

import re
from dataclasses import replace

from asks import A100, RTX_4090, ask, workload

from planner.cards import card_of
from planner.plan import CardOffer
from planner.search.limits import Limits
from planner.search.search import search

SMALL = (CardOffer(RTX_4090, 8, 8),)


def reasons(plan):
    return {row.change: row.reason for row in plan.rejected}


def test_neighbours_have_reasons():
    plan = search(ask(workload=workload(seq_len=2048)))
    found = reasons(plan)
    assert f"micro batch {2 * plan.chosen.micro_batch}" in found
    assert any(change.startswith("checkpointing") for change in found)
    assert any(change.startswith("ZeRO-") for change in found)
    assert any(change.endswith(("cards", "card")) for change in found)
    other = RTX_4090 if plan.chosen.gpu == A100 else A100
    assert other in found
    for reason in found.values():
        assert re.search(
            r"out of memory by [\d.]+ GiB|costs|takes|do not divide|misses|over", reason
        )


def test_memory_is_the_reason_where_it_is_too_small():
    lengths = (512, 1024, 2048, 4096)
    plans = [search(ask(SMALL, workload=workload(seq_len=n), grad_ckpt=(True,))) for n in lengths]
    last = [plan for plan in plans if plan.chosen is not None][-1]
    out = [reason for reason in reasons(last).values() if reason.startswith("out of memory by")]
    assert out, reasons(last)


def test_the_deadline_is_the_reason_for_fewer_cards():
    free = search(ask(SMALL))
    hours = free.chosen.prediction.hours.hours_p95
    plan = search(ask(SMALL, deadline_hours=hours / 3))
    fewer = reasons(plan)[f"{plan.chosen.gpus // 2} card{'s' if plan.chosen.gpus > 2 else ''}"]
    assert fewer.startswith("misses the deadline by ")


def test_a_given_value_is_named_as_such():
    plan = search(ask(micro_batches=(1,)), limits=Limits(gpus=4))
    found = reasons(plan)
    assert any("was given" in reason for reason in found.values())
    assert plan.chosen.gpus == 4
    assert plan.chosen.micro_batch == 1


def test_chunked_cross_entropy_unlocks_the_next_option():
    long = workload(seq_len=2048, grad_ckpt=True)
    plan = search(ask(SMALL, workload=long, grad_ckpt=(True,)))
    assert plan.unlock.change == "chunked cross-entropy"
    assert plan.unlock.frees_bytes > 2**30
    assert re.fullmatch(r"(micro batch \d+|no checkpointing) fits, at .*", plan.unlock.then)


def test_what_unlocks_really_does():
    long = workload(seq_len=2048)
    tight = ask(SMALL, workload=long, grad_ckpt=(True,))
    plan = search(tight)
    larger = re.match(r"micro batch (\d+)", plan.unlock.then)
    wanted = (
        {"micro_batches": (int(larger[1]),)}
        if larger
        else {"grad_ckpt": (False,), "micro_batches": (plan.chosen.micro_batch,)}
    )
    limits = Limits(gpus=plan.chosen.gpus)
    shardings = (plan.chosen.sharding,)
    question = replace(tight, shardings=shardings, offloads=("none",), **wanted)
    assert search(question, limits=limits).chosen is None
    assert search(replace(question, losses=("chunked",)), limits=limits).chosen is not None


def test_a_full_fine_tuning_on_small_cards_names_what_would_fit():
    question = ask(
        (CardOffer(RTX_4090, 1, 1),),
        workload=workload(method="full"),
        shardings=("zero0", "zero1", "zero2"),
        offloads=("none",),
    )
    plan = search(question)
    assert plan.chosen is None
    assert plan.feasible == plan.rejected == plan.pareto == ()
    assert plan.nearest.startswith("no configuration fits into memory: the smallest needs ")
    assert "Possible instead: " in plan.nearest
    assert "\n" not in plan.nearest


def test_the_nearest_plan_is_a_plan():
    question = ask(
        (CardOffer(RTX_4090, 8, 8),),
        workload=workload(method="full", seq_len=8192),
        shardings=("zero0",),
        offloads=("none",),
        grad_ckpt=(False,),
    )
    plan = search(question)
    assert plan.chosen is None
    card = re.search(r"cards of [\d.]+ GB \((.+?)\)", plan.nearest)
    if card:
        assert card_of(card[1]).usable_bytes > card_of(RTX_4090).usable_bytes
    first = plan.nearest.split("Possible instead: ")[1]
    assert first


def test_a_deadline_that_cannot_be_met_says_what_can():
    plan = search(ask(SMALL, deadline_hours=0.05))
    assert plan.chosen is None
    assert plan.nearest.startswith("the deadline of 0.05 h cannot be met: the fastest")
    assert "a deadline of " in plan.nearest


def test_a_budget_that_is_too_small_says_what_is_enough():
    plan = search(ask(SMALL, budget=0.01))
    assert plan.chosen is None
    assert plan.nearest.startswith("the budget of 0.01 is too small: the cheapest costs ")
    assert "a budget of " in plan.nearest


def test_the_price_moves_the_cost_by_its_own_share():
    plan = search(ask())
    row = next(row for row in plan.sensitivity if row["parameter"] == "price per card and hour")
    cost = plan.chosen.prediction.cost.cost_p50
    assert row["cost_low"] == round(0.8 * cost, 2)
    assert row["cost_high"] == round(1.2 * cost, 2)
    assert all(row["cost_low"] <= cost <= row["cost_high"] for row in plan.sensitivity)
