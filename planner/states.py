"""Memory of model states under ZeRO data parallelism, and the size of checkpoints."""

from dataclasses import dataclass

_ADAM_BYTES = 8
_MASTER_BYTES = 4


@dataclass(frozen=True, slots=True)
class ModelStates:
    """Bytes that one card holds whatever the batch: a lower bound of its memory."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int

    @property
    def total_bytes(self) -> int:
        """Weights, gradients and optimizer states together."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes


def model_states(
    total: int, trainable: int, zero_stage: int, world_size: int, bytes_per_weight: int
) -> ModelStates:
    """Model states of one card (ZeRO paper, arXiv 1910.02054, section 3.1), frozen weights apart.

    Frozen weights need no gradient and no optimizer state. In 2-byte precision the optimizer
    holds an fp32 master copy (4 B) and Adam's two moments (8 B) for a trainable parameter;
    in fp32 the weights are their own master copy. Stage 1 divides the optimizer states by the
    world size, stage 2 the gradients too.

    >>> states = model_states(3_019_166_144, 32_870_656, 2, 4, 2)
    >>> round(states.total_bytes / 2**30, 2)
    5.73
    """
    master = _MASTER_BYTES if bytes_per_weight == 2 else 0
    optimizer = trainable * (_ADAM_BYTES + master)
    gradients = trainable * bytes_per_weight
    return ModelStates(
        weights_bytes=total * bytes_per_weight,
        gradients_bytes=gradients // world_size if zero_stage >= 2 else gradients,
        optimizer_bytes=optimizer // world_size if zero_stage >= 1 else optimizer,
    )


def checkpoint_bytes(trainable: int) -> int:
    """Bytes of one checkpoint: weights, fp32 master copy and Adam moments of what is trained.

    >>> checkpoint_bytes(1000)
    16000
    """
    return trainable * (4 + _MASTER_BYTES + _ADAM_BYTES)
