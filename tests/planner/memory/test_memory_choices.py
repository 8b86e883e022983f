"""What each choice of a workload does to the memory."""

import pytest
from memory_words import allocated, memory, peak_gib

from planner.prediction import GIB

FULL = {"method": "full", "gpus": 8}


def test_checkpointing_keeps_two_bytes_a_token_and_layer() -> None:
    on = allocated(model="llama-7b", grad_ckpt=True).phases["loss"]
    off = allocated(model="llama-7b", grad_ckpt=False).phases["loss"]
    assert float(off) - float(on) > 10 * GIB


def test_losses_by_the_room_that_their_logits_take() -> None:
    order = [peak_gib(loss=loss) for loss in ("fp32", "no_upcast", "chunked", "fused")]
    assert order == sorted(order, reverse=True)
    assert order[0] - order[-1] > 4


def test_stages_each_take_less_of_a_full_fine_tuning() -> None:
    order = [peak_gib(sharding=f"zero{stage}", **FULL) for stage in (0, 1, 2, 3)]
    assert order == sorted(order, reverse=True)


def test_offload_moves_states_from_the_card_to_the_host() -> None:
    on, off = (
        memory(sharding="zero2", offload=offload, **FULL) for offload in ("none", "optimizer")
    )
    assert float(off.allocated_bytes) < float(on.allocated_bytes) - 2 * GIB
    states = 1.5 * 16 * 2.506e9
    assert float(off.host_bytes) > states
    both = memory(sharding="zero3", offload="optimizer_params", **FULL)
    assert float(both.host_bytes) > float(off.host_bytes)
    assert "weights" not in both.components


def test_accumulation_keeps_gradients_between_micro_batches() -> None:
    once, often = (allocated(method="full", grad_accum=accumulation) for accumulation in (1, 4))
    assert float(often.components["gradients"]) >= 2.5e9 * 2
    assert float(often.phases["loss"]) > float(once.phases["loss"]) + 4 * GIB


def test_eight_bit_states_take_two_bytes() -> None:
    wide = allocated(method="full", precision="fp32")
    narrow = allocated(method="full", precision="fp32", optimizer="adamw_8bit")
    assert float(wide.components["optimizer"]) == pytest.approx(8 * 2.506e9, rel=0.01)
    assert float(narrow.components["optimizer"]) == pytest.approx(2.03 * 2.506e9, rel=0.01)


def test_a_variable_length_is_as_high_as_its_longest_sample() -> None:
    fixed = peak_gib(seq_len=2048)
    mixed = peak_gib(seq_len=[512] * 50 + [2048], steps=1000)
    few = peak_gib(seq_len=[512] * 50 + [2048], steps=1)
    assert mixed == pytest.approx(fixed)
    assert peak_gib(seq_len=512) <= few < mixed


def test_eager_scores_grow_with_the_square_of_the_length() -> None:
    words = {"model": "llama-7b", "attention": "eager", "grad_ckpt": False}
    at = [peak_gib(seq_len=n, **words) for n in (1024, 2048, 4096)]
    assert at[2] - at[1] > 2.5 * (at[1] - at[0])


def test_a_trained_tower_keeps_activations_and_a_frozen_one_does_not() -> None:
    frozen, trained = (
        float(allocated(model="llava-1.5-7b", towers=towers, sharding="zero2").phases["vision"])
        for towers in ("frozen", "trainable")
    )
    assert trained > frozen + 0.5 * GIB


def test_experts_take_the_memory_of_those_that_a_token_meets() -> None:
    dense = peak_gib(model="llama-7b", grad_ckpt=False)
    mixed = allocated(model="mixtral-8x7b", method="qlora", grad_ckpt=False)
    assert float(mixed.components["weights"]) < 0.35 * 2 * 46.7e9
    assert float(mixed.peak_bytes) / GIB > dense


def test_adapters_in_fp32_keep_fp32_inputs() -> None:
    at = [
        peak_gib(method={"kind": "lora", "adapter_dtype": dtype}, grad_ckpt=False)
        for dtype in ("bf16", "fp32")
    ]
    assert at[1] > at[0] + 2


def test_a_checkpoint_holds_weights_master_copy_and_states_of_what_is_trained() -> None:
    found = memory(sharding="zero2", gpus=8)
    assert float(found.checkpoint_bytes) == pytest.approx(19_611_648 * (2 + 4 + 8))
