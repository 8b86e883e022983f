"""What the closed form says of one card's live tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

from planner.layout import Quantity


@dataclass(frozen=True, slots=True)
class Allocated:
    """Peak of live tensors on the fullest card, in bytes: torch's max_memory_allocated."""

    components: Mapping[str, Quantity]
    """Bytes at the peak by component: weights, gradients, optimizer, activations, logits, ..."""
    phases: Mapping[str, Quantity]
    """Bytes at the peak of every phase of a step."""
    peak_bytes: Quantity
    static_bytes: Quantity
    """What lives through the whole step: weights, gradients, optimizer states, buckets."""
    largest_tensor_bytes: Quantity
    """The largest single tensor that comes and goes, such as fp32 logits."""

    @property
    def transient_bytes(self) -> Quantity:
        """What comes and goes within a step: activations and humps."""
        return self.peak_bytes - self.static_bytes
