"""What the scripts behind the published tables set, once per source, with the reference.

Metric and unit of a table that names none are decided here for the whole table, never for a row.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from planner.workload import Loss

GIB = float(1 << 30)
GB = 1e9

HF_LOSS = "fp32_shifted" if "fp32_shifted" in get_args(Loss) else "fp32"
"""Hugging Face before 4.50 upcasts and cuts the last position off with a copy; all sources are."""


@dataclass(frozen=True, slots=True)
class Source:
    """One table or page of measurements."""

    name: str
    metric: Literal["allocated", "reserved", "process"] | None
    metric_why: str
    unit_bytes: float
    unit_why: str
    settings: str
    """What its script sets and the row does not say."""
    references: str
    workload: dict[str, Any] = field(default_factory=dict)
    """Fields that hold for every row of the source."""


SOURCES: dict[str, Source] = {
    "qwen": Source(
        name="Qwen README",
        metric="process",
        metric_why="not stated; what the driver shows is what users read",
        unit_bytes=GB,
        unit_why='the README says "memory (GB)", and 81.0 a card on a card of 80 GiB cannot be GiB',
        settings="LoRA r64 on c_attn, c_proj, w1, w2 with dropout 0.05; padded to the full length; "
        "one card: bf16 autocast on bf16 weights, fp32 adapters (PEFT 0.5); several cards and "
        "Q-LoRA: DeepSpeed with pure bf16 or fp16, buckets of 2e8 (ZeRO-2) or hidden^2 (ZeRO-3); "
        "loss in fp32 under autocast; LoRA (emb) trains copies of wte and lm_head",
        references="QwenLM/Qwen: finetune.py, finetune/*.sh, finetune/ds_config_zero{2,3}.json",
        workload={"loss": HF_LOSS, "attention": "flash", "grad_accum": 8},
    ),
    "swift2": Source(
        name="ms-swift v2 benchmark",
        metric="reserved",
        metric_why="swift/trainers/trainers.py prints torch.cuda.max_memory_reserved",
        unit_bytes=GIB,
        unit_why="the same line divides by 1024^3",
        settings="LoRA r8 with dropout 0.05 on c_attn, W_pack, query_key_value or q, k, v; bf16 "
        "autocast on bf16 weights; torch 2.1, no expandable segments; samples longer than "
        "max_length are deleted, the others not padded; Hugging Face loss in fp32; full "
        "fine-tuning keeps weights and AdamW states in bf16; bitsandbytes nf4 with double "
        "quantisation, GPTQ groups of 128 in fp16",
        references="modelscope/ms-swift at 4312aeb: swift/llm/sft.py, tuner.py, "
        "utils/{argument,model,template}.py, scripts/benchmark/test_memory_time",
        workload={"precision": "bf16_autocast", "weights_dtype": "bf16", "loss": HF_LOSS},
    ),
    "litgpt": Source(
        name="litgpt resource tables",
        metric="allocated",
        metric_why="finetune/lora.py prints torch.cuda.max_memory_allocated",
        unit_bytes=GB,
        unit_why="the same line divides by 1e9",
        settings="LoRA r8 with dropout 0.05 on queries and values, bf16-true, torch 2.1; no "
        "checkpointing on one card, activation checkpointing by block under FSDP; the longest "
        "sample of Alpaca comes first; logits in chunks of 128 tokens, all kept, and upcast to "
        "fp32 by Fabric on their way out of the model; batch 128; paged AdamW where quantised",
        references="Lightning-AI/litgpt at 8641822: finetune/lora.py, lit_gpt/utils.py; "
        "tutorials/resource-tables.md; lightning.fabric.plugins.precision.half: convert_output",
        workload={"precision": "bf16", "loss": "fp32", "attention": "sdpa"},
    ),
    "fsdpqlora": Source(
        name="fsdp_qlora benchmarks",
        metric="reserved",
        metric_why="the text speaks of peak reserved memory",
        unit_bytes=GIB,
        unit_why="as printed",
        settings="r64 on k, q, v, up, down, gate (no o) with dropout 0.1; pure bf16, adapters "
        "too; nf4 with double quantisation; re-entrant checkpointing; dummy samples of the full "
        "length; Hugging Face loss in fp32; torch 2.2",
        references="AnswerDotAI/fsdp_qlora at 7242daa: train.py; benchmarks_03_2024.md",
        workload={"precision": "bf16", "loss": HF_LOSS, "attention": "sdpa", "grad_ckpt": True},
    ),
    "peftguide": Source(
        name="PEFT guides for DeepSpeed and FSDP",
        metric="process",
        metric_why="screenshots of the driver's figure with its share of the card",
        unit_bytes=GIB,
        unit_why='"64 GB (80 %)" of a card of 80 GiB',
        settings="r8 on all linear layers with dropout 0.1, packed to 2,048 tokens, bf16; "
        "DeepSpeed's default buckets; nf4 with double quantisation stored in bf16",
        references="huggingface/peft: docs/source/accelerate/{deepspeed,fsdp}.md, examples/sft",
        workload={"precision": "bf16", "loss": HF_LOSS, "attention": "flash", "grad_ckpt": True},
    ),
    "minicpmv-zero2": Source(
        name="MiniCPM-V, ZeRO-2 table",
        metric="process",
        metric_why="not stated; what the driver shows is what users read",
        unit_bytes=GIB,
        unit_why="as printed",
        settings="script of the commit that added the table: LoRA r64 on q and k with dropout "
        "0.05 plus the token embedding itself, tower and resampler frozen; full: all trainable; "
        "bf16 under DeepSpeed, buckets of 2e8, loss in fp32, sdpa; an image is up to 9 slices and "
        "an overview of 448 pixels, 96 tokens each: the largest sample has ten; samples are not "
        "padded to the 2,048 tokens and the data set is not named: half of them on average",
        references="OpenBMB/MiniCPM-V at f592fed: finetune/{finetune.py,finetune_lora.sh,"
        "finetune_ds.sh,ds_config_zero2.json,dataset.py}",
        workload={
            "precision": "bf16",
            "loss": HF_LOSS,
            "attention": "sdpa",
            "grad_ckpt": True,
            "images_per_sample": 10,
            "seq_len": {"mean": 1024, "std": 512, "max": 2048},
            "reduce_bucket": 200_000_000,
        },
    ),
    "minicpmv-zero3": Source(
        name="MiniCPM-V, ZeRO-3 offload table",
        metric="process",
        metric_why="not stated; what the driver shows is what users read",
        unit_bytes=GIB,
        unit_why="as printed",
        settings="script of the commit that added the table: LoRA r64 on q and k with dropout "
        "0.05 plus tower, resampler and token embedding trained; full: all trainable; bf16, "
        "offload of states and parameters, buckets of hidden^2; images as in the ZeRO-2 table",
        references="OpenBMB/MiniCPM-V at 74278de: finetune/{finetune.py,finetune_lora.sh,"
        "ds_config_zero3.json}",
        workload={
            "precision": "bf16",
            "loss": HF_LOSS,
            "attention": "sdpa",
            "grad_ckpt": True,
            "images_per_sample": 10,
            "seq_len": {"mean": 1024, "std": 512, "max": 2048},
            "reduce_bucket": 4096 * 4096,
        },
    ),
    "lfwiki": Source(
        name="LLaMA-Factory wiki",
        metric="process",
        metric_why="not stated; what the driver shows is what users read",
        unit_bytes=GIB,
        unit_why="whole numbers as the driver rounds them; 32 of 40 on an A100-40GB",
        settings="r8 on all linear layers, adapters in fp32, checkpointing on, bf16 autocast, "
        "nf4 with double quantisation",
        references="hiyouga/LLaMA-Factory wiki Performance-comparison; src/llmtuner of that time",
        workload={
            "precision": "bf16_autocast",
            "weights_dtype": "bf16",
            "loss": HF_LOSS,
            "grad_ckpt": True,
        },
    ),
    "foundry": Source(
        name="llm-foundry MFU tables",
        metric=None,
        metric_why="no memory in the tables",
        unit_bytes=GIB,
        unit_why="no memory in the tables",
        settings="MPT: learned positions, tied head, no biases, feed-forward of four times the "
        "width, vocabulary 50,368; fp32 weights under FSDP mixed precision computing in bf16; "
        "gelu in one kernel, no dropout; fused cross-entropy",
        references="mosaicml/llm-foundry: scripts/train/benchmarking",
        workload={
            "precision": "bf16",
            "weights_dtype": "fp32",
            "loss": "no_upcast",
            "attention": "flash",
        },
    ),
    "unslothctx": Source(
        name="Unsloth context lengths",
        metric="process",
        metric_why="the longest length that a card of this size takes",
        unit_bytes=GIB,
        unit_why="cards are named by GiB",
        settings="Hugging Face with FlashAttention-2: QLoRA r32 on all linear layers, padded to "
        "the length, batch 1, checkpointing, 8-bit AdamW, fp32 "
        "logits; prepare_model_for_kbit_training puts embeddings and norms into fp32",
        references="unslothai/unsloth documentation, Unsloth Benchmarks",
        workload={
            "precision": "bf16_autocast",
            "weights_dtype": "fp32",
            "loss": HF_LOSS,
            "attention": "flash",
            "grad_ckpt": True,
            "optimizer": "adamw_8bit",
        },
    ),
    "llava": Source(
        name="LLaVA README and issues",
        metric=None,
        metric_why="no memory in the tables",
        unit_bytes=GIB,
        unit_why="no memory in the tables",
        settings="scripts/v1_5: bf16 under DeepSpeed, checkpointing, flash attention, 576 image "
        "tokens, CLIP frozen, LoRA r128 on all linear layers; micro batch 32 (pretraining) or 16; "
        "558,128 and 665,298 samples; text lengths are not published: 30 and 280 tokens assumed",
        references="haotian-liu/LLaVA: scripts/v1_5/{pretrain,finetune,finetune_lora}.sh",
        workload={
            "precision": "bf16",
            "loss": HF_LOSS,
            "attention": "flash",
            "grad_ckpt": True,
            "image_tokens": 576,
            "images_per_sample": 1,
        },
    ),
    "mgm": Source(
        name="MGM issue #75",
        metric=None,
        metric_why="no memory in the issue",
        unit_bytes=GIB,
        unit_why="no memory in the issue",
        settings="scripts/gemma: bf16 under DeepSpeed, buckets of hidden^2, checkpointing, stage 2 "
        "with micro batch 8 and 2,048 tokens (2B) or 4 and 4,096 tokens (HD), towers frozen",
        references="JIA-Lab-research/MGM: scripts/gemma",
        workload={"precision": "bf16", "loss": HF_LOSS, "attention": "flash", "grad_ckpt": True},
    ),
}
