"""Linear layers of an attention and of an MLP, under the names that their family gives them."""

from collections.abc import Sequence

from planner.architecture import Linear


def attention_linears(
    names: Sequence[str],
    hidden: int,
    query: int,
    key_value: int,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
) -> tuple[Linear, ...]:
    """The projections of one attention; two names are a fused query-key-value and the output.

    Args:
        names: query, key, value and output; or the fused one and the output.
        hidden: width of the layer.
        query: heads x head_dim.
        key_value: kv_heads x head_dim, of the keys and again of the values.
        qkv_bias: whether query, key and value have biases.
        out_bias: whether the output has one.

    >>> sum(p.parameters for p in attention_linears(("qkv", "o"), 8, 8, 4, qkv_bias=True))
    208
    """
    inner: tuple[Linear, ...]
    if len(names) == 2:
        inner = (Linear(names[0], hidden, query + 2 * key_value, qkv_bias),)
    else:
        inner = (
            Linear(names[0], hidden, query, qkv_bias),
            Linear(names[1], hidden, key_value, qkv_bias),
            Linear(names[2], hidden, key_value, qkv_bias),
        )
    return (*inner, Linear(names[-1], query, hidden, out_bias))


def mlp_linears(
    names: Sequence[str],
    hidden: int,
    intermediate: int,
    *,
    gated: bool,
    bias: bool = False,
    copies: int = 1,
    active: float = 1.0,
) -> tuple[Linear, ...]:
    """The matrices of an MLP: gate, up and down; a fused gate-and-up, and down; or up and down.

    >>> [(m.name, m.outputs) for m in mlp_linears(("gate_up", "down"), 4, 10, gated=True)]
    [('gate_up', 20), ('down', 4)]
    """
    width = 2 * intermediate if gated and len(names) == 2 else intermediate
    return (
        *(Linear(name, hidden, width, bias, copies, active) for name in names[:-1]),
        Linear(names[-1], intermediate, hidden, bias, copies, active),
    )
