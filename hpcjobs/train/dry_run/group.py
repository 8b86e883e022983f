"""The process group of a dry run: rank 0 of any number of ranks, of which no other exists."""

import logging
import os

from torch import distributed as dist


def join_fake_group(world_size: int, device: str = "cpu") -> None:
    """Joins a group whose collectives return at once and leave the tensors as they are.

    Args:
        world_size: how many ranks the group pretends to have.
        device: ``cpu``, or ``cuda`` where the tensors are real and lie on a card.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    # DeepSpeed looks for MPI where one of these is missing.
    os.environ.update(
        RANK="0",
        WORLD_SIZE=str(world_size),
        LOCAL_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="29500",
    )
    dist.init_process_group("fake", rank=0, world_size=world_size, store=FakeStore())
    start_deepspeed(device)


def start_deepspeed(device: str = "cpu") -> None:
    """Makes DeepSpeed use the group that is there, without compiling anything."""
    os.environ["DS_ACCELERATOR"] = device
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo" if device == "cpu" else "nccl", verbose=False)
