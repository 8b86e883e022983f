"""One training workload, as ``python -m planner estimate`` takes it: a JSON object a line.

``planner.read_workload`` makes these values out of JSON; docs/workload.md has an example of
every field. Missing fields take the defaults below.
"""

from typing import Literal

import msgspec

Precision = Literal["bf16", "fp16", "fp32", "bf16_autocast", "fp16_autocast"]
"""``*_autocast`` computes in two bytes on weights that are kept in ``weights_dtype``."""
Attention = Literal["flash", "sdpa", "eager"]
"""``flash`` and ``sdpa`` never hold the square of scores; ``eager`` does."""
Loss = Literal["fp32", "fp32_shifted", "no_upcast", "chunked", "fused"]
"""How logits become a loss: upcast to fp32 (Hugging Face), upcast and cut by a position with a
copy (Hugging Face before transformers 4.50), kept in two bytes, computed in chunks of the
sequence, or fused with the output matrix so that logits never exist (Liger, CCE)."""
Sharding = Literal["none", "ddp", "zero0", "zero1", "zero2", "zero3", "fsdp", "fsdp_grad_op"]
"""``none`` is one process without a wrapper. ``fsdp`` shards weights, gradients and states
(FULL_SHARD), ``fsdp_grad_op`` gradients and states (SHARD_GRAD_OP)."""
Offload = Literal["none", "optimizer", "optimizer_params"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "lion", "sgd"]
MemoryMetric = Literal["allocated", "reserved", "process"]
"""What ``peak_gib_*`` means: torch's max_memory_allocated, its max_memory_reserved, or the memory
of the process as the driver shows it (reserved, CUDA context and NCCL)."""


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is trained."""

    kind: Literal["full", "lora", "qlora", "projector"]
    r: int = 16
    """Rank of the adapters."""
    targets: str | tuple[str, ...] = "all-linear"
    """Linear layers of the language model that get adapters: ``all-linear``, ``attention``,
    ``mlp``, or names such as ``q_proj``."""
    dropout: float = 0.0
    """LoRA dropout; above zero every adapter keeps a mask and a copy of its input."""
    adapter_dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto``: fp32, as PEFT makes adapters, but the model's own type under ZeRO."""
    train_embeddings: bool = False
    train_head: bool = False
    embeddings_in_place: bool = False
    """Embeddings and head are trained themselves; PEFT's modules_to_save trains copies of them and
    keeps the originals."""
    bits: Literal[4, 8] = 4
    """QLoRA: bits of a quantised weight."""
    group: int = 64
    """QLoRA: weights that share one scale."""
    double_quant: bool = True
    """QLoRA: the scales are quantised too (bitsandbytes' default in QLoRA recipes)."""
    keeps_inputs: bool = False
    """QLoRA: quantised layers keep their inputs for the backward, as bitsandbytes before 0.44."""
    train_projector: bool = True
    """Whether the projector between towers and language model is trained too."""


class GradCkpt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Gradient checkpointing, apart for the language model and the towers."""

    language_model: bool = True
    towers: bool = True
    """Takes effect where a tower is trained; a frozen one keeps no activations."""


class Lengths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tokens a sample as a discrete distribution; one value is a fixed length."""

    values: tuple[int, ...]
    weights: tuple[float, ...]
    """Shares of the values, of the same count, positive, with the sum one."""


class Interconnect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Links, in GB/s one way; null takes the card's own table."""

    peer_gb_per_s: float | None = None
    """Between two cards of a node."""
    host_gb_per_s: float | None = None
    """Between a card and its host."""
    node_gb_per_s: float | None = None
    """Between two nodes, all cards of a node together; null is what is built around such cards:
    400 and 200 with the NVLink of H100 and A100, else 25."""


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training run as the planner sees it."""

    id: str | None = None
    """Comes back with the prediction."""
    model: str | dict[str, object]
    """A preset's name, the path of a Hugging Face ``config.json`` (or of its directory), or the
    content of a ``config.json``."""
    method: Method
    towers: Literal["frozen", "trainable", "lora"] = "frozen"
    """The vision towers of a multimodal model."""
    image_tokens: int | None = None
    """Tokens of the language model that one image (or tile) takes; null asks the model."""
    images_per_sample: float | None = None
    """Images, tiles and slices counted one by one; null is 1 for multimodal models, else 0."""
    seq_len: Lengths
    """All tokens of a sample, image tokens included, as the language model sees them."""
    micro_batch: int = 1
    grad_accum: int = 1
    grad_ckpt: GradCkpt = GradCkpt()
    attention: Attention = "flash"
    loss: Loss = "fp32"
    logit_share: float = 1.0
    """Share of the positions whose logits are computed: all in Hugging Face's trainers, the
    labelled ones alone in hpcjobs's own."""
    precision: Precision = "bf16"
    weights_dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of the frozen weights; ``auto`` is that of ``precision``."""
    optimizer: Optimizer = "adamw"
    sharding: Sharding = "none"
    offload: Offload = "none"
    gpus: int = 1
    gpus_per_node: int = 8
    gpu: str = "A100-SXM4-80GB"
    interconnect: Interconnect = Interconnect()
    memory_metric: MemoryMetric = "process"
    expandable_segments: bool = False
    """Whether PYTORCH_CUDA_ALLOC_CONF has expandable_segments:True: less fragmentation."""
    reduce_bucket: int | None = None
    """Elements of a ZeRO bucket; null is DeepSpeed's default (5e8)."""
    samples: int | None = None
    epochs: float = 1.0
    steps: int | None = None
    """Optimizer steps; null derives them from samples and epochs."""
    workers: int = 4
    """Processes a card that load data."""
    image_ms: float | None = None
    """Milliseconds of CPU to decode and resize one image; null is the measured default."""
    price_per_gpu_hour: float | None = None
    """Null takes the dated price table, on demand."""
