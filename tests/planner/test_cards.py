import csv
from importlib.resources import files

import pytest

from planner.cards import GIB, assumed_card, card_names, card_of
from planner.errors import PlannerError


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("A100", "A100-SXM4-80GB"),
        ("a100", "A100-SXM4-80GB"),
        ("A100-80GB", "A100-SXM4-80GB"),
        ("a100_80gb", "A100-SXM4-80GB"),
        ("A100 80G", "A100-SXM4-80GB"),
        ("A100 80GiB", "A100-SXM4-80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("nvidia_a100_80gb", "A100-SXM4-80GB"),
        ("a100_40gb", "A100-SXM4-40GB"),
        ("A100 40G (2 nodes x 4)", "A100-SXM4-40GB"),
        ("h100", "H100-SXM5"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("H100 96GB HBM2e 500W", "H100-SXM-96GB"),
        ("H200 141GB, 400Gb/s/GPU RDMA", "H200-SXM"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("RTX 4090 (PCIe4 x16, no NVLink)", "RTX 4090"),
        ("RTX 4090 24G", "RTX 4090"),
        ("rtx_3090", "RTX 3090"),
        ("gpu:a100:4", "A100-SXM4-80GB"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("V100", "V100-SXM2-16GB"),
        ("T4 16GB", "T4"),
        ("A10", "A10"),
        ("a10g", "A10G"),
        ("A6000", "RTX A6000"),
        ("A6000 Ada 48GB", "RTX 6000 Ada"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIe-80GB"),
        ("NVIDIA H100 NVL", "H100-NVL"),
    ],
)
def test_usual_spellings_find_the_card(spelling, name):
    assert card_of(spelling).name == name


@pytest.mark.parametrize("name", card_names())
def test_every_name_finds_itself_and_is_plausible(name):
    card = card_of(name)
    assert card.name == name
    assert 0.9 * card.memory_gib * GIB < card.usable_bytes < card.memory_gib * GIB
    assert card.fp32_tflops < card.half_tflops
    assert card.memory_gb_per_s > card.host_gb_per_s
    assert card.price_ondemand is None or 0 < card.price_ondemand < 20
    assert (card.price_ondemand is None and card.price_spot is None) or card.price_date


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("A100-90GB", "did you mean A100-SXM4-80GB"),
        ("RTX 3090 48GB", "did you mean RTX 3090"),
        ("B2000", "did you mean B200"),
        ("", "known: "),
        ("quantum", "known: "),
    ],
)
def test_an_unknown_card_is_one_line_with_a_hint(wrong, hint):
    with pytest.raises(PlannerError) as error:
        card_of(wrong)
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "assumed"),
    [
        ("a100", True),
        ("A100-PCIe", True),
        ("v100", True),
        ("h100", True),
        ("a100_40gb", False),
        ("A100-SXM4-80GB", False),
        ("A10", False),
        ("h20", False),
        ("rtx4090", False),
        ("NVIDIA GH200 480GB", False),
    ],
)
def test_a_name_of_cards_of_several_sizes_is_known_as_such(name, assumed):
    assert assumed_card(name) is assumed


def test_cards_without_bf16_compute_in_fp16():
    for name in ("V100", "T4"):
        card = card_of(name)
        assert not card.has_bf16
        assert card.half_tflops == card.fp16_tflops


def test_peaks_are_dense_and_accumulate_in_fp32():
    assert card_of("RTX 3090").half_tflops == pytest.approx(71, rel=0.01)
    assert card_of("RTX 4090").half_tflops == pytest.approx(165, rel=0.01)
    assert card_of("H20").half_tflops == pytest.approx(148, rel=0.01)


def test_every_cell_holds_one_figure_and_every_figure_a_source():
    text = (files("planner") / "data" / "gpus.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        assert row["spec_source"]
        assert row["usable_source"]
        for name, value in row.items():
            if name.endswith(("_gib", "tflops", "per_s", "_w")) and value:
                float(value)
        if row["price_ondemand"] or row["price_spot"]:
            assert row["price_source"]
            assert row["price_date"] == "2026-11-22"
