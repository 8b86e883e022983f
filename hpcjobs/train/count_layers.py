"""What is in one layer of any model: linears, norms, and the dimensions that they show.

The values are those of the planner's Tower, LayerGroup and Linear, as JSON.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

_QK_NORM = re.compile(r"^(q|k|query|key)_?(layer)?norm")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation")


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer, or ``copies`` alike ones; fields are those of the planner's."""

    name: str
    inputs: int
    outputs: int
    bias: bool
    copies: int = 1
    active: float = 1.0

    @property
    def parameters(self) -> int:
        """Weights and biases of all copies."""
        return self.copies * (self.inputs * self.outputs + (self.outputs if self.bias else 0))


def dims_of(config: object, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Widths and heads by the configuration, or where it has other keys, as the layers show."""
    linears = [linear for group in groups for linear in group["linears"]]
    widths = Counter(linear["inputs"] for linear in linears)
    common = widths.most_common(1)[0][0] if widths else 1
    hidden = number(config, "hidden_size") or common
    heads = number(config, "num_attention_heads") or 1
    named = (getattr(config, key, None) for key in _ACTIVATIONS)
    return {
        "hidden": hidden,
        "heads": heads,
        "kv_heads": number(config, "num_key_value_heads") or heads,
        "head_dim": number(config, "head_dim") or max(1, hidden // heads),
        "intermediate": number(config, "intermediate_size") or max(widths, default=hidden),
        "gated": any("gate" in linear["name"] for linear in linears),
        "activation": next((name for name in named if isinstance(name, str)), "gelu"),
    }


def norms_of(layer: nn.Module, hidden: int) -> dict[str, Any]:
    """The kind of norms, how many are as wide as the layer, and whether queries have some."""
    modules = [(name.rpartition(".")[2], module) for name, module in layer.named_modules()]
    norms = [(name, module) for name, module in modules if "Norm" in type(module).__name__]
    wide = [
        name
        for name, module in norms
        if not _QK_NORM.match(name)
        and sum(p.numel() for n, p in module.named_parameters(recurse=False) if n == "weight")
        == hidden
    ]
    return {
        "norm": "rms" if any("RMS" in type(m).__name__ for _, m in norms) else "layer",
        "norms_per_layer": len(wide) or 2,
        "qk_norm": any(_QK_NORM.match(name) for name, _ in modules),
    }


def groups_of(layers: Sequence[nn.Module], top_k: int) -> list[dict[str, Any]]:
    """Layers that are alike, counted together, wherever in the stack they are."""
    groups: list[dict[str, Any]] = []
    for layer in layers:
        found = _layer(layer, top_k)
        same = next((group for group in groups if found.items() <= group.items()), None)
        if same is None:
            groups.append({"count": 1, **found})
        else:
            same["count"] += 1
    return groups


def _layer(layer: nn.Module, top_k: int) -> dict[str, Any]:
    """A layer's linears, alike ones together, and the parameters beside them."""
    found: Counter[tuple[Linear, bool]] = Counter()
    for name, module in layer.named_modules():
        expert = ".experts." in f".{name}."
        linear = linear_of(name.rpartition(".")[2], module)
        if linear:
            found[linear, expert] += 1
        elif expert:
            for key, value in module.named_parameters(recurse=False):
                if value.dim() == 3:  # all experts in one parameter
                    one = Linear(key, value.shape[2], value.shape[1], bias=False)
                    found[one, True] += value.shape[0]
    linears = [
        replace(
            one, copies=copies, active=float(min(top_k, copies) if expert and top_k else copies)
        )
        for (one, expert), copies in found.items()
    ]
    return with_rest(linears, parameters_of(layer))


def linear_of(name: str, module: Any) -> Linear | None:  # noqa: ANN401
    """A linear layer; GPT-2's Conv1D is one under another name."""
    bias = getattr(module, "bias", None) is not None
    if isinstance(module, nn.Linear):
        return Linear(name, module.in_features, module.out_features, bias)
    if type(module).__name__ == "Conv1D":
        return Linear(name, int(module.nx), int(module.nf), bias)
    return None


def with_rest(linears: list[Linear], total: int) -> dict[str, Any]:
    """Linears, and as ``other`` what they leave of all parameters."""
    rest = total - sum(linear.parameters for linear in linears)
    return {"linears": [asdict(linear) for linear in linears], "other": rest}


def parameters_of(module: nn.Module) -> int:
    """All parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def number(config: object, key: str) -> int:
    """A whole number of a configuration; 0 where it has none."""
    value = getattr(config, key, None)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
