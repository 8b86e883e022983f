"""Workloads are read strictly: what is wrong is named, what is missing has a documented default."""

import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import PlannerError
from planner.read_workload import read_workload
from planner.workload import GradCkpt, Interconnect, Method, Workload

LEAST = {"model": "gemma-2b", "method": "lora", "seq_len": 2048}
DOCS = Path(__file__).parents[2] / "docs" / "workload.md"


def test_three_fields_make_a_workload_and_the_rest_has_defaults() -> None:
    workload = read_workload(LEAST)
    assert workload.method == Method(kind="lora")
    assert workload.seq_len.values == (2048,)
    assert workload.grad_ckpt.language_model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"micro_bach": 1}, "unknown field micro_bach; did you mean 'micro_batch'?"),
        ({"method": {"kind": "lora", "rr": 8}}, "unknown field method.rr; did you mean 'r'?"),
        ({"method": "loro"}, "method.kind: no such choice: 'loro'; write one of full, lora"),
        ({"method": 3}, "method: expected an object"),
        ({"sharding": "zero4"}, "sharding: no such choice: 'zero4'; write one of none, ddp, zero0"),
        ({"micro_batch": "4"}, "micro_batch: expected an integer"),
        ({"micro_batch": True}, "micro_batch: expected an integer"),
        ({"micro_batch": 0}, "micro_batch must be at least 1, not 0"),
        ({"micro_batch": -3}, "micro_batch must be at least 1, not -3"),
        ({"gpus": 12}, "gpus (12) must be a multiple of gpus_per_node (8)"),
        ({"gpus": 2}, "sharding none is one card, not 2"),
        ({"logit_share": 0}, "logit_share must be in (0, 1]"),
        ({"seq_len": []}, "seq_len is an empty list"),
        ({"seq_len": 0}, "seq_len must be at least 1"),
        ({"seq_len": [512, "x"]}, "seq_len.values[1]: expected an integer"),
        ({"seq_len": {"values": []}}, "seq_len.values must be a list of at least one length"),
        ({"seq_len": {"values": [1], "weights": [0]}}, "seq_len.weights[0] must be a number"),
        ({"seq_len": {"values": [1], "weights": [1, 2]}}, "as many as seq_len.values"),
        ({"seq_len": {"mean": 9, "mx": 1}}, "unknown field seq_len.mx"),
        ({"seq_len": {"mean": 0}}, "seq_len.mean must be a number above 0"),
        ({"seq_len": "long"}, "seq_len must be a number, a list of lengths"),
        ({"epochs": float("nan")}, "epochs must be a number above 0"),
        ({"epochs": -1}, "epochs must be a number above 0"),
        ({"price_per_gpu_hour": 0}, "price_per_gpu_hour must be a number above 0"),
        ({"interconnect": {"node_gb_per_s": 0}}, "interconnect.node_gb_per_s must be a number"),
        ({"method": {"kind": "lora", "dropout": 1}}, "method.dropout must be in [0, 1)"),
        ({"method": {"kind": "lora", "r": 0}}, "method.r must be at least 1"),
        ({"seq_len": 10**10}, "seq_len must be at most 1e+09"),
        ({"seq_len": {"mean": 100, "std": 1e300}}, "seq_len.std must be at most 1e+09"),
        ({"seq_len": {"mean": 1e300}}, "seq_len.mean must be at most 1e+09"),
        ({"seq_len": {"mean": 1e-300}}, "seq_len.mean must be at least 1"),
        ({"seq_len": 2048.0}, "seq_len must be a whole number, not 2048: write 2048"),
        ({"micro_batch": 10**400}, "micro_batch"),
        ({"micro_batch": 2.5}, "micro_batch: expected an integer, got a number"),
        ({"gpus": 10**12}, "gpus must be at most 1e+09"),
        ({"samples": 10**30}, "samples must be at most 1e+18"),
        ({"price_per_gpu_hour": 1e308}, "price_per_gpu_hour must be at most 1e+06"),
        ({"price_per_gpu_hour": "2"}, "price_per_gpu_hour: expected a number or null, got text"),
        ({"model": 3}, "model: expected text or an object, got an integer"),
        ({"method": [3]}, "method: expected an object, got a list"),
        ({"method": {"kind": "projector", "train_projector": False}}, "trains nothing"),
        ({"offload": "optimizer"}, "offload optimizer needs sharding zero1 to zero3 or fsdp"),
        (
            {"offload": "optimizer_params", "sharding": "zero2"},
            "offload optimizer_params needs sharding zero3 or fsdp",
        ),
    ],
)
def test_a_mistake_is_named_in_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(PlannerError) as caught:
        read_workload(LEAST | change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", LEAST)
def test_each_needed_field_is_asked_for(field: str) -> None:
    with pytest.raises(PlannerError, match=field):
        read_workload({key: value for key, value in LEAST.items() if key != field})


@pytest.mark.parametrize("raw", [3, None, [], "x"])
def test_what_is_no_object_is_refused(raw: object) -> None:
    with pytest.raises(PlannerError, match="must be a JSON object"):
        read_workload(raw)  # type: ignore[arg-type]


@given(
    mean=st.floats(1, 1e5),
    relative_std=st.floats(0.01, 3),
    longest=st.integers(1, 200_000),
)
def test_a_log_normal_never_passes_its_cut_and_keeps_its_mean(
    mean: float, relative_std: float, longest: int
) -> None:
    raw = {"mean": mean, "std": mean * relative_std, "max": longest}
    lengths = read_workload(LEAST | {"seq_len": raw}).seq_len
    assert max(lengths.values) <= longest
    assert sum(lengths.weights) == pytest.approx(1)
    drawn = sum(v * w for v, w in zip(lengths.values, lengths.weights, strict=True))
    assert drawn <= max(1, mean * 1.01 + 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(name=st.sampled_from(Workload.__struct_fields__), value=json_values)
def test_no_value_ends_in_anything_but_a_workload_or_a_message(name: str, value: object) -> None:
    try:
        read_workload(LEAST | {name: value})
    except PlannerError as error:
        assert "\n" not in str(error) or isinstance(value, str | dict)


def test_the_page_has_an_example_of_every_field_and_each_is_accepted() -> None:
    cells = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]*) \| ([^|]*) \|", DOCS.read_text(), re.MULTILINE
    )
    shown = {}
    for names, _, examples in cells:
        fields = re.findall(r"\w+", names)
        values = [json.loads(word) for word in re.findall(r"`([^`]*)`", examples)]
        for position, field in enumerate(fields):
            shown[field] = values[min(position, len(values) - 1)]
    assert {*Workload.__struct_fields__, *Method.__struct_fields__} - {"model"} <= {*shown}
    for field in Method.__struct_fields__:
        read_workload(LEAST | {"method": {"kind": "qlora"} | {field: shown[field]}})
    for field in Workload.__struct_fields__:
        # Eight cards under ZeRO-3 take every example.
        read_workload(LEAST | {"sharding": "zero3"} | {field: shown[field]})


def test_the_defaults_on_the_page_are_those_of_the_code() -> None:
    text = DOCS.read_text()
    for struct in (Workload, Method):
        for field in msgspec.structs.fields(struct):
            if field.name in ("model", "method", "kind", "seq_len", "grad_ckpt", "interconnect"):
                continue
            row = next(line for line in text.splitlines() if f"`{field.name}`" in line[:70])
            assert json.dumps(field.default).removesuffix(".0") in row.replace("`", "")
    assert GradCkpt() == GradCkpt(language_model=True, towers=True)
    assert Interconnect().node_gb_per_s is None
