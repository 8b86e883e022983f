"""How a family of decoders names its dimensions and its matrices, and the tower that follows.

A family is a row of a table (decoders.py, older_decoders.py, experts.py): what differs from
Llama. One function reads a ``config.json`` by such a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from planner.architecture import LayerGroup, Linear, Tower
from planner.errors import PlannerError
from planner.models.fields import Fields, require_multiple
from planner.models.linears import attention_linears, mlp_linears

Flag = bool | str
"""Yes, no, or the key of ``config.json`` that says so; ``!key`` is its opposite."""

_MOST_LAYERS = 10_000
_LLAMA_KEYS = MappingProxyType(
    {
        "hidden": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "head_dim": "head_dim",
        "intermediate": "intermediate_size",
        "vocab": "vocab_size",
        "max_positions": "max_position_embeddings",
        "activation": "hidden_act",
        "tied": "tie_word_embeddings",
        "window": "sliding_window",
    }
)


@dataclass(frozen=True, slots=True)
class Dims:
    """The dimensions of a decoder, under one set of names for all families."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_positions: int
    norms: int

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of all key heads, or of all value heads."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Text:
    """A language model before it becomes part of an architecture."""

    tower: Tower
    vocab: int
    tied: bool
    head_bias: bool
    max_positions: int


Groups = Callable[["Recipe", Dims, Fields], tuple[LayerGroup, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A family of decoders by its differences from Llama."""

    family: str
    keys: Mapping[str, str] = field(default_factory=dict)
    """Our name of a dimension to its key, where Llama's is another."""
    attention: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Module names; two are a fused query-key-value and the output."""
    mlp: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    gated: bool = True
    qkv_bias: Flag = False
    out_bias: Flag = False
    mlp_bias: Flag = False
    norm: Literal["rms", "layer"] = "rms"
    norm_bias: Flag = True
    """Whether a layer norm has a bias; an RMS norm never has."""
    norms: int = 2
    """Norms over the hidden size in a layer."""
    qk_norm: Flag = False
    qk_norm_width: Literal["head", "heads"] = "head"
    """One norm for all heads, or values of its own for every head."""
    qk_norm_bias: bool = True
    """Whether a layer norm of queries and keys has a bias."""
    activation: str = "silu"
    """Where the config does not say."""
    expansion: int = 4
    """Intermediate over hidden size, where the config does not say."""
    positions: Flag = False
    """Whether positions are learned."""
    extra_positions: int = 0
    embed: Callable[[Fields, "Dims"], int] | None = None
    """Parameters before the first layer that no other family has."""
    final_norm: bool = True
    head_bias: Flag = False
    windowed: bool = True
    """Whether a sliding window holds for most layers; Gemma 2 has it in every other one."""
    adjust: Callable[[Fields], Mapping[str, Any]] | None = None
    """Dimensions that the family derives in its own way."""
    tail: Callable[[Fields, Dims], int] | None = None
    """Parameters after the last layer that no other family has."""
    groups: Groups | None = None
    """Layers that are not all alike, or have another attention."""

    def key(self, name: str) -> str:
        """The key of ``config.json`` for one of our names."""
        return self.keys.get(name, _LLAMA_KEYS[name])


def says(flag: Flag, fields: Fields) -> bool:
    """Whether a flag holds in this config."""
    if isinstance(flag, bool):
        return flag
    return not fields.flag(flag[1:]) if flag.startswith("!") else fields.flag(flag)


def text_of(recipe: Recipe, fields: Fields) -> Text:
    """Reads a language model.

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    dims = _dims(recipe, fields)
    groups = (recipe.groups or _alike)(recipe, dims, fields)
    norm = norm_parameters(recipe, fields, dims.hidden)
    learned = dims.max_positions + recipe.extra_positions
    positions = learned * dims.hidden if says(recipe.positions, fields) else 0
    embedded = dims.vocab * dims.hidden + positions
    embedded += recipe.embed(fields, dims) if recipe.embed else 0
    tail = recipe.tail(fields, dims) if recipe.tail else 0
    tower = Tower(
        name="language_model",
        kind="decoder",
        family=recipe.family,
        hidden=dims.hidden,
        heads=dims.heads,
        kv_heads=dims.kv_heads,
        head_dim=dims.head_dim,
        intermediate=dims.intermediate,
        gated=recipe.gated,
        activation=fields.text(recipe.key("activation"), recipe.activation),
        norm=recipe.norm,
        norms_per_layer=dims.norms,
        qk_norm=says(recipe.qk_norm, fields),
        groups=groups,
        embeddings=embedded,
        final=(norm if recipe.final_norm else 0) + tail,
        window=_window(recipe, fields),
    )
    return Text(
        tower=tower,
        vocab=dims.vocab,
        tied=fields.flag(recipe.key("tied")),
        head_bias=says(recipe.head_bias, fields),
        max_positions=dims.max_positions,
    )


def norm_parameters(recipe: Recipe, fields: Fields, width: int) -> int:
    """Parameters of one norm over ``width`` values."""
    biased = recipe.norm == "layer" and says(recipe.norm_bias, fields)
    return 2 * width if biased else width


def attention_of(recipe: Recipe, dims: Dims, fields: Fields) -> tuple[Linear, ...]:
    """The attention's projections."""
    return attention_linears(
        recipe.attention,
        dims.hidden,
        dims.query,
        dims.key_value,
        qkv_bias=says(recipe.qkv_bias, fields),
        out_bias=says(recipe.out_bias, fields),
    )


def norms_of(recipe: Recipe, dims: Dims, fields: Fields) -> int:
    """Parameters of all norms in a layer, those of queries and keys included."""
    widths = dims.norms * norm_parameters(recipe, fields, dims.hidden)
    if not says(recipe.qk_norm, fields):
        return widths
    heads = (dims.head_dim, dims.head_dim)
    query, key = heads if recipe.qk_norm_width == "head" else (dims.query, dims.key_value)
    biased = recipe.norm == "layer" and recipe.qk_norm_bias
    return widths + (2 if biased else 1) * (query + key)


def _alike(recipe: Recipe, dims: Dims, fields: Fields) -> tuple[LayerGroup, ...]:
    mlp = mlp_linears(
        recipe.mlp,
        dims.hidden,
        dims.intermediate,
        gated=recipe.gated,
        bias=says(recipe.mlp_bias, fields),
    )
    linears = (*attention_of(recipe, dims, fields), *mlp)
    return (LayerGroup(dims.layers, linears, norms_of(recipe, dims, fields)),)


def _dims(recipe: Recipe, fields: Fields) -> Dims:
    adjusted = dict(recipe.adjust(fields)) if recipe.adjust else {}
    hidden = fields.size(recipe.key("hidden"))
    heads = fields.size(recipe.key("heads"))
    kv_heads = adjusted.get("kv_heads") or fields.size_or(recipe.key("kv_heads"), heads)
    require_multiple(recipe.key("heads"), heads, recipe.key("kv_heads"), kv_heads)
    head_dim = adjusted.get("head_dim") or _head_dim(recipe, fields, hidden, heads)
    intermediate = adjusted.get("intermediate") or fields.size_or(
        recipe.key("intermediate"), recipe.expansion * hidden
    )
    return Dims(
        hidden=hidden,
        layers=fields.size(recipe.key("layers"), most=_MOST_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocab=fields.size(recipe.key("vocab")),
        max_positions=fields.size_or(recipe.key("max_positions"), 1),
        norms=adjusted.get("norms", recipe.norms),
    )


def _head_dim(recipe: Recipe, fields: Fields, hidden: int, heads: int) -> int:
    if fields.has(recipe.key("head_dim")):
        return fields.size(recipe.key("head_dim"))
    return require_multiple(recipe.key("hidden"), hidden, recipe.key("heads"), heads)


def _window(recipe: Recipe, fields: Fields) -> int | None:
    """Qwen writes a window into every config and switches it by a second key."""
    if not recipe.windowed or fields.get("use_sliding_window") is False:
        return None
    window = fields.get(recipe.key("window"))
    if window is None or window == 0:
        return None
    if isinstance(window, bool) or not isinstance(window, int) or window < 0:
        raise PlannerError(f"{fields.where(recipe.key('window'))} must be a count, not {window!r}")
    return window
