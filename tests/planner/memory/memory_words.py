"""Short words for workloads and their memory."""

from typing import Any

from planner.layout import layout_of
from planner.memory.allocated import Allocated
from planner.memory.closed_form import allocated_of
from planner.memory.peak import memory_of
from planner.memory.specs import Kernels
from planner.models.read import architecture_of
from planner.prediction import GIB, Memory
from planner.read_workload import read_workload

BASE = {"model": "gemma-2b", "method": "lora", "seq_len": 2048}


def allocated(kernels: Kernels = "cuda", **words: Any) -> Allocated:
    """The closed form for a workload in words."""
    workload = read_workload({**BASE, **words})
    return allocated_of(architecture_of(workload.model), workload, layout_of(workload), kernels)


def memory(**words: Any) -> Memory:
    """All memory of a workload in words."""
    workload = read_workload({**BASE, **words})
    return memory_of(architecture_of(workload.model), workload, layout_of(workload))


def peak_gib(**words: Any) -> float:
    """Peak of live tensors in GiB."""
    return float(allocated(**words).peak_bytes) / GIB
