"""What a dry run is asked: the fields of a workload that decide what one rank holds in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hpcjobs.run.checks import at_least, below
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.schema import build

Sharding = Literal["none", "ddp", "zero0", "zero1", "zero2", "zero3"]

_NOT_TRACED = {
    "fsdp": "fsdp is not traced: write sharding zero0 to zero3, ddp or none",
    "fsdp_grad_op": "fsdp_grad_op is not traced: write sharding zero0 to zero3, ddp or none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DryMethod:
    """What is trained, in the planner's words."""

    kind: Literal["full", "lora", "projector"]
    r: int = 16
    targets: tuple[str, ...] = ("all-linear",)
    """Of ``all-linear``, ``attention``, ``mlp`` and names of linear layers; one may stand alone."""
    dropout: float = 0.0
    adapter_dtype: Literal["auto", "fp32", "bf16"] = "auto"
    train_embeddings: bool = False
    """With LoRA the embedding is copied by PEFT (``modules_to_save``), and the copy trained."""
    train_head: bool = False
    train_projector: bool = True

    def __post_init__(self) -> None:
        """Checks ranges."""
        at_least("r", self.r, 1)
        at_least("dropout", self.dropout, 0)
        below("dropout", self.dropout, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DryCkpt:
    """Gradient checkpointing, apart for the language model and the towers."""

    language_model: bool = True
    towers: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One dry run. The defaults are the planner's."""

    config: Mapping[str, Any]
    """The content of a Hugging Face ``config.json``, or of a run's model section (MGM)."""
    method: DryMethod
    seq_len: int
    """All tokens of a sample, pictures included."""
    towers: Literal["frozen", "trainable", "lora"] = "frozen"
    images_per_sample: float | None = None
    labelled_tokens: int | None = None
    """Positions a sample that are learnt, where the loss sees only those (MGM); null: all but
    the pictures."""
    micro_batch: int = 1
    grad_accum: int = 1
    grad_ckpt: DryCkpt = field(default_factory=DryCkpt)
    attention: Literal["flash", "sdpa", "eager"] = "flash"
    loss: Literal["fp32", "no_upcast"] = "fp32"
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    sharding: Sharding = "none"
    gpus: int = 1
    reduce_bucket: int | None = None
    """Elements; null is DeepSpeed's default (5e8)."""
    overlap_comm: bool | None = None
    """Null is DeepSpeed's default: off below stage 3."""
    foreach: bool = True
    """Whether AdamW works on lists of tensors, as torch does by default on CUDA."""

    def __post_init__(self) -> None:
        """Checks ranges, and that one process is asked for where nothing shards."""
        for name in ("seq_len", "micro_batch", "grad_accum", "gpus", "reduce_bucket"):
            at_least(name, getattr(self, name), 1)
        at_least("images_per_sample", self.images_per_sample, 0)
        at_least("labelled_tokens", self.labelled_tokens, 1)
        if self.sharding == "none" and self.gpus > 1:
            raise ConfigError(f"sharding none is one card, not {self.gpus}: write ddp or zero*")

    @property
    def stage(self) -> int | None:
        """The ZeRO stage, or None without DeepSpeed."""
        return int(self.sharding[-1]) if self.sharding.startswith("zero") else None

    @property
    def adapters_in_fp32(self) -> bool:
        """PEFT makes adapters in fp32; under ZeRO they take the model's type, one a group."""
        if self.precision == "fp32" or self.method.adapter_dtype == "bf16":
            return False
        return self.method.adapter_dtype == "fp32" or self.stage is None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was measured in place of what was asked."""
        known = {
            "dropout of the base model is off: fused attention on the CPU has none": True,
            "fp16 was traced as bf16, which takes the same bytes": self.precision == "fp16",
            "flash was traced as sdpa, which saves the same tensors": self.attention == "flash",
            "two of the micro batches were traced, the others repeat them": self.grad_accum > 2,
        }
        return tuple(note for note, applies in known.items() if applies)


def read_request(raw: object) -> Request:
    """Builds a request from a JSON object.

    Raises:
        ConfigError: an unknown field, a wrong type, or something that no dry run traces.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get("config"), Mapping):
        raise ConfigError("a dry run needs the field config: the content of a config.json")
    words = dict(raw)
    if words.get("sharding") in _NOT_TRACED:
        raise ConfigError(_NOT_TRACED[words["sharding"]])
    method = words.get("method")
    if isinstance(method, Mapping) and isinstance(method.get("targets"), str):
        words["method"] = {**method, "targets": [method["targets"]]}
    # The content of config is transformers' affair, and of any shape.
    return replace(build(Request, {**words, "config": {}}), config=words["config"])
