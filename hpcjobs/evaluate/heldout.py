"""The loss on samples that the training never sees, shared out over the ranks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.utils.data import Dataset

Item = Any
Collate = Callable[[Sequence[Item]], dict[str, torch.Tensor]]


@torch.no_grad()
def heldout_loss(
    model: nn.Module,
    items: "Dataset[Item]",
    indices: Sequence[int],
    collate: Collate,
    micro_batch: int,
    device: torch.device,
) -> float:
    """Mean cross-entropy (nats a token) of this rank's samples and its peers' together.

    Args:
        model: returns the summed loss of a batch.
        items: the held-out samples.
        indices: those of this rank; the ranks' shares need not be equal.
        collate: makes a batch of items.
        micro_batch: samples a forward pass.
        device: where the model is.
    """
    was_training = model.training
    model.eval()
    totals_2 = torch.zeros(2, dtype=torch.float64, device=device)
    for first in range(0, len(indices), micro_batch):
        batch = collate([items[index] for index in indices[first : first + micro_batch]])
        totals_2[1] += float((batch["labels_BL"][:, 1:] != -100).sum())
        totals_2[0] += model(**{name: value.to(device) for name, value in batch.items()}).double()
    model.train(was_training)
    dist.all_reduce(totals_2)
    return float(totals_2[0] / totals_2[1].clamp(min=1))
