"""The dimensions of a Mini-Gemini (MGM) model: language model and two vision towers."""

from dataclasses import dataclass
from typing import Literal

from hpcjobs.run.checks import above, at_least
from hpcjobs.run.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDims:
    """The Gemma language model, in the terms of its ``config.json``."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_positions: int
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        """Checks that query heads divide into key-value groups, and a head into pairs."""
        for name in ("hidden", "layers", "heads", "kv_heads", "intermediate", "vocab"):
            at_least(name, getattr(self, name), 1)
        at_least("max_positions", self.max_positions, 1)
        at_least("init_std", self.init_std, 0)
        for name in ("head_dim", "norm_eps", "rope_theta"):
            above(name, getattr(self, name), 0)
        if self.head_dim % 2:
            raise ConfigError(f"head_dim ({self.head_dim}) must be even: positions turn its pairs")
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionDims:
    """The CLIP vision transformer that sees the low-resolution picture."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    picture_px: int
    patch_px: int

    def __post_init__(self) -> None:
        """Checks that the picture divides into patches, and the width into heads."""
        at_least("layers", self.layers, 2)
        for name in ("hidden", "heads", "intermediate", "picture_px", "patch_px"):
            at_least(name, getattr(self, name), 1)
        if self.hidden % self.heads:
            raise ConfigError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if self.picture_px % self.patch_px:
            raise ConfigError(
                f"picture_px ({self.picture_px}) must be a multiple of patch_px ({self.patch_px})"
            )

    @property
    def grid(self) -> int:
        """Patches along one side: 336 px / 14 px = 24 for MGM-2B."""
        return self.picture_px // self.patch_px


@dataclass(frozen=True, slots=True, kw_only=True)
class AuxDims:
    """The ConvNeXt trunk that sees the high-resolution picture."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    picture_px: int

    def __post_init__(self) -> None:
        """Checks for four stages: patch info mining concatenates all of them."""
        if len(self.widths) != 4 or len(self.depths) != 4:
            raise ConfigError("widths and depths must have four entries, one a stage")
        for size in (*self.widths, *self.depths, self.picture_px):
            at_least("each of widths, depths and picture_px", size, 1)
        if self.picture_px % 32:
            raise ConfigError(f"picture_px ({self.picture_px}) must be a multiple of 32")

    @property
    def channels(self) -> int:
        """Channels of the concatenated feature map: 192+384+768+1536 = 2880 for MGM-2B."""
        return sum(self.widths)

    @property
    def grid(self) -> int:
        """Side of the first stage's feature map (stride 4): 768 / 4 = 192 for MGM-2B."""
        return self.picture_px // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An MGM model and where its weights come from."""

    kind: Literal["mgm"]
    weights: Literal["pretrained", "random"]
    """``random`` starts from the seed, for demonstrations and measurements."""
    path: str | None = None
    """Directory with safetensors in MGM's own key names, and ``tokenizer.json``."""
    tokenizer: str | None = None
    """A ``tokenizer.json``; null takes the one in ``path``."""
    max_length: int = 2048
    """Tokens of one sample, pictures included; longer ones are cut at the end."""
    text: TextDims
    vision: VisionDims
    aux: AuxDims

    def __post_init__(self) -> None:
        """Checks that the two towers' grids fit into one another."""
        above("max_length", self.max_length, self.vision.grid**2)
        if self.max_length > self.text.max_positions:
            raise ConfigError(
                f"max_length ({self.max_length}) must not exceed text.max_positions "
                f"({self.text.max_positions})"
            )
        if self.aux.grid % self.vision.grid:
            raise ConfigError(
                f"the ConvNeXt grid ({self.aux.grid}) must be a multiple of the CLIP grid "
                f"({self.vision.grid}): change aux.picture_px or vision.picture_px"
            )
        if self.weights == "pretrained" and self.path is None:
            raise ConfigError("path is not set: write model.path=DIR, or model.weights=random")

    @property
    def picture_tokens(self) -> int:
        """Tokens that one picture takes in the sequence (576 for MGM-2B)."""
        return self.vision.grid**2
