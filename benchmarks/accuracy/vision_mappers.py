"""Mappers of the vision-language sources; see mappers.py."""

import re

from benchmarks.accuracy.mapping import Fields, NotCounted, Row, model_of


def minicpmv(row: Row) -> Fields:
    """MiniCPM-Llama3-V-2.5 with the scripts of the tables' commits."""
    zero3, lora = row["zero_offload_fsdp"].startswith("zero3"), row["method"].startswith("lora")
    fields: Fields = {
        "_model": "minicpm-llama3-v-2.5",
        "model": model_of("minicpm-llama3-v-2.5"),
        "sharding": "zero3" if zero3 else "zero2",
        "offload": "optimizer_params" if zero3 else "none",
    }
    if not lora:
        return fields | {"method": {"kind": "full"}, "towers": "trainable"}
    method: Fields = {
        "kind": "lora",
        "r": 64,
        "dropout": 0.05,
        "targets": ["q_proj", "k_proj"],
        "train_embeddings": True,
        "embeddings_in_place": True,
        "train_projector": zero3,
    }
    return fields | {"method": method, "towers": "trainable" if zero3 else "frozen"}


def llava(row: Row) -> Fields:
    """LLaVA-1.5: hours of its two stages, and what fits."""
    size = re.search(r"v1\.5-(7|13)B", row["model"])
    if not size:
        raise NotCounted("batch, length or stage not given (LLaVA v1)")
    if row["tier"] == "C":
        raise NotCounted("tier C")
    name = f"llava-1.5-{size[1]}b"
    fields: Fields = {
        "_model": name,
        "model": model_of(name),
        "sharding": row["zero_offload_fsdp"].split()[0],
        "gpus_per_node": 4 if "2 nodes" in row["gpu_type"] else 8,
    }
    method = row["method"]
    if method.startswith("projector"):
        return fields | {"method": "projector", "seq_len": 606, "samples": 558_128}
    if method.startswith("lora"):
        lora = {"kind": "lora", "r": 128, "targets": "all-linear", "dropout": 0.05}
        # "able to fit": some micro batch does, so the smallest must.
        return fields | {"method": lora, "seq_len": 2048, "micro_batch": 1}
    fields |= {"method": {"kind": "full"}}
    if row["tier"] == "OOM":
        # Without a micro batch the report is about the script's own, 16.
        return fields | {"seq_len": 2048, "micro_batch": int(float(row["micro_batch"] or 16))}
    # 16 a card; where none is given the global batch of 128 over 8 cards says the same.
    lengths = {"mean": 840, "std": 250, "max": 2048}
    return fields | {"seq_len": lengths, "samples": 665_298, "micro_batch": 16}


def mgm(row: Row) -> Fields:
    """MGM's issue #75: out of memory with the scripts of stage 2."""
    high = "HD" in row["model"]
    offload = "offload" in row["zero_offload_fsdp"]
    return {
        "_model": "mgm-2b-hd" if high else "mgm-2b",
        "model": "mgm-2b-hd" if high else "mgm-2b",
        "method": {"kind": "full"},
        "seq_len": 4096 if high else 2048,
        "micro_batch": 4 if high else 8,
        "sharding": "zero2",
        "offload": "optimizer" if offload else "none",
        "reduce_bucket": 2048 * 2048,
        "gpus_per_node": int(row["gpus"]),
    }
