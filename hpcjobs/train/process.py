"""One training process among its peers: rank, device, start and a clean end."""

import os
import random
import sys
from dataclasses import dataclass

import torch
from torch import distributed as dist

from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.experiment import Parallel


@dataclass(frozen=True, slots=True)
class Process:
    """Where this process stands."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0, which alone writes shared files."""
        return self.rank == 0


def start_process(parallel: Parallel) -> Process:
    """Joins the process group by the plain ``env://`` rendezvous.

    Raises:
        InputError: the configuration wants cards that torch does not see.
        ConfigError: the environment names another world size than the configuration.
    """
    os.environ.setdefault("DS_ACCELERATOR", _accelerator(parallel))
    import deepspeed

    rank, local_rank, world_size = (
        int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    )
    if world_size != parallel.world_size:
        raise ConfigError(f"{world_size} processes were started, not {parallel.world_size}")
    device = _device(local_rank)
    # DeepSpeed would compile its shared-memory collective here: 45 s, and fatal without a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if device.type == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
    return Process(rank, local_rank, world_size, device)


def seed_everything(seed: int, rank: int) -> None:
    """Seeds Python and torch: every rank differently, so that dropout masks differ."""
    random.seed(seed + rank)
    torch.manual_seed(seed + rank)


def leave(code: int) -> None:
    """Ends the process without running static destructors.

    After gloo has been used, 5 to 20 % of interpreter exits abort in C++ destruction; the work
    is done and on disk by now, so nothing is lost by leaving directly.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _accelerator(parallel: Parallel) -> str:
    if parallel.device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if parallel.device == "cuda":
        raise InputError(
            "torch sees no GPU on this node: check the driver and --gpus-per-node, "
            "or write parallel.device=cpu"
        )
    return "cpu"


def _device(local_rank: int) -> torch.device:
    if os.environ["DS_ACCELERATOR"] != "cuda":
        return torch.device("cpu")
    torch.cuda.set_device(local_rank % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())
