"""Bytes of one number of each kind of tensor, by the precision of a workload."""

from planner.workload import Workload

ZERO = ("zero0", "zero1", "zero2", "zero3")
"""Shardings that DeepSpeed does."""


def compute_bytes(workload: Workload) -> int:
    """Activations, and everything that matrix products read and write."""
    return 4 if workload.precision == "fp32" else 2


def stream_bytes(workload: Workload) -> int:
    """The hidden states between layers: fp32 where a quantised model's other weights are fp32.

    PEFT's ``prepare_model_for_kbit_training`` makes norms and embeddings fp32; what they put out
    is fp32 then, and quantised layers give back the type that they are given (bitsandbytes).
    """
    if workload.method.kind == "qlora" and workload.weights_dtype == "fp32":
        return 4
    return compute_bytes(workload)


def autocast(workload: Workload) -> bool:
    """Whether weights are cast where they are used."""
    return workload.precision.endswith("_autocast")


def weight_bytes(workload: Workload) -> int:
    """Weights that are not quantised, as they are kept between steps."""
    if workload.weights_dtype != "auto":
        return 4 if workload.weights_dtype == "fp32" else 2
    if workload.method.kind == "qlora":
        return compute_bytes(workload)
    return 4 if workload.precision == "fp32" or autocast(workload) else 2


def adapter_bytes(workload: Workload) -> int:
    """LoRA's matrices: PEFT makes them in fp32, ZeRO wants one type for all."""
    dtype = workload.method.adapter_dtype
    if dtype != "auto":
        return 4 if dtype == "fp32" else 2
    return weight_bytes(workload) if workload.sharding in ZERO else 4
