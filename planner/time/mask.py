"""Which passes of a training step each part of the model needs, by what is trained."""

from dataclasses import dataclass

from planner.architecture import Linear
from planner.models.trainable import is_attention
from planner.workload import Method, Workload


@dataclass(frozen=True, slots=True)
class Passes:
    """How often the work of a forward pass is done again in one micro step."""

    recompute: float = 0.0
    """The forward pass of gradient checkpointing."""
    inputs: float = 0.0
    """Gradients of the inputs: needed where something below is trained."""
    weights: float = 0.0
    """Gradients of the weights: needed where they are trained."""

    @property
    def matmul(self) -> float:
        """Matrix products for every one of the forward pass."""
        return 1.0 + self.recompute + self.inputs + self.weights

    @property
    def backward(self) -> bool:
        """Whether gradients pass through at all."""
        return self.inputs > 0 or self.weights > 0


def language_passes(workload: Workload) -> Passes:
    """The layers of the language model.

    A projector, an adapter or an embedding below a layer needs the gradient of its inputs.
    """
    recompute = float(workload.grad_ckpt.language_model)
    return Passes(recompute, 1.0, 1.0 if workload.method.kind == "full" else 0.0)


def tower_passes(workload: Workload) -> Passes:
    """The layers of a tower: a frozen one runs forward only."""
    if workload.towers == "frozen":
        return Passes()
    recompute = float(workload.grad_ckpt.towers)
    return Passes(recompute, 1.0, 1.0 if workload.towers == "trainable" else 0.0)


def head_passes(workload: Workload, *, tied: bool) -> Passes:
    """The output head, which is never checkpointed."""
    method = workload.method
    trained = method.kind == "full" or method.train_head or (tied and method.train_embeddings)
    return Passes(0.0, 1.0, 1.0 if trained else 0.0)


def projector_passes(workload: Workload) -> Passes:
    """The projector; gradients reach the towers only where those are trained."""
    trained = workload.method.kind in ("full", "projector") or workload.method.train_projector
    below = workload.towers != "frozen"
    return Passes(0.0, float(below), float(trained))


def ranks_of(
    linears: tuple[Linear, ...], workload: Workload, *, tower: bool = False
) -> tuple[int, ...]:
    """Rank of the adapter of every linear layer, 0 where it has none."""
    method = workload.method
    if tower:
        return (method.r if workload.towers == "lora" else 0,) * len(linears)
    if method.kind not in ("lora", "qlora"):
        return (0,) * len(linears)
    return tuple(method.r * _targeted(linears, i, method) for i in range(len(linears)))


def _targeted(linears: tuple[Linear, ...], index: int, method: Method) -> bool:
    targets = method.targets
    if targets == "all-linear":
        return True
    if targets in ("attention", "mlp"):
        return is_attention(linears, index) == (targets == "attention")
    return linears[index].name in ((targets,) if isinstance(targets, str) else targets)
