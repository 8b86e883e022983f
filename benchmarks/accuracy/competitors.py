"""Published formulas for the same rows, small implementations of our own.

Each takes parameters and the workload and answers with bytes of one card, or None where the
formula has no answer for the row's method.
"""

from collections.abc import Callable

from planner.architecture import Architecture
from planner.workload import Workload

GB = 1e9
Formula = Callable[[Architecture, Workload], float | None]


def deepspeed(architecture: Architecture, workload: Workload) -> float | None:
    """``estimate_zero2_model_states_mem_needs`` and ``..._zero3_...``, for one card.

    deepspeed/runtime/zero/stage_1_and_2.py and stage3.py: ZeRO-2 takes 2P + 18P/N (2P with the
    optimizer offloaded), ZeRO-3 4 x the largest layer + 18P/N (+ 2P/N, or nothing, offloaded).
    All parameters count as trained.
    """
    parameters, gpus = architecture.parameters, workload.gpus
    largest = 4 * _largest_layer(architecture)
    if workload.sharding in ("zero3", "fsdp"):
        if workload.offload == "optimizer_params":
            return float(largest)
        if workload.offload == "optimizer":
            return largest + 2 * parameters / gpus
        return largest + 18 * parameters / gpus
    if workload.offload == "optimizer":
        return 2.0 * parameters
    return 2 * parameters + 18 * parameters / gpus


def accelerate(architecture: Architecture, workload: Workload) -> float | None:
    """``accelerate estimate-memory``, its column "training using Adam" in two-byte types.

    accelerate/commands/estimate.py, estimate_training_usage for float16: the largest of model
    (4 bytes), gradients (6), optimizer (8) and step (8 bytes a parameter). The tool knows neither
    adapters nor sharding, and prints N/A for int4 and int8.
    """
    if workload.method.kind == "qlora":
        return None
    return 8.0 * architecture.parameters


def llama_factory(architecture: Architecture, workload: Workload) -> float | None:
    """LLaMA-Factory's README table of hardware requirements, in GB a billion parameters.

    Full with bf16 or fp16 18x, pure bf16 8x, LoRA 2x, QLoRA with 8 bits 1x and with 4 bits x/2.
    """
    billions = architecture.parameters / 1e9
    if workload.method.kind == "full":
        pure = workload.sharding == "none" and workload.weights_dtype == "bf16"
        return (8 if pure else 18) * billions * GB / workload.gpus
    if workload.method.kind == "qlora":
        return (0.5 if workload.method.bits == 4 else 1.0) * billions * GB
    return 2 * billions * GB


def eleuther(architecture: Architecture, workload: Workload) -> float | None:
    """EleutherAI's cookbook, calc_transformer_mem.py, as Transformer Math 101 tells it.

    2 bytes of weights, 4 of gradients and 12 of optimizer a parameter, divided by the cards as
    the ZeRO stage does; activations of Korthikanti et al. with full checkpointing 2sbhL, without
    sbhL(10 + 24); buckets of 5e8 x 2 bytes from ZeRO-1 and 1e9 x 2 bytes of live parameters under
    ZeRO-3. It has no mode for adapters.
    """
    parameters, gpus = architecture.parameters, workload.gpus
    stage = {"zero1": 1, "zero2": 2, "fsdp_grad_op": 2, "zero3": 3, "fsdp": 3}.get(
        workload.sharding, 0
    )
    weights = 2 * parameters / (gpus if stage == 3 else 1)
    gradients = 4 * parameters / (gpus if stage >= 2 else 1)
    states = 12 * parameters / (gpus if stage >= 1 else 1)
    tower = architecture.language_model
    tokens = workload.micro_batch * max(workload.seq_len.values)
    per_token = 2 if workload.grad_ckpt.language_model else 34
    buckets = (1e9 if stage >= 1 else 0.0) + (2e9 if stage == 3 else 0.0)
    return weights + gradients + states + per_token * tokens * tower.hidden * tower.layers + buckets


def _largest_layer(architecture: Architecture) -> int:
    """The module with most weights of its own, as DeepSpeed looks for it."""
    tower = architecture.language_model
    linears = (linear.parameters for group in tower.groups for linear in group.linears)
    return max(architecture.vocab * tower.hidden, *linears)


FORMULAS: dict[str, Formula] = {
    "DeepSpeed estimate_zero2/3": deepspeed,
    "accelerate estimate-memory": accelerate,
    "LLaMA-Factory table": llama_factory,
    "EleutherAI calc_transformer_mem": eleuther,
}
