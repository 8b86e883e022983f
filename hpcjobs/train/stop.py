"""The agreement to stop: what any rank has heard, all ranks act on at the same step boundary."""

import torch
from torch import distributed as dist


def agree(flags: tuple[bool, ...], device: torch.device) -> tuple[bool, ...]:
    """Returns for each flag whether any rank has raised it: one MAX all-reduce of small ints.

    A rank that acted on its own flag would leave the others waiting in the next collective.
    """
    votes_F = torch.tensor([int(flag) for flag in flags], dtype=torch.int32, device=device)
    dist.all_reduce(votes_F, op=dist.ReduceOp.MAX)
    return tuple(bool(vote) for vote in votes_F.tolist())
