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
    alive: Callable[[], None] = lambda: None,
) -> float:
    """Mean cross-entropy (nats a token) of this rank's samples and its peers' together.

    Args:
        model: returns the summed loss of a batch.
        items: the held-out samples.
        indices: those of this rank; the ranks' shares need not be equal, but every rank calls the
            model equally often: at ZeRO-3 each call gathers weights from all ranks.
        collate: makes a batch of items.
        micro_batch: samples a forward pass.
        device: where the model is.
        alive: called before every batch.
    """
    was_training = model.training
    model.eval()
    totals_2 = torch.zeros(2, dtype=torch.float64, device=device)
    mine = [indices[i : i + micro_batch] for i in range(0, len(indices), micro_batch)]
    for number in range(_most(len(mine), device)):
        alive()
        is_mine = number < len(mine)
        batch = collate([items[index] for index in (mine[number] if is_mine else [0])])
        loss = model(**{name: value.to(device) for name, value in batch.items()})
        if is_mine:
            totals_2[1] += float((batch["labels_BL"][:, 1:] != -100).sum())
            totals_2[0] += loss.double()
    model.train(was_training)
    dist.all_reduce(totals_2)
    return float(totals_2[0] / totals_2[1].clamp(min=1))


def _most(mine: int, device: torch.device) -> int:
    """The largest of all ranks' numbers."""
    most = torch.tensor(mine, device=device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)
