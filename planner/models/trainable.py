"""What a method trains, by component: parameters with a gradient and optimizer states."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from planner.architecture import Architecture, Linear
from planner.errors import PlannerError
from planner.workload import Method

_ATTENTION = "attention"
_MLP = "mlp"
_ALL = "all-linear"
_OUTPUTS = frozenset("o_proj out_proj dense c_proj wo proj o projection projection_layer".split())
"""An attention's last projection, by the names that families give it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainable:
    """Trained parameters by component; what is not trained is 0."""

    adapters: int = 0
    """LoRA adapters of the language model's layers."""
    tower_adapters: int = 0
    """LoRA adapters of the towers' layers."""
    language_model: int = 0
    """The language model itself, without token embeddings and head."""
    embeddings: int = 0
    """Token embeddings; a tied head is among them."""
    head: int = 0
    """The output head where it is not tied."""
    towers: int = 0
    projector: int = 0
    """The projector, with patch info mining where there is one."""

    @property
    def components(self) -> dict[str, int]:
        """All counts by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def total(self) -> int:
        """Every parameter that has a gradient."""
        language = self.adapters + self.language_model + self.embeddings + self.head
        return language + self.tower_adapters + self.towers + self.projector


def trainable_of(architecture: Architecture, method: Method, towers: str = "frozen") -> Trainable:
    """Counts what a method trains.

    Args:
        architecture: the model.
        method: what is trained of the language model, and whether the projector is.
        towers: ``frozen``, ``trainable`` or ``lora``.

    Raises:
        PlannerError: no linear layer has a name among ``method.targets``.

    >>> from planner.models.read import architecture_of
    >>> found = trainable_of(architecture_of("mgm-2b"), Method(kind="lora"))
    >>> found.adapters, found.projector, found.total
    (19611648, 13259008, 32870656)
    """
    embedded = architecture.vocab * architecture.language_model.hidden
    full = method.kind == "full"
    adapted = method.kind in ("lora", "qlora")
    with_embeddings = full or (adapted and method.train_embeddings)
    with_head = full or (adapted and method.train_head)
    counts = architecture.components
    return Trainable(
        adapters=_adapters(lora_linears(architecture, method), method.r) if adapted else 0,
        tower_adapters=_tower_adapters(architecture, method.r) if towers == "lora" else 0,
        language_model=counts["language_model"] - embedded if full else 0,
        embeddings=embedded if with_embeddings or (with_head and architecture.tied) else 0,
        head=architecture.head if with_head else 0,
        towers=sum(t.parameters for t in architecture.towers) if towers == "trainable" else 0,
        projector=counts["projector"] if _trains_projector(method) else 0,
    )


def lora_linears(architecture: Architecture, method: Method) -> tuple[tuple[int, Linear], ...]:
    """The language model's linears that get adapters, each with the layers that have it.

    ``all-linear`` is every linear of the decoder layers, experts included, without the head
    (PEFT's meaning of the word); routers are plain matrices. ``attention`` and ``mlp`` are
    parted by position: an attention's output is the last linear before the MLP.

    Raises:
        PlannerError: no linear layer has a name among ``method.targets``.
    """
    tower = architecture.language_model
    chosen = tuple(
        (group.count, linear)
        for group in tower.groups
        for linear in _chosen(group.linears, method.targets)
    )
    if not chosen:
        known = sorted({linear.name for group in tower.groups for linear in group.linears})
        wanted = method.targets if isinstance(method.targets, str) else ", ".join(method.targets)
        raise PlannerError(
            f"method.targets {wanted!r} names no linear layer of {architecture.name}; "
            f"write all-linear, attention, mlp or some of {', '.join(known)}"
        )
    return chosen


def tower_linears(architecture: Architecture) -> tuple[tuple[int, Linear], ...]:
    """The towers' linears, each with the layers that have it: what LoRA in towers adapts."""
    return tuple(
        (group.count, linear)
        for tower in architecture.towers
        for group in tower.groups
        for linear in group.linears
    )


def _chosen(linears: tuple[Linear, ...], targets: str | tuple[str, ...]) -> tuple[Linear, ...]:
    if targets == _ALL:
        return linears
    if targets in (_ATTENTION, _MLP):
        wanted = targets == _ATTENTION
        return tuple(x for i, x in enumerate(linears) if is_attention(linears, i) == wanted)
    names = (targets,) if isinstance(targets, str) else targets
    return tuple(linear for linear in linears if linear.name in names)


def _adapters(linears: Iterable[tuple[int, Linear]], rank: int) -> int:
    """``r x (inputs + outputs)`` for every linear (Hu et al. 2021, section 4.1), no bias."""
    return sum(
        layers * linear.copies * rank * (linear.inputs + linear.outputs)
        for layers, linear in linears
    )


def _tower_adapters(architecture: Architecture, rank: int) -> int:
    return _adapters(tower_linears(architecture), rank)


def _trains_projector(method: Method) -> bool:
    return method.kind == "projector" or method.train_projector


def is_attention(linears: tuple[Linear, ...], index: int) -> bool:
    """Whether a layer's linear belongs to the attention: they come first, up to the output.

    Names alone do not tell: GPT-2 and Qwen have a ``c_proj`` in both halves of a layer.
    """
    ends = (i for i, linear in enumerate(linears) if linear.name in _OUTPUTS)
    return index <= next(ends, -1)
