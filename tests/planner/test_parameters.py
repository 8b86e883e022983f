"""The planner's closed forms equal the model's own parameters, counted on the meta device."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.figures import figures_of
from hpcjobs.run.experiment import Method
from hpcjobs.run.model_config import AuxDims, Model, TextDims, VisionDims
from hpcjobs.train.mgm.counts import count_trainable
from hpcjobs.train.mgm.model import build_model

torch = pytest.importorskip("torch")


def composed(model, tmp_path, *words):
    base = [f"model={model}", "train.global_batch=8", "data=demo", *words]
    return compose_experiment(base, here=tmp_path)[1]


@pytest.mark.parametrize("model", ["mgm_2b", "mgm_tiny"])
def test_the_configurations_that_ship_are_counted_exactly(model, tmp_path):
    experiment = composed(model, tmp_path, "method=full")
    with torch.device("meta"):
        built = build_model(experiment.model)
    assert figures_of(experiment).total == sum(p.numel() for p in built.parameters())


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

    experiment = replace(
        composed("mgm_tiny", tmp_path_factory.getbasetemp(), "method=full"), model=model
    )
    with torch.device("meta"):
        built = build_model(model)
    assert figures_of(experiment).total == sum(p.numel() for p in built.parameters())
