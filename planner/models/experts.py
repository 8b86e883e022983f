"""Mixtures of experts, and DeepSeek's attention over compressed keys and values."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from planner.architecture import LayerGroup, Linear
from planner.errors import PlannerError
from planner.models.fields import Fields
from planner.models.linears import mlp_linears
from planner.models.recipe import Dims, Recipe, attention_of, norms_of, says

_GATED = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How a family names its experts."""

    experts: tuple[str, ...]
    """Keys for their number; the first that is there counts."""
    width: str
    """Key for the width of one expert."""
    names: tuple[str, ...] = _GATED
    shared: Callable[[Fields], int] | None = None
    """Width of the experts that every token passes through, together."""
    shared_gate: bool = False
    sparse: Callable[[Fields, int], int] | None = None
    """Layers with experts, of all layers; the others have a plain MLP."""


def _mixture(mixture: Mixture) -> Callable[[Recipe, Dims, Fields], tuple[LayerGroup, ...]]:
    """Returns the layers of a family: first the dense ones, then those with experts."""

    def groups(recipe: Recipe, dims: Dims, fields: Fields) -> tuple[LayerGroup, ...]:
        attention, norms = _attention(recipe, dims, fields)
        sparse = mixture.sparse(fields, dims.layers) if mixture.sparse else dims.layers
        plain = mlp_linears(recipe.mlp, dims.hidden, dims.intermediate, gated=recipe.gated)
        dense = LayerGroup(dims.layers - sparse, (*attention, *plain), norms)
        experts, router = _experts(mixture, dims, fields)
        mixed = LayerGroup(sparse, (*attention, *experts), norms + router)
        return tuple(group for group in (dense, mixed) if group.count)

    return groups


def _experts(mixture: Mixture, dims: Dims, fields: Fields) -> tuple[tuple[Linear, ...], int]:
    """Routed and shared experts; and the router, which transformers keeps as a plain matrix."""
    key = next((key for key in mixture.experts if fields.has(key)), mixture.experts[0])
    count, top = fields.size(key), fields.size("num_experts_per_tok")
    if top > count:
        raise PlannerError(f"num_experts_per_tok ({top}) must be at most {key} ({count})")
    width = fields.size(mixture.width)
    linears = mlp_linears(
        mixture.names, dims.hidden, width, gated=True, copies=count, active=float(top)
    )
    shared = mixture.shared(fields) if mixture.shared else 0
    if shared:
        linears += mlp_linears(_GATED, dims.hidden, shared, gated=True)
    if mixture.shared_gate:
        linears += (Linear("shared_expert_gate", dims.hidden, 1),)
    return linears, count * dims.hidden


def _attention(recipe: Recipe, dims: Dims, fields: Fields) -> tuple[tuple[Linear, ...], int]:
    if fields.has("kv_lora_rank"):
        return _latent_attention(recipe, dims, fields)
    return attention_of(recipe, dims, fields), norms_of(recipe, dims, fields)


def _latent_attention(recipe: Recipe, dims: Dims, fields: Fields) -> tuple[tuple[Linear, ...], int]:
    """DeepSeek-V2, arXiv 2405.04434, section 2.1; the names are transformers'."""
    heads, hidden = dims.heads, dims.hidden
    rope, plain = fields.size("qk_rope_head_dim"), fields.size("qk_nope_head_dim")
    value, rank = fields.size("v_head_dim"), fields.size("kv_lora_rank")
    bias = says(recipe.qkv_bias, fields)
    query: tuple[Linear, ...] = (Linear("q_proj", hidden, heads * (plain + rope)),)
    compressed = fields.size_or("q_lora_rank", 0) if fields.has("q_lora_rank") else 0
    if compressed:
        query = (
            Linear("q_a_proj", hidden, compressed, bias),
            Linear("q_b_proj", compressed, heads * (plain + rope)),
        )
    linears = (
        *query,
        Linear("kv_a_proj_with_mqa", hidden, rank + rope, bias),
        Linear("kv_b_proj", rank, heads * (plain + value)),
        Linear("o_proj", heads * value, hidden, bias),
    )
    return linears, 2 * hidden + rank + compressed


def _every(fields: Fields, layers: int) -> int:
    """Qwen: every n-th layer has experts, but those that are named as plain."""
    step = fields.size_or("decoder_sparse_step", 1)
    plain = fields.get("mlp_only_layers") or []
    if not isinstance(plain, list):
        raise PlannerError("mlp_only_layers must be a list of layers")
    named = Counter(i for i in range(layers) if (i + 1) % step == 0 and i not in plain)
    return len(named)


def _after_first(fields: Fields, layers: int) -> int:
    """DeepSeek: the first layers are plain."""
    return max(0, layers - fields.count_or("first_k_dense_replace", 0))


def _shared_count(fields: Fields) -> int:
    return fields.count_or("n_shared_experts", 0) * fields.size("moe_intermediate_size")


def _shared_width(fields: Fields) -> int:
    return fields.count_or("shared_expert_intermediate_size", 0)


def _deepseek_head(fields: Fields) -> Mapping[str, int]:
    """Width of a query and key head: the part without and the part with positions."""
    return {"head_dim": fields.size("qk_nope_head_dim") + fields.size("qk_rope_head_dim")}


_DEEPSEEK = Mixture(
    experts=("n_routed_experts", "num_local_experts"),
    width="moe_intermediate_size",
    shared=_shared_count,
    sparse=_after_first,
)
_QWEN2 = Mixture(
    experts=("num_experts",),
    width="moe_intermediate_size",
    shared=_shared_width,
    shared_gate=True,
    sparse=_every,
)
_QWEN3 = Mixture(
    experts=("num_experts", "num_local_experts"), width="moe_intermediate_size", sparse=_every
)
_MIXTRAL = Mixture(
    experts=("num_local_experts",), width="intermediate_size", names=("w1", "w3", "w2")
)


def _deepseek(family: str) -> Recipe:
    return Recipe(
        family=family,
        qkv_bias="attention_bias",
        adjust=_deepseek_head,
        groups=_mixture(_DEEPSEEK),
    )


EXPERTS: Mapping[str, Recipe] = MappingProxyType(
    {
        "mixtral": Recipe(family="mixtral", groups=_mixture(_MIXTRAL)),
        "qwen2_moe": Recipe(family="qwen2_moe", qkv_bias="qkv_bias", groups=_mixture(_QWEN2)),
        "qwen3_moe": Recipe(
            family="qwen3_moe",
            qkv_bias="attention_bias",
            out_bias="attention_bias",
            qk_norm=True,
            groups=_mixture(_QWEN3),
        ),
        "deepseek_v2": _deepseek("deepseek_v2"),
        "deepseek_v3": _deepseek("deepseek_v3"),
    }
)
