import pytest

from planner.architecture import Linear
from planner.layout import layout_of
from planner.models.read import architecture_of
from planner.read_workload import read_workload
from planner.time.flops import flops_of
from planner.time.mask import (
    head_passes,
    language_passes,
    projector_passes,
    ranks_of,
    tower_passes,
)

_TOKENS = 1024


def _flops(model, **fields):
    work = read_workload({"model": model, "seq_len": _TOKENS, **fields})
    return flops_of(architecture_of(model), work, layout_of(work))


def _weights(tower):
    """Weights in the linear layers of a tower that a token meets."""
    return sum(
        group.count * sum(linear.matmul_weights for linear in group.linears)
        for group in tower.groups
    )


@pytest.mark.parametrize(
    ("method", "ckpt", "times"),
    [("full", False, 6), ("full", True, 8), ("lora", False, 4), ("lora", True, 6)],
)
def test_operations_a_token_by_method_and_checkpointing(method, ckpt, times):
    llama = architecture_of("llama-2-7b")
    found = _flops("llama-2-7b", method=method, grad_ckpt=ckpt)
    expected = times * _weights(llama.language_model) * _TOKENS
    assert found["language_model"] == pytest.approx(expected)
    head = (6 if method == "full" else 4) * llama.vocab * llama.language_model.hidden * _TOKENS
    assert found["head"] == pytest.approx(head)


def test_causal_attention_is_half_the_square_and_flash_computes_scores_again():
    tower = architecture_of("llama-2-7b").language_model
    flash = _flops("llama-2-7b", method="full", grad_ckpt=False)["attention"]
    one_pass = tower.layers * 4 * tower.hidden * _TOKENS**2
    assert flash == pytest.approx(one_pass / 2 * (1 + 2.5))
    eager = _flops("llama-2-7b", method="full", grad_ckpt=False, attention="eager")["attention"]
    assert eager == pytest.approx(one_pass * (1 + 2))


def test_adapters_count_their_rank_in_every_pass():
    rank_16 = _flops("llama-2-7b", method={"kind": "lora", "r": 16}, grad_ckpt=False)["adapters"]
    rank_64 = _flops("llama-2-7b", method={"kind": "lora", "r": 64}, grad_ckpt=False)["adapters"]
    assert rank_64 == pytest.approx(4 * rank_16)
    assert "adapters" not in _flops("llama-2-7b", method="full")


def test_a_frozen_tower_runs_forward_only_and_a_trained_one_three_times():
    llava = architecture_of("llava-1.5-7b")
    frozen = _flops("llava-1.5-7b", method="lora")["vision_tower"]
    tower = llava.towers[0]
    assert frozen == pytest.approx(2 * _weights(tower) * tower.tokens)
    trained = _flops("llava-1.5-7b", method="full", towers="trainable", grad_ckpt=False)
    assert trained["vision_tower"] == pytest.approx(3 * frozen)


def test_more_images_are_more_tower_work_and_none_is_none():
    one = _flops("llava-1.5-7b", method="lora")["vision_tower"]
    assert _flops("llava-1.5-7b", method="lora", images_per_sample=3)[
        "vision_tower"
    ] == pytest.approx(3 * one)
    assert _flops("llava-1.5-7b", method="lora", images_per_sample=0)["vision_tower"] == 0


def test_a_mixture_counts_active_experts_only():
    model = "mixtral-8x7b"
    found = _flops(model, method="full", grad_ckpt=False)["language_model"]
    tower = architecture_of(model).language_model
    assert found == pytest.approx(6 * _weights(tower) * _TOKENS)
    assert found < 6 * _TOKENS * 0.35 * tower.parameters


def test_quantised_weights_cost_the_same_operations():
    assert _flops("llama-2-7b", method="qlora") == _flops("llama-2-7b", method="lora")


def test_passes_follow_what_is_trained():
    def work(**fields):
        return read_workload({"model": "x", "seq_len": 8, **fields})

    lora = language_passes(work(method="lora", grad_ckpt=True))
    assert (lora.recompute, lora.inputs, lora.weights) == (1, 1, 0)
    # A projector below the language model needs the gradient through all of it.
    projector = language_passes(work(method="projector", grad_ckpt=False))
    assert (projector.recompute, projector.inputs, projector.weights) == (0, 1, 0)
    assert not tower_passes(work(method="full")).backward
    assert tower_passes(work(method="lora", towers="lora")).weights == 0
    assert projector_passes(work(method="projector")).weights == 1
    assert projector_passes(work(method="projector")).inputs == 0
    assert head_passes(work(method="lora"), tied=False).weights == 0
    emb = {"kind": "lora", "train_embeddings": True}
    assert head_passes(work(method=emb), tied=True).weights == 1
    assert head_passes(work(method=emb), tied=False).weights == 0


@pytest.mark.parametrize(
    ("targets", "expected"),
    [("all-linear", (8, 8, 8)), ("attention", (8, 0, 0)), (["up"], (0, 8, 0))],
)
def test_adapters_stand_where_the_targets_say(targets, expected):
    linears = (Linear("o_proj", 4, 4), Linear("up", 4, 8), Linear("down", 8, 4))
    method = {"kind": "lora", "r": 8, "targets": targets}
    work = read_workload({"model": "x", "seq_len": 8, "method": method})
    assert ranks_of(linears, work) == expected
    full = read_workload({"model": "x", "seq_len": 8, "method": "full"})
    assert ranks_of(linears, full) == (0, 0, 0)
