"""What the planner knows of a model: towers of layers, and the matrices in them.

Everything is counted from dimensions. The formulas for memory and time read these values and
never a ``config.json``.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer, or ``copies`` alike ones (the experts of a mixture)."""

    name: str
    """Last part of the module's name, such as ``q_proj``."""
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1
    active: float = 1.0
    """Copies that a token passes through: 1 for a plain layer, top-k for experts."""

    @property
    def parameters(self) -> int:
        """Weights and biases of all copies."""
        return self.copies * (self.inputs * self.outputs + (self.outputs if self.bias else 0))

    @property
    def matmul_weights(self) -> float:
        """Weights that a token meets: half its floating-point operations."""
        return self.active * self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """``count`` layers alike."""

    count: int
    linears: tuple[Linear, ...]
    other: int
    """Parameters of one layer beside the linears: norms, scales, routers that are no linear."""


@dataclass(frozen=True, slots=True)
class Tower:
    """A stack of transformer layers (or ConvNeXt blocks) with its embeddings and last norm."""

    name: str
    """``language_model``, ``vision_tower``, ``vision_tower_aux``, ``qformer``."""
    kind: Literal["decoder", "encoder", "convnext", "qformer"]
    family: str
    """The Hugging Face ``model_type``: what is saved for the backward differs by family."""
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    gated: bool
    """Whether the MLP has a gate (SwiGLU, GeGLU)."""
    activation: str
    """``silu``, ``gelu``, ``gelu_pytorch_tanh``, ``gelu_new``, ``quick_gelu``, ``relu``."""
    norm: Literal["rms", "layer"]
    norms_per_layer: int
    """Norms over the hidden size in one layer (2; 4 in Gemma 2 and 3; 1 with parallel blocks)."""
    qk_norm: bool
    groups: tuple[LayerGroup, ...]
    embeddings: int
    """Parameters of token, patch and position embeddings."""
    final: int
    """Parameters after the last layer, without the output head."""
    tokens: int = 0
    """Encoder: positions of one image (or tile), class token included; 0 for a decoder."""
    window: int | None = None
    """Sliding or windowed attention, in tokens."""

    @property
    def layers(self) -> int:
        """Layers in all."""
        return sum(group.count for group in self.groups)

    @property
    def parameters(self) -> int:
        """Parameters of the tower, without an output head."""
        inner = sum(
            group.count * (group.other + sum(linear.parameters for linear in group.linears))
            for group in self.groups
        )
        return self.embeddings + inner + self.final


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model: one language model, and towers and a projector where it is multimodal."""

    name: str
    """The preset's name, or the ``model_type``."""
    family: str
    """Families are left out together in the accuracy figures: ``qwen2``, ``llama``, ``mgm``."""
    language_model: Tower
    vocab: int
    tied: bool
    """Whether the output head is the token embedding."""
    head_bias: bool = False
    towers: tuple[Tower, ...] = ()
    projector: tuple[Linear, ...] = ()
    projector_other: int = 0
    """Parameters of the projector beside its linears (norms, queries)."""
    projector_norms: tuple[int, ...] = field(default=())
    """Widths of the projector's norms, for its activations."""
    image_tokens: int = 0
    """Tokens of the language model that one image takes by default."""
    patches_per_token: float = 1.0
    """Tower positions behind one image token: 4 where 2x2 patches are merged."""
    max_positions: int = 0
    exact: bool = True
    """False where parameters were approximated; the plan says so."""

    @property
    def head(self) -> int:
        """Parameters of the output head that are not the embedding's."""
        bias = self.vocab if self.head_bias else 0
        return bias + (0 if self.tied else self.vocab * self.language_model.hidden)

    @property
    def components(self) -> dict[str, int]:
        """Parameters by component; their sum is what the checkpoint holds."""
        counts = {"language_model": self.language_model.parameters, "head": self.head}
        counts |= {tower.name: tower.parameters for tower in self.towers}
        projector = self.projector_other + sum(linear.parameters for linear in self.projector)
        return counts | {"projector": projector}

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        return sum(self.components.values())
