"""How a family of vision transformers names its dimensions, and the tower that follows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from planner.architecture import LayerGroup, Tower
from planner.errors import PlannerError
from planner.models.fields import Fields, require_multiple
from planner.models.linears import attention_linears, mlp_linears
from planner.models.recipe import Flag, says

_MOST_LAYERS = 10_000
_CLIP_KEYS = MappingProxyType(
    {
        "hidden": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "intermediate": "intermediate_size",
        "image": "image_size",
        "patch": "patch_size",
        "channels": "num_channels",
        "activation": "hidden_act",
    }
)


@dataclass(frozen=True, slots=True)
class Patches:
    """How a picture is cut."""

    count: int
    """Patches of one picture."""
    weights: int
    """Weights of the patch embedding, without its bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRecipe:
    """A family of vision transformers by its differences from CLIP's."""

    family: str
    keys: Mapping[str, str] = field(default_factory=dict)
    attention: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")
    mlp: tuple[str, ...] = ("fc1", "fc2")
    gated: bool = False
    qkv_bias: Flag = True
    out_bias: Flag = True
    norm: Literal["rms", "layer"] = "layer"
    norm_key: str | None = None
    """Key of ``config.json`` that says ``rms_norm``, where norms can be either."""
    qk_norm: Flag = False
    """RMS norms over all heads of the queries, and of the keys."""
    layer_scales: int = 0
    """Vectors of the hidden size that scale the residual branches."""
    class_tokens: int = 1
    patch_bias: bool = False
    positions: Flag = True
    activation: str = "gelu"
    expansion: float = 4.0
    expansion_key: str | None = None
    pre_norm: bool = False
    post_norm: Flag = True
    tail: Callable[[Fields, int], int] | None = None
    """Parameters beside all these that no other family has, given the hidden size."""
    tokens: Callable[[Fields], int] | None = None
    """Patches of one picture, where the config gives no picture's size."""
    frames_key: str | None = None
    """Key for the frames that one patch spans."""
    window: Callable[[Fields], int] | None = None
    """Patches of one attention window."""

    def key(self, name: str) -> str:
        """The key of ``config.json`` for one of our names."""
        return self.keys.get(name, _CLIP_KEYS[name])


def encoder_of(recipe: EncoderRecipe, fields: Fields, name: str = "vision_tower") -> Tower:
    """Reads a vision tower.

    Raises:
        PlannerError: a dimension is missing or impossible.
    """
    hidden, heads = fields.size(recipe.key("hidden")), fields.size(recipe.key("heads"))
    head_dim = require_multiple(
        fields.where(recipe.key("hidden")), hidden, recipe.key("heads"), heads
    )
    patches = _patches(recipe, fields, hidden)
    norm, width = _norm(recipe, fields, hidden)
    inner = _intermediate(recipe, fields, hidden)
    qk_norm = says(recipe.qk_norm, fields)
    other = 2 * width + recipe.layer_scales * hidden + (2 * hidden if qk_norm else 0)
    linears = (
        *attention_linears(
            recipe.attention,
            hidden,
            hidden,
            hidden,
            qkv_bias=says(recipe.qkv_bias, fields),
            out_bias=says(recipe.out_bias, fields),
        ),
        *mlp_linears(recipe.mlp, hidden, inner, gated=recipe.gated, bias=True),
    )
    last = hidden if recipe.norm == "rms" else 2 * hidden
    tail = recipe.tail(fields, hidden) if recipe.tail else 0
    return Tower(
        name=name,
        kind="encoder",
        family=recipe.family,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        intermediate=inner,
        gated=recipe.gated,
        activation=fields.text(recipe.key("activation"), recipe.activation),
        norm=norm,
        norms_per_layer=2,
        qk_norm=qk_norm,
        groups=(LayerGroup(fields.size(recipe.key("layers"), most=_MOST_LAYERS), linears, other),),
        embeddings=_embeddings(recipe, fields, patches, hidden) + (width if recipe.pre_norm else 0),
        final=(last if says(recipe.post_norm, fields) else 0) + tail,
        tokens=patches.count + recipe.class_tokens,
        window=recipe.window(fields) if recipe.window else None,
    )


def _patches(recipe: EncoderRecipe, fields: Fields, hidden: int) -> Patches:
    patch = _side(fields, recipe.key("patch"))
    if recipe.tokens:
        count = recipe.tokens(fields)
    else:
        count = (_side(fields, recipe.key("image")) // patch) ** 2
    if count < 1:
        raise PlannerError(
            f"{fields.where(recipe.key('image'))} is smaller than a patch ({patch} pixels)"
        )
    frames = fields.size_or(recipe.frames_key, 1) if recipe.frames_key else 1
    channels = fields.size_or(recipe.key("channels"), 3)
    return Patches(count=count, weights=channels * frames * patch**2 * hidden)


def _side(fields: Fields, key: str) -> int:
    """Pixels along a side; InternVL writes both sides, alike."""
    if isinstance(fields.get(key), list | tuple):
        return fields.sizes(key)[0]
    return fields.size(key)


def _norm(
    recipe: EncoderRecipe, fields: Fields, hidden: int
) -> tuple[Literal["rms", "layer"], int]:
    """The kind of norms and the parameters of one."""
    named = fields.text(recipe.norm_key, recipe.norm) if recipe.norm_key else recipe.norm
    return ("rms", hidden) if named.startswith("rms") else ("layer", 2 * hidden)


def _intermediate(recipe: EncoderRecipe, fields: Fields, hidden: int) -> int:
    if fields.has(recipe.key("intermediate")):
        return fields.size(recipe.key("intermediate"))
    key = recipe.expansion_key
    return int(hidden * (fields.number_or(key, recipe.expansion) if key else recipe.expansion))


def _embeddings(recipe: EncoderRecipe, fields: Fields, patches: Patches, hidden: int) -> int:
    learned = patches.count + recipe.class_tokens if says(recipe.positions, fields) else 0
    vectors = learned + recipe.class_tokens + (1 if recipe.patch_bias else 0)
    return patches.weights + vectors * hidden
