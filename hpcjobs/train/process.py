"""One training process among its peers: rank, device, start and a clean end."""

import datetime as dt
import os
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import distributed as dist
from torch.distributed import distributed_c10d as c10d

from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.experiment import Parallel

_WATCHED_TIMEOUT = dt.timedelta(days=1)


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


def start_process(parallel: Parallel, *, watched: bool = False) -> Process:
    """Joins the process group by the plain ``env://`` rendezvous.

    Where the agent watches for hangs, torch's own timeout comes much later: it would end the
    ranks that wait, with an error that blames them.

    Raises:
        InputError: the configuration wants cards that torch does not see.
        ConfigError: the environment names another world size than the configuration.
    """
    os.environ.setdefault("DS_ACCELERATOR", _accelerator(parallel))
    import deepspeed

    rank, local_rank, world_size = (
        int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    )
    if world_size != parallel.world_size and parallel.min_nodes is None:
        raise ConfigError(f"{world_size} processes were started, not {parallel.world_size}")
    device = _device(local_rank)
    # DeepSpeed would compile its shared-memory collective here: 45 s, and fatal without a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if device.type == "cuda" else "gloo"
    if watched:
        # Groups made later, as DeepSpeed's, take these and not the first group's.
        for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
            setattr(c10d, name, _WATCHED_TIMEOUT)
    timeout = {"timeout": _WATCHED_TIMEOUT} if watched else {}
    deepspeed.init_distributed(dist_backend=backend, verbose=False, **timeout)
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
        raise InputError(_no_gpu(torch.version.cuda or torch.version.hip, os.environ))
    return "cpu"


def _no_gpu(built_for: str | None, environment: Mapping[str, str]) -> str:
    """What to look at where torch sees no card; inside a container there is more to it."""
    if not {"APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"} & environment.keys():
        where = "on this node: check the driver and --gpus-per-node"
    elif built_for is None:
        where = "because the image holds a torch for the CPU: build one with CUDA or ROCm"
    else:
        where = (
            f"in the container: check --gpus-per-node, that the driver is not older than the "
            f"image's {built_for} needs, and container.gpu=nv, which says so where a node has none"
        )
    return f"torch sees no GPU {where}, or write parallel.device=cpu"


def _device(local_rank: int) -> torch.device:
    if os.environ["DS_ACCELERATOR"] != "cuda":
        return torch.device("cpu")
    torch.cuda.set_device(local_rank % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())
