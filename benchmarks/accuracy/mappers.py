"""From a row of the table to the planner's workload, one function a source.

A function answers with fields of a workload, and raises NotCounted with a reason where the row
lacks something or needs what the planner does not model.
"""

import re
from collections.abc import Callable
from typing import Any

from benchmarks.accuracy.lengths import alpaca, fudan_news
from benchmarks.accuracy.mapping import MODELS, Fields, NotCounted, Row, model_of
from benchmarks.accuracy.vision_mappers import llava, minicpmv

_TENSOR_PARALLEL = "tensor, pipeline or context parallelism"


def qwen(row: Row) -> Fields:
    """Qwen's README: one card, or ZeRO-2 and ZeRO-3 as its scripts run them."""
    name = re.sub(r"-chat-int4|-chat", "", row["model"].lower())
    text, sharding = row["method"], row["zero_offload_fsdp"]
    fields: Fields = {"model": model_of(name), "seq_len": int(row["seq_len"]), "_model": name}
    # q and k together hold as many adapter weights as the fused c_attn.
    lora: Fields = {
        "kind": "lora",
        "r": 64,
        "dropout": 0.05,
        "targets": ["q_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }
    if text.startswith("qlora"):
        gptq = {"bits": 4, "group": 128, "double_quant": False, "adapter_dtype": "bf16"}
        fields["method"] = lora | {"kind": "qlora"} | gptq
        fields |= {"precision": "fp16", "sharding": "zero2", "reduce_bucket": 200_000_000}
        fields["loss"] = "no_upcast"
        return fields
    fields["method"] = lora if text.startswith("lora") else {"kind": "full"}
    if "embedding" in text:
        fields["method"] |= {"train_embeddings": True, "train_head": True}
    stage = re.match(r"zero(\d)", sharding)
    if stage is None:
        fields["method"] |= {"adapter_dtype": "fp32"} if text.startswith("lora") else {}
        return fields | {"precision": "bf16_autocast", "weights_dtype": "bf16"}
    hidden = {"qwen-1.8b": 2048, "qwen-7b": 4096, "qwen-14b": 5120, "qwen-72b": 8192}[name]
    bucket = 200_000_000 if stage.group(1) == "2" else hidden * hidden
    fields["loss"] = "no_upcast"  # modeling_qwen.py leaves logits as they are; no autocast here
    per_node = 2 if "2 nodes" in row["notes"] else 8
    fields |= {"precision": "bf16", "sharding": f"zero{stage.group(1)}", "reduce_bucket": bucket}
    return fields | {"gpus": int(row["gpus"]), "gpus_per_node": per_node}


_SWIFT_TARGETS = {
    "qwen": ["q_proj", "k_proj"],  # as many adapter weights as the fused c_attn
    "baichuan": ["q_proj", "k_proj"],  # W_pack
    "chatglm": ["q_proj"],  # query_key_value, with two key-value groups
}


def swift2(row: Row) -> Fields:
    """ms-swift v2's benchmark on cls-fudan-news-zh."""
    method, model = row["method"], row["model"].replace("1_8b", "1.8b")
    name = re.sub(r"-chat$", "", model)
    if "ms-agent" in row["notes"] or "dureader" in row["notes"]:
        raise NotCounted("batch and length are not in the table")
    if "device_map" in row["zero_offload_fsdp"]:
        raise NotCounted("layers split over cards without sharding")
    if name not in MODELS:
        raise NotCounted("ALiBi attention bias")
    longest = int(re.search(r"=(\d+)", row["seq_len"])[1])  # type: ignore[index]
    micro_batch = int(row["micro_batch"])
    accum = re.search(r"grad-accum (\d+)", row["notes"])
    fields: Fields = {
        "_model": name,
        "model": model_of(name),
        "seq_len": fudan_news(longest),
        "grad_ckpt": row["grad_ckpt"] == "yes",
        "attention": "flash" if row["attn"] == "flash" else "eager",
        # Without --gradient_accumulation_steps ms-swift takes 16 over the batch.
        "grad_accum": int(accum[1]) if accum and micro_batch == 1 else max(1, 16 // micro_batch),
    }
    if method.startswith("full"):
        return fields | {"method": {"kind": "full"}}
    family = MODELS[name]["family"]
    targets: Any = _SWIFT_TARGETS.get(family, ["q_proj", "k_proj", "v_proj"])
    rank = int(re.search(r"r(\d+)", method)[1])  # type: ignore[index]
    if "ALL" in method:
        targets = "all-linear"
    lora = {"kind": "lora", "r": rank, "dropout": 0.05, "targets": targets}
    fields["method"] = lora | {"adapter_dtype": "bf16"}
    if method.startswith("qlora"):
        fields["method"] |= {"kind": "qlora", "bits": 8 if "int8" in method else 4}
        if "gptq" in method:
            fields["method"] |= {"group": 128, "double_quant": False}
            fields |= {"precision": "fp16_autocast"}
        else:
            fields["method"]["keeps_inputs"] = True
    return fields


_LITGPT = {
    "phi-1.5 1.3B": "phi-1.5",
    "StableLM Alpha 3B": "stablelm-base-alpha-3b",
    "Falcon 40B": "falcon-40b",
    "Llama 2 7B": "llama-2-7b",
    "Llama 2 13B": "llama-2-13b",
}


def litgpt(row: Row) -> Fields:
    """Litgpt's resource tables on Alpaca."""
    method, micro_batch = row["method"], int(row["micro_batch"])
    if method.startswith("adapter"):
        raise NotCounted("LLaMA-Adapter")
    if row["model"] not in _LITGPT:
        raise NotCounted("a model of no family that is mapped")
    name = _LITGPT[row["model"]]
    # The fused query_key_value holds as many adapter weights as queries and values apart.
    neox = MODELS[name]["family"] in ("gpt_neox", "falcon")
    lora: Fields = {
        "kind": "lora",
        "r": 8,
        "dropout": 0.05,
        "targets": ["query_key_value"] if neox else ["q_proj", "v_proj"],
        "adapter_dtype": "bf16",
    }
    sharded = int(row["gpus"]) > 1
    fields: Fields = {
        "_model": name,
        "model": model_of(name),
        "method": lora,
        "seq_len": alpaca(int(re.search(r"(\d+) tokens", row["seq_len"])[1])),  # type: ignore[index]
        "grad_ckpt": sharded,
        "grad_accum": 128 // micro_batch,
        "sharding": "fsdp" if sharded else "none",
    }
    if method.startswith("qlora"):
        # bitsandbytes 0.41.1, here and in ms-swift, LLaMA-Factory and Answer.AI's (0.43).
        lora |= {"kind": "qlora", "double_quant": "dq" in method, "keeps_inputs": True}
        fields["optimizer"] = "adamw"
    if row["precision_optimizer"].startswith("bf16-mixed"):
        lora["adapter_dtype"] = "fp32"
        fields |= {"precision": "bf16_autocast", "weights_dtype": "fp32"}
    return fields


_FSDP_QLORA = {
    "Llama-2 7B": "llama-2-7b",
    "Llama-2 70B": "llama-2-70b",
    "Yi 34B": "yi-34b",
    "Mistral 7B v0.2": "mistral-7b-v0.2",
}


def fsdp_qlora(row: Row) -> Fields:
    """Answer.AI's FSDP and QLoRA on two to eight cards."""
    if "activation offload" in row["notes"]:
        raise NotCounted("activations offloaded to the host")
    name, sharding = _FSDP_QLORA[row["model"]], row["zero_offload_fsdp"]
    method: Fields = {
        "kind": row["method"].split()[0],
        "r": 64,
        "dropout": 0.1,
        "targets": ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"],
        "adapter_dtype": "bf16",
        "keeps_inputs": True,
    }
    return {
        "_model": name,
        "model": model_of(name),
        "method": method,
        "seq_len": int(row["seq_len"]),
        "sharding": "fsdp" if sharding.startswith("FSDP") else "ddp",
        "offload": "optimizer_params" if "offload" in sharding else "none",
    }


def peft_guide(row: Row) -> Fields:
    """PEFT's guides: Llama-2-70B under ZeRO-3 and FSDP."""
    sharding = row["zero_offload_fsdp"]
    return {
        "_model": "llama-2-70b",
        "model": model_of("llama-2-70b"),
        "method": {
            "kind": row["method"].split()[0],
            "r": 8,
            "dropout": 0.1,
            "targets": "all-linear",
            "adapter_dtype": "bf16",
            "keeps_inputs": True,
        },
        "seq_len": 2048,
        "sharding": "zero3" if sharding.startswith("zero3") else "fsdp",
        "offload": "optimizer_params" if "offload" in sharding else "none",
    }


def lf_wiki(row: Row) -> Fields:
    """LLaMA-Factory's wiki, Hugging Face rows."""
    if row["notes"].startswith("Unsloth"):
        raise NotCounted("Unsloth's kernels")
    accum = int(re.search(r"grad-accum (\d+)", row["notes"])[1])  # type: ignore[index]
    qlora = row["method"].startswith("qlora")
    return {
        "_model": "llama-2-7b",
        "model": model_of("llama-2-7b"),
        "method": {
            "kind": "qlora" if qlora else "lora",
            "r": 8,
            "targets": "all-linear",
            "keeps_inputs": True,
        },
        "seq_len": int(row["seq_len"]),
        "attention": "flash" if row["attn"] == "flash2" else "eager",
        "grad_accum": accum,
    }


def foundry(row: Row) -> Fields:
    """MosaicML's MPT pretraining table."""
    if "fp8" in row["precision_optimizer"]:
        raise NotCounted("fp8")
    name, seq_len = row["model"].lower(), int(row["seq_len"])
    accum = int(re.search(r"grad-accum (\d+)", row["notes"])[1])  # type: ignore[index]
    grad_op = "SHARD_GRAD_OP" in row["zero_offload_fsdp"]
    return {
        "_model": name,
        "model": model_of(name, seq_len),
        "method": {"kind": "full"},
        "seq_len": seq_len,
        "grad_ckpt": row["grad_ckpt"] == "yes",
        "grad_accum": accum,
        "sharding": "fsdp_grad_op" if grad_op else "fsdp",
        # The tables' titles say 1600 Gbps for A100; those of H100 name no link.
        **({"interconnect": {"node_gb_per_s": 200}} if "a100" in row["gpu_type"] else {}),
    }


def unsloth_context(row: Row) -> Fields:
    """The longest length that fits, Hugging Face's figures only."""
    if not row["notes"].startswith("HF"):
        raise NotCounted("Unsloth's kernels")
    if not row["seq_len"]:
        raise NotCounted("no length: does not fit at any")
    name = "llama-3.1-8b" if "3.1 8B" in row["model"] else "llama-3.3-70b"
    return {
        "_model": name,
        "model": model_of(name),
        "method": {"kind": "qlora", "r": 32, "targets": "all-linear"},
        "seq_len": int(row["seq_len"]),
    }


def nothing(reason: str) -> Callable[[Row], Fields]:
    """A source whose rows all stay out."""

    def refuse(row: Row) -> Fields:
        raise NotCounted(_TENSOR_PARALLEL if "TP" in row["zero_offload_fsdp"] else reason)

    return refuse


MAPPERS: dict[str, tuple[str, Callable[[Row], Fields]]] = {
    "qwen": ("qwen", qwen),
    "swift2": ("swift2", swift2),
    "litgpt": ("litgpt", litgpt),
    "fsdpqlora": ("fsdpqlora", fsdp_qlora),
    "peftguide": ("peftguide", peft_guide),
    "minicpmv": ("minicpmv", minicpmv),
    "lfwiki": ("lfwiki", lf_wiki),
    "foundry": ("foundry", foundry),
    "unslothctx": ("unslothctx", unsloth_context),
    "llava": ("llava", llava),
    "peftreadme": ("", nothing("encoder-decoder or ALiBi model, length not given")),
    "torchtitan": ("", nothing("selective checkpointing by operator, torch.compile or fp8")),
    "megatron": ("", nothing(_TENSOR_PARALLEL)),
    "internvl12": ("", nothing("batch and length not given")),
    "qwen25vl": ("", nothing("length and micro batch not given")),
}
"""Prefix of the ids -> key of the source, and its function."""
