"""The planner's closed forms equal the model's own parameters, counted on the meta device."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.figures import count_parameters, figures_of
from hpcjobs.run.experiment import Method
from hpcjobs.run.model_config import AuxDims, Model, TextDims, VisionDims
from hpcjobs.train.mgm.counts import count_trainable
from hpcjobs.train.mgm.model import build_model
from planner.states import checkpoint_bytes, model_states

torch = pytest.importorskip("torch")


def composed(model, tmp_path, *words):
    base = [f"model={model}", "train.global_batch=8", "data=demo", *words]
    return compose_experiment(base, here=tmp_path)[1]


@pytest.mark.parametrize("model", ["mgm_2b", "mgm_tiny"])
def test_the_configurations_that_ship_are_counted_exactly(model, tmp_path):
    experiment = composed(model, tmp_path)
    with torch.device("meta"):
        built = build_model(experiment.model)
    assert count_parameters(experiment).total == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("kind", ["lora", "full", "projector"])
@pytest.mark.parametrize("model", ["mgm_2b", "mgm_tiny"])
def test_what_each_method_trains_is_counted_exactly(model, kind, tmp_path):
    experiment = composed(model, tmp_path, f"method={kind}")
    expected = count_trainable(experiment.model, Method(kind=kind))
    assert figures_of(experiment).trainable == expected


sizes = st.sampled_from([8, 16, 24])
models = st.builds(
    Model,
    kind=st.just("mgm"),
    weights=st.just("random"),
    max_length=st.just(64),
    text=st.builds(
        TextDims, hidden=sizes, layers=st.integers(1, 3), heads=st.just(2), kv_heads=st.sampled_from([1, 2]),
        head_dim=sizes, intermediate=sizes, vocab=st.integers(10, 40), max_positions=st.just(64),
    ),
    vision=st.builds(
        VisionDims, hidden=sizes, layers=st.integers(2, 4), heads=st.just(2), intermediate=sizes,
        picture_px=st.just(32), patch_px=st.sampled_from([8, 16]),
    ),
    aux=st.builds(
        AuxDims, widths=st.tuples(*[sizes] * 4), depths=st.tuples(*[st.integers(1, 2)] * 4),
        picture_px=st.just(64),
    ),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(models)
def test_any_dimensions_are_counted_exactly(tmp_path_factory, model):
    from dataclasses import replace

    experiment = replace(composed("mgm_tiny", tmp_path_factory.getbasetemp()), model=model)
    with torch.device("meta"):
        built = build_model(model)
    assert count_parameters(experiment).total == sum(p.numel() for p in built.parameters())


@given(st.integers(1, 10**9), st.sampled_from([1, 2, 8, 80]), st.sampled_from([2, 4]))
def test_a_higher_stage_never_needs_more_memory(trainable, world_size, bytes_per_weight):
    totals = [
        model_states(2 * trainable, trainable, stage, world_size, bytes_per_weight).total_bytes
        for stage in (0, 1, 2)
    ]
    assert totals == sorted(totals, reverse=True)
    if world_size == 1:
        assert len(set(totals)) == 1


@pytest.mark.parametrize(("stage", "expected_gb"), [(0, 120.0), (1, 31.4), (2, 16.6)])
def test_the_zero_papers_example_comes_out(stage, expected_gb):
    """7.5 B parameters on 64 cards, all trained: figure 1 of arXiv 1910.02054."""
    states = model_states(7_500_000_000, 7_500_000_000, stage, 64, 2)
    assert states.total_bytes / 1e9 == pytest.approx(expected_gb, rel=0.005)


def test_a_checkpoint_holds_weights_master_copy_and_moments():
    assert checkpoint_bytes(32_870_656) == 32_870_656 * 16
